"""The time of a layer at one tiling as a function of the core's clock period, as straight pieces.

The cycle model (`fit.cycles.layer_cycles`) is a sum of maxima of times that are proportional to the core's period and times that are
not. Found once from a few calls, its pieces then cost next to nothing at every voltage of every design with this tiling.
"""

import numpy as np
from numba import njit
from numba.np.unsafe.ndarray import to_fixed_tuple

from fit.cycles import Coefficients, DramTimes, layer_cycles
from hw.lowering import LoweredLayer
from hw.tile_plan import Architecture, Tiling
from hw.tiling import Traffic

LONGEST_S, SHORTEST_S = 1 / 100e3, 1 / 20e9
"""Core clock periods that curves cover."""
MAX_KNOTS = 20
TOLERANCE = 1e-4
"""Relative error at which a straight piece is taken as found."""
_STEP = 1e-4
_ARCHITECTURE, _LAYER, _TILING, _TRAFFIC, _TIMES = (len(kind._fields) for kind in (Architecture, LoweredLayer, Tiling, Traffic, DramTimes))


@njit(cache=True)
def layer_s(a, l, t, n, dram, core_s, memory_s, k):  # noqa: E741
    """Time of a layer: that of the cycle model, but at least as long as the DRAM is busy."""
    return max(layer_cycles(a, l, t, n, dram, core_s, memory_s, k).total * core_s, dram.total_s * k.dram)


@njit(cache=True)
def _curve(a, l, t, n, dram, memory_s, k, xs, ys):  # noqa: E741
    """Write knots (periods, times) by rising period; return how many.

    The straight lines through both ends of an interval meet where its kink is, if it has only one; otherwise there the interval is cut.
    """
    xs[0], xs[1] = SHORTEST_S, LONGEST_S
    ys[0], ys[1] = layer_s(a, l, t, n, dram, xs[0], memory_s, k), layer_s(a, l, t, n, dram, xs[1], memory_s, k)
    count, i = 2, 0
    while i < count - 1 and count < MAX_KNOTS:
        x0, x1, y0, y1 = xs[i], xs[i + 1], ys[i], ys[i + 1]
        if x1 < x0 * (1 + 1e-2):
            i += 1
            continue
        s0 = (layer_s(a, l, t, n, dram, x0 * (1 + _STEP), memory_s, k) - y0) / (x0 * _STEP)
        s1 = (y1 - layer_s(a, l, t, n, dram, x1 * (1 - _STEP), memory_s, k)) / (x1 * _STEP)
        chord = (y1 - y0) / (x1 - x0)
        if abs(s0 - chord) * (x1 - x0) <= TOLERANCE * y1 and abs(s1 - chord) * (x1 - x0) <= TOLERANCE * y1:
            i += 1  # straight
            continue
        meeting = (y1 - y0 + s0 * x0 - s1 * x1) / (s0 - s1) if s0 != s1 else 0.0
        if not x0 * (1 + _STEP) < meeting < x1 * (1 - _STEP):
            meeting = np.sqrt(x0 * x1)
        y = layer_s(a, l, t, n, dram, meeting, memory_s, k)
        for j in range(count, i + 1, -1):
            xs[j], ys[j] = xs[j - 1], ys[j - 1]
        xs[i + 1], ys[i + 1] = meeting, y
        count += 1
        if abs(y - (y0 + s0 * (meeting - x0))) <= TOLERANCE * y and abs(y - (y1 + s1 * (meeting - x1))) <= TOLERANCE * y:
            i += 2  # both pieces are straight
    return count


@njit(cache=True)
def curves(numbers, layers, tilings, traffic, times, memory_s, k: Coefficients, kinks, lines):
    """The pieces of every row; numbers, layers, tilings, traffic, times [rows, fields].

    kinks [rows, MAX_KNOTS - 2]: periods where a piece ends and the next begins, rising, infinite from the last on; lines [rows,
    MAX_KNOTS - 1, 2]: time at period 0 and slope of each piece.
    """
    xs, ys = np.zeros(MAX_KNOTS), np.zeros(MAX_KNOTS)
    for row in range(len(kinks)):
        a, l = Architecture(*to_fixed_tuple(numbers[row], _ARCHITECTURE)), LoweredLayer(*to_fixed_tuple(layers[row], _LAYER))  # noqa: E741
        t, n = Tiling(*to_fixed_tuple(tilings[row], _TILING)), Traffic(*to_fixed_tuple(traffic[row], _TRAFFIC))
        count = _curve(a, l, t, n, DramTimes(*to_fixed_tuple(times[row], _TIMES)), memory_s, k, xs, ys)
        kinks[row] = np.inf
        kinks[row, : count - 2] = xs[1 : count - 1]
        for i in range(count - 1):
            slope = (ys[i + 1] - ys[i]) / (xs[i + 1] - xs[i])
            lines[row, i, 0], lines[row, i, 1] = ys[i] - slope * xs[i], slope


@njit(cache=True)
def time_s(kinks, lines, period_s):
    """The time at a period, of one row of `curves`."""
    piece = 0
    for i in range(MAX_KNOTS - 2):
        piece += kinks[i] < period_s
    return lines[piece, 0] + lines[piece, 1] * period_s
