"""From layers to a program: a tiling for each, regions in memory, and the layers' instructions one after the other."""

from collections.abc import Mapping, Sequence

import numpy as np

from hw.config import AcceleratorConfig
from hw.errors import ConfigError
from hw.golden import QuantizedLayer
from hw.isa import INSTRUCTION_BYTES, Opcode, encode
from hw.layer_emitter import LayerEmitter
from hw.lowering import Lowering, folds, lower
from hw.products import check_padding
from hw.program import CompiledLayer, Program
from hw.tensors import MemoryMap
from hw.tiling import Tiling
from hw.tiling_choice import choose_tiling


def compile_network(
    config: AcceleratorConfig,
    layers: Sequence[QuantizedLayer],
    *,
    batch: int = 1,
    tilings: Mapping[str, Tiling] | None = None,
    fold_first: bool = True,
    base_address: int = 0,
) -> Program:
    """One program for `layers`, one after the other, over `batch` images.

    A layer reads the output of the layer before it where that is laid out as its input; otherwise it has an input of
    its own, which the host writes. The first layer's is folded, if `fold_first` and that takes fewer steps. Layers not
    in `tilings` get the tiling that `choose_tiling` prefers.
    """
    tilings = dict(tilings or {})
    unknown = set(tilings) - {layer.shape.name for layer in layers}
    if unknown:
        raise ConfigError(f"tilings must be for layers of the network, not {sorted(unknown)[0]!r}")
    lanes = config.array.lanes
    lowerings = [
        lower(config, layer.shape, batch=batch, fold=fold_first and index == 0 and folds(layer.shape, lanes), add_steps=layer.weights.shape[-1] or 1)
        for index, layer in enumerate(layers)
    ]
    memory_map = MemoryMap(base_address)
    contents: dict[str, np.ndarray] = {}
    emitters: list[LayerEmitter] = []
    compiled: list[CompiledLayer] = []
    program: list[tuple[Opcode, dict[str, int]]] = []
    for index, (layer, lowering) in enumerate(zip(layers, lowerings, strict=True)):
        name = layer.shape.name
        tiling = tilings.get(name) or choose_tiling(config, lowering)
        layout = lowering.second if layer.shape.kind == "transpose" else lowering.input
        assert layout is not None
        if index and lowerings[index - 1].output == layout:
            source = emitters[-1].output
            check_padding(layers[index - 1], layer, lanes)
        else:
            source = memory_map.add(f"{name}.input", layout.size_bytes)
        second = None
        if layer.shape.kind == "transpose":
            source, second = memory_map.add(f"{name}.identity", lowering.input.size_bytes), source
            contents[source.name] = identity(lowering)
        elif lowering.second:
            second = memory_map.add(f"{name}.second", lowering.second.size_bytes)
        emitter = LayerEmitter(config, layer, lowering, tiling)
        emitter.place(source, memory_map, contents, second)
        emitters.append(emitter)
    for index, emitter in enumerate(emitters):
        instructions = emitter.emit(after_stores=index > 0, last=index == len(emitters) - 1)
        compiled.append(emitter.compiled(len(program), len(instructions)))
        program += instructions
    program.append((Opcode.END, {}))
    code = memory_map.add("program", len(program) * INSTRUCTION_BYTES)
    contents["program"] = np.frombuffer(b"".join(encode(opcode, **fields) for opcode, fields in program), dtype=np.uint8)

    image = np.zeros(memory_map.end_address - base_address, dtype=np.uint8)
    for name, data in contents.items():
        first = memory_map.regions[name].address - base_address
        image[first : first + data.size] = data
    return Program(
        config=config,
        batch=batch,
        base_address=base_address,
        image=image,
        regions=memory_map.regions,
        program_address=code.address,
        program_bytes=code.size_bytes,
        layers=tuple(compiled),
    )


def identity(lowering: Lowering) -> np.ndarray:
    """The identity matrix that a transpose multiplies by, as the bytes of its tensor."""
    size = lowering.input.channels
    return lowering.input.pack(np.eye(size, dtype=np.int64)[None, :, :, None])


def compile_layer(config: AcceleratorConfig, layer: QuantizedLayer, *, batch: int = 1, tiling: Tiling | None = None, fold_first: bool = True) -> Program:
    """A program for one layer."""
    return compile_network(config, [layer], batch=batch, tilings={layer.shape.name: tiling} if tiling else None, fold_first=fold_first)
