"""What the exploration's models say of the layers of a compiled network (`hw.network_compiler`), with the compiler's tilings: cycles and traffic."""

from dataclasses import dataclass

import numpy as np

from explore.on_chip import FOUND, LEFT, STATE_NAMES, copies_between, ends, staying
from fit.cycles import Coefficients, DramTimes, dram_use, layer_cycles
from hw.dram_part import DramPart
from hw.program import CompiledLayer, NetworkProgram
from hw.tile_plan import architecture
from hw.tiling import Traffic, measure


@dataclass(frozen=True, kw_only=True)
class PredictedLayer:
    """A layer of a program: what stays on chip, its traffic with `copies` among its instructions, and its core cycles."""

    name: str
    on_chip: str
    traffic: Traffic
    copies: int
    copied_words: int
    cycles: float

    @property
    def read_bytes(self) -> int:
        """In whole AXI beats, the layer's part of the program included."""
        t = self.traffic
        return t.activation_read_bytes + t.weight_read_bytes + t.parameter_read_bytes + t.program_read_bytes


def predict_program(program: NetworkProgram, part: DramPart, core_period_s: float, mem_period_s: float, k: Coefficients) -> tuple[PredictedLayer, ...]:
    """Of every layer, as if it ran behind the layer before it if that leaves its output on chip, else by itself."""
    behind: list[CompiledLayer | None] = [*program.layers[1:], None]
    return tuple(
        _predict(program, layer, after if after and after.on_chip else None, part, core_period_s, mem_period_s, k)
        for layer, after in zip(program.layers, behind, strict=True)
    )  # fmt: skip


def _predict(
    program: NetworkProgram, layer: CompiledLayer, behind: CompiledLayer | None, part: DramPart, core_period_s: float, mem_period_s: float, k: Coefficients
) -> PredictedLayer:  # fmt: skip
    a, l, t, found = architecture(program.config), layer.lowering.numbers, layer.tiling, len(layer.on_chip)  # noqa: E741
    state = FOUND * bool(found) + LEFT * (behind is not None)
    rows = (np.array([x], dtype=np.int64) for x in (a, t, measure(a, l, t)))
    numbers, tilings, traffic = rows
    copies = np.zeros((1, 2), dtype=np.int64)
    if state:
        own, number = np.array(l, dtype=np.int64), None
        if behind:
            other, its = np.array([behind.tiling], dtype=np.int64), np.array(behind.lowering.numbers, dtype=np.int64)
            number = copies_between(numbers, own, tilings, ends(layer.lowering), its, other, ends(behind.lowering), len(behind.on_chip))
        traffic, copies = staying(numbers, own, tilings, traffic, state, found, layer.stored, number)
    moved, words, count = Traffic(*(int(x) for x in traffic[0])), int(copies[0, 0]), int(copies[0, 1])
    times, _ = dram_use(part, a, l, t, moved._replace(instructions=moved.instructions - count), found=found, unstored=int(not layer.stored))
    cycles = layer_cycles(
        a, l, t, moved, DramTimes(*(float(x) for x in times)), core_period_s, mem_period_s, k, float(words), float(count)
    )  # fmt: skip
    return PredictedLayer(
        name=layer.name, on_chip=STATE_NAMES[state], traffic=moved, copies=count, copied_words=words, cycles=cycles.total
    )  # fmt: skip
