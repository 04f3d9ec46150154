"""From a graph to one memory image with its programs: layouts, places in DRAM, tilings, instructions; a segment up to each step of the host."""

from collections.abc import Mapping
from dataclasses import replace

import numpy as np

from hw.allocation import allocate, lifetimes
from hw.compiler import identity
from hw.config import AcceleratorConfig
from hw.errors import ConfigError
from hw.graph import Graph, HostStep, LayerStep
from hw.isa import INSTRUCTION_BYTES, Opcode, encode
from hw.layer_emitter import LayerEmitter
from hw.lowering import Lowering, folds, lower
from hw.program import NetworkProgram, PlacedTensor, Segment
from hw.tensors import MemoryMap, Region, TensorLayout, align, tensor_layout
from hw.tiling import Tiling
from hw.tiling_choice import choose_tiling


def compile_graph(
    config: AcceleratorConfig, graph: Graph, *, tilings: Mapping[str, Tiling] | None = None, base_address: int = 0, by_layer: bool = False
) -> NetworkProgram:
    """The whole network for a design. `by_layer`: every layer is a segment, so that it can be measured by itself.

    Raises `ConfigError` naming the layer that does not fit the design.
    """
    _check_bits(config, graph)
    tilings = dict(tilings or {})
    unknown = set(tilings) - {step.name for step in graph.layers}
    if unknown:
        raise ConfigError(f"tilings must be for layers of the network, not {sorted(unknown)[0]!r}")
    lowerings = {step.name: _lower(config, graph, step) for step in graph.layers}
    memory_map = MemoryMap(base_address)
    placed = _place(config, graph, lowerings, memory_map)
    contents: dict[str, np.ndarray] = {}
    emitters = {}
    for step in graph.layers:
        lowering = _attach(graph, step, lowerings[step.name], placed)
        emitter = LayerEmitter(config, step.layer, lowering, tilings.get(step.name) or choose_tiling(config, lowering))
        source, second, output = (name and _region(placed[name]) for name in (step.input, step.second, step.output))
        if step.layer.shape.kind == "transpose":
            second, source = source, memory_map.add(f"{step.name}.identity", lowering.input.size_bytes)
            contents[source.name] = identity(lowering)
        emitter.place(source, memory_map, contents, second, output)
        emitters[step.name] = emitter

    segments, compiled = [], []
    for steps, host_step in _segments(graph, by_layer):
        program = []
        for index, step in enumerate(steps):
            instructions = emitters[step.name].emit(first=index == 0, last=index == len(steps) - 1)
            compiled.append(emitters[step.name].compiled(len(program), len(instructions)))
            program += instructions
        program.append((Opcode.END, {}))
        code = memory_map.add(f"program.{len(segments)}", len(program) * INSTRUCTION_BYTES)
        contents[code.name] = np.frombuffer(b"".join(encode(opcode, **fields) for opcode, fields in program), dtype=np.uint8)
        names = tuple(step.name for step in steps)
        segments.append(Segment(address=code.address, size_bytes=code.size_bytes, layers=names, host_step=host_step))

    image = np.zeros(memory_map.end_address - base_address, dtype=np.uint8)
    for name, data in contents.items():
        first = memory_map.regions[name].address - base_address
        image[first : first + data.size] = data
    return NetworkProgram(
        config=config, graph=graph, base_address=base_address, image=image, regions=memory_map.regions, segments=tuple(segments), layers=tuple(compiled),
        tensors=placed,
    )  # fmt: skip


def _check_bits(config: AcceleratorConfig, graph: Graph) -> None:
    for tensor in graph.tensors.values():
        if tensor.bits > config.precision.activation_bits:
            raise ConfigError(
                f"activation_bits must be at least the {tensor.bits} bits of tensor {tensor.name}, not {config.precision.activation_bits} ({config.name})"
            )


def _lower(config: AcceleratorConfig, graph: Graph, step: LayerStep) -> Lowering:
    shape = step.layer.shape
    readers = [one for one in graph.steps if step.input in one.inputs]
    fold = step.input in graph.inputs and len(readers) == 1 and step.input not in graph.outputs and folds(shape, config.array.lanes)
    return lower(config, shape, batch=graph.batch, fold=fold, add_steps=step.layer.weights.shape[-1] or 1)


def _place(config: AcceleratorConfig, graph: Graph, lowerings: Mapping[str, Lowering], memory_map: MemoryMap) -> dict[str, PlacedTensor]:
    """Every tensor's layout and address, in a region "activations"."""
    folded = {step.input: lowerings[step.name] for step in graph.layers if lowerings[step.name].fold}
    layouts: dict[str, TensorLayout] = {}
    lives = lifetimes(graph)
    for name in lives:
        tensor = graph.tensors[name]
        layouts[name] = folded[name].input if name in folded else tensor_layout(config, graph.batch, *tensor.shape, heads=tensor.heads)
    offsets, size = allocate({name: layouts[name].size_bytes for name in lives}, lives)
    arena = memory_map.add("activations", size, write=True)
    placed = {
        name: PlacedTensor(tensor=graph.tensors[name], address=arena.address + offsets[name], layout=layouts[name], folding=folded.get(name))
        for name in lives
    }  # fmt: skip

    def place_part(name: str) -> PlacedTensor:
        if name not in placed:
            whole, first = graph.parts[name]
            outer = place_part(whole)
            offset, layout = outer.layout.part(first, graph.tensors[name].channels)
            placed[name] = PlacedTensor(tensor=graph.tensors[name], address=outer.address + offset, layout=layout)
        return placed[name]

    for name in graph.parts:
        place_part(name)
    return placed


def _attach(graph: Graph, step: LayerStep, lowering: Lowering, placed: Mapping[str, PlacedTensor]) -> Lowering:
    """The lowering with the layouts that its tensors have in memory, which must be what the layer reads and writes."""
    transposes = step.layer.shape.kind == "transpose"
    uses = {"second" if transposes else "input": step.input, "output": step.output}
    if step.second:
        uses["second"] = step.second
    for field, name in uses.items():
        layout, wanted = placed[name].layout, getattr(lowering, field)
        if not layout.same_words(wanted):
            raise ConfigError(f"tensor {name} must lie in memory as layer {step.name} needs it (heads of {wanted.head_channels} channels in words of "
                              f"{wanted.lanes} lanes), and does not; use a design whose lanes divide the channels of a head")  # fmt: skip
    n = lowering.numbers
    written = n.groups * n.k_per_group if not n.product else graph.tensors[step.output].channels
    if step.output in graph.parts and written > align(graph.tensors[step.output].channels, lowering.output.lanes):
        raise ConfigError(f"output of {step.name} must make whole blocks of {n.k_per_group} channels to be part of {graph.parts[step.output][0]}")
    if step.layer.shape.kind == "matmul" and step.layer.shape.in_channels // step.layer.shape.groups % lowering.input.lanes:
        producers = [one for one in graph.steps if one.output == step.input]
        if producers and isinstance(producers[0], LayerStep) and producers[0].layer.shape.kind not in ("conv", "fc"):
            raise ConfigError(f"channels of a head of {step.input} must be a multiple of {lowering.input.lanes} lanes for layer {step.name}")
    return replace(lowering, **{field: placed[name].layout for field, name in uses.items()})


def _region(placed: PlacedTensor) -> Region:
    return Region(name=placed.tensor.name, address=placed.address, size_bytes=placed.layout.size_bytes, write=True)


def _segments(graph: Graph, by_layer: bool) -> list[tuple[list[LayerStep], HostStep | None]]:
    """Layers that follow on each other, and the host's step behind them; a step of the host with none before it has an empty segment."""
    found: list[tuple[list[LayerStep], HostStep | None]] = []
    layers: list[LayerStep] = []
    for step in graph.steps:
        if isinstance(step, HostStep):
            found.append((layers, step))
            layers = []
        else:
            if by_layer and layers:
                found.append((layers, None))
                layers = []
            layers.append(step)
    return [*found, (layers, None)] if layers else found
