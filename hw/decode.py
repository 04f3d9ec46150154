"""An instruction's fields as slices of the 256-bit word in which the hardware receives it."""

from types import SimpleNamespace

from amaranth.hdl import Value

from hw.isa import FIELDS, INSTRUCTION_BYTES, Opcode

INSTRUCTION_BITS = 8 * INSTRUCTION_BYTES


def fields(word: Value, opcode: Opcode) -> SimpleNamespace:
    """The fields of `opcode` by name, signed where the table says so."""
    found, position = {}, 0
    for field in FIELDS[opcode]:
        value = word[position : position + field.bits]
        found[field.name] = value.as_signed() if field.signed else value
        position += field.bits
    return SimpleNamespace(**found)
