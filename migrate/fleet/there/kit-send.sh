# Make KIT.kits/DIGEST ($1 is KIT, $2 the digest) of what KIT has and of a tar.gz on standard input with what is new or
# other; $3: how many KiB that wants. It is there whole and checked, or not at all. lock.sh goes before, and kit-switch.sh
# follows in the same shell: $place is what it is called.
set -e
kit=$1 new=$2 want=$3 kits=$1.kits place=$2
umask 022
export LC_ALL=C
mkdir -p "$kits"
part=
trap '[ -z "$part" ] || rm -rf "$part"; unlock' EXIT
trap 'exit 1' HUP INT TERM
lock "$kits" 0 || exit 1
# the present one is damaged: its folder stays as it is until another one is there
if [ -L "$kit" ] && [ "$(basename "$(readlink "$kit")")" = "$new" ]; then place=$new.again; fi
part=$kits/$new.part
rm -rf "$kits"/*.part
free=$(df -Pk "$kits" | tail -n 1 | awk '{print $4}')
if [ "$free" -lt "$want" ]; then
    echo "no room: $free KiB are free in $kits, $want are wanted" >&2
    exit 1
fi
mkdir "$part"
if [ -f "$kit/SHA256SUMS" ] && [ -d "$kit/bin" ] && ! cp -al "$kit/." "$part" 2>/dev/null; then
    rm -rf "$part"
    cp -a "$kit/." "$part"
fi
# tar unlinks what it replaces: the kit that these files are linked from stays as it is
tar -xzf - -C "$part"
cd "$part"
sed 's/^[0-9a-f]*  *\**//' SHA256SUMS | sort >"$locked/named"
find . -type f ! -name SHA256SUMS | sort | comm -23 - "$locked/named" | while read -r file; do rm -f "$file"; done
check=$(command -v sha256sum || echo "$part/bin/busybox sha256sum")
if ! $check -c SHA256SUMS >"$locked/said" 2>&1; then
    grep -v ': OK$' "$locked/said" | head -n 1 >&2
    exit 1
fi
if ! bin/joey version >/dev/null; then
    echo "the kit does not run there" >&2
    exit 1
fi
cd /
sync
rm -rf "${kits:?}/$place"
mv "$part" "$kits/$place"
