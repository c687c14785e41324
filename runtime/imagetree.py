"""The ELF files and links of a root file system: a folder, an OCI image layout, or an archive of an image.

Layers are read as streams and nothing is unpacked. All of it may be hostile: sizes are bounded, no path is used on the
host. Source: OCI image-spec (layout, layer: whiteouts), `docker save`.
"""

from __future__ import annotations

import io
import json
import os
import posixpath
import tarfile
from pathlib import Path
from typing import IO, Any

from ..compat.errors import JoeyError
from .imagefile import Facts, facts_of

LARGEST_FILE = 512 << 20
LARGEST_JSON = 8 << 20
MOST_ENTRIES = 5_000_000
MOST_LAYERS = 10_000  # files of an archive around its layers
_SKIPPED = ("proc", "sys", "dev")
_OCI_INDEX = "index.json"
_REF_NAME = "org.opencontainers.image.ref.name"  # image-spec, "Pre-Defined Annotation Keys"


class Tree:
    """`files` and `links` by path from the root, without a leading slash; `config` the image's, or {}."""

    def __init__(self, name: str) -> None:
        self.name = name
        self.files: dict[str, Facts] = {}
        self.links: dict[str, str] = {}
        self.config: dict[str, Any] = {}

    def add_file(self, path: str, size: int, read: Any) -> None:
        """A regular file of which `read()` gives the content; only ELF files are kept."""
        self.drop(path)
        if 64 <= size <= LARGEST_FILE and (found := facts_of(path, read)):
            self.files[path] = found

    def add_link(self, path: str, target: str) -> None:
        self.drop(path)
        self.links[path] = target

    def drop(self, path: str, below: bool = False) -> None:
        """Forget a path; `below`: and what is under it."""
        self.files.pop(path, None)
        self.links.pop(path, None)
        if below:
            prefix = path + "/" if path else ""
            for table in (self.files, self.links):
                for name in [name for name in table if name.startswith(prefix)]:
                    del table[name]

    def resolve(self, path: str) -> str:
        """Where a path leads, links followed inside the tree; "" where they go round."""
        todo = [part for part in reversed(path.split("/")) if part not in ("", ".")]
        at: list[str] = []
        links = 0
        while todo:
            part = todo.pop()
            if part == "..":
                at = at[:-1]
                continue
            target = self.links.get("/".join([*at, part]))
            if target is None:
                at.append(part)
                continue
            links += 1
            if links > 40:
                return ""
            if target.startswith("/"):
                at = []
            todo += [piece for piece in reversed(target.split("/")) if piece not in ("", ".")]
        return "/".join(at)

    def get(self, path: str) -> Facts | None:
        return self.files.get(self.resolve(path))


def read(place: str) -> Tree:
    """The tree at a path: a root file system, a bundle, an image layout or an archive; or `oci:DIR[:NAME]`.

    Raises JoeyError.
    """
    where, tag = _parts(place)
    path = Path(where)
    try:
        if (path / "oci-layout").is_file():
            return _image(place, _Folder(path), tag)
        if place.startswith("oci:") and path.exists():
            raise JoeyError(f"{where} is no OCI image layout", "it has no oci-layout; leave oci: out for other kinds")
        if path.is_dir():
            return _folder(place, _root_of(path))
        if path.is_file():
            return _image(place, _Archive(path), "")
    except OSError as error:
        raise JoeyError(f"can't read {place}: {error.strerror}") from None
    except (tarfile.TarError, EOFError, ValueError, LookupError, TypeError, AttributeError) as error:
        raise JoeyError(
            f"{place} is not an image that joey can read: {error}",
            "a root file system, a bundle, an OCI image layout, or an archive by `docker save` or `skopeo copy`",
        ) from None
    raise JoeyError(
        f"there is no {place}", "a folder or an archive; fetch an image with: skopeo copy docker://... oci:DIR"
    )


def _parts(place: str) -> tuple[str, str]:
    """Folder and name of `oci:DIR[:NAME]`; any other place as it is."""
    if not place.startswith("oci:"):
        return place, ""
    rest = place.removeprefix("oci:")
    folder, colon, tag = rest.rpartition(":")
    return (folder, tag) if colon and not os.path.exists(rest) else (rest, "")


def _root_of(folder: Path) -> Path:
    """The root file system of a bundle; any other folder is one itself."""
    config = folder / "config.json"
    if not config.is_file():
        return folder
    root = json.loads(config.read_bytes())["root"]["path"]
    return folder / str(root)


def _folder(name: str, root: Path) -> Tree:
    tree = Tree(name)
    top = str(root)
    for folder, folders, files in os.walk(top):
        inside = os.path.relpath(folder, top)
        inside = "" if inside == "." else inside
        if not inside:
            folders[:] = [entry for entry in folders if entry not in _SKIPPED]
        for entry in [*folders, *files]:
            path = os.path.join(folder, entry)
            short = posixpath.join(inside, entry)
            if os.path.islink(path):
                tree.add_link(short, os.readlink(path))
            elif entry in files and os.path.isfile(path):
                try:
                    size = os.lstat(path).st_size
                    tree.add_file(short, size, lambda path=path: open(path, "rb"))  # noqa: SIM115
                except OSError:
                    continue  # what can't be read, a container could not run either
    return tree


class _Folder:
    """An OCI image layout in a folder."""

    def __init__(self, top: Path) -> None:
        self.top = top

    def open(self, name: str) -> IO[bytes]:
        if ".." in name.split("/") or name.startswith("/"):
            raise ValueError(f"the name {name!r}")
        path = self.top / name
        if path.is_symlink() or not path.is_file():
            raise ValueError(f"{name} is no file")
        return open(path, "rb")

    def has(self, name: str) -> bool:
        return (self.top / name).is_file()


class _Archive:
    """The same, or what `docker save` writes, in a tar archive."""

    def __init__(self, path: Path) -> None:
        self.tar = tarfile.open(path)  # noqa: SIM115  (lives as long as this object)
        self.members: dict[str, tarfile.TarInfo] = {}
        for member in self.tar:
            if len(self.members) > MOST_LAYERS:
                raise ValueError(f"more than {MOST_LAYERS} entries")
            self.members[member.name.removeprefix("./")] = member

    def open(self, name: str) -> IO[bytes]:
        member = self.members[name]
        for _ in range(40):
            if not member.issym():
                break
            member = self.members[posixpath.normpath(posixpath.join(posixpath.dirname(member.name), member.linkname))]
        file = self.tar.extractfile(member)
        if file is None:
            raise ValueError(f"{name} is no file")
        return file

    def has(self, name: str) -> bool:
        return name in self.members


def _image(name: str, source: _Folder | _Archive, tag: str) -> Tree:
    tree = Tree(name)
    if source.has(_OCI_INDEX):
        manifest = _manifest(source, _named(name, _json(source, _OCI_INDEX), tag))
        layers = [_blob(entry["digest"]) for entry in manifest["layers"]]
        config = _json(source, _blob(manifest["config"]["digest"]))
    else:
        saved = _json(source, "manifest.json")[0]
        layers, config = saved["Layers"], _json(source, saved["Config"])
    tree.config = config.get("config") or {}
    for layer in layers:
        with source.open(layer) as file:
            _layer(tree, file, layer)
    return tree


def _named(place: str, index: Any, tag: str) -> Any:
    """An index with the entries of a name, where it has names. Raises JoeyError."""
    names: dict[str, list[Any]] = {}
    for entry in index["manifests"]:
        names.setdefault(str((entry.get("annotations") or {}).get(_REF_NAME, "")), []).append(entry)
    told = ", ".join(sorted(name for name in names if name)[:20]) or "without names"
    if not tag:
        if len(names) > 1:
            raise JoeyError(f"{place} has several images", f"oci:DIR:NAME; its images: {told}")
        return index
    if tag not in names:
        raise JoeyError(f"{place}: there is no image of that name", f"its images: {told}")
    return {"manifests": names[tag]}


def _manifest(source: _Folder | _Archive, index: Any) -> Any:
    """The image of an index: this machine's where there are several."""
    for _ in range(4):
        entries = index["manifests"]
        machine = {"x86_64": "amd64", "aarch64": "arm64"}.get(os.uname().machine, "")
        chosen = next((e for e in entries if (e.get("platform") or {}).get("architecture") == machine), entries[0])
        index = _json(source, _blob(chosen["digest"]))
        if "layers" in index:
            return index
    raise ValueError("indexes of indexes")


def _blob(digest: str) -> str:
    kind, _, value = digest.partition(":")
    if not (kind.isalnum() and value.isalnum()):
        raise ValueError(f"the digest {digest!r}")
    return f"blobs/{kind}/{value}"


def _json(source: _Folder | _Archive, name: str) -> Any:
    with source.open(name) as file:
        data = file.read(LARGEST_JSON + 1)
    if len(data) > LARGEST_JSON:
        raise ValueError(f"{name} has more than {LARGEST_JSON >> 20} MiB")
    return json.loads(data)


def _layer(tree: Tree, file: IO[bytes], name: str) -> None:
    head = file.read(4)
    file.seek(0)
    if head == b"\x28\xb5\x2f\xfd":
        raise JoeyError(
            f"{tree.name}: layer {name} is compressed by zstd", "convert it: skopeo copy --dest-compress-format gzip"
        )
    entries = 0
    with tarfile.open(fileobj=file, mode="r|*") as tar:
        for member in tar:
            entries += 1
            if entries > MOST_ENTRIES:
                raise ValueError(f"layer {name} has more than {MOST_ENTRIES} entries")
            path = posixpath.normpath("/" + member.name).lstrip("/")
            folder, last = posixpath.split(path)
            if last == ".wh..wh..opq":
                tree.drop(folder, below=True)
            elif last.startswith(".wh."):
                tree.drop(posixpath.join(folder, last[4:]), below=True)
            elif member.issym():
                tree.add_link(path, member.linkname)
            elif member.islnk():
                target = posixpath.normpath("/" + member.linkname).lstrip("/")
                tree.drop(path)
                if target in tree.files:
                    tree.files[path] = tree.files[target]
            elif member.isreg():
                content = tar.extractfile(member)
                tree.add_file(path, member.size, lambda content=content: content or io.BytesIO())
