"""The store engine against a plain interpretation of STORE: which bytes it writes, when it is done, how fast."""

import random

import pytest
from block_bench import instruction, simulate, sink, source, until, variant

from hw.config import AcceleratorConfig
from hw.isa import Opcode
from hw.store import Store

CONFIGS = {
    "word = beat": variant("medium"),
    "2 words a beat": variant("large"),
    "32 words a beat": variant("small", array={"cols": 2, "lanes": 2}, precision={"activation_bits": 4}, memory={"axi_data_bits": 256}),
    "16 beats a word": variant("medium", array={"lanes": 32}, precision={"activation_bits": 16}, memory={"axi_data_bits": 32}),
}


def word_at(config: AcceleratorConfig, bank: int, address: int) -> int:
    """What the output banks hold."""
    return (bank * 0x51ED + address + 1) * 0x9E3779B97F4A7C15F39CC0605CEDC835 & ((1 << config.activation_word_bits) - 1)


def interpret(config: AcceleratorConfig, f: dict[str, int], memory: dict[int, int]) -> None:
    size = config.output_word_bytes
    for outer in range(f["count2"]):
        for inner in range(f["count1"]):
            for i in range(f["run_words"]):
                word = (f["output_address"] + outer * f["bank_stride2"] + inner * f["bank_stride1"] + i) % config.output_words
                byte = f["dram_address"] + outer * f["stride2_bytes"] + inner * f["stride1_bytes"] + i * size
                for offset, value in enumerate(word_at(config, f["bank"], word).to_bytes(size, "little")):
                    memory[byte + offset] = value


def random_store(draw: random.Random, config: AcceleratorConfig, region: int) -> dict[str, int]:
    """Legal fields whose runs do not overlap each other, within a megabyte of their own."""
    unit = min(config.output_word_bytes, config.axi_bytes)
    run_words = draw.choice([1, 2, draw.randrange(1, 20)])
    run_units = -(-run_words * config.output_word_bytes // unit)
    count1, count2 = draw.randrange(1, 5), draw.choice([1, 3])
    stride1 = run_units + draw.randrange(4)
    return {
        "bank": draw.randrange(config.array.rows), "output_address": draw.randrange(config.output_words),
        "dram_address": (region << 20) + draw.randrange(100) * unit, "run_words": run_words,
        "count1": count1, "stride1_bytes": stride1 * unit, "bank_stride1": draw.randrange(100),
        "count2": count2, "stride2_bytes": (stride1 * count1 + draw.randrange(4)) * unit, "bank_stride2": draw.randrange(100),
    }  # fmt: skip


class Bench:
    """A store engine with output banks, and a memory that answers runs `latency` clocks after their last beat."""

    def __init__(self, config: AcceleratorConfig, program: list[tuple[Opcode, dict]], *, stall: float = 0.0, latency: int = 10,
                 failing: set[int] = frozenset()):  # fmt: skip
        self.store = store = Store(config)
        self.config, self.latency, self.failing = config, latency, failing
        self.memory: dict[int, int] = {}
        self.runs: list[tuple[int, int]] = []
        self.beats: list[tuple[int, int]] = []
        self.answers: list[tuple[int]] = []
        self.answered = 0
        self.done_after: list[int] = []
        """Runs answered when each instruction was done."""
        self.program = [(instruction(opcode, **fields),) for opcode, fields in program]
        self.benches = [
            source([store.instr_payload], store.instr_valid, store.instr_ready, self.program),
            sink([store.run_address, store.run_beats], store.run_valid, store.run_ready, self.runs, stall=stall, seed=1),
            sink([store.beat_data, store.beat_strobe], store.beat_valid, store.beat_ready, self.beats, stall=stall, seed=2),
            source([store.answer_error], store.answer_valid, store.answer_ready, self.answers, stall=stall, seed=3),
            self._banks, self._memory, self._watch,
        ]  # fmt: skip

    async def _banks(self, ctx):
        store = self.store
        while True:
            enable, bank, address = (await ctx.tick().sample(store.out_read_en, store.out_read_bank, store.out_read_addr))[-3:]
            if enable:
                ctx.set(store.out_read_data, word_at(self.config, bank, address))

    async def _memory(self, ctx):
        size, clock, waiting, run = self.config.axi_bytes, 0, [], 0
        while True:
            await ctx.tick()
            clock += 1
            while run < len(self.runs) and len(self.beats) >= self.runs[run][1]:
                first, count = self.runs[run]
                for i in range(count):
                    data, strobe = self.beats.pop(0)
                    for byte in range(size):
                        if strobe >> byte & 1:
                            address = (first + i) * size + byte
                            assert address not in self.memory, "a byte is written twice"
                            self.memory[address] = data >> 8 * byte & 0xFF
                waiting.append((clock + self.latency, int(run in self.failing)))
                run += 1
            while waiting and waiting[0][0] <= clock:
                self.answers.append((waiting.pop(0)[1],))

    async def _watch(self, ctx):
        store = self.store
        while True:
            done, valid, ready = (await ctx.tick().sample(store.done, store.answer_valid, store.answer_ready))[-3:]
            if done:
                self.done_after.append(self.answered)
            self.answered += valid and ready

    def run(self, main) -> None:
        simulate(self.store, main, *self.benches)


@pytest.mark.parametrize("name", CONFIGS)
@pytest.mark.parametrize("stall", [0.0, 0.4])
def test_random_instructions(name, stall):
    config, draw = CONFIGS[name], random.Random(name)
    program = [(Opcode.SYNC, {"engine": 2}) if i % 4 == 3 else (Opcode.STORE, random_store(draw, config, i)) for i in range(13)]
    expected, runs_until = {}, []
    for opcode, fields in program:
        if opcode == Opcode.STORE:
            interpret(config, fields, expected)
        runs_until.append((runs_until or [0])[-1] + (fields["count1"] * fields["count2"] if opcode == Opcode.STORE else 0))
    bench = Bench(config, program, stall=stall)

    async def main(ctx):
        await until(ctx, lambda: len(bench.done_after) == len(program))
        for _ in range(30):
            await ctx.tick()
        assert bench.memory == expected
        assert len(bench.done_after) == len(program)
        assert all(answered >= needed for answered, needed in zip(bench.done_after, runs_until, strict=True)), "done before its answers were back"
        assert not bench.beats and ctx.get(bench.store.drained) and not ctx.get(bench.store.busy)

    bench.run(main)


@pytest.mark.parametrize("name, clocks_a_word", [("word = beat", 1), ("2 words a beat", 1), ("32 words a beat", 1), ("16 beats a word", 16)])
@pytest.mark.parametrize("run_words", [32, 4])
def test_no_pause_within_an_instruction(name, clocks_a_word, run_words):
    """One word a clock, or one beat where a word has several, whatever the length of the runs."""
    config, words = CONFIGS[name], 64
    fields = {"bank": 0, "run_words": run_words, "count1": words // run_words, "count2": 1, "stride1_bytes": 4096, "bank_stride1": run_words}
    bench, reads = Bench(config, [(Opcode.STORE, fields)]), []

    async def main(ctx):
        for clock in range(100 + words * clocks_a_word):
            await ctx.tick()
            if ctx.get(bench.store.out_read_en):
                reads.append(clock)
        assert len(reads) == words
        assert reads[-1] - reads[0] == (words - 1) * clocks_a_word

    bench.run(main)


def test_the_next_instruction_starts_while_answers_are_awaited():
    fields = {"bank": 0, "run_words": 8, "count1": 1, "count2": 1}
    program = [(Opcode.STORE, fields | {"dram_address": 4096 * i}) for i in range(3)]
    bench = Bench(CONFIGS["word = beat"], program, latency=200)

    async def main(ctx):
        assert await until(ctx, lambda: len(bench.done_after) == 3) < 250

    bench.run(main)


@pytest.mark.parametrize("field", ["dram_address", "stride1_bytes", "stride2_bytes"])
def test_misaligned(field):
    """Writes nothing and is reported once everything before is done."""
    good = {"bank": 0, "run_words": 8, "count1": 1, "count2": 1}
    bench = Bench(CONFIGS["word = beat"], [(Opcode.STORE, good), (Opcode.STORE, good | {field: 4100})])

    async def main(ctx):
        await until(ctx, lambda: ctx.get(bench.store.misaligned))
        assert len(bench.done_after) == 1 and len(bench.runs) == 1
        assert ctx.get(bench.store.drained)

    bench.run(main)


def test_an_error_answer_is_reported_before_the_instruction_is_done():
    good = {"bank": 0, "run_words": 8, "count1": 2, "stride1_bytes": 64, "bank_stride1": 8, "count2": 1}
    bench = Bench(CONFIGS["word = beat"], [(Opcode.STORE, good), (Opcode.STORE, good | {"dram_address": 4096})], failing={3})

    async def main(ctx):
        await until(ctx, lambda: len(bench.done_after) == 2 or ctx.get(bench.store.failed))
        assert ctx.get(bench.store.failed)

    bench.run(main)


def test_stop_ends_after_the_run_in_hand():
    """A run that was announced is written in full; no other is announced."""
    fields = {"bank": 0, "run_words": 20, "count1": 50, "stride1_bytes": 4096, "bank_stride1": 1, "count2": 1}
    bench = Bench(CONFIGS["word = beat"], [(Opcode.STORE, fields)] * 2)

    async def main(ctx):
        await until(ctx, lambda: len(bench.memory) >= 4 * 160)
        ctx.set(bench.store.stop, 1)
        await ctx.tick()
        announced = len(bench.runs)
        await until(ctx, lambda: ctx.get(bench.store.drained))
        assert len(bench.runs) <= announced + 1
        assert len(bench.memory) == 160 * len(bench.runs) and not bench.beats

    bench.run(main)
