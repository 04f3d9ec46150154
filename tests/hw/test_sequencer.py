"""The sequencer with engines that take random times: order, tokens, barriers, errors."""

import random

import pytest
from block_bench import simulate, sink, source, until, variant

from hw.isa import FIELDS, INSTRUCTION_BYTES, TOKEN_LIMIT, Engine, Opcode, Target, encode
from hw.registers import Cause
from hw.sequencer import IN_FLIGHT, TOKEN_PAIRS, Sequencer, program_window

PROGRAM_ADDRESS = 0x40_0000
OWN = {
    Engine.LOAD: (Opcode.LOAD, {"run_words": 1, "count1": 1, "count2": 1}),
    Engine.COMPUTE: (Opcode.COMPUTE, {"tile_h": 1, "tile_w": 1, "c_groups": 1, "passes": 1}),
    Engine.STORE: (Opcode.STORE, {"run_words": 1, "count1": 1, "count2": 1}),
}
"""An instruction of each engine, with no more than must be set."""


def engine_instruction(engine: Engine, waits=(), signals=(), **values) -> bytes:
    """An instruction of `engine` that takes tokens from `waits` and gives tokens to `signals`."""
    opcode, needed = OWN[engine]
    tokens = {f"wait_{x.name.lower()}": 1 for x in waits} | {f"signal_{x.name.lower()}": 1 for x in signals}
    return encode(opcode, **needed, **tokens, **values)


END = encode(Opcode.END)


def random_program(draw: random.Random, length: int) -> list[tuple[Engine, tuple, tuple, bytes]]:
    """Engine, waits, signals and encoding of instructions that, run one after the other, always find their tokens."""
    program, tokens = [], dict.fromkeys(TOKEN_PAIRS, 0)
    for _ in range(length):
        engine = draw.choice(list(Engine))
        waits = tuple(source for source, to in TOKEN_PAIRS if to == engine and tokens[source, to] and draw.random() < 0.6)
        signals = tuple(to for source, to in TOKEN_PAIRS if source == engine and tokens[source, to] < 6 and draw.random() < 0.4)
        for source_engine in waits:
            tokens[source_engine, engine] -= 1
        for to in signals:
            tokens[engine, to] += 1
        if draw.random() < 0.2:
            fields = {f"wait_{x.name.lower()}": 1 for x in waits} | {f"signal_{x.name.lower()}": 1 for x in signals}
            program.append((engine, waits, signals, encode(Opcode.SYNC, engine=engine, **fields)))
        else:
            program.append((engine, waits, signals, engine_instruction(engine, waits, signals)))
    return program


class Bench:
    """A sequencer, a memory that holds `program`, engines that finish in order after random times, and a host."""

    def __init__(self, program: list[bytes], *, config=None, stall: float = 0.0, most_clocks: int = 20, seed: int = 0,
                 program_bytes: int | None = None, unreadable: set[int] = frozenset(), latency: int = 6):  # fmt: skip
        self.config = config or variant("medium")
        self.sequencer = Sequencer(self.config)
        self.draw = random.Random(seed)
        self.image = b"".join(program)
        self.program_bytes = len(self.image) if program_bytes is None else program_bytes
        self.unreadable, self.latency, self.most_clocks, self.stall = unreadable, latency, most_clocks, stall
        self.runs: list[tuple[int, int]] = []
        self.beats: list[tuple[int, int, int]] = []
        self.taken: dict[Engine, list[int]] = {engine: [] for engine in Engine}
        self.completed = dict.fromkeys(Engine, 0)
        self.clock, self.counts, self.ended = 0, {}, None
        self.hold: set[Engine] = set()
        """Engines that finish nothing for now."""
        self.drained = True
        self.log: list[tuple[str, Engine, int]] = []

    def port(self, engine: Engine, name: str):
        return getattr(self.sequencer, f"{engine.name.lower()}_{name}")

    async def _memory(self, ctx):
        size, answered, waiting = self.config.axi_bytes, 0, []
        while True:
            waiting += [(self.clock + self.latency, run) for run in self.runs[answered:]]
            answered = len(self.runs)
            while waiting and waiting[0][0] <= self.clock:
                first, count = waiting.pop(0)[1]
                for beat in range(first, first + count):
                    at = beat * size - PROGRAM_ADDRESS
                    assert 0 <= at and at + size <= self.program_bytes, "fetched outside the program"
                    data = int.from_bytes(self.image[at : at + size].ljust(size, b"\0"), "little")
                    self.beats.append((data, int(at // INSTRUCTION_BYTES in self.unreadable), 1))
            await ctx.tick()

    def _engine(self, engine: Engine):
        async def bench(ctx):
            pending: list[int] = []
            while True:
                ready = len(pending) < self.draw.randrange(1, IN_FLIGHT + 2)
                ctx.set(self.port(engine, "ready"), ready)
                if engine == Engine.COMPUTE:
                    ctx.set(self.sequencer.compute_soon, ready or self.draw.random() < 0.1)
                done = bool(pending) and pending[0] <= self.clock and engine not in self.hold
                ctx.set(self.port(engine, "done"), done)
                if done:
                    pending.pop(0)
                    self.log.append(("done", engine, self.completed[engine]))
                    self.completed[engine] += 1
                valid, is_ready, payload = (await ctx.tick().sample(self.port(engine, "valid"), self.port(engine, "ready"), self.sequencer.instr_payload))[-3:]
                if valid and is_ready:
                    self.log.append(("start", engine, len(self.taken[engine])))
                    self.taken[engine].append(payload)
                    pending.append(self.clock + self.draw.randrange(1, self.most_clocks + 1))

        return bench

    async def _watch(self, ctx):
        sequencer = self.sequencer
        events = [name for name in sequencer.signature.members if name.startswith("ev_")]
        ctx.set(sequencer.load_drained, 1)
        ctx.set(sequencer.store_drained, 1)
        while True:
            *values, finished, failed, running = (await ctx.tick().sample(*(getattr(sequencer, e) for e in events), sequencer.finished, sequencer.failed,
                                                                           sequencer.running))[2:]  # fmt: skip
            self.clock += 1
            for name, value in zip([*events, "running"], [*values, running], strict=True):
                self.counts[name] = self.counts.get(name, 0) + value
            if finished or failed:
                self.ended = "finished" if finished else "failed"

    async def start(self, ctx) -> None:
        self.ended = None
        ctx.set(self.sequencer.program_address, PROGRAM_ADDRESS)
        ctx.set(self.sequencer.program_bytes, self.program_bytes)
        ctx.set(self.sequencer.start, 1)
        await ctx.tick()
        ctx.set(self.sequencer.start, 0)

    async def to_end(self, ctx) -> None:
        await self.start(ctx)
        await until(ctx, lambda: self.ended)

    def run(self, main) -> None:
        s = self.sequencer
        simulate(
            s, main, self._watch, self._memory, *(self._engine(engine) for engine in Engine),
            sink([s.run_address, s.run_beats], s.run_valid, s.run_ready, self.runs, stall=self.stall, seed=1),
            source([s.beat_data, s.beat_error, s.beat_program], s.beat_valid, s.beat_ready, self.beats, stall=self.stall, seed=2),
        )  # fmt: skip

    def failure(self, ctx) -> tuple[Cause, int]:
        """Cause, and index in the program, of the failure."""
        return Cause(ctx.get(self.sequencer.cause)), (ctx.get(self.sequencer.error_address) - PROGRAM_ADDRESS) // INSTRUCTION_BYTES


def check_order(bench: Bench, program: list) -> None:
    """Every engine got its instructions in order, and started each only when its tokens had been given."""
    own = {engine: [entry for entry in program if entry[0] == engine] for engine in Engine}
    for engine in Engine:
        assert bench.taken[engine] == [int.from_bytes(code, "little") for *_, code in own[engine]]
    tokens = dict.fromkeys(TOKEN_PAIRS, 0)
    for what, engine, index in bench.log:
        _, waits, signals, _ = own[engine][index]
        if what == "done":
            for to in signals:
                tokens[engine, to] += 1
        else:
            for giver in waits:
                tokens[giver, engine] -= 1
                assert tokens[giver, engine] >= 0, "started without its token"


@pytest.mark.parametrize("data_bits, stall, most_clocks", [(32, 0.3, 5), (64, 0.0, 60), (128, 0.3, 20), (256, 0.0, 3)])
def test_random_programs(data_bits, stall, most_clocks):
    program = random_program(random.Random(data_bits), 150)
    bench = Bench([code for *_, code in program] + [END], config=variant(memory={"axi_data_bits": data_bits}), stall=stall, most_clocks=most_clocks)

    async def main(ctx):
        await bench.to_end(ctx)
        assert bench.ended == "finished"
        check_order(bench, program)
        assert bench.completed == {engine: len(bench.taken[engine]) for engine in Engine}
        assert bench.counts["ev_instructions"] == len(program) + 1
        assert sum(beats for _, beats in bench.runs) * data_bits // 8 == bench.program_bytes
        assert not ctx.get(bench.sequencer.busy) and not bench.beats

    bench.run(main)


def test_a_program_can_be_started_again():
    program = random_program(random.Random(9), 30)
    bench = Bench([code for *_, code in program] + [END])

    async def main(ctx):
        for _ in range(2):
            await bench.to_end(ctx)
            assert bench.ended == "finished"
            check_order(bench, program)
            for taken in bench.taken.values():
                taken.clear()
            bench.log.clear()
            bench.completed = dict.fromkeys(Engine, 0)

    bench.run(main)


def test_engines_run_ahead_of_each_other_but_not_beyond_the_window():
    """The compute engine is stuck; the load engine goes on to the end of the buffer, and no further."""
    program = [engine_instruction(Engine.COMPUTE)] * (IN_FLIGHT + 1) + [engine_instruction(Engine.LOAD)] * 60 + [END]
    bench = Bench(program)
    bench.hold = {Engine.COMPUTE}

    async def main(ctx):
        await bench.start(ctx)
        for _ in range(600):
            await ctx.tick()
        assert len(bench.taken[Engine.COMPUTE]) == IN_FLIGHT
        in_window = program_window(bench.config.array.rows) - 1  # one slot is taken by the compute instruction that waits
        assert in_window - 4 <= len(bench.taken[Engine.LOAD]) <= in_window
        assert len(bench.taken[Engine.STORE]) == 0
        bench.hold = set()
        await until(ctx, lambda: bench.ended)
        assert len(bench.taken[Engine.LOAD]) == 60

    bench.run(main)


def test_an_engine_waits_before_it_exceeds_the_token_limit():
    """Load signals more tokens than a queue holds; none is lost."""
    count = TOKEN_LIMIT + 10
    program = [engine_instruction(Engine.LOAD, signals=[Engine.COMPUTE])] * count
    program += [engine_instruction(Engine.STORE, signals=[Engine.COMPUTE])]
    program += [engine_instruction(Engine.COMPUTE, waits=[Engine.LOAD] + ([Engine.STORE] if i == 0 else [])) for i in range(count)] + [END]
    bench = Bench(program)
    bench.hold = {Engine.STORE}

    async def main(ctx):
        await bench.start(ctx)
        for _ in range(1000):
            await ctx.tick()
        assert TOKEN_LIMIT < len(bench.taken[Engine.LOAD]) <= TOKEN_LIMIT + IN_FLIGHT
        bench.hold = set()
        await until(ctx, lambda: bench.ended)
        assert bench.ended == "finished" and len(bench.taken[Engine.COMPUTE]) == count

    bench.run(main)


def test_end_waits_for_every_engine():
    bench = Bench([engine_instruction(Engine.STORE), END])
    bench.hold = {Engine.STORE}

    async def main(ctx):
        await bench.start(ctx)
        for _ in range(200):
            await ctx.tick()
        assert bench.ended is None and ctx.get(bench.sequencer.busy)
        bench.hold = set()
        await until(ctx, lambda: bench.ended)
        assert bench.ended == "finished"

    bench.run(main)


def test_operating_point_waits_for_idle_engines_and_for_all_four_phases():
    program = [engine_instruction(Engine.COMPUTE), encode(Opcode.OPERATING_POINT, index=201), engine_instruction(Engine.LOAD), END]
    bench = Bench(program)
    bench.hold = {Engine.COMPUTE}
    s = bench.sequencer

    async def main(ctx):
        await bench.start(ctx)
        for _ in range(100):
            await ctx.tick()
        assert not ctx.get(s.op_req_valid) and not bench.taken[Engine.LOAD]
        bench.hold = set()
        await until(ctx, lambda: ctx.get(s.op_req_valid))
        assert ctx.get(s.op_req_index) == 201 and bench.completed[Engine.COMPUTE] == 1
        for _ in range(30):
            await ctx.tick()
            assert ctx.get(s.op_req_valid)
        ctx.set(s.op_ack, 1)
        await until(ctx, lambda: not ctx.get(s.op_req_valid))
        for _ in range(30):
            await ctx.tick()
        assert not bench.taken[Engine.LOAD] and not ctx.get(s.op_req_valid)
        ctx.set(s.op_ack, 0)
        await until(ctx, lambda: bench.ended)
        assert bench.ended == "finished" and len(bench.taken[Engine.LOAD]) == 1
        assert bench.counts["ev_instructions"] == 4

    bench.run(main)


def _with_bit(code: bytes, bit: int) -> bytes:
    return (int.from_bytes(code, "little") | 1 << bit).to_bytes(INSTRUCTION_BYTES, "little")


def _used_bits(opcode: Opcode) -> int:
    return sum(field.bits for field in FIELDS[opcode])


ILLEGAL = {
    "opcode 0": bytes(INSTRUCTION_BYTES),
    "opcode 15": b"\x0f" + bytes(INSTRUCTION_BYTES - 1),
    "load waits for itself": engine_instruction(Engine.LOAD, waits=[Engine.LOAD]),
    "load signals store": engine_instruction(Engine.LOAD, signals=[Engine.STORE]),
    "store waits for load": engine_instruction(Engine.STORE, waits=[Engine.LOAD]),
    "compute signals itself": engine_instruction(Engine.COMPUTE, signals=[Engine.COMPUTE]),
    "sync for no engine": encode(Opcode.SYNC, engine=3),
    "sync with foreign tokens": encode(Opcode.SYNC, engine=Engine.LOAD, signal_store=1),
    "end with a token": encode(Opcode.END, wait_store=1),
    "operating point with a token": encode(Opcode.OPERATING_POINT, signal_load=1),
    "no words": encode(Opcode.LOAD, count1=1, count2=1),
    "no runs": encode(Opcode.STORE, run_words=1, count1=1, count2=0),
    "no pixels": encode(Opcode.COMPUTE, tile_h=0, tile_w=1, c_groups=1, passes=1),
    "no kernel": encode(Opcode.CONFIGURE, kernel_h=1),
    "no target": engine_instruction(Engine.LOAD, target=3),
    "fill of weights": encode(Opcode.FILL, target=Target.WEIGHT, run_words=1, count1=1, count2=1),
    "bank beyond the rows": engine_instruction(Engine.STORE, bank=2),
    "bits beyond the last field": _with_bit(engine_instruction(Engine.STORE), _used_bits(Opcode.STORE)),
    "highest bit": _with_bit(END, 255),
}


@pytest.mark.parametrize("name", ILLEGAL)
def test_an_illegal_instruction_stops_the_machine(name):
    """With its address; what stands before it is still given out, nothing behind it is; then the machine can be started again."""
    bench = Bench([engine_instruction(Engine.COMPUTE)] * 3 + [ILLEGAL[name]] + [engine_instruction(Engine.STORE)] * 3 + [END])

    async def main(ctx):
        for _ in range(2):
            await bench.to_end(ctx)
            assert bench.ended == "failed"
            assert bench.failure(ctx) == (Cause.ILLEGAL_INSTRUCTION, 3)
            assert not bench.taken[Engine.STORE]
            assert not ctx.get(bench.sequencer.busy)
        assert len(bench.taken[Engine.COMPUTE]) == 6

    bench.run(main)


@pytest.mark.parametrize("opcode", [Opcode.LOAD, Opcode.COPY, Opcode.STORE, Opcode.CONFIGURE, Opcode.COMPUTE, Opcode.OPERATING_POINT])
def test_every_field_may_have_all_its_bits_set(opcode):
    """Bits of the last field are not mistaken for bits beyond it."""
    fields = {f.name: -1 if f.signed else (1 << f.bits) - 1 for f in FIELDS[opcode][7:]}
    fields |= {name: value for name, value in {"target": 2, "bank": 1, "source_bank": 1, "taps": 1}.items() if name in fields}
    if opcode == Opcode.COPY:
        fields["target"] = Target.ACTIVATION
    bench = Bench([encode(opcode, **fields), END])

    async def main(ctx):
        ctx.set(bench.sequencer.op_ack, 0)
        await bench.start(ctx)
        if opcode == Opcode.OPERATING_POINT:
            await until(ctx, lambda: ctx.get(bench.sequencer.op_req_valid))
            ctx.set(bench.sequencer.op_ack, 1)
            await until(ctx, lambda: not ctx.get(bench.sequencer.op_req_valid))
            ctx.set(bench.sequencer.op_ack, 0)
        await until(ctx, lambda: bench.ended)
        assert bench.ended == "finished"

    bench.run(main)


@pytest.mark.parametrize("program_bytes", [0, 3 * INSTRUCTION_BYTES, 3 * INSTRUCTION_BYTES + 31])
def test_a_program_without_end_is_an_overrun(program_bytes):
    bench = Bench([engine_instruction(Engine.LOAD)] * 3 + [END], program_bytes=program_bytes)

    async def main(ctx):
        await bench.to_end(ctx)
        assert bench.ended == "failed"
        assert bench.failure(ctx) == (Cause.PROGRAM_OVERRUN, program_bytes // INSTRUCTION_BYTES)

    bench.run(main)


def test_an_unreadable_instruction_is_an_error_only_when_it_is_reached():
    """A bad read behind END does no harm."""
    program = [engine_instruction(Engine.LOAD)] * 2 + [END] + [engine_instruction(Engine.LOAD)]
    behind, before = Bench(program, unreadable={3}), Bench(program, unreadable={1})

    async def behind_main(ctx):
        await behind.to_end(ctx)
        assert behind.ended == "finished"

    async def before_main(ctx):
        await before.to_end(ctx)
        assert before.ended == "failed"
        assert before.failure(ctx) == (Cause.READ_RESPONSE, 1)

    behind.run(behind_main)
    before.run(before_main)


@pytest.mark.parametrize("engine", [Engine.LOAD, Engine.STORE])
@pytest.mark.parametrize("report", ["failed", "misaligned"])
def test_an_engine_error_stops_the_machine(engine, report):
    """The address is that of the oldest instruction the engine has not completed; failure is told when all is drained."""
    program = [engine_instruction(Engine.COMPUTE), engine_instruction(engine), engine_instruction(Engine.COMPUTE), engine_instruction(engine), END]
    bench = Bench(program)
    s = bench.sequencer

    async def main(ctx):
        await bench.start(ctx)
        await until(ctx, lambda: bench.completed[engine] == 1)
        bench.hold = {engine}
        await until(ctx, lambda: len(bench.taken[engine]) == 2)
        await ctx.tick()
        ctx.set(s.load_drained, 0)
        ctx.set(bench.port(engine, report), 1)
        await until(ctx, lambda: ctx.get(s.stop))
        for _ in range(50):
            await ctx.tick()
        assert ctx.get(s.busy) and bench.ended is None
        ctx.set(s.load_drained, 1)
        await until(ctx, lambda: ctx.get(s.engine_reset))
        ctx.set(bench.port(engine, report), 0)
        await until(ctx, lambda: bench.ended)
        expected = Cause.MISALIGNED if report == "misaligned" else Cause.READ_RESPONSE if engine == Engine.LOAD else Cause.WRITE_RESPONSE
        assert bench.ended == "failed" and bench.failure(ctx) == (expected, 3)

    bench.run(main)


def test_a_misaligned_program_is_refused():
    bench = Bench([END])
    s = bench.sequencer

    async def main(ctx):
        ctx.set(s.program_address, PROGRAM_ADDRESS + 16)
        ctx.set(s.program_bytes, 64)
        ctx.set(s.start, 1)
        await ctx.tick()
        ctx.set(s.start, 0)
        await until(ctx, lambda: bench.ended)
        assert bench.ended == "failed" and ctx.get(s.cause) == Cause.MISALIGNED
        assert ctx.get(s.error_address) == PROGRAM_ADDRESS + 16
        assert not bench.runs

    bench.run(main)


def test_soft_reset_at_any_time():
    """It ends in an idle machine without an error, from which the next start begins afresh."""
    program = random_program(random.Random(3), 40)
    codes = [code for *_, code in program]
    codes.insert(20, encode(Opcode.OPERATING_POINT, index=1))
    for moment in (0, 3, 10, 40, 160, 400):
        bench = Bench([*codes, END], stall=0.2)
        s = bench.sequencer

        async def main(ctx, bench=bench, s=s, moment=moment):
            await bench.start(ctx)
            for _ in range(moment):
                await ctx.tick()
            ctx.set(s.soft_reset, 1)
            await ctx.tick()
            ctx.set(s.soft_reset, 0)
            await until(ctx, lambda: not ctx.get(s.busy))
            assert bench.ended is None
            for _ in range(100):  # what the engines had is forgotten, as `engine_reset` does it
                await ctx.tick()
            for taken in bench.taken.values():
                taken.clear()
            bench.log.clear()
            bench.completed = dict.fromkeys(Engine, 0)
            await bench.start(ctx)
            await until(ctx, lambda: ctx.get(s.op_req_valid))
            ctx.set(s.op_ack, 1)
            await until(ctx, lambda: not ctx.get(s.op_req_valid))
            ctx.set(s.op_ack, 0)
            await until(ctx, lambda: bench.ended)
            assert bench.ended == "finished"
            check_order(bench, program)

        bench.run(main)


def test_stalls_of_the_compute_engine_are_told_apart():
    """Waiting for load, then for store, then for the program; never two at once."""
    program = [
        engine_instruction(Engine.LOAD, signals=[Engine.COMPUTE]),
        engine_instruction(Engine.STORE, signals=[Engine.COMPUTE]),
        engine_instruction(Engine.COMPUTE, waits=[Engine.LOAD, Engine.STORE]),
        END,
    ]
    bench = Bench(program, latency=40)
    bench.hold = {Engine.LOAD, Engine.STORE}
    names = ("ev_stall_load", "ev_stall_store", "ev_stall_program")

    async def main(ctx):
        await bench.start(ctx)
        for _ in range(100):
            await ctx.tick()
        in_program, first = bench.counts["ev_stall_program"], dict(bench.counts)
        assert 40 <= in_program <= 70 and bench.counts["ev_stall_store"] == 0 and bench.counts["ev_stall_load"] >= 20
        bench.hold = {Engine.STORE}
        for _ in range(50):
            await ctx.tick()
        assert 30 <= bench.counts["ev_stall_store"] <= 50
        bench.hold = set()
        await until(ctx, lambda: bench.ended)
        assert bench.counts["ev_stall_program"] == in_program
        assert sum(bench.counts[name] for name in names) <= bench.counts["running"]
        assert first["ev_stall_load"] <= bench.counts["ev_stall_load"]

    bench.run(main)


@pytest.mark.parametrize(
    ("taps", "design_taps", "legal"), [(1, 0, True), (2, 0, False), (15, 0, False), (3, 3, True), (4, 3, False), (8, 8, True), (9, 8, False)]
)
def test_taps_are_limited_by_the_design(taps, design_taps, legal):
    bench = Bench([encode(Opcode.CONFIGURE, kernel_h=1, kernel_w=1, taps=taps), END], config=variant(array={"depthwise_taps": design_taps}))

    async def main(ctx):
        await bench.to_end(ctx)
        assert bench.ended == ("finished" if legal else "failed")
        if not legal:
            assert bench.failure(ctx) == (Cause.ILLEGAL_INSTRUCTION, 0)

    bench.run(main)


NEVER = {
    "no token comes": ([engine_instruction(Engine.COMPUTE, waits=[Engine.LOAD]), END], 0),
    "they wait for each other": (
        [engine_instruction(Engine.LOAD), engine_instruction(Engine.LOAD, waits=[Engine.COMPUTE], signals=[Engine.COMPUTE]),
         engine_instruction(Engine.COMPUTE, waits=[Engine.LOAD], signals=[Engine.LOAD]), END], 1,
    ),
    "behind an end": ([engine_instruction(Engine.STORE, waits=[Engine.COMPUTE]), engine_instruction(Engine.LOAD), END], 0),
    "behind a full window": ([engine_instruction(Engine.COMPUTE, waits=[Engine.LOAD])] + [engine_instruction(Engine.STORE)] * 70 + [END], 0),
    "without an end": ([engine_instruction(Engine.COMPUTE, waits=[Engine.LOAD])], 0),
    "before an operating point": ([engine_instruction(Engine.COMPUTE, waits=[Engine.STORE]), encode(Opcode.OPERATING_POINT, index=1), END], 0),
    "a token too many": ([engine_instruction(Engine.LOAD, signals=[Engine.COMPUTE])] * (TOKEN_LIMIT + 1) + [END], TOKEN_LIMIT + 1),  # at the end
}  # fmt: skip


@pytest.mark.parametrize("name", NEVER)
def test_tokens_that_never_come_end_the_program(name):
    """The machine stops and says where; after that it runs a good program."""
    program, index = NEVER[name]
    bench = Bench(program, most_clocks=60)

    async def main(ctx):
        await bench.to_end(ctx)
        assert bench.ended == "failed" and bench.failure(ctx) == (Cause.DEADLOCK, index)
        bench.image = b"".join([engine_instruction(Engine.LOAD), END])
        bench.program_bytes = len(bench.image)
        await bench.to_end(ctx)
        assert bench.ended == "finished"

    bench.run(main)


def test_slow_engines_and_memory_are_no_deadlock():
    program = [engine_instruction(Engine.LOAD, signals=[Engine.COMPUTE]), engine_instruction(Engine.COMPUTE, waits=[Engine.LOAD]), END]
    bench = Bench(program, most_clocks=300, latency=200)

    async def main(ctx):
        await bench.to_end(ctx)
        assert bench.ended == "finished"

    bench.run(main)
