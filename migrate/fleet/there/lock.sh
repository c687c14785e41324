# lock DIR SECONDS: be the only one at work in DIR, by DIR/busy; whoever has it is known by boot, process and its start,
# so that one that was killed, or was before a reboot, does not keep it. Another trap on EXIT must call unlock.
ticks() { sed 's/.*) //' "/proc/$1/stat" 2>/dev/null | cut -d ' ' -f 20; }
lock() {
    busy=$1/busy tries=$2 mine="$(cat /proc/sys/kernel/random/boot_id) $$ $(ticks $$)"
    while :; do
        rm -rf "$1/.busy.$$"
        mkdir "$1/.busy.$$"
        echo "$mine" >"$1/.busy.$$/owner"
        if [ ! -e "$busy" ] && mv -T "$1/.busy.$$" "$busy" 2>/dev/null; then
            locked=$busy
            return 0
        fi
        owner=$(cat "$busy/owner" 2>/dev/null || :)
        set -- "$1" $owner
        if [ $# -eq 4 ] && [ "$2" = "${mine%% *}" ] && [ -n "$4" ] && [ "$(ticks "$3")" = "$4" ]; then
            if [ "$tries" -le 0 ]; then
                rm -rf "$1/.busy.$$"
                echo "another deployment is at work there" >&2
                return 1
            fi
            tries=$((tries - 1))
            sleep 1
        elif mv -T "$busy" "$1/.stale.$$" 2>/dev/null; then
            # somebody else may have taken its place in between
            if [ "$(cat "$1/.stale.$$/owner" 2>/dev/null || :)" != "$owner" ]; then mv -T "$1/.stale.$$" "$busy" 2>/dev/null || :; fi
            rm -rf "$1/.stale.$$"
        fi
        set -- "$1"
    done
}
unlock() { [ -z "$locked" ] || rm -rf "$locked"; }
locked=
