"""Drain: takes the sums of finished blocks out of the accumulators, in order, with the addresses of parameters and outputs."""

from amaranth.hdl import Module, Mux, Signal
from amaranth.lib import wiring
from amaranth.lib.wiring import In, Out

from hw.issue import Sizes
from hw.pe_row import index_bits
from hw.shared import register


class Drain(wiring.Component):
    """Drains one block at a time while another may wait; `post_lanes` columns of every working row a cycle.

    A block comes with `block_issued`. From the cycle after its last sum has left its bank is free again; `may_close` says that one more block
    could wait. A block that does not drain (no `emit`) passes in one cycle and keeps its bank. `step_*` describe what leaves in this cycle.
    `ends_instruction` says that with this cycle an instruction's last output (if it has any) has left.
    """

    def __init__(self, sizes: Sizes):
        self.sizes = sizes
        super().__init__(
            {
                "block_issued": In(1), "block": In(sizes.block), "output_group_stride": In(sizes.out_addr_bits),
                "bank_free": Out(2), "may_close": Out(1), "ends_instruction": Out(1),
                "step": Out(1), "step_rows": Out(sizes.rows), "step_row_count": Out(sizes.rows.bit_length()), "step_bank": Out(1),
                "step_index": Out(index_bits(sizes.acc_depth)), "step_group": Out(index_bits(sizes.groups)),
                "step_param_addr": Out(sizes.param_addr_bits), "step_out_addr": Out(sizes.out_addr_bits), "step_section": Out(index_bits(sizes.sections)),
            }
        )  # fmt: skip

    def elaborate(self, platform: object) -> Module:
        m = Module()
        sizes = self.sizes
        current, waiting = register(sizes.block, "current"), register(sizes.block, "waiting")
        active, has_waiting, busy = Signal(), Signal(), Signal(2)
        index, group = register(len(self.step_index), "index"), register(len(self.step_group), "group")
        param = register(sizes.param_addr_bits, "param")
        word, pixel = register(sizes.out_addr_bits, "word"), register(sizes.out_addr_bits, "pixel")

        # The order is: the pixels of the block, their columns; a pixel's columns may fill more than one word.
        word_mask = sizes.groups // sizes.words_per_pass - 1  # both are powers of two
        group_last = group == sizes.groups - 1
        ends_block = ~current.drains | (group_last & (index == current.last_index))
        with m.If(active):
            m.d.sync += [group.eq(group + 1), param.eq(param + 1)]
            with m.If((group & word_mask) == word_mask):
                m.d.sync += word.eq(word + self.output_group_stride)
            with m.If(group_last):
                m.d.sync += [group.eq(0), index.eq(index + 1), param.eq(current.param_addr), pixel.eq(pixel + 1), word.eq(pixel + 1)]
        with m.If(active & ends_block & current.drains):
            m.d.sync += busy.bit_select(current.bank, 1).eq(0)
        with m.If(self.block_issued & self.block.drains):
            m.d.sync += busy.bit_select(self.block.bank, 1).eq(1)

        with m.If(~active | ends_block):
            entering = Mux(has_waiting, waiting.as_value(), self.block.as_value())
            m.d.sync += [active.eq(has_waiting | self.block_issued), current.eq(entering), has_waiting.eq(0)]
            start = sizes.block(entering)
            m.d.sync += [index.eq(0), group.eq(0), param.eq(start.param_addr), pixel.eq(start.out_addr), word.eq(start.out_addr)]
        with m.Elif(self.block_issued):
            m.d.sync += [has_waiting.eq(1), waiting.eq(self.block)]

        m.d.comb += [
            self.bank_free.eq(~busy), self.may_close.eq(~has_waiting), self.ends_instruction.eq(active & ends_block & current.ends_instruction),
            self.step.eq(active & current.drains), self.step_rows.eq(current.row_mask), self.step_row_count.eq(current.row_count),
            self.step_bank.eq(current.bank), self.step_index.eq(index), self.step_group.eq(group),
            self.step_param_addr.eq(param), self.step_out_addr.eq(word), self.step_section.eq(current.section),
        ]  # fmt: skip
        return m
