"""The pages made from the code are up to date, and what pages name exists."""

from __future__ import annotations

import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from joey.compat import errors
from joey.probes.ladder import FEATURES

TOP = Path(__file__).parent.parent


@pytest.mark.parametrize("page", ["commands.md", "fallbacks.md", "three-kernels.md"])
def test_generated_pages_are_up_to_date(page: str, tmp_path: Path) -> None:
    subprocess.run([sys.executable, str(TOP / "tools" / "gen_docs"), str(tmp_path)], check=True)
    assert (tmp_path / page).read_text() == (TOP / "docs" / page).read_text(), "run tools/gen_docs"


def test_ladders_of_features_are_up_to_date(tmp_path: Path) -> None:
    subprocess.run([sys.executable, str(TOP / "tools" / "gen_docs"), str(tmp_path)], check=True)
    for path in (TOP / "docs" / "features").glob("*.md"):
        assert (tmp_path / "features" / path.name).read_text() == path.read_text(), "run tools/gen_docs"
        assert "| mechanism |" in path.read_text(), f"{path.name} has no ladder"


def test_every_feature_has_a_page() -> None:
    text = " ".join(path.read_text() for path in (TOP / "docs" / "features").glob("*.md"))
    told = set(" ".join(re.findall(r"<!-- ladder: ([^>]*) -->", text)).split())
    assert set(FEATURES) == told


@pytest.mark.parametrize(
    "page", sorted(TOP.glob("*.md")) + sorted((TOP / "docs").rglob("*.md")), ids=lambda page: page.name
)
def test_links_and_named_files_exist(page: Path) -> None:
    text = page.read_text()
    for target in re.findall(r"\]\(([^)#:]+)(?:#[^)]*)?\)", text):
        assert (page.parent / target).exists(), target
    for name in re.findall(r"`((?:compat|probes|runtime|tools|tests|docs)/[\w./-]+)`", text):
        assert (TOP / name).exists(), name


def test_the_manual_is_a_site(tmp_path: Path) -> None:
    """Built with warnings as errors: a page that nothing leads to, a link to no page or heading."""
    words = [sys.executable, "-m", "mkdocs", "build", "--strict", "--quiet", "--site-dir", str(tmp_path / "site")]
    done = subprocess.run(words, cwd=TOP, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout + done.stderr
    pages = {str(path.relative_to(TOP / "docs")) for path in (TOP / "docs").rglob("*.md")}
    named = set(re.findall(r"[\w/-]+\.md", (TOP / "mkdocs.yml").read_text()))
    assert pages == named, "every page has its place in mkdocs.yml"


def test_every_command_has_a_man_page(tmp_path: Path) -> None:
    subprocess.run([sys.executable, str(TOP / "tools/gen_man"), str(tmp_path)], check=True)
    assert "--isolation" in (tmp_path / "joey-rich-run.1").read_text().replace("\\-", "-")
    groff = shutil.which("groff")
    if not groff:
        pytest.skip("needs groff, to read them as man(1) does")
    paths = sorted(tmp_path.glob("*.1"))
    assert len(paths) > 60
    done = subprocess.run(
        [groff, "-ww", "-Wbreak", "-man", "-Tutf8", *paths], capture_output=True, text=True, check=True
    )
    assert done.stderr == ""


def test_every_error_slug_is_in_the_list_of_errors() -> None:
    page = (TOP / "docs" / "errors.md").read_text()
    slugs = {error.slug for error in vars(errors).values() if isinstance(error, type) and hasattr(error, "slug")}
    for path in [*(TOP / "compat").rglob("*.py"), *(TOP / "probes").rglob("*.py"), *(TOP / "runtime").rglob("*.py")]:
        slugs |= set(re.findall(r'slug="([a-z-]+)"', path.read_text()))
    assert not {slug for slug in slugs if f"`{slug}`" not in page}
