"""Legality and traffic of tilings: against brute force, a hand calculation, and each other. (Against programs: test_compiler.)"""

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from strategies import operators_on_configurations, tilings

from hw.config import load_design
from hw.errors import ConfigError
from hw.layers import LayerShape, load_network
from hw.lowering import folds, lower
from hw.tile_plan import pixel_words
from hw.tiling import SPATIAL_OUTER, WEIGHTS_OUTER, Tiling, architecture, measure, measure_arrays, plan
from hw.tiling_choice import choose_tiling, enumerate_tilings

PROPERTY = {"derandomize": True, "deadline": None, "database": None, "suppress_health_check": list(HealthCheck)}


def fits(config, n, t):
    """Whether a tiling is legal, by listing what each tile touches and trying what a bank could hold."""
    array = config.array
    spatial = [(i, y, x) for i in range(n.images) for y in range(0, n.out_h, array.rows * t.tile_h) for x in range(0, n.out_w, t.tile_w)]
    k_tiles = range(0, n.k_per_group, t.tile_k)
    parts = range(0, n.c_groups, t.tile_c)
    split = len(parts) > 1
    # Every kernel position of every output pixel of a stripe; the region is the box around them.
    rows = {y * n.stride_h + r * n.dilation for y in range(t.tile_h) for r in range(n.kernel_h)}
    columns = {x * n.stride_w + q * n.dilation for x in range(t.tile_w) for q in range(n.kernel_w)}
    activation = (max(rows) + 1) * (max(columns) + 1) * t.tile_c
    passes = range(0, t.tile_k, array.cols)
    weight = n.kernel_h * (n.kernel_w // n.taps) * t.tile_c * (1 if split else len(passes))
    output = t.tile_k // array.lanes * t.tile_h * t.tile_w
    if split and n.shared:
        return False
    if n.product and n.kernel_h > 1 and n.c_groups % t.tile_c:
        return False
    if split and (t.tile_k != config.channel_block or t.tile_h * t.tile_w > array.acc_depth):
        return False

    def bank_holds(words, size, things, parts_of_one, groups=n.groups):
        """All of a channel group's; or two tiles, or, if tiles come in parts, two parts. A single thing is not loaded while it is in use."""
        if groups * things == 1:
            return size <= words
        return any(count * size <= words for count in (max(2, things), 2 * parts_of_one, 2 if parts_of_one > 1 else 2 * parts_of_one))

    channels = t.tile_k if n.uniform else n.groups * -(-n.k_per_group // config.channel_block) * config.channel_block
    outputs = n.groups * len(k_tiles) * len(spatial)
    weight_parts = len(parts) * (len(passes) if split else 1)
    return (
        bank_holds(config.activation_words // (2 if n.product > 1 else 1), activation, len(spatial) * len(parts), len(parts))
        and bank_holds(config.weight_words, weight, len(k_tiles) * weight_parts, weight_parts, 1 if n.shared else n.groups)
        and min(2, outputs) * output <= config.output_words
        and (channels <= config.buffers.parameter_words or 2 * t.tile_k <= config.buffers.parameter_words)
    )


@settings(max_examples=400, **PROPERTY)
@given(data=st.data())
def test_a_tiling_is_legal_where_its_tiles_fit(data):
    config, shape = data.draw(operators_on_configurations())
    numbers = lower(config, shape, batch=data.draw(st.integers(1, 3))).numbers
    t = data.draw(tilings(config, numbers, legal=False))
    assert (plan(architecture(config), numbers, t).problem == 0) == fits(config, numbers, t)


@settings(max_examples=60, **PROPERTY)
@given(data=st.data())
def test_enumerated_tilings_are_legal_and_one_is_found_if_any_is(data):
    config, shape = data.draw(operators_on_configurations(max_bank_words=128))
    lowering = lower(config, shape, batch=data.draw(st.integers(1, 2)))
    n = lowering.numbers
    try:
        found = enumerate_tilings(config, lowering)
    except ConfigError:
        found = []
    assert all(fits(config, n, t) for t in found)
    if not found:  # the least tile is a pixel, a block of channels, any part of the input channels
        least = [Tiling(order, 1, 1, config.channel_block, c) for order in (0, 1) for c in range(1, n.c_groups + 1)]
        assert not any(fits(config, n, t) for t in least)


def test_traffic_of_a_small_layer_by_hand():
    """8 to 8 channels, 3x3 with padding 1 on 6x6, on 2 rows, 2 columns, 4 lanes, 4-byte beats; tiles of 2 x 6 pixels a row, 4 output channels.

    Spatial tile 0 makes output rows 0-1 and 2-3 and needs image rows 0-2 and 1-4; tile 1 makes rows 4 and 5 from rows 3-5 and 4-5.
    """
    config = load_design("small")
    shape = LayerShape(name="x", kind="conv", in_channels=8, out_channels=8, in_h=6, in_w=6, kernel_h=3, kernel_w=3,
                       pad_top=1, pad_bottom=1, pad_left=1, pad_right=1)  # fmt: skip
    m = measure(architecture(config), lower(config, shape).numbers, Tiling(WEIGHTS_OUTER, 2, 6, 4, 2))
    # Rows 0-4 and 3-5, each once, in two channel groups of 6 words; both tiles fit the bank, so the second k tile finds them there.
    assert (m.activation_load_words, m.activation_read_bytes, m.activation_runs) == (8 * 2 * 6, 8 * 2 * 6 * 4, 8 * 2)
    # Padding: a row of 8 words above and one below; columns left and right of 4 and of 3 rows.
    assert m.fill_words == 2 * (8 + 8 + 2 * 4 + 2 * 3)
    # Words written: stripes of 3, 4, 3 and 2 image rows; padding rows once, padding columns into both banks.
    assert m.activation_writes == 2 * (12 * 6 + 8 + 8 + 2 * (2 * 4 + 2 * 3))
    assert m.weight_read_bytes == m.weight_load_words * 4 == 8 * 8 * 9
    assert m.parameter_read_bytes == 8 * 8
    assert (m.output_store_words, m.output_write_bytes, m.output_runs) == (2 * 36, 2 * 36 * 4, 2 * 6)
    assert (m.computes, m.output_tiles, m.activation_loads, m.weight_loads) == (4, 4, 2, 2)
    # CONFIGURE; 4 COMPUTE; LOADs of rows {0} {1 2} {3 4} and {3} {4 5}, 3 FILLs each; 2 of weights, 2 of parameters; 2 STOREs a tile.
    assert m.instructions == 1 + 4 + (3 + 3) + (2 + 3) + 2 + 2 + 4 * 2 and m.program_read_bytes == 32 * m.instructions
    # 4 passes over 12 and 6 pixels a row, 9 x 2 steps each; blocks of at most 4 pixels.
    assert m.pixel_steps == 4 * (12 + 6) * 18 and m.pixel_drains == 4 * (12 + 6) * 2
    assert (m.blocks, m.weight_reads) == (4 * (3 + 2), 4 * (3 + 2) * 18 * 2)
    assert m.multiplier_uses == shape.macs == 4 * m.accumulator_accesses == 8 * m.activation_reads
    assert (m.post_outputs, m.parameter_reads, m.output_writes) == (8 * 36, 8 * 18, 4 * 36)


@settings(max_examples=300, **PROPERTY)
@given(taps=st.integers(1, 8), stride=st.integers(1, 6), dilation=st.integers(1, 3), acc_depth=st.sampled_from([1, 2, 4, 8, 16]), height=st.integers(1, 7),
       width=st.integers(1, 20))  # fmt: skip
def test_words_read_side_by_side_are_those_the_pixel_before_did_not_read(taps, stride, dilation, acc_depth, height, width):
    """Against the words themselves, pixel by pixel: a row keeps what it read, but forgets it at the start of a line and of a block; it knows how to go on
    by 1, 2 or 4 words, for other distances it reads all."""
    config = load_design("quad64")
    numbers = lower(config, LayerShape(name="x", kind="average_pool", in_channels=8, in_h=9, in_w=9, kernel_h=3, kernel_w=3)).numbers
    numbers = numbers._replace(taps=taps, stride_w=stride, dilation=dilation)
    read, kept = 0, set()
    for pixel in range(height * width):
        line, x = divmod(pixel, width)
        if x == 0 or pixel % acc_depth == 0 or stride not in (dilation, 2 * dilation, 4 * dilation):
            kept = set()
        wanted = {(line, x * stride + tap * dilation) for tap in range(taps)}
        read += len(wanted - kept)
        kept = wanted
    assert pixel_words(architecture(config)._replace(acc_depth=acc_depth), numbers, height, width) == read


def test_what_stays_in_the_banks_is_not_read_again():
    """A layer that fits no bank: either order reads one operand once, the other once for every tile of the first."""
    config = load_design("medium")
    shape = load_network("alexnet").layers[3]  # conv4: 2 groups, 192 inputs and outputs each, 3x3 on 13x13
    numbers, a = lower(config, shape).numbers, architecture(config)
    once = measure(a, numbers, Tiling(WEIGHTS_OUTER, 2, 7, 16, 24))
    twice = measure(a, numbers, Tiling(WEIGHTS_OUTER, 2, 7, 8, 24))
    spatial = measure(a, numbers, Tiling(SPATIAL_OUTER, 2, 7, 16, 24))
    p = plan(a, numbers, Tiling(WEIGHTS_OUTER, 2, 7, 16, 24))
    assert (p.k_tiles, p.spatial_tiles) == (12, 8)
    assert once.weight_read_bytes == twice.weight_read_bytes == shape.weights
    assert twice.activation_read_bytes == 2 * once.activation_read_bytes == 24 * spatial.activation_read_bytes
    assert spatial.weight_read_bytes == 8 * shape.weights


@pytest.mark.parametrize("design", ["small", "medium", "large"])
@pytest.mark.parametrize("batch", [1, 16])
def test_alexnet_fits_every_design(design, batch):
    config = load_design(design)
    for layer in load_network("alexnet").layers:
        lowering = lower(config, layer, batch=batch, fold=layer.name == "conv1" and folds(layer, config.array.lanes))
        t = choose_tiling(config, lowering)
        m = measure(architecture(config), lowering.numbers, t)
        n = lowering.numbers
        assert fits(config, n, t)
        words = batch * layer.out_h * layer.out_w * -(-layer.out_channels // config.array.lanes)
        assert m.output_store_words == words
        blocks = -(-n.k_per_group // config.channel_block) * config.channel_block
        image = n.groups * blocks * n.c_groups * config.array.lanes * n.kernel_h * n.kernel_w  # with the padding of channels, 8 bits each
        assert layer.weights <= image < 1.25 * layer.weights and m.weight_read_bytes % image == 0
        assert m.multiplier_uses >= batch * layer.macs
        if layer.kind == "conv":
            assert batch * layer.macs > 0.7 * m.pixel_steps * config.multipliers


def test_arrays_broadcast_and_equal_the_scalars():
    config = load_design("large")
    a, n = architecture(config), lower(config, load_network("alexnet").layers[2]).numbers
    heights, widths, orders = np.arange(1, 5)[:, None, None], np.array([4, 7, 13])[:, None], np.array([WEIGHTS_OUTER, SPATIAL_OUTER])
    rows = np.array([2, 4])[:, None, None, None]
    result = measure_arrays(a._replace(rows=rows), n, Tiling(orders, heights, widths, 16, n.c_groups))
    assert result.problem.shape == (2, 4, 3, 2) and {0, 1} <= set(result.problem.ravel())
    for index in np.ndindex(*result.problem.shape):
        r, h, w, o = index
        one = measure(a._replace(rows=int(rows.ravel()[r])), n, Tiling(int(orders[o]), h + 1, int(widths.ravel()[w]), 16, n.c_groups))
        assert [int(field[index]) for field in result] == list(one)


def test_a_layer_that_fits_no_tiling_names_layer_and_buffer():
    config = load_design("small")
    # Even one word of input channels for one output pixel is a region of 91 x 91 words, and the bank has 2048.
    shape = LayerShape(name="giant", kind="conv", in_channels=4, out_channels=4, in_h=100, in_w=100, kernel_h=46, kernel_w=46, dilation=2)
    with pytest.raises(ConfigError, match=r"activation bank must be such that the least tile of layer giant fits, which it does not \(small\)"):
        choose_tiling(config, lower(config, shape))
