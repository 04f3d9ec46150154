"""The memory clock domain: the AXI4 master's read and write halves, and the AXI4-Lite slave.

The core asks for *runs*: a first beat and a number of beats. Here a run becomes INCR bursts that end at multiples of
`max_burst_beats` (of 4 KiB, if that is less), so that no burst crosses 4 KiB and long runs stay aligned with DRAM bursts.
"""

from amaranth.hdl import Cat, Module, Mux, Signal
from amaranth.lib.wiring import In, Out

from hw.config import AcceleratorConfig
from hw.isa import INSTRUCTION_BYTES
from hw.queue import Queue
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


def run_ports(config: AcceleratorConfig, name: str, flow, beats_bits: int | None = None) -> dict:
    """Ports of a stream of runs that leaves (Out) or enters (In) a block; `beats_bits` if they are short."""
    back = In if flow == Out else Out
    return {
        f"{name}_address": flow(beat_address_bits(config)),
        f"{name}_beats": flow(beats_bits or run_beats_bits(config)),
        f"{name}_valid": flow(1),
        f"{name}_ready": back(1),
    }


class BurstSplitter(Shared):
    """Splits runs into bursts: `length` beats from `address`, `last` of its run. Accepts a run as its predecessor's last burst is taken: one burst a cycle."""

    block = "burst_splitter"

    def __init__(self, config: AcceleratorConfig):
        self.boundary_beats = min(config.memory.max_burst_beats, PAGE_BYTES // config.axi_bytes)
        ports = run_ports(config, "run", In) | {
            "address": Out(beat_address_bits(config)), "length": Out(9), "last": Out(1), "valid": Out(1), "ready": In(1),
        }  # fmt: skip
        super().__init__(ports, a=beat_address_bits(config), n=run_beats_bits(config), b=self.boundary_beats)

    def body(self) -> Module:
        m = Module()
        address, left = output_register(m, self.address), register(len(self.run_beats), "left")
        to_boundary = Signal(9)
        m.d.comb += [
            to_boundary.eq(self.boundary_beats - (address & (self.boundary_beats - 1))),
            self.last.eq(left <= to_boundary),
            self.length.eq(Mux(self.last, left, to_boundary)),
            self.run_ready.eq(~self.valid | (self.last & self.ready)),
        ]
        with m.If(self.valid & self.ready):
            m.d.sync += [address.eq(address + self.length), left.eq(left - self.length), self.valid.eq(~self.last)]
        with m.If(self.run_valid & self.run_ready):
            m.d.sync += [address.eq(self.run_address), left.eq(self.run_beats), self.valid.eq(1)]
        return m


class MemoryRead(Shared):
    """AXI4 read half. Bursts of program and data runs share the address channel, program first; each beat returned carries which it is.

    A burst is on the address channel 2 cycles after its run was accepted. Beats pass to `beat_*` without delay; the core
    accepts every beat it asked for without waiting for anything else, so a beat of one kind never blocks the other for good.
    """

    block = "memory_read"

    def __init__(self, config: AcceleratorConfig):
        self.config = config
        data_bits = config.memory.axi_data_bits
        ports = (
            run_ports(config, "program", In, program_beats_bits(config))
            | run_ports(config, "data", In)
            | {
                "beat_data": Out(data_bits), "beat_error": Out(1), "beat_program": Out(1), "beat_valid": Out(1), "beat_ready": In(1),
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
                getattr(self, f"{name}_ready").eq(splitter.run_ready),
            ]

        address, length, identifier = register(len(data.address), "address"), register(8, "length"), register(1, "identifier")
        free = ~self.arvalid | self.arready
        m.d.comb += [
            program.ready.eq(free),
            data.ready.eq(free & ~program.valid),
            self.arid.eq(identifier),
            self.araddr.eq(address << ADDRESS_BITS - len(address)),
            self.arlen.eq(length),
            self.arsize.eq(ADDRESS_BITS - len(address)),
            self.arburst.eq(INCREMENTING),
        ]
        with m.If(free):
            m.d.sync += self.arvalid.eq(program.valid | data.valid)
            with m.If(program.valid):
                m.d.sync += [address.eq(program.address), length.eq(program.length - 1), identifier.eq(PROGRAM_ID)]
            with m.Elif(data.valid):
                m.d.sync += [address.eq(data.address), length.eq(data.length - 1), identifier.eq(DATA_ID)]

        m.d.comb += [
            self.beat_data.eq(self.rdata),
            self.beat_error.eq(self.rresp[1]),
            self.beat_program.eq(self.rid == PROGRAM_ID),
            self.beat_valid.eq(self.rvalid),
            self.rready.eq(self.beat_ready),
        ]
        return m


class MemoryWrite(Shared):
    """AXI4 write half: runs as bursts on the address channel, their beats in the same order, one answer a run.

    A burst's data follows its address; at most `OPEN_WRITE_BURSTS` bursts wait for their response. When all bursts of a run
    have been answered, `answer_valid` with `answer_error` (any of them failed) until `answer_ready`.
    """

    block = "memory_write"

    def __init__(self, config: AcceleratorConfig):
        self.config = config
        data_bits = config.memory.axi_data_bits
        ports = run_ports(config, "run", In) | {
            "beat_data": In(data_bits), "beat_strobe": In(data_bits // 8), "beat_valid": In(1), "beat_ready": Out(1),
            "answer_error": Out(1), "answer_valid": Out(1), "answer_ready": In(1),
            "awid": Out(ID_BITS), "awaddr": Out(ADDRESS_BITS), "awlen": Out(8), "awsize": Out(3), "awburst": Out(2),
            "awvalid": Out(1), "awready": In(1),
            "wdata": Out(data_bits), "wstrb": Out(data_bits // 8), "wlast": Out(1), "wvalid": Out(1), "wready": In(1),
            "bid": In(ID_BITS), "bresp": In(2), "bvalid": In(1), "bready": Out(1),
        }  # fmt: skip
        super().__init__(ports, d=data_bits, n=run_beats_bits(config), b=config.memory.max_burst_beats)

    def body(self) -> Module:
        m = Module()
        m.submodules.splitter = splitter = BurstSplitter(self.config)
        m.submodules.lengths = lengths = Queue(width=8, depth=OPEN_WRITE_BURSTS)
        """Lengths of bursts whose address is sent and whose data is not begun: never more than `lasts` holds, so it needs no check."""
        m.submodules.lasts = lasts = Queue(width=1, depth=OPEN_WRITE_BURSTS)
        """Of each burst without response, whether it is its run's last."""

        address, length = register(len(splitter.address), "address"), register(8, "length")
        free = ~self.awvalid | self.awready
        m.d.comb += [
            splitter.run_address.eq(self.run_address),
            splitter.run_beats.eq(self.run_beats),
            splitter.run_valid.eq(self.run_valid),
            self.run_ready.eq(splitter.run_ready),
            splitter.ready.eq(free & lasts.w_ready),
            lasts.w_data.eq(splitter.last),
            lasts.w_valid.eq(splitter.valid & splitter.ready),
            lengths.w_data.eq(length),
            lengths.w_valid.eq(self.awvalid & self.awready),
            self.awaddr.eq(address << ADDRESS_BITS - len(address)),
            self.awlen.eq(length),
            self.awsize.eq(ADDRESS_BITS - len(address)),
            self.awburst.eq(INCREMENTING),
        ]
        with m.If(free):
            m.d.sync += self.awvalid.eq(lasts.w_valid)
            with m.If(lasts.w_valid):
                m.d.sync += [address.eq(splitter.address), length.eq(splitter.length - 1)]

        sending, beats_after = Signal(), register(8, "beats_after")
        m.d.comb += [
            self.wdata.eq(self.beat_data),
            self.wstrb.eq(self.beat_strobe),
            self.wvalid.eq(sending & self.beat_valid),
            self.wlast.eq(beats_after == 0),
            self.beat_ready.eq(sending & self.wready),
            lengths.r_ready.eq(~sending | (self.wvalid & self.wready & self.wlast)),
        ]
        with m.If(self.wvalid & self.wready):
            m.d.sync += [beats_after.eq(beats_after - 1), sending.eq(~self.wlast)]
        with m.If(lengths.r_valid & lengths.r_ready):
            m.d.sync += [beats_after.eq(lengths.r_data), sending.eq(1)]

        failed = Signal()
        m.d.comb += [
            self.answer_error.eq(failed | self.bresp[1]),
            self.answer_valid.eq(self.bvalid & lasts.r_data),
            self.bready.eq(~lasts.r_data | self.answer_ready),
            lasts.r_ready.eq(self.bvalid & self.bready),
        ]
        with m.If(lasts.r_ready):
            m.d.sync += failed.eq(self.answer_error & ~lasts.r_data)
        return m


class AxiLite(Shared):
    """AXI4-Lite slave: passes one access at a time to the register file in the core domain and waits for its answer.

    `access` is write, address[12], data[32], strobe[4] from bit 0 up; `answer` is data[32], error.
    A read goes before a write that arrives with it. An access takes at least 4 cycles and the way through the FIFOs.
    """

    block = "axi_lite"

    def __init__(self):
        ports = {
            "awaddr": In(LITE_ADDRESS_BITS), "awvalid": In(1), "awready": Out(1),
            "wdata": In(32), "wstrb": In(4), "wvalid": In(1), "wready": Out(1),
            "bresp": Out(2), "bvalid": Out(1), "bready": In(1),
            "araddr": In(LITE_ADDRESS_BITS), "arvalid": In(1), "arready": Out(1),
            "rdata": Out(32), "rresp": Out(2), "rvalid": Out(1), "rready": In(1),
            "access": Out(ACCESS_BITS), "access_valid": Out(1), "access_ready": In(1),
            "answer": In(ANSWER_BITS), "answer_valid": In(1), "answer_ready": Out(1),
        }  # fmt: skip
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
                    m.next = "ACCESS"
                with m.Elif(self.awvalid & self.wvalid):
                    m.d.comb += [self.awready.eq(1), self.wready.eq(1)]
                    m.d.sync += [write.eq(1), address.eq(self.awaddr), data.eq(self.wdata), strobe.eq(self.wstrb)]
                    m.next = "ACCESS"
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
