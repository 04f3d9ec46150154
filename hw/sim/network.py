"""Run compiled layers and networks on the RTL and compare every output bit with the golden model."""

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Unpack

import numpy as np

from hw.allocation import lifetimes
from hw.compiler import compile_network
from hw.config import AcceleratorConfig
from hw.errors import ToolError
from hw.golden import QuantizedLayer, activations, random_layer, run_layer
from hw.graph import HostStep
from hw.layers import LayerShape
from hw.program import NetworkProgram, Program
from hw.registers import Cause
from hw.sim.run import MemoryRegion, SimulationResult, Surroundings, simulate
from hw.tiling import Tiling


@dataclass(frozen=True, kw_only=True)
class Workload:
    """Layers with all their integers, as a program and its inputs (layer name to array)."""

    layers: tuple[QuantizedLayer, ...]
    program: Program
    inputs: Mapping[str, np.ndarray]

    def golden(self) -> dict[str, np.ndarray]:
        """Every layer's output by the golden model, by name."""
        outputs: dict[str, np.ndarray] = {}
        previous = ""
        for layer, compiled in zip(self.layers, self.program.layers, strict=True):
            x = self.inputs[compiled.name] if compiled.has_own_input else outputs[previous]
            previous = compiled.name
            outputs[previous] = run_layer(layer, x, self.inputs.get(f"{previous}.second"))
        return outputs


def random_workload(
    config: AcceleratorConfig,
    shapes: list[LayerShape],
    *,
    batch: int = 1,
    kind: str = "typical",
    zero_points: tuple[int, int] = (0, 0),
    seed: int = 1,
    base_address: int = 0,
    tilings: Mapping[str, Tiling] | None = None,
    fold_first: bool = True,
) -> Workload:
    """`shapes`, one after the other, with data of a `kind` (see `hw.golden.DATA_KINDS`) drawn from `seed`; `tilings` and `fold_first` as for
    `compile_network`.

    `zero_points` are those of every layer's input and output; they must be equal where a layer reads another's output. Those of a matmul's operands are
    its shape's.
    """
    rng = np.random.default_rng(seed)
    bits = config.precision.activation_bits
    layers = [random_layer(shape, rng, bits, config.precision.weight_bits, kind, zero_points) for shape in shapes]
    program = compile_network(config, layers, batch=batch, base_address=base_address, tilings=tilings, fold_first=fold_first)
    inputs = {}
    for layer, compiled in zip(layers, program.layers, strict=True):
        s = compiled.lowering.shape
        if compiled.has_own_input:
            size = (batch, s.in_channels) if s.kind == "fc" and s.in_h == 1 else (batch, s.in_channels, s.in_h, s.in_w)
            inputs[s.name] = activations(size, bits, rng, kind, layer.input_zero_point)
        if compiled.has_own_second:
            sizes = (s.in_h, s.in_w) if s.kind == "add" else (s.out_channels // s.groups, 1)
            inputs[f"{s.name}.second"] = activations((batch, s.in_channels, *sizes), bits, rng, kind, layer.second_zero_point)
    return Workload(layers=tuple(layers), program=program, inputs=inputs)


def run_workload(simulator: Path, workload: Workload, *, where: str = "", **options: Unpack[Surroundings]) -> SimulationResult:
    """Simulate `workload` with the `options` of `hw.sim.run.simulate`; raises `ToolError`, which names `where`, unless the machine
    ends without an error and every output of every layer equals the golden model's."""
    program = workload.program
    written = [region for region in program.regions.values() if region.write]
    first, end = min(region.address for region in written), max(region.address + region.size_bytes for region in written)
    result = simulate(
        simulator=simulator,
        image=program.memory(workload.inputs),
        regions=[MemoryRegion(address=region.address, size_bytes=region.size_bytes, write=region.write) for region in program.regions.values()],
        program_address=program.program_address,
        program_bytes=program.program_bytes,
        output_address=first,
        output_bytes=end - first,
        **options,
    )
    if result.cause != Cause.NONE:
        raise ToolError(f"simulated program must end without error, not with {result.cause.name} at {result.error_address:#x} ({where})")
    memory = np.zeros(end - program.base_address, dtype=np.uint8)
    memory[first - program.base_address :] = result.output
    check_outputs(workload, memory, where)
    return result


def check_outputs(workload: Workload, memory: np.ndarray, where: str) -> None:
    """Raises `ToolError` unless every output in `memory` (uint8, from the program's base address on) equals the golden model's."""
    for name, expected in workload.golden().items():
        got = workload.program.output(memory, name)
        if not np.array_equal(got, expected):
            raise ToolError(f"outputs of {name} must equal the golden model's, not differ in {np.sum(got != expected)} of {got.size} values ({where})")


@dataclass(frozen=True, kw_only=True)
class NetworkRun:
    """A network's run: its outputs as integers by tensor, and what each segment counted (None for one without layers)."""

    outputs: Mapping[str, np.ndarray]
    segments: tuple[SimulationResult | None, ...]


def run_network(simulator: Path, program: NetworkProgram, inputs: Mapping[str, np.ndarray], *, where: str = "", **options: Unpack[Surroundings]) -> NetworkRun:
    """Run all segments, with the host's steps between them, on `inputs` (integers by tensor's name).

    Raises `ToolError` if the machine stops with an error, or a tensor that is left in memory after a segment differs from the golden model's.
    """
    graph, golden, memory = program.graph, program.graph.run(inputs), program.image.copy()
    for name, values in inputs.items():
        program.write(memory, name, values)
    lives, order = lifetimes(graph), {step.name: index for index, step in enumerate(graph.steps)}
    regions = [MemoryRegion(address=r.address, size_bytes=r.size_bytes, write=r.write) for r in program.regions.values() if r.size_bytes]
    arena = program.regions["activations"]
    results: list[SimulationResult | None] = []
    for segment in program.segments:
        results.append(None)
        if segment.layers:
            result = simulate(
                simulator=simulator, image=np.concatenate([np.zeros(program.base_address, dtype=np.uint8), memory]), regions=regions,
                program_address=segment.address, program_bytes=segment.size_bytes,
                output_address=arena.address, output_bytes=arena.size_bytes, **options,
            )  # fmt: skip
            if result.cause != Cause.NONE:
                raise ToolError(f"simulated program must end without error, not with {result.cause.name} at {result.error_address:#x} ({where})")
            memory[arena.address - program.base_address :][: arena.size_bytes] = result.output
            results[-1] = result
        last = order[segment.layers[-1]] if segment.layers else -1
        for step in graph.layers:
            if step.name in segment.layers and step.output in program.tensors and lives[graph.whole(step.output)].last >= last:
                got, expected = program.read(memory, step.output), golden[step.output]
                if not np.array_equal(got, expected):
                    wrong = f"{np.sum(got != expected)} of {got.size} values"
                    raise ToolError(f"outputs of {step.name} must equal the golden model's, not differ in {wrong} ({where})")
        if isinstance(segment.host_step, HostStep):
            read = [program.read(memory, name) for name in segment.host_step.inputs]
            program.write(memory, segment.host_step.output, segment.host_step.run(*read))
    return NetworkRun(outputs={name: program.read(memory, name) for name in graph.outputs}, segments=tuple(results))
