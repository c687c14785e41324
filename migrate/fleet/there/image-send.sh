# Make the OCI image layout DIR/NAME ($1, $2), whose image has the digest $3, of what is in DIR/.pool and of a tar on
# standard input: oci-layout, index.json, names (the digests of all its blobs) and the blobs that were not there yet.
# $4: how many KiB that wants. Layouts share their blobs with the pool; what no layout has any more goes. Only root may
# read them: a machine's files are in them. lock.sh goes before.
set -e
dir=$1 name=$2 digest=$3 want=$4
umask 077
mkdir -p "$dir"
chmod 700 "$dir"
mkdir -p "$dir/.pool" "$dir/.layouts"
part=$dir/.part.$$
trap 'rm -rf "$part"; unlock' EXIT
trap 'exit 1' HUP INT TERM
for each in "$dir"/.part.*; do # of deployments that were killed
    pid=${each##*.part.}
    [ -d "$each" ] && ! kill -0 "${pid%%.*}" 2>/dev/null && rm -rf "$each"
done
free=$(df -Pk "$dir" | tail -n 1 | awk '{print $4}')
if [ "$free" -lt "$want" ]; then
    echo "no room: $free KiB are free in $dir, $want are wanted" >&2
    exit 1
fi
rm -rf "$part"
mkdir "$part"
tar --no-same-owner --no-same-permissions -xf - -C "$part"
mkdir -p "$part/blobs/sha256"
cd "$part/blobs/sha256"
for blob in *; do
    [ -f "$blob" ] || continue
    sum=$(sha256sum "$blob")
    if [ "${sum%% *}" != "$blob" ]; then
        echo "the blob $blob was changed on its way" >&2
        exit 1
    fi
done
lock "$dir" 60 || exit 1
for blob in *; do
    [ ! -f "$blob" ] || mv -f "$blob" "$dir/.pool/$blob"
done
while read -r blob; do
    if ! ln "$dir/.pool/$blob" "$blob" 2>/dev/null; then
        echo "the blob $blob was removed by another deployment: try again" >&2
        exit 1
    fi
done <"$part/names"
rm "$part/names"
cd /
sync
rm -rf "$dir/.layouts/$digest.$name"
mv "$part" "$dir/.layouts/$digest.$name"
rm -f "$dir/.$name.new"
ln -s ".layouts/$digest.$name" "$dir/.$name.new"
mv -fT "$dir/.$name.new" "$dir/$name"
for each in "$dir"/.layouts/*; do
    used=
    for link in "$dir"/*; do
        if [ -L "$link" ] && [ "$(readlink "$link")" = ".layouts/${each##*/}" ]; then used=yes; fi
    done
    [ -n "$used" ] || rm -rf "$each"
done
find "$dir/.pool" -type f -links 1 -exec rm -f {} +
