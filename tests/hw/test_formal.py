"""Formal proofs of the blocks that everything relies on, each with mutated twins whose proof must fail.

Every proof is an induction: it holds for all inputs and all time, not for as long as a simulation runs.
"""

import inspect
import sys
from functools import reduce

import pytest
from amaranth.hdl import Array, Assert, Assume, Cat, Elaboratable, Module, Mux, Signal
from block_bench import variant

import hw.memory_side
from hw.crossing import TwoClockFifo
from hw.errors import ModelError, ToolError
from hw.isa import TOKEN_LIMIT, Engine
from hw.memory_side import PAGE_BYTES, AxiLite, BurstSplitter, MemoryRead, MemoryWrite
from hw.queue import Queue
from hw.sequencer import IN_FLIGHT, TOKEN_PAIRS, Sequencer
from hw.verify.formal import prove

CONFIG = variant("small", memory={"max_burst_beats": 4})


NAMES = {
    "Queue": [("written, read = Signal(bits), Signal(bits)", 'written, read = Signal(bits, name="written"), Signal(bits, name="read")')],
    "TwoClockFifo": [
        ("written, written_gray = Signal(bits), Signal(bits)", 'written, written_gray = Signal(bits, name="written"), Signal(bits, name="written_gray")'),
        ("read, read_gray = Signal(bits), Signal(bits)", 'read, read_gray = Signal(bits, name="read"), Signal(bits, name="read_gray")'),
    ],
    "BurstSplitter": [("waits, first_beat, beats = Signal(), ", 'waits, first_beat, beats = Signal(name="waits"), ')],
    "AxiLite": [("write, address, data, strobe = Signal(), ", 'write, address, data, strobe = Signal(name="write"), ')],
    "Sequencer": [("chosen, offering = Signal(2), Signal()", 'chosen, offering = Signal(2, name="chosen"), Signal(name="offering")')],
}
"""Registers that a proof speaks of and that have no name in the netlist: what to write in their place."""


def rewritten(block: type, *changes: tuple[str, str], namespace: dict | None = None) -> type:
    """The class with pieces of its source replaced, and with names for the registers that proofs need."""
    source = inspect.getsource(getattr(sys.modules[SOURCES[block.__name__]], block.__name__))
    for old, new in (*NAMES.get(block.__name__, ()), *changes):
        assert old in source, f"{block.__name__} has no {old!r}"
        source = source.replace(old, new, 1)
    namespace = dict(namespace or SHORT if SOURCES[block.__name__] == "hw.memory_side" else vars(sys.modules[SOURCES[block.__name__]]))
    exec(source, namespace)
    return namespace[block.__name__]


SOURCES = {cls.__name__: cls.__module__ for cls in (Queue, TwoClockFifo, BurstSplitter, MemoryRead, MemoryWrite, AxiLite, Sequencer)}
Queue, TwoClockFifo, Sequencer = (rewritten(block) for block in (Queue, TwoClockFifo, Sequencer))


def memory_side() -> dict:
    """The memory side with addresses of 24 bits, which are enough for everything that can go wrong, and a proof takes less time."""
    source, wide = inspect.getsource(hw.memory_side), "ADDRESS_BITS = 40"
    assert source.count(f"\n{wide}\n") == 1
    namespace = {"__name__": "memory_side"}
    exec(source.replace(wide, "ADDRESS_BITS = 24"), namespace)
    return namespace | {"Queue": Queue}


SHORT = memory_side()
SHORT["BurstSplitter"] = rewritten(BurstSplitter)
BurstSplitter, MemoryRead, MemoryWrite, AxiLite = (rewritten(block) for block in (BurstSplitter, MemoryRead, MemoryWrite, AxiLite))


class Harness(Elaboratable):
    """A block as `dut`, with all its inputs free. `inside` maps registers in it to signals that `check` may use."""

    two_clocks = False
    free_memories = False
    steps = 6

    def __init__(self, dut, **inside: int):
        self.dut = dut
        self.seen = {name: Signal(width, name=f"seen_{name.replace('.', '_')}") for name, width in inside.items()}
        self.free = []
        """Further inputs."""

    def __getattr__(self, name):
        return self.seen[name] if "seen" in self.__dict__ and name in self.seen else super().__getattribute__(name)

    def elaborate(self, platform):
        m = Module()
        m.submodules.dut = self.dut
        self.check(m)
        return m

    def run(self, only_refute: bool = False) -> None:
        inputs = [getattr(self.dut, name) for name, member in self.dut.signature.members.items() if member.flow.name == "In"]
        inside = {signal.name: f"dut.{name}" for name, signal in self.seen.items()}
        options = {"two_clocks": self.two_clocks, "free_memories": self.free_memories, "steps": self.steps, "resets": self.resets}
        prove(self, only_refute=only_refute, ports=[*inputs, *self.seen.values(), *self.free], inside=inside, **options)

    resets = ("rst",)


def refute(harness: Harness, deep: bool = False) -> None:
    """A state that breaks an assertion can be reached; or, where that takes too many steps to search (`deep`), the induction does not succeed."""
    if deep:
        with pytest.raises(ToolError, match="the proof must succeed within"):
            harness.run()
        return
    harness.steps = 24 if harness.two_clocks else 14
    with pytest.raises(ModelError, match="assertions must hold always"):
        harness.run(only_refute=True)


def stable(m: Module, claim, valid, ready, payload, *, domain: str = "sync", unless=0) -> None:
    """`claim` (Assert or Assume) that an offer that is not taken stays as it is, unless a clear came."""
    waits, was = Signal(name=f"waits_{len(m._statements.get('comb', []))}"), Signal(len(payload))
    m.d[domain] += [waits.eq(valid & ~ready & ~unless), was.eq(payload)]
    m.d.comb += claim(~waits | (valid & (payload == was)))


# --- queue ------------------------------------------------------------------------------------


class QueueProof(Harness):
    """Levels are kept, an offer stays, and the word written at any place is the word read there."""

    def __init__(self, block=Queue):
        super().__init__(block(width=2, depth=4), written=3, read=3, **{f"word_{i}": 2 for i in range(4)})
        self.pick = Signal(3)
        self.free = [self.pick]

    def check(self, m):
        d, level = self.dut, Signal(3)
        m.d.comb += level.eq(self.written - self.read)
        m.d.comb += [Assert(level <= 4), Assert(d.r_valid == (level != 0)), Assert(d.w_ready == (level != 4))]
        stable(m, Assert, d.r_valid, d.r_ready, d.r_data, unless=d.clear)

        place, begun, lives, value = Signal(3), Signal(), Signal(), Signal(2)
        with m.If(~begun):
            m.d.sync += [begun.eq(1), place.eq(self.pick)]
        with m.If(begun & d.w_valid & d.w_ready & (self.written == place)):
            m.d.sync += [lives.eq(1), value.eq(d.w_data)]
        with m.If(d.clear | (d.r_valid & d.r_ready & (self.read == place))):
            m.d.sync += lives.eq(0)
        words = Array([self.seen[f"word_{i}"] for i in range(4)])
        m.d.comb += Assert(~lives | (begun & ((place - self.read)[:3] < level) & (words[place[:2]] == value)))
        m.d.comb += Assert(~(lives & d.r_valid & (self.read == place)) | (d.r_data == value))


QUEUE_MUTANTS = {
    "one word too many": ("(read ^ self.depth)", "(read ^ (self.depth + 1))"),
    "reads what is not there": ("written != read)", "written != read + 1)"),
    "overwrites": ("self.w_valid & self.w_ready", "self.w_valid"),
    "wrong place": ("words[written[:-1]].eq", "words[(written ^ 1)[:-1]].eq"),
    "clears one pointer": ("[written.eq(0), read.eq(0)]", "[written.eq(0)]"),
}


def test_queue():
    QueueProof().run()


@pytest.mark.parametrize("name", QUEUE_MUTANTS)
def test_queue_mutants(name):
    refute(QueueProof(rewritten(Queue, QUEUE_MUTANTS[name])))


# --- two-clock FIFO ---------------------------------------------------------------------------


class FifoProof(Harness):
    """With any two clocks: pointers keep their order across both synchronizers, at most `depth` words are stored, and what is read is what was written."""

    two_clocks = True
    resets = ("write_rst", "read_rst")
    POINTERS = ("written", "read", "written_gray", "read_gray", "written_gray_sync_0", "written_gray_sync_1", "read_gray_sync_0", "read_gray_sync_1")

    def __init__(self, block=TwoClockFifo):
        super().__init__(block(width=1, depth=4), **dict.fromkeys(self.POINTERS, 3), **{f"word_{i}": 1 for i in range(4)})
        self.pick = Signal(3)
        self.free = [self.pick]

    def check(self, m):
        d = self.dut

        def binary(value):
            return Cat(reduce(lambda a, b: a ^ b, value[i:]) for i in range(3))

        def ahead(a, b):
            return (a - b)[:3]

        m.d.comb += [Assert(self.seen[f"{name}_gray"] == self.seen[name] ^ self.seen[name][1:]) for name in ("written", "read")]
        order = [self.written, *(binary(self.seen[f"written_gray_sync_{i}"]) for i in (0, 1)), self.read,
                 *(binary(self.seen[f"read_gray_sync_{i}"]) for i in (0, 1))]  # fmt: skip
        m.d.comb += Assert(sum(ahead(newer, older) for newer, older in zip(order, order[1:], strict=False)) <= 4)
        stable(m, Assert, d.r_valid, d.r_ready, d.r_data, domain="read")

        place, begun, value = Signal(3), Signal(), Signal()
        with m.If(~begun):
            m.d.write += [begun.eq(1), place.eq(self.pick)]
        captured = Signal()
        with m.If(begun & d.w_valid & d.w_ready & (self.written == place)):
            m.d.write += [captured.eq(1), value.eq(d.w_data)]
        words = Array([self.seen[f"word_{i}"] for i in range(4)])
        is_stored = ahead(place, self.read) < ahead(self.written, self.read)
        m.d.comb += Assert(~(captured & is_stored) | (words[place[:2]] == value))
        m.d.comb += Assert(~captured | begun)


class FifoOutputProof(FifoProof):
    """The word that leaves is the one that was written at its place; and a pointer changes by one bit at a time, so that a synchronizer sees old or new."""

    def check(self, m):
        super().check(m)
        for name, domain in (("written_gray", "write"), ("read_gray", "read")):
            was, begun = Signal(3), Signal()
            m.d[domain] += [was.eq(self.seen[name]), begun.eq(1)]
            changed = self.seen[name] ^ was
            m.d.comb += Assert(~begun | ((changed & (changed - 1)[:3]) == 0))


FIFO_MUTANTS = {
    "one word too many": ("0b11 << bits - 2", "0b01 << bits - 2"),
    "writer believes itself": ("with m.If(self.w_valid & self.w_ready)", "with m.If(self.w_valid)"),
    "binary pointer": ("written_gray.eq(gray(next_written))", "written_gray.eq(next_written)"),
    "reads what is not there": ("with m.If(read_gray != written_seen)", "with m.If(1)"),
    "output changes while it waits": ("with m.If(~self.r_valid | self.r_ready)", "with m.If(1)"),
    "wrong place": ("words[written[:-1]].eq", "words[(written ^ 1)[:-1]].eq"),
}


def test_two_clock_fifo():
    FifoOutputProof().run()


@pytest.mark.parametrize("name", FIFO_MUTANTS)
def test_two_clock_fifo_mutants(name):
    refute(FifoOutputProof(rewritten(TwoClockFifo, FIFO_MUTANTS[name])))


# --- the memory side --------------------------------------------------------------------------


def in_page(address_beats, length, beat_bytes: int):
    """Whether a burst stays within 4 KiB."""
    beats = PAGE_BYTES // beat_bytes
    return (address_beats & (beats - 1)) + length <= beats


def window_holds(m: Module, dut, splitter: BurstSplitter, claim, valid, address, length) -> None:
    """A burst lies in the window."""
    last = Signal(len(address) + 1, name=f"last_beat_of_{len(m._statements.get('comb', []))}")
    m.d.comb += last.eq(address + length - 1)
    m.d.comb += claim(~valid | ((address[splitter.window_shift :] >= dut.window_first) & (last[splitter.window_shift :] <= dut.window_last)))


def splitter_registers(prefix: str, splitter: BurstSplitter) -> dict[str, int]:
    address, beats = len(splitter.address), len(splitter.run_beats)
    names = {"address": address, "left": beats, "outside": 1, "valid": 1, "waits": 1, "first_beat": address, "beats": beats, "before": 1}
    names["last_beat"] = address + 1
    return {f"{prefix}{name}": width for name, width in names.items()}


def splitter_invariant(m: Module, dut, seen: dict, prefix: str, splitter: BurstSplitter) -> None:
    """What connects a splitter's registers: the run that waits, and what is left of the one under way."""
    r = {name.removeprefix(prefix): signal for name, signal in seen.items() if name.startswith(prefix)}
    shift = splitter.window_shift
    last = Signal(len(r["address"]) + 1, name=f"{prefix.replace('.', '_')}last_left")
    m.d.comb += last.eq(r["address"] + r["left"] - 1)
    waiting_last = Signal(len(r["address"]) + 1, name=f"{prefix.replace('.', '_')}last_waiting")
    m.d.comb += waiting_last.eq(r["first_beat"] + r["beats"] - 1)
    m.d.comb += [
        Assert(~r["valid"] | (r["left"] != 0)),
        Assert(~r["waits"] | ((r["beats"] != 0) & (r["last_beat"] == waiting_last) & (r["before"] == (r["first_beat"][shift:] < dut.window_first)))),
        Assert(~(r["valid"] & ~r["outside"]) | ((r["address"][shift:] >= dut.window_first) & (last[shift:] <= dut.window_last) & ~last[-1])),
    ]


def steady_window(m: Module, dut) -> None:
    """The window changes only while the machine stands still."""
    window, was, begun = Cat(dut.window_first, dut.window_last), Signal(len(dut.window_first) * 2), Signal(name="window_begun")
    m.d.sync += [was.eq(window), begun.eq(1)]
    m.d.comb += Assume(~begun | (was == window))
    m.d.comb += Assume(dut.window_last[-1] == 0)


class SplitterProof(Harness):
    """Bursts stay within their boundary and the window, are never empty, and are offered until they are taken."""

    steps = 2

    def __init__(self, block=BurstSplitter):
        dut = block(CONFIG)
        super().__init__(dut, **splitter_registers("", dut))

    def check(self, m):
        d = self.dut
        steady_window(m, d)
        m.d.comb += Assume(~d.run_valid | (d.run_beats != 0))
        splitter_invariant(m, d, self.seen, "", d)
        stable(m, Assert, d.valid, d.ready, Cat(d.address, d.length, d.last, d.outside))
        m.d.comb += Assert(~d.valid | ((d.length != 0) & (((d.address & (d.boundary_beats - 1)) + d.length) <= d.boundary_beats)))
        window_holds(m, d, d, Assert, d.valid & ~d.outside, d.address, d.length)


SPLITTER_MUTANTS = {
    "past the boundary": ("self.boundary_beats - (address", "self.boundary_beats + 1 - (address"),
    "changes while it waits": ("with m.If(self.valid & self.ready)", "with m.If(self.valid)"),
    "end of the window not looked at": ("before | ((last_beat >> self.window_shift) > self.window_last)", "before"),
    "start of the window not looked at": ("before | ((last_beat", "((last_beat"),
}


def test_burst_splitter():
    SplitterProof().run()


@pytest.mark.parametrize("name", SPLITTER_MUTANTS)
def test_burst_splitter_mutants(name):
    refute(SplitterProof(rewritten(BurstSplitter, SPLITTER_MUTANTS[name])))


class ReadProof(Harness):
    """ARVALID and its payload wait for ARREADY, bursts lie in the window and in 4 KiB, and one splitter at a time is served."""

    steps = 2

    def __init__(self, block=MemoryRead):
        splitter = BurstSplitter(CONFIG)
        self.splitters = {name: splitter for name in ("program", "data")}
        inside = {}
        for name in self.splitters:
            inside |= splitter_registers(f"{name}_splitter.", splitter) | {f"{name}_splitter.ready": 1}
        super().__init__(block(CONFIG), **inside)

    def check(self, m):
        d = self.dut
        steady_window(m, d)
        for name, splitter in self.splitters.items():
            m.d.comb += Assume(~getattr(d, f"{name}_valid") | (getattr(d, f"{name}_beats") != 0))
            splitter_invariant(m, d, self.seen, f"{name}_splitter.", splitter)
        stable(m, Assert, d.arvalid, d.arready, Cat(d.arid, d.araddr, d.arlen, d.arsize, d.arburst))
        beats = d.araddr[len(d.araddr) - len(splitter.address) :]
        m.d.comb += Assert(~d.arvalid | in_page(beats, d.arlen + 1, CONFIG.axi_bytes))
        window_holds(m, d, splitter, Assert, d.arvalid, beats, d.arlen + 1)
        taken = [self.seen[f"{name}_splitter.valid"] & self.seen[f"{name}_splitter.ready"] for name in self.splitters]
        m.d.comb += Assert(~(taken[0] & taken[1]))


READ_MUTANTS = {
    "sends what is outside": ("self.arvalid.eq(~splitter.outside)", "self.arvalid.eq(1)"),
    "does not wait for ARREADY": ("free = (~self.arvalid | self.arready) & ~refusing", "free = ~refusing"),
    "serves both": ("free & ~program.valid &", "free &"),
    "withdraws": ("with m.If(self.arready)", "with m.If(1)"),
}


def test_memory_read():
    ReadProof().run()


@pytest.mark.parametrize("name", READ_MUTANTS)
def test_memory_read_mutants(name):
    refute(ReadProof(rewritten(MemoryRead, READ_MUTANTS[name])))


class WriteProof(Harness):
    """AWVALID and WVALID wait with their payload, and bursts lie in the window and in 4 KiB."""

    steps = 2

    def __init__(self, block=MemoryWrite):
        self.splitter = BurstSplitter(CONFIG)
        inside = splitter_registers("splitter.", self.splitter) | {"lengths.written": 4, "lengths.read": 4, "holds": 1, "outside": 1}
        super().__init__(block(CONFIG), **inside)

    def check(self, m):
        d = self.dut
        steady_window(m, d)
        m.d.comb += [Assume(~d.run_valid | (d.run_beats != 0))]
        stable(m, Assume, d.beat_valid, d.beat_ready, Cat(d.beat_data, d.beat_strobe))
        splitter_invariant(m, d, self.seen, "splitter.", self.splitter)
        m.d.comb += Assert((self.seen["lengths.written"] - self.seen["lengths.read"])[:4] <= 8)
        stable(m, Assert, d.awvalid, d.awready, Cat(d.awid, d.awaddr, d.awlen, d.awsize, d.awburst))
        stable(m, Assert, d.wvalid, d.wready, Cat(d.wdata, d.wstrb, d.wlast))
        beats = d.awaddr[len(d.awaddr) - len(self.splitter.address) :]
        held = self.holds & ~self.seen["outside"]  # on the pins, or as soon as there is room for its length
        m.d.comb += [Assert(~d.awvalid | held), Assert(~held | in_page(beats, d.awlen + 1, CONFIG.axi_bytes))]
        window_holds(m, d, self.splitter, Assert, held, beats, d.awlen + 1)


WRITE_MUTANTS = {
    "sends what is outside": ("self.awvalid.eq(holds & ~outside & ", "self.awvalid.eq(holds & "),
    "does not wait for AWREADY": ("(outside | self.awready)", "1"),
    "data changes with WLAST": ("with m.If(passes)", "with m.If(self.beat_valid)"),
}


def test_memory_write():
    WriteProof().run()


@pytest.mark.parametrize("name", WRITE_MUTANTS)
def test_memory_write_mutants(name):
    refute(WriteProof(rewritten(MemoryWrite, WRITE_MUTANTS[name])))


class LiteProof(Harness):
    """AXI4-Lite: one access at a time, an answer only to a request, and offers wait with their payload."""

    steps = 3

    def __init__(self, block=AxiLite):
        super().__init__(block(), fsm_state=3, write=1)

    def check(self, m):
        d = self.dut
        for valid, ready, payload in ((d.arvalid, d.arready, d.araddr), (d.awvalid, d.awready, d.awaddr), (d.wvalid, d.wready, Cat(d.wdata, d.wstrb))):
            stable(m, Assume, valid, ready, payload)
        for valid, ready, payload in ((d.rvalid, d.rready, Cat(d.rdata, d.rresp)), (d.bvalid, d.bready, d.bresp), (d.access_valid, d.access_ready, d.access)):
            stable(m, Assert, valid, ready, payload)
        m.d.comb += [Assert(~(d.arready & d.awready)), Assert(d.awready == d.wready), Assert(~(d.rvalid & d.bvalid))]
        reads, writes = Signal(), Signal()
        m.d.sync += [reads.eq((reads | (d.arvalid & d.arready)) & ~(d.rvalid & d.rready))]
        m.d.sync += [writes.eq((writes | (d.awvalid & d.awready)) & ~(d.bvalid & d.bready))]
        m.d.comb += [Assert(~(reads & writes)), Assert(~d.rvalid | reads), Assert(~d.bvalid | writes), Assert(~(reads | writes) | ~(d.arready | d.awready))]
        # The state machine is at rest exactly while nothing is open, and knows which of the two it is.
        m.d.comb += [Assert((self.fsm_state == 0) == ~(reads | writes)), Assert((self.fsm_state == 0) | (self.write == writes))]


LITE_MUTANTS = {
    "both at once": ("with m.Elif(self.awvalid & self.wvalid)", "with m.If(self.awvalid & self.wvalid)"),
    "does not wait for the address": ("with m.Elif(self.awvalid & self.wvalid)", "with m.Elif(self.wvalid)"),
    "answers the other channel": ("self.rvalid.eq(~write), self.bvalid.eq(write)", "self.rvalid.eq(write), self.bvalid.eq(~write)"),
    "does not wait for the master": ("with m.If(Mux(write, self.bready, self.rready))", "with m.If(1)"),
}


def test_axi_lite():
    LiteProof().run()


@pytest.mark.parametrize("name", LITE_MUTANTS)
def test_axi_lite_mutants(name):
    refute(LiteProof(rewritten(AxiLite, LITE_MUTANTS[name])))


# --- the sequencer ----------------------------------------------------------------------------


class TokenProof(Harness):
    """Tokens are neither lost nor made of nothing, one engine at a time is offered an instruction, and what can go on does so at once.

    Engines keep their contract: ready (of the compute engine, that it is soon ready) stays until an instruction is accepted, and done comes only
    for an instruction that was.
    """

    free_memories = True
    steps = 3

    def __init__(self, block=Sequencer):
        names = [engine.name.lower() for engine in Engine]
        inside = {f"tokens_{source.name}_{to.name}".lower(): 4 for source, to in TOKEN_PAIRS}
        inside |= {f"{name}_{what}": 3 for name in names for what in ("given", "completed", "retired")}
        inside |= {f"{name}_{what}": 1 for name in names for what in ("seen", "looks", "may_start")} | {f"{name}_slot": 9 for name in names}
        inside |= {"chosen": 2, "offering": 1}
        super().__init__(block(CONFIG), **inside)

    def check(self, m):
        d = self.dut
        valids, readies = [], []
        for engine in Engine:
            name = engine.name.lower()
            valid, ready, done = (getattr(d, f"{name}_{what}") for what in ("valid", "ready", "done"))
            given, completed, retired = (self.seen[f"{name}_{what}"] for what in ("given", "completed", "retired"))
            accepted, waited = Signal(name=f"{name}_taken"), Signal(name=f"{name}_waited")
            soon = d.compute_soon if engine == Engine.COMPUTE else ready
            m.d.comb += accepted.eq(valid & ready)
            m.d.sync += waited.eq(soon & ~accepted)
            m.d.comb += [Assume(~waited | soon), Assume(~ready | soon), Assume(~done | (given != completed))]
            valids.append(valid)
            readies.append(ready)

            # At most IN_FLIGHT instructions are given and not retired, and of those the complete ones are the oldest.
            in_flight, complete = (given - retired)[:3], (completed - retired)[:3]
            m.d.comb += [Assert(in_flight <= IN_FLIGHT), Assert(complete <= in_flight)]
            # An instruction is offered only while its tokens are there, and its slot does not change meanwhile.
            looks, slot = self.seen[f"{name}_looks"], self.seen[f"{name}_slot"]
            m.d.comb += [Assert(~(looks & self.seen[f"{name}_seen"])), Assert(~(valid & looks)), Assert(~valid | soon)]
            m.d.comb += Assert(~valid | (in_flight < IN_FLIGHT))
            for source, to in TOKEN_PAIRS:
                if to == engine:
                    m.d.comb += Assert(~(valid & slot[3 + source]) | (self._tokens(source, to) != 0))
            # A complete instruction is retired at once if there is room for whatever it signals.
            room = Cat(self._tokens(source, to) != TOKEN_LIMIT for source, to in TOKEN_PAIRS if source == engine).all()
            must, was = Signal(name=f"{name}_must"), Signal(3, name=f"{name}_was")
            m.d.sync += [must.eq(d.busy & room & (complete != 0)), was.eq(retired)]
            m.d.comb += Assert(~must | (retired == (was + 1)[:3]))

        m.d.comb += Assert(sum(valids) <= 1)
        # Counters of tokens never wrap.
        was_busy = Signal()
        m.d.sync += was_busy.eq(d.busy)
        for source, to in TOKEN_PAIRS:
            now, was = self._tokens(source, to), Signal(4, name=f"was_{source.name}_{to.name}".lower())
            m.d.sync += was.eq(now)
            m.d.comb += Assert(~was_busy | ~(((was == 0) & (now == TOKEN_LIMIT)) | ((was == TOKEN_LIMIT) & (now == 0))))
        # If an engine can start, then within a cycle an instruction is on offer; it stays there only for as long as its engine is not ready.
        can_start = Cat(self.seen[f"{engine.name.lower()}_may_start"] for engine in Engine).any()
        lost = Signal(2)
        m.d.sync += lost.eq(Mux(d.running & can_start & ~Cat(valids).any(), lost + 1, 0))
        m.d.comb += [Assert(lost <= 1), Assert(self.chosen != 3), Assert((lost == 0) | ~d.running | self.offering)]
        was_offered = Signal(len(valids))
        m.d.sync += was_offered.eq(Cat(valid & ~ready for valid, ready in zip(valids, readies, strict=True)))
        m.d.comb += Assert(~d.running | ((was_offered & ~Cat(valids)) == 0))

    def _tokens(self, source: Engine, to: Engine):
        return self.seen[f"tokens_{source.name}_{to.name}".lower()]


TOKEN_MUTANTS = {
    "full queues are not waited for": ("~signals[to] | (tokens != TOKEN_LIMIT)", "~signals[to] | (tokens != TOKEN_LIMIT + 1)"),
    "tokens are not waited for": ("~state.slot.waits[source] | (tokens != 0)", "~state.slot.waits[source] | 1"),
    "any number in flight": ("& ~state.full", ""),
    "an engine is never chosen": ("with m.If(may_start[i])", "with m.If(may_start[i] & (engine != Engine.STORE))"),
    "two at once": ("offering & self.running & (chosen == engine)", "offering & self.running"),
    "retires never": ("with m.If(state.retire):", "with m.If(state.retire & state.full):"),
}


DEEP_TOKEN_MUTANTS = {"full queues are not waited for", "any number in flight", "retires never"}


def test_tokens():
    TokenProof().run()


@pytest.mark.parametrize("name", TOKEN_MUTANTS)
def test_token_mutants(name):
    refute(TokenProof(rewritten(Sequencer, TOKEN_MUTANTS[name])), deep=name in DEEP_TOKEN_MUTANTS)
