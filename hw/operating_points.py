"""Operating points as the bench's power-and-clock unit knows them, and programs that ask for them layer by layer."""

from collections.abc import Mapping
from dataclasses import dataclass, replace

import numpy as np

from hw.errors import ConfigError
from hw.isa import FIELDS, INSTRUCTION_BYTES, Opcode, encode
from hw.program import Program

MAX_INDEX = (1 << next(field.bits for field in FIELDS[Opcode.OPERATING_POINT] if field.name == "index")) - 1


@dataclass(frozen=True, kw_only=True)
class OperatingPoint:
    """What an index of OPERATING_POINT stands for: the core's clock period, and how long the clock stands still to get there."""

    core_period_ps: int
    transition_s: float = 0.0

    def __post_init__(self) -> None:
        if self.core_period_ps < 2:
            raise ConfigError(f"core_period_ps must be at least 2, not {self.core_period_ps}")
        if self.transition_s < 0:
            raise ConfigError(f"transition_s must be at least 0, not {self.transition_s}")


def with_operating_points(program: Program, points: Mapping[str, int]) -> Program:
    """`program` with an OPERATING_POINT before the first instruction of each layer in `points` (layer name to index).

    It keeps its addresses but for its instructions, which grow; so the program must be what lies last in its memory, as the compiler has it.
    Raises `ConfigError` for an unknown layer, an index that does not fit, or a program that cannot grow.
    """
    for name, index in points.items():
        program.layer(name)
        if not 0 <= index <= MAX_INDEX:
            raise ConfigError(f"operating point must be 0 to {MAX_INDEX}, not {index} (layer {name})")
    code = program.regions["program"]
    if any(region.address > code.address for region in program.regions.values()):
        raise ConfigError("program must lie behind everything else to grow, and does not; compile it so")
    first = program.program_address - program.base_address
    words = program.image[first : first + program.program_bytes].reshape(-1, INSTRUCTION_BYTES)
    parts, layers, position, added = [], [], 0, 0
    for layer in program.layers:
        end = layer.first_instruction + layer.instructions
        parts.append(words[position : layer.first_instruction])
        if layer.name in points:
            parts.append(np.frombuffer(encode(Opcode.OPERATING_POINT, index=points[layer.name]), np.uint8).reshape(1, -1))
            added += 1
        layers.append(replace(layer, first_instruction=layer.first_instruction + added))
        parts.append(words[layer.first_instruction : end])
        position = end
    grown = np.concatenate([*parts, words[position:]]).ravel()
    return replace(
        program, image=np.concatenate([program.image[:first], grown]), program_bytes=grown.size, layers=tuple(layers),
        regions=program.regions | {"program": replace(code, size_bytes=grown.size)},
    )  # fmt: skip
