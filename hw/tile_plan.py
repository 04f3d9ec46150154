"""Tilings of a layer on a configuration: which are legal, how large their tiles are and which part of the image each needs.

Everything here takes plain numbers (named tuples of integers), is compiled by numba and may be called from other compiled kernels.

A layer is computed tile by tile, channel group after channel group:

    WEIGHTS_OUTER: for k tile: for spatial tile     (a weight tile stays while the image goes by)
    SPATIAL_OUTER: for spatial tile: for k tile     (an activation tile stays while the weights go by)

A spatial tile is `rows` stripes of tile_h x tile_w output pixels of one image, a k tile is tile_k output channels. Usually one
COMPUTE makes a tile. If the input channels are split (tile_c < c_groups) a tile has one output word (tile_k = channel_block) and takes
a COMPUTE for every part of the channels, for every `cols` output channels. A bank holds two tiles in turn, or all tiles of a
channel group if they fit (each is then loaded once), and for split channels also the parts of two tiles, or any two parts. Where a
product's first operand has a zero point the activation banks hold tiles in one half only, and as many constants in the other (`constants_offset`).
"""

from typing import NamedTuple

from numba import njit

from hw.config import DRAM_ALIGNMENT_BYTES, AcceleratorConfig
from hw.lowering import LoweredLayer

WEIGHTS_OUTER, SPATIAL_OUTER = 0, 1
MIN_WEIGHT_PIECE_BYTES = 1024
"""A weight tile that is loaded ahead is split into pieces of at least this size, one a step, so that it does not delay activations."""

LEGAL, ACTIVATION_BANK, WEIGHT_BANK, OUTPUT_BANK, PARAMETER_BANK, SHAPE = range(6)
PROBLEMS = ("", "activation bank", "weight bank", "output bank", "parameter banks", "an instruction's field")
"""Why a tiling is not legal, by `Plan.problem`."""

STREAM, SETS, ALL = range(3)
"""What a bank holds: any two parts in turn; the parts of two tiles in turn; all of a channel group."""


class Architecture(NamedTuple):
    """The configuration's numbers that matter here; words a bank."""

    rows: int
    cols: int
    lanes: int
    acc_depth: int
    post_lanes: int
    activation_bits: int
    weight_bits: int
    activation_words: int
    weight_words: int
    output_words: int
    parameter_words: int
    axi_bytes: int


class Tiling(NamedTuple):
    """See the module. Output rows a stripe, output columns, output channels (a multiple of channel_block), input words."""

    order: int
    tile_h: int
    tile_w: int
    tile_k: int
    tile_c: int


class Plan(NamedTuple):
    """A tiling worked out: counts of tiles of one channel group, sizes of a tile in words of a bank, what the banks hold."""

    problem: int
    y_tiles: int
    x_tiles: int
    spatial_tiles: int
    k_tiles: int
    subtiles: int
    """COMPUTEs over output channels that fill one output word; 1 unless channels are split and cols < lanes."""
    c_parts: int
    region_h: int
    region_w: int
    activation_tile_words: int
    weight_tile_words: int
    output_tile_words: int
    activations_hold: int
    activation_slots: int
    weights_hold: int
    weight_slots: int
    output_slots: int
    parameters_hold: int


def architecture(config: AcceleratorConfig) -> Architecture:
    """The numbers of a configuration."""
    array, precision = config.array, config.precision
    return Architecture(
        rows=array.rows,
        cols=array.cols,
        lanes=array.lanes,
        acc_depth=array.acc_depth,
        post_lanes=array.post_lanes,
        activation_bits=precision.activation_bits,
        weight_bits=precision.weight_bits,
        activation_words=config.activation_words,
        weight_words=config.weight_words,
        output_words=config.output_words,
        parameter_words=config.buffers.parameter_words,
        axi_bytes=config.axi_bytes,
    )


@njit(cache=True)
def ceil_div(a: int, b: int) -> int:
    """a / b rounded up."""
    return -(-a // b)


@njit(cache=True)
def beat_bytes(start: int, size: int, axi_bytes: int) -> int:
    """Bytes of the AXI beats that cover `size` bytes from address `start` on."""
    return (start % axi_bytes + size + axi_bytes - 1) // axi_bytes * axi_bytes


@njit(cache=True)
def _hold(bank: int, tile: int, all_tiles: int, set_tiles: int, total: int) -> tuple[int, int]:
    """(what a bank of `bank` words holds, in how many slots of `tile` words); no slots if not even two tiles fit."""
    slots = max(all_tiles, min(2, total))
    if slots * tile <= bank:
        return ALL, slots
    if 2 * set_tiles * tile <= bank:
        return SETS, 2 * set_tiles
    if set_tiles > 1 and 2 * tile <= bank:
        return STREAM, 2
    return STREAM, 0


@njit(cache=True)
def constants_offset(a: Architecture, l: LoweredLayer) -> int:  # noqa: E741
    """Words of an activation bank from a tile to the constants that odd rows of a product's kernel see in its place, 0 if there are none. Twice that is
    the whole bank, so that addresses, which wrap, come back to the tile in even rows."""
    return a.activation_words // 2 if l.product > 1 else 0


@njit(cache=True)
def plan(a: Architecture, l: LoweredLayer, t: Tiling) -> Plan:  # noqa: E741
    """The tiling worked out, or the first reason why it is not legal in `problem`."""
    block = max(a.cols, a.lanes)
    steps = l.kernel_h * l.kernel_w // l.taps
    y_tiles, x_tiles = ceil_div(l.out_h, a.rows * t.tile_h), ceil_div(l.out_w, t.tile_w)
    spatial, k_tiles, c_parts = l.images * y_tiles * x_tiles, ceil_div(l.k_per_group, t.tile_k), ceil_div(l.c_groups, t.tile_c)
    split = c_parts > 1
    passes = 1 if split else t.tile_k // a.cols
    subtiles = t.tile_k // a.cols if split else 1
    region_h = (t.tile_h - 1) * l.stride_h + (l.kernel_h - 1) * l.dilation + 1
    region_w = (t.tile_w - 1) * l.stride_w + (l.kernel_w - 1) * l.dilation + 1
    activation_tile, weight_tile = region_h * region_w * t.tile_c, passes * steps * t.tile_c
    output_tile = t.tile_k // a.lanes * t.tile_h * t.tile_w
    output_slots = min(2, l.groups * k_tiles * spatial)
    room = a.activation_words - constants_offset(a, l)
    activations_hold, activation_slots = _hold(room, activation_tile, spatial * c_parts, c_parts, l.groups * spatial * c_parts)
    weight_parts = subtiles * c_parts
    weight_groups = 1 if l.shared else l.groups
    weights_hold, weight_slots = _hold(a.weight_words, weight_tile, k_tiles * weight_parts, weight_parts, weight_groups * k_tiles * weight_parts)
    channels = t.tile_k if l.uniform else l.groups * ceil_div(l.k_per_group, block) * block
    parameters_hold = ALL if channels <= a.parameter_words else SETS

    problem = LEGAL
    if t.tile_k % block or t.tile_k > ceil_div(l.k_per_group, block) * block or t.tile_k // a.cols > 255 or t.tile_c > min(l.c_groups, 4095):
        problem = SHAPE
    elif t.tile_h > min(l.out_h, 1023) or t.tile_w > min(l.out_w, 4095) or region_h > 4095 or l.kernel_h > 255 or l.kernel_w > 255:
        problem = SHAPE
    elif max(l.in_plane_bytes, l.out_plane_bytes) >= 1 << 28 or output_tile >= 1 << 14:
        problem = SHAPE
    elif split and l.shared:
        problem = SHAPE
    elif l.product and l.kernel_h > 1 and (l.c_groups % t.tile_c or weight_slots > 4095):  # constant weights keep their places, loaded by one instruction
        problem = SHAPE
    elif split and (t.tile_k != block or t.tile_h * t.tile_w > a.acc_depth):
        problem = SHAPE
    elif activation_slots == 0 or activation_tile >= 1 << 14:
        problem = ACTIVATION_BANK
    elif weight_slots == 0:
        problem = WEIGHT_BANK
    elif output_slots * output_tile > a.output_words:
        problem = OUTPUT_BANK
    elif parameters_hold == SETS and 2 * t.tile_k > a.parameter_words:
        problem = PARAMETER_BANK
    return Plan(
        problem, y_tiles, x_tiles, spatial, k_tiles, subtiles, c_parts, region_h, region_w, activation_tile, weight_tile, output_tile,
        activations_hold, activation_slots, weights_hold, weight_slots, output_slots, parameters_hold,
    )  # fmt: skip


@njit(cache=True)
def stripes(a: Architecture, l: LoweredLayer, t: Tiling, y_tile: int) -> tuple[int, int]:  # noqa: E741
    """(rows a stripe, working rows) of a row of spatial tiles: the last one is shared out evenly again."""
    left = l.out_h - y_tile * a.rows * t.tile_h
    tile_h = min(t.tile_h, ceil_div(left, a.rows))
    return tile_h, min(a.rows, ceil_div(left, tile_h))


@njit(cache=True)
def stripe_rows(a: Architecture, l: LoweredLayer, t: Tiling, y_tile: int, stripe: int) -> tuple[int, int]:  # noqa: E741
    """(first, end) input rows that a stripe needs, in image coordinates: rows beyond the image are padding."""
    tile_h, _ = stripes(a, l, t, y_tile)
    first_out = y_tile * a.rows * t.tile_h + stripe * tile_h
    valid = min(tile_h, l.out_h - first_out)
    first = first_out * l.stride_h - l.pad_top
    return first, first + (valid - 1) * l.stride_h + (l.kernel_h - 1) * l.dilation + 1


@njit(cache=True)
def tile_columns(l: LoweredLayer, t: Tiling, x_tile: int) -> tuple[int, int]:  # noqa: E741
    """(first, end) input columns that a column of spatial tiles needs; columns beyond the image are padding."""
    tile_w = min(t.tile_w, l.out_w - x_tile * t.tile_w)
    first = x_tile * t.tile_w * l.stride_w - l.pad_left
    return first, first + (tile_w - 1) * l.stride_w + (l.kernel_w - 1) * l.dilation + 1


@njit(cache=True)
def inside(first: int, end: int, size: int) -> tuple[int, int, int]:
    """The part of [first, end) that lies in [0, size), and in how many pieces the rest lies."""
    low, high = min(max(first, 0), size), min(max(end, 0), size)
    pieces = 1 if low == high else (first < low) + (high < end)
    return low, high, pieces


@njit(cache=True)
def pixel_words(a: Architecture, l: LoweredLayer, height: int, width: int) -> int:  # noqa: E741
    """Words read for one step over the pixels of a stripe: one each; or with taps, all of them for the first pixel of a line and of a block, and
    for others those that the pixel before did not read."""
    pixels = height * width
    if l.taps == 1:
        return pixels
    new = l.taps
    for count in (1, 2, 4):
        if count < new and l.stride_w == count * l.dilation and width > 1:
            new = count
    one, other = width, a.acc_depth
    while other:
        one, other = other, one % other
    together = width * a.acc_depth // one  # least common multiple: where a line and a block start at once
    starts = height + ceil_div(pixels, a.acc_depth) - ceil_div(pixels, together)
    return starts * l.taps + (pixels - starts) * new


@njit(cache=True)
def weight_pieces(a: Architecture, words: int, steps: int) -> tuple[int, int]:
    """(words a piece, pieces) of a weight tile of `words` words a column that is loaded over `steps` steps; pieces start at 32 bytes."""
    round_bytes = max(1, a.cols * a.lanes * a.weight_bits // 8)
    quantum = max(1, DRAM_ALIGNMENT_BYTES // round_bytes)
    wanted = max(1, min(steps, words * round_bytes // MIN_WEIGHT_PIECE_BYTES))
    size = ceil_div(ceil_div(words, wanted), quantum) * quantum
    return size, ceil_div(words, size)


@njit(cache=True)
def activation_splits(c_groups: int, instructions: int, steps: int) -> int:
    """Into how many (over input words) each instruction of an activation tile is split that is loaded over `steps` steps."""
    return max(1, min(c_groups, steps // instructions))
