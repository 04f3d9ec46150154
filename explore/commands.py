"""`voltfront explore`, `voltfront report` and `voltfront run`, the whole job in one."""

import json
import shlex
import sys
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

import click

if TYPE_CHECKING:  # commands start in an instant if they import only what they need
    import pandas as pd

BUILD = Path("build")
REPORT = BUILD / "report"
PLACEMENTS = BUILD / "placements"
SHOWN = 8
"""Pareto points of each case that the terminal table shows at most."""

PATH = click.Path(path_type=Path)
TECHNOLOGY = click.option("--technology", default="fdsoi28p", show_default=True, help="Technology whose fitted model is used.")
SPACE = click.option("--space", default="default", show_default=True, help="A design space of explore/spaces, or a YAML file.")
MEM_CLK = click.option("--mem-clk-hz", type=float, default=800e6, show_default=True, help="Clock of the memory side, Hz.")
MARGIN = click.option("--margin", type=float, default=0.1, show_default=True, help="Part of fmax that is given away.")
OBJECTIVE = click.option(
    "--objective", type=click.Choice(["latency", "energy", "edp"]), default="latency", show_default=True, help="What each layer's tiling minimises."
)  # fmt: skip
NETWORK = click.option("--network", default="", help="Networks, by name, YAML or ONNX file, separated by commas.  [default: alexnet_conv,alexnet]")
BATCH = click.option("--batch", default="1,16", show_default=True, help="Batch sizes, separated by commas.")
DRAM = click.option("--dram", default="lpddr3_1600_x32", show_default=True, help="A DRAM part of hw/dram_parts, or a YAML file.")
CHANNELS = click.option("--channels", type=int, default=1, show_default=True, help="DRAM channels.")
IDLE = click.option(
    "--idle-state", type=click.Choice(["active_standby", "precharge_standby", "active_power_down", "power_down", "self_refresh"]), default="power_down",
    show_default=True, help="What an idle DRAM goes into.",
)  # fmt: skip
TIMEOUT = click.option("--idle-timeout-s", type=float, default=0.0, show_default=True, help="How long an idle DRAM's rows stay open before, s.")
FREE = click.option("--free-memory", is_flag=True, help="Leave the DRAM's time and energy out, for comparison.")
AREA = click.option("--max-area-mm2", type=float, help="Largest chip area, mm2.")
POWER = click.option("--max-power-w", type=float, help="Highest power of the whole system, W.")
LATENCY = click.option("--max-latency-s", type=float, help="Longest time of a batch, s.")
WITH_AREA = click.option("--with-area", is_flag=True, help="Make chip area the front's third axis.")
SRAM_RAIL = click.option("--sram-vdd-v", type=float, help="Own rail of the memories, V; the core's supply where higher.  [default: the least they work at]")
SINGLE_RAIL = click.option("--single-rail", is_flag=True, help="No such rail: only voltages at which the memories work.")
ON_CHIP = click.option(
    "--on-chip/--no-on-chip", default=False, show_default=True,
    help="Keep what the next layer reads on chip where it fits and that is better, as the compiler does for ONNX models.",
)  # fmt: skip
CORNER = click.option(
    "--corner", type=click.Choice(["typical", "slow"]), default="typical", show_default=True,
    help="Whose fmax sets the clocks: typical chips', or slow ones' (process ss), with which every chip keeps up. Energy is always a typical chip's.",
)  # fmt: skip
SCHEDULER = click.option("--scheduler", help="Address of a dask scheduler to compute on, such as tcp://host:8786.")
WORKERS = click.option("--workers", type=click.IntRange(min=1), help="Processes.  [default: one a processor]")
JSON = click.option("--json", "as_json", is_flag=True, help="Print the result as JSON.")


@click.command(epilog="Example: voltfront explore --network resnet18 --batch 1 --dram lpddr2_1066_x32 --max-area-mm2 4")
@TECHNOLOGY
@click.option("--model", type=PATH, help="Fitted model.  [default: build/models/<technology>.json]")
@SPACE
@click.option("--out", type=PATH, default=BUILD / "explore", show_default=True, help="Folder to write to.")
@NETWORK
@BATCH
@DRAM
@CHANNELS
@IDLE
@TIMEOUT
@FREE
@AREA
@POWER
@LATENCY
@WITH_AREA
@SRAM_RAIL
@SINGLE_RAIL
@CORNER
@MEM_CLK
@MARGIN
@OBJECTIVE
@ON_CHIP
@WORKERS
@SCHEDULER
@JSON
def explore(
    technology: str, model: Path | None, space: str, out: Path, network: str, batch: str, dram: str, channels: int, idle_state: str, idle_timeout_s: float,
    free_memory: bool, max_area_mm2: float | None, max_power_w: float | None, max_latency_s: float | None, with_area: bool, sram_vdd_v: float | None,
    single_rail: bool, corner: str, mem_clk_hz: float, margin: float, objective: str, on_chip: bool, workers: int | None,
    scheduler: str | None, as_json: bool,
) -> None:  # fmt: skip
    """Evaluate all architectures of a design space at all voltages and back biases; write Pareto fronts, DVFS sweeps, layers and every effectiveness."""
    from explore.chunks import Constraints
    from explore.exploration import DEFAULT_NETWORKS, cases_of, explore_all
    from fit.fitting import beside
    from fit.model import read_model
    from hw.dram import DramPolicy
    from hw.settings import parse

    model = model or _model_path(technology)
    read_model(model, technology=technology)
    cases = cases_of(_list(network) or DEFAULT_NETWORKS, _whole_numbers("batch", batch), on_chip=on_chip)
    found = explore_all(
        model_path=model, space=space, out=out, cases=cases, dram=dram, channels=channels,
        policy=parse(DramPolicy, {"idle_state": idle_state, "timeout_s": idle_timeout_s}, "--idle-state"), free_memory=free_memory,
        mem_clk_hz=mem_clk_hz, margin=margin, objective=objective, with_area=with_area, sram_vdd_v=sram_vdd_v, single_rail=single_rail,
        constraints=Constraints(max_area_mm2=max_area_mm2, max_power_w=max_power_w, max_latency_s=max_latency_s),
        clock_model_path=beside(model, "ss") if corner == "slow" else None, workers=workers, scheduler=scheduler, command=_command(),
    )  # fmt: skip
    if as_json:
        click.echo(json.dumps({"folder": str(out), "run": found.run, "pareto": json.loads(found.pareto.to_json(orient="records"))}))
        return
    click.echo(pareto_table(found.pareto))
    missing = found.run["counts"]["back_biases_not_in_the_model"]
    if missing:
        click.echo(f"back bias: {', '.join(f'{value:g}' for value in missing)} V are not in the fitted model and were not evaluated")
    click.echo(f"exploration: {out}")


def _list(text: str) -> list[str]:
    return [part.strip() for part in text.split(",") if part.strip()]


def _whole_numbers(what: str, text: str) -> list[int]:
    from hw.errors import ConfigError

    try:
        return [int(part) for part in _list(text)]
    except ValueError:
        raise ConfigError(f"{what} must be whole numbers separated by commas, not {text!r}; give for example 1,16") from None


@click.command(epilog="Example: voltfront schedule --design large --network alexnet --deadline-s 0.05")
@TECHNOLOGY
@click.option("--model", type=PATH, help="Fitted model.  [default: build/models/<technology>.json]")
@click.option("--design", required=True, help="A design of hw/designs, or a YAML file.")
@click.option("--network", required=True, help="A network, by name or file.")
@click.option("--batch", type=click.IntRange(min=1), default=1, show_default=True, help="Images a batch.")
@click.option("--deadline-s", type=float, help="The batch must end by then; energy is least.")
@click.option("--energy-budget-j", type=float, help="The batch may take so much; time is least.")
@click.option("--max-points", type=int, default=4, show_default=True, help="How many operating points a schedule may use.")
@click.option("--voltages", type=click.IntRange(min=2, max=256), default=12, show_default=True, help="Supplies, evenly over the model's range.")
@click.option("--transition-s", type=float, default=10e-6, show_default=True, help="Time of a change of point, s (an assumption).")
@click.option("--transition-j", type=float, default=1e-7, show_default=True, help="Energy of a change of point, J (an assumption).")
@click.option("--simulate", "window_rows", type=click.IntRange(min=1), help="Plan windows of so many output rows of each layer, and run them on the RTL.")
@DRAM
@SRAM_RAIL
@MEM_CLK
@MARGIN
@ON_CHIP
@JSON
def schedule(
    technology: str, model: Path | None, design: str, network: str, batch: int, deadline_s: float | None, energy_budget_j: float | None, max_points: int,
    voltages: int, transition_s: float, transition_j: float, window_rows: int | None, dram: str, sram_vdd_v: float | None, mem_clk_hz: float,
    margin: float, on_chip: bool, as_json: bool,
) -> None:  # fmt: skip
    """Choose a voltage and clock for each layer under a deadline or an energy budget, beside what simpler ways would take."""
    import numpy as np

    from explore.chains import find_network
    from explore.evaluate import Conditions
    from explore.planning import layer_table, network_layers, plan_network, run_plan
    from explore.schedules import Transitions
    from fit.model import read_model
    from hw.config import load_design
    from hw.dram import load_dram_part
    from hw.errors import ConfigError
    from hw.settings import parse

    if on_chip and window_rows:
        raise ConfigError("on-chip must not be given with --simulate: layers run as a list, each through DRAM; leave one of the options out")
    fitted, config = read_model(model or _model_path(technology), technology=technology), load_design(design)
    options = {"transition_s": transition_s, "transition_j": transition_j, "max_points": max_points}
    transitions = parse(Transitions, options, "command line")
    conditions = Conditions(dram=load_dram_part(dram), mem_clk_hz=mem_clk_hz, margin=margin, sram_vdd_v=sram_vdd_v)
    vdd_v = np.round(np.linspace(fitted.voltage_range_v[0], fitted.reference_vdd_v, voltages), 6)
    found_network = find_network(network, on_chip=on_chip)
    table = layer_table(fitted, config, network_layers(found_network.network, window_rows), batch, conditions, vdd_v, found_network.own_links)
    found = plan_network(table, transitions, deadline_s=deadline_s, budget_j=energy_budget_j)
    measured = run_plan(config, table, found[0].plan, transitions, conditions, batch) if window_rows else None
    best = found[0].plan.points
    if as_json:
        rows = [{"strategy": s.name, "time_s": s.plan.time_s, "energy_j": s.period_j, "points": [float(table.vdd_v[p]) for p in s.plan.points]} for s in found]
        click.echo(json.dumps({"strategies": rows, "measured": vars(measured) if measured else None}))
        return
    click.echo(f"{'strategy':<28} {'time, s':>11} {'energy, J':>11}")
    for s in found:
        click.echo(f"{s.name:<28} {s.plan.time_s:11.4g} {s.period_j:11.4g}")
    click.echo(f"{'layer':<24} {'V':>6} {'MHz':>7} {'time, s':>11} {'energy, J':>11}")
    for i, (layer, p) in enumerate(zip(table.layers, best, strict=True)):
        click.echo(f"{layer.name:<24} {table.vdd_v[p]:6.3f} {table.freq_hz[p] / 1e6:7.1f} {table.time_s[i, p]:11.4g} {table.energy_j[i, p]:11.4g}")
    if measured:
        for p in sorted(measured.planned_s):
            click.echo(f"RTL at {table.vdd_v[p]:.3f} V: {measured.measured_s[p]:.4g} s, planned {measured.planned_s[p]:.4g} s")
        click.echo(f"RTL in transitions: {measured.measured_transition_s:.4g} s, planned {measured.planned_transition_s:.4g} s")


@click.command(epilog="Example: voltfront report --out build/report")
@TECHNOLOGY
@click.option("--model", type=PATH, help="Fitted model.  [default: build/models/<technology>.json]")
@click.option("--explore", "explore_dir", type=PATH, default=BUILD / "explore", show_default=True, help="Folder that `voltfront explore` wrote.")
@click.option("--out", type=PATH, default=REPORT, show_default=True, help="Folder to write to.")
@click.option("--headline", type=PATH, help="Also copy the figure of the Pareto fronts (PNG) to this file.")
@click.option("--placements", type=PATH, default=PLACEMENTS, show_default=True, help="Folder of pictures <architecture>.png that `voltfront placement` made.")
@JSON
def report(technology: str, model: Path | None, explore_dir: Path, out: Path, headline: Path | None, placements: Path, as_json: bool) -> None:
    """Write index.html, one self-contained page with its figures, from an exploration and its model."""
    from explore.report import write_report
    from explore.report_schedules import explored_schedules

    model = model or _model_path(technology)
    schedules = explored_schedules(explore_dir, model)
    write_report(explore_dir=explore_dir, model_path=model, out_dir=out, headline=headline, schedules=schedules, placements=placements)
    page = out / "index.html"
    click.echo(json.dumps({"report": str(page)}) if as_json else f"report: {page}")


@click.command(epilog="Example: voltfront run --plan quick --technology fdsoi28p")
@click.option("--plan", "plan_name", default="quick", show_default=True, help="A calibration plan of flow/plans, or a YAML file.")
@click.option("--technology", "technology_name", default="fdsoi28p", show_default=True, help="A technology of flow/tech, or a YAML file.")
@SPACE
@MEM_CLK
@MARGIN
@OBJECTIVE
@WORKERS
@JSON
def run(
    plan_name: str, technology_name: str, space: str, mem_clk_hz: float, margin: float, objective: str, workers: int | None, as_json: bool
) -> None:  # fmt: skip
    """RTL -> checked -> characterized -> fitted -> explored -> report. Stages whose inputs have not changed are not done again."""
    import pandas as pd

    from explore.exploration import FILES, explore_all
    from explore.report import write_report
    from explore.report_schedules import explored_schedules
    from explore.space import load_space
    from explore.stages import run_stage, source_hash
    from fit.cycle_fit import FRESH, cycle_tables
    from fit.fitting import fit, fit_beside
    from flow.cache import file_hash
    from flow.characterize import characterize, shipped_difference
    from flow.plan import load_plan
    from flow.shards import SHIPPED
    from flow.tech import load_technology
    from flow.tools import TOOLS, tool_version

    plan, technology, design_space = load_plan(plan_name), load_technology(technology_name), load_space(space)
    tables, model, explored, command = BUILD / "tables", _model_path(technology.name), BUILD / "explore", _command()
    corners, paths, cycles = (tables / name for name in (f"{technology.name}/corners.csv", f"{technology.name}/paths.csv", "cycles.csv"))
    settings = {"mem_clk_hz": mem_clk_hz, "margin": margin, "objective": objective}

    def stage(name: str, inputs: dict, outputs: Sequence[Path], work: Callable[[], object]) -> None:
        done = run_stage(name, inputs, outputs, work)
        click.echo(f"{name}: {'done' if done else 'unchanged'} ({outputs[0]})", err=True)

    def measure() -> None:
        # What ships is not measured again but for one design, which shows that the flow runs here and measures the same.
        afresh = plan.held_out[:1]
        characterize(plan, technology, tables=tables, workers=workers, command=command, shipped=SHIPPED / plan.name, afresh=afresh)
        for name in afresh:
            if (difference := shipped_difference(name, plan, technology)) is not None:
                click.echo(f"characterize: {name}, measured here, differs from what ships by at most {difference:.2%}", err=True)

    files = [Path(file) for corner in technology.corners for file in corner.liberty] + ([Path(technology.sram)] if technology.sram else [])
    stage(
        "characterize",
        {
            "plan": plan.model_dump(mode="json"), "designs": [design.model_dump(mode="json") for design in plan.all_designs()],
            "technology": technology.model_dump(mode="json"), "files": [file_hash(file) for file in files], "sources": source_hash("hw", "flow"),
            "tools": {name: tool_version(name) for name in TOOLS},
        },
        [path for table in (corners, paths, cycles) for path in (table, table.with_suffix(".json"))],
        measure,
    )  # fmt: skip

    def fit_all() -> None:
        def progress(what: str) -> None:
            click.echo(f"fit: {what}", err=True)

        fitted = fit(
            corners_csv=corners, paths_csv=paths, cycles_csv=cycle_tables(cycles), fresh_cycles_csv=FRESH, out=model, held_out=plan.held_out, progress=progress
        )  # fmt: skip
        fit_beside(fitted, corners_csv=corners, paths_csv=paths, out=model, held_out=plan.held_out, progress=progress)

    stage(
        "fit",
        {
            "tables": [file_hash(path) for path in (corners, paths, *cycle_tables(cycles), FRESH)], "held_out": list(plan.held_out),
            "sources": source_hash("hw", "flow", "fit"),
        },
        [model],
        fit_all,
    )
    stage(
        "explore",
        {"model": file_hash(model), "space": design_space.model_dump(mode="json"), "settings": settings, "sources": source_hash("hw", "fit", "explore")},
        [explored / name for name in FILES],
        lambda: explore_all(
            model_path=model, space=design_space, out=explored, mem_clk_hz=mem_clk_hz, margin=margin, objective=objective, workers=workers, command=command
        ),
    )
    page = REPORT / "index.html"
    stage(
        "report",
        {"explored": [file_hash(explored / name) for name in FILES], "model": file_hash(model), "sources": source_hash("hw", "fit", "explore")},
        [page],
        lambda: write_report(
            explore_dir=explored, model_path=model, out_dir=REPORT, schedules=explored_schedules(explored, model), placements=PLACEMENTS
        ),
    )
    pareto = pd.read_csv(explored / "pareto.csv")
    if as_json:
        click.echo(json.dumps({"report": str(page), "pareto": json.loads(pareto.to_json(orient="records"))}))
        return
    click.echo(pareto_table(pareto))
    click.echo(f"report: {page}")


def pareto_table(pareto: "pd.DataFrame") -> str:
    """The Pareto points of each case as text, at most `SHOWN` spread evenly over the throughput on a logarithmic scale, ends included."""
    import numpy as np

    lines = []
    for (network, batch), points in pareto.groupby(["network", "batch"], sort=False):
        speed = np.log(points["throughput_ips"].to_numpy())
        wanted = np.linspace(speed[0], speed[-1], SHOWN)
        shown = points.iloc[sorted({int(np.abs(speed - value).argmin()) for value in wanted} | {0, len(speed) - 1})]
        lines += [f"{network}, batch {batch}: {len(points)} Pareto points{'' if len(shown) == len(points) else f', {len(shown)} of them'}"]
        lines += [f"  {'architecture':<44} {'V':>5} {'bias':>4} {'MHz':>6} {'inferences/s':>12} {'GOPS':>8} {'GOPS/W':>8}  bound"]
        for p in shown.itertuples():
            point = f"{p.vdd_v:5.3f} {p.back_bias_v:4.2g} {p.freq_hz / 1e6:6.0f} {p.throughput_ips:12.2f} {p.throughput_gops:8.2f} {p.efficiency_gops_w:8.2f}"
            lines += [f"  {p.architecture:<44} {point}  {p.bound}"]
    return "\n".join(lines)


def _model_path(technology: str) -> Path:
    return BUILD / "models" / f"{technology}.json"


def _command() -> str:
    """The command as it was given."""
    return shlex.join(["voltfront", *sys.argv[1:]])
