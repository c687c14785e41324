# What a host has at its KIT ($1): lines of a word and a value, then "sums" and its SHA256SUMS.
kit=$1
echo "machine $(uname -m)"
[ -L "$kit" ] && echo "digest $(basename "$(readlink "$kit")" .again)"
[ -d "$kit" ] && [ ! -L "$kit" ] && echo "digest folder"
[ -r "$kit.kits/before" ] && echo "before $(cat "$kit.kits/before")"
[ -e "$kit.kits/rolled-back" ] && echo "rolled back"
"$kit/bin/joey" version >/dev/null 2>&1 && echo "runs yes"
# files that are not what they were
[ -r "$kit/SHA256SUMS" ] && (cd "$kit" && LC_ALL=C sha256sum -c SHA256SUMS 2>/dev/null) | sed -n '/: OK$/d; s/: FAILED.*//; s/^/bad /p'
echo sums
cat "$kit/SHA256SUMS" 2>/dev/null
:
