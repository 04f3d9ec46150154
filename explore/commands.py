"""`voltfront explore`, `voltfront report` and `voltfront run`, the whole job in one."""

import json
import shlex
import sys
from pathlib import Path

import click

BUILD = Path("build")
REPORT = BUILD / "report"
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
WORKERS = click.option("--workers", type=click.IntRange(min=1), help="Processes.  [default: one a processor]")
JSON = click.option("--json", "as_json", is_flag=True, help="Print the result as JSON.")


@click.command(epilog="Example: voltfront explore --space default --workers 2")
@TECHNOLOGY
@click.option("--model", type=PATH, help="Fitted model.  [default: build/models/<technology>.json]")
@SPACE
@click.option("--out", type=PATH, default=BUILD / "explore", show_default=True, help="Folder to write to.")
@MEM_CLK
@MARGIN
@OBJECTIVE
@WORKERS
@JSON
def explore(technology, model, space, out, mem_clk_hz, margin, objective, workers, as_json):
    """Evaluate all architectures of a design space at all voltages; write points, Pareto fronts, DVFS sweeps and layers."""
    from explore.exploration import explore_all
    from fit.model import read_model

    model = model or _model_path(technology)
    read_model(model, technology=technology)
    found = explore_all(
        model_path=model, space=space, out=out, mem_clk_hz=mem_clk_hz, margin=margin, objective=objective, workers=workers, command=_command()
    )  # fmt: skip
    if as_json:
        click.echo(json.dumps({"folder": str(out), "run": found.run, "pareto": json.loads(found.pareto.to_json(orient="records"))}))
        return
    click.echo(pareto_table(found.pareto))
    click.echo(f"exploration: {out}")


@click.command(epilog="Example: voltfront report --out build/report")
@TECHNOLOGY
@click.option("--model", type=PATH, help="Fitted model.  [default: build/models/<technology>.json]")
@click.option("--explore", "explore_dir", type=PATH, default=BUILD / "explore", show_default=True, help="Folder that `voltfront explore` wrote.")
@click.option("--out", type=PATH, default=REPORT, show_default=True, help="Folder to write to.")
@click.option("--headline", type=PATH, help="Also copy the figure of the Pareto fronts (PNG) to this file.")
@JSON
def report(technology, model, explore_dir, out, headline, as_json):
    """Write index.html, one self-contained page with its figures, from an exploration and its model."""
    from explore.report import write_report

    write_report(explore_dir=explore_dir, model_path=model or _model_path(technology), out_dir=out, headline=headline)
    page = out / "index.html"
    click.echo(json.dumps({"report": str(page)}) if as_json else f"report: {page}")


@click.command(epilog="Example: voltfront run --plan quick --technology fdsoi28p")
@click.option("--plan", default="quick", show_default=True, help="A calibration plan of flow/plans, or a YAML file.")
@click.option("--technology", default="fdsoi28p", show_default=True, help="A technology of flow/tech, or a YAML file.")
@SPACE
@MEM_CLK
@MARGIN
@OBJECTIVE
@WORKERS
@JSON
def run(plan, technology, space, mem_clk_hz, margin, objective, workers, as_json):
    """RTL -> checked -> characterized -> fitted -> explored -> report. Stages whose inputs have not changed are not done again."""
    import pandas as pd

    from explore.exploration import FILES, explore_all
    from explore.report import write_report
    from explore.space import load_space
    from explore.stages import run_stage, source_hash
    from fit.fitting import fit
    from flow.cache import file_hash
    from flow.characterize import characterize
    from flow.plan import load_plan
    from flow.tech import load_technology
    from flow.tools import TOOLS, tool_version

    plan, technology, space = load_plan(plan), load_technology(technology), load_space(space)
    tables, model, explored, command = BUILD / "tables", _model_path(technology.name), BUILD / "explore", _command()
    corners, cycles = tables / technology.name / "corners.csv", tables / "cycles.csv"
    settings = {"mem_clk_hz": mem_clk_hz, "margin": margin, "objective": objective}

    def stage(name, inputs, outputs, work):
        done = run_stage(name, inputs, outputs, work)
        click.echo(f"{name}: {'done' if done else 'unchanged'} ({outputs[0]})", err=True)

    files = [Path(file) for corner in technology.corners for file in corner.liberty] + ([Path(technology.sram)] if technology.sram else [])
    stage(
        "characterize",
        {
            "plan": plan.model_dump(mode="json"), "designs": [design.model_dump(mode="json") for design in plan.all_designs()],
            "technology": technology.model_dump(mode="json"), "files": [file_hash(file) for file in files], "sources": source_hash("hw", "flow"),
            "tools": {name: tool_version(name) for name in TOOLS},
        },
        [corners, cycles, corners.with_suffix(".json"), cycles.with_suffix(".json")],
        lambda: characterize(plan, technology, tables=tables, workers=workers, command=command),
    )  # fmt: skip
    stage(
        "fit",
        {"tables": [file_hash(corners), file_hash(cycles)], "held_out": list(plan.held_out), "sources": source_hash("hw", "flow", "fit")},
        [model],
        lambda: fit(corners_csv=corners, cycles_csv=cycles, out=model, held_out=plan.held_out, progress=lambda what: click.echo(f"fit: {what}", err=True)),
    )
    stage(
        "explore",
        {"model": file_hash(model), "space": space.model_dump(mode="json"), "settings": settings, "sources": source_hash("hw", "fit", "explore")},
        [explored / name for name in FILES],
        lambda: explore_all(model_path=model, space=space, out=explored, workers=workers, command=command, **settings),
    )
    page = REPORT / "index.html"
    stage(
        "report",
        {"explored": [file_hash(explored / name) for name in FILES], "model": file_hash(model), "sources": source_hash("hw", "fit", "explore")},
        [page],
        lambda: write_report(explore_dir=explored, model_path=model, out_dir=REPORT),
    )
    pareto = pd.read_csv(explored / "pareto.csv")
    if as_json:
        click.echo(json.dumps({"report": str(page), "pareto": json.loads(pareto.to_json(orient="records"))}))
        return
    click.echo(pareto_table(pareto))
    click.echo(f"report: {page}")


def pareto_table(pareto) -> str:
    """The Pareto points of each case as text, at most `SHOWN` spread evenly over the throughput on a logarithmic scale, ends included."""
    import numpy as np

    lines = []
    for (network, batch), points in pareto.groupby(["network", "batch"], sort=False):
        speed = np.log(points["throughput_ips"].to_numpy())
        wanted = np.linspace(speed[0], speed[-1], SHOWN)
        shown = points.iloc[sorted({int(np.abs(speed - value).argmin()) for value in wanted} | {0, len(speed) - 1})]
        lines += [f"{network}, batch {batch}: {len(points)} Pareto points{'' if len(shown) == len(points) else f', {len(shown)} of them'}"]
        lines += [f"  {'architecture':<44} {'V':>5} {'MHz':>6} {'inferences/s':>12} {'GOPS':>8} {'GOPS/W':>8}  bound"]
        for p in shown.itertuples():
            point = f"{p.vdd_v:5.3f} {p.freq_hz / 1e6:6.0f} {p.throughput_ips:12.2f} {p.throughput_gops:8.2f} {p.efficiency_gops_w:8.2f}"
            lines += [f"  {p.architecture:<44} {point}  {p.bound}"]
    return "\n".join(lines)


def _model_path(technology: str) -> Path:
    return BUILD / "models" / f"{technology}.json"


def _command() -> str:
    """The command as it was given."""
    return shlex.join(["voltfront", *sys.argv[1:]])
