"""The golden model against plain loops and exact fractions."""

from dataclasses import replace
from fractions import Fraction

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from strategies import operators

from hw.errors import ConfigError
from hw.golden import DATA_KINDS, QuantizedLayer, activations, quantize_scale, random_layer, requantize, run_layer, value_range, weights
from hw.layers import LayerShape


def by_loops(layer, x, other):
    """The definition, one output at a time, in Python's integers and fractions."""
    s, zero = layer.shape, layer.input_zero_point
    x = x.reshape(len(x), s.in_channels, s.in_h, s.in_w)
    y = np.zeros((len(x), s.out_channels, s.out_h, s.out_w), dtype=np.int64)
    inputs, outputs = s.in_channels // s.groups, s.out_channels // s.groups
    for n, k, i, j in np.ndindex(*y.shape):
        group = k // outputs
        window = {}  # (channel of the group, kernel row, kernel column) -> input, where it is in the image
        for c, r, q in np.ndindex(inputs, s.kernel_h, s.kernel_w):
            row, column = i * s.stride_h + r * s.dilation - s.pad_top, j * s.stride_w + q * s.dilation - s.pad_left
            if 0 <= row < s.in_h and 0 <= column < s.in_w and s.kind != "transpose":
                window[c, r, q] = int(x[n, group * inputs + c, row, column]) - zero
        if s.kind in ("conv", "fc"):
            total = int(layer.bias[k]) + sum(value * int(layer.weights[k, *tap]) for tap, value in window.items())
        elif s.kind == "average_pool":
            total = sum(window.values())
        elif s.kind == "max_pool":
            total = max(window.values())
        elif s.kind == "add":
            a, b = window[0, 0, 0], int(other[n, k, i, j]) - layer.second_zero_point
            total = a * int(sum(map(int, layer.weights[0]))) + b * int(sum(map(int, layer.weights[1])))
        elif s.kind == "transpose":
            total = int(x[n, group * inputs + i, k % outputs, 0])
        else:
            total = sum(value * (int(other[n, group * inputs + c, k % outputs, 0]) - layer.second_zero_point) for (c, _, _), value in window.items())
        value = round(Fraction(total * int(layer.multiplier[k]), 2 ** int(layer.shift[k]))) + layer.output_zero_point
        y[n, k, i, j] = min(max(value, layer.clip_low), layer.clip_high)
    return y


@settings(max_examples=100, derandomize=True, deadline=None, database=None)
@given(
    shape=operators(max_size=6, max_channels=8),
    bits=st.sampled_from([(4, 4), (8, 8), (16, 16), (8, 4)]),
    seed=st.integers(0, 2**16),
    kind=st.sampled_from(DATA_KINDS),
)
def test_the_model_is_the_plain_loops(shape, bits, seed, kind):
    rng = np.random.default_rng(seed)
    low, high = value_range(bits[0])
    zero_points = int(rng.integers(low, high + 1)), int(rng.integers(low, high + 1))
    if shape.kind == "matmul":
        shape = shape.model_copy(update={"input_zero_point": zero_points[0], "second_zero_point": zero_points[1]})
    layer = random_layer(shape, rng, *bits, kind, zero_points)
    size = (2, shape.in_channels) if shape.kind == "fc" and shape.in_h == 1 else (2, shape.in_channels, shape.in_h, shape.in_w)
    x, other = activations(size, bits[0], rng, kind, zero_points[0]), None
    if shape.kind in ("add", "matmul"):
        layer = replace(layer, second_zero_point=zero_points[1])
        sizes = (shape.in_h, shape.in_w) if shape.kind == "add" else (shape.out_channels // shape.groups, 1)
        other = activations((2, shape.in_channels, *sizes), bits[0], rng, "uniform")
    np.testing.assert_array_equal(run_layer(layer, x, other).ravel(), by_loops(layer, x, other).ravel())


def test_ties_go_to_the_even_neighbour():
    sums = np.arange(-8, 9)
    one, shift = np.array(1), np.array(1)
    expected = [round(Fraction(int(value), 2)) for value in sums]
    np.testing.assert_array_equal(requantize(sums, one, shift, 0, -128, 127), expected)
    np.testing.assert_array_equal(requantize(sums, one, np.array(0), 0, -128, 127), sums)


def test_a_shift_of_63_leaves_nothing_but_the_rounding():
    np.testing.assert_array_equal(requantize(np.array([-(2**40), 2**40]), np.array(65535), np.array(63), 3, -8, 7), [3, 3])


@settings(max_examples=200, derandomize=True, deadline=None, database=None)
@given(scale=st.floats(2.0**-48, 2.0**15.9))
def test_scales_become_normalised_multipliers(scale):
    multiplier, shift = quantize_scale(scale, "here")
    assert 2**15 <= multiplier < 2**16 and 0 <= shift <= 63
    assert abs(Fraction(int(multiplier), 2 ** int(shift)) / Fraction(scale) - 1) <= Fraction(1, 2**16)


def test_a_scale_just_below_a_power_of_two_carries():
    multiplier, shift = quantize_scale(np.array([1 - 1e-9, 1.0]), "here")
    assert multiplier.tolist() == [32768, 32768] and shift.tolist() == [15, 15]


@pytest.mark.parametrize("scale", [0.0, -1.0, 2.0**-49, 2.0**16, float("nan")])
def test_scales_out_of_range_are_refused(scale):
    with pytest.raises(ConfigError, match="scale must be .*here"):
        quantize_scale(scale, "here")


def test_typical_data_has_the_stated_distributions():
    rng = np.random.default_rng(0)
    x = activations((200_000,), 8, rng, zero_point=-20, zero_fraction=0.6)
    assert abs((x == -20).mean() - 0.6) < 0.03 and x.min() == -20  # a little above: half-normal values round to zero too
    w = weights((200_000,), 8, rng)
    assert w.min() >= -127 and w.max() <= 127
    scale = 127 / np.log(2000)  # of the Laplacian: mean of the magnitude
    assert abs(np.abs(w).mean() / scale - 1) < 0.02
    layer = random_layer(LayerShape(name="x", kind="fc", in_channels=500, out_channels=2000), rng)
    y = run_layer(layer, activations((1, 500), 8, rng))
    assert 10 < y.std() < 90 and (np.abs(y) == 128).mean() < 0.1  # outputs fill the range without clipping much


def test_structured_data_is_what_its_name_says():
    rng = np.random.default_rng(0)
    assert activations((300,), 8, rng, "ramp")[:258].tolist() == list(range(-128, 128)) + [-128, -127]
    assert set(activations((9,), 4, rng, "low")) == {-8} and set(activations((9,), 4, rng, "high")) == {7}
    assert set(activations((9,), 8, rng, "zero", zero_point=5)) == {5}
    assert set(weights((9,), 8, rng, "low")) == {-127}
    assert set(activations((4000,), 4, rng, "uniform")) == set(range(-8, 8))
    with pytest.raises(ConfigError, match="data kind must be one of typical, uniform"):
        activations((3,), 8, rng, "other")


def test_wrong_shapes_and_values_are_refused():
    rng = np.random.default_rng(0)
    layer = random_layer(LayerShape(name="x", kind="fc", in_channels=5, out_channels=2), rng)
    with pytest.raises(ConfigError, match=r"input must be of shape \(n, 5, 1, 1\), not \(1, 6, 1, 1\) \(x\)"):
        run_layer(layer, np.zeros((1, 6), dtype=np.int64))
    fields = {name: getattr(layer, name) for name in layer.__dataclass_fields__}
    with pytest.raises(ConfigError, match="weights must be of shape"):
        QuantizedLayer(**{**fields, "weights": layer.weights[:1]})
    with pytest.raises(ConfigError, match="multiplier must be 0 to 65535, not 65536 to 65536"):
        QuantizedLayer(**{**fields, "multiplier": np.full(2, 65536)})
