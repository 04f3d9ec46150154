"""The instruction set: one table of fields per instruction, used by the compiler, the RTL and the documents.

An instruction is 256 bits, little-endian, fields packed from bit 0 in the order of the table. A program is a
sequence of instructions in DRAM that ends with END. LOAD, FILL and COPY go to the load engine, CONFIGURE and COMPUTE to
the compute engine, STORE to the store engine; each engine runs its own instructions in order, and engines wait for each
other by tokens only (decoupled access-execute). Addresses of on-chip banks are in words, of DRAM in bytes.
"""

from dataclasses import dataclass
from enum import IntEnum

FORMAT_VERSION = 2
INSTRUCTION_BYTES = 32
TOKEN_LIMIT = 15
"""Tokens a queue between two engines holds; an engine that would exceed it waits before it signals."""


class Opcode(IntEnum):
    """What an instruction does. 0 is illegal, so that a jump into empty memory is caught."""

    LOAD = 1
    FILL = 2
    CONFIGURE = 3
    COMPUTE = 4
    STORE = 5
    SYNC = 6
    OPERATING_POINT = 7
    END = 8
    COPY = 9


class Target(IntEnum):
    """Which banks LOAD writes; FILL and COPY write activations."""

    ACTIVATION = 0
    WEIGHT = 1
    PARAMETER = 2


class Engine(IntEnum):
    """Which engine a SYNC goes to."""

    LOAD = 0
    COMPUTE = 1
    STORE = 2


@dataclass(frozen=True, kw_only=True)
class Field:
    """A field of an instruction: unsigned unless `signed`."""

    name: str
    bits: int
    meaning: str
    signed: bool = False


def _f(name: str, bits: int, meaning: str, signed: bool = False) -> Field:
    return Field(name=name, bits=bits, meaning=meaning, signed=signed)


HEADER = (
    _f("opcode", 4, "see Opcode"),
    _f("wait_load", 1, "before starting, take one token that the load engine signalled to this engine"),
    _f("wait_compute", 1, "the same, from the compute engine"),
    _f("wait_store", 1, "the same, from the store engine"),
    _f("signal_load", 1, "when complete (reads done, writes visible), give one token to the load engine"),
    _f("signal_compute", 1, "the same, to the compute engine"),
    _f("signal_store", 1, "the same, to the store engine"),
)
"""Tokens flow load->compute, compute->load, compute->store, store->compute, store->load; others are illegal."""

_BANKS = (
    _f("target", 2, "see Target"),
    _f("run_words", 16, "contiguous words a run: activation words; weight words per column; output channels for PARAMETER. At least 1"),
    _f("count1", 12, "runs of the inner repetition, at least 1"),
    _f("bank_stride1", 14, "bank words from run to run of the inner repetition"),
    _f("count2", 12, "repetitions of the outer loop, at least 1"),
    _f("bank_stride2", 14, "bank words from one outer repetition to the next"),
    _f("banks_a", 16, "activation banks (bit r = row r) written at address_a"),
    _f("address_a", 14, "first bank word; the only address used for WEIGHT and PARAMETER"),
    _f("banks_b", 16, "activation banks written with the same data at address_b (halo rows shared by two stripes)"),
    _f("address_b", 14, "first bank word for banks_b"),
)

_TRANSFER = _BANKS + (
    _f("dram_address", 40, "first byte of the first run; a multiple of min(word bytes, AXI beat bytes)"),
    _f("stride1_bytes", 28, "DRAM bytes from run to run of the inner repetition"),
    _f("stride2_bytes", 28, "DRAM bytes from one outer repetition to the next"),
    _f("fill_value", 16, "FILL only: the activation (low activation_bits) written in every lane", signed=True),
)

_COPY = _BANKS + (
    _f("source_bank", 4, "output bank (array row) that is read"),
    _f("source_address", 14, "first output word of the first run"),
    _f("source_stride1", 14, "output words from run to run of the inner repetition"),
    _f("source_stride2", 14, "output words from one outer repetition to the next"),
)

FIELDS: dict[Opcode, tuple[Field, ...]] = {
    Opcode.LOAD: HEADER + _TRANSFER,
    Opcode.FILL: HEADER + _TRANSFER,
    Opcode.COPY: HEADER + _COPY,
    Opcode.CONFIGURE: HEADER
    + (
        _f("kernel_h", 8, "reduction steps in r"),
        _f("kernel_w", 8, "reduction steps in s"),
        _f("act_x_stride", 14, "activation words from one output column to the next"),
        _f("act_y_stride", 14, "activation words from one output row to the next"),
        _f("act_r_stride", 14, "activation words from one kernel row to the next"),
        _f("act_s_stride", 14, "activation words from one kernel column to the next"),
        _f("act_c_stride", 14, "activation words from one channel group (`lanes` channels) to the next"),
        _f("output_group_stride", 14, "output words from one group of `lanes` output channels to the next"),
        _f("zero_point", 16, "output zero point, added after scaling", signed=True),
        _f("clip_low", 16, "least output value", signed=True),
        _f("clip_high", 16, "greatest output value", signed=True),
        _f("maximum", 1, "an accumulator keeps the largest dot product of its reduction instead of the sum; each must be one activation times weight 1"),
        _f("taps", 4, "activation words a dot product sees side by side (0 and 1: one, the ordinary case); at most the design's depthwise_taps"),
    ),
    Opcode.COMPUTE: HEADER
    + (
        _f("act_base", 14, "activation word of output (0, 0), kernel (0, 0), channel group 0, the same in every bank"),
        _f("weight_base", 14, "weight word of pass 0, step 0, the same in every bank"),
        _f("parameter_base", 12, "parameter word of the first output channel of pass 0, counted in channels"),
        _f("output_base", 14, "output word of output (0, 0), first channel"),
        _f("tile_h", 10, "output rows a stripe: every array row makes its own stripe from its own bank"),
        _f("tile_w", 12, "output columns"),
        _f("c_groups", 14, "channel groups (`lanes` channels each) reduced"),
        _f("passes", 8, "passes over the columns: `cols` output channels each"),
        _f("row_mask", 16, "array rows that work; the others' operands and accumulators stay still"),
        _f("accumulate", 1, "add to the accumulators that the last COMPUTE left (needs passes = 1, tile_h * tile_w <= acc_depth)"),
        _f("emit", 1, "finish the sums: scale them and write them to the output banks"),
        _f("channel_offset", 6, "first pass starts at this channel within its output word (a multiple of cols; nonzero only when cols < lanes)"),
    ),
    Opcode.STORE: HEADER
    + (
        _f("bank", 4, "output bank (array row)"),
        _f("output_address", 14, "first output word"),
        _f("dram_address", 40, "first byte; a multiple of min(word bytes, AXI beat bytes)"),
        _f("run_words", 16, "contiguous words a run, at least 1"),
        _f("count1", 12, "runs of the inner repetition, at least 1"),
        _f("stride1_bytes", 28, "DRAM bytes from run to run of the inner repetition"),
        _f("bank_stride1", 14, "output words from run to run of the inner repetition"),
        _f("count2", 12, "repetitions of the outer loop, at least 1"),
        _f("stride2_bytes", 28, "DRAM bytes from one outer repetition to the next"),
        _f("bank_stride2", 14, "output words from one outer repetition to the next"),
    ),
    Opcode.SYNC: HEADER + (_f("engine", 2, "see Engine: which engine waits and signals without other work"),),
    Opcode.OPERATING_POINT: HEADER + (_f("index", 8, "operating point asked of the power-and-clock unit, once all engines are idle"),),
    Opcode.END: HEADER,
}

for _opcode, _fields in FIELDS.items():
    assert sum(f.bits for f in _fields) <= 8 * INSTRUCTION_BYTES, _opcode


def encode(opcode: Opcode, **values: int) -> bytes:
    """One instruction as 32 bytes. Fields not given are 0; an unknown field or a value out of range raises ValueError."""
    fields = FIELDS[opcode]
    unknown = set(values) - {f.name for f in fields[1:]}
    if unknown:
        raise ValueError(f"{opcode.name} has no field {sorted(unknown)[0]}")
    word, position = 0, 0
    for field in fields:
        value = int(opcode) if field.name == "opcode" else int(values.get(field.name, 0))
        low, high = (-(1 << field.bits - 1), (1 << field.bits - 1) - 1) if field.signed else (0, (1 << field.bits) - 1)
        if not low <= value <= high:
            raise ValueError(f"{opcode.name}.{field.name} must be {low} to {high}, not {value}")
        word |= (value & ((1 << field.bits) - 1)) << position
        position += field.bits
    return word.to_bytes(INSTRUCTION_BYTES, "little")


def decode(data: bytes) -> tuple[Opcode, dict[str, int]]:
    """The opcode and field values of one instruction; raises ValueError if it is none."""
    if len(data) != INSTRUCTION_BYTES:
        raise ValueError(f"an instruction has {INSTRUCTION_BYTES} bytes, not {len(data)}")
    word = int.from_bytes(data, "little")
    opcode = Opcode(word & 0xF)
    values, position = {}, 0
    for field in FIELDS[opcode]:
        value = word >> position & ((1 << field.bits) - 1)
        if field.signed and value >> field.bits - 1:
            value -= 1 << field.bits
        values[field.name] = value
        position += field.bits
    if word >> position:
        raise ValueError(f"{opcode.name} has bits set beyond its last field")
    del values["opcode"]
    return opcode, values
