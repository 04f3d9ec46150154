"""`voltfront rtl`, `voltfront compile` and `voltfront simulate`."""

import json
import sys
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import TYPE_CHECKING

import click
from tqdm import tqdm

from hw.config import AcceleratorConfig, load_design
from hw.errors import ConfigError
from hw.layers import load_network

if TYPE_CHECKING:  # commands start in an instant if they import only what they need
    from hw.sim.run import SimulationResult

DESIGN = click.option("--design", "-d", default="small", show_default=True, help="A design of hw/designs, or a YAML file.")
JSON = click.option("--json", "as_json", is_flag=True, help="Print the result as JSON.")


@click.command(epilog="Example: voltfront rtl --design small --out build/rtl/small")
@DESIGN
@click.option("--out", "-o", type=click.Path(path_type=Path), help="Folder to write to.  [default: build/rtl/<design>]")
@JSON
def rtl(design: str, out: Path | None, as_json: bool) -> None:
    """Write a design's Verilog: accelerator.v, memories.v (behavioural), interface.json (ports, layouts, registers), SDC and UPF."""
    from hw.emit import emit
    from hw.tools import BUILD_DIR

    config = load_design(design)
    out = out or BUILD_DIR / "rtl" / config.name
    bundle = emit(config, out)
    if as_json:
        blocks = {block.module: len(block.instances) for block in bundle.blocks}
        memories = {memory.module: len(memory.instances) for memory in bundle.memories}
        files = [str(path) for path in (*bundle.verilog, bundle.interface, *bundle.constraints)]
        click.echo(json.dumps({"design": config.name, "files": files, "blocks": blocks, "memories": memories, "content_hash": bundle.content_hash}))
        return
    click.echo(f"{config.name}: {config.multipliers} multipliers, {len(bundle.blocks)} modules, {sum(len(m.instances) for m in bundle.memories)} memory macros")
    for path in (*bundle.verilog, bundle.interface, *bundle.constraints):
        click.echo(f"  {path}")


HOST = click.option("--host", is_flag=True, help="Leave operators that the accelerator cannot run to the host (its time and energy are not counted).")
ON_CHIP = click.option("--on-chip/--no-on-chip", default=True, show_default=True, help="ONNX: keep what the next layer reads on chip where it fits.")


@click.command("compile", epilog="Example: voltfront compile model.onnx --design medium --out build/model")
@click.argument("model", type=click.Path(path_type=Path))
@DESIGN
@click.option("--out", "-o", type=click.Path(path_type=Path), help="Folder to write to.  [default: build/programs/<model>-<design>]")
@HOST
@ON_CHIP
@JSON
def compile(model: Path, design: str, out: Path | None, host: bool, on_chip: bool, as_json: bool) -> None:
    """Compile a quantized ONNX model: program.bin (memory image), program.txt (listing), memory_map.json (what lies where, what to start)."""
    from hw.network_run import compile_model

    compile_model(model, load_design(design), out, host=host, on_chip=on_chip, as_json=as_json)


@click.command(epilog="Example: voltfront simulate --design medium --layers conv2,fc8 --rows 2 --core-hz 400e6")
@DESIGN
@click.option("--network", "-n", default="alexnet", show_default=True, help="A network of hw/networks, a YAML file, or a quantized ONNX model (run whole).")
@click.option("--input", "input_path", type=click.Path(path_type=Path), help="ONNX: the input as .npy, real or integer as the model wants it.")
@click.option("--output", "output_path", type=click.Path(path_type=Path), help="ONNX: where to write the output, .npy.")
@HOST
@ON_CHIP
@click.option("--layers", help="Names of layers, separated by commas.  [default: all]")
@click.option("--rows", type=click.IntRange(min=1), default=1, show_default=True, help="Output rows simulated, for each row of the array.")
@click.option("--blocks", type=click.IntRange(min=1), default=2, show_default=True, help="Output channels simulated, in units of max(cols, lanes).")
@click.option("--whole", is_flag=True, help="Simulate whole layers, all groups (may take hours).")
@click.option("--batch", type=click.IntRange(min=1), default=1, show_default=True, help="Images.")
@click.option("--core-hz", type=click.FloatRange(min=1e6, max=1e10), default=500e6, show_default=True, help="Clock of the core.")
@click.option("--mem-hz", type=click.FloatRange(min=1e6, max=1e10), default=800e6, show_default=True, help="Clock of the memory side.")
@click.option("--memory", default="lpddr3_1600_x32", show_default=True, help="A DRAM part of hw/dram_parts, a YAML file, or `ideal`.")
@click.option(
    "--stalls", type=click.FloatRange(min=0, max=0.95), default=0.0, show_default=True, help="Chance that the memory holds back, each cycle and channel."
)
@click.option("--seed", type=int, default=1, show_default=True, help="Of the data and of the stalls.")
@JSON
def simulate(
    design: str, network: str, input_path: Path | None, output_path: Path | None, host: bool, on_chip: bool,
    layers: str | None, rows: int, blocks: int, whole: bool, batch: int, core_hz: float, mem_hz: float, memory: str,
    stalls: float, seed: int, as_json: bool,
) -> None:  # fmt: skip
    """Run windows of a network's layers, or a whole quantized ONNX model, on a design's RTL under Verilator, compare every output bit with the golden
    model, print what was counted."""
    from hw.dram_part import load_dram_part
    from hw.emit import emit
    from hw.sim.network import random_workload, run_workload
    from hw.sim.run import IdealMemory, build

    config = load_design(design)
    part = IdealMemory() if memory == "ideal" else load_dram_part(memory)
    is_model = network.endswith(".onnx")
    if not is_model and (input_path or output_path or host or not on_chip):
        raise ConfigError(f"network must be an ONNX model where --input, --output, --host or --no-on-chip is given, not {network} (--network)")
    wanted = [] if is_model else _select(network, layers)
    with TemporaryDirectory() as folder:
        simulator = build(verilog=emit(config, Path(folder)).verilog, axi_data_bits=config.memory.axi_data_bits)
    if is_model:
        from hw.network_run import simulate_model

        options = {"core_period_ps": round(1e12 / core_hz), "mem_period_ps": round(1e12 / mem_hz), "memory": part, "stall_probability": stalls, "seed": seed}
        simulate_model(Path(network), config, simulator, input_path, output_path, host=host, on_chip=on_chip, as_json=as_json, options=options)
        return
    results = []
    for shape in tqdm(wanted, desc=f"simulate {config.name}", unit="layer", file=sys.stderr, disable=not sys.stderr.isatty()):
        part_of = shape if whole else shape.window(out_rows=rows * config.array.rows, out_channels=blocks * config.channel_block)
        workload = random_workload(config, [part_of], batch=batch, seed=seed)
        result = run_workload(
            simulator, workload, where=f"design {config.name}, layer {shape.name}", core_period_ps=round(1e12 / core_hz), mem_period_ps=round(1e12 / mem_hz),
            timeout_cycles=1_000_000 + 20 * batch * part_of.macs // config.array.cols, memory=part, stall_probability=stalls, seed=seed,
        )  # fmt: skip
        results.append(_summary(config, shape.name, part_of.macs * batch, result))
        if not as_json:
            _print_row(results[-1], first=len(results) == 1)
    if as_json:
        click.echo(json.dumps({"design": config.name, "core_hz": core_hz, "mem_hz": mem_hz, "batch": batch, "layers": results}))
    else:
        click.echo(f"{len(results)} layers on {config.name}: every output bit equals the golden model")


def _select(network: str, layers: str | None) -> list:
    known = {layer.name: layer for layer in load_network(network).layers}
    names = layers.split(",") if layers else list(known)
    for name in names:
        if name not in known:
            raise ConfigError(f"layers must be some of {', '.join(known)}, not {name!r} (--layers); give these, separated by commas")
    return [known[name] for name in names]


def _summary(config: AcceleratorConfig, name: str, macs: int, result: "SimulationResult") -> dict:
    events = result.events
    return {
        "layer": name,
        "macs": macs,
        "core_cycles": events["core_cycles"],
        "utilization": macs / (events["core_cycles"] * config.multipliers),
        "stalls": {cause: events[f"stall_{cause}"] for cause in ("load", "store", "drain", "program")},
        "dram_read_bytes": events["dram_read_bytes"],
        "dram_write_bytes": events["dram_write_bytes"],
        "simulated_cycles_per_s": round(result.run_cycles / result.wall_s),
        "events": dict(result.events),
    }


def _print_row(row: dict, *, first: bool) -> None:
    columns = ("layer", "core cycles", "use", "load", "store", "drain", "program", "read", "written", "cycles/s")
    if first:
        click.echo(f"{columns[0]:<10}{columns[1]:>12}{columns[2]:>7}" + "".join(f"{name:>9}" for name in columns[3:]) + "   (stalls in cycles, DRAM in bytes)")
    stalls = "".join(f"{cycles:>9}" for cycles in row["stalls"].values())
    moved = f"{row['dram_read_bytes']:>9}{row['dram_write_bytes']:>9}{row['simulated_cycles_per_s']:>9}"
    click.echo(f"{row['layer']:<10}{row['core_cycles']:>12}{row['utilization']:>7.1%}{stalls}{moved}")
