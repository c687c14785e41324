# What a host has at its KIT ($1): lines of a word and a value, then "sums" and its SHA256SUMS.
kit=$1
echo "machine $(uname -m)"
[ -L "$kit" ] && echo "digest $(basename "$(readlink "$kit")")"
[ -d "$kit" ] && [ ! -L "$kit" ] && echo "digest folder"
[ -r "$kit.kits/before" ] && echo "before $(cat "$kit.kits/before")"
"$kit/bin/joey" version >/dev/null 2>&1 && echo "runs yes"
echo sums
cat "$kit/SHA256SUMS" 2>/dev/null
:
