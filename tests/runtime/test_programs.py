"""Which way a bundle's programs get on a kernel too old for them, and what `joey check` says of an image."""

from __future__ import annotations

import json
import shutil
import subprocess
import tarfile
import tempfile
from io import BytesIO
from pathlib import Path
from typing import Any

import pytest

from joey.compat.shim.elffile import PT_GNU_EH_FRAME, ElfFile

from ..conftest import REPORTS, Joey, MakeBundle

LOADER = Path("/lib64/ld-linux-x86-64.so.2")
LIBRARY = Path("/lib/x86_64-linux-gnu/libc.so.6")
OLD = str(REPORTS / "centos6-2.6.32.json")

pytestmark = pytest.mark.skipif(not LIBRARY.exists(), reason="needs Debian's glibc for x86-64")


def add_glibc(root: Path, program: str = "/bin/true") -> None:
    """A real program with its real C library."""
    for source in (LOADER, LIBRARY, Path(program)):
        target = root / str(source).lstrip("/")
        target.parent.mkdir(parents=True, exist_ok=True)
        shutil.copy(source, target)


def choice(joey: Joey, path: Path, feature: str, *words: str) -> dict[str, Any]:
    plan = json.loads(joey("plan", "-b", str(path), "--report", OLD, "--json", *words, check=False).stdout)
    found: list[dict[str, Any]] = [row for row in plan["features"] if row["feature"] == feature]
    return found[0] if found else {}


@pytest.fixture
def debian(bundle: MakeBundle) -> Path:
    """A bundle whose program is of today's glibc."""
    path = bundle("/usr/bin/true")
    root = path / "rootfs"
    if root.is_symlink():
        root.unlink()
        root.mkdir()
    config = json.loads((path / "config.json").read_text())
    config["root"]["path"] = str(path / "debian")
    (path / "config.json").write_text(json.dumps(config))
    (path / "debian").mkdir()
    add_glibc(path / "debian", "/usr/bin/true")
    return path


def test_todays_glibc_is_rewritten_and_other_programs_need_nothing(
    joey: Joey, debian: Path, bundle: MakeBundle
) -> None:
    found = choice(joey, debian, "glibc")
    assert found["mechanism"] == "rewritten-libc"
    assert "in libc.so.6" in found["reason"]
    assert choice(joey, debian, "static-program") == {}
    assert choice(joey, bundle("true"), "glibc") == {}


def test_a_kernel_that_has_all_of_it_is_not_asked(joey: Joey, debian: Path) -> None:
    plan = json.loads(joey("plan", "-b", str(debian), "--json").stdout)
    assert "glibc" not in [row["feature"] for row in plan["features"]]


def test_a_c_library_of_another_shape_is_traced_and_the_reason_told(joey: Joey, debian: Path) -> None:
    path = debian / "debian" / str(LIBRARY).lstrip("/")
    data = bytearray(path.read_bytes())
    table = ElfFile(bytes(data), "libc").of_kind(PT_GNU_EH_FRAME)[0]
    data[table.offset] = 0xFF
    path.write_bytes(data)
    found = choice(joey, debian, "glibc")
    assert found["mechanism"] == "tracer"
    assert "no table of functions" in found["reason"]


def test_a_way_can_be_forced(joey: Joey, debian: Path) -> None:
    assert choice(joey, debian, "glibc", "--force", "glibc=tracer")["mechanism"] == "tracer"
    native = choice(joey, debian, "glibc", "--force", "glibc=native")
    assert native["mechanism"] == ""
    assert "fstatat.empty-path" in native["reason"]


def static_program(path: Path, text: bytes) -> None:
    """A static ELF file with a text in it, as glibc's start code has."""
    header = b"\x7fELF\x02\x01\x01" + bytes(9) + (2).to_bytes(2, "little") + (62).to_bytes(2, "little") + bytes(4)
    header += bytes(8) + (64).to_bytes(8, "little") + bytes(12) + b"\x40\0\x38\0\x01\0" + bytes(6)
    segment = (1).to_bytes(4, "little") + (5).to_bytes(4, "little") + bytes(48)
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(header + segment + text)
    path.chmod(0o755)


def test_a_static_program_that_refuses_the_kernel_is_traced(joey: Joey, debian: Path) -> None:
    static_program(debian / "debian/usr/bin/true", b"FATAL: kernel too old\n")
    assert choice(joey, debian, "static-program")["mechanism"] == "tracer"


def test_links_that_lead_out_or_round_are_not_followed(joey: Joey, debian: Path) -> None:
    loader = debian / "debian" / str(LOADER).lstrip("/")
    loader.unlink()
    loader.symlink_to("/../../../../../../lib64/round")
    (loader.parent / "round").symlink_to("round")
    assert choice(joey, debian, "glibc") == {}
    (loader.parent / "round").unlink()
    (loader.parent / "round").symlink_to("/etc/shadow")
    assert choice(joey, debian, "glibc") == {}


def check(joey: Joey, place: Path, *words: str) -> dict[str, Any]:
    done = joey("check", str(place), "--report", OLD, "--json", *words, check=False)
    value: dict[str, Any] = json.loads(done.stdout)
    return {**value, "status": done.returncode}


def test_check_of_a_folder(joey: Joey, debian: Path) -> None:
    found = check(joey, debian / "debian")
    host = found["hosts"][0]
    assert found["status"] == 0
    assert found["glibc"].startswith("2.")
    assert host["mechanisms"] == {"glibc": "rewritten-libc"}
    assert host["verdict"] == "runs with losses"
    assert [row["count"] for row in found["programs"]] == [2]  # the loader is a program too
    assert check(joey, debian)["hosts"] == found["hosts"]  # a bundle is its root file system


def layer(*entries: tuple[str, bytes | str | None]) -> bytes:
    """A layer: name and content, target of a link ("-> target"), or None for a folder."""
    out = BytesIO()
    with tarfile.open(fileobj=out, mode="w:gz") as tar:
        for name, content in entries:
            member = tarfile.TarInfo(name)
            if content is None:
                member.type = tarfile.DIRTYPE
            elif isinstance(content, str):
                member.type, member.linkname = tarfile.SYMTYPE, content.removeprefix("-> ")
            else:
                member.size, member.mode = len(content), 0o755
            tar.addfile(member, BytesIO(content) if isinstance(content, bytes) else None)
    return out.getvalue()


def layout(folder: Path, *layers: bytes) -> Path:
    """An OCI image layout."""
    from hashlib import sha256

    blobs = folder / "blobs" / "sha256"
    blobs.mkdir(parents=True)

    def put(data: bytes) -> dict[str, Any]:
        digest = sha256(data).hexdigest()
        (blobs / digest).write_bytes(data)
        return {"digest": f"sha256:{digest}", "size": len(data), "mediaType": "application/octet-stream"}

    manifest = {"schemaVersion": 2, "config": put(b'{"config": {}}'), "layers": [put(item) for item in layers]}
    (folder / "index.json").write_text(
        json.dumps({"schemaVersion": 2, "manifests": [put(json.dumps(manifest).encode())]})
    )
    (folder / "oci-layout").write_text('{"imageLayoutVersion": "1.0.0"}')
    return folder


def test_check_says_what_kernel_its_init_wants(joey: Joey, debian: Path) -> None:
    root = debian / "debian"
    (root / "lib/systemd").mkdir(parents=True)
    (root / "sbin").mkdir()
    for name in ("lib/systemd/systemd", "lib/systemd/libsystemd-shared-252.so"):
        shutil.copy("/usr/bin/true", root / name)
    (root / "sbin/init").symlink_to("/lib/systemd/systemd")
    assert "systemd 252 wants Linux 3.15, this is 2.6.32" in joey("check", str(root), "--report", OLD).stdout
    assert "wants Linux" not in joey("check", str(root), "--report", str(REPORTS / "linux-6.18.json")).stdout


def test_check_of_layers_with_whiteouts_and_links(joey: Joey, tmp_path: Path) -> None:
    first = layer(
        ("lib64", "-> usr/lib64"), ("usr/lib64/ld-linux-x86-64.so.2", LOADER.read_bytes()), ("usr/lib64/libc.so.6", LIBRARY.read_bytes()),
        ("bin/true", Path("/bin/true").read_bytes()), ("old/gone", Path("/bin/true").read_bytes()),
    )  # fmt: skip
    second = layer(("bin/.wh.true", b""), ("old/.wh..wh..opq", b""), ("bin/false", Path("/bin/false").read_bytes()))
    found = check(joey, layout(tmp_path / "image", first, second))
    assert found["glibc"].startswith("2.")
    assert found["hosts"][0]["mechanisms"] == {"glibc": "rewritten-libc"}
    names = json.dumps(found["programs"])
    assert "/bin/false" in names
    assert "/bin/true" not in names
    assert "gone" not in names


def test_check_refuses_another_machine(joey: Joey, tmp_path: Path) -> None:
    data = bytearray(Path("/bin/true").read_bytes())
    data[18:20] = (183).to_bytes(2, "little")
    (tmp_path / "root").mkdir()
    (tmp_path / "root" / "program").write_bytes(data)
    found = check(joey, tmp_path / "root")
    assert found["status"] == 1
    assert "its programs are for aarch64, the host is x86_64" in found["hosts"][0]["reasons"][0]


@pytest.mark.parametrize(
    ("content", "words"),
    [
        (b"", "is not an image that joey can read"),
        (b"\x1f\x8b\x08rubbish", "is not an image that joey can read"),
        (layer(("manifest.json", b"[]")), "is not an image that joey can read"),
        (
            layer(("manifest.json", b'[{"Config": "../../etc/passwd", "Layers": []}]')),
            "is not an image that joey can read",
        ),
        (layer(("index.json", b'{"manifests": [{"digest": "sha256:../../x"}]}')), "is not an image that joey can read"),
    ],
)
def test_check_of_what_is_no_image(joey: Joey, tmp_path: Path, content: bytes, words: str) -> None:
    (tmp_path / "image.tar").write_bytes(content)
    done = joey("check", str(tmp_path / "image.tar"), check=False)
    assert done.returncode == 1
    assert words in done.stderr
    assert "hint: a root file system, a bundle" in done.stderr


def test_check_of_nothing(joey: Joey, tmp_path: Path) -> None:
    done = joey("check", str(tmp_path / "none"), check=False)
    assert done.returncode == 1
    assert "there is no" in done.stderr


@pytest.mark.root
@pytest.mark.skipif(shutil.which("podman") is None, reason="needs podman (tools/test installs it)")
@pytest.mark.parametrize("form", ["docker-archive", "oci-archive"])
def test_check_of_what_podman_saves(joey: Joey, tmp_path: Path, form: str) -> None:
    add_glibc(tmp_path / "root")
    packed = subprocess.run(
        ["tar", "-C", str(tmp_path / "root"), "-cf", "-", "."], capture_output=True, check=True
    ).stdout
    image = tmp_path / "image.tar"
    with tempfile.TemporaryDirectory(prefix="jp-") as folder:  # podman's run root is to be a short path
        store = ["podman", "--root", f"{folder}/s", "--runroot", f"{folder}/r", "--storage-driver", "vfs"]
        subprocess.run([*store, "import", "-", "localhost/image"], input=packed, capture_output=True, check=True)
        subprocess.run(
            [*store, "save", "--format", form, "-o", image, "localhost/image"], capture_output=True, check=True
        )
    found = check(joey, image)
    assert found["hosts"][0]["mechanisms"] == {"glibc": "rewritten-libc"}
