"""The same accelerator in several technologies: `python -m flow.comparison` writes docs/comparison.md and its figure.

The design of a plan is synthesized, placed, timed and its activity replayed in every technology whose Liberty files are found, at each
corner that they cover. Its memories are flip-flops of the technology's own cells everywhere, also where there are figures of memory macros, so
that what is compared is of one kind. Tables of all rows and paths lie in `--tables`, as `voltfront fit` reads them.
"""

import hashlib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, fields
from fnmatch import fnmatchcase
from pathlib import Path

import click

from flow.cache import DEFAULT_CACHE
from flow.characterize import kept_shard
from flow.corner import Corner
from flow.files import write_text_whole, write_whole
from flow.liberty_text import read_text
from flow.plan import Plan, load_plan
from flow.shards import Shard, assemble
from flow.tech import Technology, load_technology, read_corner
from hw.errors import ConfigError, ToolError

TECHNOLOGIES = ("fdsoi28p", "asap7", "sg13g2", "sky130")
PAGE = Path("docs/comparison.md")
_WHOLE, _ELEMENT = "accelerator", "pe"


@dataclass(frozen=True, kw_only=True)
class Point:
    """A technology's accelerator at a corner. Energies are dynamic and of the core's clock domain, memories included, the memory side not;
    leakage and area are those of all."""

    technology: str
    corner: Corner
    fmax_hz: float
    energy_per_mac_j: float
    array_energy_per_mac_j: float
    """The share of the processing elements."""
    leakage_w: float
    area_um2: float


@dataclass(frozen=True, kw_only=True)
class Measured:
    """A technology with those corners only that are measured, and the names of the others with the reason."""

    technology: Technology
    points: tuple[Point, ...]
    shard: Shard
    missing: Mapping[str, str]


def present(technology: Technology, patterns: Sequence[str] = ("*",)) -> tuple[Technology | None, dict[str, str]]:
    """The technology with flip-flops for memories and the corners to measure: those whose files exist and whose names match one of `patterns`, and
    the one that synthesis maps for; None without its files. And the names of the other corners, with the reason."""
    kept, missing = [], {}
    nominal = technology.liberty_corner(technology.nominal_corner())
    for known in technology.known_corners:
        name = known.at_sram(known.vdd_v).logic_name
        if not all(Path(file).is_file() for file in known.liberty):
            missing[name] = "its files were not found"
        elif known != nominal and not any(fnmatchcase(name, pattern) for pattern in patterns):
            missing[name] = "left out by --corner"
        else:
            kept.append(known)
    return (technology.model_copy(update={"corners": tuple(kept), "sram": None}) if nominal in kept else None), missing


def measure(
    plan: Plan, technology: Technology, *, folder: Path, missing: Mapping[str, str] | None = None, command: str = "", cache: Path = DEFAULT_CACHE
) -> Measured:
    """The first design of `plan` in `technology`, as returned by `present`, at all its corners: from its shard in `<folder>/<technology>` if that was
    measured on the same design, plan, RTL and technology, else measured and kept there."""
    corners = tuple(known.at_sram(known.vdd_v) for known in technology.corners)
    shard = kept_shard(plan.designs[0], plan, technology, corners, folder / technology.name, cache=cache, command=command)
    return Measured(technology=technology, points=points(shard, plan), shard=shard, missing=missing or {})


def points(shard: Shard, plan: Plan) -> tuple[Point, ...]:
    """What the rows of a shard of the first design of `plan` say at each corner, in their order."""
    config, found = plan.designs[0], []
    macs = plan.runs[0].window.shape(config).macs * plan.runs[0].window.batch
    useful = macs / shard.cycles[0]["multiplier_uses"]
    workload = plan.activity[0].name
    for whole in (row for row in shard.corners if row["block"] == _WHOLE):
        corner = Corner(**{field.name: whole[field.name] for field in fields(Corner)})
        here = [r for r in shard.corners if r["workload"] == workload and r["block"] != _WHOLE and all(r[n] == whole[n] for n in vars(corner))]
        core = [row for row in here if row["domain"] == "core"]
        elements = _elements(here)
        macs_per_cycle = _busy(elements) * config.multipliers * useful
        found.append(
            Point(
                technology=whole["technology"], corner=corner, fmax_hz=1 / whole["min_period_s"], leakage_w=whole["leakage_w"],
                energy_per_mac_j=_energy_per_cycle_j(core) / macs_per_cycle, array_energy_per_mac_j=_energy_per_cycle_j(elements) / macs_per_cycle,
                area_um2=whole["area_um2"],
            )
        )  # fmt: skip
    if not found:
        raise ToolError(f"rows of design {shard.design} must hold the whole design, not only blocks; measure it again")
    return tuple(found)


def _elements(rows: Sequence[dict]) -> list[dict]:
    return [row for row in rows if row["block"] == _ELEMENT]


def _busy(rows: Sequence[dict]) -> float:
    """Share of the recorded cycles of the blocks of `rows` in which they work."""
    return sum(row["cycles"] for row in rows if row["phase"] == "active") / sum(row["cycles"] for row in rows)


def _energy_per_cycle_j(rows: Sequence[dict]) -> float:
    """Energy of a mean cycle of the blocks of `rows`, their phases weighted with the cycles spent in them."""
    total: dict[str, int] = {}
    for row in rows:
        total[row["module"]] = total.get(row["module"], 0) + row["cycles"]
    return sum(row["energy_per_cycle_j"] * row["instances"] * row["cycles"] / total[row["module"]] for row in rows)


# --- the page ------------------------------------------------------------------------------------

_INTRO = """# One accelerator in {count} technologies

Generated by `{command}`, source tree `{commit}`; do not edit. `PDK_ROOT` names the folder of the installed PDKs; a technology may
also be given as a YAML file ([own PDK](own-pdk.md)).

* Design: `flow/plans/{plan}.yaml`, {multipliers} multipliers of {activation_bits} x {weight_bits} bits in {rows} x {cols} elements. **All its memories are
  flip-flops of the technology's own cells**, because figures of memory macros of one kind do not exist for all. Its buffers are
  small for that.
* Workload: `{workload}`, {cycles} recorded core cycles, in which the elements work {busy:.0%} of the time.
* Mapped once, for the nominal corner of each technology, and placed, not routed; then timed and evaluated at each corner below,
  with the Liberty file of that corner: nothing is interpolated or extrapolated. The last table also names the corners that are
  not measured. Clock trees are estimated, glitches simulated in the elements.
* fmax: longest path between registers of the core clock, a tenth of the clock tree's delay added as skew, no margin. Energy per MAC:
  dynamic, of all that the core clock drives, over the useful multiply-accumulates; the memory side (AXI masters, crossings) has a
  clock of its own and is left out. Leakage and area: everything.
* Predictive, no products: {predictive}. Where process, voltage and temperature change together, only rows of one process and
  temperature are a series of voltages. Wire capacitance and resistance (one figure a technology) and utilization are provisional in
  all, with their sources in `flow/tech`.
* Cells, row height and wires decide as much as the process does: this compares cell libraries as this flow uses them.
"""


def page(plan: Plan, measured: Sequence[Measured], absent: Sequence[str], *, command: str, figure: str) -> str:
    """The whole page as Markdown; `absent` are lines about technologies that were not found."""
    config, first = plan.designs[0], measured[0]
    commits = " ".join(sorted({one.shard.commit for one in measured}))
    intro = _INTRO.format(
        count=len(measured), command=command, commit=commits, plan=plan.name, multipliers=config.multipliers, rows=config.array.rows,
        cols=config.array.cols, workload=plan.activity[0].name, cycles=plan.activity_cycles, busy=_busy(_elements(first.shard.corners)),
        predictive=", ".join(one.technology.name for one in measured if one.technology.predictive) or "none", **dict(config.precision),
    )  # fmt: skip
    parts = [intro]
    if absent:
        parts.append("Not found, and so not in the tables:\n\n" + "\n".join(f"* {line}" for line in absent) + "\n")
    parts += [f"![fmax, energy per MAC, leakage and area against the supply]({figure})\n", "## Corners\n", *_corner_rows(measured), ""]
    parts += ["## At the nominal corner\n", *_nominal_rows(measured), "", "## Where the numbers come from\n"]
    parts += ["SHA-256 of each Liberty file, unpacked, first 16 digits; several files a corner hold the cells together.\n", *_source_rows(measured), ""]
    tools = ", ".join(f"{name} {version}" for name, version in sorted(first.shard.tools.items()))
    return "\n".join([*parts, f"Tools: {tools}.", ""])


def _corner_rows(measured: Sequence[Measured]) -> list[str]:
    rows = ["| technology | process | V | C | bias V | fmax MHz | energy per MAC, pJ | of it elements, pJ | leakage, uW | area, mm2 |", "| --- " * 10 + "|"]
    for one in measured:
        for p in sorted(one.points, key=_order):
            c = p.corner
            rows.append(
                f"| {p.technology} | {c.process} | {c.vdd_v:g} | {c.temperature_c:g} | {c.back_bias_v:+g} | {p.fmax_hz / 1e6:.4g} "
                f"| {p.energy_per_mac_j * 1e12:.4g} | {p.array_energy_per_mac_j * 1e12:.4g} | {p.leakage_w * 1e6:.4g} | {p.area_um2 / 1e6:.4g} |"
            )
    return rows


def _order(point: Point) -> tuple:
    c = point.corner
    return (not c.process.startswith("t"), c.process, c.temperature_c, c.back_bias_v, c.vdd_v)


def _nominal_rows(measured: Sequence[Measured]) -> list[str]:
    """Each technology at the corner it is mapped for, beside the first one."""
    rows = [
        "| technology | corner | fmax MHz | energy per MAC, pJ | leakage, uW | area, mm2 | area over that of NAND2 | fmax / first | energy / first |",
        "| --- " * 9 + "|",
    ]
    chosen = [next(p for p in one.points if p.corner == one.technology.nominal_corner()) for one in measured]
    for one, p in zip(measured, chosen, strict=True):
        nand2_um2 = _nand2_um2(one.technology)
        rows.append(
            f"| {p.technology} | {p.corner.logic_name} | {p.fmax_hz / 1e6:.4g} | {p.energy_per_mac_j * 1e12:.4g} | {p.leakage_w * 1e6:.4g} "
            f"| {p.area_um2 / 1e6:.4g} | {p.area_um2 / nand2_um2:.0f} | {p.fmax_hz / chosen[0].fmax_hz:.3g} "
            f"| {p.energy_per_mac_j / chosen[0].energy_per_mac_j:.3g} |"
        )
    return rows


def _nand2_um2(technology: Technology) -> float:
    return read_corner(technology, technology.nominal_corner()).cells[technology.cells.nand2].area_um2


def _source_rows(measured: Sequence[Measured]) -> list[str]:
    rows = ["| technology | corner | Liberty file | sha256 |", "| --- " * 4 + "|"]
    for one in measured:
        for known in one.technology.corners:
            corner = known.at_sram(known.vdd_v).logic_name
            rows += [f"| {one.technology.name} | {corner} | {_plain_name(Path(file))} | {liberty_hash(Path(file))} |" for file in known.liberty]
        rows += [f"| {one.technology.name} | {name} | not measured: {why} | |" for name, why in one.missing.items()]
    return rows


def _plain_name(path: Path) -> str:
    return path.name.removesuffix(".gz")


def liberty_hash(path: Path) -> str:
    """The first 16 digits of the SHA-256 of the text of a Liberty file, however it is packed."""
    return hashlib.sha256(read_text(path).encode()).hexdigest()[:16]


def draw(measured: Sequence[Measured], path: Path) -> None:
    """A panel a quantity against the supply: a colour a technology, a line for each series of one process, temperature and bias."""
    import matplotlib

    matplotlib.use("Agg")
    import matplotlib.pyplot as plt

    panels_of = (
        ("fmax, MHz", lambda p: p.fmax_hz / 1e6), ("energy per MAC, pJ", lambda p: p.energy_per_mac_j * 1e12), ("leakage, uW", lambda p: p.leakage_w * 1e6),
        ("area, mm2", lambda p: p.area_um2 / 1e6),
    )  # fmt: skip
    figure, panels = plt.subplots(1, 4, figsize=(14, 3.8), layout="constrained")
    for panel, (title, value) in zip(panels, panels_of, strict=True):
        for number, one in enumerate(measured):
            series: dict[tuple, list[Point]] = {}
            for p in sorted(one.points, key=_order):
                series.setdefault(_order(p)[:-1], []).append(p)
            for key, found in series.items():
                first = key == next(iter(series))
                panel.plot(
                    [p.corner.vdd_v for p in found], [value(p) for p in found], "o-" if not key[0] else "x--", color=f"C{number}", lw=1, ms=4,
                    alpha=1.0 if first else 0.5, label=one.technology.name if first else None,
                )  # fmt: skip
        panel.set(title=title, xlabel="supply, V", yscale="log")
    panels[0].legend(fontsize=8, title="solid: typical process", title_fontsize=7)
    figure.savefig(path, dpi=110, format="png", metadata={"Software": None})
    plt.close(figure)


@click.command()
@click.option("--technology", "names", multiple=True, help="A technology of flow/tech, or a YAML file; may be given again.  [default: all four of the page]")
@click.option("--corner", "patterns", multiple=True, help="Shell pattern of corners to measure, such as 'tt_*'; may be given again.  [default: all]")
@click.option("--plan", default="comparison", show_default=True, help="The plan whose first design is compared.")
@click.option("--out", type=click.Path(path_type=Path), default=PAGE, show_default=True, help="The page; its figure lies beside it.")
@click.option("--tables", type=click.Path(path_type=Path), default=Path("build/comparison"), show_default=True, help="Folder of what is measured.")
def main(names: tuple[str, ...], patterns: tuple[str, ...], plan: str, out: Path, tables: Path) -> None:
    """Measure the same accelerator in each technology that is found, and write the page; resumes where it was stopped."""
    wanted, chosen = load_plan(plan), names or TECHNOLOGIES
    options = [*(f"--technology {name}" for name in names), *(f"--corner '{pattern}'" for pattern in patterns)]
    options += [f"--plan {plan}"] if plan != "comparison" else []
    command = " ".join(["python -m flow.comparison", *options]) if options else "make comparison"
    measured, absent = [], []
    for name in chosen:
        known = load_technology(name)
        technology, missing = present(known, patterns or ("*",))
        if technology is None:
            absent.append(f"{known.name}: the files of its nominal corner were not found; set PDK_ROOT to the folder of installed PDKs")
            click.echo(f"comparison: {absent[-1]}", err=True)
            continue
        click.echo(f"comparison: {technology.name}, {len(technology.corners)} corners", err=True)
        measured.append(measure(wanted, technology, folder=tables, missing=missing, command=command))
        assemble([measured[-1].shard], technology=technology.name, tables=tables)
    if not measured:
        raise ConfigError(f"technologies must have their Liberty files, not none of {', '.join(chosen)}; set PDK_ROOT to the folder of installed PDKs")
    figure = out.with_suffix(".png")
    write_whole(figure, lambda path: draw(measured, path))
    write_text_whole(out, page(wanted, measured, absent, command=command, figure=figure.name))
    click.echo(out)


if __name__ == "__main__":
    main()
