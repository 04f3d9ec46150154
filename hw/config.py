"""The accelerator's configuration: what the generator accepts, and what follows from it.

A design is a YAML file (see `hw/designs`). Every size below is a property of the emitted hardware;
there are no hidden constants. Buffers are given per bank, because a bank is one memory macro.
"""

from pathlib import Path
from typing import Annotated, Literal, Self

from pydantic import Field, model_validator

from hw.settings import Settings, load_named

DESIGNS = Path(__file__).parent / "designs"

MIN_BANK_WORDS, MAX_BANK_WORDS = 32, 16_384
DRAM_ALIGNMENT_BYTES = 32
"""Rows of tensors and weight images start at multiples of this: the widest AXI beat, and one LPDDR3 burst."""
PARAMETER_BYTES = 8
"""One output channel's bias (32 bits), multiplier (16) and shift (6), padded to a power of two."""


def is_power_of_two(value: int) -> bool:
    """Whether `value` is 1, 2, 4, 8, ..."""
    return value > 0 and value & (value - 1) == 0


class Array(Settings):
    """The processing array: `rows` x `cols` processing elements of `lanes` multipliers each."""

    rows: int = Field(ge=1, le=16)
    cols: int = Field(ge=2, le=64)
    lanes: int = Field(ge=2, le=64)
    acc_depth: int = Field(8, ge=1, le=64)
    """Accumulators a bank in every PE (two banks): pixels that share one weight read."""
    acc_bits: int = Field(32, ge=16, le=48)
    multiplier_stages: int = Field(1, ge=0, le=3)
    """Registers between the operands and the accumulator."""
    post_lanes: int = Field(1, ge=1, le=16)
    """Requantizers a row: outputs that leave a row in a cycle."""
    depthwise_taps: int = Field(0, ge=0, le=8)
    """Activation words that a row keeps so that a dot product may take a kernel column from each (depthwise layers); 0: none, one word a step."""

    @model_validator(mode="after")
    def _check(self) -> Self:
        for name in ("cols", "lanes", "acc_depth", "post_lanes"):
            if not is_power_of_two(getattr(self, name)):
                raise ValueError(f"a power of two in {name}")
        if self.post_lanes > min(self.cols, self.lanes):
            raise ValueError(f"such that post_lanes <= min(cols, lanes) = {min(self.cols, self.lanes)}")
        if self.depthwise_taps == 1 or self.depthwise_taps > self.lanes:
            raise ValueError(f"such that depthwise_taps is 0 or 2 to min(lanes, 8) = {min(self.lanes, 8)}")
        return self


class Precision(Settings):
    """Signed two's-complement integers of these widths."""

    activation_bits: Literal[4, 8, 16] = 8
    weight_bits: Literal[4, 8, 16] = 8


class Buffers(Settings):
    """On-chip memories, bytes a bank. There is one activation and one output bank a row, one weight bank a column."""

    activation_bank_bytes: Annotated[int, Field(ge=64)]
    weight_bank_bytes: Annotated[int, Field(ge=64)]
    output_bank_bytes: Annotated[int, Field(ge=64)]
    parameter_words: int = Field(256, ge=MIN_BANK_WORDS, le=4096)
    """Output channels whose bias and scale are on chip (over all parameter banks)."""
    kind: Literal["sram", "flipflop"] = "sram"


class Memory(Settings):
    """The off-chip side."""

    axi_data_bits: Literal[32, 64, 128, 256] = 64
    max_burst_beats: int = Field(16, ge=1, le=256)
    read_fifo_beats: int = Field(32, ge=8, le=512)
    """Depth of the two-clock FIFO that carries read data into the core domain."""

    @model_validator(mode="after")
    def _check(self) -> Self:
        for name in ("max_burst_beats", "read_fifo_beats"):
            if not is_power_of_two(getattr(self, name)):
                raise ValueError(f"a power of two in {name}")
        return self


class AcceleratorConfig(Settings):
    """One accelerator. Everything the generator, the compiler and the model need to know about the hardware."""

    version: Literal[1]
    name: str = Field(pattern=r"^[a-z][a-z0-9_]{0,40}$")
    array: Array
    precision: Precision = Precision()
    buffers: Buffers
    memory: Memory = Memory()
    clock_gating: bool = True

    @model_validator(mode="after")
    def _check(self) -> Self:
        for kind in ("activation", "weight", "output"):
            words = getattr(self, f"{kind}_words")
            size = getattr(self.buffers, f"{kind}_bank_bytes")
            if words * getattr(self, f"{kind}_word_bytes") != size or not is_power_of_two(words):
                raise ValueError(f"such that {kind}_bank_bytes ({size}) is a power of two times the word of {getattr(self, f'{kind}_word_bytes')} bytes")
            if not MIN_BANK_WORDS <= words <= MAX_BANK_WORDS:
                raise ValueError(f"such that a {kind} bank has {MIN_BANK_WORDS} to {MAX_BANK_WORDS} words ({size} bytes make {words})")
        if not is_power_of_two(self.buffers.parameter_words) or self.buffers.parameter_words < MIN_BANK_WORDS * self.array.post_lanes:
            raise ValueError(f"such that parameter_words is a power of two and at least {MIN_BANK_WORDS} a post lane")
        if self.precision.activation_bits + self.precision.weight_bits > self.array.acc_bits:
            raise ValueError("such that acc_bits holds one product")
        return self

    # What follows from the above. Words are the unit of on-chip addresses.

    @property
    def multipliers(self) -> int:
        """Multipliers in the array; one useful MAC each a cycle at best."""
        return self.array.rows * self.array.cols * self.array.lanes

    @property
    def activation_word_bits(self) -> int:
        """Bits of a word of the activation and output banks: `lanes` channels of one pixel."""
        return self.array.lanes * self.precision.activation_bits

    @property
    def weight_word_bits(self) -> int:
        """Bits of a word of a weight bank: `lanes` weights of one output channel."""
        return self.array.lanes * self.precision.weight_bits

    @property
    def activation_word_bytes(self) -> int:
        return self.activation_word_bits // 8

    @property
    def weight_word_bytes(self) -> int:
        return self.weight_word_bits // 8

    @property
    def output_word_bytes(self) -> int:
        return self.activation_word_bytes

    @property
    def activation_words(self) -> int:
        """Words of one activation bank (one bank a row)."""
        return self.buffers.activation_bank_bytes // self.activation_word_bytes

    @property
    def weight_words(self) -> int:
        """Words of one weight bank (one bank a column)."""
        return self.buffers.weight_bank_bytes // self.weight_word_bytes

    @property
    def output_words(self) -> int:
        """Words of one output bank (one bank a row)."""
        return self.buffers.output_bank_bytes // self.output_word_bytes

    @property
    def parameter_bank_words(self) -> int:
        """Words of one parameter bank (one bank a post lane)."""
        return self.buffers.parameter_words // self.array.post_lanes

    @property
    def axi_bytes(self) -> int:
        """Bytes of one AXI beat."""
        return self.memory.axi_data_bits // 8

    @property
    def channel_block(self) -> int:
        """Output channels that complete whole activation words: the least tile of output channels that is stored."""
        return max(self.array.cols, self.array.lanes)


def load_design(name_or_path: str | Path) -> AcceleratorConfig:
    """The design of that name in `hw/designs`, or the YAML file at that path."""
    return load_named(AcceleratorConfig, "design", DESIGNS, name_or_path)
