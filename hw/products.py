"""Products of two activations whose operands have zero points: sum (a - za)(b - zb), made of words that the banks can hold.

    sum (a - za)(b - zb) = sum a b + sum (-za) b + sum a (-zb) + a constant

The differences take a bit more than the operands, so none is ever made. Each of the first three sums is one or two rows of the lowered layer's kernel: a
reduction over the same channels, of which one side may be a constant in all lanes. The last, a constant, is part of the bias. A lane beyond the channels adds
nothing if it holds za in the first operand, whatever the second holds there: it is a channel of which a - za is 0.
"""

from dataclasses import dataclass

from hw.errors import ConfigError
from hw.golden import QuantizedLayer
from hw.layers import LayerShape


@dataclass(frozen=True, kw_only=True)
class KernelRows:
    """The rows of a product's kernel. Where the first operand has a zero point, odd rows see `activation` in its place; even rows see the operand itself.

    `weights`: for each row the constant that all its weights are, or None if they are the second operand.
    """

    weights: tuple[int | None, ...]
    activation: int | None

    @property
    def second_reads(self) -> int:
        """Rows whose weights are the second operand."""
        return self.weights.count(None)

    @property
    def constants(self) -> tuple[tuple[int, int], ...]:
        """(row, weight) of the others."""
        return tuple((row, weight) for row, weight in enumerate(self.weights) if weight is not None)


def kernel_rows(shape: LayerShape, bits: int) -> KernelRows:
    """Those of a matmul or transpose with operands of so many bits; one row if neither has a zero point."""
    first, second = _parts(shape.input_zero_point, bits), _parts(shape.second_zero_point, bits)
    even, odd = (None, *second), (None,) * len(first)
    if not odd:
        return KernelRows(weights=even, activation=None)
    pairs = max(len(even), len(odd))
    rows = [row for pair in zip(_padded(even, pairs), _padded(odd, pairs), strict=True) for row in pair]
    return KernelRows(weights=tuple(rows[: max(2 * len(even) - 1, 2 * len(odd))]), activation=first[0])


def _parts(zero_point: int, bits: int) -> tuple[int, ...]:
    """Equal integers of so many bits that add up to -zero_point: two of them for the least zero point, whose negative takes a bit more."""
    if zero_point == 0:
        return ()
    return (-zero_point,) if -zero_point < 1 << bits - 1 else (-zero_point // 2,) * 2


def _padded(rows: tuple[int | None, ...], count: int) -> tuple[int | None, ...]:
    """With weights of 0 in the rows that are missing."""
    return rows + (0,) * (count - len(rows))


def check_padding(producer: QuantizedLayer, consumer: QuantizedLayer, lanes: int) -> None:
    """Raises `ConfigError` if the consumer is a matmul whose first operand the producer makes, and lanes beyond the channels may not hold its zero point.

    They do if they are made of weights and scales of 0, and that is not clipped.
    """
    s = consumer.shape
    if s.kind != "matmul" or s.in_channels // s.groups % lanes == 0:
        return
    held = producer.output_zero_point if producer.shape.kind in ("conv", "fc") else None
    if held != s.input_zero_point or not producer.clip_low <= held <= producer.clip_high:
        raise ConfigError(f"channels of a head of the output of {producer.shape.name} must be a multiple of {lanes} lanes for layer {s.name}")
