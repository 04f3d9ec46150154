"""The processing element: a dot product of `lanes` channels a cycle, added to one of many accumulators."""

from collections.abc import Callable, Sequence

from amaranth.hdl import Module, Mux, Signal, Value
from amaranth.lib.wiring import In, Out

from hw.shared import Shared, register


def reduce_balanced(values: Sequence[Value], combine: Callable[[Value, Value], Value]) -> Value:
    """`values` combined pairwise in a tree of least depth."""
    values = list(values)
    while len(values) > 1:
        pairs = [combine(a, b) for a, b in zip(values[::2], values[1::2], strict=False)]
        values = pairs + values[2 * len(pairs) :]
    return values[0]


def select_one(select: Signal, values: Sequence[Value]) -> Value:
    """The one of `values` (equally wide) whose bit of `select` is set; 0 if none is. (An expression as `select` would be emitted once a bit.)"""
    return reduce_balanced([value & bit.replicate(len(value)) for bit, value in zip(select, values, strict=True)], lambda a, b: a | b)


class Pe(Shared):
    """`lanes` multipliers, an adder tree and two banks of `acc_depth` accumulators.

    The activations are held by the row, the weights here (taken at the end of a cycle with `weight_en`). A product reaches the accumulator
    at the end of the cycle `multiplier_stages` after the one in which its operands are present; `stage_en[i]` enables the registers on that
    way that load at the end of the cycle i after it. In the accumulating cycle `select_<bank>` (one-hot) is the accumulator, `write_<bank>`
    enables its register, `bank` says which bank that is, and `first` starts a new sum. With `largest` (and `first`) the dot product replaces
    the accumulator only if it is greater; both must then be at most an activation's size. `sum` is the selected accumulator of `drain_bank`.

    Measured with the flow's recipes, the register after the products shortens the longest path most (a registered tree hardly), the second
    belongs into the middle of the tree, and after that the multiplier is the longest path: the third stage splits it into two halves of the
    weight, whose products are added up apart.
    """

    block = "pe"
    has_reset = False

    def __init__(self, *, lanes: int, activation_bits: int, weight_bits: int, acc_depth: int, acc_bits: int, multiplier_stages: int):
        self.lanes, self.activation_bits, self.weight_bits = lanes, activation_bits, weight_bits
        self.acc_depth, self.acc_bits, self.multiplier_stages = acc_depth, acc_bits, multiplier_stages
        ports = {"activation": In(lanes * activation_bits), "weight": In(lanes * weight_bits), "weight_en": In(1)}
        if multiplier_stages:
            ports["stage_en"] = In(multiplier_stages)
        for bank in range(2):
            ports |= {f"select_{bank}": In(acc_depth), f"write_{bank}": In(1)}
        ports |= {"bank": In(1), "first": In(1), "largest": In(1), "drain_bank": In(1), "sum": Out(acc_bits)}
        super().__init__(ports, l=lanes, a=activation_bits, w=weight_bits, d=acc_depth, acc=acc_bits, m=multiplier_stages)

    def body(self) -> Module:
        m = Module()
        weight = register(len(self.weight), "weight_held")
        with m.If(self.weight_en):
            m.d.sync += weight.eq(self.weight)
        dot = self._dot_product(m, weight)

        selects, writes = (self.select_0, self.select_1), (self.write_0, self.write_1)
        accumulators = [[register(self.acc_bits, f"acc_{bank}_{i}") for i in range(self.acc_depth)] for bank in range(2)]
        selected = [Signal(self.acc_bits, name=f"selected_{bank}") for bank in range(2)]
        m.d.comb += [target.eq(select_one(select, bank)) for target, select, bank in zip(selected, selects, accumulators, strict=True)]
        current = Mux(self.bank, selected[1], selected[0])
        previous = Mux(self.first, 0, current).as_signed()
        result, keep = Signal(self.acc_bits), Signal()
        compared = self.activation_bits + 1
        m.d.comb += [result.eq(previous + dot), keep.eq(~self.largest | (dot[:compared].as_signed() > current[:compared].as_signed()))]
        for bank, select, write in zip(accumulators, selects, writes, strict=True):
            for accumulator, chosen in zip(bank, select, strict=True):
                with m.If(chosen & write & keep):
                    m.d.sync += accumulator.eq(result)
        m.d.comb += self.sum.eq(Mux(self.drain_bank, selected[1], selected[0]))
        return m

    def _dot_product(self, m: Module, weight: Value) -> Value:
        """The sum of the products of all lanes, after `multiplier_stages` registers."""
        levels = self.lanes.bit_length() - 1  # of the adder tree
        registered_after = {0: (), 1: (0,), 2: (0, (levels + 1) // 2), 3: (0, (levels + 1) // 2)}[self.multiplier_stages]
        half = self.weight_bits // 2 if self.multiplier_stages == 3 else 0

        activations = [self.activation.word_select(i, self.activation_bits).as_signed() for i in range(self.lanes)]
        weights = [weight.word_select(i, self.weight_bits) for i in range(self.lanes)]
        high = [a * w[half:].as_signed() for a, w in zip(activations, weights, strict=True)]
        low = [a * w[:half] for a, w in zip(activations, weights, strict=True)] if half else []

        stage = 0

        def registered(values: list[Value]) -> list[Value]:
            nonlocal stage
            held = [register(value.shape(), f"stage_{stage}_{i}") for i, value in enumerate(values)]
            with m.If(self.stage_en[stage]):
                m.d.sync += [target.eq(value) for target, value in zip(held, values, strict=True)]
            stage += 1
            return held

        for level in range(levels + 1):
            if level:
                high, low = ([a + b for a, b in zip(v[::2], v[1::2], strict=True)] for v in (high, low))
            if level in registered_after:
                both = registered(high + low)
                high, low = both[: len(high)], both[len(high) :]
        if not half:
            return high[0]
        return registered([(high[0] << half) + low[0]])[0]
