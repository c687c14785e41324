# Have KIT ($1) be the kit of KIT.kits/DIGEST ($2), by one rename, if that runs; the one before is kept to go back to.
set -e
kit=$1 new=$2 kits=$1.kits
"$kits/$new/bin/joey" version >/dev/null
old=
if [ -L "$kit" ]; then
    old=$(basename "$(readlink "$kit")")
elif [ -d "$kit" ]; then # unpacked by hand, once
    old=folder
    rm -rf "$kits/folder"
    mv "$kit" "$kits/folder"
fi
rm -f "$kit.new"
ln -s "$(basename "$kits")/$new" "$kit.new"
mv -fT "$kit.new" "$kit" 2>/dev/null || "$kits/$new/bin/busybox" mv -fT "$kit.new" "$kit"
if [ -n "$old" ] && [ "$old" != "$new" ]; then
    echo "$old" >"$kits/before.new"
    mv -f "$kits/before.new" "$kits/before"
fi
# kits that nobody runs any more go, but for the one before
for each in "$kits"/*/; do
    each=${each%/}
    case ${each##*/} in busy | "$new" | "$old" | *.part) continue ;; esac
    ls -l /proc/[0-9]*/exe 2>/dev/null | grep -qF "$each/" || rm -rf "$each"
done
sync
