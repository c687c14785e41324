# Make KIT.kits/DIGEST ($1 is KIT, $2 the digest) of what KIT has and of a tar.gz on standard input with what is new or
# other; $3: how many KiB that wants. It is there whole and checked, or not at all.
set -e
kit=$1 new=$2 want=$3 kits=$1.kits
umask 022
export LC_ALL=C
mkdir -p "$kits"
if ! mkdir "$kits/busy" 2>/dev/null; then
    owner=$(cat "$kits/busy/pid" 2>/dev/null || echo 0)
    if [ "$owner" -gt 1 ] && kill -0 "$owner" 2>/dev/null; then
        echo "another deployment is at work there" >&2
        exit 1
    fi
    rm -rf "$kits/busy"
    mkdir "$kits/busy"
fi
echo $$ >"$kits/busy/pid"
part=$kits/$new.part
trap 'rm -rf "$kits/busy" "$part"' EXIT
trap 'exit 1' HUP INT TERM
rm -rf "$kits"/*.part
free=$(df -Pk "$kits" | tail -n 1 | awk '{print $4}')
if [ "$free" -lt "$want" ]; then
    echo "no room: $free KiB are free in $kits, $want are wanted" >&2
    exit 1
fi
mkdir "$part"
if [ -d "$kit/bin" ] && ! cp -al "$kit/." "$part" 2>/dev/null; then
    rm -rf "$part"
    cp -a "$kit/." "$part"
fi
# tar unlinks what it replaces: the kit that these files are linked from stays as it is
tar -xzf - -C "$part"
cd "$part"
sed 's/^[0-9a-f]*  *\**//' SHA256SUMS | sort >"$kits/busy/named"
find . -type f ! -name SHA256SUMS | sort | comm -23 - "$kits/busy/named" | while read -r file; do rm -f "$file"; done
check=$(command -v sha256sum || echo "$part/bin/busybox sha256sum")
if ! $check -c SHA256SUMS >"$kits/busy/said" 2>&1; then
    grep -v ': OK$' "$kits/busy/said" | head -n 1 >&2
    exit 1
fi
if ! bin/joey version >/dev/null; then
    echo "the kit does not run there" >&2
    exit 1
fi
cd /
sync
rm -rf "${kits:?}/$new"
mv "$part" "$kits/$new"
