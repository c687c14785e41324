"""What a kernel of the matrix has to show: run on it by the host kit's Python, with nothing else there.

    /opt/joey/bin/python3 suite.py [FOLDER]

Prints lines of JSON: {"report": ...} what the kernel can do, {"plan": ...} which mechanisms a container gets there, and
for each test {"test": name, "result": "passed" | "failed" | "refused", "said": text, "seconds": n}. A feature that the
plan refuses (a kernel without PID namespaces) is left out of the bundles, and its tests are "refused". The exit status
is 1 where a test failed. Takes root.
"""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

KIT = Path(sys.executable).resolve().parent
NAMESPACES = {
    "pidns": "pid",
    "netns": "network",
    "utsns": "uts",
    "ipcns": "ipc",
    "mntns": "mount",
    "cgroupns": "cgroup",
}
# links that some kernels make in each network namespace, without an address
EVERYWHERE = set("sit0 tunl0 gre0 gretap0 erspan0 ip_vti0 ip6_vti0 ip6tnl0 ip6gre0".split())
TESTS: dict[str, tuple[str, Callable[[Suite], None]]] = {}


class Failed(Exception):
    """What a test expected, and what came."""


def case(needs: str = "") -> Callable[[Callable[[Suite], None]], Callable[[Suite], None]]:
    def register(function: Callable[[Suite], None]) -> Callable[[Suite], None]:
        TESTS[function.__name__.replace("_", " ")] = needs, function
        return function

    return register


def expect(found: object, wanted: object) -> None:
    if found != wanted:
        raise Failed(f"expected {wanted!r}, got {found!r}")


class Suite:
    """Bundles of busybox in a folder, and the joey of the kit."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.left_out: set[str] = set()
        self.count = 0
        self.root = folder / "root"
        for name in ("bin", "dev", "proc", "sys", "tmp", "etc"):
            (self.root / name).mkdir(parents=True)
        shutil.copy(KIT / "busybox", self.root / "bin/busybox")
        applets = "sh echo cat id hostname mkdir touch sleep head tail ls ip ping kill mount ps seq true dd"
        for applet in applets.split():
            (self.root / "bin" / applet).symlink_to("busybox")

    def joey(self, *words: str, seconds: float = 120) -> tuple[int, str]:
        """(status, what it printed)."""
        command = [str(KIT / "joey"), "--root", str(self.folder / "containers"), *words]
        with tempfile.TemporaryFile() as out:  # not a pipe: a container that was created holds it open
            done = subprocess.run(
                command,
                stdin=subprocess.DEVNULL,
                stdout=out,
                stderr=out,
                timeout=seconds,
                check=False,
                env={**os.environ, "JOEY_POLICY": "permissive"},
            )
            out.seek(0)
            text = out.read().decode("utf-8", "replace")
        lines = [line for line in text.splitlines() if "joey: warning" not in line]
        return done.returncode, "\n".join(lines)

    def bundle(self, script: str, change: Callable[[dict[str, Any]], None] | None = None) -> str:
        self.count += 1
        folder = self.folder / f"bundle{self.count}"
        shutil.copytree(self.root, folder / "rootfs", symlinks=True)
        status, said = self.joey("spec", "-b", str(folder))
        expect((status, said), (0, ""))
        config = json.loads((folder / "config.json").read_text())
        config["process"].update({"terminal": False, "args": ["sh", "-c", script]})
        config["process"]["noNewPrivileges"] = True
        config["root"]["readonly"] = False
        linux = config["linux"]
        linux["resources"] = {**linux.get("resources", {}), "memory": {"limit": 64 << 20}, "pids": {"limit": 64}}
        linux["seccomp"] = {
            "defaultAction": "SCMP_ACT_ALLOW",
            "architectures": ["SCMP_ARCH_X86_64"],
            "syscalls": [{"names": ["mkdir", "mkdirat"], "action": "SCMP_ACT_ERRNO", "errnoRet": 1}],
        }
        linux["namespaces"] = [entry for entry in linux["namespaces"] if entry["type"] not in self.left_out]
        if "network" in self.left_out:
            config["mounts"] = [mount for mount in config["mounts"] if mount["type"] != "sysfs"]
        if change:
            change(config)
        (folder / "config.json").write_text(json.dumps(config))
        return str(folder)

    def run(self, script: str, change: Callable[[dict[str, Any]], None] | None = None, *words: str) -> tuple[int, str]:
        name = f"suite{self.count}"
        try:
            return self.joey("run", "-b", self.bundle(script, change), *words, name)
        finally:
            self.joey("delete", "--force", name)

    def plan(self) -> dict[str, Any]:
        """The plan of the whole bundle; what it refuses is left out of those that follow."""
        _, text = self.joey("plan", "-b", self.bundle("true", with_users), "--json", "--policy", "permissive")
        made: dict[str, Any] = json.loads(text)
        for choice in made["features"]:
            if not choice["mechanism"] and choice["feature"] in NAMESPACES:
                self.left_out.add(NAMESPACES[choice["feature"]])
        return made


def with_users(config: dict[str, Any]) -> None:
    config["linux"]["namespaces"].append({"type": "user"})
    one = [{"containerID": 0, "hostID": 100000, "size": 65536}]
    config["linux"]["uidMappings"] = config["linux"]["gidMappings"] = one


@case()
def a_program_runs_and_its_status_comes_back(suite: Suite) -> None:
    expect(suite.run("echo hello; exit 7"), (7, "hello"))


@case("pidns")
def it_is_process_1(suite: Suite) -> None:
    expect(suite.run("echo $$"), (0, "1"))


@case("utsns")
def a_host_name_of_its_own(suite: Suite) -> None:
    expect(suite.run("hostname", lambda config: config.update(hostname="inside")), (0, "inside"))
    if "inside" in os.uname().nodename:
        raise Failed("the host was renamed")


@case("netns")
def a_network_of_its_own(suite: Suite) -> None:
    status, said = suite.run("tail -n +3 /proc/net/dev")
    links = {line.partition(":")[0].strip() for line in said.splitlines()}
    if status or "lo" not in links or links - EVERYWHERE - {"lo"}:
        raise Failed(f"status {status}: {said}")


@case()
def a_root_that_is_read_only(suite: Suite) -> None:
    status, said = suite.run("touch /file", lambda config: config["root"].update(readonly=True))
    if status == 0 or "Read-only" not in said:
        raise Failed(f"status {status}: {said}")


@case()
def a_masked_path(suite: Suite) -> None:
    files = "kcore keys timer_list sched_debug latency_stats"
    script = f"for file in {files}; do [ ! -e /proc/$file ] || head -c 10 /proc/$file; done; echo end"
    expect(suite.run(script), (0, "end"))


@case("cgroup.memory")
def a_memory_limit(suite: Suite) -> None:
    status, said = suite.run(
        "tail /dev/zero; echo unlimited", lambda c: c["linux"]["resources"].update(memory={"limit": 16 << 20})
    )
    if "unlimited" in said and "Killed" not in said:
        raise Failed(f"status {status}: {said}")


@case("cgroup.pids")
def a_process_limit(suite: Suite) -> None:
    script = "for i in $(seq 40); do sleep 3 & done 2>/dev/null; ls /proc | head -n 1000 | cat >/dev/null; echo end"
    status, said = suite.run(script, lambda c: c["linux"]["resources"].update(pids={"limit": 10}))
    if status == 0 and said.endswith("end") and "fork" not in said:
        raise Failed("forty processes under a limit of ten")


@case("seccomp")
def a_seccomp_profile(suite: Suite) -> None:
    status, said = suite.run("mkdir /tmp/x")
    if status == 0 or "not permitted" not in said:
        raise Failed(f"status {status}: {said}")


@case("userns")
def root_inside_is_nobody_outside(suite: Suite) -> None:
    folder = suite.bundle("id -u; touch /tmp/made; cat /proc/self/status | head -n 1000 >/dev/null", with_users)
    for path in [Path(folder, "rootfs"), *Path(folder, "rootfs").rglob("*")]:
        os.chown(path, 100000, 100000, follow_symlinks=False)
    name = f"users{suite.count}"
    try:
        expect(suite.joey("run", "-b", folder, name), (0, "0"))
        expect(os.stat(f"{folder}/rootfs/tmp/made").st_uid, 100000)
    finally:
        suite.joey("delete", "--force", name)


@case("enter")
def a_life(suite: Suite) -> None:
    """Create, start, exec, pause, resume, kill, delete."""
    name = f"life{suite.count}"
    folder = suite.bundle("trap 'exit 3' TERM; while :; do sleep 0.1; done")
    try:
        expect(suite.joey("create", "-b", folder, name), (0, ""))
        expect(suite.joey("start", name), (0, ""))
        expect(suite.joey("exec", name, "sh", "-c", "echo entered; exit 5"), (5, "entered"))
        expect(suite.joey("pause", name), (0, ""))
        expect(json.loads(suite.joey("state", name)[1])["status"], "paused")
        expect(suite.joey("resume", name), (0, ""))
        expect(suite.joey("kill", name, "TERM"), (0, ""))
        deadline = time.monotonic() + 60
        while json.loads(suite.joey("state", name)[1])["status"] != "stopped":
            if time.monotonic() > deadline:
                raise Failed("it does not end")
            time.sleep(0.2)
        expect(suite.joey("delete", name), (0, ""))
    finally:
        suite.joey("delete", "--force", name)


@case("netns")
def a_bridge(suite: Suite) -> None:
    """An address, and the host answers."""
    status, said = suite.run("ip -4 -o addr show eth0; ping -c 1 -W 5 10.71.0.1 >/dev/null && echo answered", with_raw,
                             "--network", "bridge,nat=off")  # fmt: skip
    if status or "10.71.0." not in said or "answered" not in said:
        raise Failed(f"status {status}: {said}")


def with_raw(config: dict[str, Any]) -> None:
    for kind in ("bounding", "effective", "permitted"):
        config["process"]["capabilities"][kind].append("CAP_NET_RAW")


@case()
def nothing_is_left(suite: Suite) -> None:
    mounts = [line for line in Path("/proc/self/mounts").read_text().splitlines() if str(suite.folder) in line]
    if mounts:
        raise Failed(f"mounts: {mounts}")
    expect(os.listdir(suite.folder / "containers"), [])


def main() -> int:
    parent = sys.argv[1] if len(sys.argv) > 1 else None
    failed = 0
    with tempfile.TemporaryDirectory(prefix="joey-suite-", dir=parent) as name:
        os.chmod(name, 0o755)
        suite = Suite(Path(name))
        say({"report": json.loads(suite.joey("probe", "--json", seconds=300)[1])})
        made = suite.plan()
        say({"plan": made})
        refused = {choice["feature"] for choice in made["features"] if not choice["mechanism"]}
        for title, (needs, function) in TESTS.items():
            begun = time.monotonic()
            result, said = "passed", ""
            if needs in refused:
                result, said = "refused", f"{needs} is refused by the plan"
            else:
                try:
                    function(suite)
                except (Failed, OSError, ValueError, LookupError, subprocess.SubprocessError) as error:
                    result, said = "failed", str(error)[:1000]
                    failed = 1
            say({"test": title, "result": result, "said": said, "seconds": round(time.monotonic() - begun, 1)})
    return failed


def say(value: dict[str, Any]) -> None:
    print(json.dumps(value), flush=True)


if __name__ == "__main__":
    sys.exit(main())
