"""What is changed of a machine for its life in a container: files put over the image's, each with its reason.

They are a layer of their own, between the image and what the container writes: `joey rich inspect` lists them,
`--no-fixes` does without, and nothing of the image is touched. A file that the container itself has changed since wins.
"""

from __future__ import annotations

import os
import re
import subprocess
import tempfile
from dataclasses import dataclass

from ...compat.files import find_program
from . import resolving
from .guest import Guest
from .model import Rich


@dataclass
class Fix:
    """A file (`text`) or a link (`target`) at a path of the container, and why."""

    path: str
    why: str
    text: str = ""
    target: str = ""
    mode: int = 0o644


_UNIT_FOLDERS = ("/lib/systemd/system", "/usr/lib/systemd/system", "/etc/systemd/system")
_HARDWARE = "devices are the host's"
_KERNEL = "the kernel is the host's"
_NETWORK = "joey has set the network up"
_CONSOLE = "there is no terminal of its own"
_TIME = "the clock is the host's"
_DISKS = "its file systems are mounted before it starts"
_KEYBOARD = "keys of the host's keyboard"
_UNITS = {
    _HARDWARE: """
        systemd-udevd.service systemd-udevd-kernel.socket systemd-udevd-control.socket udev.service
        systemd-udev-trigger.service systemd-udev-settle.service systemd-hwdb-update.service smartd.service
        systemd-backlight@.service systemd-rfkill.service systemd-rfkill.socket bluetooth.service
        ModemManager.service fwupd.service upower.service acpid.service acpid.socket irqbalance.service
        cpupower.service microcode.service open-vm-tools.service vmtoolsd.service qemu-guest-agent.service
        vgauthd.service tuned.service thermald.service
    """.split(),
    _KERNEL: """
        systemd-modules-load.service kmod-static-nodes.service kmod.service proc-sys-fs-binfmt_misc.automount
        proc-sys-fs-binfmt_misc.mount systemd-binfmt.service sys-kernel-debug.mount sys-kernel-tracing.mount
        sys-kernel-config.mount sys-fs-fuse-connections.mount dev-hugepages.mount kdump.service
        systemd-pstore.service auditd.service apparmor.service systemd-boot-update.service
        selinux-autorelabel-mark.service rngd.service haveged.service systemd-random-seed.service
    """.split(),
    _NETWORK: """
        networking.service NetworkManager.service NetworkManager-wait-online.service network.service
        systemd-networkd.service systemd-networkd.socket systemd-networkd-wait-online.service wicked.service
        ifup@.service dhcpcd.service
    """.split(),
    _CONSOLE: """
        getty@.service getty-static.service getty@tty1.service serial-getty@.service console-getty.service
        console-setup.service
        keyboard-setup.service systemd-vconsole-setup.service plymouth-start.service plymouth-quit.service
        plymouth-quit-wait.service plymouth-read-write.service autovt@.service
    """.split(),
    _TIME: """
        systemd-timesyncd.service chrony.service chronyd.service ntp.service ntpd.service ntpsec.service
        hwclock-save.service
    """.split(),
    _DISKS: """
        systemd-remount-fs.service systemd-fsck-root.service systemd-fsck@.service lvm2-monitor.service
        lvm2-lvmetad.socket lvm2-lvmetad.service lvm2-lvmpolld.socket blk-availability.service mdmonitor.service
        multipathd.service multipathd.socket iscsid.service iscsid.socket iscsi.service e2scrub_reap.service
        e2scrub_all.timer fstrim.timer systemd-quotacheck.service quotaon.service
    """.split(),
}
_SCRIPTS = {
    _HARDWARE: """
        udev eudev udev-finish udev-post acpid haldaemon smartd smartmontools irqbalance cpuspeed microcode_ctl
        lm_sensors alsa alsa-utils bluetooth vmware-tools open-vm-tools vboxadd vboxadd-service sysfsutils
        brightness
    """.split(),
    _KERNEL: """
        kmod module-init-tools kdump auditd apparmor loadcpufreq cpufrequtils procps
    """.split(),
    _NETWORK: """
        networking network NetworkManager wicked ifupdown ifupdown-clean hostname.sh network-manager
    """.split(),
    _CONSOLE: """
        console-setup.sh console-setup keyboard-setup.sh keyboard-setup kbd console-screen.sh keymap.sh plymouth
        plymouth-log firstboot
    """.split(),
    _TIME: """
        hwclock.sh hwclock hwclockfirst.sh ntp ntpd ntpdate chronyd chrony
    """.split(),
    _DISKS: """
        mountkernfs.sh mountdevsubfs.sh checkroot.sh checkroot-bootclean.sh checkfs.sh mountall.sh mountnfs.sh
        mountnfs-bootclean.sh umountfs umountroot umountnfs.sh lvm2 lvm2-monitor mdadm mdadm-raid mdmonitor
        cryptdisks cryptdisks-early netfs iscsi iscsid multipathd blk-availability quota quotarpc fcoe lldpad
    """.split(),
}
# what else such a script does, and is done still
_STILL = {
    "mountkernfs.sh": "mkdir -p -m 1777 /run/lock\n[ -e /run/shm ] || ln -s /dev/shm /run/shm\n",
}
# jobs of upstart, in CentOS 6 and Ubuntu 14.04
_JOBS = {
    _CONSOLE: """
        tty start-ttys serial prefdm plymouth-shutdown quit-plymouth splash-manager tty1 tty2 tty3 tty4 tty5 tty6
        console console-setup setvtrgb plymouth plymouth-log plymouth-ready plymouth-splash plymouth-stop
        plymouth-upstart-bridge container-detect
    """.split(),
    _HARDWARE: """
        udev udevmonitor udevtrigger udev-fallback-graphics upstart-udev-bridge hwclock hwclock-save
        init-system-dbus acpid irqbalance
    """.split(),
    _KERNEL: """
        module-init-tools kmod procps readahead readahead-collector readahead-disable-services
    """.split(),
    _DISKS: """
        mountall mountall-net mountall-reboot mountall-shell mounted-dev mounted-proc cryptdisks-enable
    """.split(),
    _NETWORK: """
        networking network-interface network-interface-container network-interface-security failsafe
    """.split(),
    _KEYBOARD: """
        control-alt-delete
    """.split(),
}
MARK = "# joey: --env"  # what follows is joey's, and made anew
# what Ubuntu's other jobs wait for and mountall would have said
_EVENTS = """description "joey: says what mountall, udev and the network would have said"
start on startup
task
script
    initctl emit virtual-filesystems
    initctl emit local-filesystems
    initctl emit remote-filesystems
    initctl emit all-swaps
    initctl emit filesystem
    initctl emit net-device-up IFACE=lo
    initctl emit static-network-up
end script
"""
_RC_SYSINIT = """#!/bin/bash
# In a container (joey): what CentOS 6's rc.sysinit does beside the kernel, devices and file systems of a machine.
HOSTNAME=$(/bin/hostname)
[ -f /etc/sysconfig/network ] && . /etc/sysconfig/network
: > /var/run/utmp
chgrp utmp /var/run/utmp 2>/dev/null; chmod 0664 /var/run/utmp
[ -e /var/log/wtmp ] || : > /var/log/wtmp
find /var/lock /var/run -xdev -type f ! -name utmp -exec rm -f -- {} \\; 2>/dev/null
rm -rf /tmp/.X*-lock /tmp/.lock.* /tmp/.gdm_socket /tmp/.s.PGSQL.* 2>/dev/null
mkdir -m 1777 -p /tmp/.ICE-unix 2>/dev/null
exit 0
"""


def of(kind: str, guest: Guest, rich: Rich) -> list[Fix]:
    """What is to be changed of a machine with such an init."""
    out = _everybody(guest, rich)
    if kind == "systemd":
        out += _systemd(guest, rich)
    elif kind in ("sysvinit", "openrc"):
        out += _inittab(guest) + _scripts(guest, ("/etc/init.d",))
        if kind == "openrc":
            out += _openrc(guest)
    elif kind == "upstart":
        out += _upstart(guest) + _scripts(guest, ("/etc/rc.d/init.d", "/etc/init.d"))
    elif kind == "busybox" and not guest.exists("/etc/inittab"):
        text = "::sysinit:/etc/init.d/rcS\n::shutdown:/bin/true\n"
        out.append(Fix("/etc/inittab", f"{_CONSOLE}: busybox would ask for one", text))
    out += _beside(kind, rich)
    return out


def _everybody(guest: Guest, rich: Rich) -> list[Fix]:
    name = rich.hostname or rich.name
    out = [Fix("/etc/hostname", "its own name", f"{name}\n")]
    hosts = guest.text("/etc/hosts") or "127.0.0.1 localhost\n::1 localhost ip6-localhost ip6-loopback\n"
    if not re.search(rf"^[^#\n]*\s{re.escape(name)}(\s|$)", hosts, re.M):
        out.append(Fix("/etc/hosts", "its own name is known", hosts.rstrip("\n") + f"\n127.0.1.1 {name}\n"))
    servers, why = resolving.resolv_conf(guest, rich)
    if servers:
        out.append(Fix("/etc/resolv.conf", why, servers))
    if guest.text("/etc/fstab").strip():
        out.append(Fix("/etc/fstab", _DISKS, "# in a container (joey): nothing is to be mounted\n"))
    if guest.exists("/etc/systemd") or guest.exists("/etc/dbus-1"):
        out.append(Fix("/etc/machine-id", "its own identity", os.urandom(16).hex() + "\n", mode=0o444))
    if "mtab" not in guest.names("/etc") or guest.exists("/etc/mtab"):  # CentOS 6's is a file; a link leads nowhere
        out.append(Fix("/etc/mtab", "the mounts are those of the container", target="/proc/self/mounts"))
    out += _host_keys(guest)
    if rich.env:
        out.append(Fix("/etc/environment", "--env: for login, ssh and cron", environment(guest, rich.env)))
    return out


def is_identity(path: str) -> bool:
    """Whether a file is made once, and stays what it is."""
    return path == "/etc/machine-id" or path.startswith("/etc/ssh/ssh_host_")


def _host_keys(guest: Guest) -> list[Fix]:
    """Keys of its sshd, where its migration has left them behind; in the form that OpenSSH 5.3 reads too."""
    if not guest.exists("/usr/sbin/sshd") or any(name.startswith("ssh_host_") for name in guest.names("/etc/ssh")):
        return []
    program = find_program("ssh-keygen")
    if not program:
        return []
    out = []
    with tempfile.TemporaryDirectory() as folder:
        for kind in ("rsa", "ecdsa", "ed25519"):
            path = f"{folder}/{kind}"
            form = [] if kind == "ed25519" else ["-m", "PEM"]
            done = subprocess.run([program, "-q", "-t", kind, *form, "-N", "", "-C", "joey", "-f", path],
                                  stdin=subprocess.DEVNULL, capture_output=True, check=False)  # fmt: skip
            if done.returncode:
                continue  # this ssh-keygen has no such kind
            for suffix, mode in (("", 0o600), (".pub", 0o644)):
                with open(path + suffix, encoding="ascii") as file:
                    text = file.read()
                out.append(Fix(f"/etc/ssh/ssh_host_{kind}_key{suffix}", "its image has no host keys", text, mode=mode))
    return out


def environment(guest: Guest, env: dict[str, str]) -> str:
    """/etc/environment as pam_env(8) reads it: what the machine says, and these. It knows quotes and no escapes."""
    theirs = guest.text("/etc/environment").replace("\0", "").split(f"{MARK}\n")[0].splitlines()
    kept = [line for line in theirs if line.partition("=")[0].strip().removeprefix("export ") not in env]
    if env:
        kept.append(MARK)
    for name, value in env.items():
        quote = "'" if '"' in value else '"'
        plain = re.match(r"[A-Za-z0-9_./:@%+,=-]*$", value)
        kept.append(f"{name}={value}" if plain else f"{name}={quote}{value}{quote}")
    return "\n".join(kept) + "\n"


# --- systemd ------------------------------------------------------------------------------------------------------


def _systemd(guest: Guest, rich: Rich) -> list[Fix]:
    there = {name for folder in _UNIT_FOLDERS for name in guest.names(folder)}
    there |= {f"{name.partition('@')[0]}@tty1.service" for name in there if name == "getty@.service"}
    out = [
        Fix(f"/etc/systemd/system/{unit}", f"masked: {why}", target="/dev/null")
        for why, units in _UNITS.items()
        for unit in units
        if unit in there
    ]
    if rich.env:
        words = " ".join(systemd_quoted(f"{name}={value}") for name, value in rich.env.items())
        text = f"[Manager]\nDefaultEnvironment={words}\n"
        out.append(Fix("/etc/systemd/system.conf.d/10-joey.conf", "--env: for its services", text))
    return out


def systemd_quoted(word: str) -> str:
    """A word as systemd.syntax(7) and systemd.service(5) read it, whatever is in it: nothing is expanded."""
    out = word.replace("\\", "\\\\").replace('"', '\\"').replace("%", "%%").replace("\n", "\\n").replace("\t", "\\t")
    return f'"{out}"'


def _beside(kind: str, rich: Rich) -> list[Fix]:
    """Services that run beside the machine's own."""
    out = []
    for name, command in rich.beside.items():
        why = f"--beside: {name}"
        if kind == "systemd":
            words = " ".join(systemd_quoted(word.replace("$", "$$")) for word in command)
            unit = f"/etc/systemd/system/joey-{name}.service"
            text = (
                f"[Unit]\nDescription=joey: {name}\nAfter=network.target\n\n[Service]\nExecStart={words}\n"
                "Restart=on-failure\n\n[Install]\nWantedBy=multi-user.target\n"
            )
            out.append(Fix(unit, why, text))
            wanted = f"/etc/systemd/system/multi-user.target.wants/joey-{name}.service"
            out.append(Fix(wanted, why, target=unit))
        elif kind in ("sysvinit", "openrc", "upstart"):
            out += _script_beside(name, command, why, kind)
    return out


def shell_quoted(words: list[str]) -> str:
    return " ".join("'" + word.replace("'", "'\\''") + "'" for word in words)


def _script_beside(name: str, command: list[str], why: str, kind: str) -> list[Fix]:
    if kind == "upstart":
        text = (
            f'description "joey: {name}"\nstart on stopped rc RUNLEVEL=[2345]\nrespawn\nexec {shell_quoted(command)}\n'
        )
        return [Fix(f"/etc/init/joey-{name}.conf", why, text)]
    script = (
        f"#!/bin/sh\n### BEGIN INIT INFO\n# Provides: joey-{name}\n# Required-Start: $remote_fs\n# Required-Stop:\n"
        f"# Default-Start: 2 3 4 5\n# Default-Stop: 0 1 6\n### END INIT INFO\nfile=/var/run/joey-{name}.pid\n"
        'case "$1" in\n'
        f"start) {shell_quoted(command)} & echo $! >$file ;;\n"
        'stop) [ -f $file ] && kill "$(cat $file)"; rm -f $file ;;\n'
        "restart) $0 stop; $0 start ;;\nesac\nexit 0\n"
    )
    place = f"/etc/init.d/joey-{name}"
    links = [Fix(f"/etc/rc{level}.d/S99joey-{name}", why, target=f"../init.d/joey-{name}") for level in "2345"]
    return [Fix(place, why, script, mode=0o755), *links]


# --- sysvinit, openrc, upstart --------------------------------------------------------------------------------------


def _inittab(guest: Guest) -> list[Fix]:
    text = guest.text("/etc/inittab")
    if not text:
        return []
    lines = []
    for line in text.splitlines():
        fields = line.split(":", 3)
        drop = ""
        if not line.startswith("#") and len(fields) == 4:
            if re.search(r"getty|/bin/login|vtty", fields[3]):
                drop = _CONSOLE
            elif fields[2] in ("ctrlaltdel", "kbrequest"):
                drop = _KEYBOARD
            elif fields[2] in ("powerwait", "powerfail", "powerokwait", "powerfailnow"):
                drop = "power is the host's"
        lines.append(f"# joey: {drop}: {line}" if drop else line)
    lines.append("pf:12345:powerwait:/sbin/shutdown -h now")
    return [Fix("/etc/inittab", f"{_CONSOLE}; SIGPWR shuts it down", "\n".join(lines) + "\n")]


def _scripts(guest: Guest, folders: tuple[str, ...]) -> list[Fix]:
    folder = next((folder for folder in folders if guest.names(folder)), folders[0])
    there = set(guest.names(folder))
    out = []
    for why, names in _SCRIPTS.items():
        for name in names:
            if name in there:
                head = _lsb_header(guest.text(f"{folder}/{name}"))
                still = _STILL.get(name, "")
                text = f"#!/bin/sh\n{head}# in a container (joey): {why}\n{still}exit 0\n"
                out.append(Fix(f"{folder}/{name}", f"does nothing: {why}", text, mode=0o755))
    return out


def _lsb_header(text: str) -> str:
    """What the order of scripts is made of: it stays."""
    text = text[: 1 << 14]
    found = re.search(r"^### BEGIN INIT INFO\n(?:#.*\n)*?### END INIT INFO\n", text, re.M)
    chkconfig = "".join(f"{line}\n" for line in text.splitlines() if line.startswith("# chkconfig:"))
    return chkconfig + (found[0] if found else "")


def _openrc(guest: Guest) -> list[Fix]:
    text = guest.text("/etc/rc.conf")
    kept = [
        line for line in text.splitlines() if not re.match(r"\s*(rc_sys|rc_provide|rc_controller_cgroups)\s*=", line)
    ]
    kept += ['rc_sys="lxc"', 'rc_provide="loopback net"', 'rc_controller_cgroups="NO"']
    return [Fix("/etc/rc.conf", "OpenRC leaves hardware alone in a container", "\n".join(kept) + "\n")]


def _upstart(guest: Guest) -> list[Fix]:
    there = set(guest.names("/etc/init"))
    out = []
    for why, jobs in _JOBS.items():
        for job in jobs:
            if f"{job}.conf" in there:
                text = f'description "joey: {why}"\n# no "start on": it is never started\n'
                out.append(Fix(f"/etc/init/{job}.conf", f"does nothing: {why}", text))
    if "mountall.conf" in there:
        out.append(Fix("/etc/init/joey-events.conf", "says what the jobs above would have said", _EVENTS))
    if guest.exists("/etc/rc.d/rc.sysinit"):
        why = "CentOS 6's own checks disks, loads modules and starts udev"
        out.append(Fix("/etc/rc.d/rc.sysinit", why, _RC_SYSINIT, mode=0o755))
    return out
