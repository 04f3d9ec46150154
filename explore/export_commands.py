"""`voltfront design`, `voltfront export` and `voltfront import`: Pareto points as designs, designs and layers for other tools, and layers from them."""

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
def export_(
    design: str, vdd_v: float, network: str, layers: str | None, dram: str, technology: str, model: Path | None, margin: float, mem_clk_hz: float,
    out: Path | None, as_json: bool,
) -> None:  # fmt: skip
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


@click.command(name="import", epilog="Example: voltfront import model.onnx --out model.yaml")
@click.argument("files", nargs=-1, required=True, type=PATH)
@click.option("--name", default="imported", show_default=True, help="Name of the network.")
@click.option("--out", "-o", type=PATH, required=True, help="YAML file to write.")
@click.option("--host", is_flag=True, help="ONNX: leave operators that the accelerator cannot run to the host (its time and energy are not counted).")
@click.option("--json", "as_json", is_flag=True, help="Print the result as JSON.")
def import_(files: tuple[Path, ...], name: str, out: Path, host: bool, as_json: bool) -> None:
    """Make a network to explore: of a quantized ONNX model, or of Timeloop problem files, one layer each."""
    import yaml

    from explore.timeloop import read_network
    from flow.files import write_text_whole
    from hw.errors import ConfigError
    from hw.onnx_import import import_onnx

    if any(path.suffix == ".onnx" for path in files):
        if len(files) > 1:
            raise ConfigError(f"files must be one ONNX model or Timeloop problems, not {len(files)} files with a model among them; import it alone")
        network = import_onnx(files[0], host=host).network(name, str(files[0]))
    else:
        network = read_network(list(files), name)
    write_text_whole(out, yaml.safe_dump(network.model_dump(mode="json", exclude_defaults=True), sort_keys=False, width=160))
    if as_json:
        click.echo(json.dumps({"network": str(out), "layers": len(network.layers), "macs": network.macs, "excluded": network.excluded}))
        return
    click.echo(f"{out}: {len(network.layers)} layers")
    for line in network.excluded:
        click.echo(f"  excluded: {line}")


CHOICES = ("balanced", "fastest", "most-efficient")


@click.command(name="design", epilog="Example: voltfront design --network alexnet --batch 1 --choice fastest --out fastest.yaml")
@click.option("--explore", "explore_dir", type=PATH, default=Path("build/explore"), show_default=True, help="Folder that `voltfront explore` wrote.")
@click.option("--network", "-n", help="Whose front, by name.  [default: the exploration's first]")
@click.option("--batch", type=click.IntRange(min=1), help="At which batch size.  [default: the network's first]")
@click.option("--choice", type=click.Choice(CHOICES), default="balanced", show_default=True, help="Balanced: the largest throughput x efficiency.")
@click.option("--architecture", help="A point of this architecture instead, by its name.")
@click.option("--out", "-o", type=PATH, required=True, help="YAML file to write.")
@click.option("--json", "as_json", is_flag=True, help="Print the result as JSON.")
def design_(explore_dir: Path, network: str | None, batch: int | None, choice: str, architecture: str | None, out: Path, as_json: bool) -> None:
    """Write a Pareto point's architecture as a design file, which the generator and every other command take."""
    import yaml

    from explore.front_design import choose_point, design_of
    from flow.files import write_text_whole

    point = choose_point(explore_dir, network, batch, choice, architecture)
    config = design_of(explore_dir, point)
    write_text_whole(out, yaml.safe_dump(config.model_dump(mode="json", exclude_defaults=True), sort_keys=False, width=160))
    shown = {name: point[name] for name in ("network", "batch", "vdd_v", "freq_hz", "throughput_ips", "efficiency_gops_w", "power_w", "area_um2", "bound")}
    if as_json:
        click.echo(json.dumps({"design": str(out), "name": config.name, **shown}))
        return
    click.echo(f"{out}: {config.name}, {config.multipliers} multipliers, {point['area_um2'] / 1e6:.2f} mm2")
    at = f"{point['network']}, batch {point['batch']}: {point['vdd_v']:g} V, {point['freq_hz'] / 1e6:.0f} MHz"
    speed = f"{point['throughput_ips']:.4g} inferences/s, {point['efficiency_gops_w']:.4g} GOPS/W, {point['power_w']:.3g} W"
    click.echo(f"{at}, {speed}, bound by {point['bound']}")
