# Shared by tools/demo and tools/test. Sourced by bash.

top=$(cd "$(dirname "${BASH_SOURCE[0]}")/.." && pwd)
started=$SECONDS

# say WORDS: tell what comes next, and when.
say() { printf '\n[%3d s] %s\n' $((SECONDS - started)) "$*"; }

die() { printf '%s: %s\n' "$(basename "$0")" "$*" >&2; exit 1; }

# need_packages NAME...: install the Debian packages that are missing.
need_packages() {
    local missing=() name
    for name in "$@"; do
        dpkg-query -W -f '${Status}' "$name" 2>/dev/null | grep -q 'ok installed' || missing+=("$name")
    done
    [ ${#missing[@]} -eq 0 ] && return
    say "installing Debian packages: ${missing[*]}"
    [ "$(id -u)" = 0 ] || die "needs root to install: ${missing[*]}"
    export DEBIAN_FRONTEND=noninteractive
    apt-get update -qq && apt-get install -y -qq --no-install-recommends "${missing[@]}" >/dev/null \
        || die "apt-get could not install: ${missing[*]}"
}

# want_packages NAME...: the same for what only few tests need, which are skipped without it.
want_packages() {
    (need_packages "$@") || say "without them some tests are skipped"
}

# find_python: print a Python 3.11 or later that can make virtual environments.
find_python() {
    local name
    for name in python3 python3.13 python3.12 python3.11 /usr/bin/python3; do
        "$name" -c 'import sys, venv, ensurepip; sys.exit(sys.version_info < (3, 11))' 2>/dev/null && { echo "$name"; return; }
    done
    die "no Python 3.11 with venv: apt-get install python3-venv"
}

# debian_mirror: print the mirror of Debian's packages that this machine's apt uses.
debian_mirror() {
    local mirror
    mirror=$(sed -n 's/^URIs: *//p; s/^deb \(\[[^]]*\] \)\?\([^ ]*\) bookworm main.*/\2/p' \
        /etc/apt/sources.list /etc/apt/sources.list.d/debian.sources 2>/dev/null | head -1)
    [ -n "$mirror" ] || die "no Debian mirror in /etc/apt/sources.list or sources.list.d/debian.sources"
    echo "$mirror"
}

# debian_root DIRECTORY [MMDEBSTRAP OPTIONS]: a minimal Debian 12, from the mirrors this machine's apt uses.
debian_root() {
    local target=$1 file sources=()
    shift
    for file in /etc/apt/sources.list /etc/apt/sources.list.d/*.list /etc/apt/sources.list.d/*.sources; do
        [ -s "$file" ] && grep -qw bookworm "$file" && sources+=("$file")
    done
    mmdebstrap --quiet --mode=root --variant=minbase "$@" bookworm "$target" "${sources[@]}"
}
