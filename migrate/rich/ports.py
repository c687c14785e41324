"""Ports of a rich container that are published on its host: rules of iptables or nft, which go with the container.

They lead what comes for an address of the host to the container's, from the host itself too, but not from 127.0.0.1:
packets of the loopback link don't leave it. CentOS 6's iptables 1.4.7 has all that is used here.
"""

from __future__ import annotations

import ipaddress
import json
import os
import subprocess
from typing import TYPE_CHECKING

from ...compat.errors import JoeyError
from ...compat.files import find_program, read_text, write_atomically
from ...compat.network import nat
from .model import Rich, parse_port

if TYPE_CHECKING:
    from .store import Container

_TOOLS = ("iptables", "iptables-legacy", "nft")


def publish(container: Container, rich: Rich) -> None:
    """Lead its published ports to it. Raises JoeyError; then none is."""
    if not rich.ports:
        return
    state = container.running()
    shown = next((str(entry.get("shown", "")) for entry in state.networks), "") if state else ""
    address = shown.partition("/")[0]
    if not address:
        raise JoeyError("--publish needs a network of its own", "--network bridge")
    tool = next((tool for tool in _TOOLS if not nat.unfit(tool)), "")
    if not tool:
        raise JoeyError("--publish needs iptables or nft on this host")
    nat.switch_forwarding_on()
    withdraw(container)
    table = "joey_rich_" + "".join(letter if letter.isalnum() else "_" for letter in container.name)
    done: list[list[str]] = []
    _keep(container, tool, table, done)
    try:
        if tool == "nft":
            _call([tool, "-f", "-"], _nft_rules(table, shown, rich.ports))
            return
        for word in rich.ports:
            for rule in _rules(shown, word):
                done.append(rule)
                _keep(container, tool, table, done)
                table_name, chain, *rest = rule
                _call([tool, "-t", table_name, "-A" if table_name == "nat" else "-I", chain, *rest])
    except JoeyError:
        withdraw(container)
        raise


def check(container: Container, rich: Rich) -> None:
    """Raises JoeyError for a port of the host's that another running container has."""
    for other in container.store.all() if rich.ports else ():
        if other.name == container.name or other.running() is None:
            continue
        for theirs in other.rich().ports:
            for mine in rich.ports:
                (at, port, _, protocol), (there, taken, _, kind) = parse_port(mine), parse_port(theirs)
                if (port, protocol) == (taken, kind) and (at == there or not at or not there):
                    hint = f"joey rich inspect {other.name}"
                    raise JoeyError(f"--publish {mine}: {other.name} has that port", hint, "exists")


def _rules(shown: str, word: str) -> list[list[str]]:
    """Table, chain, and the rule, for an address with its subnet's prefix."""
    address, subnet = shown.partition("/")[0], str(ipaddress.ip_interface(shown).network)
    at, outer, inner, protocol = parse_port(word)
    where = ["-d", at] if at else ["-m", "addrtype", "--dst-type", "LOCAL"]
    lead = ["-p", protocol, *where, "--dport", str(outer), "-j", "DNAT", "--to-destination", f"{address}:{inner}"]
    own = ["-p", protocol, "-d", address, "--dport", str(inner)]
    return [
        ["nat", "PREROUTING", *lead],
        ["nat", "OUTPUT", "!", "-d", "127.0.0.0/8", *lead] if not at else ["nat", "OUTPUT", *lead],
        ["nat", "POSTROUTING", "-s", subnet, *own, "-j", "MASQUERADE"],  # a neighbour's answer comes back this way too
        ["filter", "FORWARD", *own, "-j", "ACCEPT"],
    ]


def _nft_rules(table: str, shown: str, words: list[str]) -> str:
    address, subnet = shown.partition("/")[0], ipaddress.ip_interface(shown).network
    lead, back = [], []
    for word in words:
        at, outer, inner, protocol = parse_port(word)
        where = f"ip daddr {at}" if at else "fib daddr type local ip daddr != 127.0.0.0/8"
        lead.append(f"{where} {protocol} dport {outer} dnat to {address}:{inner}")
        back.append(f"ip saddr {subnet} ip daddr {address} {protocol} dport {inner} masquerade")
    chains = {
        "prerouting": ("dstnat", -100, lead),
        "output": ("output", -100, lead),
        "postrouting": ("srcnat", 100, back),
    }
    body = "".join(
        f"chain {name} {{ type nat hook {name} priority {priority}; {'; '.join(rules)} }}\n"
        for name, (_, priority, rules) in chains.items()
    )
    return f"table ip {table} {{}}\ndelete table ip {table}\ntable ip {table} {{\n{body}}}\n"


def withdraw(container: Container) -> None:
    """Take the rules back; those that are gone are no error."""
    path = f"{container.folder}/ports.json"
    try:
        value = json.loads(read_text(path))
    except (FileNotFoundError, ValueError):
        return
    tool = value["tool"]
    if tool == "nft":
        _try([tool, "-f", "-"], f"table ip {value['table']} {{}}\ndelete table ip {value['table']}\n")
    else:
        for table, chain, *rest in value["rules"]:
            _try([tool, "-t", table, "-D", chain, *rest])
    os.unlink(path)


def _keep(container: Container, tool: str, table: str, rules: list[list[str]]) -> None:
    """Before they are made: those of a killed joey are taken back by the next start."""
    value = {"tool": tool, "table": table, "rules": rules}
    write_atomically(f"{container.folder}/ports.json", json.dumps(value))


def _try(argv: list[str], text: str = "") -> subprocess.CompletedProcess[str]:
    program = find_program(argv[0]) or argv[0]
    try:
        return subprocess.run([program, *argv[1:]], input=text, capture_output=True, text=True, timeout=60, check=False)
    except (OSError, subprocess.TimeoutExpired) as error:
        return subprocess.CompletedProcess(argv, 1, "", str(error))


def _call(argv: list[str], text: str = "") -> None:
    done = _try(argv, text)
    if done.returncode:
        raise JoeyError(f"--publish: {argv[0]}: {done.stderr.strip()[:300]}")
