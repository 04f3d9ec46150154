"""`voltfront cells`, `technology`, `characterize`, `tables`, `placement` and `doctor`."""

import json
from pathlib import Path

import click

from hw.errors import ConfigError, ToolError

JSON = click.option("--json", "as_json", is_flag=True, help="Print the result as JSON.")


@click.command(epilog="Example: voltfront cells --out build/cells/fdsoi28p")
@click.option("--technology", default="fdsoi28p", show_default=True, help="A technology of flow/tech with transistor-level cells.")
@click.option("--out", "-o", type=click.Path(path_type=Path), help="Folder to write to.  [default: build/cells/<technology>]")
@click.option("--corner", "corners", multiple=True, help="A corner such as tt_0.8v_25c_+0bb_0.8vsram; may be given again.  [default: the whole grid]")
@click.option("--flavour", help="Other thresholds: a name in the technology's flavours.yaml.")
@click.option("--workers", type=click.IntRange(min=1), help="Simulations at a time.  [default: one per processor]")
@JSON
def cells(technology: str, out: Path | None, corners: tuple[str, ...], flavour: str | None, workers: int | None, as_json: bool) -> None:
    """Characterize a technology's cells with ngspice into Liberty, one file a corner; resumes where it was stopped."""
    import os

    from flow.cells.characterize import characterize_library
    from flow.corner import Corner

    folder = Path(__file__).parent / "tech" / technology
    if not (folder / "cells.yaml").is_file():
        raise ConfigError(f"technology must be one with transistor-level cells (flow/tech/<name>/cells.yaml), not {technology!r}")
    paths = characterize_library(
        tech_dir=folder, out_dir=out or Path("build/cells") / technology, corners=[Corner.parse(text) for text in corners] or None, flavour=flavour,
        workers=workers or os.cpu_count() or 1,
    )  # fmt: skip
    click.echo(json.dumps([str(path) for path in paths]) if as_json else "\n".join(str(path) for path in paths))


@click.command(epilog="Example: voltfront technology my.yaml")
@click.argument("name", default="fdsoi28p")
@JSON
def technology(name: str, as_json: bool) -> None:
    """Check every Liberty file of a technology (a name of flow/tech, or a YAML file) and show its corners."""
    from flow.tech import examine, load_technology

    rows = examine(load_technology(name))
    if as_json:
        click.echo(json.dumps([vars(row) for row in rows]))
        return
    click.echo(f"{'corner':28} {'cells':>6} {'FO4 ps':>9} {'NAND2 leakage nW':>17}")
    for row in rows:
        click.echo(f"{row.corner:28} {row.cells:6} {row.fo4_s * 1e12:9.2f} {row.nand2_leakage_w * 1e9:17.4g}")


@click.command(epilog="Example: voltfront characterize --plan quick --technology fdsoi28p")
@click.option("--plan", default="quick", show_default=True, help="A plan of flow/plans, or a YAML file.")
@click.option("--technology", default="fdsoi28p", show_default=True, help="A technology of flow/tech, or a YAML file.")
@click.option("--tables", type=click.Path(path_type=Path), default=Path("build/tables"), show_default=True, help="Folder of the tables.")
@click.option("--shards", type=click.Path(path_type=Path), default=Path("build/shards"), show_default=True, help="Folder of the finished designs.")
@click.option("--workers", type=click.IntRange(min=1), help="Designs at a time.  [default: one per processor]")
@click.option("--scheduler", help="Address of a dask scheduler to run on, such as tcp://host:8786.  [default: this machine alone]")
@JSON
def characterize(plan: str, technology: str, tables: Path, shards: Path, workers: int | None, scheduler: str | None, as_json: bool) -> None:
    """Simulate, synthesize, place, time and measure every design of a plan; resumes where it was stopped."""
    from flow.characterize import characterize as run
    from flow.plan import load_plan
    from flow.tech import load_technology

    command = f"voltfront characterize --plan {plan} --technology {technology}"
    corners, cycles = run(
        load_plan(plan), load_technology(technology), tables=tables, shards=shards, workers=workers, scheduler=scheduler, command=command
    )
    click.echo(json.dumps({"corners": str(corners), "cycles": str(cycles)}) if as_json else f"{corners}\n{cycles}")


@click.command(epilog="Example: voltfront tables --check")
@click.option("--plan", default="quick", show_default=True, help="The plan that the shards are of.")
@click.option("--technology", default="fdsoi28p", show_default=True, help="A technology of flow/tech, or a YAML file.")
@click.option("--shards", type=click.Path(path_type=Path), help="Folder of the finished designs.  [default: those that ship with the project]")
@click.option("--tables", type=click.Path(path_type=Path), default=Path("build/tables"), show_default=True, help="Folder of the tables.")
@click.option("--check", is_flag=True, help="Only look for shards that are missing or no longer fit the RTL or the technology; exits 2 if there are any.")
@JSON
def tables(plan: str, technology: str, shards: Path | None, tables: Path, check: bool, as_json: bool) -> None:
    """Make the tables from finished designs without measuring anything."""
    from flow.characterize import stale_shards
    from flow.plan import load_plan
    from flow.shards import SHIPPED, assemble_folder
    from flow.tech import load_technology

    folder = shards or SHIPPED / load_plan(plan).name
    if check:
        stale = stale_shards(load_plan(plan), load_technology(technology), folder)
        if as_json:
            click.echo(json.dumps({name: list(changed) for name, changed in stale.items()}))
        else:
            for name, changed in stale.items():
                click.echo(f"{name}: {'stale: ' + ', '.join(changed) + ' changed' if changed else 'missing'}")
        if stale:
            raise ConfigError(f"shards must be there and fit, not {len(stale)} be missing or stale ({folder}); run `voltfront characterize --plan {plan}`")
        return
    corners, cycles = assemble_folder(folder, technology=load_technology(technology).name, tables=tables)
    click.echo(json.dumps({"corners": str(corners), "cycles": str(cycles)}) if as_json else f"{corners}\n{cycles}")


@click.command(epilog="Example: voltfront placement --design small --out build/placement.png")
@click.option("--design", default="small", show_default=True, help="A design of hw/designs, or a YAML file.")
@click.option("--technology", default="fdsoi28p", show_default=True, help="A technology of flow/tech, or a YAML file.")
@click.option("--out", "-o", type=click.Path(path_type=Path), default=Path("build/placement.png"), show_default=True, help="PNG or SVG file.")
@JSON
def placement(design: str, technology: str, out: Path, as_json: bool) -> None:
    """Synthesize and place a design, and draw it."""
    from flow.characterize import table_corners
    from flow.mapped_design import MappedDesign
    from flow.picture import draw_design
    from flow.simulation import emit_rtl
    from flow.tech import load_technology
    from hw.config import load_design

    config, target = load_design(design), load_technology(technology)
    nominal = min(table_corners(target), key=lambda corner: abs(corner.vdd_v - target.nominal_vdd_v))
    mapped = MappedDesign(config=config, rtl=emit_rtl(config), technology=target, corners=(nominal,), cache=Path("build/cache"))
    size = draw_design(mapped, out)
    found = {"picture": str(out), "width_um": size.width_um, "height_um": size.height_um}
    click.echo(json.dumps(found) if as_json else f"{out} ({size.width_um:.0f} um x {size.height_um:.0f} um)")


@click.command(epilog="Example: voltfront doctor")
@JSON
def doctor(as_json: bool) -> None:
    """Show each outside tool's path and version, and what is missing; exits 3 if something is."""
    from flow.doctor import examine_tools

    rows = examine_tools()
    if as_json:
        click.echo(json.dumps([{**vars(row), "path": row.path and str(row.path), "missing": row.missing} for row in rows]))
    else:
        for row in rows:
            if row.path is None:
                state = f"missing: {row.install}"
            elif row.version is None:
                state = f"broken: {row.path} does not print its version; {row.install} again"
            else:
                state = f"{row.version:12} {row.path}"
            click.echo(f"{row.name:10} {state}  ({row.needed_for})")
    missing = [row.name for row in rows if row.missing]
    if missing:
        raise ToolError(f"tools must be installed and say their version, not be missing or broken: {', '.join(missing)}; run `make setup`")
