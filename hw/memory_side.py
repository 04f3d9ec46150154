"""The memory clock domain: the AXI4 master's read and write halves, and the AXI4-Lite slave.

The core asks for *runs*: a first beat and a number of beats. Here a run becomes INCR bursts that end at multiples of
`max_burst_beats` (of 4 KiB, if that is less), so that no burst crosses 4 KiB and long runs stay aligned with DRAM bursts.

A run that is not wholly within its window (the registers READ_WINDOW_*, WRITE_WINDOW_*, which live here) never reaches the bus:
it is answered with errors, in order, as a bad response would be.
"""

from amaranth.hdl import C, Cat, Module, Mux, Signal, Value
from amaranth.lib.wiring import Flow, In, Out

from hw.config import AcceleratorConfig
from hw.isa import INSTRUCTION_BYTES
from hw.queue import Queue
from hw.registers import Register
from hw.shared import Shared, output_register, register

ADDRESS_BITS = 40
ID_BITS = 4
PAGE_BYTES = 4096
"""AXI4: no burst crosses a multiple of this."""
FETCH_GROUP = 4
"""Instructions that are asked for in one run."""
PROGRAM_ID, DATA_ID = 1, 0
"""ARID of program reads and of data reads."""
OPEN_WRITE_BURSTS = 8
"""Write bursts without response at a time."""
LITE_ADDRESS_BITS = 12
ACCESS_BITS = 1 + LITE_ADDRESS_BITS + 32 + 4
ANSWER_BITS = 32 + 1
INCREMENTING = 0b01
SLAVE_ERROR = 0b10
BEAT_ERROR_BITS = 2
"""An error: bit 0 that there is one, bit 1 that the run was outside its window."""
WINDOW_UNIT_BITS = 5
"""Windows begin and end at multiples of 32 bytes, the widest beat."""
WINDOW_BITS = ADDRESS_BITS - WINDOW_UNIT_BITS
OPEN_READ_BITS = 24
"""Bits of the number of read bursts under way: more than any memory takes."""


def beat_address_bits(config: AcceleratorConfig) -> int:
    """Bits of an address counted in beats."""
    return ADDRESS_BITS - (config.axi_bytes - 1).bit_length()


def run_beats_bits(config: AcceleratorConfig) -> int:
    """Bits of the number of beats of the longest run an instruction can express."""
    bytes_a_run_word = max(config.activation_word_bytes, config.array.cols * config.weight_word_bytes, 8)
    return (0xFFFF * bytes_a_run_word // config.axi_bytes + 2).bit_length()


def program_beats_bits(config: AcceleratorConfig) -> int:
    """Bits of the number of beats of a run of `FETCH_GROUP` instructions."""
    return (FETCH_GROUP * INSTRUCTION_BYTES // config.axi_bytes).bit_length()


def run_ports(config: AcceleratorConfig, name: str, flow: Flow, beats_bits: int | None = None) -> dict:
    """Ports of a stream of runs that leaves (Out) or enters (In) a block; `beats_bits` if they are short."""
    back = In if flow == Out else Out
    return {
        f"{name}_address": flow(beat_address_bits(config)),
        f"{name}_beats": flow(beats_bits or run_beats_bits(config)),
        f"{name}_valid": flow(1),
        f"{name}_ready": back(1),
    }


def window_ports(flow: Flow) -> dict:
    """The first and the last unit (2^`WINDOW_UNIT_BITS` bytes) of a window; as outputs they are registers, the whole address space after reset."""
    return {"window_first": flow(WINDOW_BITS), "window_last": flow(WINDOW_BITS, init=(1 << WINDOW_BITS) - 1)}


class BurstSplitter(Shared):
    """Splits runs into bursts: `length` beats from `address`, `last` of its run, `outside` if the run was not wholly in the window.

    Accepts a run as its predecessor's last burst is taken: one burst a cycle. A burst is offered 2 cycles after its run came.
    """

    block = "burst_splitter"

    def __init__(self, config: AcceleratorConfig):
        self.boundary_beats = min(config.memory.max_burst_beats, PAGE_BYTES // config.axi_bytes)
        self.window_shift = WINDOW_UNIT_BITS - (config.axi_bytes - 1).bit_length()
        ports = run_ports(config, "run", In) | window_ports(In) | {
            "address": Out(beat_address_bits(config)), "length": Out(9), "last": Out(1), "outside": Out(1), "valid": Out(1), "ready": In(1),
        }  # fmt: skip
        super().__init__(ports, a=beat_address_bits(config), n=run_beats_bits(config), b=self.boundary_beats)

    def body(self) -> Module:
        m = Module()
        address, left = output_register(m, self.address), register(len(self.run_beats), "left")
        outside = output_register(m, self.outside)

        # A run is compared with the window while it waits for its predecessor.
        waits, first_beat, beats = Signal(), register(len(address), "first_beat"), register(len(left), "beats")
        last_beat, before = register(len(address) + 1, "last_beat"), register(1, "before")
        takes = Signal()
        m.d.comb += self.run_ready.eq(~waits | takes)
        with m.If(takes):
            m.d.sync += waits.eq(0)
        with m.If(self.run_valid & self.run_ready):
            m.d.sync += [waits.eq(1), first_beat.eq(self.run_address), beats.eq(self.run_beats)]
            m.d.sync += [last_beat.eq(self.run_address + self.run_beats - 1), before.eq((self.run_address >> self.window_shift) < self.window_first)]

        to_boundary = Signal(9)
        m.d.comb += [
            to_boundary.eq(self.boundary_beats - (address & (self.boundary_beats - 1))),
            self.last.eq(left <= to_boundary),
            self.length.eq(Mux(self.last, left, to_boundary)),
            takes.eq(waits & (~self.valid | (self.last & self.ready))),
        ]
        with m.If(self.valid & self.ready):
            m.d.sync += [address.eq(address + self.length), left.eq(left - self.length), self.valid.eq(~self.last)]
        with m.If(takes):
            m.d.sync += [address.eq(first_beat), left.eq(beats), self.valid.eq(1)]
            m.d.sync += outside.eq(before | ((last_beat >> self.window_shift) > self.window_last))
        return m


class MemoryRead(Shared):
    """AXI4 read half. Bursts of program and data runs share the address channel, program first; each beat returned carries which it is.

    A burst is on the address channel 3 cycles after its run was accepted. A burst outside the window waits until all before it have come,
    then its beats are made here, with errors. Beats pass to `beat_*` without delay; the core
    accepts every beat it asked for without waiting for anything else, so a beat of one kind never blocks the other for good.
    """

    block = "memory_read"

    def __init__(self, config: AcceleratorConfig):
        self.config = config
        data_bits = config.memory.axi_data_bits
        ports = (
            run_ports(config, "program", In, program_beats_bits(config))
            | run_ports(config, "data", In)
            | window_ports(In)
            | {
                "beat_data": Out(data_bits), "beat_error": Out(BEAT_ERROR_BITS), "beat_program": Out(1), "beat_valid": Out(1), "beat_ready": In(1),
                "arid": Out(ID_BITS), "araddr": Out(ADDRESS_BITS), "arlen": Out(8), "arsize": Out(3), "arburst": Out(2),
                "arvalid": Out(1), "arready": In(1),
                "rid": In(ID_BITS), "rdata": In(data_bits), "rresp": In(2), "rlast": In(1), "rvalid": In(1), "rready": Out(1),
            }
        )  # fmt: skip
        super().__init__(ports, d=data_bits, n=run_beats_bits(config), b=config.memory.max_burst_beats)

    def body(self) -> Module:
        m = Module()
        m.submodules.program_splitter = program = BurstSplitter(self.config)
        m.submodules.data_splitter = data = BurstSplitter(self.config)
        for name, splitter in (("program", program), ("data", data)):
            m.d.comb += [
                splitter.run_address.eq(getattr(self, f"{name}_address")),
                splitter.run_beats.eq(getattr(self, f"{name}_beats")),
                splitter.run_valid.eq(getattr(self, f"{name}_valid")),
                splitter.window_first.eq(self.window_first),
                splitter.window_last.eq(self.window_last),
                getattr(self, f"{name}_ready").eq(splitter.run_ready),
            ]

        address, length, identifier = register(len(data.address), "address"), register(8, "length"), register(1, "identifier")
        open_bursts, refusing, left = Signal(OPEN_READ_BITS), Signal(), register(9, "left")
        free = (~self.arvalid | self.arready) & ~refusing
        quiet = (open_bursts == 0) & ~self.arvalid
        m.d.comb += [
            program.ready.eq(free & (~program.outside | quiet)),
            data.ready.eq(free & ~program.valid & (~data.outside | quiet)),
            self.arid.eq(identifier),
            self.araddr.eq(address << ADDRESS_BITS - len(address)),
            self.arlen.eq(length),
            self.arsize.eq(ADDRESS_BITS - len(address)),
            self.arburst.eq(INCREMENTING),
        ]
        with m.If(self.arready):
            m.d.sync += self.arvalid.eq(0)
        for splitter, number in ((program, PROGRAM_ID), (data, DATA_ID)):
            with m.If(splitter.valid & splitter.ready):
                m.d.sync += [address.eq(splitter.address), length.eq(splitter.length - 1), identifier.eq(number)]
                m.d.sync += [self.arvalid.eq(~splitter.outside), refusing.eq(splitter.outside), left.eq(splitter.length)]
        m.d.sync += open_bursts.eq(open_bursts + (self.arvalid & self.arready) - (self.rvalid & self.rready & self.rlast))

        with m.If(refusing & self.beat_ready):
            m.d.sync += [left.eq(left - 1), refusing.eq(left != 1)]
        m.d.comb += [
            self.beat_data.eq(self.rdata),
            self.beat_error.eq(Cat(refusing | self.rresp[1], refusing)),
            self.beat_program.eq(Mux(refusing, identifier, self.rid) == PROGRAM_ID),
            self.beat_valid.eq(refusing | self.rvalid),
            self.rready.eq(self.beat_ready & ~refusing),
        ]
        return m


class MemoryWrite(Shared):
    """AXI4 write half: runs as bursts on the address channel, their beats in the same order, one answer a run.

    A burst's data follows its address; at most `OPEN_WRITE_BURSTS` bursts wait for their response. When all bursts of a run
    have been answered, `answer_valid` with `answer_error` (any of them failed) until `answer_ready`. Of a burst outside the window the data
    is taken and nothing sent.
    """

    block = "memory_write"

    def __init__(self, config: AcceleratorConfig):
        self.config = config
        data_bits = config.memory.axi_data_bits
        ports = run_ports(config, "run", In) | window_ports(In) | {
            "beat_data": In(data_bits), "beat_strobe": In(data_bits // 8), "beat_valid": In(1), "beat_ready": Out(1),
            "answer_error": Out(BEAT_ERROR_BITS), "answer_valid": Out(1), "answer_ready": In(1),
            "awid": Out(ID_BITS), "awaddr": Out(ADDRESS_BITS), "awlen": Out(8), "awsize": Out(3), "awburst": Out(2),
            "awvalid": Out(1), "awready": In(1),
            "wdata": Out(data_bits), "wstrb": Out(data_bits // 8), "wlast": Out(1), "wvalid": Out(1), "wready": In(1),
            "bid": In(ID_BITS), "bresp": In(2), "bvalid": In(1), "bready": Out(1),
        }  # fmt: skip
        super().__init__(ports, d=data_bits, n=run_beats_bits(config), b=config.memory.max_burst_beats)

    def body(self) -> Module:
        m = Module()
        m.submodules.splitter = splitter = BurstSplitter(self.config)
        m.submodules.lengths = lengths = Queue(width=9, depth=OPEN_WRITE_BURSTS)
        """Lengths less 1 (and whether nothing is to be sent) of bursts whose address is sent and whose data is not begun."""
        m.submodules.lasts = lasts = Queue(width=2, depth=OPEN_WRITE_BURSTS)
        """Of each burst without response, whether it is its run's last, and whether it was not sent."""

        address, length, outside = register(len(splitter.address), "address"), register(8, "length"), register(1, "outside")
        holds = Signal()
        free = ~holds | (lengths.w_ready & (outside | self.awready))
        m.d.comb += [
            splitter.run_address.eq(self.run_address),
            splitter.run_beats.eq(self.run_beats),
            splitter.run_valid.eq(self.run_valid),
            splitter.window_first.eq(self.window_first),
            splitter.window_last.eq(self.window_last),
            self.run_ready.eq(splitter.run_ready),
            splitter.ready.eq(free & lasts.w_ready),
            lasts.w_data.eq(Cat(splitter.last, splitter.outside)),
            lasts.w_valid.eq(splitter.valid & splitter.ready),
            lengths.w_data.eq(Cat(length, outside)),
            lengths.w_valid.eq(holds & free),
            self.awvalid.eq(holds & ~outside & lengths.w_ready),
            self.awaddr.eq(address << ADDRESS_BITS - len(address)),
            self.awlen.eq(length),
            self.awsize.eq(ADDRESS_BITS - len(address)),
            self.awburst.eq(INCREMENTING),
        ]
        with m.If(free):
            m.d.sync += holds.eq(lasts.w_valid)
            with m.If(lasts.w_valid):
                m.d.sync += [address.eq(splitter.address), length.eq(splitter.length - 1), outside.eq(splitter.outside)]

        sending, beats_after, dropping = Signal(), register(8, "beats_after"), register(1, "dropping")
        passes = Signal()
        m.d.comb += [
            self.wdata.eq(self.beat_data),
            self.wstrb.eq(self.beat_strobe),
            self.wvalid.eq(sending & ~dropping & self.beat_valid),
            self.wlast.eq(beats_after == 0),
            self.beat_ready.eq(sending & (dropping | self.wready)),
            passes.eq(self.beat_valid & self.beat_ready),
            lengths.r_ready.eq(~sending | (passes & self.wlast)),
        ]
        with m.If(passes):
            m.d.sync += [beats_after.eq(beats_after - 1), sending.eq(~self.wlast)]
        with m.If(lengths.r_valid & lengths.r_ready):
            m.d.sync += [Cat(beats_after, dropping).eq(lengths.r_data), sending.eq(1)]

        failed = Signal()
        last, unsent = lasts.r_data[0], lasts.r_data[1] & lasts.r_valid
        responded = self.bvalid | unsent
        m.d.comb += [
            self.answer_error.eq(Cat(failed | self.bresp[1] | unsent, unsent)),
            self.answer_valid.eq(responded & last),
            self.bready.eq(~unsent & (~last | self.answer_ready)),
            lasts.r_ready.eq(responded & (~last | self.answer_ready)),
        ]
        with m.If(lasts.r_ready):
            m.d.sync += failed.eq(self.answer_error[0] & ~last)
        return m


class AxiLite(Shared):
    """AXI4-Lite slave: passes one access at a time to the register file in the core domain and waits for its answer.

    `access` is write, address[12], data[32], strobe[4] from bit 0 up; `answer` is data[32], error.
    A read goes before a write that arrives with it. An access takes at least 4 cycles and the way through the FIFOs; those to the registers of
    the windows, which are kept here, 3 cycles. After reset the windows are the whole address space.
    """

    block = "axi_lite"

    def __init__(self) -> None:
        ports = {
            "awaddr": In(LITE_ADDRESS_BITS), "awvalid": In(1), "awready": Out(1),
            "wdata": In(32), "wstrb": In(4), "wvalid": In(1), "wready": Out(1),
            "bresp": Out(2), "bvalid": Out(1), "bready": In(1),
            "araddr": In(LITE_ADDRESS_BITS), "arvalid": In(1), "arready": Out(1),
            "rdata": Out(32), "rresp": Out(2), "rvalid": Out(1), "rready": In(1),
            "access": Out(ACCESS_BITS), "access_valid": Out(1), "access_ready": In(1),
            "answer": In(ANSWER_BITS), "answer_valid": In(1), "answer_ready": Out(1),
        }  # fmt: skip
        ports |= {f"{kind}_{name}": member for kind in ("read", "write") for name, member in window_ports(Out).items()}
        super().__init__(ports)

    def body(self) -> Module:
        m = Module()
        write, address, data, strobe = Signal(), register(LITE_ADDRESS_BITS, "address"), register(32, "data"), register(4, "strobe")
        error = register(1, "error")
        m.d.comb += [
            self.access.eq(Cat(write, address, data, strobe)),
            self.rdata.eq(data),
            self.rresp.eq(Mux(error, SLAVE_ERROR, 0)),
            self.bresp.eq(Mux(error, SLAVE_ERROR, 0)),
        ]
        with m.FSM():
            with m.State("IDLE"):
                with m.If(self.arvalid):
                    m.d.comb += self.arready.eq(1)
                    m.d.sync += [write.eq(0), address.eq(self.araddr)]
                    m.next = "CHOOSE"
                with m.Elif(self.awvalid & self.wvalid):
                    m.d.comb += [self.awready.eq(1), self.wready.eq(1)]
                    m.d.sync += [write.eq(1), address.eq(self.awaddr), data.eq(self.wdata), strobe.eq(self.wstrb)]
                    m.next = "CHOOSE"
            with m.State("CHOOSE"):
                m.next = "ACCESS"
                with m.Switch(address):
                    for byte_address, (stored, given, read) in self._window_registers(data).items():
                        with m.Case(byte_address):
                            m.next = "RESPOND"
                            m.d.sync += error.eq(write & ~strobe.all())
                            with m.If(~write):
                                m.d.sync += data.eq(read)
                            with m.Elif(strobe.all()):
                                m.d.sync += stored.eq(given)
            with m.State("ACCESS"):
                m.d.comb += self.access_valid.eq(1)
                with m.If(self.access_ready):
                    m.next = "ANSWER"
            with m.State("ANSWER"):
                m.d.comb += self.answer_ready.eq(1)
                with m.If(self.answer_valid):
                    m.d.sync += Cat(data, error).eq(self.answer)
                    m.next = "RESPOND"
            with m.State("RESPOND"):
                m.d.comb += [self.rvalid.eq(~write), self.bvalid.eq(write)]
                with m.If(Mux(write, self.bready, self.rready)):
                    m.next = "IDLE"
        return m

    def _window_registers(self, data: Signal) -> dict[int, tuple[Value, Value, Value]]:
        """(what is stored, its value if `data` is written, what is read) by byte address. Bits within a unit read as 0 in a first, 1 in a last address."""
        low_bits = 32 - WINDOW_UNIT_BITS
        found = {}
        for kind in ("read", "write"):
            for end, within in (("first", 0), ("last", -1)):
                stored = getattr(self, f"{kind}_window_{end}")
                address = Register[f"{kind.upper()}_WINDOW_{end.upper()}_LOW"]
                found[int(address)] = (stored[:low_bits], data[WINDOW_UNIT_BITS:], Cat(C(within, WINDOW_UNIT_BITS), stored[:low_bits]))
                found[int(address) + 4] = (stored[low_bits:], data[: WINDOW_BITS - low_bits], stored[low_bits:])
        return found
