"""One job on many hosts: so many at once, each within its own time; one that fails or hangs never stops the rest."""

from __future__ import annotations

import threading
import time
from concurrent.futures import ThreadPoolExecutor, as_completed
from dataclasses import dataclass
from typing import TYPE_CHECKING, Generic, TypeVar

from ...compat.errors import JoeyError
from .link import Link, LinkError, Way, libraries

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
    with ThreadPoolExecutor(max(1, min(parallel, len(hosts)))) as pool:
        futures = [pool.submit(_one, host, job, way) for host in hosts]
        try:
            for future in as_completed(futures):
                yield future.result()
        except BaseException:
            pool.shutdown(wait=False, cancel_futures=True)
            raise


def _one(host: Host, job: Callable[[Link], Value], way: Way) -> Outcome[Value]:
    started = time.monotonic()
    link = Link(host, way, started + host.timeout)
    watch = threading.Timer(host.timeout, link.close)  # whatever it waits for
    watch.daemon = True
    watch.start()
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
        watch.cancel()
    if error and time.monotonic() - started >= host.timeout:
        error = str(LinkError(f"not done within {host.timeout} s"))
        hint = "timeout: in the fleet's file, or --timeout"
    return Outcome(host, value, error, hint, link.notes, time.monotonic() - started)
