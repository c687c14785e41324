"""`joey rich supervise`: be the supervisor of a rich container (joey's own)."""

from __future__ import annotations

import os
import traceback

from ....compat import daemon
from ....runtime.options import Arguments, Command
from .. import supervisor
from .shared import STORE, container_of


def run(arguments: Arguments) -> int:
    container = container_of(arguments)

    def body() -> None:
        os.setsid()
        os.chdir("/")
        try:
            supervisor.run(container)
        except BaseException:
            traceback.print_exc()  # to supervisor.log
            raise

    daemon.start(body)
    return 0


COMMAND = Command(
    "rich supervise",
    "be the supervisor of a rich container (joey's own)",
    run,
    words="NAME",
    least=1,
    most=1,
    options=(STORE,),
)
