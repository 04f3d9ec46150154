"""The register file: what reads as what, what may be written, and that the counters count."""

import random

import pytest
from block_bench import simulate, sink, source, until

from hw.config import load_design
from hw.register_file import RegisterFile, configuration_words
from hw.registers import CONFIGURATION, EVENTS, IDENTIFICATION, MAP_VERSION, Control, Register, Status, event_address

BITS = dict.fromkeys(EVENTS, 1) | {"multiplier_uses": 15, "dram_read_bytes": 6, "weight_reads": 31}


class Bench:
    def __init__(self):
        self.registers = r = RegisterFile(load_design("large"), BITS)
        self.accesses: list[tuple[int]] = []
        self.answers: list[tuple[int]] = []
        self.pulses = {"start": 0, "soft_reset": 0}
        self.benches = [
            source([r.access], r.access_valid, r.access_ready, self.accesses),
            sink([r.answer], r.answer_valid, r.answer_ready, self.answers, stall=0.3),
            self._count_pulses,
        ]

    async def _count_pulses(self, ctx):
        while True:
            start, soft_reset = (await ctx.tick().sample(self.registers.start, self.registers.soft_reset))[-2:]
            self.pulses["start"] += start
            self.pulses["soft_reset"] += soft_reset

    async def access(self, ctx, address: int, value: int | None = None, strobe: int = 0xF) -> tuple[int, int]:
        """(data, error) of a read, or of a write of `value`."""
        self.answers.clear()
        self.accesses.append(((value is not None) | address << 1 | (value or 0) << 13 | strobe << 45,))
        await until(ctx, lambda: self.answers, limit=100)
        (answer,) = self.answers[0]
        return answer & 0xFFFFFFFF, answer >> 32

    async def read(self, ctx, address: int) -> int:
        value, error = await self.access(ctx, address)
        assert not error
        return value

    async def pulse(self, ctx, *signals) -> None:
        for signal in signals:
            ctx.set(signal, 1)
        await ctx.tick()
        for signal in signals:
            ctx.set(signal, 0)

    def run(self, main) -> None:
        simulate(self.registers, main, *self.benches)


def test_identification_and_configuration():
    bench, config = Bench(), load_design("large")

    async def main(ctx):
        assert await bench.read(ctx, Register.ID) == IDENTIFICATION
        assert await bench.read(ctx, Register.VERSION) == MAP_VERSION
        read = {name: await bench.read(ctx, Register.CONFIGURATION + 4 * i) for i, name in enumerate(CONFIGURATION)}
        assert read == dict(zip(CONFIGURATION, configuration_words(config), strict=True))
        assert (read["rows"], read["lanes"], read["weight_words"], read["axi_data_bits"], read["parameter_words"]) == (4, 8, 4096, 128, 512)
        for name in EVENTS:
            assert await bench.read(ctx, event_address(name)) == 0
        assert await bench.read(ctx, Register.STATUS) == await bench.read(ctx, Register.ERROR_ADDRESS) == 0

    bench.run(main)


@pytest.mark.parametrize("address", [0x05C, 0x0FC, 0x100 + 8 * len(EVENTS), 0xFFC, 0x002])
def test_an_address_outside_the_map_is_an_error(address):
    bench = Bench()

    async def main(ctx):
        assert (await bench.access(ctx, address))[1] == 1
        assert (await bench.access(ctx, address, 5))[1] == 1

    bench.run(main)


def test_writable_and_read_only_registers():
    bench = Bench()
    writable = {Register.PROGRAM_ADDRESS_LOW: 0xFFFFFFFF, Register.PROGRAM_ADDRESS_HIGH: 0xFF, Register.PROGRAM_BYTES: 0xFFFFFFFF}

    async def main(ctx):
        for address, mask in writable.items():
            assert (await bench.access(ctx, address, 0x89ABCDEF))[1] == 0
            assert await bench.read(ctx, address) == 0x89ABCDEF & mask
            await bench.access(ctx, address, 0x11223344, strobe=0b0001)
            assert await bench.read(ctx, address) == 0x89ABCD44 & mask
        assert ctx.get(bench.registers.program_address) == 0x44_89ABCD44
        for address in (Register.ID, Register.STATUS, Register.CONFIGURATION, event_address("instructions"), Register.ERROR_ADDRESS):
            before = await bench.read(ctx, address)
            assert (await bench.access(ctx, address, 0xFFFFFFFF))[1] == 1
            assert await bench.read(ctx, address) == before
        assert bench.pulses == {"start": 0, "soft_reset": 0}

    bench.run(main)


def test_start_status_interrupt():
    bench = Bench()
    r = bench.registers

    async def status(ctx):
        return await bench.read(ctx, Register.STATUS)

    async def main(ctx):
        await bench.access(ctx, Register.CONTROL, 1 << Control.START)
        assert bench.pulses == {"start": 1, "soft_reset": 0}
        ctx.set(r.busy, 1)
        assert await status(ctx) == 1 << Status.BUSY
        await bench.access(ctx, Register.CONTROL, 1 << Control.START)  # while busy: ignored
        assert bench.pulses["start"] == 1
        ctx.set(r.busy, 0)
        await bench.pulse(ctx, r.finished)
        assert await status(ctx) == 1 << Status.DONE | 1 << Status.INTERRUPT and ctx.get(r.interrupt)
        await bench.access(ctx, Register.CONTROL, 1 << Control.CLEAR_INTERRUPT)
        assert await status(ctx) == 1 << Status.DONE and not ctx.get(r.interrupt)

        ctx.set(r.cause, 3)
        ctx.set(r.error_address, 0x12345678)
        await bench.pulse(ctx, r.failed)
        assert await status(ctx) == 1 << Status.ERROR | 1 << Status.INTERRUPT | 3 << 8
        assert await bench.read(ctx, Register.ERROR_ADDRESS) == 0x12345678
        await bench.access(ctx, Register.CONTROL, 1 << Control.SOFT_RESET | 1 << Control.START)
        assert bench.pulses == {"start": 1, "soft_reset": 1}
        assert await status(ctx) == 0 and not ctx.get(r.interrupt)

    bench.run(main)


def test_counters_add_up_carry_and_are_cleared_by_start():
    bench, draw = Bench(), random.Random(4)
    r = bench.registers
    steps = {"multiplier_uses": 0x7FFF, "dram_read_bytes": 32, "instructions": 1}

    async def main(ctx):
        totals = dict.fromkeys(steps, 0)
        for _ in range(300):
            for name, most in steps.items():
                value = draw.choice([0, most, draw.randrange(most + 1)])
                ctx.set(getattr(r, f"ev_{name}"), value)
                totals[name] += value
            await ctx.tick()
        for name in steps:
            ctx.set(getattr(r, f"ev_{name}"), 0)
        for _ in range(4):
            await ctx.tick()
        for name in EVENTS:
            assert await bench.read(ctx, event_address(name)) == totals.get(name, 0), name
        await bench.access(ctx, Register.CONTROL, 1 << Control.START)
        for name in EVENTS:
            assert await bench.read(ctx, event_address(name)) == 0

    bench.run(main)


def test_a_counter_carries_into_its_high_half():
    bench = Bench()
    r = bench.registers

    async def main(ctx):
        ctx.set(r.ev_weight_reads, 0x7FFFFFFF)
        await ctx.tick().repeat(5)
        ctx.set(r.ev_weight_reads, 0)
        await ctx.tick().repeat(4)
        low, high = await bench.read(ctx, event_address("weight_reads")), await bench.read(ctx, event_address("weight_reads") + 4)
        assert high << 32 | low == 5 * 0x7FFFFFFF and high == 2

    bench.run(main)
