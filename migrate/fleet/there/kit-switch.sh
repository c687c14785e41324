# Have KIT ($1) be the kit of KIT.kits/DIGEST ($2, or what kit-send.sh calls it), by one rename, if that runs; the one
# before is kept to go back to. $3: forward or back. lock.sh goes before.
set -e
kit=$1 new=${place:-$2} kits=$1.kits
if [ -z "$locked" ]; then
    trap unlock EXIT
    trap 'exit 1' HUP INT TERM
    lock "$kits" 0 || exit 1
fi
[ -d "$kits/$new" ] || [ ! -d "$kits/$new.again" ] || new=$new.again
if ! "$kits/$new/bin/joey" version >/dev/null; then
    echo "the kit does not run there" >&2
    exit 1
fi
# a switch that was killed had moved what was unpacked by hand
if [ ! -e "$kit" ] && [ ! -L "$kit" ] && [ -d "$kits/folder" ]; then mv "$kits/folder" "$kit"; fi
old=
if [ -L "$kit" ]; then
    old=$(basename "$(readlink "$kit")")
elif [ -d "$kit" ] && [ -x "$kit/bin/joey" ] && [ -f "$kit/SHA256SUMS" ]; then # unpacked by hand, once
    old=folder
elif [ -e "$kit" ]; then
    echo "$kit is there, and no kit: move it away, or name another place (kit: in the fleet's file)" >&2
    exit 1
fi
if [ -n "$old" ] && [ "${old%.again}" != "${new%.again}" ]; then # ahead of the switch: a killed one can be gone back from
    echo "${old%.again}" >"$kits/before.new"
    mv -f "$kits/before.new" "$kits/before"
fi
if [ "$3" = back ]; then echo "$old" >"$kits/rolled-back"; else rm -f "$kits/rolled-back"; fi
rm -f "$kit.new"
ln -s "$(basename "$kits")/$new" "$kit.new"
if [ "$old" = folder ]; then
    rm -rf "$kits/folder"
    trap '[ -e "$kit" ] || [ -L "$kit" ] || mv "$kits/folder" "$kit"; unlock' EXIT
    mv "$kit" "$kits/folder"
fi
mv -fT "$kit.new" "$kit" 2>/dev/null || "$kits/$new/bin/busybox" mv -fT "$kit.new" "$kit"
# kits that nobody runs any more go, but for the one before
before=$(cat "$kits/before" 2>/dev/null || :)
for each in "$kits"/*/; do
    each=${each%/}
    case ${each##*/} in busy | "$new" | "$old" | "$before" | "$before.again" | *.part) continue ;; esac
    ls -l /proc/[0-9]*/exe 2>/dev/null | grep -qF "$each/" || rm -rf "$each"
done
sync
