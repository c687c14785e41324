"""What of a machine an image has no use for, or must not have: one rule a line, each with its reason.

A rule drops what its patterns match and everything below (`drop`), of that no folders (`drop-files`), only a regular
file (`drop-regular`), only what is below (`empty-folder`), or the content of a file (`empty-file`). In a pattern `*` is any run of characters but a slash, `**` any run. Source: what virt-sysprep and
virt-v2v take away, and what users of migration tools report (docs/notes/0008).
"""

from __future__ import annotations

import re
from typing import NamedTuple


class Rule(NamedTuple):
    """`default`: whether it applies where a recipe is silent."""

    name: str
    action: str
    default: bool
    reason: str
    patterns: tuple[str, ...]

    def touches(self, kind: str) -> bool:
        """Whether the rule says something of entries of a kind that its patterns match."""
        if self.action == "drop-files":
            return kind != "directory"
        return kind == "file" if self.action == "drop-regular" else True


RULES = (
    Rule("kernel-filesystems", "empty-folder", True, "the kernel of the host fills these at every start",
         ("proc", "sys", "dev", "run", "var/run", "var/lock", "selinux", "cgroup")),
    Rule("temporary", "empty-folder", True, "temporary files of programs that no longer run",
         ("tmp", "var/tmp")),
    Rule("kernel", "drop", True, "a container runs on the kernel of its host",
         ("boot/vmlinu[xz]*", "boot/initrd*", "boot/initramfs*", "boot/System.map*", "boot/config-*", "boot/symvers*",
          "boot/grub", "boot/grub2", "boot/efi", "boot/loader", "boot/extlinux", "boot/memtest*", "boot/xen*",
          "vmlinuz*", "initrd.img*", "lib/modules/*", "usr/lib/modules/*", "usr/src/linux-headers-*",
          "usr/src/kernels/*", "var/lib/initramfs-tools/*")),
    Rule("firmware", "drop", True, "firmware is loaded by the kernel of the host",
         ("lib/firmware/*", "usr/lib/firmware/*", "lib/microcode", "usr/share/microcode_ctl")),
    Rule("fstab", "empty-file", True, "the disks of the machine are not there; volumes take their place",
         ("etc/fstab",)),
    Rule("block-devices", "drop", True, "swap, RAID and LVM belong to the machine's disks",
         ("etc/crypttab", "etc/mdadm.conf", "etc/mdadm/mdadm.conf", "etc/lvm/backup", "etc/lvm/archive", "etc/lvm/cache",
          "swapfile", "swap.img", "swap/swapfile", "var/swap", "var/lib/swap", "hiberfil.sys", "etc/lvm/devices")),
    Rule("udev-net", "drop", True, "they give network cards of the machine their names by MAC address",
         ("etc/udev/rules.d/*persistent-net*.rules", "etc/udev/rules.d/*persistent-cd*.rules",
          "dev/.udev/rules.d", "etc/systemd/network/*-vmware.link")),
    Rule("machine-identity", "empty-file", True, "two machines must not have the same identity: a new one is made at the start",
         ("etc/machine-id", "var/lib/dbus/machine-id")),
    Rule("random-seed", "drop", True, "a seed shared by several machines is worse than none",
         ("var/lib/random-seed", "var/lib/systemd/random-seed", "var/lib/urandom/random-seed")),
    Rule("ssh-host-keys", "drop", True, "host keys are secrets of one machine: new ones are made, or given by policy",
         ("etc/ssh/ssh_host_*",)),
    Rule("dhcp-leases", "drop", True, "addresses of the machine's network",
         ("var/lib/dhclient/*", "var/lib/dhcp/*", "var/lib/dhcp3/*", "var/lib/dhcpcd/*", "var/lib/NetworkManager/*.lease",
          "var/lib/NetworkManager/*-lease*")),
    Rule("locks", "drop", True, "process ids and locks of processes that no longer run",
         ("var/lock/subsys/*", "var/lib/rpm/__db.*", "var/lib/rpm/.rpm.lock", "var/lib/rpm/.dbenv.lock", "etc/.pwd.lock",
          "var/lib/dpkg/lock*", "var/lib/apt/lists/lock", "var/cache/apt/archives/lock")),
    Rule("mtab", "drop-regular", True, "the mounts of the machine, as a file that nobody keeps any more",
         ("etc/mtab",)),
    Rule("package-caches", "drop-files", True, "downloads of the package manager: it fetches them again",
         ("var/cache/apt", "var/cache/yum", "var/cache/dnf", "var/cache/PackageKit", "var/lib/apt/lists", "var/cache/man",
          "var/cache/zypp", "var/lib/yum/yumdb/*/*/.dbenv*", "var/cache/ldconfig")),
    Rule("crash-dumps", "empty-folder", True, "memory of programs that crashed: large, and full of secrets",
         ("var/crash", "var/spool/abrt", "var/lib/systemd/coredump", "var/tmp/abrt")),
    Rule("lost-and-found", "drop", True, "the file system checker's, of a disk that is not there",
         ("lost+found", "*/lost+found", "var/*/lost+found")),
    Rule("subscriptions", "drop", True, "the machine's registration with a vendor, which a second machine must not use",
         ("etc/sysconfig/rhn/systemid", "var/lib/rhsm/facts/*", "etc/pki/consumer/*", "etc/pki/entitlement/*",
          "var/lib/yum/uuid", "etc/pki/entitlement-host/*")),
    Rule("domain-membership", "drop", False, "the machine's account in a domain or with a configuration server",
         ("etc/krb5.keytab", "var/lib/sss/db/*", "var/lib/samba/private/*", "var/lib/puppet/ssl/*", "etc/puppet/ssl",
          "etc/salt/minion_id", "etc/salt/pki/minion", "etc/chef/client.pem")),
    Rule("logs", "drop", False, "what happened on the machine; large, and of no use to the programs",
         ("var/log/**/*.gz", "var/log/**/*-20[0-9][0-9]*", "var/log/*.[0-9]*", "var/log/journal/*", "var/log/wtmp*",
          "var/log/btmp*", "var/log/lastlog", "var/log/faillog", "var/log/messages*", "var/log/secure*",
          "var/log/syslog*", "var/log/audit/*")),
    Rule("histories", "drop", False, "commands that people typed, at times with secrets",
         ("root/.*_history", "home/*/.*_history", "root/.viminfo", "home/*/.viminfo", "root/.lesshst", "home/*/.lesshst")),
    Rule("mail-spools", "drop", False, "mail that waits to be read or sent",
         ("var/mail/*", "var/spool/mail/*", "var/spool/postfix/*/*", "var/spool/mqueue/*")),
)  # fmt: skip
NAMES = tuple(rule.name for rule in RULES)
BY_NAME = {rule.name: rule for rule in RULES}


def pattern(text: str) -> str:
    """A pattern of a rule or recipe as a regular expression on a path without its first slash."""
    found = []
    at = 0
    while at < len(text):
        if text.startswith("**/", at):
            found.append("(?:.*/)?")
            at += 3
            continue
        if text.startswith("**", at):
            found.append(".*")
            at += 2
            continue
        char = text[at]
        at += 1
        if char == "*":
            found.append("[^/]*")
        elif char == "?":
            found.append("[^/]")
        elif char == "[" and (end := text.find("]", at + 1)) > 0:
            inside = text[at:end].replace("\\", "\\\\")
            found.append("[" + ("^" + inside[1:] if inside[0] in "!^" else inside) + "]")
            at = end + 1
        else:
            found.append(re.escape(char))
    return "".join(found)


class Filter:
    """What happens to a path: the first of the rules that says something about it, found in one match.

    `keep` are patterns that no rule touches: what they match, what is below and the directories above.
    """

    def __init__(self, rules: list[Rule], keep: list[str]) -> None:
        self.rules = rules
        parts = []
        for rule in rules:
            ends = {"empty-folder": "/.+", "empty-file": "", "drop-regular": ""}.get(rule.action, "(?:/.*)?")
            parts.append(f"((?:{'|'.join(pattern(item.strip('/')) for item in rule.patterns)}){ends})")
        self._match = re.compile(os_bytes("|".join(parts)), re.DOTALL).fullmatch if parts else None
        self._keep = [re.compile(os_bytes(pattern(item.strip("/")) + "(?:/.*)?"), re.DOTALL).fullmatch for item in keep]
        above = [pattern(part) for item in keep for part in _parents(item.strip("/"))]
        self._above = re.compile(os_bytes("|".join(above) or "(?!)"), re.DOTALL).fullmatch

    def rule(self, path: bytes) -> Rule | None:
        """The rule that applies to a path, or None."""
        if self._match is None or not (found := self._match(path)):
            return None
        if self._keep and (self._above(path) or any(keeps(path) for keeps in self._keep)):
            return None
        return self.rules[(found.lastindex or 1) - 1]


def _parents(path: str) -> list[str]:
    parts = path.split("/")
    return ["/".join(parts[:count]) for count in range(1, len(parts))]


def os_bytes(text: str) -> bytes:
    return text.encode("utf-8", "surrogateescape")
