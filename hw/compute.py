"""The compute engine: takes CONFIGURE, COMPUTE and SYNC, issues reduction steps and drains the sums.

Issue and drain each decide once a cycle, in the same frame of time: what is decided in a cycle reaches the accumulators equally many
cycles later on both ways. So a bank of accumulators may be drained from the cycle after its last step on, and be used again from the cycle
after its last sum left, and the depth of the pipeline matters to neither.
"""

from dataclasses import asdict

from amaranth.hdl import Cat, Module, Mux, Signal, Value
from amaranth.lib.wiring import In, Out

from hw.decode import INSTRUCTION_BITS, fields
from hw.drain import Drain
from hw.isa import Opcode
from hw.issue import Issue, Sizes
from hw.pe_row import drain_latency, index_bits
from hw.post import LATENCY as POST_LATENCY
from hw.shared import Shared, register

MAX_IN_FLIGHT = 4
"""Instructions accepted and not yet done, at most."""


class Compute(Shared):
    """Executes CONFIGURE, COMPUTE and SYNC in order (docs/accelerator.md says what COMPUTE does).

    An instruction is taken where `instr_valid` and `instr_ready`; `done` pulses once for each, in order. A COMPUTE is taken while the one
    before it makes its last step, and drains while the next one issues: there is no idle cycle between them. CONFIGURE and SYNC wait until
    all is done. `soon` says that the next COMPUTE can be taken now or within a few steps; `idle` that nothing is in flight.

    * A step: in a cycle with `act_en` (one bit a working row) the activation banks are read at `act_addr`, with `weight_en` the weight banks
      at `weight_addr`, and `mac_*` tell the rows what to do with the words (see `hw.pe_row`).
    * Draining: `drain_*` tell the rows what leaves. With `param_en` the parameter banks are read, so that a word is there with the rows'
      `sums_en`. `out_addr` and `out_section` (which part of a word, if a pass makes less than one) are those of a word that leaves the
      requantizers in this cycle.
      Where rows keep words (`depthwise_taps`) each word is a step, and the weights are read one cycle later.
    * Events: `step`, `dot_products` (a step that accumulates) and `drain_step` (and of how many rows), `stall_drain` (a step that waited for the drain).
    """

    block = "compute"

    def __init__(self, sizes: Sizes):
        self.sizes = sizes
        index, row_count = index_bits(sizes.acc_depth), sizes.rows.bit_length()
        ports = {
            "instr_payload": In(INSTRUCTION_BITS), "instr_valid": In(1), "instr_ready": Out(1), "soon": Out(1), "done": Out(1), "idle": Out(1),
            "act_en": Out(sizes.rows), "act_addr": Out(sizes.act_addr_bits), "weight_en": Out(1), "weight_addr": Out(sizes.weight_addr_bits),
            "mac_first": Out(1), "maximum": Out(1), "mac_bank": Out(1), "mac_index": Out(index),
            "drain_en": Out(sizes.rows), "drain_bank": Out(1), "drain_index": Out(index), "drain_group": Out(index_bits(sizes.groups)),
            "param_en": Out(1), "param_addr": Out(sizes.param_addr_bits),
            "out_addr": Out(sizes.out_addr_bits), "out_section": Out(index_bits(sizes.sections)),
            "zero_point": Out(sizes.activation_bits), "clip_low": Out(sizes.activation_bits), "clip_high": Out(sizes.activation_bits),
            "step": Out(1), "dot_products": Out(1), "step_row_count": Out(row_count), "drain_step": Out(1), "drain_row_count": Out(row_count),
            "stall_drain": Out(1),
        }  # fmt: skip
        short = dict(zip(("r", "c", "l", "d", "m", "q", "a", "aa", "wa", "pa", "oa", "t"), asdict(sizes).values(), strict=True))
        if sizes.depthwise_taps:
            ports |= {"mac_last": Out(1), "taps": Out(4), "section": Out(index_bits(sizes.sections))}
        else:
            del short["t"]
        super().__init__(ports, **short)

    def body(self) -> Module:
        m = Module()
        sizes = self.sizes
        m.submodules.issue = issue = Issue(sizes)
        m.submodules.drain = drain = Drain(sizes)
        config = register(sizes.configuration, "config")
        drained = self._accept(m, issue, config)
        m.d.comb += [
            issue.config.eq(config), issue.bank_free.eq(drain.bank_free), issue.may_close.eq(drain.may_close),
            drain.block_issued.eq(issue.block_issued), drain.block.eq(issue.block), drain.output_group_stride.eq(config.output_group_stride),
            *(getattr(self, name).eq(config[name]) for name in ("zero_point", "clip_low", "clip_high", "maximum")),
        ]  # fmt: skip

        # Decisions leave through registers.
        def announced(port: Signal, value: Value, enable: Value | None = None) -> None:
            held = register(len(port), f"{port.name}_held") if enable is not None else Signal(len(port), name=f"{port.name}_held")
            with m.If(1 if enable is None else enable):
                m.d.sync += held.eq(value)
            m.d.comb += port.eq(held)

        announced(self.act_en, Mux(issue.step, issue.step_rows, 0))
        reads_weight, weight_addr = issue.step & issue.step_loads_weight, issue.step_weight_addr
        if sizes.depthwise_taps:
            reads_weight, weight_addr = self._delayed(m, "reads_weight", reads_weight, 1)[1], self._carried(m, "weight", weight_addr, [reads_weight])
            announced(self.mac_last, issue.step_last, issue.step)
            announced(self.section, issue.step_section, issue.step)
            m.d.comb += self.taps.eq(config.taps)
        announced(self.weight_en, reads_weight)
        announced(self.weight_addr, weight_addr, reads_weight)
        announced(self.drain_en, Mux(drain.step, drain.step_rows, 0))
        announced(self.step, issue.step)
        announced(self.dot_products, issue.step & issue.step_last)
        announced(self.drain_step, drain.step)
        announced(self.stall_drain, issue.waiting)
        for port, value in (
            (self.act_addr, issue.step_act_addr), (self.mac_first, issue.step_first), (self.mac_bank, issue.step_bank),
            (self.mac_index, issue.step_index), (self.step_row_count, issue.step_row_count),
        ):  # fmt: skip
            announced(port, value, issue.step)
        for port, value in (
            (self.drain_bank, drain.step_bank), (self.drain_index, drain.step_index), (self.drain_group, drain.step_group),
            (self.drain_row_count, drain.step_row_count),
        ):  # fmt: skip
            announced(port, value, drain.step)

        # Parameters and output addresses are delayed to meet the sums and the words; "ends" one cycle more, when the word can be read.
        param_delay = drain_latency(sizes.multiplier_stages, sizes.depthwise_taps)
        out_delay = param_delay + 1 + POST_LATENCY
        steps = self._delayed(m, "step", drain.step, out_delay)
        ends = self._delayed(m, "ends", drain.ends_instruction, out_delay + 1)
        params = self._carried(m, "param", drain.step_param_addr, steps[:param_delay])
        outs = self._carried(m, "out", Cat(drain.step_out_addr, drain.step_section), steps[:out_delay])
        m.d.comb += [
            self.param_en.eq(steps[param_delay]), self.param_addr.eq(params),
            Cat(self.out_addr, self.out_section).eq(outs), drained.eq(ends[-1]),
        ]  # fmt: skip
        return m

    def _accept(self, m: Module, issue: Issue, config: Value) -> Signal:
        """Take instructions and count those in flight. Returns the signal that a COMPUTE is done."""
        given = fields(self.instr_payload, Opcode.CONFIGURE)
        is_compute = given.opcode == Opcode.COMPUTE
        in_flight, accept, at_once, drained = Signal(range(MAX_IN_FLIGHT + 1)), Signal(), Signal(), Signal()
        m.d.comb += [
            self.instr_ready.eq(Mux(is_compute, issue.free & (in_flight != MAX_IN_FLIGHT), in_flight == 0)),
            accept.eq(self.instr_valid & self.instr_ready),
            issue.instr_payload.eq(self.instr_payload),
            issue.start.eq(accept & is_compute),
            self.soon.eq(issue.soon),
            self.done.eq(drained | at_once),
            self.idle.eq(in_flight == 0),
        ]
        m.d.sync += [in_flight.eq(in_flight + accept - self.done), at_once.eq(accept & ~is_compute)]
        with m.If(accept & (given.opcode == Opcode.CONFIGURE)):
            m.d.sync += [config[name].eq(getattr(given, name)) for name in self.sizes.configuration.members]
        return drained

    @staticmethod
    def _delayed(m: Module, name: str, value: Value, cycles: int) -> list[Value]:
        """`value`, and `value` 1, 2, ... `cycles` cycles ago."""
        chain = [value, *(Signal(name=f"{name}_{i}") for i in range(1, cycles + 1))]
        m.d.sync += Cat(chain[1:]).eq(Cat(chain[:-1]))
        return chain

    @staticmethod
    def _carried(m: Module, name: str, value: Value, enables: list[Value]) -> Value:
        """`value` behind as many registers as there are `enables`, one for each."""
        for i, enable in enumerate(enables):
            held = register(len(value), f"{name}_{i}")
            with m.If(enable):
                m.d.sync += held.eq(value)
            value = held
        return value
