"""The `fit` command."""

import json
from pathlib import Path

import click


@click.command()
@click.option("--technology", default="fdsoi28p", show_default=True, help="Technology whose tables are fitted.")
@click.option("--corners", type=click.Path(path_type=Path), help="Table of block corners. [default: build/tables/<technology>/corners.csv]")
@click.option("--paths", type=click.Path(path_type=Path), help="Table of paths. [default: paths.csv beside the corners]")
@click.option("--cycles", type=click.Path(path_type=Path), help="Table of RTL cycles, beside the random cases that ship. [default: build/tables/cycles.csv]")
@click.option("--out", type=click.Path(path_type=Path), help="Model file. [default: build/models/<technology>.json]")
@click.option("--process", help="Process to fit, by itself. [default: tt, and beside it each other one in the table, in <model>_<process>.json]")
@click.option("--layout", type=click.Choice(["fanout", "placed"]), help="Layout of the rows to fit, if the table has several.")
@click.option("--plan", default="quick", show_default=True, help="Calibration plan whose held-out designs validate the fit.")
@click.option("--in-turn/--not-in-turn", default=True, show_default=True, help="Leave every other whole design out in turn: sets the width of the intervals.")
@click.option("--explain", "explain_only", is_flag=True, help="Print each law of the fitted model as an equation, and fit nothing.")
@click.option("--json", "as_json", is_flag=True, help="Machine-readable output.")
def fit(
    technology: str, corners: Path | None, paths: Path | None, cycles: Path | None, out: Path | None, process: str | None, layout: str | None, plan: str,
    in_turn: bool, explain_only: bool, as_json: bool,
) -> None:  # fmt: skip
    """Fit the model on the measured tables and print its errors on designs left out.

    Example: voltfront fit --explain
    """
    from fit.cycle_fit import FRESH, cycle_tables
    from fit.explain import determined_text, explain, validation_table
    from fit.fitting import beside, fit_beside
    from fit.fitting import fit as fit_tables
    from fit.model import read_model
    from flow.plan import load_plan

    out = out or Path("build/models") / f"{technology}.json"
    if explain_only:
        model = read_model(out, technology=technology)
        click.echo(json.dumps(model.model_dump(mode="json")) if as_json else explain(model))
        return
    corners = corners or Path("build/tables") / technology / "corners.csv"
    paths, held_out = paths or corners.with_name("paths.csv"), load_plan(plan).held_out

    def progress(what: str) -> None:
        if not as_json:
            click.echo(f"fit: {what}", err=True)

    model = fit_tables(
        corners_csv=corners, paths_csv=paths, cycles_csv=cycle_tables(cycles), fresh_cycles_csv=FRESH, out=out, process=process, layout=layout,
        held_out=held_out, in_turn=in_turn, progress=progress,
    )  # fmt: skip
    models = {out: model}
    if process is None:
        others = fit_beside(model, corners_csv=corners, paths_csv=paths, out=out, held_out=held_out, in_turn=in_turn, progress=progress)
        models |= {beside(out, other.process): other for other in others}
    if as_json:
        found = [{"model": str(path), "process": m.process, "validation": [c.model_dump(mode="json") for c in m.validation]} for path, m in models.items()]
        click.echo(json.dumps(found[0] | {"beside": found[1:]}))
        return
    for path, fitted in models.items():
        click.echo(validation_table(fitted.validation))
        click.echo(determined_text(fitted))
        click.echo(f"model: {path} ({fitted.process})")
