"""`voltfront verify`: points of a front simulated and characterized."""

import json
import os
import shlex
import sys
from collections.abc import Sequence
from pathlib import Path

import click

PATH = click.Path(path_type=Path)


@click.command(epilog="Example: voltfront verify --network alexnet --batch 1 --points 3 --cycles-only")
@click.option("--technology", default="fdsoi28p", show_default=True, help="A technology of flow/tech, or a YAML file.")
@click.option("--model", type=PATH, help="Fitted model that was explored.  [default: build/models/<technology>.json]")
@click.option("--explore", "explore_dir", type=PATH, default=Path("build/explore"), show_default=True, help="Folder that `voltfront explore` wrote.")
@click.option("--network", help="Whose front, by name or file.  [default: the exploration's first case]")
@click.option("--batch", type=click.IntRange(min=1), help="At which batch size.  [default: the network's first one]")
@click.option("--points", type=click.IntRange(min=1), default=3, show_default=True, help="How many points, spread over the front.")
@click.option("--architecture", "architectures", multiple=True, help="An architecture of the front instead; may be given again.")
@click.option("--most-multipliers", type=click.IntRange(min=1), default=1024, show_default=True, help="Larger architectures are not taken.")
@click.option("--most-cycles", type=click.IntRange(min=1), default=200_000, show_default=True, help="Layers that take more are simulated in part.")
@click.option("--cycles-only", is_flag=True, help="Simulate only; characterized are the points that were before.")
@click.option("--plan", default="quick", show_default=True, help="Plan whose windows are recorded for the characterization.")
@click.option("--out", type=PATH, default=Path("build/verify"), show_default=True, help="Folder of the finished designs and verification.json.")
@click.option("--page", "page_path", type=PATH, help="Also write the page, after every point.")
@click.option("--workers", type=click.IntRange(min=1), help="Points at a time.  [default: one per processor]")
@click.option("--json", "as_json", is_flag=True, help="Print the result as JSON.")
def verify(
    technology: str, model: Path | None, explore_dir: Path, network: str | None, batch: int | None, points: int, architectures: tuple[str, ...],
    most_multipliers: int, most_cycles: int, cycles_only: bool, plan: str, out: Path, page_path: Path | None, workers: int | None, as_json: bool,
) -> None:  # fmt: skip
    """Build points of a Pareto front, simulate the network's layers on their RTL, characterize them, and compare with what was predicted."""
    import datetime

    from explore.front_points import named, read_front, spread
    from explore.verification import Checked, Job, check_all
    from explore.verification_page import Provenance, as_rows, page, summary_text
    from fit.model import read_model
    from flow.cache import file_hash
    from flow.characterize import source_commit
    from flow.files import write_text_whole
    from flow.plan import load_plan
    from flow.tech import load_technology

    target, calibration = load_technology(technology), load_plan(plan)
    model = model or Path("build/models") / f"{target.name}.json"
    fitted = read_model(model, technology=target.name)
    front = read_front(explore_dir, model, network, batch)
    rows = named(front.points, architectures) if architectures else spread(front.points, points, most_multipliers)
    command = " ".join(["voltfront", *map(shlex.quote, sys.argv[1:])])
    origin = Provenance(
        command=command, commit=source_commit(), date=datetime.date.today().isoformat(), model_hash=file_hash(model), exploration_commit=front.run["commit"],
        exploration_key=front.run["key"], space=front.run["space"]["name"], plan=calibration.name, windows=[window.name for window in calibration.activity],
        technology=target.name, wanted=len(rows), front_points=len(front.points), front_architectures=front.points["architecture"].nunique(),
        most_cycles=most_cycles,
        selection="named" if architectures
        else f"distinct architectures of at most {most_multipliers:,} multipliers, nearest to throughputs spaced evenly on a logarithmic scale",
    )  # fmt: skip
    job = Job(
        model=model, plan=calibration, technology=target, shards=out / "shards", most_cycles=most_cycles, measured=not cycles_only, command=command
    )  # fmt: skip

    def finished(checked: Sequence[Checked]) -> None:
        write_text_whole(out / "verification.json", json.dumps({"run": vars(origin), "rows": as_rows(fitted, checked)}, indent=1) + "\n")
        if page_path is not None:
            write_text_whole(page_path, page(fitted, checked, origin))

    checked = check_all(job, [front.point(row) for row in rows], workers or os.cpu_count() or 1, finished)
    if as_json:
        click.echo(json.dumps({"run": vars(origin), "rows": as_rows(fitted, checked)}))
        return
    click.echo(summary_text(fitted, checked))
    click.echo(f"verification: {out / 'verification.json'}")
    if page_path is not None:
        click.echo(f"page: {page_path}")
