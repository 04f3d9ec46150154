"""Banks: what is read when, and that simulation punishes reading what is being written."""

import random

import pytest
from block_bench import simulate

from hw.sram import FlipflopBank, Sram, bank


@pytest.mark.parametrize("kind", ["sram", "flipflop"])
def test_a_word_is_read_one_cycle_later_and_held(kind):
    draw = random.Random(kind)
    dut, contents, expected = bank(kind, words=32, bits=12), {}, None

    async def main(ctx):
        nonlocal expected
        for _ in range(800):
            read, write, address = draw.random() < 0.4, draw.random() < 0.5, draw.randrange(32)
            read_address = draw.choice(list(contents)) if contents else 0
            read = read and bool(contents) and not (write and address == read_address)
            data = draw.randrange(1 << 12)
            for name, value in (("read_en", read), ("read_addr", read_address), ("write_en", write), ("write_addr", address), ("write_data", data)):
                ctx.set(getattr(dut, name), value)
            if read:
                expected = contents[read_address]
            if write:
                contents[address] = data
            await ctx.tick()
            assert expected is None or ctx.get(dut.read_data) == expected

    simulate(dut, main)
    assert len(contents) == 32


def test_reading_the_word_that_is_written_gives_neither_the_old_nor_the_new():
    dut = Sram(words=32, bits=8)

    async def main(ctx):
        ctx.set(dut.write_en, 1)
        ctx.set(dut.write_data, 0x35)
        await ctx.tick()
        ctx.set(dut.write_data, 0x77)
        ctx.set(dut.read_en, 1)
        await ctx.tick()
        assert ctx.get(dut.read_data) not in (0x35, 0x77)
        ctx.set(dut.write_en, 0)
        await ctx.tick()
        assert ctx.get(dut.read_data) == 0x77

    simulate(dut, main)


def test_only_memory_macros_are_black_boxes():
    assert Sram(words=64, bits=8).black_box and Sram(words=64, bits=8).module_name == "sram_1r1w_64x8"
    assert not FlipflopBank(words=64, bits=8).black_box and FlipflopBank(words=64, bits=8).module_name == "flipflop_1r1w_64x8"
