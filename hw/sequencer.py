"""The sequencer: fetches the program ahead of execution, hands instructions to the engines in order, keeps their tokens."""

from enum import IntEnum

from amaranth.hdl import Array, C, Cat, Module, Mux, Signal, Value
from amaranth.lib import data
from amaranth.lib.wiring import In, Out

from hw.config import AcceleratorConfig
from hw.decode import INSTRUCTION_BITS, fields
from hw.isa import FIELDS, INSTRUCTION_BYTES, TOKEN_LIMIT, Engine, Opcode, Target
from hw.memory_side import ADDRESS_BITS, BEAT_ERROR_BITS, FETCH_GROUP, program_beats_bits, run_ports
from hw.pe import reduce_balanced
from hw.registers import Cause
from hw.runs import beat_of_byte
from hw.shared import Shared, output_register, register
from hw.sram import Sram

PATIENCE = 16
"""Cycles without any progress after which a missing token is an error."""
IN_FLIGHT = 4
"""Instructions that one engine has been given and that are not complete with their tokens signalled."""



def program_window(rows: int) -> int:
    """Instructions in the program buffer: how far the engines can be apart in the program. A tile has some for each row, and three tiles are under way."""
    window = 8
    while window < 8 * rows:  # a loop, so that the cycle model can compile it
        window *= 2
    return max(32, window)


TOKEN_PAIRS = (
    (Engine.LOAD, Engine.COMPUTE),
    (Engine.COMPUTE, Engine.LOAD),
    (Engine.COMPUTE, Engine.STORE),
    (Engine.STORE, Engine.COMPUTE),
    (Engine.STORE, Engine.LOAD),
)
"""(from, to) of each token counter."""


class Kind(IntEnum):
    """What a slot of the program buffer holds: an engine's instruction (numbers as in `Engine`), or a barrier that all engines stop at."""

    LOAD = Engine.LOAD
    COMPUTE = Engine.COMPUTE
    STORE = Engine.STORE
    END = 3
    OPERATING_POINT = 4
    ILLEGAL = 5
    UNREADABLE = 6


NOT_ZERO = {
    Opcode.LOAD: ("run_words", "count1", "count2"),
    Opcode.FILL: ("run_words", "count1", "count2"),
    Opcode.COPY: ("run_words", "count1", "count2"),
    Opcode.STORE: ("run_words", "count1", "count2"),
    Opcode.CONFIGURE: ("kernel_h", "kernel_w"),
    Opcode.COMPUTE: ("tile_h", "tile_w", "c_groups", "passes"),
}
"""Fields in which 0 is illegal."""

_SLOT = data.StructLayout({"kind": 3, "waits": 3, "signals": 3})


def decode_kind(word: Value, config: AcceleratorConfig) -> Value:
    """The `Kind` of an instruction; ILLEGAL if an engine could not execute it as it stands."""
    header = fields(word, Opcode.END)
    waits = Cat(header.wait_load, header.wait_compute, header.wait_store)
    signals = Cat(header.signal_load, header.signal_compute, header.signal_store)

    def tokens_legal(engine: Engine) -> Value:
        wait_mask = sum(1 << source for source, to in TOKEN_PAIRS if to == engine)
        signal_mask = sum(1 << to for source, to in TOKEN_PAIRS if source == engine)
        return ((waits & ~C(wait_mask, 3)) == 0) & ((signals & ~C(signal_mask, 3)) == 0)

    def engine_kind(engine: Engine, opcode: Opcode, extra: Value | int = 1) -> Value:
        found = fields(word, opcode)
        legal = tokens_legal(engine) & extra
        for name in NOT_ZERO.get(opcode, ()):
            legal &= getattr(found, name) != 0
        return Mux(legal, int(engine), Kind.ILLEGAL)

    rows = config.array.rows
    load, copy, configure, store = (fields(word, opcode) for opcode in (Opcode.LOAD, Opcode.COPY, Opcode.CONFIGURE, Opcode.STORE))
    sync_engine = fields(word, Opcode.SYNC).engine
    sync_kinds = Array([engine_kind(engine, Opcode.SYNC) for engine in Engine] + [C(Kind.ILLEGAL, 3)])
    no_tokens = Cat(waits, signals) == 0
    kinds = {
        Opcode.LOAD: engine_kind(Engine.LOAD, Opcode.LOAD, load.target <= Target.PARAMETER),
        Opcode.FILL: engine_kind(Engine.LOAD, Opcode.FILL, load.target == Target.ACTIVATION),
        Opcode.COPY: engine_kind(Engine.LOAD, Opcode.COPY, (copy.target == Target.ACTIVATION) & (copy.source_bank < rows)),
        Opcode.CONFIGURE: engine_kind(Engine.COMPUTE, Opcode.CONFIGURE, configure.taps <= max(1, config.array.depthwise_taps)),
        Opcode.COMPUTE: engine_kind(Engine.COMPUTE, Opcode.COMPUTE),
        Opcode.STORE: engine_kind(Engine.STORE, Opcode.STORE, store.bank < rows),
        Opcode.SYNC: sync_kinds[sync_engine],
        Opcode.OPERATING_POINT: Mux(no_tokens, Kind.OPERATING_POINT, Kind.ILLEGAL),
        Opcode.END: Mux(no_tokens, Kind.END, Kind.ILLEGAL),
    }
    choices = [C(Kind.ILLEGAL, 3)] * 16
    for opcode, kind in kinds.items():
        used = sum(field.bits for field in FIELDS[opcode])
        choices[opcode] = Mux(word[used:] == 0, kind, Kind.ILLEGAL)
    return Array(choices)[header.opcode]


class _EngineState:
    """One engine as the sequencer sees it."""

    def __init__(self, engine: Engine, window: int, index_bits: int):
        name = engine.name.lower()
        self.pointer = Signal((2 * window - 1).bit_length(), name=f"{name}_pointer")
        """Next instruction of the program to look at, modulo twice the window."""
        self.seen = Signal(name=f"{name}_seen")
        """Whether its own instruction or a barrier was found there."""
        self.slot = data.View(_SLOT, register(_SLOT.size, f"{name}_slot"))
        """What that is."""
        self.wants_look, self.looks = Signal(name=f"{name}_wants_look"), Signal(name=f"{name}_looks")
        """Whether there is an instruction to look at, and whether it has been read and is at the buffer's output now."""
        self.may_start = Signal(name=f"{name}_may_start")
        """Whether that is the engine's instruction, its tokens are there and the engine is ready."""
        self.has_next, self.tokens_there = Signal(name=f"{name}_has_next"), Signal(name=f"{name}_tokens_there")
        """The first two of these."""
        # Instructions given and not retired, oldest first: what they signal, and where they stand in the program.
        self.signals = Array([register(3, f"{name}_signals_{i}") for i in range(IN_FLIGHT)])
        self.indices = Array([register(index_bits, f"{name}_index_{i}") for i in range(IN_FLIGHT)])
        bits = IN_FLIGHT.bit_length()
        self.given, self.completed, self.retired = (Signal(bits, name=f"{name}_{what}") for what in ("given", "completed", "retired"))
        self.retire = Signal(name=f"{name}_retire")

    @property
    def executing(self) -> Value:
        """Whether it has instructions that are not retired."""
        return self.given != self.retired

    @property
    def full(self) -> Value:
        return self.given == (self.retired ^ IN_FLIGHT)

    @property
    def oldest_index(self) -> Value:
        """Where the oldest instruction that is not complete stands in the program."""
        return self.indices[self.completed[:-1]]


class Sequencer(Shared):
    """Fetch, decode, dispatch, tokens, barriers, errors.

    The program buffer is one bank of `program_window` instructions with three readers: each engine has a pointer that walks the program and stops
    at the engine's own instructions, so an engine is only held up by itself, and by an engine that is a window behind. An instruction is
    offered (`instr_payload`, `<engine>_valid`) two cycles after its wait tokens are there and the engine is ready, at most one in two cycles;
    a pointer passes an instruction that is not its own in two cycles, when the buffer's read port is free.
    A `<engine>_done` gives the tokens two cycles later; it waits where a queue holds `TOKEN_LIMIT`. Fetching stays within the program and
    asks only for what has room, so `beat_ready` is always given to program beats.

    `start` begins at `program_address`; then either `finished` or `failed` (with `cause` and the low half of the instruction's address in
    `error_address`) pulses. On an error and on `soft_reset`, `stop` asks the engines to cease; when `<engine>_drained`, `engine_reset`
    clears them, and only then `failed` pulses. END and OPERATING_POINT wait for all engines; the latter raises `op_req_valid` until `op_ack`, then waits
    until `op_ack` falls.
    """

    block = "sequencer"

    def __init__(self, config: AcceleratorConfig):
        self.config = config
        ports = run_ports(config, "run", Out, program_beats_bits(config)) | {
            "start": In(1), "soft_reset": In(1), "program_address": In(ADDRESS_BITS), "program_bytes": In(32),
            "running": Out(1), "busy": Out(1), "finished": Out(1), "failed": Out(1), "cause": Out(8), "error_address": Out(32),
            "beat_data": In(config.memory.axi_data_bits), "beat_error": In(BEAT_ERROR_BITS), "beat_program": In(1), "beat_valid": In(1), "beat_ready": Out(1),
            "instr_payload": Out(INSTRUCTION_BITS), "stop": Out(1), "engine_reset": Out(1), "compute_soon": In(1), "compute_issuing": In(1),
            "op_req_valid": Out(1), "op_req_index": Out(8), "op_ack": In(1),
            "ev_instructions": Out(1), "ev_stall_load": Out(1), "ev_stall_store": Out(1), "ev_stall_program": Out(1),
        }  # fmt: skip
        for engine in Engine:
            name = engine.name.lower()
            ports |= {f"{name}_valid": Out(1), f"{name}_ready": In(1), f"{name}_done": In(1)}
            if engine != Engine.COMPUTE:
                ports |= {f"{name}_drained": In(1), f"{name}_misaligned": In(1), f"{name}_failed": In(1), f"{name}_outside": In(1)}
        self.window = program_window(config.array.rows)
        taps = config.array.depthwise_taps
        super().__init__(ports, r=config.array.rows, d=config.memory.axi_data_bits, **({"t": taps} if taps else {}))

    def _soon(self, engine: Engine) -> Signal:
        """Whether an engine can take an instruction by the time it is offered. (What the compute engine is ready for depends on what is offered.)"""
        return self.compute_soon if engine == Engine.COMPUTE else self._port(engine, "ready")

    def _port(self, engine: Engine, name: str) -> Signal:
        return getattr(self, f"{engine.name.lower()}_{name}")

    def body(self) -> Module:
        m = Module()
        index_bits = 32 - (INSTRUCTION_BYTES.bit_length() - 1)
        self._engines = {engine: _EngineState(engine, self.window, index_bits) for engine in Engine}
        self._tokens = {pair: Signal(TOKEN_LIMIT.bit_length(), name=f"tokens_{pair[0].name}_{pair[1].name}".lower()) for pair in TOKEN_PAIRS}
        self._total = register(index_bits, "total")
        self._requested, self._received = Signal(index_bits), Signal(index_bits)
        """Instructions asked for, and in the buffer, since the start."""
        self._unreadable, self._unreadable_at = Signal(), register((2 * self.window - 1).bit_length(), "unreadable_at")
        """Whether an instruction came with an error, and where the first such is, as in `_EngineState.pointer`."""
        self._program_outside = register(1, "program_outside")
        """Whether that was because it lies outside the window."""
        self._pass_barrier = Signal()
        self._found = data.View(_SLOT, Signal(_SLOT.size, name="found"))
        """What stands at the buffer's output."""
        m.submodules.buffer = self._buffer = Sram(words=self.window, bits=INSTRUCTION_BITS)

        self._fetch(m)
        self._receive(m)
        for engine in Engine:
            self._look_ahead(m, engine)
            self._retire(m, engine)
        self._dispatch(m)
        self._count_stalls(m)
        self._control(m)
        return m

    def _fetch(self, m: Module) -> None:
        """Ask for the next instructions while every engine's pointer leaves room for a whole group."""
        address = register(ADDRESS_BITS, "fetch_address")
        run_address, run_beats = output_register(m, self.run_address), output_register(m, self.run_beats)
        remaining = (self._total - self._requested)[: len(self._total)]
        group = Mux(remaining < FETCH_GROUP, remaining[: FETCH_GROUP.bit_length()], FETCH_GROUP)
        room = Cat(self._distance(self._requested, state) <= self.window - FETCH_GROUP for state in self._engines.values()).all()
        with m.If(self.run_ready):
            m.d.sync += self.run_valid.eq(0)
        self._may_fetch = Signal()
        m.d.comb += self._may_fetch.eq(self.running & room & (remaining != 0))
        with m.If(self._may_fetch & (~self.run_valid | self.run_ready)):
            m.d.sync += [
                run_address.eq(beat_of_byte(self.config, address)),
                run_beats.eq(group << ((INSTRUCTION_BYTES // self.config.axi_bytes).bit_length() - 1)),
                self.run_valid.eq(1),
                self._requested.eq(self._requested + group),
                address.eq(address + FETCH_GROUP * INSTRUCTION_BYTES),
            ]
        with m.If(~self.busy):
            m.d.sync += [address.eq(self.program_address), self._total.eq(self.program_bytes >> (INSTRUCTION_BYTES.bit_length() - 1)), self._requested.eq(0)]

    def _distance(self, ahead: Value, state: _EngineState) -> Value:
        """Instructions from an engine's pointer to `ahead`; at most the window."""
        bits = len(state.pointer)
        return (ahead[:bits] - state.pointer)[:bits]

    def _receive(self, m: Module) -> None:
        """Put beats together and write the instruction into the buffer."""
        parts = INSTRUCTION_BYTES // self.config.axi_bytes
        part, bad = Signal(range(parts)), Signal(BEAT_ERROR_BITS)
        earlier = Array([register(len(self.beat_data), f"earlier_{i}") for i in range(parts - 1)])
        take = self.beat_valid & self.beat_program
        complete = take & (part == parts - 1)
        m.d.comb += [
            self.beat_ready.eq(self.beat_program),
            self._buffer.write_en.eq(complete),
            self._buffer.write_addr.eq(self._received),
            self._buffer.write_data.eq(Cat(*earlier, self.beat_data)),
        ]
        with m.If(take):
            m.d.sync += [part.eq(Mux(complete, 0, part + 1)), bad.eq(Mux(complete, 0, bad | self.beat_error))]
            if parts > 1:
                with m.If(~complete):
                    m.d.sync += earlier[part].eq(self.beat_data)
        with m.If(complete):
            m.d.sync += self._received.eq(self._received + 1)
            error = bad | self.beat_error
            with m.If(error[0] & ~self._unreadable):
                m.d.sync += [self._unreadable.eq(1), self._unreadable_at.eq(self._received), self._program_outside.eq(error[1])]
        with m.If(~self.busy):
            m.d.sync += [self._received.eq(0), part.eq(0), bad.eq(0), self._unreadable.eq(0)]

    def _look_ahead(self, m: Module, engine: Engine) -> None:
        """Move an engine's pointer to its next instruction or the next barrier."""
        state, found = self._engines[engine], self._found
        kind = Mux(self._unreadable & (self._unreadable_at == state.pointer), Kind.UNREADABLE, found.kind)
        m.d.comb += state.wants_look.eq(self.running & ~state.seen & ~state.looks & (self._distance(self._received, state) != 0))
        with m.If(state.looks):
            with m.If((kind == engine) | (kind >= Kind.END)):
                m.d.sync += [state.seen.eq(1), state.slot.kind.eq(kind), state.slot.waits.eq(found.waits), state.slot.signals.eq(found.signals)]
            with m.Else():
                m.d.sync += state.pointer.eq(state.pointer + 1)
        with m.If(self._pass_barrier):
            m.d.sync += [state.seen.eq(0), state.pointer.eq(state.pointer + 1)]
        with m.If(~self.busy):
            m.d.sync += [state.seen.eq(0), state.pointer.eq(0)]

        m.d.comb += state.has_next.eq(state.seen & (state.slot.kind == engine))
        m.d.comb += state.tokens_there.eq(Cat(~state.slot.waits[source] | (tokens != 0) for (source, to), tokens in self._tokens.items() if to == engine).all())
        m.d.comb += state.may_start.eq(state.has_next & state.tokens_there & self._soon(engine) & ~state.full)

    def _retire(self, m: Module, engine: Engine) -> None:
        """Count complete instructions, and give the tokens of the oldest as soon as all its queues have room."""
        state = self._engines[engine]
        signals = state.signals[state.retired[:-1]]
        room = Cat(~signals[to] | (tokens != TOKEN_LIMIT) for (source, to), tokens in self._tokens.items() if source == engine).all()
        m.d.comb += state.retire.eq((state.completed != state.retired) & room)
        with m.If(self._port(engine, "done")):
            m.d.sync += state.completed.eq(state.completed + 1)
        with m.If(state.retire):
            m.d.sync += state.retired.eq(state.retired + 1)
        with m.If(~self.busy):
            m.d.sync += [state.given.eq(0), state.completed.eq(0), state.retired.eq(0)]

    def _read_buffer(self, m: Module) -> tuple[Signal, Signal]:
        """Give the buffer's read port to an engine that may start (compute first), else to one that wants to look ahead.

        Returns whether an instruction is being offered, and to which engine.
        """
        order = (Engine.COMPUTE, Engine.LOAD, Engine.STORE)
        chosen, offering = Signal(2), Signal()
        header = fields(self._buffer.read_data, Opcode.END)
        m.d.comb += [
            self.instr_payload.eq(self._buffer.read_data),
            self._found.kind.eq(decode_kind(self._buffer.read_data, self.config)),
            self._found.waits.eq(Cat(header.wait_load, header.wait_compute, header.wait_store)),
            self._found.signals.eq(Cat(header.signal_load, header.signal_compute, header.signal_store)),
        ]
        m.d.sync += [self._engines[engine].looks.eq(0) for engine in order]
        may_start = Cat(self._engines[engine].may_start for engine in order) & (self.running & ~offering).replicate(len(order))
        for engine in reversed(order):  # later assignments win
            state = self._engines[engine]
            with m.If(~offering & ~may_start.any() & state.wants_look):
                m.d.comb += [self._buffer.read_en.eq(1), self._buffer.read_addr.eq(state.pointer)]
                m.d.sync += [self._engines[other].looks.eq(other == engine) for other in order]
        for i, engine in reversed(list(enumerate(order))):
            with m.If(may_start[i]):
                m.d.comb += [self._buffer.read_en.eq(1), self._buffer.read_addr.eq(self._engines[engine].pointer)]
                m.d.sync += [offering.eq(1), chosen.eq(engine)]
        with m.If(~self.busy):
            m.d.sync += offering.eq(0)
        return offering, chosen

    def _dispatch(self, m: Module) -> None:
        """Offer an instruction that was read to its engine until it is taken; then its wait tokens are gone."""
        offering, chosen = self._read_buffer(m)
        m.d.comb += self.ev_instructions.eq(0)
        accepted = {engine: Signal(name=f"{engine.name.lower()}_accepted") for engine in Engine}
        for engine, state in self._engines.items():
            m.d.comb += self._port(engine, "valid").eq(offering & self.running & (chosen == engine))
            m.d.comb += accepted[engine].eq(self._port(engine, "valid") & self._port(engine, "ready"))
            with m.If(accepted[engine]):
                m.d.comb += self.ev_instructions.eq(1)
                m.d.sync += [
                    offering.eq(0),
                    state.signals[state.given[:-1]].eq(state.slot.signals),
                    state.indices[state.given[:-1]].eq(self._index(state)),
                    state.given.eq(state.given + 1),
                    state.seen.eq(0),
                    state.pointer.eq(state.pointer + 1),
                ]
        for (source, to), tokens in self._tokens.items():
            given = self._engines[source].retire & self._engines[source].signals[self._engines[source].retired[:-1]][to]
            taken = accepted[to] & self._engines[to].slot.waits[source]
            m.d.sync += tokens.eq(tokens + given - taken)
            with m.If(~self.busy):
                m.d.sync += tokens.eq(0)

    def _index(self, state: _EngineState) -> Value:
        """Where an engine's pointer stands in the program."""
        return (self._received - self._distance(self._received, state))[: len(self._received)]

    def _count_stalls(self, m: Module) -> None:
        """Why the compute engine has nothing to do: exclusive of each other and of its own events."""
        state = self._engines[Engine.COMPUTE]
        free = self.running & self.compute_soon & ~self.compute_issuing
        waiting = free & state.seen & (state.slot.kind == Kind.COMPUTE)
        lacks_load = state.slot.waits[Engine.LOAD] & (self._tokens[Engine.LOAD, Engine.COMPUTE] == 0)
        lacks_store = state.slot.waits[Engine.STORE] & (self._tokens[Engine.STORE, Engine.COMPUTE] == 0)
        m.d.comb += [
            self.ev_stall_load.eq(waiting & lacks_load),
            self.ev_stall_store.eq(waiting & ~lacks_load & lacks_store),
            self.ev_stall_program.eq(free & ~state.seen),
        ]

    def _is_stuck(self, m: Module, fetched: Value) -> Signal:
        """Whether nothing has been under way for `PATIENCE` cycles, and yet an instruction waits for a token, or to give one: nobody is left to act."""
        states = self._engines.values()
        moves = (
            (state.given != state.completed) | state.retire | state.wants_look | state.looks | (state.has_next & state.tokens_there) for state in states
        )
        remains = (state.has_next | state.executing for state in states)
        quiet, stuck, patience = Signal(), Signal(), Signal(range(PATIENCE))
        m.d.comb += [quiet.eq(self.running & fetched & ~Cat(moves).any() & Cat(remains).any()), stuck.eq(quiet & (patience == PATIENCE - 1))]
        m.d.sync += patience.eq(Mux(quiet, patience + 1, 0))
        return stuck

    def _control(self, m: Module) -> None:
        """Start, barriers, end, errors."""
        states = self._engines.values()
        leader = self._engines[Engine.LOAD]
        at_barrier = Cat(state.seen & (state.slot.kind >= Kind.END) for state in states).all()
        executing = Cat(state.executing for state in states).any()
        fetched = (self._requested == self._received) & ~self.run_valid
        overrun = fetched & (self._requested == self._total) & ~Cat(state.seen | (self._distance(self._received, state) != 0) for state in states).any()

        stuck = self._is_stuck(m, fetched & ~self._may_fetch)

        cause, error_address = output_register(m, self.cause), output_register(m, self.error_address)
        index = output_register(m, self.op_req_index)
        reset, failing = Signal(), Signal()
        m.d.sync += [self.finished.eq(0), self.failed.eq(0), reset.eq(0)]
        m.d.comb += self.engine_reset.eq(reset)

        def fail(why: Cause | Value, where: Value) -> None:
            m.d.sync += [cause.eq(why), error_address.eq(self.program_address + (where << (INSTRUCTION_BYTES.bit_length() - 1))), failing.eq(1)]
            m.next = "STOP"

        def obey_soft_reset() -> None:
            with m.If(self.soft_reset):
                m.d.sync += [self.finished.eq(0), failing.eq(0)]
                m.next = "STOP"

        with m.FSM() as fsm:
            m.d.comb += [self.busy.eq(~fsm.ongoing("IDLE")), self.stop.eq(fsm.ongoing("STOP"))]
            m.d.comb += self.running.eq(~(fsm.ongoing("IDLE") | fsm.ongoing("STOP") | fsm.ongoing("RESET")))
            with m.State("IDLE"):
                with m.If(self.start):
                    m.next = "RUN"
                    with m.If((self.program_address & (INSTRUCTION_BYTES - 1)) != 0):
                        fail(Cause.MISALIGNED, C(0, 1))
                obey_soft_reset()
            with m.State("RUN"):
                with m.If(at_barrier):
                    with m.Switch(leader.slot.kind):
                        with m.Case(Kind.END):
                            with m.If(~executing & fetched):
                                m.d.comb += self.ev_instructions.eq(1)
                                m.d.sync += self.finished.eq(1)
                                m.next = "IDLE"
                        with m.Case(Kind.OPERATING_POINT):
                            with m.If(~executing):
                                m.d.comb += [self._buffer.read_en.eq(1), self._buffer.read_addr.eq(leader.pointer)]
                                m.next = "OPERATING_POINT"
                        with m.Case(Kind.UNREADABLE):
                            fail(Mux(self._program_outside, Cause.READ_OUTSIDE, Cause.READ_RESPONSE), self._index(leader))
                        with m.Default():
                            fail(Cause.ILLEGAL_INSTRUCTION, self._index(leader))
                with m.Elif(overrun):
                    fail(Cause.PROGRAM_OVERRUN, self._total)
                with m.If(stuck):
                    behind = reduce_balanced([self._distance(self._received, state) for state in states], lambda a, b: Mux(a > b, a, b))
                    fail(Cause.DEADLOCK, (self._received - behind)[: len(self._received)])
                for engine in (Engine.STORE, Engine.LOAD):
                    state = self._engines[engine]
                    reading = engine == Engine.LOAD
                    outside = Cause.READ_OUTSIDE if reading else Cause.WRITE_OUTSIDE
                    response = Cause.READ_RESPONSE if reading else Cause.WRITE_RESPONSE
                    with m.If(self._port(engine, "failed")):
                        fail(Mux(self._port(engine, "outside"), outside, response), state.oldest_index)
                    with m.Elif(self._port(engine, "misaligned")):
                        fail(Cause.MISALIGNED, state.oldest_index)
                obey_soft_reset()
            with m.State("OPERATING_POINT"):
                m.d.sync += index.eq(fields(self._buffer.read_data, Opcode.OPERATING_POINT).index)
                with m.If(~self.op_ack):
                    m.next = "REQUEST"
                obey_soft_reset()
            with m.State("REQUEST"):
                m.d.sync += self.op_req_valid.eq(1)
                with m.If(self.op_req_valid & self.op_ack):
                    m.d.sync += self.op_req_valid.eq(0)
                    m.next = "RELEASE"
                obey_soft_reset()
            with m.State("RELEASE"):
                with m.If(~self.op_ack):
                    m.d.comb += [self._pass_barrier.eq(1), self.ev_instructions.eq(1)]
                    m.next = "RUN"
                obey_soft_reset()
            with m.State("STOP"):
                m.d.sync += self.op_req_valid.eq(0)
                with m.If(self.soft_reset):
                    m.d.sync += failing.eq(0)
                with m.If(self.load_drained & self.store_drained & fetched):
                    m.d.sync += reset.eq(1)
                    m.next = "RESET"
            with m.State("RESET"):
                m.d.sync += [self.failed.eq(failing & ~self.soft_reset), failing.eq(0)]
                m.next = "IDLE"
