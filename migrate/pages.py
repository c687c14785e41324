"""What joey's self-contained pages share: their colours and type, and escaping."""

from __future__ import annotations

import html

STYLE = """
:root{--ink:#1d2733;--dim:#5b6b7c;--line:#d8dee5;--paper:#fff;--soft:#f4f6f8;--good:#1f7a4d;--fair:#a76a00;--bad:#b3261e}
@media(prefers-color-scheme:dark){:root{--ink:#e6ebf0;--dim:#9fb0c0;--line:#33404d;--paper:#141a21;--soft:#1c242d;
--good:#5cc48f;--fair:#e0a84a;--bad:#ff8a80}}
*{box-sizing:border-box}body{margin:0;background:var(--paper);color:var(--ink);font:15px/1.5 system-ui,sans-serif}
main{max-width:1060px;margin:0 auto;padding:1.5rem}h1{font-size:1.5rem;margin:0}h2{font-size:1.1rem;margin:2rem 0 .5rem}
.good{color:var(--good)}.fair{color:var(--fair)}.bad{color:var(--bad)}.dim{color:var(--dim)}
h1,h2,p,li,summary{overflow-wrap:anywhere}.scroll{overflow-x:auto}table{border-collapse:collapse;width:100%}
th,td{text-align:left;padding:.3rem .6rem;border-bottom:1px solid var(--line);vertical-align:top}
th{color:var(--dim);font-weight:600;white-space:nowrap}tr:hover td{background:var(--soft)}summary{cursor:pointer}
@media print{details>*{display:block}main{padding:0}}
"""


def safe(text: str) -> str:
    """A text for HTML, in or out of an attribute, with nothing that can't be seen."""
    shown = "".join(char if char.isprintable() else ascii(char)[1:-1] for char in text)
    return html.escape(shown)
