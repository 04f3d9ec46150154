"""What the report shows, as charts, from the tables of an exploration and the fitted model."""

import re
from collections.abc import Iterable
from dataclasses import dataclass

import numpy as np
import pandas as pd

from explore.figures import GREY, PALETTE, Chart, Look, Series
from fit.model import ErrorSummary, FittedModel

CASE = ("network", "batch", "precision", "technology", "dram")
"""Results are compared within one case only."""

ENERGIES = {
    "core dynamic": lambda t: t["core_energy_j"] - t["core_leakage_energy_j"],
    "core leakage": lambda t: t["core_leakage_energy_j"],
    "memory side": lambda t: t["memory_side_energy_j"],
    "DRAM core": lambda t: t["dram_core_energy_j"],
    "DRAM I/O": lambda t: t["dram_io_energy_j"],
    "DRAM PHY": lambda t: t["dram_phy_energy_j"],
    "DRAM background": lambda t: t["dram_background_energy_j"],
    "DRAM refresh": lambda t: t["dram_refresh_energy_j"],
}
"""The parts of the energy of a batch; together they are the energy of the system."""


@dataclass(frozen=True, kw_only=True)
class CaseResults:
    """One case's rows of each table, its name and the line under its figures."""

    name: str
    key: str
    caption: str
    pareto: pd.DataFrame
    dvfs: pd.DataFrame
    layers: pd.DataFrame

    @property
    def best(self) -> pd.DataFrame:
        """The DVFS sweep of the architecture with the highest DVFS effectiveness, by rising voltage, at the least back bias."""
        sweeps = self.dvfs[self.dvfs["sweep"] == "dvfs"]
        top = sweeps.loc[sweeps["effectiveness"].idxmax()]
        own = sweeps[sweeps["architecture"] == top["architecture"]]
        return own[own["back_bias_v"].abs() == own["back_bias_v"].abs().min()].sort_values("vdd_v")


def unique_key(text: str, taken: set[str]) -> str:
    """`text` as a file name of lower-case letters, digits and dashes that is not `taken` yet; it is added."""
    plain = re.sub(r"[^a-z0-9]+", "-", text.lower()).strip("-")[:60] or "x"
    key = next(name for name in (plain, *(f"{plain}-{i}" for i in range(2, len(taken) + 3))) if name not in taken)
    taken.add(key)
    return key


def point(row: pd.Series) -> str:
    """A point in words, with units."""
    bias = f", back bias {row['back_bias_v']:g} V" if row["back_bias_v"] else ""
    return (
        f"{row['architecture']}; {row['vdd_v']:.2f} V{bias}, {row['freq_hz'] / 1e6:.0f} MHz: {row['throughput_ips']:.4g} inferences/s, "
        f"{row['throughput_gops']:.4g} GOPS, {row['efficiency_gops_w']:.4g} GOPS/W ({row['efficiency_gops_w_lo']:.4g} to {row['efficiency_gops_w_hi']:.4g}), "
        f"{row['power_w'] * 1e3:.4g} mW, {row['area_um2'] / 1e6:.3g} mm2, bound by {row['bound']}"
    )


def _floats(values: Iterable) -> tuple[float, ...]:
    return tuple(float(value) for value in values)


def front_chart(case: CaseResults) -> Chart:
    """The Pareto front with the DVFS sweeps, and the frequency-only sweeps dashed, of the architectures in `dvfs`."""
    front = case.pareto.sort_values("throughput_ips")
    series = [
        Series(
            name="Pareto front (bars: 90 % interval)", look="marks", color=GREY, x=_floats(front["throughput_ips"]), y=_floats(front["efficiency_gops_w"]),
            notes=tuple(point(row) for _, row in front.iterrows()), low=_floats(front["efficiency_gops_w_lo"]), high=_floats(front["efficiency_gops_w_hi"]),
        )
    ]  # fmt: skip
    order = case.dvfs.groupby("architecture", sort=False)["effectiveness"].max().sort_values(ascending=False, kind="stable")
    for i, (architecture, effectiveness) in enumerate(order.items()):
        own = case.dvfs[case.dvfs["architecture"] == architecture]
        looks: tuple[tuple[str, Look, str], ...] = (("frequency", "dashed", "frequency only"), ("dvfs", "line", "DVFS"))
        for sweep, look, label in looks:
            for bias_v, rows in own[own["sweep"] == sweep].sort_values("freq_hz").groupby("back_bias_v"):
                name = f"{label}: {architecture}" + (f", back bias {bias_v:g} V" if bias_v else "")
                name += f" (effectiveness {effectiveness:.3f})" if sweep == "dvfs" else ""
                x, y = _floats(rows["throughput_ips"]), _floats(rows["efficiency_gops_w"])
                notes = tuple(f"{label}. {point(row)}" for _, row in rows.iterrows())
                listed = sweep == "dvfs" and not bias_v
                series.append(Series(name=name, look=look, color=PALETTE[i % len(PALETTE)], symbol=i % 8, x=x, y=y, notes=notes, listed=listed))
    best, last = front.loc[front["efficiency_gops_w"].idxmax()], front.iloc[-1]
    return Chart(
        key=f"front-{case.key}", title=f"{case.name}: Pareto front and DVFS", caption=case.caption,
        alternative=f"{len(front)} Pareto points of {case.name}, from {best['throughput_ips']:.4g} inferences/s at {best['efficiency_gops_w']:.4g} GOPS/W to "
        f"{last['throughput_ips']:.4g} inferences/s at {last['efficiency_gops_w']:.4g} GOPS/W, with the voltage sweeps of {len(order)} architectures.",
        x_label="throughput (inferences/s)", y_label="system energy efficiency (GOPS/W)", series=tuple(series),
    )  # fmt: skip


def energy_chart(case: CaseResults) -> Chart:
    """Energy of an inference by part along the DVFS sweep of the architecture with the highest effectiveness."""
    sweep = case.best
    vdd = _floats(sweep["vdd_v"])
    parts = {name: _floats(value(sweep) / sweep["batch"] * 1e3) for name, value in ENERGIES.items()}
    total = np.sum(list(parts.values()), axis=0)
    series = []
    for i, (name, y) in enumerate(parts.items()):
        notes = tuple(f"{v:.2f} V: {name} {e:.4g} mJ of {t:.4g} mJ" for v, e, t in zip(vdd, y, total, strict=True))
        series.append(Series(name=name, look="area", color=PALETTE[i], x=vdd, y=y, notes=notes))
    least = int(np.argmin(total))
    edge = " (at the edge of the range)" if least in (0, len(vdd) - 1) else ""
    return Chart(
        key=f"energy-{case.key}", title=f"{case.name}: energy of an inference by part, {sweep['architecture'].iloc[0]}", caption=case.caption,
        alternative=f"Energy of an inference of {case.name} from {total[0]:.4g} mJ at {vdd[0]:.2f} V to {total[-1]:.4g} mJ at {vdd[-1]:.2f} V; least is "
        f"{total[least]:.4g} mJ at {vdd[least]:.2f} V{edge}, of which {dram_share(sweep.iloc[least]):.0%} is spent by the DRAM.",
        x_label="core supply (V)", y_label="energy (mJ / inference)", series=tuple(series),
    )  # fmt: skip


def dram_share(row: pd.Series) -> float:
    """Share of the DRAM in the energy of the system."""
    parts = {name: float(value(row)) for name, value in ENERGIES.items()}
    return sum(energy for name, energy in parts.items() if name.startswith("DRAM")) / sum(parts.values())


def shares_chart(cases: Iterable[CaseResults], caption: str) -> Chart:
    """Energy of an inference by part at the most efficient Pareto point of each case."""
    rows = {case.name: case.pareto.loc[case.pareto["efficiency_gops_w"].idxmax()] for case in cases}
    names = tuple(rows)
    series = []
    for i, (part, value) in enumerate(ENERGIES.items()):
        x = _floats(value(row) / row["batch"] * 1e3 for row in rows.values())
        notes = tuple(f"{name}: {part} {e:.4g} mJ / inference" for name, e in zip(names, x, strict=True))
        series.append(Series(name=part, look="bar", color=PALETTE[i], x=x, y=names, notes=notes))
    said = "; ".join(f"{name}: {dram_share(row):.0%}" for name, row in rows.items())
    return Chart(
        key="energy-shares", title="Energy of an inference at the most efficient point of each front", caption=caption,
        alternative=f"Share of the DRAM in the energy of an inference: {said}.", x_label="energy (mJ / inference)", y_label="",
        series=tuple(series), y_categories=names,
    )  # fmt: skip


def layers_charts(case: CaseResults, taken: set[str]) -> list[Chart]:
    """Time of each layer, coloured by what bounds it, for each chosen point in `layers` but those of the rest of the front."""
    bounds = sorted(case.layers["bound"].unique())
    charts = []
    for choice, rows in case.layers[~case.layers["choice"].str.startswith("front ")].groupby("choice", sort=False):
        names = tuple(dict.fromkeys(rows["layer"]))
        series = []
        for i, bound in enumerate(bounds):
            own = rows[rows["bound"] == bound]
            if own.empty:
                continue
            time = _floats(own["latency_s"] * 1e3)
            notes = tuple(f"{layer}: {t:.4g} ms, bound by {bound}" for layer, t in zip(own["layer"], time, strict=True))
            series.append(Series(name=f"bound by {bound}", look="bar", color=PALETTE[i % len(PALETTE)], x=time, y=tuple(own["layer"]), notes=notes))
        total = rows["latency_s"].sum()
        shares = (rows.groupby("bound")["latency_s"].sum() / total).sort_values(ascending=False, kind="stable")
        said = ", ".join(f"{bound} {share:.0%}" for bound, share in shares.items())
        first = rows.iloc[0]
        where = f"{choice} point, {first['architecture']}, {first['vdd_v']:.2f} V, {first['freq_hz'] / 1e6:.0f} MHz"
        charts.append(
            Chart(
                key=unique_key(f"layers-{case.key}-{choice}", taken), title=f"{case.name}: time of each layer, {where}", caption=case.caption,
                alternative=f"{len(names)} layers of {case.name} take {total * 1e3:.4g} ms a batch; share of the time by what bounds it: {said}.",
                x_label="time (ms / batch)", y_label="", series=tuple(series), y_categories=names,
            )
        )  # fmt: skip
    return charts


KINDS = {"delay": "_s", "energy": "energy_j", "leakage": "leakage_w", "area": "area_um2"}
"""Kinds of quantity in the chart of errors, by how their names end."""


def left_out_errors(model: FittedModel) -> list[tuple[str, str, str, str, int, int, ErrorSummary | None]]:
    """Of each law of each block: block, quantity, unit, voltage law, rows, variants and errors of variants left out in turn."""
    return [
        (block, law.quantity, law.unit, law.voltage_law, law.rows, law.variants, law.left_out)
        for block, fitted in model.blocks.items()
        for law in fitted.laws.values()
    ]


def errors_chart(model: FittedModel, caption: str) -> Chart:
    """Mean left-out error of each law, by block."""
    known = [(block, quantity, errors) for block, quantity, *_, errors in left_out_errors(model) if errors is not None]
    series = []
    for i, (kind, ending) in enumerate(KINDS.items()):
        own = [(b, q, e) for b, q, e in known if q.endswith(ending)]
        if own:
            notes = tuple(f"{b}, {q}: mean {e.mean:.1%}, 90 % of rows below {e.p90:.1%}, worst {e.worst:.1%}" for b, q, e in own)
            x, y = tuple(e.mean * 100 for _, _, e in own), tuple(b for b, _, _ in own)
            series.append(Series(name=kind, look="marks", color=PALETTE[i], symbol=i, x=x, y=y, notes=notes))
    worst = max(known, key=lambda item: item[2].mean, default=None)
    said = f"; the largest mean error is {worst[2].mean:.1%} ({worst[0]}, {worst[1]})" if worst else ""
    return Chart(
        key="fit-errors", title="Mean error of the fitted laws on variants left out of the fit", caption=caption,
        alternative=f"Mean relative errors of {len(known)} laws on variants left out in turn{said}.", x_label="mean left-out error (%)", y_label="",
        series=tuple(series), y_categories=tuple(model.blocks),
    )  # fmt: skip
