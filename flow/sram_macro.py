"""A memory macro and its figures, as plain values."""

import math
from dataclasses import dataclass
from typing import Literal

from flow.corner import Corner
from hw.errors import ConfigError

ROWS_MAX, COLUMNS_MAX, MUX_MAX = 256, 512, 16
"""The largest array of one bank, and the most words that share a row."""
WORDS, BITS = (2, 16384), (1, 512)


@dataclass(frozen=True, kw_only=True)
class SramMacro:
    """A macro of `words` x `bits`, named as in the RTL (`hw.sram`). With two ports one reads and one writes, with one port either.

    `mux` words share a row; without it the least that keeps the bit lines within the rows that were simulated.
    """

    words: int
    bits: int
    ports: Literal[1, 2] = 2
    mux: int | None = None

    def __post_init__(self) -> None:
        if not WORDS[0] <= self.words <= WORDS[1] or not BITS[0] <= self.bits <= BITS[1]:
            raise ConfigError(
                f"a memory must have {WORDS[0]} to {WORDS[1]} words of {BITS[0]} to {BITS[1]} bits, not {self.words} x {self.bits}; divide it"
            )
        if self.mux is not None and (self.mux not in (1, 2, 4, 8, 16) or self.mux > self.words or self.mux * self.bits > COLUMNS_MAX):
            raise ConfigError(f"mux must be 1, 2, 4, 8 or 16 with at most {COLUMNS_MAX} columns and no more than the words, not {self.mux}")

    @property
    def module_name(self) -> str:
        return f"sram_{'1r1w' if self.ports == 2 else '1rw'}_{self.words}x{self.bits}"

    @property
    def address_bits(self) -> int:
        return (self.words - 1).bit_length()

    @property
    def words_per_row(self) -> int:
        if self.mux is not None:
            return self.mux
        mux = 1
        while mux < MUX_MAX and self.words > ROWS_MAX * mux and 2 * mux * self.bits <= COLUMNS_MAX:
            mux *= 2
        return mux

    @property
    def rows(self) -> int:
        """Rows of one bank."""
        return min(ROWS_MAX, math.ceil(self.words / self.words_per_row))

    @property
    def columns(self) -> int:
        return self.bits * self.words_per_row

    @property
    def banks(self) -> int:
        return math.ceil(self.words / (self.rows * self.words_per_row))


@dataclass(frozen=True, kw_only=True)
class SramFigures:
    """A macro at a corner. Energies are per access of a whole word; access and cycle are of a read; `provisional` marks estimates.

    `level_shifters` counts the inputs that are shifted to the memory's rail, 0 where it is the logic's; their delay, energy, leakage
    and area are in the other figures.
    """

    macro: SramMacro
    corner: Corner
    access_s: float
    setup_s: float
    hold_s: float
    cycle_s: float
    read_energy_j: float
    write_energy_j: float
    leakage_w: float
    area_um2: float
    input_capacitance_f: float
    output_resistance_ohm: float
    level_shifters: int
    provisional: bool
