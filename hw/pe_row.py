"""A row of processing elements that share one activation vector."""

from amaranth.hdl import Array, Cat, Module, Mux, Signal, Value
from amaranth.lib.wiring import In, Out

from hw.pe import Pe, select_one
from hw.shared import Shared, register


def drain_latency(multiplier_stages: int, depthwise_taps: int) -> int:
    """Cycles from `drain_en` to `sums_en`; from `mac_en` to the cycle in which the accumulator adds it is the same."""
    return multiplier_stages + (3 if depthwise_taps else 2)


def index_bits(count: int) -> int:
    """Bits of a port that numbers `count` things: at least one."""
    return max(1, (count - 1).bit_length())


def one_hot(index: Value, count: int) -> Value:
    """Bit `index` of `count`."""
    return Cat(index == i for i in range(count))


class PeRow(Shared):
    """`cols` processing elements, the activation register they share, and the multiplexer through which their sums leave.

    In a cycle with `mac_en` a reduction step is announced; the words of the activation bank (`activation`) and, if `weight_en`, of the
    weight banks (`weights`, column after column) are present in the next cycle. It is added to accumulator `index` of bank `mac_bank`, or
    starts it where `first`. In a cycle with `drain_en` the sums of accumulator `drain_index` of `drain_bank` are asked for, columns
    `drain_group * post_lanes` and up; `sums_en` comes `drain_latency` later, `sums` in the cycle after. Both ways are equally long, so a
    drain that is announced after a step sees what it added. The two never concern the same bank in one cycle. With `maximum` (constant
    while anything is under way) an accumulator keeps the largest dot product instead of the sum.

    With `depthwise_taps` the row keeps its last words, and a step is announced for each word: the one with `mac_last` accumulates. Where
    `taps` (constant like `maximum`) is more than 1, lane k < taps of column j then sees, of the k-th of the last `taps` words, the lane of
    the channel that the column makes: (section * cols + j) mod lanes. Operands pass one more register, and `weight_en` comes one cycle
    after its step.
    """

    block = "pe_row"

    def __init__(
        self, *, cols: int, lanes: int, activation_bits: int, weight_bits: int, acc_depth: int, acc_bits: int, multiplier_stages: int, post_lanes: int,
        depthwise_taps: int = 0,
    ):  # fmt: skip
        self.cols, self.acc_depth, self.acc_bits, self.post_lanes = cols, acc_depth, acc_bits, post_lanes
        self.lanes, self.activation_bits, self.depthwise_taps = lanes, activation_bits, depthwise_taps
        self.sections = max(1, lanes // cols)
        self.weight_word_bits, self.multiplier_stages = lanes * weight_bits, multiplier_stages
        self.pe_parameters = {
            "lanes": lanes, "activation_bits": activation_bits, "weight_bits": weight_bits,
            "acc_depth": acc_depth, "acc_bits": acc_bits, "multiplier_stages": multiplier_stages,
        }  # fmt: skip
        self.groups = cols // post_lanes
        ports = {
            "activation": In(lanes * activation_bits), "weights": In(cols * lanes * weight_bits),
            "mac_en": In(1), "weight_en": In(1), "first": In(1), "maximum": In(1), "mac_bank": In(1), "mac_index": In(index_bits(acc_depth)),
            "drain_en": In(1), "drain_bank": In(1), "drain_index": In(index_bits(acc_depth)), "drain_group": In(index_bits(self.groups)),
            "sums_en": Out(1), "sums": Out(post_lanes * acc_bits),
        }  # fmt: skip
        if depthwise_taps:
            ports |= {"mac_last": In(1), "taps": In(4), "section": In(index_bits(self.sections))}
        super().__init__(
            ports, c=cols, l=lanes, a=activation_bits, w=weight_bits, d=acc_depth, acc=acc_bits, m=multiplier_stages, q=post_lanes,
            **({"t": depthwise_taps} if depthwise_taps else {}),
        )  # fmt: skip

    def body(self) -> Module:
        m = Module()
        pes = [Pe(**self.pe_parameters) for _ in range(self.cols)]
        for col, pe in enumerate(pes):
            m.submodules[f"pe_{col}"] = pe

        # mac[i] and drain[i] are what was announced i cycles ago; the accumulator is read and written `drain_latency` cycles after.
        latency = drain_latency(self.multiplier_stages, self.depthwise_taps)
        mac, drain = [Signal(name=f"mac_{i}") for i in range(latency)], [Signal(name=f"drain_{i}") for i in range(latency + 1)]
        m.d.comb += [mac[0].eq(self.mac_en & self.mac_last if self.depthwise_taps else self.mac_en), drain[0].eq(self.drain_en)]
        m.d.sync += [Cat(mac[1:]).eq(Cat(mac[:-1])), Cat(drain[1:]).eq(Cat(drain[:-1]))]
        mac_what = self._delayed(m, Cat(self.mac_bank, self.first, self.mac_index), "mac_what", latency - 1)
        drain_what = self._delayed(m, Cat(self.drain_bank, self.drain_index, self.drain_group), "drain_what", latency - 1)

        operands, weight_en = (self._tapped_operands if self.depthwise_taps else self._operands)(m, mac)

        # What the accumulating cycle needs is decoded in the cycle before. Nothing moves in a bank that is not used, nor in the outputs
        # of the elements unless they drain.
        mac_next, drain_next = mac[latency - 1], drain[latency - 1]
        bits = index_bits(self.acc_depth)
        mac_bank, mac_first, mac_index = mac_what[0], mac_what[1], mac_what[2:]
        drain_bank, drain_index, drain_group = drain_what[0], drain_what[1 : 1 + bits], drain_what[1 + bits :]
        selects, writes = [register(self.acc_depth, f"select_{b}") for b in range(2)], [Signal(name=f"write_{b}") for b in range(2)]
        bank, first, largest, held_drain_bank = register(1, "bank"), register(1, "first"), register(1, "largest"), register(1, "drain_bank")
        for b in range(2):
            mac_here, drain_here = mac_next & (mac_bank == b), drain_next & (drain_bank == b)
            m.d.sync += writes[b].eq(mac_here)
            with m.If(mac_here | drain_here):
                m.d.sync += selects[b].eq(one_hot(Mux(mac_here, mac_index, drain_index), self.acc_depth))
        with m.If(mac_next):
            m.d.sync += [bank.eq(mac_bank), first.eq(mac_first | self.maximum), largest.eq(self.maximum & ~mac_first)]
        with m.If(drain_next):
            m.d.sync += held_drain_bank.eq(drain_bank)
        with m.Elif(mac_next):
            m.d.sync += held_drain_bank.eq(~mac_bank)

        for col, pe in enumerate(pes):
            m.d.comb += [
                pe.activation.eq(operands[col]), pe.weight.eq(self.weights.word_select(col, self.weight_word_bits)), pe.weight_en.eq(weight_en),
                pe.select_0.eq(selects[0]), pe.write_0.eq(writes[0]), pe.select_1.eq(selects[1]), pe.write_1.eq(writes[1]),
                pe.bank.eq(bank), pe.first.eq(first), pe.largest.eq(largest), pe.drain_bank.eq(held_drain_bank),
            ]  # fmt: skip
            if self.multiplier_stages:
                m.d.comb += pe.stage_en.eq(Cat(mac[latency - self.multiplier_stages :]))

        group = Signal(self.groups)
        m.d.sync += group.eq(Mux(drain_next, one_hot(drain_group, self.groups), 0))
        columns = [[pes[g * self.post_lanes + lane].sum for g in range(self.groups)] for lane in range(self.post_lanes)]
        sums = register(len(self.sums), "sums_held")
        with m.If(drain[latency]):
            m.d.sync += sums.eq(Cat(select_one(group, column) for column in columns))
        m.d.comb += [self.sums_en.eq(drain[latency]), self.sums.eq(sums)]
        return m

    def _operands(self, m: Module, mac: list[Signal]) -> tuple[list[Value], Signal]:
        """The activations of each column, and the enable of the weights: the banks' words are taken in the cycle after the announcement."""
        activation, weight_en = register(len(self.activation), "activation_held"), register(1, "weight_en_held")
        m.d.sync += weight_en.eq(self.mac_en & self.weight_en)
        with m.If(mac[1]):
            m.d.sync += activation.eq(self.activation)
        return [activation] * self.cols, weight_en

    def _tapped_operands(self, m: Module, mac: list[Signal]) -> tuple[list[Value], Signal]:
        """The same where words are kept: `words[k]` is the k-th of the last `taps`, and the lanes are chosen in a cycle of their own."""
        taps, bits = self.depthwise_taps, self.activation_bits
        arrives, tapped = Signal(), self.taps > 1
        m.d.sync += arrives.eq(self.mac_en)
        words = [register(len(self.activation), f"word_{k}") for k in range(taps)]
        for k, word in enumerate(words):
            newest = self.taps <= 1 if k == 0 else self.taps == k + 1
            with m.If(arrives & (1 if k == 0 else self.taps > k)):
                m.d.sync += word.eq(Mux(newest, self.activation, words[k + 1]) if k + 1 < taps else self.activation)

        section, weight_en = self._delayed(m, self.section, "section", 2), register(1, "weight_en_held")
        m.d.sync += weight_en.eq(mac[1] & self.weight_en)
        rest = register((self.lanes - taps) * bits, "operand_rest")
        columns = [[register(bits, f"operand_{col}_{k}") for k in range(taps)] for col in range(self.cols)]
        with m.If(mac[2]):
            m.d.sync += rest.eq(words[0][taps * bits :])
            for col, column in enumerate(columns):
                for k, operand in enumerate(column):
                    channels = [(section_index * self.cols + col) % self.lanes for section_index in range(self.sections)]
                    own = Array(words[k].word_select(channel, bits) for channel in channels)[section] if self.sections > 1 else (
                        words[k].word_select(channels[0], bits))  # fmt: skip
                    m.d.sync += operand.eq(Mux(tapped, own, words[0].word_select(k, bits)))
        return [Cat(*column, rest) for column in columns], weight_en

    @staticmethod
    def _delayed(m: Module, value: Value, name: str, cycles: int) -> Value:
        for i in range(cycles):
            target = register(len(value), f"{name}_{i}")
            m.d.sync += target.eq(value)
            value = target
        return value

