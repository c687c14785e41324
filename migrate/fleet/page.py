"""A fleet as one self-contained page: to filter in a browser, to read on a phone, to print. It needs no network."""

from __future__ import annotations

from typing import TYPE_CHECKING

from ..pages import STYLE, safe
from .judging import COLUMNS, REFUSED, UNTRIED, judge
from .looking import untried

if TYPE_CHECKING:
    from ...probes.report import KernelReport
    from .judging import Judgement

_STYLE = (
    STYLE
    + """
main{max-width:1280px}h1{margin:0 0 .5rem}h2{margin:1.5rem 0 .3rem}td{white-space:nowrap}
td.why{white-space:normal;min-width:22rem}ul{margin:.3rem 0;padding-left:1.2rem}
form{display:flex;gap:1rem;flex-wrap:wrap;align-items:center;margin:1rem 0}input[type=search]{flex:1 1 16rem}
input,select{font:inherit;color:inherit;background:var(--soft);border:1px solid var(--line);border-radius:4px}
input,select{padding:.3rem .6rem}@media print{form{display:none}}
@media(max-width:640px){main{padding:.7rem}th,td{padding:.25rem .4rem}}
"""
)
_SCRIPT = """
const [words,state,count]=['words','state','count'].map(id=>document.getElementById(id));
function filter(){let shown=0;const wanted=words.value.toLowerCase().split(/\\s+/).filter(Boolean);
for(const section of document.querySelectorAll('section')){let some=0;
for(const row of section.querySelectorAll('tbody tr')){const text=row.dataset.text;
const right=!state.value||row.dataset.state===state.value;
const fits=right&&wanted.every(w=>text.includes(w));row.hidden=!fits;some+=fits}
section.hidden=!some;shown+=some}count.textContent=shown}
words.addEventListener('input',filter);state.addEventListener('change',filter);filter();
"""


def page(known: list[tuple[str, KernelReport]], policy: str, checks: dict[str, dict[str, str]]) -> str:
    """The page's text. Hosts are grouped by kernel; whatever a host says is escaped."""
    kernels: dict[str, list[tuple[str, KernelReport]]] = {}
    for host, report in known:
        kernels.setdefault(report.name, []).append((host, report))
    sections = [_section(name, kernels[name], policy, checks) for name in sorted(kernels)]
    parts = [
        "<!doctype html><html lang=en><meta charset=utf-8><meta name=viewport content='width=device-width'>",
        "<meta http-equiv=Content-Security-Policy content=\"default-src 'none'; style-src 'unsafe-inline'; "
        "script-src 'unsafe-inline'\">",
        f"<title>{len(known)} hosts, {len(kernels)} kernels</title><style>{_STYLE}</style><main>",
        f"<h1>{len(known)} hosts, {len(kernels)} kernels</h1>",
        f"<p>What a container of today would get on each, under the {safe(policy)} policy: by which mechanism, and "
        "what is lost by it.</p>",
        "<form onsubmit='return false'><input id=words type=search placeholder='host, kernel, mechanism' "
        "aria-label='words to filter by'><select id=state aria-label='state'><option value=''>all"
        "<option value=good>nothing lost<option value=fair>something lost<option value=bad>something refused</select>"
        "<span><b id=count></b> shown</span></form>",
        *sections,
        f"</main><script>{_SCRIPT}</script></html>",
    ]
    return "\n".join(parts) + "\n"


def _section(kernel: str, hosts: list[tuple[str, KernelReport]], policy: str, checks: dict[str, dict[str, str]]) -> str:
    images = [image for image in checks if any(host in checks[image] for host, _ in hosts)]
    head = ["host", "distribution", "probed by", "today's images", *COLUMNS.values(), *images, "lost or refused"]
    body = "".join(_row(host, report, judge(report, policy), images, checks) for host, report in hosts)
    names = "".join(f"<th>{safe(word)}" for word in head)
    return (
        f"<section><h2>{safe(kernel)} <span class=dim>{len(hosts)}</span></h2><div class=scroll><table><thead><tr>"
        f"{names}<tbody>{body}</table></div></section>"
    )


def _row(host: str, report: KernelReport, made: Judgement, images: list[str], checks: dict[str, dict[str, str]]) -> str:
    plan, machine = made.plan, report.machine
    state = "bad" if made.refusals else "fair" if plan.losses else "good"
    by = machine.get("by", "")
    missing = len(untried(report))
    cells = [
        f"<td><b>{safe(host)}</b>",
        f"<td>{safe(machine.get('distribution', ''))}",
        f"<td>{safe(by)}" + ("" if report.key.get("uid") == "0" else " <span class=fair>as a plain user</span>")
        + (f" <span class=dim>{missing} not tried</span>" if missing else ""),
        f"<td class={'good' if made.today == 'native' else 'fair'}>{safe(made.today)}",
    ]  # fmt: skip
    for feature in COLUMNS:
        choice = plan.choices[feature]
        word = made.word(feature)
        kind = "dim" if word == UNTRIED else "bad" if word == REFUSED else "fair" if choice.lost else "good"
        cells.append(f"<td class={kind} title='{safe(choice.reason)}'>{safe(word)}")
    kinds = {"runs": "good", "runs with losses": "fair", "does not run": "bad"}
    for image in images:
        word = checks[image].get(host, "")
        cells.append(f"<td class={kinds.get(word, 'dim')}>{safe(word)}")
    lines = [f"<li class=bad>{safe(c.feature)}: {safe(c.reason)}" for c in made.refusals]
    lines += [f"<li>{safe(c.feature)}, {safe(c.mechanism)}: {safe(c.lost)}" for c in plan.losses]
    told = f"<details><summary>{len(lines)}</summary><ul>{''.join(lines)}</ul></details>" if lines else "nothing"
    cells.append(f"<td class=why>{told}")
    words = [host, report.name, *machine.values(), *(made.word(feature) for feature in plan.choices)]
    return f"<tr data-state={state} data-text='{safe(' '.join(words).lower())}'>" + "".join(cells)
