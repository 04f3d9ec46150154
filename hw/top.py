"""The accelerator: the block diagram of `docs/accelerator.md`, instances and connections only."""

from functools import partial

from amaranth.hdl import Cat, ClockDomain, DomainRenamer, Module, Mux, Signal
from amaranth.lib import wiring
from amaranth.lib.wiring import In, Out

from hw.config import AcceleratorConfig
from hw.crossing import Synchronizer, TwoClockFifo
from hw.datapath import Datapath, event_bits
from hw.load import Load
from hw.memory_side import ADDRESS_BITS, BEAT_ERROR_BITS, ID_BITS, LITE_ADDRESS_BITS, AxiLite, MemoryRead, MemoryWrite
from hw.register_file import RegisterFile
from hw.registers import EVENTS
from hw.sequencer import Sequencer
from hw.store import Store

STREAM_FIFO, FIFO = 8, 4
"""Words of the two-clock FIFOs: 8 pass a word a clock. The one for read data is as deep as the configuration says."""


def ports(config: AcceleratorConfig) -> dict:
    """The accelerator's ports. AXI4, AXI4-Lite and `irq` belong to `mem_clk`, `op_req_*` to `core_clk`; `op_ack` may come from any clock."""
    data_bits = config.memory.axi_data_bits
    address = {"addr": ADDRESS_BITS, "len": 8, "size": 3, "burst": 2}
    channels = {
        ("m_axi_ar", Out): {"id": ID_BITS, **address},
        ("m_axi_r", In): {"id": ID_BITS, "data": data_bits, "resp": 2, "last": 1},
        ("m_axi_aw", Out): {"id": ID_BITS, **address},
        ("m_axi_w", Out): {"data": data_bits, "strb": data_bits // 8, "last": 1},
        ("m_axi_b", In): {"id": ID_BITS, "resp": 2},
        ("s_axi_aw", In): {"addr": LITE_ADDRESS_BITS},
        ("s_axi_w", In): {"data": 32, "strb": 4},
        ("s_axi_b", Out): {"resp": 2},
        ("s_axi_ar", In): {"addr": LITE_ADDRESS_BITS},
        ("s_axi_r", Out): {"data": 32, "resp": 2},
    }
    members = {"core_clk": In(1), "core_rst": In(1), "mem_clk": In(1), "mem_rst": In(1)}
    for (channel, flow), fields in channels.items():
        members |= {f"{channel}{name}": flow(bits) for name, bits in fields.items()}
        members |= {f"{channel}valid": flow(1), f"{channel}ready": (In if flow == Out else Out)(1)}
    return members | {"irq": Out(1), "op_req_valid": Out(1), "op_req_index": Out(8), "op_ack": In(1)}


def all_event_bits(config: AcceleratorConfig) -> dict[str, int]:
    """Width of the increment of every event."""
    beat_bits = config.axi_bytes.bit_length()
    return dict.fromkeys(EVENTS, 1) | event_bits(config) | {"dram_read_bytes": beat_bits, "dram_write_bytes": beat_bits}


class Accelerator(wiring.Component):
    """One accelerator. The engines and the datapath have a reset of their own, with which the sequencer clears them after an error."""

    domains = ()  # the clocks and resets are ordinary ports
    has_reset = True

    def __init__(self, config: AcceleratorConfig):
        self.config = config
        super().__init__(ports(config))

    def elaborate(self, platform: object) -> Module:
        m = Module()
        config = self.config
        core, memory, engine = ClockDomain("core"), ClockDomain("mem"), ClockDomain("engine")
        core.clk, core.rst, memory.clk, memory.rst = self.core_clk, self.core_rst, self.mem_clk, self.mem_rst
        engine.clk = self.core_clk
        m.domains += [core, memory, engine]
        in_core, in_memory, in_engine = (DomainRenamer(domain) for domain in ("core", "mem", "engine"))

        # Core domain.
        sequencer, registers = Sequencer(config), RegisterFile(config, all_event_bits(config))
        load, datapath, store = Load(config), Datapath(config), Store(config)
        m.submodules.sequencer, m.submodules.registers = in_core(sequencer), in_core(registers)
        m.submodules.load, m.submodules.datapath, m.submodules.store = in_engine(load), in_engine(datapath), in_engine(store)
        m.d.comb += engine.rst.eq(self.core_rst | sequencer.engine_reset)

        # Memory domain.
        memory_read, memory_write, axi_lite = MemoryRead(config), MemoryWrite(config), AxiLite()
        m.submodules.memory_read, m.submodules.memory_write, m.submodules.axi_lite = (in_memory(x) for x in (memory_read, memory_write, axi_lite))
        _to_pins(m, self, "m_axi_", memory_read)
        _to_pins(m, self, "m_axi_", memory_write)
        _to_pins(m, self, "s_axi_", axi_lite)

        for block, kind in ((memory_read, "read"), (memory_write, "write")):
            m.d.comb += [getattr(block, f"window_{end}").eq(getattr(axi_lite, f"{kind}_window_{end}")) for end in ("first", "last")]

        # Between them.
        run, read_beat, write_beat = ("address", "beats"), ("data", "error", "program"), ("data", "strobe")
        to_memory, to_core = DomainRenamer({"write": "core", "read": "mem"}), DomainRenamer({"write": "mem", "read": "core"})
        cross = partial(_cross, m)
        cross("program_runs", to_memory, FIFO, _stream(sequencer, "run", run), _stream(memory_read, "program", run))
        cross("load_runs", to_memory, STREAM_FIFO, _stream(load, "run", run), _stream(memory_read, "data", run))
        cross("store_runs", to_memory, FIFO, _stream(store, "run", run), _stream(memory_write, "run", run))
        cross("store_beats", to_memory, STREAM_FIFO, _stream(store, "beat", write_beat), _stream(memory_write, "beat", write_beat))
        cross("store_answers", to_core, FIFO, _stream(memory_write, "answer", ("error",)), _stream(store, "answer", ("error",)))
        cross("register_accesses", to_core, FIFO, _stream(axi_lite, "access", ("",)), _stream(registers, "access", ("",)))
        cross("register_answers", to_memory, FIFO, _stream(registers, "answer", ("",)), _stream(axi_lite, "answer", ("",)))
        # Read beats come to the load engine and to the sequencer; each takes its own.
        beat = Signal(config.memory.axi_data_bits + BEAT_ERROR_BITS + 1)
        beat_valid, beat_ready = Signal(), Signal()
        cross("read_beats", to_core, config.memory.read_fifo_beats, _stream(memory_read, "beat", read_beat), ([beat], beat_valid, beat_ready))
        for taker in (load, sequencer):
            fields, valid, _ready = _stream(taker, "beat", read_beat)
            m.d.comb += [Cat(fields).eq(beat), valid.eq(beat_valid)]
        m.d.comb += beat_ready.eq(load.beat_ready | sequencer.beat_ready)
        m.submodules.irq_synchronizer = in_memory(interrupt := Synchronizer())
        m.submodules.op_ack_synchronizer = in_core(op_ack := Synchronizer())

        # Instructions, and what becomes of them.
        for name, block in (("load", load), ("compute", datapath), ("store", store)):
            m.d.comb += [
                block.instr_payload.eq(sequencer.instr_payload),
                block.instr_valid.eq(getattr(sequencer, f"{name}_valid")),
                getattr(sequencer, f"{name}_ready").eq(block.instr_ready),
                getattr(sequencer, f"{name}_done").eq(block.done),
            ]
        for name, block in (("load", load), ("store", store)):
            m.d.comb += block.stop.eq(sequencer.stop)
            m.d.comb += [getattr(sequencer, f"{name}_{report}").eq(getattr(block, report)) for report in ("drained", "misaligned", "failed", "outside")]
        m.d.comb += [
            interrupt.level.eq(registers.interrupt), self.irq.eq(interrupt.synchronized),
            op_ack.level.eq(self.op_ack), sequencer.op_ack.eq(op_ack.synchronized),
            self.op_req_valid.eq(sequencer.op_req_valid), self.op_req_index.eq(sequencer.op_req_index),
        ]  # fmt: skip

        # Banks.
        writes = ("act_write_a", "act_write_addr_a", "act_write_b", "act_write_addr_b", "act_write_data", "weight_write", "weight_write_addr",
                  "weight_write_data", "param_write", "param_write_addr", "param_write_data")  # fmt: skip
        m.d.comb += [getattr(datapath, name).eq(getattr(load, name)) for name in writes]
        # The output banks are read by the store engine, and by the load engine where that leaves room.
        load_reads = load.out_read_en & store.out_read_free
        m.d.comb += [
            datapath.out_read_en.eq(store.out_read_en | load_reads), load.out_read_ready.eq(store.out_read_free),
            datapath.out_read_bank.eq(Mux(load_reads, load.out_read_bank, store.out_read_bank)),
            datapath.out_read_addr.eq(Mux(load_reads, load.out_read_addr, store.out_read_addr)),
            store.out_read_data.eq(datapath.out_read_data), load.out_read_data.eq(datapath.out_read_data),
        ]  # fmt: skip

        # Control and events.
        m.d.comb += [getattr(sequencer, name).eq(getattr(registers, name)) for name in ("start", "soft_reset", "program_address", "program_bytes")]
        m.d.comb += [getattr(registers, name).eq(getattr(sequencer, name)) for name in ("busy", "finished", "failed", "cause", "error_address")]
        m.d.comb += sequencer.compute_soon.eq(datapath.soon)
        m.d.comb += sequencer.compute_issuing.eq(datapath.ev_compute_busy | datapath.ev_stall_drain)
        m.d.comb += [getattr(registers, f"ev_{name}").eq(getattr(datapath, f"ev_{name}")) for name in event_bits(config)]
        m.d.comb += [getattr(registers, name).eq(getattr(sequencer, name)) for name in sequencer.signature.members if name.startswith("ev_")]
        m.d.comb += [
            registers.ev_core_cycles.eq(sequencer.running),
            registers.ev_load_busy.eq(load.busy),
            registers.ev_store_busy.eq(store.busy),
            registers.ev_dram_read_bytes.eq((beat_valid & beat_ready) << config.axi_bytes.bit_length() - 1),
            registers.ev_dram_write_bytes.eq((store.beat_valid & store.beat_ready) << config.axi_bytes.bit_length() - 1),
        ]
        return m


def _stream(block: wiring.Component, name: str, fields: tuple[str, ...]) -> tuple[list[Signal], Signal, Signal]:
    """The payload, valid and ready of one of a block's streams; its payload ports are `<name>_<field>`, or `<name>`."""
    return [getattr(block, f"{name}_{field}".rstrip("_")) for field in fields], getattr(block, f"{name}_valid"), getattr(block, f"{name}_ready")


def _to_pins(m: Module, top: wiring.Component, prefix: str, block: wiring.Component) -> None:
    """Connect those of a block's ports that are pins without the prefix."""
    for name, member in block.signature.members.items():
        if prefix + name in top.signature.members:
            inner, pin = getattr(block, name), getattr(top, prefix + name)
            m.d.comb += pin.eq(inner) if member.flow == Out else inner.eq(pin)


def _cross(m: Module, name: str, direction: DomainRenamer, depth: int, source: tuple, target: tuple) -> None:
    """A two-clock FIFO called `name` from one stream to another; `direction` names its two clock domains."""
    (source_fields, source_valid, source_ready), (target_fields, target_valid, target_ready) = source, target
    fifo = TwoClockFifo(width=len(Cat(source_fields)), depth=depth)
    m.submodules[name] = direction(fifo)
    m.d.comb += [
        fifo.w_data.eq(Cat(source_fields)), fifo.w_valid.eq(source_valid), source_ready.eq(fifo.w_ready),
        Cat(target_fields).eq(fifo.r_data), target_valid.eq(fifo.r_valid), fifo.r_ready.eq(target_ready),
    ]  # fmt: skip
