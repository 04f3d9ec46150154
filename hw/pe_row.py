"""A row of processing elements that share one activation vector."""

from amaranth.hdl import Cat, Module, Mux, Signal, Value
from amaranth.lib.wiring import In, Out

from hw.pe import Pe, select_one
from hw.shared import Shared, register


def drain_latency(multiplier_stages: int) -> int:
    """Cycles from `drain_en` to `sums_en`; from `mac_en` to the cycle in which the accumulator adds it is the same."""
    return multiplier_stages + 2


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
    drain that is announced after a step sees what it added. The two never concern the same bank in one cycle.
    """

    block = "pe_row"

    def __init__(
        self, *, cols: int, lanes: int, activation_bits: int, weight_bits: int, acc_depth: int, acc_bits: int, multiplier_stages: int, post_lanes: int
    ):
        self.cols, self.acc_depth, self.acc_bits, self.post_lanes = cols, acc_depth, acc_bits, post_lanes
        self.weight_word_bits, self.multiplier_stages = lanes * weight_bits, multiplier_stages
        self.pe_parameters = {
            "lanes": lanes, "activation_bits": activation_bits, "weight_bits": weight_bits,
            "acc_depth": acc_depth, "acc_bits": acc_bits, "multiplier_stages": multiplier_stages,
        }  # fmt: skip
        self.groups = cols // post_lanes
        ports = {
            "activation": In(lanes * activation_bits), "weights": In(cols * lanes * weight_bits),
            "mac_en": In(1), "weight_en": In(1), "first": In(1), "mac_bank": In(1), "mac_index": In(index_bits(acc_depth)),
            "drain_en": In(1), "drain_bank": In(1), "drain_index": In(index_bits(acc_depth)), "drain_group": In(index_bits(self.groups)),
            "sums_en": Out(1), "sums": Out(post_lanes * acc_bits),
        }  # fmt: skip
        super().__init__(
            ports, c=cols, l=lanes, a=activation_bits, w=weight_bits, d=acc_depth, acc=acc_bits, m=multiplier_stages, q=post_lanes
        )

    def body(self) -> Module:
        m = Module()
        pes = [Pe(**self.pe_parameters) for _ in range(self.cols)]
        for col, pe in enumerate(pes):
            m.submodules[f"pe_{col}"] = pe

        # mac[i] and drain[i] are what was announced i cycles ago; the accumulator is read and written `drain_latency` cycles after.
        latency = drain_latency(self.multiplier_stages)
        mac, drain = [Signal(name=f"mac_{i}") for i in range(latency)], [Signal(name=f"drain_{i}") for i in range(latency + 1)]
        m.d.comb += [mac[0].eq(self.mac_en), drain[0].eq(self.drain_en)]
        m.d.sync += [Cat(mac[1:]).eq(Cat(mac[:-1])), Cat(drain[1:]).eq(Cat(drain[:-1]))]
        mac_what = self._delayed(m, Cat(self.mac_bank, self.first, self.mac_index), "mac_what", latency - 1)
        drain_what = self._delayed(m, Cat(self.drain_bank, self.drain_index, self.drain_group), "drain_what", latency - 1)

        # Operands: the words of the banks are taken in the cycle after the announcement.
        activation, weight_en = register(len(self.activation), "activation_held"), register(1, "weight_en_held")
        m.d.sync += weight_en.eq(self.mac_en & self.weight_en)
        with m.If(mac[1]):
            m.d.sync += activation.eq(self.activation)

        # What the accumulating cycle needs is decoded in the cycle before. Nothing moves in a bank that is not used, nor in the outputs
        # of the elements unless they drain.
        mac_next, drain_next = mac[latency - 1], drain[latency - 1]
        bits = index_bits(self.acc_depth)
        mac_bank, mac_first, mac_index = mac_what[0], mac_what[1], mac_what[2:]
        drain_bank, drain_index, drain_group = drain_what[0], drain_what[1 : 1 + bits], drain_what[1 + bits :]
        selects, writes = [register(self.acc_depth, f"select_{b}") for b in range(2)], [Signal(name=f"write_{b}") for b in range(2)]
        bank, first, held_drain_bank = register(1, "bank"), register(1, "first"), register(1, "drain_bank")
        for b in range(2):
            mac_here, drain_here = mac_next & (mac_bank == b), drain_next & (drain_bank == b)
            m.d.sync += writes[b].eq(mac_here)
            with m.If(mac_here | drain_here):
                m.d.sync += selects[b].eq(one_hot(Mux(mac_here, mac_index, drain_index), self.acc_depth))
        with m.If(mac_next):
            m.d.sync += [bank.eq(mac_bank), first.eq(mac_first)]
        with m.If(drain_next):
            m.d.sync += held_drain_bank.eq(drain_bank)
        with m.Elif(mac_next):
            m.d.sync += held_drain_bank.eq(~mac_bank)

        for col, pe in enumerate(pes):
            m.d.comb += [
                pe.activation.eq(activation), pe.weight.eq(self.weights.word_select(col, self.weight_word_bits)), pe.weight_en.eq(weight_en),
                pe.select_0.eq(selects[0]), pe.write_0.eq(writes[0]), pe.select_1.eq(selects[1]), pe.write_1.eq(writes[1]),
                pe.bank.eq(bank), pe.first.eq(first), pe.drain_bank.eq(held_drain_bank),
            ]  # fmt: skip
            if self.multiplier_stages:
                m.d.comb += pe.stage_en.eq(Cat(mac[2:]))

        group = Signal(self.groups)
        m.d.sync += group.eq(Mux(drain_next, one_hot(drain_group, self.groups), 0))
        columns = [[pes[g * self.post_lanes + lane].sum for g in range(self.groups)] for lane in range(self.post_lanes)]
        sums = register(len(self.sums), "sums_held")
        with m.If(drain[latency]):
            m.d.sync += sums.eq(Cat(select_one(group, column) for column in columns))
        m.d.comb += [self.sums_en.eq(drain[latency]), self.sums.eq(sums)]
        return m

    @staticmethod
    def _delayed(m: Module, value: Value, name: str, cycles: int) -> Value:
        for i in range(cycles):
            target = register(len(value), f"{name}_{i}")
            m.d.sync += target.eq(value)
            value = target
        return value

