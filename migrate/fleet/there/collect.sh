# What a host's kernel can do, where there is no Python: what sh and util-linux can try, and what /proc lists. It is sent
# to the host, and prints a line for each: name, state or value, answer, between tabs. Nothing is written there.
say() { printf '%s\t%s\t%s\n' "$1" "$2" "$3"; }
try() {
  f=$1; shift
  if out=$("$@" 2>&1); then say "$f" works ''; return; fi
  case $out in *"not permitted"* | *"ermission denied"*) state=blocked;; *) state=absent;; esac
  say "$f" $state "$(echo "$out" | tail -n 1)"
}
say @release "$(uname -r)" ''; say @version "$(uname -v)" ''; say @machine "$(uname -m)" ''; say @host "$(uname -n)" ''
say @uid "$(id -u)" ''; say @boot "$(cat /proc/sys/kernel/random/boot_id 2>/dev/null)" ''
say @distribution "$(sed -n 's/^PRETTY_NAME=//p' /etc/os-release 2>/dev/null || :)" ''
for f in /etc/redhat-release /etc/debian_version; do [ -r $f ] && say @distribution "$(head -n 1 $f)" ''; done
case $(uname -r) in [012].*|3.[01]|3.[01].*|3.[01]-*) say uname.release absent "$(uname -r)";; *) say uname.release works "$(uname -r)";; esac
# in a mount namespace of its own, and no mount leads back: unshare before util-linux 2.27 leaves / shared
if command -v unshare >/dev/null 2>&1; then
  for n in mnt:m uts:u ipc:i net:n pid:p user:U; do try ${n%:*}ns.unshare unshare -${n#*:} true; done
  try fs.tmpfs unshare -m sh -c 'mount --make-rprivate / && mount -t tmpfs t /tmp'
  try overlay unshare -m sh -c 'mount --make-rprivate / && mount -t tmpfs t /tmp && cd /tmp && mkdir a b c d && mount -t overlay o -o lowerdir=a,upperdir=b,workdir=c d'
  try mount.bind-file unshare -m sh -c 'mount --make-rprivate / && mount -t tmpfs t /tmp && : >/tmp/f && mount --bind /dev/null /tmp/f'
  try mount.bind-readonly unshare -m sh -c 'mount --make-rprivate / && mount -t tmpfs t /tmp && mount --bind /tmp /tmp && mount -o remount,bind,ro /tmp && ! touch /tmp/f'
fi
while read -r _ place kind options _; do
  [ "$kind" = cgroup ] && say "=cgroup" "$place" ",$options,"
  [ "$kind" = cgroup2 ] && say "=cgroup2" "$place" " $(cat "$place/cgroup.controllers" 2>/dev/null) "
done </proc/mounts
sed 's/^#.*//; /^$/d; s/[[:space:]].*[[:space:]]/ /' /proc/cgroups 2>/dev/null | while read -r name on; do say "=controller" "$name" "$on"; done
