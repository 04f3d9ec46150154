"""`voltfront export` and `voltfront import`: designs and layers for other tools, and layers from them."""

import json
from pathlib import Path

import click

PATH = click.Path(path_type=Path)
FORMATS = ("tables", "accelergy", "timeloop", "zigzag")


@click.command(name="export", epilog="Example: voltfront export --design medium --vdd-v 0.7 --layers conv1,conv2 --out build/export/medium")
@click.option("--design", "-d", default="small", show_default=True, help="A design of hw/designs, or a YAML file.")
@click.option("--vdd-v", type=float, default=1.0, show_default=True, help="Supply of the core, V.")
@click.option("--network", "-n", default="alexnet", show_default=True, help="A network of hw/networks, or a YAML file.")
@click.option("--layers", help="Names of layers, separated by commas.  [default: all convolutions and fully connected layers]")
@click.option("--dram", default="lpddr3_1600_x32", show_default=True, help="A DRAM part of hw/dram_parts, or a YAML file.")
@click.option("--technology", default="fdsoi28p", show_default=True, help="Technology whose fitted model is used.")
@click.option("--model", type=PATH, help="Fitted model.  [default: build/models/<technology>.json]")
@click.option("--margin", type=click.FloatRange(min=0, max=1, max_open=True), default=0.1, show_default=True, help="Part of fmax that is given away.")
@click.option("--mem-clk-hz", type=click.FloatRange(min=1e6, max=1e10), default=800e6, show_default=True, help="Clock of the memory side, Hz.")
@click.option("--out", "-o", type=PATH, help="Folder to write to.  [default: build/export/<design>]")
@click.option("--json", "as_json", is_flag=True, help="Print the result as JSON.")
def export_(design, vdd_v, network, layers, dram, technology, model, margin, mem_clk_hz, out, as_json):
    """Write a design's calibrated numbers and layers for other tools: CSV, Parquet and JSON tables, Accelergy, Timeloop, ZigZag."""
    from explore.components import calibrate
    from explore.export import write_export
    from fit.model import read_model
    from hw.cli import _select
    from hw.config import load_design
    from hw.dram_part import load_dram_part

    config = load_design(design)
    fitted = read_model(model or Path("build/models") / f"{technology}.json", technology=technology)
    shapes = [shape for shape in _select(network, layers) if layers or shape.kind in ("conv", "fc")]
    calibrated = calibrate(fitted, config, load_dram_part(dram), vdd_v=vdd_v, margin=margin, mem_clk_hz=mem_clk_hz)
    files = write_export(calibrated, shapes, out or Path("build/export") / config.name)
    click.echo(json.dumps([str(path) for path in files]) if as_json else "\n".join(map(str, files)))


@click.command(name="import", epilog="Example: voltfront import conv1.yaml conv2.yaml --name mine --out mine.yaml")
@click.argument("problems", nargs=-1, required=True, type=PATH)
@click.option("--name", default="imported", show_default=True, help="Name of the network.")
@click.option("--out", "-o", type=PATH, required=True, help="YAML file to write.")
@click.option("--json", "as_json", is_flag=True, help="Print the result as JSON.")
def import_(problems, name, out, as_json):
    """Make a network of Timeloop problem files, one layer each."""
    import yaml

    from explore.timeloop import read_network
    from flow.files import write_text_whole

    network = read_network(list(problems), name)
    text = yaml.safe_dump(network.model_dump(mode="json", exclude_defaults=True), sort_keys=False, width=160)
    write_text_whole(out, text)
    click.echo(json.dumps({"network": str(out), "layers": len(network.layers), "macs": network.macs}) if as_json else f"{out}: {len(network.layers)} layers")
