"""A compiled program: instructions, the memory they work on, and where everything lies in it."""

from dataclasses import dataclass

import numpy as np

from hw.config import AcceleratorConfig
from hw.errors import ConfigError
from hw.isa import INSTRUCTION_BYTES, Opcode, decode
from hw.lowering import Lowering
from hw.tensors import Region
from hw.tile_plan import Tiling


@dataclass(frozen=True, kw_only=True)
class CompiledLayer:
    """A layer in a program: how it is tiled, where its tensors lie, which instructions are its own."""

    lowering: Lowering
    tiling: Tiling
    input_zero_point: int
    input: Region
    output: Region
    second: Region | None
    first_instruction: int
    instructions: int

    @property
    def name(self) -> str:
        return self.lowering.shape.name

    @property
    def has_own_input(self) -> bool:
        """Whether the host writes the input (and it is not the output of the layer before)."""
        return (self.second if self.lowering.shape.kind == "transpose" else self.input).name == f"{self.name}.input"

    @property
    def has_own_second(self) -> bool:
        """Whether the host writes the second operand, of a layer that has one."""
        return self.second is not None and self.second.name == f"{self.name}.second"


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

    def memory(self, inputs: dict[str, np.ndarray]) -> np.ndarray:
        """A copy of the image with `inputs` in their places: integers (batch, channels, h, w) or (batch, channels) by layer's name, second operands
        by "<layer>.second"."""
        wanted = {}
        for layer in self.layers:
            if layer.has_own_input:
                product = layer.lowering.shape.kind == "transpose"
                wanted[layer.name] = (layer, layer.second, layer.lowering.second) if product else (layer, layer.input, layer.lowering.input)
            if layer.has_own_second:
                wanted[layer.second.name] = (layer, layer.second, layer.lowering.second)
        if sorted(wanted) != sorted(inputs):
            raise ConfigError(f"inputs must be given for {', '.join(wanted)}, not for {', '.join(inputs) or 'no layer'}")
        memory = self.image.copy()
        for name, x in inputs.items():
            layer, region, layout = wanted[name]
            data = layout.pack(layer.lowering.expand_input(x, layer.input_zero_point))
            first = region.address - self.base_address
            memory[first : first + data.size] = data
        return memory

    def output(self, memory: np.ndarray, name: str | None = None) -> np.ndarray:
        """The output of a layer (the last one unless named) in `memory`, int64, (batch, channels, h, w) or (batch, channels)."""
        layer = self.layer(name) if name else self.layers[-1]
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
        lines = []
        for index in range(self.instructions):
            opcode, fields = self.instruction(index)
            lines.append(f"{index:6d} {opcode.name:<10} " + " ".join(f"{key}={value}" for key, value in fields.items() if value))
        return "\n".join(lines) + "\n"
