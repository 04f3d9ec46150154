"""The load engine against a plain interpretation of LOAD, FILL and COPY: what every bank holds afterwards, and when."""

import random
from types import MappingProxyType

import pytest
from block_bench import instruction, simulate, sink, source, until, variant

from hw.config import AcceleratorConfig
from hw.isa import Opcode, Target
from hw.load import Load

# Words narrower than, as wide as and wider than a beat; several weight columns a beat; several post lanes.
CONFIGS = {
    "small": variant("small"),
    "medium": variant("medium"),
    "large": variant("large"),
    "narrow words": variant("small", array={"cols": 2, "lanes": 2}, precision={"activation_bits": 4, "weight_bits": 4}, memory={"axi_data_bits": 256}),
    "wide words": variant("medium", array={"lanes": 32, "post_lanes": 4}, precision={"activation_bits": 16}, memory={"axi_data_bits": 32}),
    "wide weights": variant("medium", array={"cols": 16, "lanes": 16, "post_lanes": 2}, precision={"weight_bits": 16}, memory={"axi_data_bits": 128}),
}
BEYOND = 50
"""A clock far after the last one of interest."""


def memory_byte(address: int) -> int:
    """What the memory holds: different in every byte of a neighbourhood."""
    return (address * 167 + (address >> 8) * 59) & 0xFF


def output_word(config: AcceleratorConfig, bank: int, address: int) -> int:
    """What an output bank holds: different in every word."""
    return ((address % config.output_words + 1) * 0x9E3779B97F4A7C15F39CC0605CEDC834 ^ bank * 0x1234567 * 0x1000001) % (1 << config.activation_word_bits)


class Banks:
    """What the banks hold, by target, bank and address: filled by instructions interpreted, or by writes observed."""

    def __init__(self, config: AcceleratorConfig):
        self.config = config
        self.words: dict[tuple[Target, int, int], int] = {}
        self.writes = 0

    def write(self, target: Target, bank: int, address: int, value: int) -> None:
        depth = {
            Target.ACTIVATION: self.config.activation_words, Target.WEIGHT: self.config.weight_words, Target.PARAMETER: self.config.parameter_bank_words,
        }[target]  # fmt: skip
        self.words[target, bank, address % depth] = value
        self.writes += 1

    def execute(self, opcode: Opcode, f: dict[str, int]) -> None:
        config = self.config
        size = {Target.ACTIVATION: config.activation_word_bytes, Target.WEIGHT: config.weight_word_bytes, Target.PARAMETER: 8}[f["target"]]
        banks = {Target.ACTIVATION: 1, Target.WEIGHT: config.array.cols, Target.PARAMETER: config.array.post_lanes}[f["target"]]
        words = f["run_words"] * (config.array.cols if f["target"] == Target.WEIGHT else 1)
        for outer in range(f["count2"]):
            for inner in range(f["count1"]):
                copies = opcode == Opcode.COPY
                dram = 0 if copies else f["dram_address"] + outer * f["stride2_bytes"] + inner * f["stride1_bytes"]
                offset = outer * f["bank_stride2"] + inner * f["bank_stride1"]
                for i in range(words):
                    value = int.from_bytes(bytes(memory_byte(dram + i * size + byte) for byte in range(size)), "little")
                    if copies:
                        value = output_word(config, f["source_bank"], f["source_address"] + outer * f["source_stride2"] + inner * f["source_stride1"] + i)
                    if opcode == Opcode.FILL:
                        bits = config.precision.activation_bits
                        value = sum((f["fill_value"] & ((1 << bits) - 1)) << bits * lane for lane in range(config.array.lanes))
                    if f["target"] == Target.ACTIVATION:
                        for row in range(config.array.rows):
                            for mask, first in ((f["banks_a"], f["address_a"]), (f["banks_b"], f["address_b"])):
                                if mask >> row & 1:
                                    self.write(Target.ACTIVATION, row, first + offset + i, value)
                    else:
                        self.write(f["target"], i % banks, f["address_a"] + offset + i // banks, value)


def random_transfer(draw: random.Random, config: AcceleratorConfig, opcode: Opcode, target: Target) -> dict[str, int]:
    """Legal fields whose runs do not overlap in the banks."""
    unit = {
        Target.ACTIVATION: min(config.activation_word_bytes, config.axi_bytes),
        Target.WEIGHT: min(config.weight_word_bytes * config.array.cols, config.axi_bytes),
        Target.PARAMETER: min(8, config.axi_bytes),
    }[target]
    run_words = draw.choice([1, 2, draw.randrange(1, 12)])
    count1, count2 = draw.choice([1, 2, draw.randrange(1, 5)]), draw.choice([1, 3])
    banks_a = draw.randrange(1 << config.array.rows)
    depth = {Target.ACTIVATION: config.activation_words, Target.WEIGHT: config.weight_words, Target.PARAMETER: config.parameter_bank_words}[target]
    if opcode == Opcode.COPY:
        source = {"source_bank": draw.randrange(config.array.rows), "source_address": draw.randrange(config.output_words)}
        source |= {"source_stride1": draw.randrange(50), "source_stride2": draw.randrange(2**14)}
        return source | {name: value for name, value in random_transfer(draw, config, Opcode.FILL, target).items()
                         if name not in ("dram_address", "stride1_bytes", "stride2_bytes", "fill_value")}  # fmt: skip
    return {
        "target": target, "dram_address": draw.randrange(1 << 20) * unit, "run_words": run_words,
        "count1": count1, "stride1_bytes": draw.randrange(0, 200) * unit, "bank_stride1": run_words + draw.randrange(3),
        "count2": count2, "stride2_bytes": draw.randrange(0, 200) * unit, "bank_stride2": 100,
        "banks_a": banks_a, "address_a": draw.randrange(depth), "banks_b": draw.randrange(1 << config.array.rows) & ~banks_a,
        "address_b": draw.randrange(depth), "fill_value": draw.randrange(-8, 8) if opcode == Opcode.FILL else 0,
    }  # fmt: skip


class Bench:
    """A load engine with the rest of the machine around it."""

    def __init__(self, config: AcceleratorConfig, program: list[tuple[Opcode, dict]], *, stall: float = 0.0,
                 errors: dict[int, int] = MappingProxyType({}), latency: int = 5):  # fmt: skip
        self.load = load = Load(config)
        self.config, self.errors, self.latency = config, errors, latency
        self.seen = Banks(config)
        self.runs: list[tuple[int, int]] = []
        self.beats: list[tuple[int, int, int]] = []
        self.beats_made = 0
        self.done_at: list[int] = []
        self.write_at: list[int] = []
        self.clock = 0
        self.program = [(instruction(opcode, **fields),) for opcode, fields in program]
        self.benches = [
            source([load.instr_payload], load.instr_valid, load.instr_ready, self.program),
            sink([load.run_address, load.run_beats], load.run_valid, load.run_ready, self.runs, stall=stall, seed=1),
            self._memory, self._watch, self._output_banks(stall),
            source([load.beat_data, load.beat_error, load.beat_program], load.beat_valid, load.beat_ready, self.beats, stall=stall, seed=2),
        ]  # fmt: skip

    async def _memory(self, ctx):
        size, waiting, answered = self.config.axi_bytes, [], 0
        while True:
            waiting += [(self.clock + self.latency, run) for run in self.runs[answered:]]
            answered = len(self.runs)
            while waiting and waiting[0][0] <= self.clock:
                first, count = waiting.pop(0)[1]
                for beat in range(first, first + count):
                    data = int.from_bytes(bytes(memory_byte(beat * size + i) for i in range(size)), "little")
                    self.beats.append((data, self.errors.get(self.beats_made, 0), 0))
                    self.beats_made += 1
            await ctx.tick()

    def _output_banks(self, stall: float):
        """A word that was asked for is there in the next cycle, and only then; at random the port is someone else's."""
        load, draw = self.load, random.Random(3)

        async def bench(ctx):
            while True:
                ctx.set(load.out_read_ready, draw.random() >= stall)
                *what, en, ready = (await ctx.tick().sample(load.out_read_bank, load.out_read_addr, load.out_read_en, load.out_read_ready))[2:]
                ctx.set(load.out_read_data, output_word(self.config, *what) if en and ready else draw.getrandbits(self.config.activation_word_bits))

        return bench

    async def _watch(self, ctx):
        """Note writes to the banks and completions."""
        load, config = self.load, self.config
        side_by_side = len(load.weight_write_data) // config.weight_word_bits
        while True:
            await ctx.tick()
            self.clock += 1
            if ctx.get(load.done):
                self.done_at.append(self.clock)
            before = self.seen.writes
            for mask, address in ((load.act_write_a, load.act_write_addr_a), (load.act_write_b, load.act_write_addr_b)):
                for row in range(config.array.rows):
                    if ctx.get(mask) >> row & 1:
                        self.seen.write(Target.ACTIVATION, row, ctx.get(address), ctx.get(load.act_write_data))
            for col in range(config.array.cols):
                if ctx.get(load.weight_write) >> col & 1:
                    data = ctx.get(load.weight_write_data) >> col % side_by_side * config.weight_word_bits & ((1 << config.weight_word_bits) - 1)
                    self.seen.write(Target.WEIGHT, col, ctx.get(load.weight_write_addr), data)
            for lane in range(config.array.post_lanes):
                if ctx.get(load.param_write) >> lane & 1:
                    self.seen.write(Target.PARAMETER, lane, ctx.get(load.param_write_addr), ctx.get(load.param_write_data))
            if self.seen.writes != before:
                self.write_at.append(self.clock)

    def run(self, main) -> None:
        simulate(self.load, main, *self.benches)


@pytest.mark.parametrize("name", CONFIGS)
@pytest.mark.parametrize("stall", [0.0, 0.4])
def test_random_instructions(name, stall):
    config, draw = CONFIGS[name], random.Random(name)
    program = []
    for _ in range(14):
        opcode = draw.choice([Opcode.LOAD, Opcode.LOAD, Opcode.FILL, Opcode.COPY, Opcode.SYNC])
        target = draw.choice(list(Target)) if opcode == Opcode.LOAD else Target.ACTIVATION
        program.append((opcode, {} if opcode == Opcode.SYNC else random_transfer(draw, config, opcode, target)))
    expected = Banks(config)
    for opcode, fields in program:
        if opcode != Opcode.SYNC:
            expected.execute(opcode, fields)
    bench = Bench(config, program, stall=stall)

    async def main(ctx):
        await until(ctx, lambda: len(bench.done_at) == len(program))
        for _ in range(BEYOND):
            await ctx.tick()
        assert bench.seen.words == expected.words
        assert bench.seen.writes == expected.writes
        assert len(bench.done_at) == len(program)
        assert not bench.beats and ctx.get(bench.load.drained) and not ctx.get(bench.load.busy)
        assert not ctx.get(bench.load.misaligned) and not ctx.get(bench.load.failed)

    bench.run(main)


@pytest.mark.parametrize("opcode", [Opcode.LOAD, Opcode.FILL, Opcode.COPY])
def test_done_comes_with_the_last_write(opcode):
    config = CONFIGS["medium"]
    fields = {"target": Target.ACTIVATION, "run_words": 7, "count1": 1, "count2": 1, "banks_a": 1}
    bench = Bench(config, [(opcode, fields), (opcode, fields)])

    async def main(ctx):
        await until(ctx, lambda: len(bench.done_at) == 2)
        assert bench.done_at == [bench.write_at[6], bench.write_at[13]]

    bench.run(main)


@pytest.mark.parametrize("opcode", [Opcode.LOAD, Opcode.COPY])
@pytest.mark.parametrize("count1, run_words", [(1, 120), (30, 4), (120, 1)])
def test_runs_follow_each_other_without_a_pause(count1, run_words, opcode):
    """One word a clock from the first to the last, whatever the length of the runs, when word and beat are equally wide."""
    stride = {"stride1_bytes": 4096} if opcode == Opcode.LOAD else {"source_stride1": 100}
    fields = {"target": Target.ACTIVATION, "run_words": run_words, "count1": count1, "bank_stride1": run_words, "count2": 1, "banks_a": 1} | stride
    bench = Bench(CONFIGS["medium"], [(opcode, fields)])

    async def main(ctx):
        await until(ctx, lambda: len(bench.done_at) == 1)
        assert len(bench.write_at) == 120
        assert bench.write_at[-1] - bench.write_at[0] == 119

    bench.run(main)


def test_requests_run_ahead_of_data():
    """The next instruction's runs are asked for while the data of this one is awaited."""
    fields = {"target": Target.ACTIVATION, "run_words": 4, "count1": 3, "stride1_bytes": 64, "count2": 1, "banks_a": 1}
    bench = Bench(CONFIGS["medium"], [(Opcode.LOAD, fields)] * 2, latency=100)

    async def main(ctx):
        assert await until(ctx, lambda: len(bench.runs) == 6) < 20
        await until(ctx, lambda: len(bench.done_at) == 2)
        assert bench.done_at[-1] < 100 + 40

    bench.run(main)


def test_wide_beats_fill_several_columns_a_clock():
    """256 multipliers: two weight words a beat, so a tile of 8 columns takes 4 clocks a step."""
    config = CONFIGS["large"]
    fields = {"target": Target.WEIGHT, "run_words": 20, "count1": 1, "count2": 1}
    bench = Bench(config, [(Opcode.LOAD, fields)])

    async def main(ctx):
        await until(ctx, lambda: len(bench.done_at) == 1)
        assert len(bench.write_at) == 20 * config.array.cols // 2
        assert bench.write_at[-1] - bench.write_at[0] == 20 * config.array.cols // 2 - 1

    bench.run(main)


@pytest.mark.parametrize("field", ["dram_address", "stride1_bytes", "stride2_bytes"])
@pytest.mark.parametrize("target", [Target.ACTIVATION, Target.WEIGHT])
def test_misaligned(field, target):
    """Neither asked for nor written; what came before is completed."""
    good = {"target": target, "run_words": 2, "count1": 1, "count2": 1, "banks_a": 1}
    bench = Bench(CONFIGS["medium"], [(Opcode.LOAD, good), (Opcode.LOAD, good | {field: 4})])

    async def main(ctx):
        await until(ctx, lambda: ctx.get(bench.load.misaligned))
        assert len(bench.done_at) == 1 and len(bench.runs) == 1
        assert ctx.get(bench.load.drained)

    bench.run(main)


@pytest.mark.parametrize("error", [1, 3])
def test_an_error_response_is_reported_before_the_instruction_is_done(error):
    fields = {"target": Target.ACTIVATION, "run_words": 4, "count1": 1, "count2": 1, "banks_a": 1}
    bench = Bench(CONFIGS["medium"], [(Opcode.LOAD, fields)] * 2, errors={7: error})

    async def main(ctx):
        await until(ctx, lambda: len(bench.done_at) == 1)
        assert not ctx.get(bench.load.failed)
        await until(ctx, lambda: len(bench.done_at) == 2 or ctx.get(bench.load.failed))
        assert ctx.get(bench.load.failed) and ctx.get(bench.load.outside) == (error == 3)

    bench.run(main)


def test_stop_drops_what_is_under_way():
    """After `stop` no run is asked for, no word written; the beats that still come are taken."""
    fields = {"target": Target.ACTIVATION, "run_words": 8, "count1": 50, "stride1_bytes": 64, "count2": 1, "banks_a": 1}
    bench = Bench(CONFIGS["medium"], [(Opcode.LOAD, fields)] * 3, latency=30)

    async def main(ctx):
        await until(ctx, lambda: len(bench.write_at) == 20)
        ctx.set(bench.load.stop, 1)
        await ctx.tick()
        await ctx.tick()
        written, asked = bench.seen.writes, len(bench.runs)
        await until(ctx, lambda: ctx.get(bench.load.drained))
        assert bench.beats_made == 8 * len(bench.runs) and not bench.beats
        assert bench.seen.writes == written and len(bench.runs) <= asked + 1

    bench.run(main)


def test_program_beats_are_left_alone():
    bench = Bench(CONFIGS["medium"], [(Opcode.LOAD, {"target": Target.ACTIVATION, "run_words": 1, "count1": 1, "count2": 1, "banks_a": 1})], latency=20)
    bench.beats.append((0, 0, 1))

    async def main(ctx):
        for _ in range(15):
            await ctx.tick()
        assert len(bench.beats) == 1 and not bench.write_at

    bench.run(main)
