"""A chart as a value, and its two drawings: by plotly.js in the report, by matplotlib as PNG, SVG and PDF for papers.

Both drawings are functions of the value alone: no dates, no random identifiers, the same bytes every time.
"""

import html
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import matplotlib
import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure

GREY = "#8a8a8a"
PALETTE = ("#0072b2", "#d55e00", "#009e73", "#cc79a7", "#e69f00", "#56b4e9", "#b2a600", "#7b61c9")
"""Colours that colour-blind readers can tell apart (Okabe and Ito 2008; yellow darkened and violet added), on white and on black."""

SYMBOLS = (("circle", "o"), ("square", "s"), ("diamond", "D"), ("triangle-up", "^"), ("cross", "P"), ("x", "X"), ("triangle-down", "v"), ("star", "*"))
"""Marks of a series by its place, as plotly.js and as matplotlib call them, so that no reading rests on colour alone."""

FILE_KINDS: dict[str, dict[str, Any]] = {"svg": {"metadata": {"Date": None}}, "pdf": {"metadata": {"CreationDate": None}}, "png": {"dpi": 150}}
"""Files of each figure and how matplotlib makes them: without dates."""

_RC: Any = {
    "svg.hashsalt": "voltfront", "font.family": "DejaVu Sans", "font.size": 8, "axes.grid": True, "grid.alpha": 0.3, "grid.linewidth": 0.5,
    "axes.axisbelow": True, "legend.fontsize": 7, "legend.frameon": False, "text.usetex": False,
}  # fmt: skip


Look = Literal["line", "dashed", "marks", "area", "bar"]


@dataclass(frozen=True, kw_only=True)
class Series:
    """One set of points with one look.

    `line`, `dashed` join the points; `marks` does not; `area` stacks on the areas before it; `bar` is horizontal and stacks
    on the bars of the same category before it.
    """

    name: str
    look: Look
    x: tuple[float, ...]
    y: tuple[float, ...] | tuple[str, ...]
    color: str
    symbol: int = 0
    """Place in SYMBOLS."""
    notes: tuple[str, ...] = ()
    """What a reader sees when pointing at each point."""
    low: tuple[float, ...] = ()
    """Lower end of the interval of y."""
    high: tuple[float, ...] = ()
    """Upper end."""
    listed: bool = True
    """Whether the legend lists it; a series that is not goes with the listed one of its colour."""


@dataclass(frozen=True, kw_only=True)
class Chart:
    """Title, what can be seen in it in words, axes with units, and the series. `y_categories`, top to bottom, makes y an axis of names."""

    key: str
    """File name and identifier: letters, digits and dashes."""
    title: str
    caption: str
    alternative: str
    x_label: str
    y_label: str
    series: tuple[Series, ...]
    y_categories: tuple[str, ...] = ()


def plotly_figure(chart: Chart) -> dict[str, Any]:
    """Data and layout for `Plotly.newPlot`. Colours of text and grid are left to the page, which knows whether it is dark.

    plotly.js reads some HTML in its texts, so all texts are escaped.
    """
    axis: dict[str, Any] = {"zeroline": False, "automargin": True}
    y_axis = axis | {"title": {"text": html.escape(chart.y_label)}}
    if chart.y_categories:
        names = [html.escape(name) for name in chart.y_categories]
        y_axis |= {"type": "category", "categoryorder": "array", "categoryarray": names, "range": [len(names) - 0.5, -0.5]}
    else:
        y_axis |= {"rangemode": "tozero"}
    return {
        "data": [_trace(series) for series in chart.series],
        "layout": {
            "xaxis": axis | {"title": {"text": html.escape(chart.x_label)}} | ({} if _stacked(chart) else {"rangemode": "tozero"}),
            "yaxis": y_axis,
            "barmode": "stack",
            "hovermode": "closest",
            "margin": {"l": 60, "r": 10, "t": 10, "b": 50},
            "legend": {"orientation": "h", "y": -0.25},
            "height": max(460, 160 + 18 * len(chart.y_categories)),
            "paper_bgcolor": "rgba(0,0,0,0)",
            "plot_bgcolor": "rgba(0,0,0,0)",
            "showlegend": True,
        },
    }


def _trace(series: Series) -> dict[str, Any]:
    y = [html.escape(v) if isinstance(v, str) else v for v in series.y]
    trace: dict[str, Any] = {"name": html.escape(series.name), "x": list(series.x), "y": y}
    if series.notes:
        trace |= {"hovertext": [html.escape(note) for note in series.notes], "hoverinfo": "text"}
    if series.look == "bar":
        return trace | {"type": "bar", "orientation": "h", "marker": {"color": series.color}}
    trace |= {"legendgroup": series.color, "showlegend": series.listed}
    trace |= {
        "type": "scatter",
        "line": {"color": series.color},
        "marker": {"color": series.color, "symbol": SYMBOLS[series.symbol][0], "size": 9 if series.look == "marks" else 6},
    }
    if series.low:
        y_number = np.asarray(series.y)
        up, down = np.asarray(series.high) - y_number, y_number - np.asarray(series.low)
        trace["error_y"] = {"type": "data", "symmetric": False, "array": up.tolist(), "arrayminus": down.tolist(), "thickness": 0.8, "width": 2}
    if series.look == "area":
        return trace | {"mode": "lines", "stackgroup": "all"}
    if series.look == "dashed":
        trace["line"] = {"color": series.color, "dash": "dash"}
    return trace | {"mode": "markers" if series.look == "marks" else "lines+markers"}


def _stacked(chart: Chart) -> bool:
    return any(series.look == "area" for series in chart.series)


def save_chart(chart: Chart, folder: Path) -> None:
    """Write `<key>` as each of `FILE_KINDS` into `folder`."""
    with matplotlib.rc_context(_RC):
        height = max(3.6, 1.2 + 0.16 * len(chart.y_categories)) + 0.13 * len(chart.series)
        figure = Figure(figsize=(6.4, height), layout="constrained")
        axes = figure.subplots()
        _draw(axes, chart)
        figure.legend(*axes.get_legend_handles_labels(), loc="outside lower center", ncols=2)
        _save(figure, folder / chart.key)


def save_panels(charts: tuple[Chart, ...], stem: Path) -> None:
    """Write `<stem>` as each of `FILE_KINDS` with all charts in two columns."""
    with matplotlib.rc_context(_RC):
        lines = -(-len(charts) // 2)
        figure = Figure(figsize=(10, 4.6 * lines), layout="constrained")
        panels = figure.subplots(lines, min(2, len(charts)), squeeze=False).ravel()
        for axes, chart in zip(panels, charts, strict=False):
            _draw(axes, chart)
            axes.legend(loc="upper center", bbox_to_anchor=(0.5, -0.13))
        for axes in panels[len(charts) :]:
            axes.remove()
        if any(series.look == "dashed" for chart in charts for series in chart.series):
            note = "Solid: through the supply voltages, a curve for each back bias. Dashed: at nominal voltage, through the frequencies only."
            figure.suptitle(note, fontsize=9)
        _save(figure, stem)


def _save(figure: Figure, stem: Path) -> None:
    for kind, options in FILE_KINDS.items():
        figure.savefig(stem.with_name(f"{stem.name}.{kind}"), **options)


def _draw(axes: Axes, chart: Chart) -> None:
    place = {name: i for i, name in enumerate(chart.y_categories)}
    left = np.zeros(len(place))
    for series in chart.series:
        x, label = np.asarray(series.x, dtype=float), _plain(series.name) if series.listed else None
        y = np.array([place[str(v)] for v in series.y]) if place else np.asarray(series.y, dtype=float)
        mark: dict[str, Any] = {"marker": SYMBOLS[series.symbol][1], "markersize": 3.5, "color": series.color, "label": label}
        if series.look == "bar":
            bars = np.bincount(y.astype(int), x, len(place))
            axes.barh(range(len(place)), bars, left=left, color=series.color, label=label)
            left += bars
        elif series.look == "marks":
            axes.plot(x, y, linestyle="none", **mark | {"markersize": 5})
        elif series.look in ("line", "dashed"):
            axes.plot(x, y, linestyle="-" if series.look == "line" else "--", linewidth=1, **mark)
        if series.low:
            axes.vlines(x, series.low, series.high, color=series.color, linewidth=0.5)
    areas = [series for series in chart.series if series.look == "area"]
    if areas:
        axes.stackplot(areas[0].x, [s.y for s in areas], labels=[_plain(s.name) for s in areas], colors=[s.color for s in areas])
        axes.margins(x=0)
    else:
        axes.set_xlim(left=0)
    if place:
        axes.set_yticks(range(len(place)), [_plain(name) for name in chart.y_categories])
        axes.set_ylim(len(place) - 0.5, -0.5)
    else:
        axes.set_ylim(bottom=0)
    axes.set(xlabel=_plain(chart.x_label), ylabel=_plain(chart.y_label))
    axes.set_title(_plain(chart.title), fontsize=8)


def _plain(text: str) -> str:
    """Text that matplotlib does not take for mathematics, on one line that fits; a leading underscore would hide a label."""
    line = " ".join(text.split()).lstrip("_")
    return (line if len(line) <= 100 else line[:99] + "…").replace("$", r"\$")
