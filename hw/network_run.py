"""Compiling and running whole ONNX models: what `voltfront compile` writes and `voltfront simulate` prints."""

import json
from collections.abc import Mapping
from pathlib import Path
from typing import BinaryIO

import click
import numpy as np

from hw.config import AcceleratorConfig
from hw.errors import ConfigError
from hw.graph import Graph, HostStep
from hw.network_compiler import compile_graph
from hw.onnx_import import import_onnx
from hw.program import CompiledLayer, NetworkProgram
from hw.sim.network import NetworkRun, run_network
from hw.tools import BUILD_DIR

HOST_NOTE = "steps of the host: their DRAM traffic is counted, their time and energy are not"


def compile_model(model: Path, config: AcceleratorConfig, out: Path | None, *, host: bool, on_chip: bool, as_json: bool) -> None:
    """Write the program of a model for a design into the folder `out`."""
    graph = import_onnx(model, host=host)
    program = compile_graph(config, graph, on_chip=on_chip)
    out = out or BUILD_DIR / "programs" / f"{model.stem}-{config.name}"
    files = {
        "program.bin": program.image.tobytes(),
        "program.txt": program.listing().encode(),
        "memory_map.json": (json.dumps(program.memory_map(), indent=1) + "\n").encode(),
    }
    out.mkdir(parents=True, exist_ok=True)
    for name, data in files.items():
        with keep_file(out / name) as file:
            file.write(data)
    on_chip_inputs, excluded, written = [layer.name for layer in program.layers if layer.on_chip], _excluded(graph), [str(out / name) for name in files]
    summary = {
        "network": graph.name, "design": config.name, "layers": len(graph.layers), "segments": len(program.segments),
        "instructions": sum(segment.instructions for segment in program.segments), "image_bytes": int(program.image.size),
        "activation_bytes": program.regions["activations"].size_bytes, "macs": graph.batch * sum(step.layer.shape.macs for step in graph.layers),
        "weights": sum(step.layer.shape.weights for step in graph.layers), "on_chip": on_chip_inputs,
        "excluded": excluded, "files": written,
    }  # fmt: skip
    if as_json:
        click.echo(json.dumps(summary))
        return
    click.echo(f"{graph.name} on {config.name}: {summary['layers']} layers, {summary['segments']} programs of {summary['instructions']} instructions in all, "
               f"{summary['image_bytes']} bytes ({summary['activation_bytes']} of activations)")  # fmt: skip
    if on_chip_inputs:
        click.echo(f"  input on chip: {', '.join(on_chip_inputs)}")
    for line in excluded:
        click.echo(f"  excluded: {line}")
    for name in written:
        click.echo(f"  {name}")


def _excluded(graph: Graph) -> list[str]:
    """What is not counted, by name."""
    return [f"{step.name} on the host ({', '.join(step.operators)}): time and energy" for step in graph.host_steps]


def simulate_model(
    model: Path, config: AcceleratorConfig, simulator: Path, input_path: Path | None, output_path: Path | None, *, host: bool, on_chip: bool,
    as_json: bool, options: Mapping,
) -> None:  # fmt: skip
    """Run a model whole, then layer by layer for the figures of each; every bit that is left in memory is compared with the golden model.

    A layer that finds its input on chip runs behind those that leave it there; its figures are what the program with it counts more than without.
    """
    graph = import_onnx(model, host=host)
    if len(graph.input_ports) != 1 or len(graph.output_ports) != 1:
        raise ConfigError(f"network must have one input and one output, not {len(graph.input_ports)} and {len(graph.output_ports)} ({model})")
    entry, leave = graph.input_ports[0], graph.output_ports[0]
    if input_path is None:
        raise ConfigError(f"input must be given for an ONNX model: an array of shape {entry.view.shape} (--input x.npy)")
    try:
        array = np.load(input_path)
    except (OSError, ValueError) as error:
        raise ConfigError(f"input must be a .npy file, not {input_path} ({error})") from None
    source = graph.tensors[entry.view.tensor]
    inputs = {source.name: entry.enter(array, source, graph.batch)}
    where = f"design {config.name}, network {graph.name}"

    def run(program: NetworkProgram) -> NetworkRun:
        steps = sum(program.traffic(layer).pixel_steps for layer in program.layers)
        return run_network(simulator, program, inputs, where=where, timeout_cycles=1_000_000 + 50 * steps, **options)

    whole_program, program = (compile_graph(config, graph, by_layer=by_layer, on_chip=on_chip) for by_layer in (False, True))
    whole, apart = run(whole_program), run(program)
    rows = []
    before: Mapping[str, int] = {}
    for segment, result in zip(program.segments, apart.segments, strict=True):
        if result is not None:
            layer = next(one for one in program.layers if one.name == segment.layers[-1])
            events = {name: value - (before[name] if len(segment.layers) > 1 else 0) for name, value in result.events.items()}
            rows.append(_row(config, layer.name, layer.lowering.shape.macs * graph.batch, events))
            rows[-1] |= {"input_on_chip": bool(layer.on_chip), "output_stored": layer.stored, "closed_form": _traffic(program, layer)}
            before = result.events
        if segment.host_step:
            rows.append(_host_row(program, segment.host_step))
    total: dict[str, int] = {}
    for result in whole.segments:
        for name, value in result.events.items() if result is not None else ():
            total[name] = total.get(name, 0) + value
    summary = _row(config, "whole network", sum(row["macs"] for row in rows), total)
    for name in ("dram_read_bytes", "dram_write_bytes"):
        summary[name] += sum(_host_row(program, step)[name] for step in graph.host_steps)
    output = leave.leave(whole.outputs[leave.view.tensor], graph.tensors[leave.view.tensor])
    if output_path is not None:
        with keep_file(output_path) as file:
            np.save(file, output)
    if as_json:
        click.echo(json.dumps({"design": config.name, "network": graph.name, "layers": rows, "total": summary, "excluded": _excluded(graph)}))
        return
    _print_row(None)
    for row in rows:
        _print_row(row)
    _print_row(summary)
    click.echo(f"{graph.name} on {config.name}: every output bit equals the golden model; layers were also started one by one for their figures")
    if any(row.get("input_on_chip") for row in rows):
        click.echo("* the input is on chip: the layer was started behind those that leave it there, and its figures are what it adds to them")
    if graph.host_steps:
        click.echo(HOST_NOTE)
        for line in _excluded(graph):
            click.echo(f"  excluded: {line}")


class keep_file:
    """A file that is there whole or not at all."""

    def __init__(self, path: Path):
        self.path, self.unfinished = path, path.with_name(f".{path.name}.unfinished")

    def __enter__(self) -> BinaryIO:
        self.file = self.unfinished.open("wb")
        return self.file

    def __exit__(self, kind: type[BaseException] | None, *_: object) -> None:
        try:
            self.file.close()  # writes what is still in memory
            if kind is None:
                self.unfinished.replace(self.path)
        finally:
            self.unfinished.unlink(missing_ok=True)


def _row(config: AcceleratorConfig, name: str, macs: int, events: Mapping[str, int]) -> dict:
    return {
        "layer": name, "macs": macs, "core_cycles": events["core_cycles"], "utilization": macs / (events["core_cycles"] * config.multipliers),
        "stalls": {cause: events[f"stall_{cause}"] for cause in ("load", "store", "drain", "program")},
        "dram_read_bytes": events["dram_read_bytes"], "dram_write_bytes": events["dram_write_bytes"],
    }  # fmt: skip


def _host_row(program: NetworkProgram, step: HostStep) -> dict:
    """What the host moves: it reads its inputs from DRAM and writes its output there."""
    read = sum(program.tensors[name].layout.size_bytes for name in step.inputs)
    return {
        "layer": f"{step.name} (host)", "macs": 0, "core_cycles": 0, "utilization": 0.0, "stalls": dict.fromkeys(("load", "store", "drain", "program"), 0),
        "dram_read_bytes": read, "dram_write_bytes": program.tensors[step.output].layout.size_bytes,
    }  # fmt: skip


def _traffic(program: NetworkProgram, layer: CompiledLayer) -> dict[str, int]:
    """DRAM bytes of a layer by kind, in closed form (without the END of its program)."""
    t = program.traffic(layer)
    return {name: getattr(t, f"{name}_bytes") for name in ("activation_read", "weight_read", "parameter_read", "program_read", "output_write")}


def _print_row(row: dict | None) -> None:
    if row is None:
        names = ("core cycles", "MACs", "use", "load", "store", "drain", "program", "read", "written")
        click.echo(f"{'layer':<28}" + "".join(f"{name:>12}" for name in names) + "   (stalls in cycles, DRAM in bytes)")
        return
    numbers = [row["core_cycles"], row["macs"]]
    rest = [*row["stalls"].values(), row["dram_read_bytes"], row["dram_write_bytes"]]
    name = row["layer"][-27:] + "*" * bool(row.get("input_on_chip"))
    click.echo(f"{name:<28}" + "".join(f"{n:>12}" for n in numbers) + f"{row['utilization']:>12.1%}" + "".join(f"{n:>12}" for n in rest))
