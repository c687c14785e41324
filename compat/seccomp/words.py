"""The words of an OCI `linux.seccomp` section, their numbers, and the check of a section against them.

Source: runtime-spec config-linux.md "Seccomp"; <linux/seccomp.h>.
"""

from __future__ import annotations

from .. import constants as k
from ..errors import BundleError

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any

ACTIONS = {
    "SCMP_ACT_KILL": k.SECCOMP_RET_KILL_THREAD,
    "SCMP_ACT_KILL_THREAD": k.SECCOMP_RET_KILL_THREAD,
    "SCMP_ACT_KILL_PROCESS": k.SECCOMP_RET_KILL_PROCESS,
    "SCMP_ACT_TRAP": k.SECCOMP_RET_TRAP,
    "SCMP_ACT_ERRNO": k.SECCOMP_RET_ERRNO,
    "SCMP_ACT_TRACE": k.SECCOMP_RET_TRACE,
    "SCMP_ACT_LOG": k.SECCOMP_RET_LOG,
    "SCMP_ACT_ALLOW": k.SECCOMP_RET_ALLOW,
    "SCMP_ACT_NOTIFY": k.SECCOMP_RET_USER_NOTIF,
}
WITH_DATA = ("SCMP_ACT_ERRNO", "SCMP_ACT_TRACE")

FLAGS = {
    "SECCOMP_FILTER_FLAG_TSYNC": k.SECCOMP_FILTER_FLAG_TSYNC,
    "SECCOMP_FILTER_FLAG_LOG": k.SECCOMP_FILTER_FLAG_LOG,
    "SECCOMP_FILTER_FLAG_SPEC_ALLOW": k.SECCOMP_FILTER_FLAG_SPEC_ALLOW,
    "SECCOMP_FILTER_FLAG_WAIT_KILLABLE_RECV": k.SECCOMP_FILTER_FLAG_WAIT_KILLABLE_RECV,
}

NOTIFY = "SCMP_ACT_NOTIFY"

# Between the filter and the exec joey hands the listener over and reports; nobody listens before that.
USED_BY_JOEY = ("sendmsg", "write", "execve")

OPERATORS = tuple(f"SCMP_CMP_{name}" for name in ("NE", "LT", "LE", "EQ", "GE", "GT", "MASKED_EQ"))

# Architectures joey filters for; those of other machines may be listed and are never reached on this one.
ARCHITECTURES = ("SCMP_ARCH_X86_64", "SCMP_ARCH_X32", "SCMP_ARCH_X86", "SCMP_ARCH_AARCH64")
FOREIGN = ("SCMP_ARCH_ARM", "SCMP_ARCH_MIPS", "SCMP_ARCH_MIPS64", "SCMP_ARCH_MIPS64N32", "SCMP_ARCH_MIPSEL",
           "SCMP_ARCH_MIPSEL64", "SCMP_ARCH_MIPSEL64N32", "SCMP_ARCH_PPC", "SCMP_ARCH_PPC64", "SCMP_ARCH_PPC64LE",
           "SCMP_ARCH_S390", "SCMP_ARCH_S390X", "SCMP_ARCH_PARISC", "SCMP_ARCH_PARISC64", "SCMP_ARCH_RISCV64",
           "SCMP_ARCH_LOONGARCH64", "SCMP_ARCH_M68K", "SCMP_ARCH_SH", "SCMP_ARCH_SHEB")  # fmt: skip


def notifies(section: dict[str, Any]) -> bool:
    """Whether some system call is handed to a listener."""
    rules = section.get("syscalls") or []
    return section["defaultAction"] == NOTIFY or any(rule["action"] == NOTIFY for rule in rules)


def allows(section: dict[str, Any], calls: tuple[str, ...]) -> bool:
    """Whether a profile surely lets all these calls through, whatever their arguments."""
    passing = ("SCMP_ACT_ALLOW", "SCMP_ACT_LOG")
    for call in calls:
        rules = [rule for rule in section.get("syscalls") or [] if call in rule["names"]]
        if any(rule["action"] not in passing for rule in rules):
            return False
        always = section.get("defaultAction", passing[0]) in passing or any(not rule.get("args") for rule in rules)
        if not always:
            return False
    return True


def check(section: dict[str, Any]) -> None:
    """Refuse words nobody knows, or joey can't do. Raises BundleError naming the field."""
    where = "linux.seccomp"
    _known(section["defaultAction"], ACTIONS, f"{where}.defaultAction", "action")
    for place, name in enumerate(section.get("flags") or []):
        _known(name, FLAGS, f"{where}.flags[{place}]", "flag")
    for place, name in enumerate(section.get("architectures") or []):
        _known(name, (*ARCHITECTURES, *FOREIGN), f"{where}.architectures[{place}]", "architecture")
    if section["defaultAction"] == NOTIFY:
        raise BundleError(f"{where}.defaultAction", f"{NOTIFY} would stop joey's own calls", "name the calls to notify")
    if notifies(section) and not section.get("listenerPath"):
        raise BundleError(f"{where}.listenerPath", f"is missing: {NOTIFY} needs a listener")
    if section.get("listenerPath") and not section["listenerPath"].startswith("/"):
        raise BundleError(f"{where}.listenerPath", "is not an absolute path")
    if section.get("listenerMetadata") and not section.get("listenerPath"):
        raise BundleError(f"{where}.listenerMetadata", "goes with listenerPath, which is missing")
    for place, rule in enumerate(section.get("syscalls") or []):
        field = f"{where}.syscalls[{place}]"
        _known(rule["action"], ACTIONS, f"{field}.action", "action")
        for name in rule["names"]:
            if rule["action"] == NOTIFY and name in USED_BY_JOEY:
                raise BundleError(f"{field}.names", f"{NOTIFY} of {name} would stop joey's own start for ever")
        for number, argument in enumerate(rule.get("args") or []):
            _known(argument["op"], OPERATORS, f"{field}.args[{number}].op", "operator")


def _known(word: str, words: dict[str, int] | tuple[str, ...], field: str, kind: str) -> None:
    if word not in words:
        raise BundleError(field, f'unknown {kind} "{word}"', "one of: " + ", ".join(words))
