"""`python -m fit.cycle_campaign`: random (design, layer, tiling, clock ratio, DRAM) cases on the RTL, and the cycle model beside them.

`simulate calibration` and `simulate validation` write the two tables that ship (fit/campaign): the model is fitted on the first, and has seen
nothing of the second, a third of whose designs besides are in no other table. Finished cases are in the cache, so that an interrupted
run goes on. `page` writes docs/cycles.md from both, without simulating.
"""

from collections.abc import Mapping
from itertools import islice
from pathlib import Path

import click
import numpy as np
import pandas as pd

from fit.cycle_cases import case_row, cases, operator_of, simulated_row
from fit.cycle_fit import CALIBRATION, FRESH, cases_of, fit_cycles, predict_cases
from fit.cycles import BOUNDS
from fit.explain import number_text
from fit.model import ErrorSummary
from fit.transfers import instructions
from flow.characterize import source_commit
from flow.files import write_text_whole, write_whole
from flow.plan import load_plan
from flow.simulation import emit_rtl
from flow.table import CYCLE_COLUMNS, Provenance, read_table, write_table
from flow.tools import tool_version
from hw.config import AcceleratorConfig, load_design
from hw.layers import LayerShape
from hw.lowering import LoweredLayer
from hw.registers import EVENTS
from hw.tiling import Architecture, Tiling, Traffic

TARGET_MEAN, TARGET_WORST = 0.01, 0.05
SEEN, UNSEEN = ("quad64",), ("small", "medium", "quad256")
"""Designs besides the plan's: with kept words, and those that only the validation half has."""
SEEDS = {"calibration": 1, "validation": 2}
TABLES = {"calibration": CALIBRATION, "validation": FRESH}
LARGE_CYCLES = 5000
"""From so many cycles on a case counts as a large one in the page."""


def designs(half: str) -> list[AcceleratorConfig]:
    """The designs of a half; of the validation half the unseen ones stand three times, so that about half of its cases are of them."""
    plan = load_plan("quick")
    # The large ones take minutes a case, and what is drawn depends on how many there are.
    seen = [*(design for design in plan.designs if design.name not in plan.supplies_only), *map(load_design, SEEN)]
    return seen if half == "calibration" else [*(load_design(name) for name in UNSEEN)] * 3 + seen


@click.group()
def main() -> None:
    """Random cases of the cycle model on the RTL."""


@main.command()
@click.argument("half", type=click.Choice(list(SEEDS)))
@click.option("--cases", "count", default=260, show_default=True)
@click.option("--out", type=click.Path(path_type=Path), help="Table. [default: the one that ships]")
def simulate(half: str, count: int, out: Path | None) -> None:
    """Simulate a half of the campaign; a few seconds a case, and minutes for the first of each design. Cases that the table has from the same RTL are
    taken from there."""
    out, rows = out or TABLES[half], []
    inputs = {config.name: emit_rtl(config).content_hash for config in designs(half)}
    known = known_rows(out, inputs)
    for config, case in islice(cases(designs(half), SEEDS[half]), count):
        rows.append(known.get(_named(case_row(config, case, dict.fromkeys(EVENTS, 0)))) or simulated_row(config, case))
        click.echo(f"{len(rows):4} {config.name:8} {rows[-1]['layer']:50} {rows[-1]['core_cycles']:7} cycles")
    command = f"python -m fit.cycle_campaign simulate {half} --cases {count}"
    origin = Provenance(commit=source_commit(), command=command, tools={"verilator": tool_version("verilator")}, inputs=inputs)
    write_table(pd.DataFrame(rows)[list(CYCLE_COLUMNS)], CYCLE_COLUMNS, out, origin)


def known_rows(table: Path, inputs: Mapping[str, str]) -> dict[tuple, dict]:
    """The rows of a table by what they are measured of, without those of designs whose RTL was not that of `inputs` (SHA-256 by design)."""
    if not table.exists():
        return {}
    frame, origin = read_table(table, CYCLE_COLUMNS)
    same = frame["design"].map(lambda name: name in inputs and origin.inputs.get(name) == inputs[name])
    return {_named(row): row for row in frame[same].to_dict("records")}


def _named(row: Mapping) -> tuple:
    """What a row is measured of: all but its counters; periods in whole ps."""
    return tuple(round(value * 1e12) if isinstance(value, float) else value for name, value in row.items() if name not in EVENTS)


@main.command()
@click.option("--out", type=click.Path(path_type=Path), default="docs/cycles.md", show_default=True)
def page(out: Path) -> None:
    """Fit the calibration half and write the page of its errors on the validation half."""
    fitted, fitted_from = read_table(CALIBRATION, CYCLE_COLUMNS)
    fresh, fresh_from = read_table(FRESH, CYCLE_COLUMNS)
    model, _ = fit_cycles(fitted)
    coefficients = np.array([number.value for number in model.parameters])
    figure = out.with_suffix(".png")
    residuals = residual_table(fresh, coefficients, designs_seen=set(fitted["design"]))
    write_whole(figure, lambda path: draw(residuals, path))
    numbers = "\n".join(f"| {number.name} | {number_text(number)} | {number.formula} |" for number in model.parameters)
    text = f"""# Cycles: the closed form against the RTL

Generated by `make validate-cycles`; do not edit. Random layers (half of them windows of real ones) of all operators on random designs, with the compiler's
tiling or any legal one, core clocks of 125 MHz to 1.7 GHz beside memory clocks of 400 and 800 MHz, three DRAM parts; every output bit of every run was checked.

* Fitted on {len(fitted)} cases (source tree `{fitted_from.commit}`, `{fitted_from.command}`), tried on {len(fresh)} others
  (`{fresh_from.commit}`, `{fresh_from.command}`).
* {', '.join(UNSEEN)} are in the second set only.
* Limit: what the period of most steps is, by the model. Tiles differ where the last row or column of them, or the last of the channels, is
  smaller than the others; a step is a COMPUTE. A case counts as memory-bound if the array waits for loads, stores or the program in
  more than half of its cycles.

![Predicted over measured]({figure.name})

{summary(residuals)}

Larger than the target of {100 * TARGET_MEAN:g} % mean and {100 * TARGET_WORST:g} % worst. The worst cases:

{worst(residuals)}

## Coefficients

| name | value | meaning |
| --- | --- | --- |
{numbers}
"""
    write_text_whole(out, text)
    click.echo(out)


def residual_table(frame: pd.DataFrame, coefficients: np.ndarray, designs_seen: set[str]) -> pd.DataFrame:
    """One row a case of `frame`: its name, groups, measured and predicted cycles and the relative error."""
    rows = cases_of(frame)
    found = predict_cases(rows, coefficients)
    waiting = frame[["stall_load", "stall_store", "stall_program"]].sum(axis=1) / frame["core_cycles"]
    arch, layer = Architecture(*rows.architectures.T), LoweredLayer(*rows.layers.T)
    tiling, traffic = Tiling(*rows.tilings.T), Traffic(*rows.traffic.T)
    padded = instructions(arch, layer, tiling, traffic).fills > 0
    block = np.maximum(arch.cols, arch.lanes)
    sides = ((layer.out_h, arch.rows * tiling.tile_h), (layer.out_w, tiling.tile_w), (layer.c_groups, tiling.tile_c),
             (-(-layer.k_per_group // block) * block, tiling.tile_k))  # fmt: skip
    cut = np.any([(whole > tile) & (whole % tile > 0) for whole, tile in sides], axis=0)
    sizes = [name for name in LayerShape.model_fields if name in frame and name not in ("name", "kind")]
    shapes = [LayerShape.model_validate({"name": "row", "kind": row["kind"]} | {name: int(row[name]) for name in sizes}) for _, row in frame.iterrows()]
    return pd.DataFrame({
        "design": frame["design"], "layer": frame["layer"], "operator": [operator_of(shape) for shape in shapes], "measured": frame["core_cycles"],
        "predicted": found[:, 0], "error": found[:, 0] / frame["core_cycles"] - 1, "ratio": frame["core_period_s"] / frame["mem_period_s"],
        "waiting": np.where(waiting > 0.5, "memory-bound", "compute-bound"), "limit": [f"limit: {BOUNDS[int(i)]}" for i in found[:, 2]],
        "seen": np.where(frame["design"].isin(list(designs_seen)), "designs seen", "designs never seen"),
        "size": np.where(frame["core_cycles"] >= LARGE_CYCLES, f"{LARGE_CYCLES} cycles and more", f"less than {LARGE_CYCLES} cycles"),
        "steps": pd.cut(traffic.computes, [0, 4, 16, np.inf], labels=["1 to 4 steps", "5 to 16 steps", "17 steps and more"]),
        "computes": traffic.computes, "tiles": np.where(cut, "tiles that differ", "tiles all alike"),
        "padding": np.where(padded, "padding written", "no padding"), "dram": frame["dram"],
    })  # fmt: skip


def summary(residuals: pd.DataFrame) -> str:
    """Errors of all cases and of each group, as a table."""
    lines = ["| cases | number | mean | median | 90th percentile | worst |", "| --- " * 6 + "|"]
    groups = [("all", residuals)]
    for column in ("waiting", "seen", "size", "steps", "tiles", "padding", "operator", "limit", "dram"):
        groups += [(str(name), rows) for name, rows in residuals.groupby(column, observed=True)]
    for name, rows in groups:
        e = ErrorSummary.of(rows["error"], rows["design"])
        assert e is not None, "measured cycles are finite"
        lines.append(f"| {name} | {e.rows} | {100 * e.mean:.1f} % | {100 * e.median:.1f} % | {100 * e.p90:.1f} % | {100 * e.worst:.1f} % |")
    return "\n".join(lines)


def worst(residuals: pd.DataFrame, count: int = 12) -> str:
    """The cases with the largest errors, as a table."""
    lines = ["| design | layer | core / memory period | measured | predicted | error | |", "| --- " * 7 + "|"]
    for _, row in residuals.loc[residuals["error"].abs().sort_values(ascending=False).index].head(count).iterrows():
        cells = (row["design"], row["layer"], f"{row['ratio']:.2f}", row["measured"], f"{row['predicted']:.0f}", f"{100 * row['error']:+.1f} %", row["limit"])
        lines.append(f"| {' | '.join(map(str, cells))} |")
    return "\n".join(lines)


def draw(residuals: pd.DataFrame, path: Path) -> None:
    """The error of each case against its size and against the ratio of the clocks, a colour for what limits it."""
    import matplotlib

    matplotlib.use("Agg")
    import matplotlib.pyplot as plt

    figure, panels = plt.subplots(1, 2, figsize=(11, 4), layout="constrained", sharey=True)
    for panel, column, label in zip(panels, ("measured", "ratio"), ("core cycles on the RTL", "core period over memory period"), strict=True):
        for limit, rows in residuals.groupby("limit"):
            panel.semilogx(rows[column], 100 * rows["error"], ".", label=limit.removeprefix("limit: "))
        panel.axhline(0, color="0.6", lw=0.8)
        panel.set_xlabel(label)
    panels[0].set_ylabel("error of the model, %")
    panels[1].legend(fontsize=7, title="what limits most steps", title_fontsize=7)
    figure.savefig(path, dpi=110, format="png", metadata={"Software": None})
    plt.close(figure)


if __name__ == "__main__":
    main()
