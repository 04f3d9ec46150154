"""Tilings of a layer on a configuration: which are legal, and what they move and count. No cycles: those are measured and fitted.

The formulas are written once, on plain numbers, compiled by numba: `plan` and `measure` take one architecture, layer and
tiling (named tuples of integers) and may be called from other compiled kernels; `measure_arrays` maps `measure` over arrays
that broadcast. The compiler emits what `plan` says; tests compare `measure` with the emitted instructions.

A layer is computed tile by tile, channel group after channel group:

    WEIGHTS_OUTER: for k tile: for spatial tile     (a weight tile stays while the image goes by)
    SPATIAL_OUTER: for spatial tile: for k tile     (an activation tile stays while the weights go by)

A spatial tile is `rows` stripes of tile_h x tile_w output pixels of one image, a k tile is tile_k output channels. Usually one
COMPUTE makes a tile. If the input channels are split (tile_c < c_groups) a tile has one output word (tile_k = channel_block) and takes
a COMPUTE for every part of the channels, for every `cols` output channels. A bank holds two tiles in turn, or all tiles of a
channel group if they fit (each is then loaded once), and for split channels also the parts of two tiles, or any two parts.
"""

from typing import NamedTuple

import numpy as np
from numba import njit
from numba.np.unsafe.ndarray import to_fixed_tuple

from hw.config import DRAM_ALIGNMENT_BYTES, PARAMETER_BYTES, AcceleratorConfig
from hw.isa import INSTRUCTION_BYTES
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


class Traffic(NamedTuple):
    """What a layer moves and counts; all zero but `problem` if the tiling is not legal.

    Bytes are those of whole AXI beats. A run is a contiguous transfer. Words are those the load and store engines handle (a halo word
    written to two banks counts once); weight words are over all columns. Events as in hw.registers.
    """

    problem: int
    activation_read_bytes: int
    weight_read_bytes: int
    parameter_read_bytes: int
    output_write_bytes: int
    program_read_bytes: int
    activation_runs: int
    weight_runs: int
    parameter_runs: int
    output_runs: int
    activation_load_words: int
    fill_words: int
    weight_load_words: int
    parameter_load_words: int
    output_store_words: int
    instructions: int
    computes: int
    output_tiles: int
    activation_loads: int
    """Activation tiles loaded; one for each `c_parts`."""
    weight_loads: int
    pixel_steps: int
    """Reduction steps over all pixels of a stripe and all passes: cycles the array needs if nothing stops it."""
    pixel_drains: int
    """Drain cycles: pixels x passes x cols / post_lanes."""
    blocks: int
    """Blocks of at most acc_depth pixels, over all passes and channel parts."""
    multiplier_uses: int
    activation_reads: int
    activation_writes: int
    weight_reads: int
    accumulator_accesses: int
    post_outputs: int
    parameter_reads: int
    output_writes: int


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
def ceil_div(a, b):
    """a / b rounded up."""
    return -(-a // b)


@njit(cache=True)
def beat_bytes(start, size, axi_bytes):
    """Bytes of the AXI beats that cover `size` bytes from address `start` on."""
    return (start % axi_bytes + size + axi_bytes - 1) // axi_bytes * axi_bytes


@njit(cache=True)
def _hold(bank, tile, all_tiles, set_tiles, total):
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
def plan(a: Architecture, l: LoweredLayer, t: Tiling) -> Plan:  # noqa: E741
    """The tiling worked out, or the first reason why it is not legal in `problem`."""
    block = max(a.cols, a.lanes)
    steps = l.kernel_h * l.kernel_w
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
    activations_hold, activation_slots = _hold(a.activation_words, activation_tile, spatial * c_parts, c_parts, l.groups * spatial * c_parts)
    weight_parts = subtiles * c_parts
    weights_hold, weight_slots = _hold(a.weight_words, weight_tile, k_tiles * weight_parts, weight_parts, l.groups * k_tiles * weight_parts)
    channels = l.groups * ceil_div(l.k_per_group, block) * block
    parameters_hold = ALL if channels <= a.parameter_words else SETS

    problem = LEGAL
    if t.tile_k % block or t.tile_k > ceil_div(l.k_per_group, block) * block or t.tile_k // a.cols > 255 or t.tile_c > min(l.c_groups, 4095):
        problem = SHAPE
    elif t.tile_h > min(l.out_h, 1023) or t.tile_w > min(l.out_w, 4095) or region_h > 4095 or l.kernel_h > 255 or l.kernel_w > 255:
        problem = SHAPE
    elif max(l.in_plane_bytes, l.out_plane_bytes) >= 1 << 28 or output_tile >= 1 << 14:
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
def stripes(a: Architecture, l: LoweredLayer, t: Tiling, y_tile: int):  # noqa: E741
    """(rows a stripe, working rows) of a row of spatial tiles: the last one is shared out evenly again."""
    left = l.out_h - y_tile * a.rows * t.tile_h
    tile_h = min(t.tile_h, ceil_div(left, a.rows))
    return tile_h, min(a.rows, ceil_div(left, tile_h))


@njit(cache=True)
def stripe_rows(a: Architecture, l: LoweredLayer, t: Tiling, y_tile: int, stripe: int):  # noqa: E741
    """(first, end) input rows that a stripe needs, in image coordinates: rows beyond the image are padding."""
    tile_h, _ = stripes(a, l, t, y_tile)
    first_out = y_tile * a.rows * t.tile_h + stripe * tile_h
    valid = min(tile_h, l.out_h - first_out)
    first = first_out * l.stride_h - l.pad_top
    return first, first + (valid - 1) * l.stride_h + (l.kernel_h - 1) * l.dilation + 1


@njit(cache=True)
def tile_columns(l: LoweredLayer, t: Tiling, x_tile: int):  # noqa: E741
    """(first, end) input columns that a column of spatial tiles needs; columns beyond the image are padding."""
    tile_w = min(t.tile_w, l.out_w - x_tile * t.tile_w)
    first = x_tile * t.tile_w * l.stride_w - l.pad_left
    return first, first + (tile_w - 1) * l.stride_w + (l.kernel_w - 1) * l.dilation + 1


@njit(cache=True)
def inside(first: int, end: int, size: int):
    """The part of [first, end) that lies in [0, size), and in how many pieces the rest lies."""
    low, high = min(max(first, 0), size), min(max(end, 0), size)
    pieces = 1 if low == high else (first < low) + (high < end)
    return low, high, pieces


@njit(cache=True)
def weight_pieces(a: Architecture, words: int, steps: int):
    """(words a piece, pieces) of a weight tile of `words` words a column that is loaded over `steps` steps; pieces start at 32 bytes."""
    round_bytes = max(1, a.cols * a.lanes * a.weight_bits // 8)
    quantum = max(1, DRAM_ALIGNMENT_BYTES // round_bytes)
    wanted = max(1, min(steps, words * round_bytes // MIN_WEIGHT_PIECE_BYTES))
    size = ceil_div(ceil_div(words, wanted), quantum) * quantum
    return size, ceil_div(words, size)


@njit(cache=True)
def activation_splits(c_groups: int, instructions: int, steps: int):
    """Into how many (over input words) each instruction of an activation tile is split that is loaded over `steps` steps."""
    return max(1, min(c_groups, steps // instructions))


class _Activations(NamedTuple):
    """One load of every activation tile of one image and channel group."""

    bytes: int
    runs: int
    words: int
    fill_words: int
    writes: int
    instructions: int
    split_instructions: int
    """The same if every tile is loaded over the k tiles."""
    first_tile_extra: int
    """How many of those more than the unsplit ones belong to the first tile."""


@njit(cache=True)
def _activations(a: Architecture, l: LoweredLayer, t: Tiling, p: Plan) -> _Activations:  # noqa: E741
    word = a.lanes * a.activation_bits // 8
    x_words, x_bytes, x_runs, x_pads, x_width = 0, 0, 0, 0, 0  # of one row of the image, over all tiles
    for x_tile in range(p.x_tiles):
        first, end = tile_columns(l, t, x_tile)
        left, right, _ = inside(first, end, l.in_w)
        x_words += right - left
        x_width += end - first
        if right > left:
            x_runs += 1
            x_bytes += beat_bytes(left * word, (right - left) * word, a.axi_bytes)
    x_pads = x_width - x_words
    whole_rows = p.x_tiles == 1 and x_words == p.region_w and l.in_row_bytes == x_words * word

    total_bytes, runs, words, fill_words, writes, instructions, split_instructions, first_tile_extra = 0, 0, 0, 0, 0, 0, 0, 0
    for y_tile in range(p.y_tiles):
        tile_h, working = stripes(a, l, t, y_tile)
        loads, fills, fill_rows = 0, 0, 0
        for stripe in range(working):
            first, end = stripe_rows(a, l, t, y_tile, stripe)
            top, bottom, pieces = inside(first, end, l.in_h)
            fills += pieces if top == bottom or end - first > bottom - top else 0
            fill_rows += (end - first) - (bottom - top)

        # Rows that the same stripes need are loaded together, once for every two of these stripes.
        first, first_end = stripe_rows(a, l, t, y_tile, 0)
        region_rows, pitch = first_end - first, tile_h * l.stride_h
        row, _, _ = inside(first, first_end, l.in_h)
        _, last, _ = inside(*stripe_rows(a, l, t, y_tile, working - 1), l.in_h)
        while row < last:
            begun = min(working, (row - first) // pitch + 1)
            ended = min(working - 1, max(0, (row - first_end) // pitch + 1))
            until = last
            if begun < working:
                until = min(until, first + begun * pitch)
            if ended < working - 1:
                until = min(until, first_end + ended * pitch)
            rows, sharing = until - row, begun - ended
            reads = ceil_div(sharing, 2)
            loads += reads
            words += reads * rows * x_words * l.c_groups
            writes += sharing * rows * x_words * l.c_groups
            if not whole_rows:
                total_bytes += reads * rows * x_bytes * l.c_groups
                runs += reads * rows * x_runs * l.c_groups
            elif rows == p.region_h and rows * l.in_row_bytes == l.in_plane_bytes:
                for part in range(p.c_parts):
                    start, c_groups = part * t.tile_c, min(t.tile_c, l.c_groups - part * t.tile_c)
                    total_bytes += reads * beat_bytes(start * l.in_plane_bytes, c_groups * l.in_plane_bytes, a.axi_bytes)
                    runs += reads
            else:  # planes that are not aligned to beats lie within one
                start = row * l.in_row_bytes if l.in_plane_bytes % a.axi_bytes == 0 else 0
                total_bytes += reads * l.c_groups * beat_bytes(start, rows * l.in_row_bytes, a.axi_bytes)
                runs += reads * l.c_groups
            row = until

        fill_words += (fill_rows * x_width + region_rows * x_pads) * l.c_groups
        writes += (fill_rows * x_width + region_rows * x_pads * working) * l.c_groups
        for x_tile in range(p.x_tiles):
            first, end = tile_columns(l, t, x_tile)
            left, right, pieces = inside(first, end, l.in_w)
            tile_instructions = (loads if right > left else 0) + fills + (pieces if end - first > right - left else 0)
            split = tile_instructions * activation_splits(l.c_groups, tile_instructions, p.k_tiles)
            instructions += tile_instructions
            split_instructions += split
            if y_tile == 0 and x_tile == 0:
                first_tile_extra = split - tile_instructions
    return _Activations(total_bytes, runs, words, fill_words, writes, instructions, split_instructions, first_tile_extra)


class _Outputs(NamedTuple):
    """One store of every output tile of one image and channel group."""

    bytes: int
    runs: int
    words: int
    instructions: int


@njit(cache=True)
def _outputs(a: Architecture, l: LoweredLayer, t: Tiling, p: Plan) -> _Outputs:  # noqa: E741
    word = a.lanes * a.activation_bits // 8
    planes = ceil_div(l.k_per_group, a.lanes)
    tile_planes = t.tile_k // a.lanes
    x_bytes = 0
    for x_tile in range(p.x_tiles):
        start = x_tile * t.tile_w
        x_bytes += beat_bytes(start * word, min(t.tile_w, l.out_w - start) * word, a.axi_bytes)
    whole_rows = p.x_tiles == 1 and l.out_row_bytes == l.out_w * word

    total_bytes, runs, words, instructions = 0, 0, 0, 0
    for y_tile in range(p.y_tiles):
        tile_h, working = stripes(a, l, t, y_tile)
        instructions += working * p.x_tiles * p.k_tiles
        for stripe in range(working):
            row = y_tile * a.rows * t.tile_h + stripe * tile_h
            rows = min(tile_h, l.out_h - row)
            words += rows * l.out_w * planes
            if not whole_rows:
                total_bytes += rows * x_bytes * planes
                runs += rows * p.x_tiles * planes
            elif rows == t.tile_h and rows * l.out_row_bytes == l.out_plane_bytes:
                for k_tile in range(p.k_tiles):
                    count = min(tile_planes, planes - k_tile * tile_planes)
                    total_bytes += beat_bytes(k_tile * tile_planes * l.out_plane_bytes, count * l.out_plane_bytes, a.axi_bytes)
                    runs += 1
            else:
                start = row * l.out_row_bytes if l.out_plane_bytes % a.axi_bytes == 0 else 0
                total_bytes += planes * beat_bytes(start, rows * l.out_row_bytes, a.axi_bytes)
                runs += planes
    return _Outputs(total_bytes, runs, words, instructions)


@njit(cache=True)
def measure(a: Architecture, l: LoweredLayer, t: Tiling) -> Traffic:  # noqa: E741
    """What the layer moves and counts."""
    p = plan(a, l, t)
    if p.problem != LEGAL:
        return Traffic(p.problem, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0)
    block = max(a.cols, a.lanes)
    taps = l.kernel_h * l.kernel_w
    steps = taps * l.c_groups
    channels = ceil_div(l.k_per_group, block) * block
    passes = channels // a.cols
    weights_outer = t.order == WEIGHTS_OUTER
    computes = l.groups * p.k_tiles * p.spatial_tiles * p.subtiles * p.c_parts

    # How often each activation tile, weight tile and parameter tile is loaded.
    if p.activations_hold == STREAM:
        activation_repeats = p.k_tiles * p.subtiles
    else:
        activation_repeats = p.k_tiles if p.activations_hold == SETS and weights_outer else 1
    if p.weights_hold == STREAM:
        weight_repeats = p.spatial_tiles
    else:
        weight_repeats = p.spatial_tiles if p.weights_hold == SETS and not weights_outer and p.k_tiles > 1 else 1
    parameter_repeats = p.spatial_tiles if p.parameters_hold == SETS and not weights_outer and p.k_tiles > 1 else 1

    act, out = _activations(a, l, t, p), _outputs(a, l, t, p)
    scale = l.groups * l.images * activation_repeats
    activation_instructions = act.instructions * p.c_parts * scale
    if not weights_outer and p.k_tiles > 1 and p.c_parts == 1:
        activation_instructions = act.split_instructions * scale - act.first_tile_extra

    weight_bytes, weight_instructions, parameter_bytes = 0, 0, 0
    round_bytes = a.cols * a.lanes * a.weight_bits // 8
    for k_tile in range(p.k_tiles):
        tile_k = min(t.tile_k, channels - k_tile * t.tile_k)
        parameter_bytes += ceil_div(tile_k * PARAMETER_BYTES, a.axi_bytes) * a.axi_bytes
        if p.c_parts == 1:
            words = tile_k // a.cols * steps
            weight_bytes += ceil_div(words * round_bytes, a.axi_bytes) * a.axi_bytes
            spread = p.spatial_tiles if weights_outer else 1
            weight_instructions += weight_pieces(a, words, spread)[1] * l.groups
            if k_tile == 0:
                weight_instructions -= weight_pieces(a, words, spread)[1] - 1  # the first tile of the layer is loaded at once
        else:
            for part in range(p.c_parts):
                words = taps * min(t.tile_c, l.c_groups - part * t.tile_c)
                weight_bytes += p.subtiles * ceil_div(words * round_bytes, a.axi_bytes) * a.axi_bytes
            weight_instructions += p.subtiles * p.c_parts * l.groups
    weight_instructions *= weight_repeats
    parameter_loads = l.groups * p.k_tiles * parameter_repeats
    store_scale = l.groups * l.images
    instructions = 1 + computes + activation_instructions + weight_instructions + parameter_loads + out.instructions * store_scale

    pixels, row_pixels, blocks = 0, 0, 0  # of one image: of one stripe, of all working stripes, blocks of one pass
    for y_tile in range(p.y_tiles):
        tile_h, working = stripes(a, l, t, y_tile)
        pixels += tile_h * l.out_w
        row_pixels += tile_h * working * l.out_w
        blocks += (p.x_tiles - 1) * ceil_div(tile_h * t.tile_w, a.acc_depth)
        blocks += ceil_div(tile_h * (l.out_w - (p.x_tiles - 1) * t.tile_w), a.acc_depth)
    passes_all = l.groups * l.images * passes
    return Traffic(
        problem=LEGAL,
        activation_read_bytes=act.bytes * scale,
        weight_read_bytes=weight_bytes * l.groups * weight_repeats,
        parameter_read_bytes=parameter_bytes * l.groups * parameter_repeats,
        output_write_bytes=out.bytes * store_scale,
        program_read_bytes=instructions * INSTRUCTION_BYTES,
        activation_runs=act.runs * scale,
        weight_runs=weight_instructions,
        parameter_runs=parameter_loads,
        output_runs=out.runs * store_scale,
        activation_load_words=act.words * scale,
        fill_words=act.fill_words * scale,
        weight_load_words=passes * a.cols * steps * l.groups * weight_repeats,
        parameter_load_words=channels * l.groups * parameter_repeats,
        output_store_words=out.words * store_scale,
        instructions=instructions,
        computes=computes,
        output_tiles=l.groups * p.k_tiles * p.spatial_tiles,
        activation_loads=l.groups * p.spatial_tiles * p.c_parts * activation_repeats,
        weight_loads=l.groups * p.k_tiles * p.subtiles * p.c_parts * weight_repeats,
        pixel_steps=passes_all * pixels * steps,
        pixel_drains=passes_all * pixels * (a.cols // a.post_lanes),
        blocks=passes_all * blocks * p.c_parts,
        multiplier_uses=passes_all * row_pixels * steps * a.cols * a.lanes,
        activation_reads=passes_all * row_pixels * steps,
        activation_writes=act.writes * scale,
        weight_reads=passes_all * blocks * steps * a.cols,
        accumulator_accesses=passes_all * row_pixels * steps * a.cols,
        post_outputs=passes_all * row_pixels * a.cols,
        parameter_reads=passes_all * pixels * a.cols,
        output_writes=passes_all * row_pixels * ceil_div(a.cols, a.lanes),
    )


@njit(cache=True)
def _measure_rows(architectures, layers, tilings, result):
    for i in range(result.shape[0]):
        a = Architecture(*to_fixed_tuple(architectures[i], 12))
        l = LoweredLayer(*to_fixed_tuple(layers[i], 20))  # noqa: E741
        t = Tiling(*to_fixed_tuple(tilings[i], 5))
        row = measure(a, l, t)
        for j in range(len(row)):
            result[i, j] = row[j]


def measure_arrays(a: Architecture, l: LoweredLayer, t: Tiling) -> Traffic:  # noqa: E741
    """`measure` over arrays: every field of the arguments is an integer or an array, all of which broadcast; so is every field returned."""
    fields = np.broadcast_arrays(*(np.asarray(value, dtype=np.int64) for value in (*a, *l, *t)))
    shape = fields[0].shape
    rows = np.ascontiguousarray(np.stack([field.ravel() for field in fields], axis=1))
    ends = np.cumsum([len(a), len(l), len(t)])
    result = np.empty((rows.shape[0], len(Traffic._fields)), dtype=np.int64)
    _measure_rows(rows[:, : ends[0]], rows[:, ends[0] : ends[1]], rows[:, ends[1] :], result)
    return Traffic(*(result[:, j].reshape(shape) for j in range(result.shape[1])))
