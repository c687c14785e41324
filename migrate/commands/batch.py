"""`joey migrate batch`: many machines by one list."""

from __future__ import annotations

import sys
from concurrent.futures import ThreadPoolExecutor
from typing import TYPE_CHECKING, Any

from ...compat import jsonio
from ...compat.errors import JoeyError
from ...runtime.options import Arguments, Command, Option
from ...runtime.tables import Table, plain
from .. import batch
from ..sizes import shown_size

if TYPE_CHECKING:
    from contextlib import AbstractContextManager


def run(arguments: Arguments) -> int:
    path = arguments.words[0]
    jobs = batch.read(path)
    before = {} if arguments.switch("again") else batch.done_before(path)
    done = {
        job.name: before[job.name][1] for job in jobs if before.get(job.name, ("",))[0] == job.key and job.is_there()
    }
    todo = [job for job in jobs if job.name not in done]
    failed: dict[str, str] = {}
    with _pool(arguments) as pool:
        for outcome in batch.run(todo, pool, lambda job: None):
            name = outcome.job.name
            if outcome.error:
                failed[name] = outcome.error
                print(f"joey: {plain(name)} failed: {plain(outcome.error)}", file=sys.stderr, flush=True)
            else:
                done[name] = outcome.report
                batch.note(path, outcome)
                print(f"joey: {plain(name)} is done ({len(done)} of {len(jobs)})", file=sys.stderr, flush=True)
    total, different = batch.saving(list(done.values()))
    if arguments.switch("json"):
        rows = [{"name": job.name, "report": done.get(job.name), "error": failed.get(job.name, "")} for job in jobs]
        print(jsonio.dumps({"machines": rows, "layers": total, "different": different}))
    else:
        _show(jobs, done, failed)
        if total:
            saved = 100 - 100 * different // total
            print(
                f"layers: {shown_size(total)} in all, {shown_size(different)} of them different: {saved} % are shared"
            )
    return 1 if failed else 0


def _pool(arguments: Arguments) -> AbstractContextManager[Any]:
    address = arguments.text("scheduler")
    if not address:
        return ThreadPoolExecutor(max(1, arguments.number("parallel", 2)))
    try:
        from distributed import Client
    except ImportError:
        raise JoeyError("there is no dask.distributed here", "pip install 'joey[dask]'", "batch") from None
    try:
        client: AbstractContextManager[Any] = Client(address, timeout="20s")  # type: ignore[no-untyped-call]
    except (OSError, ValueError) as error:
        raise JoeyError(f"the scheduler {address} can't be reached: {error}", slug="batch") from None
    return client


def _show(jobs: list[batch.Job], done: dict[str, Any], failed: dict[str, str]) -> None:
    table = Table("", "machine", "outcome", "entries", "bytes", "to")
    for job in jobs:
        report = done.get(job.name)
        if report:
            table.add(job.name, "done", str(report["entries"]), shown_size(report["bytes"]), job.to)
        else:
            table.add(job.name, failed.get(job.name, "not run"), "", "", job.to)
    table.print()


COMMAND = Command(
    "migrate batch",
    "migrate many machines by one list; what fails stops nothing, a second run goes on",
    run,
    words="LIST.yaml",
    least=1,
    most=1,
    options=(
        Option("--parallel", "N", "how many at a time on this machine", default="2"),
        Option("--scheduler", "ADDRESS", "run them on a Dask cluster, whose workers see the same files"),
        Option("--again", "", "run also what the journal LIST.yaml.done says is done"),
        Option("--json", "", "print JSON"),
    ),
    detail=(
        "LIST.yaml is a list of machines, each with name, source (a text or a list), to, and where wanted recipe and\n"
        "options (a list of words for joey migrate). Paths are beside the list. A machine is done once: again only\n"
        "when its line, its recipe or the size or time of its disks changes. Exit status 1 where one failed.\n\n"
        '  - {name: web1, source: web1.qcow2, to: "oci:images:web1"}\n'
        '  - {name: db1, source: [root.vmdk, data.vmdk], to: "oci:images:db1", recipe: db.yaml}'
    ),
    examples=("joey migrate batch machines.yaml", "joey migrate batch machines.yaml --scheduler tcp://10.0.0.1:8786"),
)
