"""Bad bundles: one clear error that names the field, status 1, nothing left behind."""

from __future__ import annotations

import json
import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from joey.compat.errors import JoeyError
from joey.runtime import bundle as bundles
from joey.runtime import schema
from joey.runtime.commands.spec import template

from ..conftest import Joey, MakeBundle


def put(path: str, value: Any) -> Callable[[dict[str, Any]], None]:
    """A change of one field, by its path; an integer walks into a list."""

    def change(config: dict[str, Any]) -> None:
        target: Any = config
        *parents, last = path.split(".")
        for part in parents:
            target = target[int(part)] if part.isdigit() else target.setdefault(part, {})
        if value is ...:
            del target[last]
        else:
            target[int(last) if last.isdigit() else last] = value

    return change


BAD = [
    ("ociVersion", ..., "ociVersion: is missing"),
    ("ociVersion", "2.0.0", 'ociVersion: "2.0.0" is not'),
    ("process", ..., "process: is missing"),
    ("process", [], "process: expected an object, found an array"),
    ("process.cwd", "relative", 'process.cwd: "relative" is not an absolute path'),
    ("process.args", [], "process.args: must name a program"),
    ("process.args", ["a\0b"], "process.args[0]: has a NUL byte"),
    ("process.args", "true", "process.args: expected an array"),
    ("process.args", ["\ud800"], "process.args[0]: has half of a surrogate pair"),
    ("root.path", "\ud800", "root.path: has half of a surrogate pair"),
    ("annotations", {"\udfff": "x"}, "has half of a surrogate pair"),
    ("process.user", {"uid": -1, "gid": 0}, "process.user.uid: -1 is outside"),
    ("process.user", {"uid": "root"}, 'process.user.uid: expected a whole number, found the string "root"'),
    ("process.user", {"uid": True}, "process.user.uid: expected a whole number, found true"),
    ("process.user", {"uid": 2**32 - 1}, "process.user.uid: 4294967295 is outside"),
    ("process.rlimits", [{"type": "RLIMIT_FOO", "soft": 1, "hard": 1}], "process.rlimits[0].type: unknown limit"),
    ("process.rlimits", [{"type": "RLIMIT_CPU", "soft": 2, "hard": 1}], "process.rlimits[0].soft: 2 is above"),
    ("process.rlimits", [{"type": "RLIMIT_CPU", "soft": 1, "hard": 1}] * 2, "process.rlimits[1].type: RLIMIT_CPU is given twice"),
    ("process.oomScoreAdj", 5000, "process.oomScoreAdj: 5000 is outside"),
    ("process.commandLine", "x", "process.commandLine: is not supported"),
    ("process.scheduler", {}, "process.scheduler.policy: is missing"),
    ("process.scheduler", {"policy": "SCHED_FOO"}, 'process.scheduler.policy: unknown value "SCHED_FOO"'),
    ("process.scheduler", {"policy": "SCHED_OTHER", "nice": 20}, "process.scheduler.nice: 20 is outside -20 to 19"),
    ("process.scheduler", {"policy": "SCHED_OTHER", "runtime": 1}, "process.scheduler.runtime: goes with SCHED_DEADLINE"),
    ("process.scheduler", {"policy": "SCHED_BATCH", "priority": 1}, "process.scheduler.priority: goes with SCHED_FIFO"),
    ("process.scheduler", {"policy": "SCHED_FIFO", "nice": 1}, "process.scheduler.nice: goes with SCHED_OTHER"),
    ("process.scheduler", {"policy": "SCHED_ISO"}, "process.scheduler.policy: SCHED_ISO is in no Linux kernel"),
    ("process.ioPriority", {"class": "IOPRIO_CLASS_BE", "priority": 8}, "process.ioPriority.priority: 8 is outside"),
    ("process.execCPUAffinity", {"initial": "3-1"}, 'process.execCPUAffinity.initial: "3-1" is no range'),
    ("linux.personality", {"domain": "BSD"}, 'linux.personality.domain: unknown value "BSD"'),
    ("linux.personality", {"domain": "LINUX", "flags": ["X"]}, "linux.personality.flags: no flags are defined"),
    ("linux.timeOffsets", {"boottime": {"secs": 1}}, "linux.timeOffsets: needs a new time namespace"),
    ("linux.intelRdt", {"closID": "x"}, "linux.intelRdt: is not supported"),
    ("linux.netDevices", {"eth0": {}}, "linux.netDevices: is not supported"),
    ("root", ..., "root: is missing"),
    ("root.path", "nowhere", "root.path: "),
    ("root.path", "/", "root.path: is the host's own root"),
    ("hostname", 7, "hostname: expected a string"),
    ("mounts.0.destination", ..., "mounts[0].destination: is missing"),
    ("mounts.0.destination", "/", "mounts[0].destination: is the root itself"),
    ("mounts.0.destination", "/a/../..", "mounts[0].destination: is the root itself"),
    ("mounts.0.type", ..., "mounts[0].type: is missing"),
    ("mounts.0", {"destination": "/x", "type": "bind"}, "mounts[0].source: a bind mount needs a source"),
    ("mounts.0.options", ["idmap"], "mounts[0].uidMappings: only bind mounts can be id-mapped"),
    ("mounts.0.options", ["bind", "idmap"], 'mounts[0].options: "idmap" without uidMappings takes those of linux'),
    ("mounts.0.options", ["tmpcopyup"], 'mounts[0].options: "tmpcopyup" is for tmpfs mounts'),
    ("mounts.0.uidMappings", [{"containerID": 0, "hostID": 0, "size": 1}], "mounts[0].uidMappings: only bind mounts"),
    ("linux.namespaces", [{"type": "pid"}], "linux.namespaces: has no mount namespace"),
    ("linux.namespaces.0.type", "space", 'linux.namespaces[0].type: unknown value "space"'),
    ("linux.namespaces.0.path", "x", 'linux.namespaces[0].path: "x" is not an absolute path'),
    ("linux.namespaces", [{"type": "mount"}, {"type": "mount"}], 'linux.namespaces: type "mount" is given twice'),
    ("linux.namespaces", [{"type": "mount"}], "hostname: needs a uts namespace"),
    ("linux.uidMappings", [{"containerID": 0, "hostID": 0, "size": 1}], "linux.uidMappings: needs a user namespace"),
    ("linux.cgroupsPath", "/a/../../b", 'linux.cgroupsPath: "/a/../../b" leaves'),
    ("linux.cgroupsPath", "system.slice:joey:x", "asks for the systemd driver"),
    ("linux.sysctl", {"kernel.panic": "1"}, "linux.sysctl['kernel.panic']: belongs to no namespace"),
    ("linux.sysctl", {"net/../../kernel.panic": "1"}, "is no sysctl name"),
    ("linux.devices", [{"type": "c", "path": "/dev/x"}], "linux.devices[0]: needs major and minor"),
    ("linux.devices", [{"type": "c", "path": "/dev/../x", "major": 1, "minor": 3}], 'has ".." in it'),
    ("linux.resources.devices", [{"allow": True, "access": "rwx"}], "linux.resources.devices[0].access"),
    ("linux.resources.unified", {"../x": "1"}, "must be a plain file name"),
    ("linux.maskedPaths", ["proc"], 'linux.maskedPaths[0]: "proc" is not an absolute path'),
    ("linux.rootfsPropagation", "sideways", 'linux.rootfsPropagation: unknown value "sideways"'),
    ("linux.seccomp", {"defaultAction": "SCMP_ACT_NOTIFY", "listenerPath": "/x"}, "linux.seccomp.defaultAction: SCMP_ACT_NOTIFY would stop"),
    ("linux.seccomp", {"defaultAction": "SCMP_ACT_ALLOW", "listenerPath": "x"}, "linux.seccomp.listenerPath: is not an absolute"),
    ("linux.seccomp", {"defaultAction": "SCMP_ACT_ALLOW", "listenerMetadata": "x"}, "linux.seccomp.listenerMetadata: goes with"),
    ("linux.seccomp", {"defaultAction": "SCMP_ACT_ALLOW", "syscalls": [{"names": ["mkdir"], "action": "SCMP_ACT_NOTIFY"}]}, "linux.seccomp.listenerPath: is missing"),
    ("linux.seccomp", {"defaultAction": "SCMP_ACT_ALLOW", "listenerPath": "/x", "syscalls": [{"names": ["sendmsg"], "action": "SCMP_ACT_NOTIFY"}]}, "SCMP_ACT_NOTIFY of sendmsg"),
    ("linux.seccomp", {"defaultAction": "SCMP_ACT_ALLOW", "flags": ["SECCOMP_X"]}, 'linux.seccomp.flags[0]: unknown flag "SECCOMP_X"'),
    ("linux.seccomp", {"defaultAction": "SCMP_ACT_ALLOW", "architectures": ["VAX"]}, 'linux.seccomp.architectures[0]: unknown'),
    ("linux.intelRdt", {"closID": "x"}, "linux.intelRdt: is not supported"),
    ("hooks", {"prestart": [{"path": "hook"}]}, 'hooks.prestart[0].path: "hook" is not an absolute path'),
    ("annotations", {"a": 1}, "annotations['a']: expected a string"),
]  # fmt: skip


@pytest.mark.root
@pytest.mark.parametrize(("path", "value", "message"), BAD, ids=[f"{row[0]}-{index}" for index, row in enumerate(BAD)])
def test_a_bad_field_is_named(path: str, value: Any, message: str, joey: Joey, bundle: MakeBundle) -> None:
    folder = bundle("true", change=put(path, value))
    name = joey.id()
    done = joey("run", "-b", str(folder), name, check=False)
    assert done.returncode == 1
    assert message in done.stderr
    assert done.stderr.startswith("joey: ")
    assert "Traceback" not in done.stderr
    assert not joey.root.exists() or not list(joey.root.iterdir())


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("", "is not JSON"),
        ("{", "is not JSON"),
        ("[]", "expected an object"),
        ('{"ociVersion": "1.0.2",}', "is not JSON"),
        ("[" * 200_000, "is not JSON"),
        ('{"a":' * 100 + "1" + "}" * 100, "nested"),
    ],
)
def test_a_broken_document_is_told(text: str, message: str, joey: Joey, tmp_path: Path) -> None:
    (tmp_path / "config.json").write_text(text)
    done = joey("run", "-b", str(tmp_path), joey.id(), check=False)
    assert (done.returncode, message in done.stderr, "Traceback" in done.stderr) == (1, True, False)


def test_a_missing_bundle_is_told_with_a_hint(joey: Joey, tmp_path: Path) -> None:
    done = joey("run", "-b", str(tmp_path / "none"), joey.id(), check=False)
    assert done.returncode == 1
    assert "config.json: No such file" in done.stderr
    assert "joey spec" in done.stderr


def test_an_endless_config_is_refused(joey: Joey, tmp_path: Path) -> None:
    os.symlink("/dev/zero", tmp_path / "config.json")
    done = joey("run", "-b", str(tmp_path), joey.id(), check=False)
    assert (done.returncode, "larger than" in done.stderr) == (1, True)


@pytest.mark.parametrize("name", ["..", ".", "", "a/b", "../x", "a b", "x\n", "a" * 2000])
def test_hostile_ids_are_refused(name: str, joey: Joey, bundle: MakeBundle) -> None:
    for words in (["run", "-b", str(bundle()), name], ["state", name], ["delete", "--force", name]):
        done = joey(*words, check=False)
        assert (done.returncode, "invalid container id" in done.stderr) == (1, True)


def test_unknown_fields_and_nulls_are_ignored(tmp_path: Path) -> None:
    config = template()
    config["somethingNew"] = {"x": [None]}
    config["process"]["rlimits"] = None
    config["linux"]["resources"]["memory"] = {"limit": None}
    parsed = bundles.parse(str(tmp_path), json.dumps(config), "config.json")
    assert parsed.process.get("rlimits") is None
    assert parsed.resources["memory"] == {}


def test_unknown_capabilities_are_warned_of_not_refused(joey: Joey, bundle: MakeBundle) -> None:
    def change(config: dict[str, Any]) -> None:
        config["process"]["capabilities"]["bounding"].append("CAP_FLY")

    done = joey("run", "-b", str(bundle("true", change=change)), joey.id())
    assert "nobody knows CAP_FLY" in done.stderr


JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.text(max_size=5),
    lambda inner: st.lists(inner, max_size=3)
    | st.dictionaries(st.sampled_from(["type", "path", "uid", "size", "x"]), inner),
    max_leaves=8,
)
PLACES = [".".join(row[0].split(".")) for row in BAD]


@settings(max_examples=300, deadline=None)
@given(st.sampled_from(PLACES), JSON)
def test_any_value_anywhere_is_taken_or_refused_never_a_crash(path: str, value: Any) -> None:
    config = template()
    put(path, value)(config)
    try:
        bundles.parse("/bundle", json.dumps(config), "config.json")
    except JoeyError as error:
        assert error.message


def test_the_template_is_valid_in_both_kinds() -> None:
    for rootless in (False, True):
        schema.CONFIG(template(rootless), "")


def test_unknown_members_of_capabilities_are_ignored() -> None:
    assert bundles.unknown_capabilities({"capabilities": {"kind": 2, "bounding": ["CAP_X"]}}) == ["CAP_X"]
