"""One job on many hosts: so many at once, each within its own time; one that fails or hangs never stops the rest."""

from __future__ import annotations

import threading
import time
from concurrent.futures import ThreadPoolExecutor, as_completed
from dataclasses import dataclass
from typing import TYPE_CHECKING, Generic, TypeVar

from ...compat.errors import JoeyError
from .link import Link, Way, libraries

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from .hosts import Host

Value = TypeVar("Value")
PARALLEL = 20


@dataclass
class Outcome(Generic[Value]):
    """What became of one host. `value` is None where there is an `error`; `notes` are what the link met."""

    host: Host
    value: Value | None
    error: str
    hint: str
    notes: list[str]
    seconds: float


def each(
    hosts: list[Host], job: Callable[[Link], Value], way: Way, parallel: int = PARALLEL
) -> Iterator[Outcome[Value]]:
    """Do `job` on every host; the outcomes as they come. A job raises JoeyError for what goes wrong."""
    libraries()
    open_links: set[Link] = set()
    with ThreadPoolExecutor(max(1, min(parallel, len(hosts)))) as pool:
        futures = [pool.submit(_one, host, job, way, open_links) for host in hosts]
        try:
            for future in as_completed(futures):
                yield future.result()
        except BaseException:
            pool.shutdown(wait=False, cancel_futures=True)
            for link in list(open_links):
                link.close()  # whatever is waited for there
            raise


def _one(host: Host, job: Callable[[Link], Value], way: Way, open_links: set[Link]) -> Outcome[Value]:
    started = time.monotonic()
    link = Link(host, way, started + host.timeout)
    open_links.add(link)
    over = threading.Event()
    threading.Thread(target=_watch, args=(link, over), daemon=True).start()
    value: Value | None = None
    error = hint = ""
    try:
        with link:
            value = job(link)
    except JoeyError as problem:
        error, hint = str(problem), problem.hint
    except Exception as problem:
        error, hint = f"{type(problem).__name__}: {problem}", "a fault of joey's, not yours"
    finally:
        over.set()
        open_links.discard(link)
    if error and link.is_late:
        late = f"not done within {host.timeout} s"
        error = error if late in error else f"{late}: {error}"
        hint = "timeout: in the fleet's file, or --timeout"
    return Outcome(host, value, error, hint, link.notes, time.monotonic() - started)


def _watch(link: Link, over: threading.Event) -> None:
    """Close a connection whose time is over, whatever it waits for; it may be given more meanwhile."""
    while not over.wait(max(0.05, link.seconds)):
        if link.is_late:
            link.close()
            return
