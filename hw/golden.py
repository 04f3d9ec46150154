"""The golden model: quantized convolution and fully connected layers, from the mathematics, in exact integers.

    y[n, k, i, j] = clip(round_half_even((bias[k] + sum (x - zx) w) * multiplier[k] / 2^shift[k]) + zy, clip_low, clip_high)

with padding counted as x = zx. Nothing here knows about the hardware. Test data (`random_layer`, `activations`) is
drawn as quantized networks have it: Laplacian weights, rectified activations with a stated fraction of zeros.
"""

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

    `weights` (out_channels, in_channels / groups, kernel_h, kernel_w), any integer type; `bias`, `multiplier`, `shift`
    (out_channels,), int64. `clip_low`, `clip_high` are output values; ReLU is clip_low = output_zero_point.
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

    def __post_init__(self):
        shape, where = self.shape, self.shape.name
        expected = (shape.out_channels, shape.in_channels // shape.groups, shape.kernel_h, shape.kernel_w)
        if self.weights.shape != expected:
            raise ConfigError(f"weights must be of shape {expected}, not {self.weights.shape} ({where})")
        limits = {"bias": (-(2 ** (BIAS_BITS - 1)), 2 ** (BIAS_BITS - 1) - 1), "multiplier": (0, 2**MULTIPLIER_BITS - 1), "shift": (0, 2**SHIFT_BITS - 1)}
        for name, (low, high) in limits.items():
            values = getattr(self, name)
            if values.shape != (shape.out_channels,):
                raise ConfigError(f"{name} must be of shape {(shape.out_channels,)}, not {values.shape} ({where})")
            if values.min() < low or values.max() > high:
                raise ConfigError(f"{name} must be {low} to {high}, not {values.min()} to {values.max()} ({where})")


def quantize_scale(scale: np.ndarray | float) -> tuple[np.ndarray, np.ndarray]:
    """(multiplier, shift) with scale ~ multiplier / 2^shift, 2^15 <= multiplier < 2^16: relative error at most 2^-16.

    `scale` > 0, any shape, between 2^-48 and 2^16.
    """
    scale = np.asarray(scale, dtype=np.float64)
    if not (np.all(scale >= 2.0**-48) and np.all(scale < 2.0**16 - 0.5)):
        raise ConfigError(f"scale must be 2^-48 to 2^16, not {scale.min()} to {scale.max()}")
    mantissa, exponent = np.frexp(scale)
    multiplier = np.rint(mantissa * 2.0**MULTIPLIER_BITS).astype(np.int64)
    shift = MULTIPLIER_BITS - exponent.astype(np.int64)
    carried = multiplier == 2**MULTIPLIER_BITS
    return np.where(carried, multiplier // 2, multiplier), np.where(carried, shift - 1, shift)


def convolve(x: np.ndarray, layer: QuantizedLayer) -> np.ndarray:
    """`sum (x - zx) w`, without bias: x (n, in_channels, in_h, in_w) -> (n, out_channels, out_h, out_w), int64, exact."""
    s = layer.shape
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


def run_layer(layer: QuantizedLayer, x: np.ndarray) -> np.ndarray:
    """The layer's output, int64. x is (n, in_channels, in_h, in_w), or (n, in_channels) for a fully connected layer."""
    expected = (layer.shape.in_channels, layer.shape.in_h, layer.shape.in_w)
    flat = layer.shape.kind == "fc" and x.ndim == 2
    if flat:
        x = x[:, :, None, None]
    if x.ndim != 4 or x.shape[1:] != expected:
        raise ConfigError(f"input must be of shape (n, {', '.join(map(str, expected))}), not {x.shape} ({layer.shape.name})")
    sums = convolve(x, layer) + layer.bias[:, None, None]
    columns = (layer.multiplier[:, None, None], layer.shift[:, None, None])
    y = requantize(sums, *columns, layer.output_zero_point, layer.clip_low, layer.clip_high)
    return y[:, :, 0, 0] if flat else y


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

    `zero_points` are those of input and output. Channels get scales of their own, within a factor of two.
    """
    low, high = value_range(activation_bits)
    w = weights((shape.out_channels, shape.in_channels // shape.groups, shape.kernel_h, shape.kernel_w), weight_bits, rng, kind)
    norm = np.sqrt((w.astype(np.float64) ** 2).sum(axis=(1, 2, 3))) * (high - low) / 4 + 1.0  # standard deviation of the sums, about
    multiplier, shift = quantize_scale(rng.uniform(0.7, 1.4, shape.out_channels) * (high - low) / 4 / norm)
    bias = np.clip(np.rint(rng.normal(0.0, norm / 4)), -(2**31), 2**31 - 1).astype(np.int64)
    return QuantizedLayer(
        shape=shape,
        weights=w,
        bias=bias,
        multiplier=multiplier,
        shift=shift,
        input_zero_point=zero_points[0],
        output_zero_point=zero_points[1],
        clip_low=zero_points[1] if shape.relu else low,
        clip_high=high,
    )
