"""The datapath: the compute engine, the rows of processing elements with their requantizers, and all banks. Wiring only."""

from amaranth.hdl import Cat, Module, Mux
from amaranth.lib import wiring
from amaranth.lib.wiring import In, Out

from hw.compute import Compute
from hw.config import AcceleratorConfig
from hw.decode import INSTRUCTION_BITS
from hw.issue import Sizes
from hw.pe import select_one
from hw.pe_row import PeRow, one_hot
from hw.post import PARAMETER_BITS, Post
from hw.shared import register
from hw.sram import Sram, bank


def address_bits(words: int) -> int:
    """Bits of the address of one of `words` words."""
    return (words - 1).bit_length()


def weight_write_words(config: AcceleratorConfig) -> int:
    """Weight words written in one cycle at most: as many as a beat of the AXI port holds, up to one a column."""
    return max(1, min(config.axi_bytes // config.weight_word_bytes, config.array.cols))


def compute_sizes(config: AcceleratorConfig) -> Sizes:
    """The sizes of the compute engine of `config`."""
    array = config.array
    return Sizes(
        rows=array.rows, cols=array.cols, lanes=array.lanes, acc_depth=array.acc_depth, multiplier_stages=array.multiplier_stages,
        post_lanes=array.post_lanes, activation_bits=config.precision.activation_bits,
        act_addr_bits=address_bits(config.activation_words), weight_addr_bits=address_bits(config.weight_words),
        param_addr_bits=address_bits(config.parameter_bank_words), out_addr_bits=address_bits(config.output_words),
        depthwise_taps=array.depthwise_taps,
    )  # fmt: skip


def event_bits(config: AcceleratorConfig) -> dict[str, int]:
    """Width of the increment of each event (see `hw.registers.EVENTS`) that the datapath counts."""
    rows, cols, lanes, post_lanes = config.array.rows, config.array.cols, config.array.lanes, config.array.post_lanes
    most = {
        "compute_busy": 1, "stall_drain": 1, "multiplier_uses": rows * cols * lanes, "weight_reads": cols, "weight_writes": cols,
        "activation_reads": rows, "activation_writes": rows, "accumulator_accesses": rows * cols, "post_outputs": rows * post_lanes,
        "parameter_reads": post_lanes, "output_writes": rows, "output_reads": 1,
    }  # fmt: skip
    return {name: value.bit_length() for name, value in most.items()}


class Datapath(wiring.Component):
    """Everything between the bank write ports and the output banks' read port.

    * Instructions (CONFIGURE, COMPUTE, or SYNC for this engine) are taken in order where `instr_valid` and `instr_ready` (`soon`: see
      `hw.compute`); `done` pulses once for each, in order, when it is complete: its reads are over and its outputs can be read. At most
      `MAX_IN_FLIGHT` are in flight.
    * Activation banks: bit r of `act_write_a` writes `act_write_data` to row r's bank at `act_write_addr_a`, bit r of `act_write_b` at
      `act_write_addr_b`; a row must not be in both.
    * Weight banks: bit c of `weight_write` writes column c's bank; it takes word c mod `weight_write_words` of `weight_write_data`.
    * Parameter banks: bit j of `param_write` writes the bank of post lane j; `param_write_addr` is in bank words (channel / post_lanes).
    * Output banks: `out_read_data` is the word of bank `out_read_bank` from the cycle after `out_read_en` until the cycle after the next.
    * `ev_<event>`: how much each event's counter is to be increased in this cycle.
    """

    def __init__(self, config: AcceleratorConfig):
        self.config = config
        array = config.array
        param_word = address_bits(config.parameter_bank_words)
        ports = {
            "instr_payload": In(INSTRUCTION_BITS), "instr_valid": In(1), "instr_ready": Out(1), "soon": Out(1), "done": Out(1), "idle": Out(1),
            "act_write_a": In(array.rows), "act_write_addr_a": In(address_bits(config.activation_words)),
            "act_write_b": In(array.rows), "act_write_addr_b": In(address_bits(config.activation_words)),
            "act_write_data": In(config.activation_word_bits),
            "weight_write": In(array.cols), "weight_write_addr": In(address_bits(config.weight_words)),
            "weight_write_data": In(weight_write_words(config) * config.weight_word_bits),
            "param_write": In(array.post_lanes), "param_write_addr": In(param_word), "param_write_data": In(64),
            "out_read_en": In(1), "out_read_bank": In(4), "out_read_addr": In(address_bits(config.output_words)),
            "out_read_data": Out(config.activation_word_bits),
        }  # fmt: skip
        super().__init__(ports | {f"ev_{name}": Out(bits) for name, bits in event_bits(config).items()})

    def elaborate(self, platform: object) -> Module:
        m = Module()
        config, array, precision = self.config, self.config.array, self.config.precision
        m.submodules.compute = compute = Compute(compute_sizes(config))
        section_lanes = min(array.cols, array.lanes)

        def banks(name: str, count: int, words: int, bits: int) -> list[Sram]:
            made = [bank(config.buffers.kind, words=words, bits=bits) for _ in range(count)]
            for i, one in enumerate(made):
                m.submodules[f"{name}_bank_{i}"] = one
            return made

        activations = banks("activation", array.rows, config.activation_words, config.activation_word_bits)
        weights = banks("weight", array.cols, config.weight_words, config.weight_word_bits)
        params = banks("parameter", array.post_lanes, config.parameter_bank_words, PARAMETER_BITS)
        sections = compute.sizes.sections
        outputs = banks("output", array.rows * sections, config.output_words, section_lanes * precision.activation_bits)

        m.d.comb += [
            compute.instr_payload.eq(self.instr_payload), compute.instr_valid.eq(self.instr_valid),
            self.instr_ready.eq(compute.instr_ready), self.soon.eq(compute.soon), self.done.eq(compute.done), self.idle.eq(compute.idle),
        ]  # fmt: skip
        for col, one in enumerate(weights):
            word = col % weight_write_words(config)
            m.d.comb += [
                one.read_en.eq(compute.weight_en), one.read_addr.eq(compute.weight_addr),
                one.write_en.eq(self.weight_write[col]), one.write_addr.eq(self.weight_write_addr),
                one.write_data.eq(self.weight_write_data.word_select(word, config.weight_word_bits)),
            ]  # fmt: skip
        for lane, one in enumerate(params):
            m.d.comb += [
                one.read_en.eq(compute.param_en), one.read_addr.eq(compute.param_addr),
                one.write_en.eq(self.param_write[lane]), one.write_addr.eq(self.param_write_addr),
                one.write_data.eq(self.param_write_data[:PARAMETER_BITS]),
            ]  # fmt: skip

        out_read = []
        for row, activation in enumerate(activations):
            m.submodules[f"pe_row_{row}"] = pe_row = PeRow(
                cols=array.cols, lanes=array.lanes, activation_bits=precision.activation_bits, weight_bits=precision.weight_bits,
                acc_depth=array.acc_depth, acc_bits=array.acc_bits, multiplier_stages=array.multiplier_stages, post_lanes=array.post_lanes,
                depthwise_taps=array.depthwise_taps,
            )  # fmt: skip
            if array.depthwise_taps:
                m.d.comb += [pe_row.mac_last.eq(compute.mac_last), pe_row.taps.eq(compute.taps), pe_row.section.eq(compute.section)]
            m.submodules[f"post_{row}"] = post = Post(
                post_lanes=array.post_lanes, word_lanes=section_lanes, activation_bits=precision.activation_bits, acc_bits=array.acc_bits
            )
            write_a = self.act_write_a[row]
            m.d.comb += [
                activation.read_en.eq(compute.act_en[row]), activation.read_addr.eq(compute.act_addr),
                activation.write_en.eq(write_a | self.act_write_b[row]), activation.write_data.eq(self.act_write_data),
                activation.write_addr.eq(Mux(write_a, self.act_write_addr_a, self.act_write_addr_b)),
                pe_row.activation.eq(activation.read_data), pe_row.weights.eq(Cat(one.read_data for one in weights)),
                pe_row.mac_en.eq(compute.act_en[row]), pe_row.weight_en.eq(compute.weight_en), pe_row.first.eq(compute.mac_first),
                pe_row.maximum.eq(compute.maximum), pe_row.mac_bank.eq(compute.mac_bank), pe_row.mac_index.eq(compute.mac_index),
                pe_row.drain_en.eq(compute.drain_en[row]), pe_row.drain_bank.eq(compute.drain_bank),
                pe_row.drain_index.eq(compute.drain_index), pe_row.drain_group.eq(compute.drain_group),
                post.start.eq(pe_row.sums_en), post.sums.eq(pe_row.sums), post.param_data.eq(Cat(one.read_data for one in params)),
                post.zero_point.eq(compute.zero_point), post.clip_low.eq(compute.clip_low), post.clip_high.eq(compute.clip_high),
            ]  # fmt: skip
            parts = outputs[row * sections : (row + 1) * sections]
            for section, one in enumerate(parts):
                m.d.comb += [
                    one.write_en.eq(post.word_valid & (compute.out_section == section if sections > 1 else 1)),
                    one.write_addr.eq(compute.out_addr), one.write_data.eq(post.word),
                    one.read_en.eq(self.out_read_en & (self.out_read_bank == row)), one.read_addr.eq(self.out_read_addr),
                ]  # fmt: skip
            out_read.append(Cat(one.read_data for one in parts))
        read_bank = register(array.rows, "read_bank")
        with m.If(self.out_read_en):
            m.d.sync += read_bank.eq(one_hot(self.out_read_bank, array.rows))
        m.d.comb += self.out_read_data.eq(select_one(read_bank, out_read))

        words_written = sum(one.write_en for one in outputs)
        events = {
            "compute_busy": compute.step,
            "stall_drain": compute.stall_drain,
            "multiplier_uses": Mux(compute.dot_products, compute.step_row_count, 0) * (array.cols * array.lanes),
            "weight_reads": compute.weight_en * array.cols,
            "weight_writes": sum(self.weight_write),
            "activation_reads": Mux(compute.step, compute.step_row_count, 0),
            "activation_writes": sum(self.act_write_a | self.act_write_b),
            "accumulator_accesses": Mux(compute.dot_products, compute.step_row_count, 0) * array.cols,
            "post_outputs": Mux(compute.drain_step, compute.drain_row_count, 0) * array.post_lanes,
            "parameter_reads": compute.param_en * array.post_lanes,
            "output_writes": words_written,
            "output_reads": self.out_read_en,
        }
        m.d.comb += [getattr(self, f"ev_{name}").eq(value) for name, value in events.items()]
        return m
