"""The report's page: its parts as HTML, one file that loads nothing, and how it is written whole."""

import html
import json
import os
import shutil
import tempfile
from collections.abc import Iterable, Sequence
from pathlib import Path

import pandas as pd
from plotly.offline import get_plotlyjs

from explore.figures import FILE_KINDS, Chart, plotly_figure, save_chart, save_panels

PARTS = Path(__file__).parent / "page"
"""Style and scripts of the page."""


def escaped(value: object) -> str:
    return html.escape(str(value))


def _cell(value: object) -> str:
    return f"{value:.4g}" if isinstance(value, float) else escaped(value)


def table(caption: str, header: Sequence[str], rows: Iterable[Sequence[object]]) -> str:
    """A table that scrolls by itself; the first cell of a row is its header."""
    lines = (f'<tr><th scope="row">{_cell(row[0])}</th>' + "".join(f"<td>{_cell(cell)}</td>" for cell in row[1:]) + "</tr>" for row in rows)
    head = "".join(f'<th scope="col">{escaped(name)}</th>' for name in header)
    return (
        f'<div class="scroll" role="region" tabindex="0" aria-label="{escaped(caption)}"><table><caption>{escaped(caption)}</caption>'
        f"<thead><tr>{head}</tr></thead><tbody>{''.join(lines)}</tbody></table></div>"
    )


def _json(value: object) -> str:
    """`value` as JSON that cannot end the script element it stands in."""
    return json.dumps(value, sort_keys=True, allow_nan=False, separators=(",", ":")).replace("<", "\\u003c")


def folded(frame: pd.DataFrame, what: str, key: str, without: Sequence[str] = ()) -> str:
    """All columns of a table but those named: downloadable, and shown when it is unfolded (page/common.js)."""
    columns = [name for name in frame if name not in without]
    content = {"columns": columns, "rows": json.loads(frame[columns].to_json(orient="values", double_precision=15))}
    return (
        f'<details data-table="{key}"><summary>{escaped(what)} as a table</summary></details>'
        f'<script type="application/json" id="table-{key}">{_json(content)}</script>'
    )


def figure(chart: Chart, more: str = "") -> str:
    """A chart, drawn when it is scrolled to, with its description, its files and `more` below."""
    files = ", ".join(f'<a href="figures/{chart.key}.{kind}">{kind.upper()}</a>' for kind in FILE_KINDS)
    return (
        f'<figure><h3>{escaped(chart.title)}</h3><div class="chart" id="{chart.key}" role="img" aria-label="{escaped(chart.alternative)}"></div>'
        f'<script type="application/json" class="figure" data-for="{chart.key}">{_json(plotly_figure(chart))}</script>'
        f"<figcaption>{escaped(chart.alternative)} <small>{escaped(chart.caption)}. {files}</small></figcaption>{more}</figure>"
    )


def explorer(data: dict) -> str:
    """The part that page/explorer.js brings to life, with its data."""
    return f'{_EXPLORER}<script type="application/json" id="explorer-data">{_json(data)}</script>'


_EXPLORER = """
<p>Point at a mark to see the voltage sweep of its architecture; click it, or use a Pin button, to pin it as A or B and to see the architecture below.
The list under the chart holds the same points for keyboards and screen readers.</p>
<div id="explorer-case" class="controls" role="group" aria-label="Case"></div>
<p><small id="explorer-scope"></small></p>
<details id="filter-fold" open><summary>Filters</summary><div id="explorer-filters"></div></details>
<div class="controls"><label>colour <select id="explorer-shade"></select></label>
<label><input type="checkbox" id="explorer-log"> logarithmic axes</label>
<button type="button" id="download-front">Download the list as CSV</button>
<button type="button" id="download-points">Download all points that pass as CSV</button></div>
<p id="explorer-status" role="status" aria-live="polite"></p>
<div id="explorer-chart" role="img"></div>
<p id="explorer-pointer"></p>
<div id="explorer-list"></div>
<h3>Pinned points</h3><div id="explorer-pins"></div>
<div id="chosen"><h3>Chosen architecture: <span id="chosen-name"></span></h3>
<div id="chosen-point" class="controls"></div><div id="chosen-diagram"></div><div id="chosen-numbers"></div>
<div class="pair"><div id="chosen-energy" role="img"></div><div id="chosen-roofline" role="img"></div></div>
<div id="chosen-layers" role="img"></div><div id="chosen-layers-table"></div>
<h4>Schedule: a voltage and clock for each layer</h4><p id="chosen-schedule-words"></p>
<div id="chosen-schedule" role="img"></div><div id="chosen-schedule-table"></div>
<h4>Placement</h4><div id="chosen-placement"></div>
<h4>Its RTL</h4><p>Save the design file and run the command:</p><pre id="chosen-yaml" tabindex="0"></pre><pre id="chosen-command" tabindex="0"></pre>
<button type="button" id="chosen-download">Download the design file</button></div>
"""


def page(sections: Sequence[tuple[str, str, str]]) -> str:
    """The whole page of sections (key, title, content)."""
    links = "".join(f'<a href="#{key}">{title}</a>' for key, title, _ in sections)
    body = "".join(f'<section aria-labelledby="{key}"><h2 id="{key}">{title}</h2>{content}</section>\n' for key, title, content in sections)
    # Nothing is loaded. plotly.js makes its WebGL programs with the Function constructor, hence unsafe-eval.
    policy = "default-src 'none'; script-src 'unsafe-inline' 'unsafe-eval'; style-src 'unsafe-inline'; img-src data: blob:"
    style, common, explore = ((PARTS / name).read_text(encoding="utf-8") for name in ("report.css", "common.js", "explorer.js"))
    return (
        f'<!DOCTYPE html>\n<html lang="en"><head><meta charset="utf-8"><meta http-equiv="Content-Security-Policy" content="{policy}">'
        f'<meta name="viewport" content="width=device-width, initial-scale=1"><title>Voltfront report</title><style>{style}</style></head>\n'
        f"<body><header><h1>Voltfront: throughput against energy efficiency</h1><nav aria-label='Sections'>{links}</nav></header>\n<main>{body}</main>\n"
        "<noscript><p>Without scripts the figures are in the folder figures beside this page, and the tables in the folder of the exploration.</p></noscript>\n"
        f"<script>{get_plotlyjs()}</script>\n<script>{common}</script>\n<script>{explore}</script></body></html>\n"
    )


def write_page(text: str, charts: Sequence[Chart], fronts: Sequence[Chart], out_dir: Path, headline: Path | None) -> None:
    """Everything is made in a temporary folder beside its place and moved when it is whole, the page last."""
    out_dir.mkdir(parents=True, exist_ok=True)
    made = Path(tempfile.mkdtemp(dir=out_dir, prefix=".building-"))
    try:
        for chart in charts:
            save_chart(chart, made)
        save_panels(tuple(fronts), made / "pareto")
        (made / "index.html").write_text(text, encoding="utf-8")
        if headline is not None:
            headline.parent.mkdir(parents=True, exist_ok=True)
            copy = headline.with_name(f".{headline.name}.new")
            shutil.copyfile(made / "pareto.png", copy)
            os.replace(copy, headline)
        (out_dir / "figures").mkdir(exist_ok=True)
        for path in sorted(path for kind in FILE_KINDS for path in made.glob(f"*.{kind}")):
            os.replace(path, out_dir / "figures" / path.name)
        os.replace(made / "index.html", out_dir / "index.html")
    finally:
        shutil.rmtree(made, ignore_errors=True)
