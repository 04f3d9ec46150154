"""Issue: the loop nest of COMPUTE, one reduction step a cycle, with the addresses of the activation and weight banks."""

from dataclasses import dataclass
from types import SimpleNamespace

from amaranth.hdl import Cat, Module, Mux, Signal, Value
from amaranth.lib import data, wiring
from amaranth.lib.wiring import In, Out

from hw.decode import INSTRUCTION_BITS, fields
from hw.isa import Opcode
from hw.pe_row import index_bits
from hw.shared import register


@dataclass(frozen=True, kw_only=True)
class Sizes:
    """What the compute engine must know of the array and the banks."""

    rows: int
    cols: int
    lanes: int
    acc_depth: int
    multiplier_stages: int
    post_lanes: int
    activation_bits: int
    act_addr_bits: int
    weight_addr_bits: int
    param_addr_bits: int
    out_addr_bits: int
    depthwise_taps: int = 0

    @property
    def groups(self) -> int:
        """Cycles in which the sums of one pixel leave a row."""
        return self.cols // self.post_lanes

    @property
    def sections(self) -> int:
        """Parts of an output word that are written apart: more than one where a pass makes less than a word."""
        return max(1, self.lanes // self.cols)

    @property
    def words_per_pass(self) -> int:
        """Output words that one pass makes of a pixel."""
        return max(1, self.cols // self.lanes)

    @property
    def block(self) -> data.StructLayout:
        """A block of pixels whose steps are all issued: what remains is to drain it."""
        return data.StructLayout(
            {
                "drains": 1, "ends_instruction": 1, "bank": 1, "last_index": index_bits(self.acc_depth),
                "row_mask": self.rows, "row_count": self.rows.bit_length(),
                "out_addr": self.out_addr_bits, "section": index_bits(self.sections), "param_addr": self.param_addr_bits,
            }
        )  # fmt: skip

    @property
    def configuration(self) -> data.StructLayout:
        """What CONFIGURE sets, cut to the bits that matter here."""
        strides = dict.fromkeys(("act_x_stride", "act_y_stride", "act_r_stride", "act_s_stride", "act_c_stride"), self.act_addr_bits)
        outputs = dict.fromkeys(("zero_point", "clip_low", "clip_high"), self.activation_bits)
        reduction = {"maximum": 1} | ({"taps": 4} if self.depthwise_taps else {})
        return data.StructLayout({"kernel_h": 8, "kernel_w": 8} | strides | {"output_group_stride": self.out_addr_bits} | outputs | reduction)


class Loop:
    """A loop's counter, which knows whether this is the last iteration: one packed register."""

    def __init__(self, bits: int, name: str):
        self.state = register(bits + 1, name)
        self.left, self.last = self.state[:bits], self.state[bits]

    def started(self, count: Value) -> Value:
        """The state in the first of `count` iterations (at least 1)."""
        return Cat(count, count == 1)

    def advanced(self) -> Value:
        """The state in the next iteration."""
        return Cat((self.left - 1)[: len(self.left)], self.left == 2)


class _Taps:
    """The words of a dot product where rows keep words: all of them where a line or a step of the kernel begins, then only the new ones.

    `chunk_stride` is the way from one chunk of `taps` kernel columns to the next. From pixel to pixel as many words are new as
    `act_x_stride` is words of `act_s_stride`, if that is 1, 2 or 4 and less than `taps`; else all.
    """

    def __init__(self, m: Module, sizes: Sizes, config: Value):
        bits = sizes.act_addr_bits
        self._config, self._loop = config, Loop(4, "tap")
        self.offset, self.last = register(bits, "tap_offset"), self._loop.last
        self._taps = Mux(config.taps > 1, config.taps, 1)
        # What follows from the configuration, a cycle after it.
        self.chunk_stride, self._kept_offset = register(bits, "chunk_stride"), register(bits, "kept_offset")
        self._new = register(5, "new_words")
        chunk = (self._taps * config.act_s_stride)[:bits]
        new = Mux(config.taps > 1, config.taps, 1)
        for words in (4, 2, 1):
            matches = (config.act_x_stride == (config.act_s_stride * words)[:bits]) & (config.taps > words)
            new = Mux(matches, words, new)
        m.d.sync += [self.chunk_stride.eq(chunk), self._new.eq(self._loop.started(new[:4]))]
        m.d.sync += self._kept_offset.eq(Mux(new[:4] == self._taps, 0, chunk - config.act_x_stride))

    def start(self) -> list:
        """To the first word of a line."""
        return [self._loop.state.eq(self._loop.started(self._taps[:4])), self.offset.eq(0)]

    def advance(self, *, restart: Value) -> list:
        """To the next word; `restart` says that the pixel after this one shares no words with it."""
        following = Mux(restart, self._loop.started(self._taps[:4]), self._new)
        return [
            self._loop.state.eq(Mux(self.last, following, self._loop.advanced())),
            self.offset.eq(Mux(self.last, Mux(restart, 0, self._kept_offset), self.offset + self._config.act_s_stride)),
        ]


class Issue(wiring.Component):
    """Takes a COMPUTE (`instr_payload`) with `start`, where `free`, and makes one step of it in every cycle of the next ones. `soon` says
    that it is free or will be within a few pixels.

    `step_*` describe the step that is made in this cycle; where words are kept (`depthwise_taps`) a step is one word, and `step_last` says that
    it is the last of its dot product. A block's first step waits until its bank of accumulators is free and `may_close`
    says that the drain can take another block; `waiting` says so. `block_issued` gives `block` to the drain with its last step.
    """

    def __init__(self, sizes: Sizes):
        self.sizes = sizes
        super().__init__(
            {
                "instr_payload": In(INSTRUCTION_BITS), "start": In(1), "free": Out(1), "soon": Out(1), "config": In(sizes.configuration),
                "bank_free": In(2), "may_close": In(1), "waiting": Out(1),
                "step": Out(1), "step_rows": Out(sizes.rows), "step_row_count": Out(sizes.rows.bit_length()),
                "step_act_addr": Out(sizes.act_addr_bits), "step_weight_addr": Out(sizes.weight_addr_bits),
                "step_last": Out(1), "step_section": Out(index_bits(sizes.sections)), "step_loads_weight": Out(1),
                "step_first": Out(1), "step_bank": Out(1), "step_index": Out(index_bits(sizes.acc_depth)),
                "block_issued": Out(1), "block": Out(sizes.block),
            }
        )  # fmt: skip

    def elaborate(self, platform: object) -> Module:
        m = Module()
        sizes, config = self.sizes, self.config
        given = fields(self.instr_payload, Opcode.COMPUTE)
        widths = {
            "act_base": sizes.act_addr_bits, "tile_h": 10, "tile_w": 12, "c_groups": 14, "row_mask": sizes.rows, "accumulate": 1, "emit": 1
        }  # fmt: skip
        instr = SimpleNamespace(**{name: register(width, f"instr_{name}") for name, width in widths.items()})
        row_count = register(len(self.step_row_count), "row_count")

        # Pixels. `here` moves with every step; `block_start` is where it returns to for the next step of the kernel.
        x, y = Loop(12, "x"), Loop(10, "y")
        pixel, line = register(sizes.act_addr_bits, "pixel"), register(sizes.act_addr_bits, "line")
        here, index = Cat(x.state, y.state, pixel, line), register(len(self.step_index), "index")
        block_start, following = register(len(here), "block_start"), Signal(len(here))
        next_pixel, next_line = Signal.like(pixel), Signal.like(line)
        m.d.comb += [
            next_pixel.eq(pixel + config.act_x_stride),
            next_line.eq(line + config.act_y_stride),
            following.eq(Mux(x.last, Cat(x.started(instr.tile_w), y.advanced(), next_line, next_line), Cat(x.advanced(), y.state, next_pixel, line))),
        ]
        tile_last = x.last & y.last
        block_last = tile_last | (index == sizes.acc_depth - 1)

        # Steps of the kernel; the offsets are addresses relative to the pixel.
        r, s, c = Loop(8, "r"), Loop(8, "s"), Loop(14, "c")
        offset_r, offset_s, offset_c = (register(sizes.act_addr_bits, f"offset_{name}") for name in "rsc")
        first_step = register(1, "first_step")
        kernel_last = r.last & s.last & c.last

        taps = _Taps(m, sizes, config) if sizes.depthwise_taps else None
        word_last = taps.last if taps else 1
        step_s = taps.chunk_stride if taps else config.act_s_stride

        # Passes.
        passes = Loop(8, "passes")
        weight, pass_weight = register(sizes.weight_addr_bits, "weight"), register(sizes.weight_addr_bits, "pass_weight")
        out, pass_out = register(sizes.out_addr_bits, "out"), register(sizes.out_addr_bits, "pass_out")
        section, param = register(index_bits(sizes.sections), "section"), register(sizes.param_addr_bits, "param")

        active, go, step_done, bank = Signal(), Signal(), Signal(), Signal()
        starts_block = first_step & (index == 0)
        block_done, pass_done = Signal(), Signal()
        instruction_done = pass_done & passes.last
        m.d.comb += [
            go.eq(active & (~starts_block | (self.may_close & self.bank_free.bit_select(bank, 1)))),
            step_done.eq(go & word_last),
            block_done.eq(step_done & block_last & kernel_last),
            pass_done.eq(block_done & tile_last),
            self.free.eq(~active | instruction_done),
            self.soon.eq(~active | (passes.last & kernel_last & y.last & (x.left <= 7))),
            self.waiting.eq(active & ~go),
        ]

        with m.If(step_done):
            m.d.sync += [here.eq(following), index.eq(index + 1)]
        with m.If(step_done & block_last):
            m.d.sync += [index.eq(0), first_step.eq(0), weight.eq(weight + 1), c.state.eq(c.advanced()), offset_c.eq(offset_c + config.act_c_stride)]
            with m.If(~kernel_last):
                m.d.sync += here.eq(block_start)
            with m.If(c.last):
                next_s = (offset_s + step_s)[: len(offset_s)]
                m.d.sync += [c.state.eq(c.started(instr.c_groups)), s.state.eq(s.advanced()), offset_s.eq(next_s), offset_c.eq(next_s)]
            with m.If(c.last & s.last):
                next_r = (offset_r + config.act_r_stride)[: len(offset_r)]
                m.d.sync += [s.state.eq(s.started(config.kernel_w)), r.state.eq(r.advanced())]
                m.d.sync += [offset_r.eq(next_r), offset_s.eq(next_r), offset_c.eq(next_r)]
        with m.If(block_done):
            m.d.sync += [block_start.eq(following), weight.eq(pass_weight), out.eq(out + index + 1), bank.eq(bank ^ instr.emit)]
        with m.If(pass_done):
            m.d.sync += [passes.state.eq(passes.advanced()), weight.eq(weight + 1), pass_weight.eq(weight + 1), param.eq(param + sizes.groups)]
            next_out = Signal.like(pass_out)
            if sizes.sections == 1:
                m.d.comb += next_out.eq(pass_out + (config.output_group_stride << _log2(sizes.words_per_pass)))
            else:
                m.d.comb += next_out.eq(pass_out + Mux(section == sizes.sections - 1, config.output_group_stride, 0))
                m.d.sync += section.eq(section + 1)
            m.d.sync += [pass_out.eq(next_out), out.eq(next_out)]

        # What starts a block, a pass, an instruction.
        start_of_tile = Cat(x.started(instr.tile_w), y.started(instr.tile_h), instr.act_base, instr.act_base)
        with m.If(pass_done):
            m.d.sync += [here.eq(start_of_tile), block_start.eq(start_of_tile)]
        with m.If(instruction_done):
            m.d.sync += active.eq(0)
        with m.If(self.start):
            start_of_tile = Cat(x.started(given.tile_w), y.started(given.tile_h), *[given.act_base[: len(pixel)]] * 2)
            m.d.sync += [active.eq(1), here.eq(start_of_tile), block_start.eq(start_of_tile), index.eq(0), passes.state.eq(passes.started(given.passes))]
            m.d.sync += [target.eq(getattr(given, name)) for name, target in vars(instr).items()]
            m.d.sync += row_count.eq(sum(given.row_mask[: sizes.rows]))
            m.d.sync += [target.eq(given.weight_base) for target in (weight, pass_weight)] + [target.eq(given.output_base) for target in (out, pass_out)]
            m.d.sync += [param.eq(given.parameter_base >> _log2(sizes.post_lanes)), section.eq(given.channel_offset >> _log2(sizes.cols))]
        with m.If(block_done | self.start):
            groups = Mux(self.start, given.c_groups, instr.c_groups)
            m.d.sync += [first_step.eq(1), r.state.eq(r.started(config.kernel_h)), s.state.eq(s.started(config.kernel_w)), c.state.eq(c.started(groups))]
            m.d.sync += [offset.eq(0) for offset in (offset_r, offset_s, offset_c)]
        if taps:
            with m.If(go):
                m.d.sync += taps.advance(restart=x.last | block_last)
            with m.If(self.start):
                m.d.sync += taps.start()

        m.d.comb += [
            self.step.eq(go), self.step_rows.eq(instr.row_mask), self.step_row_count.eq(row_count),
            self.step_act_addr.eq(pixel + offset_c + taps.offset if taps else pixel + offset_c), self.step_weight_addr.eq(weight),
            self.step_last.eq(word_last), self.step_section.eq(section), self.step_loads_weight.eq((index == 0) & word_last),
            self.step_first.eq(first_step & ~instr.accumulate), self.step_bank.eq(bank), self.step_index.eq(index),
            self.block_issued.eq(block_done & (instr.emit | instruction_done)),
            self.block.drains.eq(instr.emit), self.block.ends_instruction.eq(instruction_done), self.block.bank.eq(bank),
            self.block.last_index.eq(index), self.block.row_mask.eq(instr.row_mask), self.block.row_count.eq(row_count),
            self.block.out_addr.eq(out), self.block.section.eq(section), self.block.param_addr.eq(param),
        ]  # fmt: skip
        return m


def _log2(power: int) -> int:
    return power.bit_length() - 1
