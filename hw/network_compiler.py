"""From a graph to one memory image with its programs: layouts, places in DRAM, tilings, instructions; a segment up to each step of the host."""

from collections.abc import Mapping, Sequence
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
from hw.on_chip_choice import LayerPlan, choose_plans
from hw.products import check_padding
from hw.program import CompiledLayer, NetworkProgram, PlacedTensor, Segment
from hw.tensors import MemoryMap, Region, TensorLayout, align, tensor_layout
from hw.tiling import Tiling


def compile_graph(
    config: AcceleratorConfig, graph: Graph, *, tilings: Mapping[str, Tiling] | None = None, base_address: int = 0, by_layer: bool = False, on_chip: bool = True
) -> NetworkProgram:
    """The whole network for a design. With `on_chip`, what the next layer reads stays on chip where it fits and that is better.

    `by_layer`: every layer is the last of a segment of its own, so that it can be measured; before it run only those whose outputs it needs on chip.
    Raises `ConfigError` naming the layer that does not fit the design.
    """
    _check_bits(config, graph)
    tilings = dict(tilings or {})
    unknown = set(tilings) - {step.name for step in graph.layers}
    if unknown:
        raise ConfigError(f"tilings must be for layers of the network, not {sorted(unknown)[0]!r}")
    lowerings = {step.name: _lower(config, graph, step) for step in graph.layers}
    parts = _uninterrupted(graph)
    plans: dict[str, LayerPlan] = {}
    for steps, _ in parts:
        plans |= choose_plans(config, graph, steps, lowerings, tilings, on_chip=on_chip) if steps else {}
    segments = [segment for steps, host_step in parts for segment in _by_layer(steps, host_step, plans)] if by_layer else parts

    memory_map = MemoryMap(base_address)
    layouts = _layouts(config, graph, lowerings)
    placed = _place(graph, lowerings, layouts, plans, [steps for steps, _ in segments] if by_layer else [], memory_map)
    contents: dict[str, np.ndarray] = {}
    emitters = {
        step.name: _emitter(config, graph, step, lowerings[step.name], layouts, plans[step.name], placed, memory_map, contents) for step in graph.layers
    }
    for steps, _ in parts:
        for step, behind in zip(steps, steps[1:], strict=False):
            emitters[step.name].keeper = emitters[behind.name] if plans[step.name].kept else None

    made: list[Segment] = []
    compiled: dict[str, CompiledLayer] = {}
    for steps, host_step in segments:
        program: list[tuple[Opcode, dict[str, int]]] = []
        for index, step in enumerate(steps):
            after_stores = index > 0 and emitters[steps[index - 1].name].stored
            instructions = emitters[step.name].emit(after_stores=after_stores, last=index == len(steps) - 1)
            compiled[step.name] = emitters[step.name].compiled(len(program), len(instructions))
            program += instructions
        program.append((Opcode.END, {}))
        code = memory_map.add(f"program.{len(made)}", len(program) * INSTRUCTION_BYTES)
        contents[code.name] = np.frombuffer(b"".join(encode(opcode, **fields) for opcode, fields in program), dtype=np.uint8)
        names = tuple(step.name for step in steps)
        made.append(Segment(address=code.address, size_bytes=code.size_bytes, layers=names, host_step=host_step))

    image = np.zeros(memory_map.end_address - base_address, dtype=np.uint8)
    for name, data in contents.items():
        first = memory_map.regions[name].address - base_address
        image[first : first + data.size] = data
    return NetworkProgram(
        config=config, graph=graph, base_address=base_address, image=image, regions=memory_map.regions, segments=tuple(made),
        layers=tuple(compiled.values()), tensors=placed,
    )  # fmt: skip


def _check_bits(config: AcceleratorConfig, graph: Graph) -> None:
    for tensor in graph.tensors.values():
        if tensor.bits > config.precision.activation_bits:
            what = f"activation_bits must be at least the {tensor.bits} bits of tensor {tensor.name}, not {config.precision.activation_bits} ({config.name})"
            raise ConfigError(f"{what}; use a wider design, or quantize to fewer bits")


def _lower(config: AcceleratorConfig, graph: Graph, step: LayerStep) -> Lowering:
    shape = step.layer.shape
    readers = [one for one in graph.steps if step.input in one.inputs]
    fold = step.input in graph.inputs and len(readers) == 1 and step.input not in graph.outputs and folds(shape, config.array.lanes)
    return lower(config, shape, batch=graph.batch, fold=fold, add_steps=step.layer.weights.shape[-1] or 1)


def _layouts(config: AcceleratorConfig, graph: Graph, lowerings: Mapping[str, Lowering]) -> dict[str, TensorLayout]:
    """Every tensor's layout."""
    folded = {step.input: lowerings[step.name] for step in graph.layers if lowerings[step.name].fold}
    layouts: dict[str, TensorLayout] = {}

    def layout(name: str) -> TensorLayout:
        if name not in layouts:
            tensor = graph.tensors[name]
            if name in folded:
                layouts[name] = folded[name].input
            elif name in graph.parts:
                whole, first = graph.parts[name]
                layouts[name] = layout(whole).part(first, tensor.channels)[1]
            else:
                layouts[name] = tensor_layout(config, graph.batch, *tensor.shape, heads=tensor.heads)
        return layouts[name]

    for name in (*lifetimes(graph), *graph.parts):
        layout(name)
    return layouts


def _place(
    graph: Graph, lowerings: Mapping[str, Lowering], layouts: Mapping[str, TensorLayout], plans: Mapping[str, LayerPlan],
    run_again: Sequence[Sequence[LayerStep]], memory_map: MemoryMap,
) -> dict[str, PlacedTensor]:  # fmt: skip
    """Every stored tensor's address, in a region "activations". Of layers that `run_again` one after the other, inputs live as long as the last of them."""
    folded = {step.input: lowerings[step.name] for step in graph.layers if lowerings[step.name].fold}
    only_on_chip = {step.output for step in graph.layers if not plans[step.name].stored}
    lives = {name: life for name, life in lifetimes(graph).items() if name not in only_on_chip}
    order = {step.name: index for index, step in enumerate(graph.steps)}
    for steps in run_again:
        for name in {graph.whole(one) for step in steps for one in step.inputs} & set(lives):
            lives[name] = lives[name]._replace(last=max(lives[name].last, order[steps[-1].name]))
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


def _emitter(
    config: AcceleratorConfig, graph: Graph, step: LayerStep, lowering: Lowering, layouts: Mapping[str, TensorLayout], chosen: LayerPlan,
    placed: Mapping[str, PlacedTensor], memory_map: MemoryMap, contents: dict[str, np.ndarray],
) -> LayerEmitter:  # fmt: skip
    """A layer's emitter, with its regions in memory; what is only on chip has none."""
    lowering = _attach(graph, step, lowering, layouts)
    emitter = LayerEmitter(config, step.layer, lowering, chosen.tiling, chosen.residence)
    emitter.stored = chosen.stored
    source, second, output = (_region(placed[name]) if name is not None and name in placed else None for name in (step.input, step.second, step.output))
    if step.layer.shape.kind == "transpose":
        second, source = source, memory_map.add(f"{step.name}.identity", lowering.input.size_bytes)
        contents[source.name] = identity(lowering)
    emitter.place(source, memory_map, contents, second, output)
    return emitter


def _attach(graph: Graph, step: LayerStep, lowering: Lowering, layouts: Mapping[str, TensorLayout]) -> Lowering:
    """The lowering with the layouts that its tensors have, which must be what the layer reads and writes."""
    transposes = step.layer.shape.kind == "transpose"
    uses = {"second" if transposes else "input": step.input, "output": step.output}
    if step.second:
        uses["second"] = step.second
    for field, name in uses.items():
        wanted = getattr(lowering, field)
        if not layouts[name].same_words(wanted):
            raise ConfigError(f"tensor {name} must lie in memory as layer {step.name} needs it (heads of {wanted.head_channels} channels in words of "
                              f"{wanted.lanes} lanes), and does not; use a design whose lanes divide the channels of a head")  # fmt: skip
    n = lowering.numbers
    written = n.groups * n.k_per_group if not n.product else graph.tensors[step.output].channels
    if step.output in graph.parts and written > align(graph.tensors[step.output].channels, lowering.output.lanes):
        raise ConfigError(f"output of {step.name} must make whole blocks of {n.k_per_group} channels to be part of {graph.parts[step.output][0]}")
    for producer in graph.layers:
        if graph.whole(producer.output) == graph.whole(step.input):
            check_padding(producer.layer, step.layer, lowering.input.lanes)
    given = {field: layouts[name] for field, name in uses.items()}
    return replace(
        lowering, input=given.get("input", lowering.input), output=given.get("output", lowering.output), second=given.get("second", lowering.second)
    )  # fmt: skip


def _region(placed: PlacedTensor) -> Region:
    return Region(name=placed.tensor.name, address=placed.address, size_bytes=placed.layout.size_bytes, write=True)


Part = tuple[list[LayerStep], HostStep | None]


def _uninterrupted(graph: Graph) -> list[Part]:
    """Layers that follow on each other, and the host's step behind them; a step of the host with none before it has an empty segment."""
    found: list[Part] = []
    layers: list[LayerStep] = []
    for step in graph.steps:
        if isinstance(step, HostStep):
            found.append((layers, step))
            layers = []
        else:
            layers.append(step)
    return [*found, (layers, None)] if layers else found


def _by_layer(steps: list[LayerStep], host_step: HostStep | None, plans: Mapping[str, LayerPlan]) -> list[Part]:
    """A segment for each layer, with the layers before it from which on everything in between is kept on chip."""
    found: list[Part] = []
    for index, step in enumerate(steps):
        before = found[-1][0] if index and plans[steps[index - 1].name].kept else []
        found.append(([*before, step], None))
    if not found:
        return [([], host_step)]
    return [*found[:-1], (found[-1][0], host_step)]
