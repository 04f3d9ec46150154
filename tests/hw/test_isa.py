"""The encoding of instructions."""

import random

import pytest

from hw.isa import FIELDS, INSTRUCTION_BYTES, Opcode, decode, encode


def extremes(field):
    return (-(1 << field.bits - 1), (1 << field.bits - 1) - 1) if field.signed else (0, (1 << field.bits) - 1)


@pytest.mark.parametrize("opcode", list(Opcode))
def test_what_is_encoded_is_decoded(opcode):
    draw = random.Random(int(opcode))
    for choose in (min, max, *[lambda pair: draw.randint(*pair)] * 5):
        values = {field.name: choose(extremes(field)) for field in FIELDS[opcode][1:]}
        data = encode(opcode, **values)
        assert len(data) == INSTRUCTION_BYTES and decode(data) == (opcode, values)


def test_fields_lie_where_the_table_says():
    """COMPUTE: opcode in bits 3:0, waits and signals in 9:4, act_base in 23:10, weight_base in 37:24."""
    word = int.from_bytes(encode(Opcode.COMPUTE, wait_store=1, act_base=0x2A5B, weight_base=3), "little")
    assert word == 4 | 1 << 6 | 0x2A5B << 10 | 3 << 24
    assert int.from_bytes(encode(Opcode.END), "little") == 8


def test_what_does_not_fit_is_refused():
    with pytest.raises(ValueError, match="COMPUTE.tile_h must be 0 to 1023, not 1024"):
        encode(Opcode.COMPUTE, tile_h=1024)
    with pytest.raises(ValueError, match="CONFIGURE.clip_low must be -32768 to 32767, not -32769"):
        encode(Opcode.CONFIGURE, clip_low=-32769)
    with pytest.raises(ValueError, match="END has no field tile_h"):
        encode(Opcode.END, tile_h=1)


def test_what_is_no_instruction_is_refused():
    with pytest.raises(ValueError, match="0 is not a valid Opcode"):
        decode(bytes(32))
    with pytest.raises(ValueError, match="END has bits set beyond its last field"):
        decode(encode(Opcode.END)[:31] + b"\x80")
    with pytest.raises(ValueError, match="has 32 bytes, not 31"):
        decode(encode(Opcode.END)[:31])
