"""Unpacking hostile and odd layers: what a layer may do inside its root, and that it reaches nothing outside."""

from __future__ import annotations

import gzip
import hashlib
import json
import lzma
import os
import signal
import stat
import subprocess
import time
from pathlib import Path
from typing import Any

import pytest

from ..conftest import Joey
from .guests import run
from .test_layers import archive


def image(folder: Path, *layers: bytes, config: dict[str, Any] | None = None, wrong: str = "") -> Path:
    """An OCI layout with one image of these tar streams, written by hand. `wrong` breaks a part of it."""
    layout = folder / "layout"
    blobs = layout / "blobs/sha256"
    blobs.mkdir(parents=True)
    (layout / "oci-layout").write_text('{"imageLayoutVersion":"1.0.0"}')

    def put(data: bytes) -> tuple[str, int]:
        name = hashlib.sha256(data).hexdigest()
        (blobs / name).write_bytes(data)
        return f"sha256:{name}", len(data)

    descriptors, diff_ids = [], []
    for data in layers:
        packed = gzip.compress(data, mtime=0)
        digest, size = put(packed)
        if wrong == "blob":
            (blobs / digest[7:]).write_bytes(packed[:-1] + b"!")
        diff_ids.append("sha256:" + hashlib.sha256(data + (b"x" if wrong == "diff_id" else b"")).hexdigest())
        media = "application/vnd.oci.image.layer.v1.tar+gzip"
        descriptors.append({"mediaType": media, "digest": digest, "size": size + (wrong == "size")})
    whole = {
        "os": "linux",
        "architecture": "amd64",
        "config": config or {},
        "rootfs": {"type": "layers", "diff_ids": diff_ids},
    }
    if wrong == "count":
        diff_ids.append("sha256:" + "0" * 64)
    digest, size = put(json.dumps(whole).encode())
    manifest = {"schemaVersion": 2, "config": {"digest": digest, "size": size}, "layers": descriptors}
    digest, size = put(json.dumps(manifest).encode())
    if wrong == "traversal":
        digest = "sha256:../../../../etc/passwd"
    index = {
        "schemaVersion": 2,
        "manifests": [{"mediaType": "application/vnd.oci.image.manifest.v1+json", "digest": digest, "size": size}],
    }
    (layout / "index.json").write_text(json.dumps(index))
    return layout


@pytest.fixture(params=["openat2", "walk"])
def unpack(request: pytest.FixtureRequest, joey: Joey, tmp_path: Path) -> Any:
    """Unpack layers by one way of keeping paths inside; the root file system, or what joey said where it refused."""

    def call(*layers: bytes, refused: bool = False, **more: Any) -> Any:
        layout = image(tmp_path, *layers, **more)
        done = joey("image", "unpack", f"oci:{layout}", str(tmp_path / "bundle"), "--paths", request.param, check=False)
        assert (done.returncode != 0) == refused, done.stderr
        assert "Traceback" not in done.stderr
        return done.stderr if refused else tmp_path / "bundle/rootfs"

    return call


def test_a_link_out_of_the_root_leads_nowhere(unpack: Any, tmp_path: Path) -> None:
    outside = tmp_path / "outside"
    outside.mkdir()
    (outside / "victim").write_text("safe")
    up = "../" * 20
    root = unpack(
        archive(("a", "link", str(outside)), ("b", "link", f"{up}{outside}"), ("c", "link", "/")),
        archive(("a/new", "file", "x"), ("b/victim", "file", "overwritten"), ("c/d/e", "file", "y")),
    )
    assert (outside / "victim").read_text() == "safe"
    assert sorted(path.name for path in outside.iterdir()) == ["victim"]
    assert (root / "d/e").read_text() == "y", "a link to / is the root of the image"


@pytest.mark.parametrize("name", ["victim", "a/victim"])
def test_a_file_replaces_a_link_instead_of_following_it(name: str, unpack: Any, tmp_path: Path) -> None:
    (tmp_path / "victim").write_text("safe")
    root = unpack(archive(("a", "dir", ""), (name, "link", str(tmp_path / "victim"))), archive((name, "file", "mine")))
    assert (tmp_path / "victim").read_text() == "safe"
    assert (root / name).read_text() == "mine"
    assert not (root / name).is_symlink()


def test_a_hard_link_to_a_file_outside(unpack: Any, tmp_path: Path) -> None:
    (tmp_path / "victim").write_text("safe")
    text = unpack(archive(("l", "link", str(tmp_path)), ("mine", "hard", "l/victim")), refused=True)
    assert "is a link to /l/victim, which is not there" in text
    assert os.stat(tmp_path / "victim").st_nlink == 1


def test_a_hard_link_does_not_follow_a_link_at_its_end(unpack: Any, tmp_path: Path) -> None:
    (tmp_path / "victim").write_text("safe")
    root = unpack(
        archive(("l", "link", str(tmp_path / "victim")), ("mine", "hard", "l")), archive(("mine", "file", "x"))
    )
    assert (tmp_path / "victim").read_text() == "safe"
    assert (root / "mine").read_text() == "x"
    assert (root / "l").is_symlink()


def test_whiteouts(unpack: Any) -> None:
    root = unpack(
        archive(("d/a", "file", "1"), ("d/b", "file", "1"), ("e/x/y", "file", "1"), ("f", "file", "1"), ("g/h", "file", "1")),
        archive(("d/.wh.a", "file", ""), ("e/.wh.x", "file", ""), (".wh.f", "file", ""), ("g/new", "file", "2"),
                ("g/.wh..wh..opq", "file", ""), ("d/.wh.nothing", "file", "")),
    )  # fmt: skip
    found = sorted(str(path.relative_to(root)) for path in root.rglob("*"))
    assert found == ["d", "d/b", "e", "g", "g/new"]


def test_what_aufs_kept_for_itself_is_passed_over(unpack: Any) -> None:
    root = unpack(archive((".wh..wh.plnk", "dir", ""), (".wh..wh.aufs", "file", ""), ("a", "file", "")))
    assert [path.name for path in root.iterdir()] == ["a"]


@pytest.mark.parametrize("name", [".wh...", ".wh..", ".wh.", "a/.wh..."])
def test_whiteouts_of_what_is_no_name(name: str, unpack: Any, tmp_path: Path) -> None:
    (tmp_path / "keep").write_text("x")
    assert "whiteout" in unpack(archive(("a", "dir", ""), (name, "file", "")), refused=True)
    assert (tmp_path / "keep").exists()


def test_a_folder_takes_the_place_of_a_link_and_back(unpack: Any) -> None:
    """The descriptor of what a name was must not serve for what it is."""
    root = unpack(
        archive(("a", "dir", ""), ("b", "link", "a"), ("b/one", "file", "1"), ("b", "dir", ""), ("b/two", "file", "2"),
                ("a/x", "dir", ""), ("a/x/y", "file", "3"), ("a/x", "link", "../b"), ("a/x/z", "file", "4")),
    )  # fmt: skip
    assert (root / "a/one").read_text() == "1"
    assert (root / "b/two").read_text() == "2"
    assert (root / "b/z").read_text() == "4"
    assert (root / "a/x").is_symlink()


def test_times_and_modes_of_folders_are_those_of_the_topmost_layer(unpack: Any, tmp_path: Path) -> None:
    tree = tmp_path / "tree"
    (tree / "d/below").mkdir(parents=True)
    os.utime(tree / "d/below", ns=(0, 1_111_111_111_222_222_222))
    os.utime(tree / "d", ns=(0, 1_000_000_000_000_000_001))
    (tree / "d").chmod(0o500)
    run("tar", "-C", tree, "--format=posix", "-cf", tmp_path / "one.tar", "d")
    root = unpack((tmp_path / "one.tar").read_bytes(), archive(("d/below/file", "file", "x")))
    assert os.stat(root / "d").st_mtime_ns == 1_000_000_000_000_000_001
    assert os.stat(root / "d/below").st_mtime_ns == 1_111_111_111_222_222_222
    assert stat.S_IMODE(os.stat(root / "d").st_mode) == 0o500


@pytest.mark.parametrize(
    ("wrong", "word"),
    [
        ("blob", "does not have that digest"),
        ("size", "bytes, not"),
        ("diff_id", "is not that of diff_id"),
        ("count", "same number of layers"),
        ("traversal", "is not a sha256 digest"),
    ],
)
def test_a_layer_that_is_not_what_it_says(wrong: str, word: str, unpack: Any, tmp_path: Path) -> None:
    assert word in unpack(archive(("a", "file", "x")), wrong=wrong, refused=True)
    assert not (tmp_path / "bundle/config.json").exists()


def test_bombs(joey: Joey, tmp_path: Path) -> None:
    layout = image(tmp_path, archive(*((f"f{i}", "file", bytes(1 << 20)) for i in range(30))))
    assert (sum(path.stat().st_size for path in (layout / "blobs/sha256").iterdir())) < 1 << 20
    done = joey("image", "unpack", str(layout), str(tmp_path / "bundle"), "--max-size", "8M", check=False)
    assert done.returncode == 1
    assert f"more than {8 << 20} bytes" in done.stderr
    done = joey("image", "unpack", str(layout), str(tmp_path / "bundle"), "--max-entries", "9", check=False)
    assert "more than 9 entries" in done.stderr
    joey("image", "unpack", str(layout), str(tmp_path / "bundle"))


def test_a_folder_that_is_in_use_is_left_alone(joey: Joey, tmp_path: Path) -> None:
    layout = image(tmp_path, archive(("a", "file", "x")))
    (tmp_path / "bundle").mkdir()
    (tmp_path / "bundle/mine").write_text("x")
    done = joey("image", "unpack", str(layout), str(tmp_path / "bundle"), check=False)
    assert done.returncode == 1
    assert "is there already and not empty" in done.stderr
    assert [path.name for path in (tmp_path / "bundle").iterdir()] == ["mine"]


@pytest.mark.root
def test_a_killed_run_goes_on(joey: Joey, tmp_path: Path) -> None:
    layers = [archive(*((f"d{n}/f{i}", "file", os.urandom(1 << 16)) for i in range(150))) for n in range(4)]
    layout = image(tmp_path, *layers, archive(("d0", "dir", ""), ("d0/.wh.f0", "file", "")))
    target = tmp_path / "bundle"
    kills = 0
    for turn in range(60):
        process = subprocess.Popen(joey.command("image", "unpack", str(layout), str(target)), stderr=subprocess.DEVNULL)
        time.sleep(0.12 * 1.1**turn)  # however slow the machine is, it gets there
        process.send_signal(signal.SIGKILL)
        if process.wait() == 0:
            break
        kills += target.exists()
    assert kills >= 1
    assert len(list((target / "rootfs").rglob("f*"))) == 599
    assert (target / "config.json").exists()
    assert sorted(path.name for path in target.iterdir()) == ["config.json", "rootfs"]
    assert os.stat(target / "rootfs/d0").st_mtime_ns == 0, "what an earlier run applied has its folders' times too"


@pytest.mark.root
def test_a_run_killed_amid_a_note_goes_on(joey: Joey, tmp_path: Path) -> None:
    """Of each file that is written beside its place and renamed, the file is there and its place is not."""
    layout = image(tmp_path, archive(("f", "file", b"1")))
    target = tmp_path / "bundle"
    target.mkdir()
    (target / ".joey-unpack.json.77.tmp").write_text('{"ima')
    (target / "config.json.77.tmp").write_text("{")
    done = joey("image", "unpack", str(layout), str(target), check=False)
    assert done.returncode == 1, "a config.json's half is not of a run that had noted nothing"
    (target / "config.json.77.tmp").unlink()
    joey("image", "unpack", str(layout), str(target))
    assert sorted(path.name for path in target.iterdir()) == ["config.json", "rootfs"]
    (target / "config.json").rename(target / "config.json.77.tmp")
    manifest = json.loads((layout / "index.json").read_text())["manifests"][0]["digest"]
    (target / ".joey-unpack.json").write_text(json.dumps({"image": manifest, "layers": 1}))
    joey("image", "unpack", str(layout), str(target))
    assert sorted(path.name for path in target.iterdir()) == ["config.json", "rootfs"]


@pytest.mark.root
def test_as_a_plain_user(tree: Path, joey: Joey, tmp_path: Path) -> None:
    """Owners are kept in an attribute, devices are empty files, and umoci packs the same owners again."""
    run("tar", "-C", tree, "--format=posix", "--exclude=./var/lib/sock", "-cf", tmp_path / "one.tar", ".")
    layout = image(tmp_path, (tmp_path / "one.tar").read_bytes())
    place = Path("/var/tmp") / f"joey-test-{os.getpid()}"
    place.mkdir()
    try:
        run("cp", "-r", layout, place / "layout")
        run("chown", "-R", "65534:65534", place)
        command = f"import sys; sys.path.insert(0, {str(Path(__file__).parents[2] / 'src')!r}); from joey.runtime.cli import main; sys.exit(main(sys.argv[1:]))"  # fmt: skip
        run("setpriv", "--reuid=65534", "--regid=65534", "--clear-groups", "/usr/bin/python3", "-c", command,
            "image", "unpack", place / "layout", place / "bundle")  # fmt: skip
        nasty = place / "bundle/rootfs/home/user/nasty"
        assert os.getxattr(nasty / "large", "user.rootlesscontainers") == b"\x08\xc0\x8d\xb7\x01\x10\x80\x92\xf4\x01"
        assert (nasty / "null").is_file()
        assert os.getxattr(nasty / "null", "user.joey.mode").endswith(b" 1:3")
        config = json.loads((place / "bundle" / "config.json").read_text())
        assert config["linux"]["uidMappings"] == [{"containerID": 0, "hostID": 65534, "size": 1}]
        assert (nasty / "large").read_bytes() == (tree / "home/user/nasty/large").read_bytes()
        assert stat.S_IMODE(os.stat(nasty / "mode").st_mode) == 0o4751
    finally:
        run("rm", "-rf", place)


def test_the_config_becomes_the_bundles(unpack: Any, tmp_path: Path) -> None:
    config = {
        "Entrypoint": ["/bin/start"], "Cmd": ["a b", "=c"], "Env": ["A=1=2"], "User": "web:files", "WorkingDir": "/srv",
        "StopSignal": "SIGUSR1", "ExposedPorts": {"80/tcp": {}}, "Labels": {"who": "me"},
    }  # fmt: skip
    unpack(
        archive(
            ("etc/passwd", "file", "web:x:33:44::/:/bin/sh\n"), ("etc/group", "file", "files:x:77:\nmore:x:88:web\n")
        ),
        config=config,
    )
    found = json.loads((tmp_path / "bundle/config.json").read_text())
    assert found["process"]["args"] == ["/bin/start", "a b", "=c"]
    assert found["process"]["env"][1:] == ["A=1=2"]
    assert found["process"]["env"][0].startswith("PATH=")
    assert found["process"]["user"] == {"uid": 33, "gid": 77}
    assert found["process"]["cwd"] == "/srv"
    assert found["annotations"]["org.opencontainers.image.stopSignal"] == "SIGUSR1"
    assert found["annotations"]["who"] == "me"


def test_a_user_that_the_image_does_not_know(unpack: Any) -> None:
    assert "whom its /etc/passwd does not know" in unpack(
        archive(("a", "file", "")), config={"User": "nobody"}, refused=True
    )


def test_a_folder_by_two_names(unpack: Any) -> None:
    """lib is a link to usr/lib: what goes by one name is not there by the other."""
    root = unpack(
        archive(("usr/lib", "dir", ""), ("lib", "link", "usr/lib"), ("lib/x/a", "file", "1")),
        archive(("usr/lib/.wh.x", "file", ""), ("usr/lib/x", "dir", ""), ("lib/x/b", "file", "2")),
    )
    assert [path.name for path in (root / "usr/lib/x").iterdir()] == ["b"]


def test_what_whiteouts_do_not_do(unpack: Any) -> None:
    root = unpack(
        archive(("d/a", "file", "1")),
        archive(("d/new", "file", "2"), ("d/.wh.new", "file", ""), ("no/.wh.x", "file", ""), ("e/", "file", "")),
    )
    assert sorted(str(path.relative_to(root)) for path in root.rglob("*")) == ["d", "d/a", "d/new", "e"]
    assert (root / "e").is_dir()


def test_a_deep_tree_goes(unpack: Any) -> None:
    deep = "/".join("d" for _ in range(1500))
    root = unpack(archive((deep, "dir", "")), archive((".wh.d", "file", "")))
    assert list(root.iterdir()) == []


@pytest.mark.parametrize(
    "change",
    [
        lambda index, manifest: index.update(manifests=[1]),
        lambda index, manifest: index.update(manifests=5),
        lambda index, manifest: index["manifests"][0].update(annotations="x"),
        lambda index, manifest: manifest["layers"][0].update(size="1"),
        lambda index, manifest: manifest.update(layers={}),
        lambda index, manifest: manifest.update(annotations="x"),
        lambda index, manifest: manifest.update(config=[]),
    ],
)
@pytest.mark.parametrize("words", [["ls"], ["inspect"], ["verify"], ["unpack"], ["diff"], ["migrate"]])
def test_json_of_other_shapes(change: Any, words: list[str], joey: Joey, tmp_path: Path) -> None:
    layout = image(tmp_path, archive(("a", "file", "x")))
    index = json.loads((layout / "index.json").read_text())
    place = layout / "blobs/sha256"
    manifest = json.loads((place / index["manifests"][0]["digest"][7:]).read_text())
    change(index, manifest)
    data = json.dumps(manifest).encode()
    if isinstance(index["manifests"], list) and isinstance(index["manifests"][0], dict):
        index["manifests"][0].update(digest="sha256:" + hashlib.sha256(data).hexdigest(), size=len(data))
    (place / hashlib.sha256(data).hexdigest()).write_bytes(data)
    (layout / "index.json").write_text(json.dumps(index))
    more = {"unpack": [str(tmp_path / "b")], "diff": [str(layout)]}.get(words[0], [])
    command = (
        ["migrate", f"oci:{layout}", "--to", f"oci:{tmp_path}/new"]
        if words == ["migrate"]
        else ["image", *words, str(layout), *more]
    )
    done = joey(*command, check=False)
    assert "Traceback" not in done.stderr
    assert "unexpected" not in done.stderr
    assert done.returncode == 1 or words == ["ls"]


def test_memory_bombs_are_refused(joey: Joey, tmp_path: Path) -> None:
    """Headers without an end, and a dictionary of xz of half a gigabyte: a process of 400 MiB reads them."""

    def block(size: int, kind: bytes) -> bytes:
        head = bytearray(512)
        head[:1] = b"x"
        head[124:136] = b"%011o\0" % size
        head[156:157] = kind
        head[257:265] = b"ustar\00000"
        head[148:156] = b" " * 8
        head[148:156] = b"%06o\0 " % sum(head)
        return bytes(head)

    size = 7 << 20
    many = b"".join(
        block(size, kind) + (b"%d k%d=" % (size, n)).ljust(size - 1, b"a") + b"\n" + bytes(-size % 512)
        for n, kind in enumerate((b"g", b"x") * 8)
    )
    layout = image(tmp_path / "pax", many + archive(("a", "file", "x")))
    bomb = lzma.compress(archive(("a", "file", "x")), filters=[{"id": lzma.FILTER_LZMA2, "dict_size": 512 << 20}])
    other = image(tmp_path / "xz", archive(("a", "file", "x")))
    manifest_path = (
        other / "blobs/sha256" / json.loads((other / "index.json").read_text())["manifests"][0]["digest"][7:]
    )
    manifest = json.loads(manifest_path.read_text())
    name = hashlib.sha256(bomb).hexdigest()
    (other / "blobs/sha256" / name).write_bytes(bomb)
    manifest["layers"][0].update(digest=f"sha256:{name}", size=len(bomb))
    data = json.dumps(manifest).encode()
    (other / "blobs/sha256" / hashlib.sha256(data).hexdigest()).write_bytes(data)
    (other / "index.json").write_text(
        json.dumps(
            {
                "schemaVersion": 2,
                "manifests": [{"digest": "sha256:" + hashlib.sha256(data).hexdigest(), "size": len(data)}],
            }
        )
    )
    for place in (layout, other):
        words = " ".join(joey.command("image", "verify", str(place)))
        done = subprocess.run(
            ["sh", "-c", f"ulimit -v {400 << 10}; exec {words}"], capture_output=True, text=True, check=False
        )
        assert done.returncode == 1
        assert "headers of" in done.stderr or "damaged" in done.stderr, done.stderr
