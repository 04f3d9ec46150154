"""The golden model: quantized layers, from the mathematics, in exact integers.

Every kind ends with the same scaling of a sum, y = clip(round_half_even(sum * multiplier[k] / 2^shift[k]) + zy, clip_low, clip_high), of

* conv, fc: bias[k] + sum (x - zx) w
* average_pool: sum (x - zx) over the window, multiplier / 2^shift including 1 / (kernel_h * kernel_w)
* max_pool: max (x) - zx over what of the window lies in the image
* add: Wa (a - za) + Wb (b - zb), the integers Wa and Wb being sums of a few weights (see `add_layer`)
* matmul: sum (a - za) (b - zb) over the channels of a head
* transpose: x itself

with padding counted as x = zx. Nothing here knows about the hardware. Test data (`random_layer`, `activations`) is
drawn as quantized networks have it: Laplacian weights, rectified activations with a stated fraction of zeros.
"""

from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np

from hw.errors import ConfigError
from hw.layers import LayerShape

MULTIPLIER_BITS, SHIFT_BITS, BIAS_BITS = 16, 6, 32
_EXACT_FLOAT = 2.0**53
_EXACT_PRODUCT = 2**62


@dataclass(frozen=True, kw_only=True)
class QuantizedLayer:
    """A layer's shape and its integers.

    `weights`, any integer type: conv, fc (out_channels, in_channels / groups, kernel_h, kernel_w); add (2, n), the weights of either operand,
    which add up; empty (0,) for other kinds. `bias`, `multiplier`, `shift` (out_channels,), int64; of other kinds than conv and fc the bias is 0 and
    all channels are alike. `clip_low`, `clip_high` are output values; ReLU is clip_low = output_zero_point. `second_zero_point` is that of the second
    operand of add and matmul.
    """

    shape: LayerShape
    weights: np.ndarray
    bias: np.ndarray
    multiplier: np.ndarray
    shift: np.ndarray
    input_zero_point: int
    output_zero_point: int
    clip_low: int
    clip_high: int
    second_zero_point: int = 0

    def __post_init__(self) -> None:
        shape, where = self.shape, self.shape.name
        learned = shape.kind in ("conv", "fc")
        expected: tuple[int, ...] = (shape.out_channels, shape.in_channels // shape.groups, shape.kernel_h, shape.kernel_w) if learned else (0,)
        if shape.kind == "add":
            expected = (2, max(1, self.weights.shape[-1]))
        if self.weights.shape != expected:
            raise ConfigError(f"weights must be of shape {expected}, not {self.weights.shape} ({where})")
        if shape.kind == "matmul" and (self.input_zero_point, self.second_zero_point) != (shape.input_zero_point, shape.second_zero_point):
            given = f"{self.input_zero_point} and {self.second_zero_point}"
            raise ConfigError(f"zero points of a matmul must be its shape's {shape.input_zero_point} and {shape.second_zero_point}, not {given} ({where})")
        if not learned and (self.bias.any() or np.ptp(self.multiplier) or np.ptp(self.shift)):
            raise ConfigError(f"bias must be 0 and scales equal over the channels of a {shape.kind}, not different ({where})")
        limits = {"bias": (-(2 ** (BIAS_BITS - 1)), 2 ** (BIAS_BITS - 1) - 1), "multiplier": (0, 2**MULTIPLIER_BITS - 1), "shift": (0, 2**SHIFT_BITS - 1)}
        for name, (low, high) in limits.items():
            values = getattr(self, name)
            if values.shape != (shape.out_channels,):
                raise ConfigError(f"{name} must be of shape {(shape.out_channels,)}, not {values.shape} ({where})")
            if values.min() < low or values.max() > high:
                raise ConfigError(f"{name} must be {low} to {high}, not {values.min()} to {values.max()} ({where})")


def quantize_scale(scale: np.ndarray | float, where: str) -> tuple[np.ndarray, np.ndarray]:
    """(multiplier, shift) with scale ~ multiplier / 2^shift, 2^15 <= multiplier < 2^16: relative error at most 2^-16.

    `scale` > 0, any shape, between 2^-48 and 2^16; `where` names the layer.
    """
    scale = np.asarray(scale, dtype=np.float64)
    if not (np.all(scale >= 2.0**-48) and np.all(scale < 2.0**16 - 0.5)):
        raise ConfigError(f"scale must be 2^-48 to 2^16, not {scale.min():g} to {scale.max():g} ({where})")
    mantissa, exponent = np.frexp(scale)
    multiplier = np.rint(mantissa * 2.0**MULTIPLIER_BITS).astype(np.int64)
    shift = MULTIPLIER_BITS - exponent.astype(np.int64)
    carried = multiplier == 2**MULTIPLIER_BITS
    return np.where(carried, multiplier // 2, multiplier), np.where(carried, shift - 1, shift)


def convolve(x: np.ndarray, layer: QuantizedLayer) -> np.ndarray:
    """`sum (x - zx) w`, without bias: x (n, in_channels, in_h, in_w) -> (n, out_channels, out_h, out_w), int64, exact."""
    s = layer.shape
    if s.groups > 1 and s.groups == s.in_channels == s.out_channels:
        weights = layer.weights[:, 0].astype(np.int64)
        return sum(weights[:, r, q, None, None] * window for r, q, window in _windows(x - layer.input_zero_point, s, 0))
    padded = np.pad(x.astype(np.int64) - layer.input_zero_point, ((0, 0), (0, 0), (s.pad_top, s.pad_bottom), (s.pad_left, s.pad_right)))
    weights = layer.weights.astype(np.int64)
    largest = float(np.abs(padded).max(initial=0)) * float(np.abs(weights).sum(axis=(1, 2, 3)).max(initial=0))
    kind = np.float64 if largest < _EXACT_FLOAT else np.int64  # float64 matrix products are exact below 2^53, and fast
    padded, weights = padded.astype(kind), weights.astype(kind)
    span_h, span_w = (s.out_h - 1) * s.stride_h + 1, (s.out_w - 1) * s.stride_w + 1
    inputs, outputs = s.in_channels // s.groups, s.out_channels // s.groups
    sums = np.zeros((x.shape[0], s.out_channels, s.out_h * s.out_w), dtype=kind)
    for group in range(s.groups):
        channels = slice(group * inputs, (group + 1) * inputs)
        kernels = slice(group * outputs, (group + 1) * outputs)
        for r in range(s.kernel_h):
            for q in range(s.kernel_w):
                top, left = r * s.dilation, q * s.dilation
                window = padded[:, channels, top : top + span_h : s.stride_h, left : left + span_w : s.stride_w]
                sums[:, kernels] += weights[kernels, :, r, q] @ window.reshape(x.shape[0], inputs, -1)
    return sums.astype(np.int64).reshape(x.shape[0], s.out_channels, s.out_h, s.out_w)


def _windows(x: np.ndarray, s: LayerShape, padding: int) -> Iterator[tuple[int, int, np.ndarray]]:
    """(kernel row, kernel column, the values that all outputs see there (n, channels, out_h, out_w)) for the whole kernel, int64."""
    padded = np.pad(x.astype(np.int64), ((0, 0), (0, 0), (s.pad_top, s.pad_bottom), (s.pad_left, s.pad_right)), constant_values=padding)
    for r in range(s.kernel_h):
        for q in range(s.kernel_w):
            rows = slice(r * s.dilation, r * s.dilation + (s.out_h - 1) * s.stride_h + 1, s.stride_h)
            columns = slice(q * s.dilation, q * s.dilation + (s.out_w - 1) * s.stride_w + 1, s.stride_w)
            yield r, q, padded[:, :, rows, columns]


def _sums(layer: QuantizedLayer, x: np.ndarray, second: np.ndarray | None) -> np.ndarray:
    """What is scaled, (n, out_channels, out_h, out_w), int64: see the module."""
    s, zero = layer.shape, layer.input_zero_point
    if s.kind in ("conv", "fc"):
        return convolve(x, layer) + layer.bias[:, None, None]
    if s.kind == "average_pool":
        return np.sum([window for _, _, window in _windows(x - zero, s, 0)], axis=0)
    if s.kind == "max_pool":
        return np.max([window for _, _, window in _windows(x, s, np.iinfo(np.int64).min)], axis=0) - zero
    if s.kind == "add":
        assert second is not None
        first_weight, second_weight = (int(w) for w in layer.weights.sum(axis=1, dtype=np.int64))
        return first_weight * (x - zero) + second_weight * (second - layer.second_zero_point)
    heads = x.reshape(len(x), s.groups, -1, s.in_h)  # [image, head, channel, vector]
    if s.kind == "transpose":
        return heads.transpose(0, 1, 3, 2).reshape(len(x), s.out_channels, s.out_h, 1)
    assert second is not None
    second = second.reshape(len(x), s.groups, heads.shape[2], -1)
    product = np.einsum("ngki,ngkj->ngji", heads - zero, second - layer.second_zero_point)
    return product.reshape(len(x), s.out_channels, s.out_h, 1)


def requantize(sums: np.ndarray, multiplier: np.ndarray, shift: np.ndarray, zero_point: int, clip_low: int, clip_high: int) -> np.ndarray:
    """`clip(round_half_even(sums * multiplier / 2^shift) + zero_point, clip_low, clip_high)`; the arrays broadcast, int64."""
    if np.abs(sums).max(initial=0) * int(multiplier.max(initial=0)) >= _EXACT_PRODUCT:
        raise ConfigError("sums must be such that sums x multiplier stay below 2^62; use smaller weights or fewer of them")
    product = sums * multiplier
    quotient = product >> shift
    remainder = product - (quotient << shift)
    half = np.int64(1) << np.maximum(shift - 1, 0)
    up = (remainder > half) | ((remainder == half) & (quotient & 1 == 1) & (shift > 0))
    return np.clip(quotient + up + zero_point, clip_low, clip_high)


def run_layer(layer: QuantizedLayer, x: np.ndarray, second: np.ndarray | None = None) -> np.ndarray:
    """The layer's output, int64, (n, out_channels, out_h, out_w). x is (n, in_channels, in_h, in_w).

    A fully connected layer also takes (n, in_channels), and then gives (n, out_channels). `second`: of add, as x; of matmul the second operand's
    vectors (n, in_channels, out_channels / groups, 1).
    """
    s = layer.shape
    expected = (s.in_channels, s.in_h, s.in_w)
    flat = s.kind == "fc" and x.ndim == 2
    if flat:
        x = x[:, :, None, None]
    if x.ndim != 4 or x.shape[1:] != expected:
        raise ConfigError(f"input must be of shape (n, {', '.join(map(str, expected))}), not {x.shape} ({s.name})")
    wanted = {"add": x.shape, "matmul": (len(x), s.in_channels, s.out_channels // s.groups, 1)}.get(s.kind)
    if wanted != (None if second is None else second.shape):
        raise ConfigError(f"second operand must be of shape {wanted}, not {None if second is None else second.shape} ({s.name})")
    sums = _sums(layer, x.astype(np.int64), None if second is None else second.astype(np.int64))
    columns = (layer.multiplier[:, None, None], layer.shift[:, None, None])
    y = requantize(sums, *columns, layer.output_zero_point, layer.clip_low, layer.clip_high)
    return y[:, :, 0, 0] if flat else y


# Layers without learned weights


def _uniform(shape: LayerShape, scale: float, weights: np.ndarray, **integers: int) -> QuantizedLayer:
    """A layer whose channels all have the same scale."""
    multiplier, shift = (np.full(shape.out_channels, value, dtype=np.int64) for value in quantize_scale(scale, shape.name))
    return QuantizedLayer(shape=shape, weights=weights, bias=np.zeros(shape.out_channels, dtype=np.int64), multiplier=multiplier, shift=shift, **integers)


def scaled_layer(shape: LayerShape, scale: float, **integers: int) -> QuantizedLayer:
    """A pooling, matmul or transpose layer: `scale` is (input scales' product) / (output scale), `integers` the zero points and clips."""
    area = shape.kernel_h * shape.kernel_w if shape.kind == "average_pool" else 1
    return _uniform(shape, scale / area, np.zeros(0, dtype=np.int16), **integers)


ADD_ERROR = 1 / 16
"""Part of an output step that the rounding of an add's two weights may make at most, if that many steps suffice."""
_MOST_ADD_WEIGHTS = 64


def add_weights(scales: tuple[float, float], activation_bits: int, weight_bits: int) -> tuple[np.ndarray, float, float]:
    """(weights (2, n), scale, bound): the sum of scales[i] * x[i] as scale * sum of (weights[i].sum() * x[i]), x being any difference of two
    activations.

    One operand gets the integer W, the other the one nearest to W times the ratio of the scales: the best W up to n times the greatest weight, with the
    least n that keeps the error below `ADD_ERROR` output steps. `bound` is that error, in output steps, for the largest x.
    """
    largest = value_range(weight_bits)[1]
    big, small = max(scales), min(scales)
    reach = 2.0**activation_bits - 1
    for n in range(1, _MOST_ADD_WEIGHTS + 1):
        candidates = np.arange(1, n * largest + 1)
        partners = np.rint(candidates * (small / big))
        errors = np.abs(partners / candidates - small / big) * big * reach
        best = int(np.argmin(errors))
        if errors[best] <= ADD_ERROR or n == _MOST_ADD_WEIGHTS:
            break
    pair = (int(candidates[best]), int(partners[best]))
    totals = pair if scales[0] >= scales[1] else pair[::-1]
    n = -(-pair[0] // largest)
    weights = np.array([[total // n + (i < total % n) for i in range(n)] for total in totals], dtype=np.int16)
    return weights, big / pair[0], float(errors[best])


def add_layer(shape: LayerShape, scales: tuple[float, float], activation_bits: int = 8, weight_bits: int = 8, **integers: int) -> QuantizedLayer:
    """An add layer: `scales` are those of the operands divided by the output's, `integers` the zero points and clips."""
    weights, scale, bound = add_weights(scales, activation_bits, weight_bits)
    if bound > 0.5:
        raise ConfigError(f"weight_bits must be such that an add is exact to half a step, not {weight_bits} with an error of {bound:.2g} steps ({shape.name})")
    return _uniform(shape, scale, weights, **integers)


# Data

DATA_KINDS = ("typical", "uniform", "ramp", "low", "high", "zero")
"""typical: as trained networks; uniform: all values alike; ramp: counting up; low, high: all extreme; zero: all zero point."""


def value_range(bits: int) -> tuple[int, int]:
    """Least and greatest signed integer of `bits` bits."""
    return -(1 << bits - 1), (1 << bits - 1) - 1


def activations(
    shape: tuple[int, ...], bits: int, rng: np.random.Generator, kind: str = "typical", zero_point: int = 0, zero_fraction: float = 0.5
) -> np.ndarray:
    """Activations of `shape`, int64. "typical" is rectified: `zero_fraction` of them at the zero point, the rest half-normal
    above it with a standard deviation of a quarter of the range that is left."""
    low, high = value_range(bits)
    if kind == "typical":
        spread = max((high - zero_point) / 4, 1.0)
        x = zero_point + np.rint(np.abs(rng.normal(0.0, spread, shape)))
        return np.where(rng.random(shape) < zero_fraction, zero_point, np.clip(x, low, high)).astype(np.int64)
    return _structured(shape, low, high, rng, kind, zero_point)


def weights(shape: tuple[int, ...], bits: int, rng: np.random.Generator, kind: str = "typical") -> np.ndarray:
    """Weights of `shape`, int16, symmetric (least value left out). "typical" is Laplacian with the largest of 2000 at full scale."""
    _, high = value_range(bits)
    if kind == "typical":
        return np.clip(np.rint(rng.laplace(0.0, high / np.log(2000.0), shape)), -high, high).astype(np.int16)
    return _structured(shape, -high, high, rng, kind, 0).astype(np.int16)


def _structured(shape: tuple[int, ...], low: int, high: int, rng: np.random.Generator, kind: str, zero_point: int) -> np.ndarray:
    if kind == "uniform":
        return rng.integers(low, high + 1, shape)
    if kind == "ramp":
        return low + np.arange(int(np.prod(shape)), dtype=np.int64).reshape(shape) % (high - low + 1)
    if kind in ("low", "high", "zero"):
        return np.full(shape, {"low": low, "high": high, "zero": zero_point}[kind], dtype=np.int64)
    raise ConfigError(f"data kind must be one of {', '.join(DATA_KINDS)}, not {kind!r}; give one of these")


def random_layer(
    shape: LayerShape, rng: np.random.Generator, activation_bits: int = 8, weight_bits: int = 8, kind: str = "typical", zero_points: tuple[int, int] = (0, 0)
) -> QuantizedLayer:
    """A layer with random integers whose outputs fill the output range: scales follow from the weights' norms.

    `zero_points` are those of input (of both operands of an add) and output. Channels of conv and fc get scales of their own, within a factor of two.
    Those of a matmul's operands are its shape's.
    """
    low, high = value_range(activation_bits)
    integers = {
        "input_zero_point": zero_points[0], "output_zero_point": zero_points[1], "clip_low": zero_points[1] if shape.relu else low, "clip_high": high
    }  # fmt: skip
    if shape.kind == "add":
        return add_layer(shape, tuple(rng.uniform(0.2, 1.0, 2)), activation_bits, weight_bits, **integers, second_zero_point=zero_points[0])
    if shape.kind == "matmul":
        scale = rng.uniform(0.5, 2.0) / ((high - low) / 4 * np.sqrt(shape.in_channels / shape.groups))
        return scaled_layer(shape, scale, **integers | {"input_zero_point": shape.input_zero_point}, second_zero_point=shape.second_zero_point)
    if shape.kind == "transpose":
        return scaled_layer(shape, 1.0, input_zero_point=0, output_zero_point=0, clip_low=low, clip_high=high)
    if shape.kind in ("max_pool", "average_pool"):
        return scaled_layer(shape, rng.uniform(0.7, 1.4) if shape.kind == "average_pool" else 1.0, **integers)
    w = weights((shape.out_channels, shape.in_channels // shape.groups, shape.kernel_h, shape.kernel_w), weight_bits, rng, kind)
    norm = np.sqrt((w.astype(np.float64) ** 2).sum(axis=(1, 2, 3))) * (high - low) / 4 + 1.0  # standard deviation of the sums, about
    multiplier, shift = quantize_scale(rng.uniform(0.7, 1.4, shape.out_channels) * (high - low) / 4 / norm, shape.name)
    bias = np.clip(np.rint(rng.normal(0.0, norm / 4)), -(2**31), 2**31 - 1).astype(np.int64)
    return QuantizedLayer(shape=shape, weights=w, bias=bias, multiplier=multiplier, shift=shift, **integers)
