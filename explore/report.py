"""The report: one HTML page that works offline, and its figures as PNG, SVG and PDF.

The page holds plotly.js, points to explore, the figures' data and a table beside each figure; a content security policy keeps it from
loading anything. All text from files is escaped.
"""

from collections.abc import Sequence
from pathlib import Path

import pandas as pd

from explore.figures import PALETTE, Chart
from explore.points import LAYER_COLUMNS, POINT_COLUMNS, POINTS_VERSION, read_run
from explore.report_charts import (
    CASE,
    ENERGIES,
    CaseResults,
    dram_share,
    energy_chart,
    errors_chart,
    front_chart,
    layers_charts,
    left_out_errors,
    shares_chart,
    unique_key,
)
from explore.report_page import escaped, explorer, figure, folded, page, table, write_page
from explore.report_points import CONDITIONS, LIMIT, design_form, packed_case, read_pictures
from fit.model import ErrorSummary, FittedModel, read_model
from flow.tech import load_technology, technology_names
from hw.errors import ConfigError

_SAME = (*CASE, "points_version")
"""Columns that a table of one case need not show."""
TEXTS = (
    "network", "precision", "technology", "dram", "architecture", "process", "clock_process", "bound", "on_front", "sweep", "choice", "layer", "order",
    "on_chip",
)  # fmt: skip
"""Columns that hold text; all others hold numbers."""


def write_report(
    *, explore_dir: Path, model_path: Path, out_dir: Path, headline: Path | None = None, schedules: pd.DataFrame | None = None, placements: Path | None = None,
) -> Path:  # fmt: skip
    """Write `index.html` and `figures/*.png`, `.svg` and `.pdf` into `out_dir` from the results in `explore_dir`; returns the page's path.

    `headline` is a PNG file to which the fronts of all networks are copied as one figure (README shows docs/pareto.png).
    `schedules` are rows of `explore.report_schedules`, `placements` is a folder of pictures `<architecture>.png` (`voltfront placement`): both
    are shown in the panel of their architecture. The same input gives the same bytes. Files appear whole, the page last; raises
    `ConfigError` for a missing or damaged input before anything is written.
    """
    pareto = _read_points(explore_dir / "pareto.csv")
    dvfs = _read_points(explore_dir / "dvfs.csv", ("sweep", "effectiveness"))
    layers = _read(explore_dir / "layers.csv", tuple(LAYER_COLUMNS))
    run = read_run(explore_dir)
    model = read_model(model_path)
    commit = ", ".join(sorted({str(name)[:12] for name in ([run["commit"]] if "commit" in run else [source.commit for source in model.sources])}))
    taken: set[str] = set()
    cases = [_case(key, pareto, dvfs, layers, model, commit, taken) for key in pareto[list(CASE)].drop_duplicates().itertuples(index=False, name=None)]

    everywhere = _caption(pareto, model, commit) + f"; {', '.join(pareto['dram'].unique())}"
    fronts, energies = [front_chart(case) for case in cases], [energy_chart(case) for case in cases]
    shares, errors = shares_chart(cases, everywhere), errors_chart(model, f"{model.technology}, {model.process}, {model.temperature_c:g} °C; commit {commit}")
    per_case = [layers_charts(case, taken) for case in cases]
    sweeps = [folded(case.dvfs, "Sweeps", f"sweeps-{case.key}", _SAME) for case in cases]
    best = [folded(case.best, "Sweep", f"sweep-{case.key}", _SAME) for case in cases]
    sections = [
        ("explorer", "Explore", explorer(_explorer_data(explore_dir / "points.parquet", cases, run, placements)) + _schedules(cases, schedules)),
        ("summary", "Summary", _summary(cases, model, pareto) + figure(shares) + "".join(_points_table(case) for case in cases)),
        ("front", "Pareto fronts and voltage sweeps", _FRONT + "".join(map(figure, fronts, sweeps))),
        ("energy", "Where the energy goes", _ENERGY + "".join(map(figure, energies, best))),
        ("layers", "What bounds each layer", _layers(cases, per_case)),
        ("errors", "Fit errors", _errors(model, errors)),
        ("provenance", "Provenance", _provenance(run, model)),
    ]
    charts = [shares, *fronts, *energies, *(chart for some in per_case for chart in some), errors]
    write_page(page(sections), charts, fronts, out_dir, headline)
    return out_dir / "index.html"


def _explorer_data(path: Path, cases: Sequence[CaseResults], run: dict, placements: Path | None) -> dict:
    """What page/explorer.js reads: packed points of every case and what is the same for all."""
    packed = []
    for case in cases:
        first = case.pareto.iloc[0]
        key = {name: first[name].item() if hasattr(first[name], "item") else first[name] for name in CASE}
        same = {name: str(first[name]) for name in CONDITIONS}
        points = packed_case(path, key, case.dvfs[case.dvfs["sweep"] == "dvfs"], LIMIT // len(cases))
        packed.append(key | {"key": case.key, "caption": case.caption, "same": same} | points)
    names = sorted({name for case in packed for name in case["names"]})
    return {
        "cases": packed, "case_columns": list(CASE), "parts": list(ENERGIES), "palette": PALETTE, "design": design_form(run),
        "pictures": {} if placements is None else read_pictures(placements, names),
    }  # fmt: skip


def _schedules(cases: Sequence[CaseResults], schedules: pd.DataFrame | None) -> str:
    """The rows of each case, for the panel of the chosen architecture and to download."""
    if schedules is None:
        return ""
    parts = []
    for case in cases:
        own = {name: case.pareto.iloc[0][name] for name in ("network", "batch", "dram")}
        rows = schedules[(schedules[list(own)] == list(own.values())).all(axis=1)]
        if len(rows):
            parts.append(folded(rows, f"Schedules of {case.name}", f"schedules-{case.key}", _SAME))
    return "".join(parts)


def _read(path: Path, columns: Sequence[str]) -> pd.DataFrame:
    """The table, whose `columns` must be there, complete and of the right kind; the others are kept."""
    try:
        frame = pd.read_csv(path, keep_default_na=False)
    except FileNotFoundError:
        raise ConfigError(f"table must exist, not be absent ({path}); run `voltfront explore`") from None
    except (OSError, ValueError) as error:
        raise ConfigError(f"table must be readable CSV ({path}): {' '.join(str(error).split())}; run `voltfront explore` again") from None
    missing = [name for name in columns if name not in frame]
    if missing:
        raise ConfigError(f"columns must include {missing[0]}, not lack it ({path}); run `voltfront explore` again")
    if frame.empty:
        raise ConfigError(f"table must have rows, not be empty ({path}); run `voltfront explore` again")
    for name in columns:
        if name in TEXTS:
            frame[name] = frame[name].astype(str)
        elif not pd.api.types.is_numeric_dtype(frame[name]) or not frame[name].abs().lt(float("inf")).all():
            raise ConfigError(f"values of {name} must be finite numbers, not others ({path}); run `voltfront explore` again")
    return frame


def _read_points(path: Path, more: tuple[str, ...] = ()) -> pd.DataFrame:
    """Exploration points of this version, whose parts of the energy add up to power_w x latency_s."""
    points = _read(path, (*more, *POINT_COLUMNS))
    if (points["points_version"] != POINTS_VERSION).any():
        raise ConfigError(f"points_version must be {POINTS_VERSION}, not {points['points_version'].max()} ({path}); run `voltfront explore` again")
    energy_j, parts_j = points["power_w"] * points["latency_s"], sum(part(points) for part in ENERGIES.values())
    wrong = (parts_j / energy_j - 1).abs() > 1e-3
    if wrong.any():
        found, whole = parts_j[wrong].iloc[0], energy_j[wrong].iloc[0]
        raise ConfigError(
            f"parts of the energy must add up to {whole:.4g} J, not {found:.4g} J ({path}, row {wrong.idxmax() + 2}); run `voltfront explore` again"
        )
    return points


def _case(key: tuple, pareto: pd.DataFrame, dvfs: pd.DataFrame, layers: pd.DataFrame, model: FittedModel, commit: str, taken: set[str]) -> CaseResults:
    """The rows of one case; raises `ConfigError` if there is no DVFS sweep for it."""
    own, sweeps = (table[(table[list(CASE)] == key).all(axis=1)] for table in (pareto, dvfs))
    named = dict(zip(CASE, key, strict=True))
    name = f"{named['network']}, batch {named['batch']}"
    if not (sweeps["sweep"] == "dvfs").any():
        raise ConfigError(f"dvfs.csv must have a DVFS sweep of each case, not none of {name}, {named['dram']}; run `voltfront explore` again")
    parts = layers[(layers[["network", "batch", "dram"]] == [named[name] for name in ("network", "batch", "dram")]).all(axis=1)]
    caption = f"{_caption(own, model, commit)}; {name}, {named['precision']}; {named['dram']}"
    return CaseResults(name=name, key=unique_key(f"{named['network']}-b{named['batch']}", taken), caption=caption, pareto=own, dvfs=sweeps, layers=parts)


def _caption(points: pd.DataFrame, model: FittedModel, commit: str) -> str:
    """Technology, corner, margin and commit of `points`, for under a figure."""

    def values(name: str, unit: str) -> str:
        found = sorted(points[name].unique())
        return (f"{found[0]:g}" if len(found) == 1 else f"{found[0]:g} to {found[-1]:g}") + unit

    names, (low, high) = [", ".join(points[name].unique()) for name in ("technology", "process")], model.voltage_range_v
    return (
        f"{names[0]}, {names[1]}, {values('temperature_c', ' °C')}, back bias {values('back_bias_v', ' V')}, core {low:g} to {high:g} V, "
        f"frequency margin {values('margin', '')}, wires: {model.layout}; commit {commit}"
    )


_FRONT = (
    "<p>Each point is an architecture at a supply voltage and the highest frequency it allows there, less the margin. Solid lines follow one "
    "architecture through the voltages (DVFS), a line for each back bias; dashed lines keep its nominal voltage and lower the frequency only. "
    "Efficiency is of the whole system: core, memory side and DRAM. The DVFS effectiveness is the hypervolume that the voltage sweep adds to the "
    "frequency-only sweep, over the hypervolume of the front. The name of an architecture holds rows, columns, lanes, accumulator depth, multiplier "
    "stages, post lanes, bytes of the activation, weight and output banks, and bits of the AXI bus.</p>"
)
_ENERGY = "<p>Along the voltages of the architecture with the highest DVFS effectiveness. The energy of the DRAM does not scale with the core's voltage.</p>"


def _summary(cases: Sequence[CaseResults], model: FittedModel, pareto: pd.DataFrame) -> str:
    marks = [
        f"<strong>Provisional:</strong> the figures of {escaped(', '.join(model.provisional))} rest on provisional constants." if model.provisional else "",
        f"<strong>Wires:</strong> {escaped(_WIRES.get(model.layout, model.layout))}.",
        "<strong>Modelled:</strong> points come from laws fitted to RTL simulation, synthesis, timing and replayed activity, not from silicon; "
        "the errors are below.",
    ]
    if pareto["provisional"].any():
        marks.append(f"<strong>Provisional points:</strong> {int(pareto['provisional'].sum())} of {len(pareto)} points below use provisional figures.")
    found = []
    for case in cases:
        best = case.pareto.loc[case.pareto["efficiency_gops_w"].idxmax()]
        found.append(
            f"<li>{escaped(case.name)}: up to {best['efficiency_gops_w']:.4g} GOPS/W at {best['throughput_ips']:.4g} inferences/s ({best['vdd_v']:.2f} V, "
            f"{best['freq_hz'] / 1e6:.0f} MHz; {escaped(best['architecture'])}); the DRAM spends {dram_share(best):.0%} of the energy.</li>"
        )
    return (
        "<p>Which accelerator architecture, at which supply voltage and clock frequency, gives the best trade between throughput and energy efficiency "
        "when the off-chip DRAM does not scale with the core. GOPS count two operations for each multiply-accumulate of the network.</p>"
        f"<p>{escaped(_technology(model.technology))}</p><ul>{''.join(f'<li>{mark}</li>' for mark in marks if mark)}</ul><ul>{''.join(found)}</ul>"
    )


_WIRES = {"fanout": "not placed; capacitance estimated from the fan-out", "placed": "capacitance from placement"}


def _technology(name: str) -> str:
    """What kind of technology the numbers are for."""
    if name not in technology_names():
        return f"Technology {name}: supplied by the user."
    technology = load_technology(name)
    kind = "Predictive technology (a model, not foundry data)" if technology.predictive else "Technology"
    return f"{kind} {name}: {' '.join(technology.description.split())}"


_SUMMARY_COLUMNS = {
    "vdd_v": ("supply (V)", 1), "freq_hz": ("frequency (MHz)", 1e-6), "throughput_ips": ("inferences/s", 1), "throughput_gops": ("GOPS", 1),
    "efficiency_gops_w": ("GOPS/W", 1), "efficiency_gops_w_lo": ("GOPS/W, 90 % low", 1), "efficiency_gops_w_hi": ("GOPS/W, 90 % high", 1),
    "core_efficiency_gops_w": ("core GOPS/W", 1), "latency_s": ("latency of a batch (ms)", 1e3), "power_w": ("power (mW)", 1e3),
    "area_um2": ("area (mm²)", 1e-6),
}  # fmt: skip


def _points_table(case: CaseResults) -> str:
    front = case.pareto.sort_values("throughput_ips", kind="stable")
    header = ["architecture", *(label for label, _ in _SUMMARY_COLUMNS.values()), "bound by", "provisional"]
    rows = [
        (row["architecture"], *(float(row[name] * scale) for name, (_, scale) in _SUMMARY_COLUMNS.items()), row["bound"], "yes" if row["provisional"] else "no")
        for _, row in front.iterrows()
    ]
    return f"<h3>{escaped(case.name)}: {len(rows)} Pareto points</h3>" + table(case.caption, header, rows)


def _layers(cases: Sequence[CaseResults], charts: Sequence[Sequence[Chart]]) -> str:
    parts = ["<p>Time of each layer at selected Pareto points; the colour says what sets its pace.</p>"]
    for case, own in zip(cases, charts, strict=True):
        parts += [figure(chart) for chart in own] or [f"<p>{escaped(case.name)}: no layers were recorded.</p>"]
        if own:
            parts.append(folded(case.layers, f"Layers of {case.name}", f"layers-{case.key}", _SAME))
    return "".join(parts)


def _summary_cells(errors: ErrorSummary | None) -> tuple[str, ...]:
    if errors is None:
        return ("nothing left out",) + ("",) * 4
    return (*(f"{value:.2%}" for value in (errors.mean, errors.median, errors.p90, errors.worst)), f"{errors.rows} of {errors.groups}")


def _share(value: float | None, form: str = ".2%") -> str:
    return "" if value is None else format(value, form)


_ERROR_HEADER = ("mean", "median", "90th percentile", "worst", "rows of groups")


def _errors(model: FittedModel, chart: Chart) -> str:
    laws = [(f"{block}: {quantity}", unit, law, rows, variants, *_summary_cells(e)) for block, quantity, unit, law, rows, variants, e in left_out_errors(model)]
    whole = [
        (f"{c.quantity} ({c.split})", *_summary_cells(c.model), _share(c.ideal.mean if c.ideal else None), _share(c.rank_correlation, ".3f"),
         _share(c.interval_coverage), c.outside_range)
        for c in model.validation
    ]  # fmt: skip
    delay = [(f"{name}{' (chosen)' if name == model.delay_law.chosen else ''}", *_summary_cells(e)) for name, e in model.delay_law.left_out_voltages.items()]
    cycles = [("cycles of a layer", *_summary_cells(model.cycles.left_out), model.cycles.rows, model.cycles.layers)] if model.cycles else []
    odd = [
        (f"{block}: {law.quantity}, {number.name}", number.status)
        for block, fitted in model.blocks.items()
        for law in fitted.laws.values()
        for number in (*law.terms, *law.voltage_parameters)
        if number.status in ("at_bound", "assumed")
    ]
    ideal = ("ideal model's mean", "rank correlation", "inside the 90 % interval", "extrapolated")
    tables = (
        ("Laws of the blocks", ("law", "unit", "voltage law", "rows", "variants", *_ERROR_HEADER), laws),
        ("Whole designs", ("quantity", *_ERROR_HEADER, *ideal), whole),
        ("Cycles, against the counters of the RTL", ("quantity", *_ERROR_HEADER, "rows fitted", "layers"), cycles),
        ("Delay laws at voltages left out", ("law", *_ERROR_HEADER), delay),
        ("Parameters that the data did not settle", ("parameter", "status"), odd),
    )
    return (
        "<p>Errors are relative, of predictions of variants, designs, voltages or layers that took no part in the fit that predicts them.</p>"
        + figure(chart)
        + "".join(table(*one) if one[2] else f"<p>{one[0]}: none.</p>" for one in tables)
    )


def _flat(value: object, name: str = "") -> list[tuple[str, object]]:
    """Nested mappings and lists as (dotted name, value) pairs."""
    if isinstance(value, dict):
        return [pair for key in sorted(value, key=str) for pair in _flat(value[key], f"{name}.{key}" if name else str(key))]
    if isinstance(value, list):
        return [pair for i, item in enumerate(value) for pair in _flat(item, f"{name}[{i}]")]
    return [(name, value)]


def _provenance(run: dict, model: FittedModel) -> str:
    parts = [table("The exploration (run.json)", ("entry", "value"), _flat(run))]
    for source in model.sources:
        parts.append(table(f"Table fitted: {source.path}", ("entry", "value"), _flat(source.model_dump(mode="json"))))
    stages = ", ".join(f"<code>voltfront {stage}</code>" for stage in ("characterize", "fit", "explore", "report"))
    parts.append(f"<p>To make it again: <code>make run</code>, or stage by stage {stages}.</p>")
    return "".join(parts)
