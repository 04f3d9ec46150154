"""Runs become legal AXI4 bursts that cover exactly the run; register accesses pass the AXI4-Lite slave."""

import random

import pytest
from block_bench import simulate, sink, source, until, variant

from hw.isa import INSTRUCTION_BYTES
from hw.memory_side import FETCH_GROUP, AxiLite, BurstSplitter, MemoryRead, MemoryWrite
from hw.registers import Register

SHAPES = [(32, 16), (64, 16), (128, 1), (256, 256)]


def config(data_bits: int, max_burst_beats: int):
    return variant(memory={"axi_data_bits": data_bits, "max_burst_beats": max_burst_beats})


def random_runs(draw: random.Random, beats_in_page: int, count: int) -> list[tuple[int, int]]:
    """Runs (first beat, beats), many of them at or across a multiple of 4 KiB."""
    runs = []
    for _ in range(count):
        page = draw.randrange(1, 50) * beats_in_page
        first = draw.choice([page, page - draw.randrange(1, 9), page + draw.randrange(beats_in_page)])
        runs.append((first, draw.choice([1, 2, draw.randrange(1, 40), beats_in_page])))
    return runs


def check_bursts(bursts: list[tuple[int, int]], runs: list[tuple[int, int]], beat_bytes: int, most_beats: int) -> None:
    """Bursts (byte address, beats) in order cover the runs in order, are at most so long, and cross no multiple of 4 KiB."""
    covered = []
    for address, beats in bursts:
        assert address % beat_bytes == 0 and 1 <= beats <= most_beats
        assert address // 4096 == (address + beats * beat_bytes - 1) // 4096
        covered += [address // beat_bytes + i for i in range(beats)]
    assert covered == [first + i for first, beats in runs for i in range(beats)]


@pytest.mark.parametrize("data_bits, most_beats", SHAPES)
def test_splitter_makes_one_burst_a_clock_and_as_few_as_alignment_allows(data_bits, most_beats):
    splitter = BurstSplitter(config(data_bits, most_beats))
    beat_bytes = data_bits // 8
    boundary = min(most_beats, 4096 // beat_bytes)
    runs = random_runs(random.Random(5), 4096 // beat_bytes, 20)
    least = sum((first + beats - 1) // boundary - first // boundary + 1 for first, beats in runs)
    bursts = []

    async def main(ctx):
        clocks = await until(ctx, lambda: len(bursts) == least)
        assert clocks <= least + 3
        check_bursts([(address * beat_bytes, length) for address, length, _ in bursts], runs, beat_bytes, most_beats)
        assert sum(last for *_, last in bursts) == len(runs)

    feeder = source([splitter.run_address, splitter.run_beats], splitter.run_valid, splitter.run_ready, list(runs))
    taker = sink([splitter.address, splitter.length, splitter.last], splitter.valid, splitter.ready, bursts)
    simulate(splitter, main, feeder, taker)


@pytest.mark.parametrize("data_bits, most_beats", SHAPES)
@pytest.mark.parametrize("stall", [0.0, 0.4])
def test_reads(data_bits, most_beats, stall):
    """Program and data runs interleaved: each gets its own beats, errors come with their beat."""
    block = MemoryRead(config(data_bits, most_beats))
    draw, beat_bytes = random.Random(6), data_bits // 8
    in_page = 4096 // beat_bytes
    most_program = FETCH_GROUP * INSTRUCTION_BYTES // beat_bytes
    runs = {"program": [(first, min(beats, most_program)) for first, beats in random_runs(draw, in_page, 8)], "data": random_runs(draw, in_page, 12)}
    bursts, beats, replies = [], [], []
    identifiers = {1: "program", 0: "data"}

    def content(address: int) -> int:
        return (address * 0x9E3779B97F4A7C15) & ((1 << data_bits) - 1)

    async def memory(ctx):
        """Answers bursts in the order of their addresses."""
        answered = 0
        while True:
            while answered < len(bursts):
                identifier, address, length, size, burst = bursts[answered]
                assert (1 << size, burst) == (beat_bytes, 1)
                replies.extend((identifier, content(address + i * beat_bytes), 2 * (address == bursts[0][1]), i == length) for i in range(length + 1))
                answered += 1
            await ctx.tick()

    async def main(ctx):
        expected = sum(beats for kind in runs.values() for _, beats in kind)
        await until(ctx, lambda: len(beats) == expected)
        for number, kind in identifiers.items():
            mine = [(address, length + 1) for identifier, address, length, *_ in bursts if identifier == number]
            check_bursts(mine, runs[kind], beat_bytes, min(most_beats, 256))
            got = [(data, error) for data, error, program in beats if program == (kind == "program")]
            bad = bursts[0][1]
            in_bad = [address + i * beat_bytes for address, length in mine for i in range(length) if address == bad]
            addresses = [(first + i) * beat_bytes for first, count in runs[kind] for i in range(count)]
            assert [data for data, _ in got] == [content(address) for address in addresses]
            assert all(address in in_bad for address, (_, error) in zip(addresses, got, strict=True) if error)
        assert any(error for _, error, _ in beats)

    feeders = [
        source([getattr(block, f"{kind}_address"), getattr(block, f"{kind}_beats")], getattr(block, f"{kind}_valid"), getattr(block, f"{kind}_ready"),
               list(runs[kind]), stall=stall, seed=i)
        for i, kind in enumerate(runs)
    ]  # fmt: skip
    simulate(
        block, main, *feeders, memory,
        sink([block.arid, block.araddr, block.arlen, block.arsize, block.arburst], block.arvalid, block.arready, bursts, stall=stall, seed=3),
        source([block.rid, block.rdata, block.rresp, block.rlast], block.rvalid, block.rready, replies, stall=stall, seed=4),
        sink([block.beat_data, block.beat_error, block.beat_program], block.beat_valid, block.beat_ready, beats, stall=stall, seed=5),
    )  # fmt: skip


@pytest.mark.parametrize("data_bits, most_beats", SHAPES)
@pytest.mark.parametrize("stall", [0.0, 0.4])
def test_writes(data_bits, most_beats, stall):
    """Beats arrive in order, `last` closes each burst, each run is answered once, with an error if any of its bursts had one."""
    block = MemoryWrite(config(data_bits, most_beats))
    draw, beat_bytes = random.Random(7), data_bits // 8
    runs = random_runs(draw, 4096 // beat_bytes, 12)
    total = sum(beats for _, beats in runs)
    data = [(draw.getrandbits(data_bits), draw.getrandbits(data_bits // 8)) for _ in range(total)]
    bursts, sent, responses, answers, failing = [], [], [], [], {3, 4, 11}

    async def memory(ctx):
        """One response for each burst whose data is complete."""
        answered = 0
        while True:
            while answered < min(len(bursts), sum(last for *_, last in sent)):
                responses.append((0, 2 if answered in failing else 0))
                answered += 1
            await ctx.tick()

    async def main(ctx):
        await until(ctx, lambda: len(answers) == len(runs))
        check_bursts([(address, length + 1) for address, length, *_ in bursts], runs, beat_bytes, most_beats)
        assert [(value, strobe) for value, strobe, _ in sent] == data
        ends = [i for i, (*_, last) in enumerate(sent) if last]
        lengths = [end - start for start, end in zip([-1, *ends], ends, strict=False)]
        assert lengths == [length + 1 for _, length, *_ in bursts]
        # Which run each failing burst belongs to, by counting beats.
        starts = [sum(lengths[:i]) for i in range(len(lengths))]
        limits = [sum(beats for _, beats in runs[: i + 1]) for i in range(len(runs))]
        expected = {next(i for i, limit in enumerate(limits) if starts[burst] < limit) for burst in failing}
        assert {i for i, (error,) in enumerate(answers) if error} == expected
        for _ in range(20):
            await ctx.tick()
        assert len(answers) == len(runs)

    simulate(
        block, main, memory,
        source([block.run_address, block.run_beats], block.run_valid, block.run_ready, list(runs), stall=stall, seed=1),
        source([block.beat_data, block.beat_strobe], block.beat_valid, block.beat_ready, list(data), stall=stall, seed=2),
        sink([block.awaddr, block.awlen, block.awsize, block.awburst], block.awvalid, block.awready, bursts, stall=stall, seed=3),
        sink([block.wdata, block.wstrb, block.wlast], block.wvalid, block.wready, sent, stall=stall, seed=4),
        source([block.bid, block.bresp], block.bvalid, block.bready, responses, stall=stall, seed=5),
        sink([block.answer_error], block.answer_valid, block.answer_ready, answers, stall=stall, seed=6),
    )  # fmt: skip


def test_a_beat_a_clock_in_both_directions():
    """Without stalls, reads and writes of long runs take one clock a beat."""
    read, write = MemoryRead(config(64, 16)), MemoryWrite(config(64, 16))
    beats, sent = [], []

    async def read_main(ctx):
        assert await until(ctx, lambda: len(beats) == 256) <= 256 + 7

    bursts: list = []

    async def memory(ctx):
        while True:
            await ctx.tick()
            ctx.set(read.rvalid, int(16 * len(bursts) > len(beats) + ctx.get(read.rvalid)))

    simulate(
        read, read_main, memory,
        source([read.data_address, read.data_beats], read.data_valid, read.data_ready, [(0, 256)]),
        sink([read.araddr], read.arvalid, read.arready, bursts),
        sink([read.rdata], read.beat_valid, read.beat_ready, beats),
    )  # fmt: skip

    async def write_main(ctx):
        ctx.set(write.beat_valid, 1)
        assert await until(ctx, lambda: len(sent) == 96) <= 96 + 12

    simulate(
        write, write_main,
        source([write.run_address, write.run_beats], write.run_valid, write.run_ready, [(0, 96)]),
        sink([write.awaddr], write.awvalid, write.awready, []),
        sink([write.wdata], write.wvalid, write.wready, sent),
    )  # fmt: skip


@pytest.mark.parametrize("stall", [0.0, 0.5])
def test_axi_lite(stall):
    """Reads and writes reach the register side one at a time; answers, errors included, return on their channel."""
    block = AxiLite()
    draw = random.Random(8)
    accesses, answers, reads, writes = [], [], [], []
    read_addresses = [(4 * draw.randrange(1024),) for _ in range(12)]
    write_items = [(4 * draw.randrange(1024), draw.getrandbits(32), draw.getrandbits(4)) for _ in range(12)]

    async def registers(ctx):
        seen = 0
        while True:
            while seen < len(accesses):
                (access,) = accesses[seen]
                address = access >> 1 & 0xFFF
                answers.append(((address * 77) & 0xFFFFFFFF | (address % 8 == 4) << 32,))
                seen += 1
            await ctx.tick()

    async def main(ctx):
        await until(ctx, lambda: len(reads) == 12 and len(writes) == 12)
        assert reads == [((address * 77) & 0xFFFFFFFF, 2 * (address % 8 == 4)) for (address,) in read_addresses]
        assert writes == [(2 * (address % 8 == 4),) for address, *_ in write_items]
        seen_writes = [(access >> 1 & 0xFFF, access >> 13 & 0xFFFFFFFF, access >> 45) for (access,) in accesses if access & 1]
        assert seen_writes == write_items
        assert len(accesses) == 24

    simulate(
        block, main, registers,
        source([block.araddr], block.arvalid, block.arready, list(read_addresses), stall=stall, seed=1),
        source([block.awaddr], block.awvalid, block.awready, [(address,) for address, *_ in write_items], stall=stall, seed=2),
        source([block.wdata, block.wstrb], block.wvalid, block.wready, [(data, strobe) for _, data, strobe in write_items], stall=stall, seed=3),
        sink([block.rdata, block.rresp], block.rvalid, block.rready, reads, stall=stall, seed=4),
        sink([block.bresp], block.bvalid, block.bready, writes, stall=stall, seed=5),
        sink([block.access], block.access_valid, block.access_ready, accesses, stall=stall, seed=6),
        source([block.answer], block.answer_valid, block.answer_ready, answers, stall=stall, seed=7),
    )  # fmt: skip


WINDOW = (0x100, 0x17F)
"""The first and the last unit of 32 bytes of a window."""


def runs_at_the_window(data_bits: int) -> list[tuple[int, int, bool]]:
    """(first beat, beats, whether wholly in WINDOW), around its ends, across them, far away, and at the end of the address space."""
    per_unit = 256 // data_bits
    first, end, top = WINDOW[0] * per_unit, (WINDOW[1] + 1) * per_unit, (1 << 40) // (data_bits // 8)
    runs = [(first, 1), (first - 1, 1), (first - 1, 2), (first, end - first), (first, end - first + 1), (end - 3, 3), (end - 3, 4), (end, 1), (0, 2),
            (top - 1, 1), (top - 2, 5), (first + 5, 20)]  # fmt: skip
    return [(start, beats, first <= start and start + beats <= end) for start, beats in runs]


@pytest.mark.parametrize("data_bits, most_beats", SHAPES)
@pytest.mark.parametrize("stall", [0.0, 0.4])
def test_reads_outside_the_window_never_reach_the_bus(data_bits, most_beats, stall):
    """They are answered with as many bad beats, after those of earlier runs and before those of later ones."""
    block = MemoryRead(config(data_bits, most_beats))
    runs, beat_bytes = runs_at_the_window(data_bits), data_bits // 8
    bursts, beats, replies = [], [], []

    async def memory(ctx):
        answered = 0
        while True:
            for address, length in bursts[answered:]:
                replies.extend((0, address // beat_bytes + i & 0xFFFFFFFF, i == length) for i in range(length + 1))
                answered += 1
            await ctx.tick()

    async def main(ctx):
        ctx.set(block.window_first, WINDOW[0])
        ctx.set(block.window_last, WINDOW[1])
        await until(ctx, lambda: len(beats) == sum(count for _, count, _ in runs))
        for address, length in bursts:
            assert WINDOW[0] * 32 <= address and address + (length + 1) * beat_bytes <= (WINDOW[1] + 1) * 32
        expected = [(start + i & 0xFFFFFFFF, 0) if inside else (None, 3) for start, count, inside in runs for i in range(count)]
        assert [(None if error else data, error) for data, error in beats] == expected

    simulate(
        block, main, memory,
        source([block.data_address, block.data_beats], block.data_valid, block.data_ready, [run[:2] for run in runs], stall=stall, seed=1),
        sink([block.araddr, block.arlen], block.arvalid, block.arready, bursts, stall=stall, seed=3),
        source([block.rid, block.rdata, block.rlast], block.rvalid, block.rready, replies, stall=stall, seed=4),
        sink([block.beat_data, block.beat_error], block.beat_valid, block.beat_ready, beats, stall=stall, seed=5),
    )  # fmt: skip


@pytest.mark.parametrize("data_bits, most_beats", SHAPES)
@pytest.mark.parametrize("stall", [0.0, 0.4])
def test_writes_outside_the_window_never_reach_the_bus(data_bits, most_beats, stall):
    """Their beats are taken, and they are answered in order; what is inside is written as ever."""
    block = MemoryWrite(config(data_bits, most_beats))
    runs, beat_bytes = runs_at_the_window(data_bits), data_bits // 8
    data = [start + i & 0xFFFFFFFF for start, count, _ in runs for i in range(count)]
    bursts, sent, responses, answers = [], [], [], []

    async def memory(ctx):
        answered = 0
        while True:
            for _ in range(answered, min(len(bursts), sum(last for _, last in sent))):
                responses.append((0, 0))
                answered += 1
            await ctx.tick()

    async def main(ctx):
        ctx.set(block.window_first, WINDOW[0])
        ctx.set(block.window_last, WINDOW[1])
        await until(ctx, lambda: len(answers) == len(runs))
        assert answers == [(0 if inside else 3,) for *_, inside in runs]
        written = [address // beat_bytes + i for address, length in bursts for i in range(length + 1)]
        assert written == [start + i for start, count, inside in runs for i in range(count) if inside]
        assert [value for value, _ in sent] == [value & 0xFFFFFFFF for value in written]
        assert not data_left

    data_left = [(value, (1 << beat_bytes) - 1) for value in data]
    simulate(
        block, main, memory,
        source([block.run_address, block.run_beats], block.run_valid, block.run_ready, [run[:2] for run in runs], stall=stall, seed=1),
        source([block.beat_data, block.beat_strobe], block.beat_valid, block.beat_ready, data_left, stall=stall, seed=2),
        sink([block.awaddr, block.awlen], block.awvalid, block.awready, bursts, stall=stall, seed=3),
        sink([block.wdata, block.wlast], block.wvalid, block.wready, sent, stall=stall, seed=4),
        source([block.bid, block.bresp], block.bvalid, block.bready, responses, stall=stall, seed=5),
        sink([block.answer_error], block.answer_valid, block.answer_ready, answers, stall=stall, seed=6),
    )  # fmt: skip


def test_window_registers():
    """The whole address space after reset; written and read in halves, whole units only, without the core."""
    block = AxiLite()
    low, high = Register.WRITE_WINDOW_LAST_LOW, Register.WRITE_WINDOW_LAST_HIGH
    reads, writes, values = [], [], []
    write_items = [(low, 0xABCD1234, 0xF), (high, 0xFFFFFF56, 0xF), (low, 0, 0x7), (Register.READ_WINDOW_FIRST_LOW, 0xFFFFFFFF, 0xF)]
    addresses = [(int(register),) for register in Register if "WINDOW" in register.name]
    to_write, to_read = [item for item in write_items], list(addresses)

    async def main(ctx):
        await until(ctx, lambda: len(reads) == 8)
        assert [value for value, _ in reads] == [0, 0, 0xFFFFFFFF, 0xFF] * 2
        to_write.extend(write_items)
        await until(ctx, lambda: len(writes) == 4)
        assert writes == [(0,), (0,), (2,), (0,)]
        to_read.extend(addresses)
        await until(ctx, lambda: len(reads) == 16)
        assert reads[8:] == [(value, 0) for value in (0xFFFFFFE0, 0, 0xFFFFFFFF, 0xFF, 0, 0, 0xABCD123F, 0x56)]
        values.extend(ctx.get(getattr(block, f"{kind}_window_{end}")) for kind in ("read", "write") for end in ("first", "last"))
        assert values == [0x7FFFFFF, 2**35 - 1, 0, 0x56ABCD123F >> 5]
        assert not ctx.get(block.access_valid)

    to_write.clear()

    async def write(ctx):
        while True:
            if to_write:
                address, data, strobe = to_write.pop(0)
                for port, value in ((block.awaddr, address), (block.wdata, data), (block.wstrb, strobe), (block.awvalid, 1), (block.wvalid, 1)):
                    ctx.set(port, value)
                while not (await ctx.tick().sample(block.awready))[-1]:
                    pass
                ctx.set(block.awvalid, 0)
                ctx.set(block.wvalid, 0)
            await ctx.tick()

    simulate(
        block, main, write, source([block.araddr], block.arvalid, block.arready, to_read),
        sink([block.rdata, block.rresp], block.rvalid, block.rready, reads), sink([block.bresp], block.bvalid, block.bready, writes),
    )  # fmt: skip
