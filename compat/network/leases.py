"""Networks on disk: a folder each, with what it is (network.json) and a file for each address that somebody has.

A lease's file holds the state folder of its container. A lease whose container says no more that it has the address
is free: that is what a killed joey leaves.
"""

from __future__ import annotations

import fcntl
import ipaddress
import os
from contextlib import contextmanager

from .. import files, jsonio
from ..errors import JoeyError

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Iterator
    from typing import Any

FOLDER = "/run/joey/networks"
_RECORD = "network.json"


class Leases:
    """One network's folder. Methods are called with its lock held (`locked`)."""

    __slots__ = ("folder",)

    def __init__(self, name: str) -> None:
        self.folder = f"{FOLDER}/{name}"

    @contextmanager
    def locked(self) -> Iterator[None]:
        """Hold the network against every other joey."""
        files.make_private_directories(FOLDER)
        with open(f"{FOLDER}/.lock", "w") as lock:
            fcntl.flock(lock, fcntl.LOCK_EX)
            yield

    def record(self) -> dict[str, Any] | None:
        """What the network is, as `keep` got it; None where there is none. Raises JoeyError for a damaged one."""
        path = f"{self.folder}/{_RECORD}"
        try:
            value = jsonio.loads(files.read_text(path))
        except FileNotFoundError:
            return None
        except ValueError as error:
            raise JoeyError(f"{path} is damaged: {error}", f"remove {self.folder} and its bridge", "network") from None
        return dict(value)

    def keep(self, record: dict[str, Any]) -> None:
        files.make_private_directories(self.folder)
        files.write_atomically(f"{self.folder}/{_RECORD}", jsonio.dumps(record))

    def taken(self) -> set[str]:
        """The addresses that containers have; leases without their container are removed."""
        out = set()
        for name, holder in self._written():
            if _says(holder, name):
                out.add(name)
            else:
                self.release(name, holder)
        return out

    def holders(self) -> list[tuple[str, str]]:
        """Each address that a container has, and the state folder of that; the lock is not needed."""
        return [(name, holder) for name, holder in self._written() if _says(holder, name)]

    def _written(self) -> list[tuple[str, str]]:
        """Each lease's address and holder, whether that still has it or not."""
        out = []
        for name in sorted(os.listdir(self.folder)) if os.path.isdir(self.folder) else []:
            if name != _RECORD and not name.startswith("."):
                try:
                    out.append((name, files.read_line(f"{self.folder}/{name}")))
                except FileNotFoundError:
                    continue  # given back meanwhile
        return out

    def choose(
        self,
        subnet: ipaddress.IPv4Network,
        gateway: ipaddress.IPv4Address,
        last: str,
        prefer: ipaddress.IPv4Address | None = None,
    ) -> str:
        """A free address: the preferred one, or one after the last given. Raises JoeyError where none is left."""
        taken = self.taken() | {str(gateway), str(subnet.network_address), str(subnet.broadcast_address)}
        if prefer is not None and prefer in subnet and str(prefer) not in taken:
            return str(prefer)
        start = int(ipaddress.IPv4Address(last)) + 1 - int(subnet.network_address) if last else 1
        for step in range(min(subnet.num_addresses, len(taken) + 1)):
            address = str(subnet[(start + step) % subnet.num_addresses])
            if address not in taken:
                return address
        raise JoeyError(f"{subnet}: every address is taken", "take another subnet=", "network")

    def take(self, address: str, holder: str) -> None:
        """Lease an address to the container of a state folder, which says already that it has it."""
        files.write_atomically(f"{self.folder}/{address}", holder + "\n")

    def release(self, address: str, holder: str) -> None:
        """Give an address back, if it is the holder's."""
        path = f"{self.folder}/{address}"
        try:
            if files.read_line(path) == holder:
                os.unlink(path)
        except FileNotFoundError:
            return

    def forget(self) -> None:
        """Remove the network's folder."""
        try:
            for name in os.listdir(self.folder):
                os.unlink(f"{self.folder}/{name}")
            os.rmdir(self.folder)
        except FileNotFoundError:
            return


def _says(holder: str, address: str) -> bool:
    """Whether the state in a folder says that its container has an address."""
    try:
        networks = jsonio.loads(files.read_text(f"{holder}/state.json")).get("networks", [])
        return any(entry.get("address") == address for entry in networks)
    except (OSError, ValueError, AttributeError):
        return False
