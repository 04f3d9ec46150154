"""Requantization: sums of accumulators become activations, `post_lanes` channels a cycle, packed into output words."""

from types import SimpleNamespace

from amaranth.hdl import Cat, Module, Mux, Signal, Value
from amaranth.lib.wiring import In, Out

from hw.pe import reduce_balanced
from hw.shared import Shared, register

BIAS_BITS, MULTIPLIER_BITS, SHIFT_BITS = 32, 16, 6
PARAMETER_BITS = BIAS_BITS + MULTIPLIER_BITS + SHIFT_BITS
"""Bits of a parameter that are kept on chip: the others of its 8 bytes are padding."""
STAGES = 8
"""Registers between the parameters and the output of a lane."""
LATENCY = STAGES + 1
"""Cycles from `start` to `word_valid`."""


class Post(Shared):
    """`y = clip(round_half_even((sum + bias) * multiplier / 2^shift) + zero_point, clip_low, clip_high)` in each lane, exactly.

    In a cycle with `start` the parameters are present (bias, multiplier, shift from bit 0 on, lane after lane), in the next the sums.
    Outputs are packed from lane 0 on into a word of `word_lanes` activations; `word_valid` says that one is complete. `zero_point`,
    `clip_low` and `clip_high` (signed) stay constant from the first `start` to the last `word_valid`.
    """

    block = "post"

    def __init__(self, *, post_lanes: int, word_lanes: int, activation_bits: int, acc_bits: int):
        self.post_lanes, self.word_lanes, self.activation_bits, self.acc_bits = post_lanes, word_lanes, activation_bits, acc_bits
        ports = {
            "start": In(1), "param_data": In(post_lanes * PARAMETER_BITS), "sums": In(post_lanes * acc_bits),
            "zero_point": In(activation_bits), "clip_low": In(activation_bits), "clip_high": In(activation_bits),
            "word": Out(word_lanes * activation_bits), "word_valid": Out(1),
        }  # fmt: skip
        super().__init__(ports, q=post_lanes, s=word_lanes, a=activation_bits, acc=acc_bits)

    def body(self) -> Module:
        m = Module()
        valid = [self.start, *(Signal(name=f"valid_{i}") for i in range(1, STAGES + 1))]
        m.d.sync += Cat(valid[1:]).eq(Cat(valid[:-1]))
        outputs = [self._lane(m, lane, valid) for lane in range(self.post_lanes)]
        self._pack(m, outputs, valid[STAGES])
        return m

    def _lane(self, m: Module, lane: int, valid: list[Signal]) -> Value:
        """The output of one lane, `STAGES` registers after the parameters."""
        number = 0

        def stage(**values: Value) -> SimpleNamespace:
            """`values` behind the next stage's registers."""
            nonlocal number
            held = {name: register(value.shape(), f"{name}_{lane}_{number}") for name, value in values.items()}
            with m.If(valid[number]):
                m.d.sync += [held[name].eq(value) for name, value in values.items()]
            number += 1
            return SimpleNamespace(**held)

        parameter = self.param_data.word_select(lane, PARAMETER_BITS)
        bias, rest = parameter[:BIAS_BITS].as_signed(), parameter[BIAS_BITS:]
        p = stage(bias=bias, multiplier=rest[:MULTIPLIER_BITS], shift=rest[MULTIPLIER_BITS:])
        p = stage(value=self.sums.word_select(lane, self.acc_bits).as_signed() + p.bias, multiplier=p.multiplier, shift=p.shift)

        # The multiplier is applied in digits of two bits, which select one of 0, 1, 2, 3 times the value: smaller, and no longer a path
        # than those of the processing elements (measured), which a product of this width would not be.
        p = stage(value=p.value, triple=p.value + (p.value << 1), multiplier=p.multiplier, shift=p.shift)
        digits = [p.multiplier.word_select(i, 2) for i in range(MULTIPLIER_BITS // 2)]
        rows = [Mux(digit[1], Mux(digit[0], p.triple, p.value << 1), Mux(digit[0], p.value, 0)).as_signed() for digit in digits]
        p = stage(shift=p.shift, **{f"row_{i}": low + (high << 2) for i, (low, high) in enumerate(zip(rows[::2], rows[1::2], strict=True))})
        p = stage(shift=p.shift, product=p.row_0 + (p.row_1 << 4) + (p.row_2 << 8) + (p.row_3 << 12))

        # Rounding needs one bit below the point, and whether any bit below that one was set ("lost").
        extended = (p.product << 1).as_signed()
        coarse, fine = p.shift[3:], p.shift[:3]
        lost = reduce_balanced([(coarse > i) & extended.word_select(i, 8).any() for i in range(7)], lambda a, b: a | b)
        p = stage(shifted=extended >> (coarse << 3), lost=lost, fine=fine)
        shifted = p.shifted >> p.fine
        lost = p.lost | Cat(p.shifted[i] & (p.fine > i) for i in range(7)).any()
        quotient = shifted[1:]

        # Two bits more than an activation: beyond that the output is clipped, whatever the zero point.
        bits = self.activation_bits + 2
        sign, above = quotient[-1], quotient[bits - 1 :]
        fits = above.all() | ~above.any()
        saturated = Mux(fits, quotient[:bits], Cat((~sign).replicate(bits - 1), sign))
        p = stage(saturated=saturated.as_signed(), up=shifted[0] & (lost | quotient[0]))

        y = p.saturated + p.up + self.zero_point.as_signed()
        low, high = self.clip_low.as_signed(), self.clip_high.as_signed()
        p = stage(y=Mux(y > high, high, Mux(y < low, low, y))[: self.activation_bits])
        return p.y

    def _pack(self, m: Module, outputs: list[Value], valid: Value) -> None:
        """Collect `word_lanes` outputs in `word`."""
        slots = self.word_lanes // self.post_lanes
        last = 1
        if slots > 1:
            slot = Signal(range(slots))
            last = slot == slots - 1
            with m.If(valid):
                m.d.sync += slot.eq(slot + 1)
        parts = [register(self.post_lanes * self.activation_bits, f"word_{i}") for i in range(slots)]
        for i, part in enumerate(parts):
            with m.If(valid if slots == 1 else valid & (slot == i)):
                m.d.sync += part.eq(Cat(outputs))
        m.d.sync += self.word_valid.eq(valid & last)
        m.d.comb += self.word.eq(Cat(parts))
