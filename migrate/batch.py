"""Many migrations by one list: each on its own, none stops the others, and a second run does what is not done yet.

What was done is in a journal beside the list, a line of JSON a machine: its image's digest, and what it was made of.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
import time
from concurrent.futures import Executor, Future, as_completed
from typing import TYPE_CHECKING, Any, NamedTuple

from ..compat.constants import PR_SET_PDEATHSIG
from ..compat.errors import JoeyError
from ..compat.files import write_atomically
from .image.layout import Layout
from .image.read import open_image
from .image.reference import TRANSPORTS, parse
from .yamltext import load_yaml

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

_LARGEST = 4 << 20
# it ends with whoever waits for it: another run of the list would meet it
_MIGRATE = (
    f"import sys; from joey.compat import libc; libc.prctl({PR_SET_PDEATHSIG}, 15);"
    "from joey.runtime.cli import main; sys.exit(main(sys.argv[1:]))"
)
_KEYS = ("name", "source", "to", "recipe", "options")


class Job(NamedTuple):
    """One machine: the words of its `joey migrate`. `key` changes with anything that would change its image."""

    name: str
    sources: tuple[str, ...]
    to: str
    recipe: str
    options: tuple[str, ...]

    def is_there(self) -> bool:
        """Whether what was made of it is where it was put; of a registry nobody is asked."""
        reference = parse(self.to, tuple(TRANSPORTS))
        try:
            if reference.transport == "oci":
                open_image(Layout(reference.place), reference.name)
        except JoeyError:
            return False
        return reference.transport == "docker" or os.path.lexists(reference.place)

    def words(self) -> list[str]:
        recipe = ["--recipe", self.recipe] if self.recipe else []
        return [*self.sources, "--to", self.to, *recipe, *self.options, "--json"]

    @property
    def key(self) -> str:
        """What the job was made of: its words, and size and time of the files it reads."""
        stamps = []
        for path in (*self.sources, self.recipe):
            try:
                status = os.stat(path)
                stamps.append(f"{status.st_size}:{status.st_mtime_ns}")
            except OSError:
                stamps.append("")
        return json.dumps([*self.words(), *stamps])


class Outcome(NamedTuple):
    """`error` is "" where it went well; then `report` is that of `joey migrate`."""

    job: Job
    report: dict[str, Any]
    error: str
    seconds: float


def read(path: str) -> list[Job]:
    """The jobs of a list. Raises JoeyError with the line."""
    yaml = load_yaml()
    with open(path, encoding="utf-8", errors="surrogateescape") as file:
        data = file.read(_LARGEST + 1)
    if len(data) > _LARGEST:
        raise JoeyError(f"{path}: a list of more than {_LARGEST >> 20} MiB", slug="batch")
    try:
        node = yaml.compose(data, Loader=yaml.SafeLoader)
        value = yaml.safe_load(data) if "&" not in data or not _has_alias(data) else None
    except (yaml.YAMLError, ValueError, RecursionError) as error:
        raise JoeyError(f"{path}: {error}".replace("\n", " "), slug="batch") from None
    if not isinstance(value, list) or not value:
        raise JoeyError(f"{path}: a list of machines, each with " + ", ".join(_KEYS[:3]), slug="batch")
    jobs = []
    assert isinstance(node, yaml.SequenceNode)
    for item, place in zip(value, node.value, strict=True):
        jobs.append(_job(item, f"{path}:{place.start_mark.line + 1}", os.path.dirname(path)))
    names = [job.name for job in jobs]
    if twice := next((name for name in names if names.count(name) > 1), ""):
        raise JoeyError(f"{path}: two machines are called {twice!r}", slug="batch")
    return jobs


def _has_alias(data: str) -> bool:
    yaml = load_yaml()
    return any(isinstance(event, yaml.AliasEvent) for event in yaml.parse(data, Loader=yaml.SafeLoader))


def _job(item: Any, where: str, folder: str) -> Job:
    if not isinstance(item, dict):
        raise JoeyError(f"{where}: a machine is a mapping of " + ", ".join(_KEYS), slug="batch")
    if unknown := [str(key) for key in item if key not in _KEYS]:
        raise JoeyError(f"{where}: a machine has no key {unknown[0]!r}", "keys: " + ", ".join(_KEYS), "batch")
    sources = item.get("source")
    sources = [sources] if isinstance(sources, str) else sources
    options = item.get("options", [])
    for key, words in (("source", sources), ("options", options)):
        if not isinstance(words, list) or not all(isinstance(word, str) and word for word in words):
            raise JoeyError(f"{where}: {key} is a text or a list of texts", slug="batch")
    texts = {key: item.get(key, "") for key in ("name", "to", "recipe")}
    if not all(isinstance(word, str) for word in texts.values()) or not texts["name"] or not texts["to"] or not sources:
        raise JoeyError(f"{where}: a machine has a name, a source and a to", slug="batch")
    assert isinstance(sources, list)
    recipe = os.path.join(folder, texts["recipe"]) if texts["recipe"] else ""
    to, places = _beside(folder, texts["to"]), tuple(_beside(folder, word) for word in sources)
    return Job(texts["name"], places, to, recipe, tuple(options))


def _beside(folder: str, word: str) -> str:
    """A path or an image of a list, which is beside that."""
    transport, colon, place = word.partition(":")
    if "://" in word:
        return word
    if colon and transport in TRANSPORTS:
        return f"{transport}:{os.path.join(folder, place)}"
    return os.path.join(folder, word)


def journal_of(path: str) -> str:
    return f"{path}.done"


def done_before(path: str) -> dict[str, tuple[str, dict[str, Any]]]:
    """name -> (key, report) of what the journal says is done."""
    found: dict[str, tuple[str, dict[str, Any]]] = {}
    try:
        with open(journal_of(path), encoding="utf-8") as file:
            for line in file:
                try:
                    value = json.loads(line)
                    found[value["name"]] = value["key"], value["report"]
                except (ValueError, LookupError, TypeError):
                    continue  # a line that a killed run did not finish
    except FileNotFoundError:
        pass
    return found


def note(path: str, outcome: Outcome) -> None:
    """Put a finished job into the journal."""
    known = done_before(path)
    known[outcome.job.name] = outcome.job.key, outcome.report
    lines = [json.dumps({"name": name, "key": key, "report": report}) for name, (key, report) in known.items()]
    write_atomically(journal_of(path), "\n".join(lines) + "\n", 0o644)


def run_one(words: list[str]) -> tuple[int, str, str]:
    """One migration in a process of its own, on whatever machine this runs: (status, output, errors)."""
    command = [sys.executable, "-c", _MIGRATE, "migrate", *words]
    done = subprocess.run(command, stdin=subprocess.DEVNULL, capture_output=True, text=True, check=False)
    return done.returncode, done.stdout, done.stderr


def run(jobs: list[Job], pool: Executor | Any, started: Callable[[Job], None]) -> Iterator[Outcome]:
    """Run jobs on a pool; each outcome as it comes."""
    begun = time.monotonic()
    futures: dict[Future[tuple[int, str, str]], Job] = {}
    for job in jobs:
        started(job)
        futures[pool.submit(run_one, job.words())] = job
    for future in _completed(futures):
        job = futures[future]
        seconds = time.monotonic() - begun
        try:
            status, out, err = future.result()
            report = json.loads(out) if not status else {}
            error = "" if not status else _reason(err, status)
        except Exception as problem:
            report, error = {}, f"{type(problem).__name__}: {problem}"
        yield Outcome(job, report, error, seconds)


def _completed(futures: dict[Any, Job]) -> Iterator[Any]:
    """As they are done; Dask's futures have a function of their own for that."""
    if all(isinstance(future, Future) for future in futures):
        return as_completed(futures)
    from distributed import as_completed as of_cluster

    return iter(of_cluster(list(futures)))  # type: ignore[no-untyped-call]


def _reason(text: str, status: int) -> str:
    lines = [line.removeprefix("joey: ") for line in text.splitlines() if line.startswith("joey: ")]
    return lines[-1] if lines else f"status {status}"


def saving(reports: list[dict[str, Any]]) -> tuple[int, int]:
    """(bytes of all layers, bytes of the different ones) of a set of images."""
    sizes = {}
    total = 0
    for report in reports:
        for layer in report.get("layers", []):
            total += layer["size"]
            sizes[layer["digest"]] = layer["size"]
    return total, sum(sizes.values())
