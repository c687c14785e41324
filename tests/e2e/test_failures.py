"""Starts that fail or are killed: named, undone, and cleaned up by `delete --force`."""

from __future__ import annotations

import os
import signal
import subprocess
import time
from pathlib import Path
from typing import Any

import pytest

from ..conftest import Joey, MakeBundle

pytestmark = pytest.mark.root


def add_mount(**mount: Any) -> Any:
    def change(config: dict[str, Any]) -> None:
        config["mounts"].append(mount)

    return change


BROKEN = [
    (add_mount(destination="/a/b", type="bind", source="/not/there", options=["bind"]), "mount bind /not/there on /a/b (bind): source /not/there: No such file"),
    (add_mount(destination="/a/b", type="nosuchfs", source="x"), "mount nosuchfs x on /a/b: mount"),
    (add_mount(destination="/a/b", type="tmpfs", source="x", options=["size=nonsense"]), "(size=nonsense)"),
    (add_mount(destination="/bin/busybox/x", type="tmpfs", source="x"), "mount tmpfs x on /bin/busybox/x"),
    (lambda config: config["process"].update(rlimits=[{"type": "RLIMIT_NOFILE", "soft": 1, "hard": 2**62}]), "RLIMIT_NOFILE"),
    (lambda config: config["linux"]["namespaces"].__setitem__(1, {"type": "network", "path": "/proc/self/ns/nothing"}), "/proc/self/ns/nothing"),
    (lambda config: config["linux"]["namespaces"].__setitem__(1, {"type": "network", "path": "/proc/self/ns/mnt"}), "setns: EINVAL"),
    (lambda config: config["linux"].update(devices=[{"type": "c", "path": "/bin/busybox", "major": 1, "minor": 3}]), "is something else"),
]  # fmt: skip


@pytest.mark.parametrize(("change", "message"), BROKEN, ids=range(len(BROKEN)))
def test_a_failing_step_names_itself_and_is_undone(change: Any, message: str, joey: Joey, bundle: MakeBundle) -> None:
    folder = bundle("true", change=change)
    before = sorted(str(path) for path in (folder / "rootfs").rglob("*"))
    done = joey("run", "-b", str(folder), joey.id(), check=False)
    assert done.returncode == 1
    assert message in done.stderr
    assert "Traceback" not in done.stderr
    assert not list(joey.root.iterdir())
    after = sorted(str(path) for path in (folder / "rootfs").rglob("*"))
    assert after == before  # the mount targets it made are gone again


def test_hostile_links_lead_no_mount_out(joey: Joey, bundle: MakeBundle, tmp_path: Path) -> None:
    outside = tmp_path / "outside"
    outside.mkdir()

    def change(config: dict[str, Any]) -> None:
        config["mounts"] += [
            {"destination": "/link/inside", "type": "tmpfs", "source": "t"},
            {"destination": "/up/inside", "type": "tmpfs", "source": "t"},
            {"destination": "/file", "source": "/etc/hostname", "options": ["bind"]},
        ]
        config["linux"]["devices"] = [{"type": "c", "path": "/link/null", "major": 1, "minor": 3}]

    folder = bundle("true", change=change)
    (folder / "rootfs" / "link").symlink_to(outside)
    (folder / "rootfs" / "up").symlink_to("../../../../../../../../" + str(outside))
    (folder / "rootfs" / "file").symlink_to(outside / "file")
    joey("run", "-b", str(folder), joey.id())
    assert not list(outside.iterdir())


@pytest.mark.parametrize("place", ["proc", "sys"])
def test_proc_and_sys_must_be_where_their_names_say(place: str, joey: Joey, bundle: MakeBundle) -> None:
    folder = bundle("true")
    (folder / "rootfs" / place).rmdir()
    (folder / "rootfs" / "elsewhere").mkdir()
    (folder / "rootfs" / place).symlink_to("elsewhere")
    done = joey("run", "-b", str(folder), joey.id(), check=False)
    assert (done.returncode, f"/{place} in the root file system leads over a link" in done.stderr) == (1, True)


def test_modules_never_come_from_the_container(joey: Joey, bundle: MakeBundle) -> None:
    """A root file system with a Python path of its own must not get its code into joey's process."""
    folder = bundle("true")
    for version in ("3.11", "3.12", "3.13"):
        for name in ("resource", "pwd", "linecache", "traceback", "joey/compat/terminal"):
            path = folder / "rootfs" / "usr" / "lib" / f"python{version}" / f"{name}.py"
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_text("import os; os.write(2, b'hostile')")
    done = joey("run", "-b", str(folder), joey.id())
    assert "hostile" not in done.stderr
    folder2 = bundle("nope")
    done = joey("run", "-b", str(folder2), joey.id(), check=False)
    assert "ModuleNotFound" not in done.stderr


SLOW_HOOK = {"path": "/bin/sh", "args": ["sh", "-c", "sleep 30"], "env": ["PATH=/bin:/usr/bin"]}


@pytest.mark.parametrize("delay", [0.02, 0.05, 0.08, 0.1, 0.12, 0.15, 0.2, 0.3])
@pytest.mark.parametrize("command", ["run", "create"])
def test_a_killed_joey_leaves_what_delete_force_cleans(
    command: str, delay: float, joey: Joey, bundle: MakeBundle
) -> None:
    """Kill -9 at many moments of a start; the fixture checks that no mount, cgroup or state is left."""
    name = joey.id()
    folder = bundle("sleep", "300")
    with subprocess.Popen(
        joey.command(command, "-b", str(folder), name), stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL
    ) as process:
        time.sleep(delay)
        process.kill()
    joey("delete", "--force", name)
    assert not processes_in(folder)


@pytest.mark.parametrize("kind", ["createRuntime", "createContainer", "startContainer", "poststart"])
def test_a_joey_killed_in_a_hook_leaves_what_delete_force_cleans(kind: str, joey: Joey, bundle: MakeBundle) -> None:
    def change(config: dict[str, Any]) -> None:
        config["hooks"] = {kind: [SLOW_HOOK]}

    name = joey.id()
    folder = bundle("sleep", "300", change=change)
    command = joey.command("run", "-b", str(folder), name)
    with subprocess.Popen(
        command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL, start_new_session=True
    ) as process:
        time.sleep(0.6)
        os.kill(process.pid, signal.SIGKILL)
    joey("delete", "--force", name)
    assert not processes_in(folder)


def processes_in(folder: Path) -> list[str]:
    """Processes whose root or mounts are those of a bundle."""
    found = []
    for name in os.listdir("/proc"):  # not glob, which fails over a process that ends meanwhile
        try:
            if name.isdigit() and str(folder) in Path(f"/proc/{name}/mountinfo").read_text():
                found.append(f"/proc/{name}")
        except OSError:
            continue
    return found


def test_half_a_state_folder_is_removed(joey: Joey) -> None:
    name = joey.id()
    (joey.root / name).mkdir(parents=True)
    joey("list")
    joey("delete", "--force", name)
    (joey.root / name).mkdir(parents=True)
    (joey.root / name / "state.json").write_text('{"half')
    joey("list")
    done = joey("delete", "--force", name, check=False)
    assert done.returncode == 0, done.stderr
    assert not (joey.root / name).exists()
