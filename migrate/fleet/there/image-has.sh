# Which blobs are in DIR/.pool ($1): a line of size and digest each; then "image" and which one NAME ($2) is.
cd "$1/.pool" 2>/dev/null && find . -type f -exec ls -ln {} + | awk '{sub(".*/", "", $NF); print $5, $NF}'
[ -L "$1/$2" ] && echo "image $(basename "$(readlink "$1/$2")")"
:
