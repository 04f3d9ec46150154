"""Products of two activations with zero points, against numpy's integers: what the kernel rows add up to, programs, and what is refused."""

from collections import Counter
from dataclasses import replace
from fractions import Fraction

import numpy as np
import pytest
from hypothesis import HealthCheck, assume, given, settings
from hypothesis import strategies as st
from isa_interpreter import Machine
from strategies import configurations, for_products, tilings, zero_points

from hw.compiler import compile_layer, compile_network
from hw.config import load_design
from hw.errors import ConfigError
from hw.golden import random_layer, value_range
from hw.layers import LayerShape
from hw.lowering import lower
from hw.products import kernel_rows
from hw.tile_plan import STREAM, plan
from hw.tiling import Tiling, architecture, measure

ROWS = {(0, 0): 1, (1, 0): 2, (2, 0): 4, (0, 1): 2, (1, 1): 3, (2, 1): 4, (0, 2): 3, (1, 2): 5, (2, 2): 5}
"""Kernel rows by how many constants either zero point takes: docs/mapping.md."""


def matmul(za=0, zb=0, **sizes):
    return LayerShape(name="m", kind="matmul", **{"in_channels": 10, "out_channels": 6, "in_h": 9} | sizes, input_zero_point=za, second_zero_point=zb)


@pytest.mark.parametrize("bits", [4, 8])
def test_the_rows_add_up_to_the_product(bits):
    """Every pair of 4-bit zero points, and those of 8 bits at the ends and around 0: sum over rows + constant = (a - za)(b - zb), with words that fit."""
    low, high = value_range(bits)
    zeros = range(low, high + 1) if bits == 4 else (low, low + 1, -2, -1, 0, 1, 2, high)
    a, b = np.random.default_rng(0).integers(low, high + 1, (2, 50))
    for za in zeros:
        for zb in zeros:
            rows = kernel_rows(matmul(za, zb), bits)
            assert all(low <= one <= high for one in (*(w for w in rows.weights if w is not None), rows.activation or 0))
            total = np.full(50, za * zb)
            for r, weight in enumerate(rows.weights):
                total += (a if r % 2 == 0 or rows.activation is None else rows.activation) * (b if weight is None else weight)
            np.testing.assert_array_equal(total, (a - za) * (b - zb))
            counts = tuple(0 if zero == 0 else 2 if zero == low else 1 for zero in (za, zb))
            assert len(rows.weights) == ROWS[counts] and rows.second_reads == 1 + counts[0]


def by_numpy(layer, a, b):
    """The definition in numpy's integers and Python's fractions: vectors of a (image, head, channel, i) times those of b (image, head, channel, j)."""
    s = layer.shape
    a, b = (x.reshape(len(x), s.groups, s.in_channels // s.groups, -1) for x in (a, b))
    sums = np.einsum("nhci,nhcj->nhji", a - s.input_zero_point, b - s.second_zero_point)
    scale = Fraction(int(layer.multiplier[0]), 1 << int(layer.shift[0]))
    y = [min(max(round(int(one) * scale) + layer.output_zero_point, layer.clip_low), layer.clip_high) for one in sums.ravel()]
    return np.array(y).reshape(len(a), s.out_channels, s.in_h, 1)


def run(program, a, b, rng):
    """The memory after a program, with random numbers in the second operand's region wherever no value lies."""
    memory, region, layout = program.memory({"m": a, "m.second": b}), program.regions["m.second"], program.layer("m").lowering.second
    values = layout.pack(np.full_like(b, -1))  # ones in the bits of values
    first = region.address - program.base_address
    memory[first : first + region.size_bytes] |= rng.integers(0, 256, region.size_bytes, dtype=np.uint8) & ~values
    writable = [(r.address, r.address + r.size_bytes) for r in program.regions.values() if r.write]
    code = program.program_address - program.base_address
    Machine(program.config, memory, program.base_address, writable, seed=1).run(memory[code : code + program.program_bytes].tobytes())
    return memory


def test_random_products_are_numpys():
    """Designs, sizes, heads, images, zero points and tilings of all kinds."""
    seen = Counter()

    @settings(max_examples=120, derandomize=True, deadline=None, database=None, suppress_health_check=list(HealthCheck))
    @given(data=st.data())
    def check(data):
        draw = data.draw
        config = for_products(draw(configurations(max_bank_words=256)))
        bits, heads, batch = config.precision.activation_bits, draw(st.integers(1, 3)), draw(st.integers(1, 2))
        za, zb = draw(zero_points(bits)), draw(zero_points(bits))
        sizes = {"in_channels": heads * draw(st.integers(1, 40)), "out_channels": heads * draw(st.integers(1, 20)), "in_h": draw(st.integers(1, 20))}
        shape, rng = matmul(za, zb, groups=heads, **sizes), np.random.default_rng(draw(st.integers(0, 2**16)))
        layer = random_layer(shape, rng, bits, bits, zero_points=(0, draw(zero_points(bits))))
        low, high = value_range(bits)
        a = rng.integers(low, high + 1, (batch, shape.in_channels, shape.in_h, 1))
        b = rng.integers(low, high + 1, (batch, shape.in_channels, shape.out_channels // heads, 1))
        lowering = lower(config, shape, batch=batch)
        tiling = draw(tilings(config, lowering.numbers))
        try:
            program = compile_layer(config, layer, batch=batch, tiling=tiling)
        except ConfigError as error:
            assume("bias must fit" not in str(error))
            raise
        np.testing.assert_array_equal(program.output(run(program, a, b, rng)), by_numpy(layer, a, b))
        p, n = plan(architecture(config), lowering.numbers, tiling), lowering.numbers
        seen.update({"least": low in (za, zb), "both least": za == zb == low, "greatest": high in (za, zb), "both": bool(za and zb),
                     "parts": p.c_parts > 1 and n.kernel_h > 1, "parts in turn": p.weights_hold == STREAM and n.kernel_h > 1,
                     "heads and images": heads * batch > 3,
                     "padding": bool(za and shape.in_channels // heads % config.array.lanes), "few lanes": config.array.lanes < config.array.cols,
                     "tiles": p.spatial_tiles > 1 and za != 0, "k tiles": p.k_tiles > 1 and n.kernel_h > 1})  # fmt: skip

    check()
    assert not [what for what, count in seen.items() if not count], seen


def test_steps_and_bytes_by_hand():
    """On the small design, words of 4 lanes: 3 words a vector, 9 vectors in 2 stripes, 6 outputs in 4 passes of 2 columns (2 blocks of 4)."""
    config, tiling = load_design("small"), Tiling(0, 5, 1, 8, 3)
    found = {zeros: measure(architecture(config), lower(config, matmul(*zeros)).numbers, tiling) for zeros in ((0, 0), (7, 0), (0, 7), (7, 7), (-128, -128))}
    steps = 4 * 5 * 3
    rows = {(0, 0): 1, (7, 0): 2, (0, 7): 2, (7, 7): 3, (-128, -128): 5}
    assert {zeros: m.pixel_steps for zeros, m in found.items()} == {zeros: steps * number for zeros, number in rows.items()}
    # Words of the second operand, 2 columns a pass: 4 passes of 3; loaded once for each row that reads it. Constants: one slot of 4 passes of 3.
    assert {zeros: m.weight_load_words for zeros, m in found.items()} == {(0, 0): 24, (7, 0): 48, (0, 7): 48, (7, 7): 72, (-128, -128): 120}
    assert {zeros: m.fill_words for zeros, m in found.items()} == {(0, 0): 0, (7, 0): 15, (0, 7): 0, (7, 7): 15, (-128, -128): 15}
    assert len({(m.activation_read_bytes, m.activation_loads, m.output_write_bytes) for m in found.values()}) == 1


def test_what_does_not_fit_is_refused():
    config = load_design("small")
    narrow = config.model_copy(update={"array": config.array.model_copy(update={"acc_bits": 19})})
    rng = np.random.default_rng(0)
    compile_layer(narrow, random_layer(matmul(), rng))
    with pytest.raises(ConfigError, match=r"acc_bits must be such that a sum of 540672 fits, not 19 \(m\)"):  # 12 lanes x 128 x (128 + 127 + 97)
        compile_layer(narrow, random_layer(matmul(127, 97), rng))
    with pytest.raises(ConfigError, match="zero points of a matmul must be its shape's 3 and 0, not 4 and 0"):
        replace(random_layer(matmul(3), rng), input_zero_point=4)
    with pytest.raises(ConfigError, match=r"input_zero_point must be -128 to 127, not 200 \(m\)"):
        compile_layer(config, random_layer(matmul(200), rng))
    precision = config.precision.model_copy(update={"activation_bits": 16, "weight_bits": 16})
    wide = config.model_copy(update={"precision": precision, "array": config.array.model_copy(update={"acc_bits": 48})})
    with pytest.raises(ConfigError, match="bias must fit 32 bits with the input's zero point folded in, not 12884901888"):
        compile_layer(wide, random_layer(matmul(-32768, -32768), rng, 16, 16))
    assert kernel_rows(matmul(-128, -128), 16).weights == (None, None, 128)  # one constant is enough where there are more bits


def test_a_layer_before_must_leave_the_zero_point_in_lanes_beyond_the_channels():
    config, rng = load_design("small"), np.random.default_rng(0)
    fc = LayerShape(name="fc", kind="fc", in_channels=5, out_channels=10, in_h=9)
    product = random_layer(matmul(5, -3), rng)
    for first, allowed in ((random_layer(fc, rng, zero_points=(0, 5)), True), (random_layer(fc, rng, zero_points=(0, 4)), False),
                           (replace(random_layer(fc, rng, zero_points=(0, 5)), clip_low=6), False)):  # fmt: skip
        if allowed:
            compile_network(config, [first, product])
        else:
            with pytest.raises(ConfigError, match="channels of a head of the output of fc must be a multiple of 4 lanes for layer m"):
                compile_network(config, [first, product])
    whole = random_layer(matmul(5, -3, in_channels=12), rng)
    compile_network(config, [random_layer(fc.model_copy(update={"out_channels": 12}), rng), whole])
