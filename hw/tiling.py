"""What a layer moves and counts, for any tiling. No cycles: those are measured and fitted.

The formulas are written once, on plain numbers, compiled by numba: `plan` (see `hw.tile_plan`) and `measure` take one architecture, layer
and tiling and may be called from other compiled kernels; `measure_arrays` maps `measure` over arrays that broadcast.
The compiler emits what `plan` says; tests compare `measure` with the emitted instructions.
"""

from typing import NamedTuple

import numpy as np
from numba import njit
from numba.np.unsafe.ndarray import to_fixed_tuple
from numpy.typing import NDArray

from hw.config import PARAMETER_BYTES
from hw.isa import INSTRUCTION_BYTES
from hw.lowering import LoweredLayer
from hw.tile_plan import (
    ALL,
    LEGAL,
    PROBLEMS,
    SETS,
    SPATIAL_OUTER,
    STREAM,
    WEIGHTS_OUTER,
    Architecture,
    Plan,
    Tiling,
    activation_splits,
    architecture,
    beat_bytes,
    ceil_div,
    inside,
    pixel_words,
    plan,
    stripe_rows,
    stripes,
    tile_columns,
    weight_pieces,
)  # fmt: skip

__all__ = [
    "ALL", "LEGAL", "PROBLEMS", "SETS", "SPATIAL_OUTER", "STREAM", "WEIGHTS_OUTER", "Architecture", "Plan", "Tiling", "Traffic", "architecture",
    "measure", "measure_arrays", "plan", "stripes",
]  # fmt: skip


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
                    operand_groups = c_groups // l.operands
                    total_bytes += reads * l.operands * beat_bytes(start * l.in_plane_bytes, operand_groups * l.in_plane_bytes, a.axi_bytes)
                    runs += reads * l.operands
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
            tile_instructions = (loads * l.operands if right > left else 0) + fills + (pieces if end - first > right - left else 0)
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


_NOTHING = (0,) * (len(Traffic._fields) - 1)


@njit(cache=True)
def measure(a: Architecture, l: LoweredLayer, t: Tiling) -> Traffic:  # noqa: E741
    """What the layer moves and counts."""
    p = plan(a, l, t)
    if p.problem != LEGAL:
        return Traffic(p.problem, *_NOTHING)
    block = max(a.cols, a.lanes)
    kernel_steps = l.kernel_h * l.kernel_w // l.taps
    steps = kernel_steps * l.c_groups
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
    # Two tiles of a group stay, each in a slot of its own.
    parameter_repeats = p.spatial_tiles if p.parameters_hold == SETS and not weights_outer and p.k_tiles > 2 else 1

    act, out = _activations(a, l, t, p), _outputs(a, l, t, p)
    scale = l.groups * l.images * activation_repeats
    activation_instructions = act.instructions * p.c_parts * scale
    if not weights_outer and p.k_tiles > 1 and p.c_parts == 1:
        activation_instructions = act.split_instructions * scale - act.first_tile_extra

    weight_bytes, weight_instructions, weight_runs, parameter_bytes = 0, 0, 0, 0
    weight_groups = 1 if l.shared else l.groups
    round_bytes = a.cols * a.lanes * a.weight_bits // 8
    for k_tile in range(p.k_tiles):
        tile_k = min(t.tile_k, channels - k_tile * t.tile_k)
        parameter_bytes += ceil_div(tile_k * PARAMETER_BYTES, a.axi_bytes) * a.axi_bytes
        if l.product:  # a run for each word of channels of each pass, but one if all follow on each other; runs do not cross a beat if they are less
            tile_passes = tile_k // a.cols
            if steps == 1:
                weight_bytes += beat_bytes(k_tile * t.tile_k // a.cols * round_bytes, tile_passes * round_bytes, a.axi_bytes)
            else:
                weight_bytes += l.product * tile_passes * l.c_groups * max(round_bytes, a.axi_bytes)
            weight_runs += 1 if steps == 1 else l.product * tile_passes * l.c_groups
            weight_instructions += l.product * p.subtiles * p.c_parts * l.groups
        elif p.c_parts == 1:
            words = tile_k // a.cols * steps
            weight_bytes += ceil_div(words * round_bytes, a.axi_bytes) * a.axi_bytes
            spread = p.spatial_tiles if weights_outer else 1
            weight_instructions += weight_pieces(a, words, spread)[1] * weight_groups
            if k_tile == 0:
                weight_instructions -= weight_pieces(a, words, spread)[1] - 1  # the first tile of the layer is loaded at once
        else:
            for part in range(p.c_parts):
                words = kernel_steps * min(t.tile_c, l.c_groups - part * t.tile_c)
                weight_bytes += p.subtiles * ceil_div(words * round_bytes, a.axi_bytes) * a.axi_bytes
            weight_instructions += p.subtiles * p.c_parts * l.groups
    weight_instructions *= weight_repeats
    weight_runs = weight_runs * l.groups * weight_repeats if l.product else weight_instructions
    weight_bytes *= weight_groups * weight_repeats
    weight_words = passes * a.cols * steps * weight_groups * weight_repeats
    fill_words, constant_instructions = 0, 0
    if l.product and l.kernel_h > 1:  # constants are brought once, into every slot
        rows, slot_passes = l.kernel_h - l.product, p.weight_slots * (t.tile_k // a.cols // p.subtiles)
        weight_words = weight_words // l.kernel_h * l.product + rows * slot_passes * t.tile_c * a.cols
        weight_bytes += rows * slot_passes * beat_bytes(0, t.tile_c * round_bytes, a.axi_bytes)
        weight_runs += rows * slot_passes
        constant_instructions = rows
        if l.product > 1:
            fill_words, constant_instructions = p.activation_slots * p.activation_tile_words, rows + 1
    parameter_loads, parameter_words = l.groups * p.k_tiles * parameter_repeats, channels * l.groups * parameter_repeats
    parameter_bytes *= l.groups * parameter_repeats
    if l.uniform:
        parameter_loads, parameter_words = 1, min(t.tile_k, channels)
        parameter_bytes = ceil_div(parameter_words * PARAMETER_BYTES, a.axi_bytes) * a.axi_bytes
    store_scale = l.groups * l.images
    instructions = 1 + computes + constant_instructions + activation_instructions + weight_instructions + parameter_loads + out.instructions * store_scale

    # Of one image: pixels of one stripe and of all working ones, words read for them in a step, blocks of one pass.
    pixels, row_pixels, words, row_words, blocks = 0, 0, 0, 0, 0
    for y_tile in range(p.y_tiles):
        tile_h, working = stripes(a, l, t, y_tile)
        pixels += tile_h * l.out_w
        row_pixels += tile_h * working * l.out_w
        last_w = l.out_w - (p.x_tiles - 1) * t.tile_w
        tile_words = (p.x_tiles - 1) * pixel_words(a, l, tile_h, t.tile_w) + pixel_words(a, l, tile_h, last_w)
        words += tile_words
        row_words += tile_words * working
        blocks += (p.x_tiles - 1) * ceil_div(tile_h * t.tile_w, a.acc_depth)
        blocks += ceil_div(tile_h * last_w, a.acc_depth)
    passes_all = l.groups * l.images * passes
    return Traffic(
        problem=LEGAL,
        activation_read_bytes=act.bytes * scale,
        weight_read_bytes=weight_bytes,
        parameter_read_bytes=parameter_bytes,
        output_write_bytes=out.bytes * store_scale,
        program_read_bytes=instructions * INSTRUCTION_BYTES,
        activation_runs=act.runs * scale,
        weight_runs=weight_runs,
        parameter_runs=parameter_loads,
        output_runs=out.runs * store_scale,
        activation_load_words=act.words * scale,
        fill_words=act.fill_words * scale + fill_words,
        weight_load_words=weight_words,
        parameter_load_words=parameter_words,
        output_store_words=out.words * store_scale,
        instructions=instructions,
        computes=computes,
        output_tiles=l.groups * p.k_tiles * p.spatial_tiles,
        activation_loads=l.groups * p.spatial_tiles * p.c_parts * activation_repeats,
        weight_loads=weight_groups * p.k_tiles * p.subtiles * p.c_parts * weight_repeats,
        pixel_steps=passes_all * words * steps,
        pixel_drains=passes_all * pixels * (a.cols // a.post_lanes),
        blocks=passes_all * blocks * p.c_parts,
        multiplier_uses=passes_all * row_pixels * steps * a.cols * a.lanes,
        activation_reads=passes_all * row_words * steps,
        activation_writes=act.writes * scale + fill_words * a.rows,
        weight_reads=passes_all * blocks * steps * a.cols,
        accumulator_accesses=passes_all * row_pixels * steps * a.cols,
        post_outputs=passes_all * row_pixels * a.cols,
        parameter_reads=passes_all * pixels * a.cols,
        output_writes=passes_all * row_pixels * ceil_div(a.cols, a.lanes),
    )


_ARCHITECTURE_FIELDS, _LAYER_FIELDS, _TILING_FIELDS = (len(kind._fields) for kind in (Architecture, LoweredLayer, Tiling))


@njit(cache=True)
def _measure_rows(architectures: NDArray, layers: NDArray, tilings: NDArray, result: NDArray) -> None:
    for i in range(result.shape[0]):
        a = Architecture(*to_fixed_tuple(architectures[i], _ARCHITECTURE_FIELDS))
        l = LoweredLayer(*to_fixed_tuple(layers[i], _LAYER_FIELDS))  # noqa: E741
        t = Tiling(*to_fixed_tuple(tilings[i], _TILING_FIELDS))
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
    return Traffic._make(result[:, j].reshape(shape) for j in range(result.shape[1]))
