"""A container's networks: what its words ask of this machine, and taking them down."""

from __future__ import annotations

import os

from ..compat import capabilities
from ..compat.constants import CAP_NET_ADMIN
from ..compat.errors import BundleError, JoeyError
from ..compat.network import attachments, cni, links, names, nat
from ..compat.network.leases import Leases
from ..compat.network.words import Network, networks
from ..probes.plan import Need
from ..probes.report import Finding, KernelReport
from . import log
from .needs import NETWORK_ANNOTATION, network_words

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any

    from .bundle import Bundle
    from .state import State

# a mechanism of network.nat -> the program that does it
TOOLS = ("iptables", "iptables-legacy", "nft")


def with_networks(report: KernelReport, bundle: Bundle, words: list[str]) -> tuple[KernelReport, list[Need]]:
    """The report with what this host can do for the networks, and the needs. Sets `bundle.networks`.

    Raises UsageError for words that mean nothing, BundleError where the container has no network namespace of its own.
    """
    bundle.networks = networks(words)
    if not bundle.networks:
        return report, []
    field = f"annotations[{NETWORK_ANNOTATION!r}]" if network_words(bundle) else "--network"
    if not bundle.creates("network"):
        hint = 'add {"type": "network"} to linux.namespaces, without a path'
        raise BundleError(field, "needs a network namespace of the container's own", hint)
    here = report.is_of_here
    needs = []
    bridges = [network for network in bundle.networks if network.kind == "bridge"]
    if bridges:
        needs.append(Need("network.bridge", field))
        report = report.with_findings(_admin(here))
        if any(network.nat and not is_foreign(network.name) for network in bridges):
            needs.append(Need("network.nat", field))
            report = report.with_findings(*_ways(report, here))
        for network in bridges:
            if network.names and not is_foreign(network.name):
                needs.append(Need("network.names", field))
                report = report.with_findings(_name_server(network, here))
    lists = [network.name for network in bundle.networks if network.kind == "cni"]
    if lists:
        needs.append(Need("network.cni", field))
        report = report.with_findings(_admin(here), _plugins(lists, here))
    return report, needs


def is_foreign(bridge: str) -> bool:
    """Whether a bridge of the host was made by somebody else: joey adds ports to it and leaves it alone otherwise."""
    return links.is_bridge(bridge) and Leases(bridge).record() is None


def _admin(here: bool) -> Finding:
    able = not here or bool(capabilities.get()[0] >> CAP_NET_ADMIN & 1)
    return Finding("place.net-admin", "works" if able else "absent", "CAP_NET_ADMIN over the host's network",
                   "it is there" if able else "only root has it")  # fmt: skip


def _ways(report: KernelReport, here: bool) -> list[Finding]:
    found = []
    for tool in TOOLS:
        if here:
            why_not = nat.unfit(tool)
        else:
            other = "net.nftables" if tool == "nft" else "net.iptables"
            why_not = "" if report.works(other) else report.evidence(other)
        state = "absent" if why_not else "works"
        found.append(Finding(f"place.{tool}", state, f"{tool} of the host", why_not or "it lists its rules"))
    return found


def _name_server(network: Network, here: bool) -> Finding:
    record = Leases(network.name).record() if here else None
    gateway = str(record["gateway"] if record else network.its_gateway())
    why_not = names.unfit(gateway, record) if here else ""
    state = "absent" if why_not else "works"
    return Finding("place.names", state, f"port 53 of {gateway}", why_not or "it is free, or joey's")


def _plugins(lists: list[str], here: bool) -> Finding:
    call = "CNI plugins of " + ", ".join(lists)
    if not here:
        return Finding("place.cni", "works", call, "that host is not there to look at")
    missing = sorted({kind for name in lists for kind in cni.missing(cni.find(name))})
    if missing:
        return Finding("place.cni", "absent", call, "not installed: " + ", ".join(missing))
    return Finding("place.cni", "works", call, "they are installed")


def take_down(container: State) -> None:
    """Undo what the container's networks changed on the host; says what can't be undone. Its processes have ended."""
    for entry in reversed(container.networks):
        try:
            if entry["kind"] == "cni":
                _detach(entry)
            else:
                _leave_bridge(container, entry)
        except (JoeyError, OSError) as error:
            log.warn(f"network {entry['name']}: {error}")
    container.networks = []


def _detach(entry: dict[str, Any]) -> None:
    """Call the plugins' DEL, and let go of the namespace."""
    namespace = entry["namespace"]
    there = namespace if os.path.exists(namespace) else ""
    try:
        cni.Attachment(entry["list"], entry["container"], there, entry["link"]).delete(entry.get("result") or {})
    finally:
        cni.drop_namespace(namespace)
    attachments.forget(entry)


def check(container: State) -> list[str]:
    """What the plugins' CHECK says of the container's CNI networks: a line for each that is not as it was made."""
    out = []
    for entry in container.networks:
        if entry["kind"] == "cni":
            attachment = cni.Attachment(entry["list"], entry["container"], entry["namespace"], entry["link"])
            try:
                attachment.check(entry.get("result") or {})
            except JoeyError as error:
                out.append(f"{entry['name']}: {error}")
    return out


def _leave_bridge(container: State, entry: dict[str, Any]) -> None:
    """Remove the container's port and give its address back; the last one takes joey's bridge along."""
    if links.exists(entry["port"]):  # it goes with the namespace, a moment after its last process
        with links.Netlink() as netlink:
            netlink.remove(entry["port"])
    if entry["foreign"]:
        return
    leases = Leases(entry["name"])
    with leases.locked():
        if not os.path.isdir(leases.folder):
            return
        leases.release(entry["address"], container.folder)
        record = leases.record()
        if record is None or leases.taken():
            return
        names.stop(record)
        nat.close_names(record.get("nat", ""), entry["name"], record["gateway"])
        if record.get("nat"):
            nat.close_way(record["nat"], entry["name"], record["subnet"])
        if links.is_bridge(entry["name"]):
            links.lower(entry["name"])
            links.remove_bridge(entry["name"])
        leases.forget()
