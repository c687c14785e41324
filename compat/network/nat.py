"""The way from a bridge to beyond its host: its subnet is masqueraded and let through, by iptables or nft.

iptables goes first, be it the legacy one or nft's: where a firewall's FORWARD chain drops, as docker's does, only a
rule in that chain lets a packet through. CentOS 6's iptables 1.4.7 has neither --check nor --wait.
"""

from __future__ import annotations

import subprocess
import time

from ..errors import JoeyError
from ..files import find_program

_XTABLES_BUSY = 4  # iptables' exit status while another one holds its lock
_FORWARD = "/proc/sys/net/ipv4/ip_forward"


def unfit(tool: str) -> str:
    """Why a tool ("iptables", "iptables-legacy", "nft") can't be used here; "" where it can. Lists a table with it."""
    path = find_program(tool)
    if not path:
        return f"there is no {tool}"
    words = ["list", "tables"] if tool == "nft" else ["-t", "nat", "-n", "-L", "POSTROUTING"]
    done = _call([path, *words])
    return "" if done.returncode == 0 else f"{tool}: {_said(done)}"


def open_way(tool: str, bridge: str, subnet: str) -> None:
    """Masquerade what leaves a bridge's subnet and forward what comes back; old rules of the same are replaced.

    Raises JoeyError.
    """
    if tool == "nft":
        _nft(_nft_rules(bridge, subnet))
    else:
        for table, chain, how, rule in _rules(bridge, subnet):
            _remove_rule(tool, table, chain, rule)
            _must(_xtables(tool, ["-t", table, how, chain, *rule]), f"{tool} {how} {chain}")


def is_open(tool: str, bridge: str, subnet: str) -> bool:
    """Whether the rules are still there: a firewall that is loaded anew forgets them."""
    if tool == "nft":
        return _call([find_program("nft") or "nft", "list", "table", "ip", _table(bridge)]).returncode == 0
    for table, chain, _, rule in _rules(bridge, subnet):
        lines = [line.split() for line in _xtables(tool, ["-t", table, "-S", chain]).stdout.splitlines()]
        # what is asked for and what is listed differ in their order, and in a mask that is added
        words = {word for word in rule if word.startswith("-") or word in (bridge, subnet, "MASQUERADE", "ACCEPT")}
        if not any(words <= set(line) for line in lines):
            return False
    return True


def close_way(tool: str, bridge: str, subnet: str) -> None:
    """Take the rules back; those that are gone are no error."""
    if tool == "nft":
        _nft(f"table ip {_table(bridge)} {{}}\ndelete table ip {_table(bridge)}\n")
    else:
        for table, chain, _, rule in _rules(bridge, subnet):
            _remove_rule(tool, table, chain, rule)


def open_names(tool: str, bridge: str, gateway: str) -> None:
    """Let containers ask the name server at their gateway, where a firewall's INPUT chain drops. Raises JoeyError.

    nft's rules can't do that.
    """
    for rule in () if tool in ("", "nft") else _names_rules(bridge, gateway):
        _remove_rule(tool, "filter", "INPUT", rule)
        _must(_xtables(tool, ["-t", "filter", "-I", "INPUT", *rule]), f"{tool} -I INPUT")


def close_names(tool: str, bridge: str, gateway: str) -> None:
    """Take those rules back."""
    for rule in () if tool in ("", "nft") else _names_rules(bridge, gateway):
        _remove_rule(tool, "filter", "INPUT", rule)


def _names_rules(bridge: str, gateway: str) -> list[list[str]]:
    return [
        ["-i", bridge, "-d", f"{gateway}/32", "-p", protocol, "-m", protocol, "--dport", "53", "-j", "ACCEPT"]
        for protocol in ("udp", "tcp")
    ]


def switch_forwarding_on() -> bool:
    """Have the host forward packets; whether it did not before. Raises OSError."""
    with open(_FORWARD, "r+") as file:
        if file.read().strip() == "1":
            return False
        file.seek(0)
        file.write("1\n")
    return True


def _rules(bridge: str, subnet: str) -> tuple[tuple[str, str, str, list[str]], ...]:
    """Table, chain, whether at its end or its beginning, and the rule."""
    back = ["-o", bridge, "-m", "state", "--state", "RELATED,ESTABLISHED", "-j", "ACCEPT"]
    return (
        ("nat", "POSTROUTING", "-A", ["-s", subnet, "!", "-d", subnet, "-j", "MASQUERADE"]),
        ("filter", "FORWARD", "-I", back),
        ("filter", "FORWARD", "-I", ["-i", bridge, "-j", "ACCEPT"]),
    )


def _remove_rule(tool: str, table: str, chain: str, rule: list[str]) -> None:
    _xtables(tool, ["-t", table, "-D", chain, *rule])


def _xtables(tool: str, words: list[str]) -> subprocess.CompletedProcess[str]:
    for _ in range(50):
        done = _call([find_program(tool) or tool, *words])
        if done.returncode != _XTABLES_BUSY:
            break
        time.sleep(0.1)
    return done


def _table(bridge: str) -> str:
    return "joey_" + "".join(letter if letter.isalnum() else f"_{ord(letter):02x}" for letter in bridge)


def _nft_rules(bridge: str, subnet: str) -> str:
    table = _table(bridge)
    return f"""
        table ip {table} {{}}
        delete table ip {table}
        table ip {table} {{
            chain postrouting {{
                type nat hook postrouting priority 100;
                ip saddr {subnet} ip daddr != {subnet} masquerade
            }}
        }}
        """


def _nft(text: str) -> None:
    _must(_call([find_program("nft") or "nft", "-f", "-"], text), "nft")


def _must(done: subprocess.CompletedProcess[str], what: str) -> None:
    if done.returncode:
        raise JoeyError(f"{what}: {_said(done)}", "nat=off goes without", "network")


def _said(done: subprocess.CompletedProcess[str]) -> str:
    return done.stderr.strip().rpartition("\n")[2][:300] or f"exit status {done.returncode}"


def _call(argv: list[str], text: str = "") -> subprocess.CompletedProcess[str]:
    try:
        return subprocess.run(
            argv, input=text, capture_output=True, text=True, errors="replace", timeout=60, check=False
        )
    except (OSError, subprocess.TimeoutExpired) as error:
        return subprocess.CompletedProcess(argv, 1, "", str(error))
