"""An inventory as one self-contained page: to be read in a browser, on a phone and on paper, without a network."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING

from ..pages import STYLE, safe
from ..sizes import shown_size

if TYPE_CHECKING:
    from collections.abc import Iterable, Sequence

    from .model import Inventory

_MOST = 300  # rows of a table
_WIDTH, _HEIGHT = 1000.0, 420.0
_STYLE = (
    STYLE
    + """
.top{display:flex;gap:1.5rem;align-items:center;flex-wrap:wrap}.score{font-size:2.6rem;font-weight:700;line-height:1}
.score small{font-size:1rem;font-weight:400;color:var(--dim)}td{overflow-wrap:break-word}summary{color:var(--dim)}
dl{display:grid;grid-template-columns:max-content 1fr;gap:.2rem 1rem;margin:1rem 0}
dt{color:var(--dim)}dd{margin:0;overflow-wrap:anywhere}
svg{width:100%;min-width:640px;height:auto;display:block}svg text{fill:#fff;font:12px system-ui,sans-serif}
"""
)
_COLOURS = ("#2f5d8a", "#3f7d6e", "#7a5c9e", "#9a6b2f", "#8a3f4d", "#4f6d3a", "#456", "#735046")


def page(found: Inventory) -> str:
    """The page's text. Whatever a machine's files say is escaped."""
    kind = "good" if found.score >= 8 else "fair" if found.score >= 4 else "bad"
    own = [service for service in found.services if not service.hardware]
    people = [(a.name, str(a.uid), a.home, a.shell, "yes" if a.password else "no", str(a.keys)) for a in found.accounts]
    facts = (
        ("distribution", found.distribution), ("architecture", found.architecture), ("host name", found.hostname),
        ("init", ", starts into ".join(filter(None, (found.init, found.runlevel))) or "none"),
        ("kernels", ", ".join(found.kernels)), ("time zone", found.time_zone), ("SELinux", found.selinux),
        ("packages", f"{len(found.packages)} ({found.package_manager})" if found.packages else "none"),
        ("files", f"{found.entries} entries, {shown_size(found.size)}"),
    )  # fmt: skip
    parts = [
        "<!doctype html><html lang=en><meta charset=utf-8><meta name=viewport content='width=device-width'>",
        "<meta http-equiv=Content-Security-Policy content=\"default-src 'none'; style-src 'unsafe-inline'\">",
        f"<title>{safe(found.source)}: fit for a container {found.score}/10</title><style>{_STYLE}</style><main>",
        f"<div class=top><div class='score {kind}'>{found.score}<small> / 10</small></div>",
        f"<div><h1>{safe(found.hostname or found.source)}</h1>How well {safe(found.source)} fits into a container",
        "</div></div><dl>",
        *(f"<dt>{name}</dt><dd>{safe(value)}</dd>" for name, value in facts if value),
        "</dl>",
        _rules(found),
        "<h2>Sizes</h2>",
        f"<div class=scroll>{treemap(found.sizes)}</div>",
        _table("Services that start", "name kind user command", ((s.name, s.kind, s.user, s.command) for s in own)),
        _table("Ports, as configured", "port service where",
               ((f"{p.number}/{p.protocol}", p.service, p.where) for p in found.ports)),
        _table("Databases", "kind path size", ((d.kind, d.path, shown_size(d.size)) for d in found.databases)),
        _table("Large data of its own", "path size", ((d.path, shown_size(d.size)) for d in found.data)),
        _table("Mounts", "device at type", ((m["device"], m["target"], m["type"]) for m in found.mounts)),
        _table("Accounts", "name uid home shell password keys", people),
        _table("sudo", "line", ((line,) for line in found.sudo)),
        _table("cron and at", "where user when command", ((j.where, j.user, j.when, j.command) for j in found.jobs)),
        _table("Certificates and secrets, by name", "kind path", ((s.kind, s.path) for s in found.secrets)),
        _table("Settings", "about line", ((about, line) for about, lines in found.settings.items() for line in lines)),
        _table("Hardware and start-up services", "name kind", ((s.name, s.kind) for s in found.services if s.hardware)),
        _table("Packages", "name version architecture",
               ((p["name"], p["version"], p["architecture"]) for p in found.packages)),
        *(f"<p class=dim>{safe(note)}</p>" for note in found.notes),
        "</main></html>",
    ]  # fmt: skip
    return "\n".join(part for part in parts if part) + "\n"


def _rules(found: Inventory) -> str:
    if not found.rules:
        return "<p>No rule takes anything away.</p>"
    rows = "".join(
        f"<tr><td class={'bad' if rule['kind'] == 'blocker' else 'fair'}>{safe(str(rule['kind']))}"
        f"<td>{safe(str(rule['why']))}<td>-{rule['takes']}"
        for rule in found.rules
    )
    return (
        f"<h2>What the score is made of</h2><div class=scroll><table><tr><th>kind<th>why<th>takes{rows}</table></div>"
    )


def _table(title: str, header: str, rows: Iterable[Sequence[str]]) -> str:
    lines = list(rows)
    if not lines:
        return ""
    body = "".join("<tr>" + "".join(f"<td>{safe(cell)}" for cell in row) for row in lines[:_MOST])
    head = "".join(f"<th>{word}" for word in header.split())
    more = f"<p class=dim>and {len(lines) - _MOST} more</p>" if len(lines) > _MOST else ""
    table = f"<div class=scroll><table><tr>{head}{body}</table></div>{more}"
    if len(lines) > 20:
        return f"<h2>{title}</h2><details><summary>{len(lines)} rows</summary>{table}</details>"
    return f"<h2>{title}</h2>{table}"


def treemap(sizes: dict[str, int]) -> str:
    """The folders as areas, as SVG: squarified, largest first. Source: Bruls, Huizing, van Wijk 2000."""
    items = sorted(((size, path) for path, size in sizes.items() if size), reverse=True)
    total = sum(size for size, _ in items)
    if not total:
        return "<p>No files.</p>"
    shown = [(size, path) for size, path in items if size * 400 >= total]
    rest = total - sum(size for size, _ in shown)
    if rest:
        shown.append((rest, "everything else"))
    scale = _WIDTH * _HEIGHT / total
    boxes = []
    x = y = 0.0
    width, height = _WIDTH, _HEIGHT
    row: list[tuple[float, str, int]] = []
    queue = [(size * scale, path, size) for size, path in shown]
    while queue or row:
        side = min(width, height)
        if queue and (not row or _worst([*row, queue[0]], side) <= _worst(row, side)):
            row.append(queue.pop(0))
            continue
        thick = sum(area for area, _, _ in row) / side if side else 0.0
        along = 0.0
        for area, path, size in row:
            length = area / thick if thick else 0.0
            if width >= height:
                boxes.append((x, y + along, thick, length, path, size))
            else:
                boxes.append((x + along, y, length, thick, path, size))
            along += length
        if width >= height:
            x, width = x + thick, width - thick
        else:
            y, height = y + thick, height - thick
        row = []
    return _svg(boxes)


def _worst(row: list[tuple[float, str, int]], side: float) -> float:
    """The worst ratio of a row's boxes."""
    total = sum(area for area, _, _ in row)
    if not side or not total:
        return math.inf
    return max(max(side * side * area / total**2, total**2 / (side * side * area)) for area, _, _ in row if area)


def _svg(boxes: list[tuple[float, float, float, float, str, int]]) -> str:
    tops = list(dict.fromkeys(path.split("/")[1] if path.startswith("/") else path for *_, path, _ in boxes))
    parts = [f'<svg viewBox="0 0 {_WIDTH:.0f} {_HEIGHT:.0f}" role=img aria-label="sizes of folders">']
    for x, y, width, height, path, size in boxes:
        top = path.split("/")[1] if path.startswith("/") else path
        colour = _COLOURS[tops.index(top) % len(_COLOURS)]
        title = f"{safe(path)}: {shown_size(size)}"
        parts.append(
            f'<g><title>{title}</title><rect x="{x:.1f}" y="{y:.1f}" width="{max(width - 1.5, 0.5):.1f}" '
            f'height="{max(height - 1.5, 0.5):.1f}" fill="{colour}" rx="2"/>'
        )
        if width > 70 and height > 20:
            name = path if len(path) * 7 < width else path[: int(width / 7) - 1] + "…"
            parts.append(f'<text x="{x + 6:.1f}" y="{y + 15:.1f}">{safe(name)}</text>')
            if height > 36:
                parts.append(f'<text x="{x + 6:.1f}" y="{y + 31:.1f}" opacity=".75">{shown_size(size)}</text>')
        parts.append("</g>")
    return "".join(parts) + "</svg>"
