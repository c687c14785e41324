"""Recipes: every mistake has its line, what a recipe says happens, and what joey writes joey reads."""

from __future__ import annotations

import json
import os
import re
import subprocess
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from joey.migrate.recipe import text as recipes
from joey.migrate.recipe.model import Exclude, Recipe
from joey.migrate.recipe.rules import NAMES, RULES, Filter, Rule, pattern

from ..conftest import Joey


@pytest.mark.parametrize(
    ("body", "line", "word"),
    [
        ("", 1, "is empty"),
        ("image: {}", 1, "the first line of a recipe is"),
        ("joey-recipe: 2", 1, "of version '2'"),
        ("joey-recipe: 1\nimages: {}", 2, "has no key 'images'"),
        ("joey-recipe: 1\nimage:\n  nam: x", 3, "has no key 'nam'"),
        ("joey-recipe: 1\nimage:\n  name: x\n  name: y", 4, "there twice"),
        ("joey-recipe: 1\nimage: [1]", 2, "is a mapping"),
        ("joey-recipe: 1\nimage:\n  name: [x]", 3, "is a text"),
        ("joey-recipe: 1\nimage:\n  name: ' x'", 3, "not a name of an image"),
        ("joey-recipe: 1\nimage:\n  entrypoint: /sbin/init", 3, "is a list"),
        ("joey-recipe: 1\nimage:\n  environment: [A=1, B]", 3, "is not NAME=VALUE"),
        ("joey-recipe: 1\nimage:\n  ports:\n    - 80\n    - 70000", 5, "is not a port"),
        ("joey-recipe: 1\nimage:\n  volumes: [data]", 3, "is not a path from the root"),
        ("joey-recipe: 1\nimage:\n  working-directory: srv", 3, "does not begin with a slash"),
        ("joey-recipe: 1\ndrop:\n  kernel: maybe", 3, "is yes or no"),
        ("joey-recipe: 1\ndrop:\n  kernels: yes", 3, "has no key 'kernels'"),
        ("joey-recipe: 1\nexclude:\n  - path: /x", 3, "has a path and a reason"),
        ("joey-recipe: 1\nexclude:\n  - path: /\n    reason: all", 3, "is not a path from the root"),
        ("joey-recipe: 1\nexclude:\n  - path: /../x\n    reason: all", 3, "is not a path from the root"),
        ("joey-recipe: 1\nkeep: [x]", 2, "is not a path from the root"),
        ("joey-recipe: 1\nlayers:\n  compression: lzma", 3, "no compression 'lzma'"),
        ("joey-recipe: 1\nlayers:\n  level: 9", 3, "gzip has no level 9"),
        ("joey-recipe: 1\nlayers:\n  sparse-limit: big", 3, "is a size"),
        ("joey-recipe: 1\nimage: {name: [}", 2, "expected the node content"),
        ("joey-recipe: 1\nkeep: &a [/x]\nexclude: *a", 3, "no aliases"),
        ('joey-recipe: 1\nimage:\n  user: "a\\0b"', 3, "zero byte"),
    ],
)
def test_a_mistake_is_told_with_its_line(body: str, line: int, word: str) -> None:
    with pytest.raises(recipes.RecipeError) as caught:
        recipes.parse(body, "my.yaml")
    assert word in caught.value.message
    assert re.match(rf"my\.yaml(:{line}:| is empty)", caught.value.message), caught.value.message


@settings(max_examples=200, deadline=None)
@given(data=st.text(max_size=300))
def test_no_text_crashes_the_reader(data: str) -> None:
    for body in (data, "joey-recipe: 1\nimage:\n  labels:\n    " + data):
        try:
            recipes.parse(body, "x")
        except recipes.RecipeError:
            pass


words = st.text(st.characters(exclude_characters="\0", exclude_categories=["Cs"]), max_size=50)


@settings(max_examples=200, deadline=None)
@given(
    entrypoint=st.lists(words, max_size=8),
    labels=st.dictionaries(words, words, max_size=3),
    user=words,
    drop=st.dictionaries(st.sampled_from(NAMES), st.booleans()),
    reason=words.filter(str.strip),
    variables=st.lists(words.map(lambda w: "A=" + w), max_size=3),
)
def test_what_is_written_is_read_as_the_same(entrypoint: list[str], labels: dict[str, str], user: str, drop: dict[str, bool],
                                             reason: str, variables: list[str]) -> None:  # fmt: skip
    recipe = Recipe()
    recipe.image.entrypoint, recipe.image.labels, recipe.image.user = entrypoint, labels, user
    recipe.image.environment = variables
    recipe.drop.update(drop)
    recipe.exclude = [Exclude("/srv/old", reason)]
    recipe.keep = ["/var/tmp/kept"]
    found = recipes.parse(recipes.write(recipe, {"title": reason}, {}), "x")
    found.exclude[0].line = 0
    assert found == recipe


@pytest.mark.parametrize(
    ("text", "yes", "no"),
    [
        ("a/*", ["a/b", "a/.x"], ["a", "a/b/c", "b"]),
        ("a/**", ["a/b", "a/b/c"], ["a", "ab"]),
        ("**/x", ["x", "a/x", "a/b/x"], ["ax", "x/a"]),
        ("a?c", ["abc"], ["ac", "a/c"]),
        ("log.[0-9]*", ["log.1", "log.10"], ["log.x"]),
        ("[!a]x", ["bx"], ["ax"]),
        ("a.b+(c)", ["a.b+(c)"], ["aXb+(c)"]),
    ],
)
def test_patterns(text: str, yes: list[str], no: list[str]) -> None:
    assert [word for word in (*yes, *no) if re.fullmatch(pattern(text), word)] == yes


def test_every_rule_has_a_reason_and_patterns_that_compile() -> None:
    for rule in RULES:
        assert rule.reason
        assert rule.reason[0].islower()
        assert Filter([rule], []).rule(b"no/such/path") is None
        assert rule.action in ("drop", "drop-files", "drop-regular", "empty-folder", "empty-file")


def test_keep_wins_over_a_rule() -> None:
    found = Filter([Rule("all", "drop", True, "why", ("var/cache",))], ["/var/cache/app/*.db"])
    assert found.rule(b"var/cache/app/x.db") is None
    assert found.rule(b"var/cache/app") is None, "the folders above it stay too"
    assert found.rule(b"var/cache/other")
    assert found.rule(b"var/cache/app/x.tmp")


def test_a_recipe_decides(tree: Path, joey: Joey, tmp_path: Path) -> None:
    recipe = tmp_path / "recipe.yaml"
    recipe.write_text(
        "joey-recipe: 1\nimage:\n  name: web1\n  command: [/bin/sh, -c, 'exit 3']\n  ports: [80, 53/udp]\n  volumes: [/data]\n"
        "  labels: {a.b: c}\n  created: '2020-01-02T03:04:05Z'\n"
        "drop:\n  kernel: no\n  fstab: no\nexclude:\n  - path: /home/user/nasty/*\n    reason: not needed\n"
        "keep: [/home/user/nasty/large]\nlayers:\n  compression: zstd\n  split: no\n"
    )
    report = json.loads(
        joey("migrate", str(tree), "--recipe", str(recipe), "--to", f"oci:{tmp_path}/image", "--json").stdout
    )
    assert [layer["name"] for layer in report["layers"]] == ["data"]
    assert {row["rule"]: row["reason"] for row in report["dropped"]}["exclude /home/user/nasty/*"] == "not needed"
    found = json.loads(joey("image", "inspect", f"{tmp_path}/image:web1", "--json").stdout)
    assert found["manifest"]["layers"][0]["mediaType"].endswith("tar+zstd")
    assert found["config"]["created"] == "2020-01-02T03:04:05Z"
    assert found["config"]["config"] == {
        "Cmd": ["/bin/sh", "-c", "exit 3"], "ExposedPorts": {"80/tcp": {}, "53/udp": {}}, "Volumes": {"/data": {}},
        "Labels": {"a.b": "c"},
    }  # fmt: skip
    joey("image", "unpack", f"{tmp_path}/image:web1", f"{tmp_path}/bundle")
    rootfs = tmp_path / "bundle/rootfs"
    assert [path.name for path in (rootfs / "home/user/nasty").iterdir()] == ["large"]
    assert (rootfs / "boot/vmlinuz-2.6.32").exists()
    assert (rootfs / "etc/fstab").read_text() != ""


def test_a_dropped_first_name_of_a_file(tree: Path, joey: Joey, tmp_path: Path) -> None:
    """Of three names the first does not move: the second is the file, the third its link."""
    recipe = tmp_path / "recipe.yaml"
    recipe.write_text("joey-recipe: 1\nexclude:\n  - {path: /home/user/nasty/first, reason: test}\n")
    joey("migrate", str(tree), "--recipe", str(recipe), "--to", f"oci:{tmp_path}/image")
    joey("image", "unpack", f"{tmp_path}/image", f"{tmp_path}/bundle")
    rootfs = tmp_path / "bundle/rootfs"
    assert not (rootfs / "home/user/nasty/first").exists()
    assert (rootfs / "opt/app/third").read_text() == "two names"
    assert (rootfs / "opt/app/third").samefile(rootfs / "home/user/nasty/second")
    joey("migrate", "verify", str(tree), "--recipe", str(recipe), f"{tmp_path}/image")


def test_a_huge_sparse_file_is_an_error_that_names_it(joey: Joey, tmp_path: Path) -> None:
    (tmp_path / "tree/usr").mkdir(parents=True)
    (tmp_path / "tree/etc").mkdir()
    with (tmp_path / "tree/usr/lastlog").open("wb") as file:
        file.truncate(1 << 40)
    done = joey("migrate", f"{tmp_path}/tree", "--to", f"oci:{tmp_path}/image", check=False)
    assert done.returncode == 1
    assert "/usr/lastlog has" in done.stderr
    assert "sparse-limit" in done.stderr
    assert not (tmp_path / "image/index.json").exists()
    assert list((tmp_path / "image/blobs/sha256").iterdir()) == []


def test_plan_does_not_write_over_a_recipe(tree: Path, joey: Joey, tmp_path: Path) -> None:
    (tmp_path / "r.yaml").write_text("mine")
    done = joey("migrate", "plan", str(tree), "-o", f"{tmp_path}/r.yaml", check=False)
    assert done.returncode == 1
    assert "--force" in done.stderr
    assert (tmp_path / "r.yaml").read_text() == "mine"
    joey("migrate", "plan", str(tree), "-o", f"{tmp_path}/r.yaml", "--force")
    assert "joey-recipe: 1" in (tmp_path / "r.yaml").read_text()


def test_names_that_would_be_whiteouts(joey: Joey, tmp_path: Path) -> None:
    """A file called .wh.x would take x out of the image: it does not move, and the report says so."""
    for name in ("usr/bin/x", "usr/bin/.wh.x", "usr/.wh.bin", "etc/.wh..wh..opq", "etc/passwd", "srv/.wh.d/below"):
        (tmp_path / "tree" / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / "tree" / name).write_text(name)
    os.link(tmp_path / "tree/etc/passwd", tmp_path / "tree/etc/.wh.first")
    report = json.loads(joey("migrate", f"{tmp_path}/tree", "--to", f"oci:{tmp_path}/image", "--json").stdout)
    assert {row["rule"]: row["entries"] for row in report["dropped"]}["whiteouts"] == 6
    assert sum("does not move" in line for line in report["warnings"]) == 6
    joey("image", "unpack", f"{tmp_path}/image", f"{tmp_path}/bundle")
    root = tmp_path / "bundle/rootfs"
    assert sorted(str(p.relative_to(root)) for p in root.rglob("*") if p.is_file()) == ["etc/passwd", "usr/bin/x"]


def test_what_is_kept_keeps_the_folders_above_as_they_are(joey: Joey, tmp_path: Path) -> None:
    (tmp_path / "tree/etc").mkdir(parents=True)
    (tmp_path / "tree/usr").mkdir()
    (tmp_path / "tree/srv/app").mkdir(parents=True, mode=0o700)
    (tmp_path / "tree/srv/app/secret").write_text("x")
    (tmp_path / "tree/srv/app/other").write_text("x")
    (tmp_path / "r.yaml").write_text(
        "joey-recipe: 1\nexclude: [{path: '/srv/*', reason: r}]\nkeep: ['/srv/*/secret']\n"
    )
    joey("migrate", f"{tmp_path}/tree", "--recipe", f"{tmp_path}/r.yaml", "--to", f"oci:{tmp_path}/image")
    joey("image", "unpack", f"{tmp_path}/image", f"{tmp_path}/bundle")
    place = tmp_path / "bundle/rootfs/srv/app"
    assert [path.name for path in place.iterdir()] == ["secret"]
    assert place.stat().st_mode & 0o777 == 0o700


def test_a_path_that_no_reader_takes(joey: Joey, tmp_path: Path) -> None:
    (tmp_path / "tree/etc").mkdir(parents=True)
    fd = os.open(tmp_path / "tree", os.O_RDONLY)
    (tmp_path / "tree/usr").mkdir()
    for _ in range(20):
        os.mkdir("d" * 250, dir_fd=fd)
        below = os.open("d" * 250, os.O_RDONLY, dir_fd=fd)
        os.close(fd)
        fd = below
    os.close(fd)
    done = joey("migrate", f"{tmp_path}/tree", "--to", f"oci:{tmp_path}/image", check=False)
    assert done.returncode == 1
    assert "has a path of" in done.stderr
    subprocess.run(["rm", "-rf", tmp_path / "tree"], check=True)
