"""A compiled program: instructions, the memory they work on, and where everything lies in it."""

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np

from hw.config import AcceleratorConfig
from hw.errors import ConfigError
from hw.graph import Graph, HostStep, Tensor
from hw.isa import INSTRUCTION_BYTES, Opcode, decode
from hw.lowering import Lowering
from hw.on_chip import on_chip_traffic
from hw.tensors import Region, TensorLayout
from hw.tile_plan import Tiling
from hw.tiling import Traffic, architecture, measure, plan


@dataclass(frozen=True, kw_only=True)
class CompiledLayer:
    """A layer in a program: how it is tiled, where its tensors lie, which instructions are its own.

    A tensor that is on chip only has no region; `on_chip` are the operands (0 or 1) that the layer before leaves there, `stored` says whether the output
    is written to memory.
    """

    lowering: Lowering
    tiling: Tiling
    input_zero_point: int
    input: Region | None
    output: Region | None
    second: Region | None
    on_chip: frozenset[int]
    stored: bool
    first_instruction: int
    instructions: int

    @property
    def name(self) -> str:
        return self.lowering.shape.name

    @property
    def has_own_input(self) -> bool:
        """Whether the host writes the input (and it is not the output of the layer before)."""
        source = self.second if self.lowering.shape.kind == "transpose" else self.input
        return source is not None and source.name == f"{self.name}.input"

    @property
    def has_own_second(self) -> bool:
        """Whether the host writes the second operand, of a layer that has one."""
        return self.second is not None and self.second.name == f"{self.name}.second"

    @property
    def padding(self) -> int:
        """What lanes beyond the channels of the input must hold; only a matmul takes notice (`hw.products`)."""
        return self.input_zero_point if self.lowering.shape.kind == "matmul" else 0


@dataclass(frozen=True, kw_only=True)
class Program:
    """What the host puts into DRAM and starts.

    `image` is the memory from `base_address` on, uint8, inputs still zero; `regions` lie in it by name: "program",
    "<layer>.weights", "<layer>.parameters", "<layer>.output", "<layer>.input" and "<layer>.second" where the host writes them, and
    "<layer>.identity" of a transpose.
    """

    config: AcceleratorConfig
    batch: int
    base_address: int
    image: np.ndarray
    regions: dict[str, Region]
    program_address: int
    program_bytes: int
    layers: tuple[CompiledLayer, ...]

    def layer(self, name: str) -> CompiledLayer:
        """The layer of that name."""
        for layer in self.layers:
            if layer.name == name:
                return layer
        raise ConfigError(f"layer must be one of {', '.join(x.name for x in self.layers)}, not {name!r}")

    def memory(self, inputs: Mapping[str, np.ndarray]) -> np.ndarray:
        """A copy of the image with `inputs` in their places: integers (batch, channels, h, w) or (batch, channels) by layer's name, second operands
        by "<layer>.second"."""
        wanted: dict[str, tuple[CompiledLayer, Region | None, TensorLayout | None]] = {}
        for layer in self.layers:
            if layer.has_own_input:
                product = layer.lowering.shape.kind == "transpose"
                wanted[layer.name] = (layer, layer.second, layer.lowering.second) if product else (layer, layer.input, layer.lowering.input)
            if layer.has_own_second:
                wanted[f"{layer.name}.second"] = (layer, layer.second, layer.lowering.second)
        if sorted(wanted) != sorted(inputs):
            raise ConfigError(f"inputs must be given for {', '.join(wanted)}, not for {', '.join(inputs) or 'no layer'}")
        memory = self.image.copy()
        for name, x in inputs.items():
            layer, region, layout = wanted[name]
            assert region is not None and layout is not None  # what the host writes lies in memory
            data = layout.pack(layer.lowering.expand_input(x, layer.input_zero_point), fill=layer.padding if layout is layer.lowering.input else 0)
            first = region.address - self.base_address
            memory[first : first + data.size] = data
        return memory

    def output(self, memory: np.ndarray, name: str | None = None) -> np.ndarray:
        """The output of a layer (the last one unless named) in `memory`, int64, (batch, channels, h, w) or (batch, channels)."""
        layer = self.layer(name) if name else self.layers[-1]
        if layer.output is None:
            raise ConfigError(f"layer must be one whose output is written, not {layer.name!r}; it stays on chip")
        first = layer.output.address - self.base_address
        return layer.lowering.restore_output(layer.lowering.output.unpack(memory[first : first + layer.output.size_bytes]))

    def instruction(self, index: int) -> tuple[Opcode, dict[str, int]]:
        """Opcode and fields of one instruction."""
        first = self.program_address - self.base_address + index * INSTRUCTION_BYTES
        return decode(self.image[first : first + INSTRUCTION_BYTES].tobytes())

    @property
    def instructions(self) -> int:
        return self.program_bytes // INSTRUCTION_BYTES

    def listing(self) -> str:
        """One line an instruction: fields that are not zero."""
        first = self.program_address - self.base_address
        return "\n".join(_listing(self.image[first : first + self.program_bytes].tobytes())) + "\n"


@dataclass(frozen=True, kw_only=True)
class PlacedTensor:
    """A tensor of a network in DRAM. `folding`: the layer for which the host writes it expanded."""

    tensor: Tensor
    address: int
    layout: TensorLayout
    folding: Lowering | None = None


@dataclass(frozen=True, kw_only=True)
class Segment:
    """Instructions that run without the host, up to an END of their own; then the host's step, if there is one."""

    address: int
    size_bytes: int
    layers: tuple[str, ...]
    host_step: HostStep | None

    @property
    def instructions(self) -> int:
        return self.size_bytes // INSTRUCTION_BYTES


@dataclass(frozen=True, kw_only=True)
class NetworkProgram:
    """A whole network: one memory image, and the segments to start one after the other.

    `image` is the memory from `base_address` on, uint8, activations still zero. `regions`: "activations" (all tensors, which take each other's
    place when they are no longer needed), "<layer>.weights", "<layer>.parameters", "<layer>.identity" and "program.<segment>".
    Instructions of a layer are counted from the start of its segment.
    """

    config: AcceleratorConfig
    graph: Graph
    base_address: int
    image: np.ndarray
    regions: dict[str, Region]
    segments: tuple[Segment, ...]
    layers: tuple[CompiledLayer, ...]
    tensors: dict[str, PlacedTensor]
    """Those that are stored; the others are only on chip."""

    def write(self, memory: np.ndarray, name: str, values: np.ndarray) -> None:
        """Put a tensor's integers (batch, channels, height, width) into `memory`."""
        placed = self.tensors[name]
        if placed.folding:
            values = placed.folding.expand_input(values, placed.tensor.zero_point)
        data = placed.layout.pack(values, fill=placed.tensor.zero_point)
        first = placed.address - self.base_address
        memory[first : first + data.size] = data

    def read(self, memory: np.ndarray, name: str) -> np.ndarray:
        """A tensor's integers in `memory`."""
        placed = self.tensors[name]
        return placed.layout.unpack(memory[placed.address - self.base_address :][: placed.layout.size_bytes])

    def traffic(self, layer: CompiledLayer) -> Traffic:
        """What a layer moves and counts, in closed form; see `hw.on_chip.on_chip_traffic` for what is not counted."""
        n, a = layer.lowering.numbers, architecture(self.config)
        found = measure(a, n, layer.tiling)
        moved = on_chip_traffic(found, n, plan(a, n, layer.tiling), operands=len(layer.on_chip), stored=layer.stored)
        return moved._replace(instructions=layer.instructions, program_read_bytes=layer.instructions * INSTRUCTION_BYTES)

    def listing(self) -> str:
        """One line an instruction, segment after segment."""
        lines = []
        for number, segment in enumerate(self.segments):
            lines.append(f"segment {number} at {segment.address:#x}: {', '.join(segment.layers)}")
            first = segment.address - self.base_address
            lines += _listing(self.image[first : first + segment.size_bytes].tobytes())
            if segment.host_step:
                lines.append(f"host: {segment.host_step.name} ({', '.join(segment.host_step.operators)})")
        return "\n".join(lines) + "\n"

    def memory_map(self) -> dict:
        """Everything that whoever starts the network must know, for JSON."""
        tensors = {
            name: {
                "address": p.address, "shape": [self.graph.batch, *p.tensor.shape], "lanes": p.layout.lanes, "bits": p.layout.bits,
                "row_pitch_bytes": p.layout.row_pitch_bytes, "plane_pitch_bytes": p.layout.plane_pitch_bytes,
                "image_pitch_bytes": p.layout.image_pitch_bytes, "size_bytes": p.layout.size_bytes, "head_channels": p.layout.head_channels,
                "scale": p.tensor.scale, "zero_point": p.tensor.zero_point, "outside_offset": p.tensor.offset, "folded_for": p.folding and p.folding.shape.name,
            }
            for name, p in self.tensors.items()
        }  # fmt: skip
        segments = [
            {"address": s.address, "size_bytes": s.size_bytes, "layers": s.layers, "host": s.host_step and {
                "name": s.host_step.name, "operators": s.host_step.operators, "inputs": s.host_step.inputs, "output": s.host_step.output}}
            for s in self.segments
        ]  # fmt: skip
        regions = {name: {"address": r.address, "size_bytes": r.size_bytes, "write": r.write} for name, r in self.regions.items()}
        outputs = [{"name": port.name, "tensor": port.view.tensor} for port in self.graph.output_ports]
        inputs = [{"name": port.name, "tensor": port.view.tensor} for port in self.graph.input_ports]
        return {
            "design": self.config.name, "network": self.graph.name, "base_address": self.base_address, "size_bytes": int(self.image.size),
            "inputs": inputs, "outputs": outputs, "segments": segments, "regions": regions, "tensors": tensors,
        }  # fmt: skip


def _listing(code: bytes) -> list[str]:
    lines = []
    for index in range(len(code) // INSTRUCTION_BYTES):
        opcode, fields = decode(code[index * INSTRUCTION_BYTES :][:INSTRUCTION_BYTES])
        lines.append(f"{index:6d} {opcode.name:<10} " + " ".join(f"{key}={value}" for key, value in fields.items() if value))
    return lines
