"""Which tilings are worth looking at, and which one the compiler takes unless it is told otherwise."""

import numpy as np
from numba import njit

from hw.config import AcceleratorConfig
from hw.errors import ConfigError
from hw.lowering import LoweredLayer, Lowering
from hw.tile_plan import LEGAL, PROBLEMS, SPATIAL_OUTER, WEIGHTS_OUTER, Architecture, Tiling, architecture, ceil_div, plan
from hw.tiling import Traffic, measure

MAX_CANDIDATES = 512
"""More than `candidates` ever finds."""
K_CANDIDATES = 2
"""Sizes of k tiles, largest first, that are tried for each spatial tile."""


@njit(cache=True)
def candidates(a: Architecture, l: LoweredLayer, out: np.ndarray) -> int:  # noqa: E741
    """Write legal tilings into the rows of `out` (int64, (MAX_CANDIDATES, 5)); return how many.

    Heights and widths halve from the whole image on; of each, in both orders, the largest k tiles that are legal. Where not even
    the least is, the input channels are split into the fewest parts that are.
    """
    block = max(a.cols, a.lanes)
    blocks = ceil_div(l.k_per_group, block)
    count = 0
    y_parts = 1
    last_h = 0
    while y_parts < 2 * ceil_div(l.out_h, a.rows):
        tile_h = ceil_div(l.out_h, a.rows * y_parts)
        y_parts *= 2
        if tile_h == last_h:
            continue
        last_h = tile_h
        x_parts = 1
        last_w = 0
        while x_parts < 2 * l.out_w:
            tile_w = ceil_div(l.out_w, x_parts)
            x_parts *= 2
            if tile_w == last_w:
                continue
            last_w = tile_w
            for order in (WEIGHTS_OUTER, SPATIAL_OUTER):
                found = 0
                k_blocks = blocks
                while k_blocks > 0 and found < K_CANDIDATES:
                    if order == WEIGHTS_OUTER or k_blocks < blocks:  # with one k tile the orders are the same
                        t = Tiling(order, tile_h, tile_w, k_blocks * block, l.c_groups)
                        if count < out.shape[0] and plan(a, l, t).problem == LEGAL:
                            for i in range(5):
                                out[count, i] = t[i]
                            count += 1
                            found += 1
                    k_blocks = ceil_div(k_blocks, 2) if k_blocks > 1 else 0
                if found == 0 and tile_h * tile_w <= a.acc_depth and not l.shared:
                    c_parts = 2
                    while c_parts < 2 * l.c_groups and found == 0:
                        t = Tiling(order, tile_h, tile_w, block, ceil_div(l.c_groups, c_parts))
                        if count < out.shape[0] and plan(a, l, t).problem == LEGAL:
                            for i in range(5):
                                out[count, i] = t[i]
                            count += 1
                            found += 1
                        c_parts += 1 if c_parts < 16 else c_parts // 4
    return count


COMPUTE_OVERHEAD_STEPS = 16
"""What one COMPUTE more is worth: a preference for larger tiles, not a prediction."""


@njit(cache=True)
def preference(a: Architecture, l: LoweredLayer, t: Tiling, m: Traffic) -> int:  # noqa: E741
    """The compiler's figure of merit for a tiling, the smaller the better: the work of the busiest of array, drain, load engine, store
    engine and memory, plus the first load and the last store, which nothing hides, plus the beats moved, because they cost energy."""
    p = plan(a, l, t)
    weights_a_cycle = max(1, min(a.axi_bytes * 8 // (a.lanes * a.weight_bits), a.cols))
    load = m.activation_load_words + m.fill_words + m.weight_load_words // weights_a_cycle + m.parameter_load_words
    moved = m.activation_read_bytes + m.weight_read_bytes + m.parameter_read_bytes + m.program_read_bytes + m.output_write_bytes
    beats = moved // a.axi_bytes
    busiest = max(m.pixel_steps, m.pixel_drains, load, m.output_store_words, beats)
    first = p.activation_tile_words * min(a.rows, l.out_h) + p.weight_tile_words * a.cols // weights_a_cycle
    last = p.output_tile_words * min(a.rows, l.out_h)
    return busiest + beats + first + last + COMPUTE_OVERHEAD_STEPS * m.computes


def enumerate_tilings(config: AcceleratorConfig, lowering: Lowering) -> list[Tiling]:
    """Legal tilings worth looking at; `ConfigError` naming layer and buffer if there is none."""
    a, numbers = architecture(config), lowering.numbers
    table = np.zeros((MAX_CANDIDATES, len(Tiling._fields)), dtype=np.int64)
    count = candidates(a, numbers, table)
    if count == 0:
        least = plan(a, numbers, Tiling(WEIGHTS_OUTER, 1, 1, config.channel_block, numbers.c_groups if numbers.shared else 1)).problem
        whole = plan(a, numbers, Tiling(WEIGHTS_OUTER, 1, 1, config.channel_block, numbers.c_groups)).problem
        what = PROBLEMS[least or whole]
        raise ConfigError(f"{what} must be such that the least tile of layer {lowering.shape.name} fits, which it does not ({config.name}); make it larger")
    return [Tiling(*(int(value) for value in row)) for row in table[:count]]


def choose_tiling(config: AcceleratorConfig, lowering: Lowering) -> Tiling:
    """The tiling that `preference` ranks first."""
    a, numbers = architecture(config), lowering.numbers
    return min(enumerate_tilings(config, lowering), key=lambda t: preference(a, numbers, t, measure(a, numbers, t)))
