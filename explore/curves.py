"""The time of a layer at one tiling as a function of the core's clock period, as straight pieces, half an octave of clocks at a time.

The cycle model (`fit.cycles.layer_cycles`) is a sum of maxima of times that are proportional to the core's period and times that are
not; only what refreshes add, more of them to a longer layer, is not quite straight. Found once from a few calls, its pieces then cost
next to nothing at every voltage of every design with this tiling.
"""

import numpy as np
from numba import njit
from numba.np.unsafe.ndarray import to_fixed_tuple
from numpy.typing import NDArray

from fit.cycles import Coefficients, DramTimes, layer_cycles
from hw.lowering import LoweredLayer
from hw.tile_plan import Architecture, Tiling
from hw.tiling import Traffic

LONGEST_S, SHORTEST_S = 1 / 100e3, 1 / 20e9
"""Core clock periods that curves cover."""
_FIRST_HZ, _CLOCKS = 20e6, 16
CLOCKS_HZ = _FIRST_HZ * 2.0 ** (np.arange(_CLOCKS) / 2)
"""20 MHz to 3.6 GHz: the middle of each half octave; the first and the last reach to the longest and shortest period."""
EDGES_S = np.concatenate([[LONGEST_S], 1 / (CLOCKS_HZ[:-1] * 2.0**0.25), [SHORTEST_S]])
"""[CLOCKS_HZ + 1] periods at which the half octaves meet, falling."""
MAX_KNOTS = 20
TOLERANCE = 1e-4
"""Relative error at which a straight piece is taken as found."""
_STEP = 1e-4
_ARCHITECTURE, _LAYER, _TILING, _TRAFFIC, _TIMES = (len(kind._fields) for kind in (Architecture, LoweredLayer, Tiling, Traffic, DramTimes))


@njit(cache=True)
def nearest_clock(period_s: float) -> int:
    """Index into `CLOCKS_HZ`; -1 for a period that curves do not cover."""
    if not SHORTEST_S <= period_s <= LONGEST_S:
        return -1
    return min(_CLOCKS - 1, max(0, int(np.floor(2 * np.log2(1 / (_FIRST_HZ * period_s)) + 0.5))))


@njit(cache=True)
def layer_s(
    a: Architecture, l: LoweredLayer, t: Tiling, n: Traffic, dram: DramTimes, core_s: float, memory_s: float, k: Coefficients,  # noqa: E741
    copied_words: float = 0.0, copies: float = 0.0,
) -> float:  # fmt: skip
    """Time of a layer: that of the cycle model, but at least as long as the DRAM is busy."""
    return max(layer_cycles(a, l, t, n, dram, core_s, memory_s, k, copied_words, copies).total * core_s, dram.total_s * k.dram)


_inlined_cycles = njit(cache=True, inline="always")(layer_cycles.py_func)
"""What of the cycle model does not depend on the period is then computed once for several."""


@njit(cache=True)
def layer_times(
    a: Architecture, l: LoweredLayer, t: Tiling, n: Traffic, dram: DramTimes, periods_s: NDArray, number: int, memory_s: float,  # noqa: E741
    k: Coefficients, copied_words: float, copies: float, out: NDArray,
) -> None:  # fmt: skip
    """`layer_s` at the first `number` of `periods_s`, into `out`."""
    for i in range(number):
        out[i] = max(_inlined_cycles(a, l, t, n, dram, periods_s[i], memory_s, k, copied_words, copies).total * periods_s[i], dram.total_s * k.dram)


@njit(cache=True)
def _curve(
    a: Architecture, l: LoweredLayer, t: Tiling, n: Traffic, dram: DramTimes, low_s: float, high_s: float, memory_s: float,  # noqa: E741
    k: Coefficients, copied_words: float, copies: float, knots: NDArray, x: NDArray, y: NDArray,
) -> int:  # fmt: skip
    """Write rows (period, time, slope to the left, slope to the right) of `knots` [MAX_KNOTS, 4] by rising period from low_s to high_s; return how many.

    The straight lines through both ends of an interval meet where its kink is, if it has only one; otherwise there the interval is cut.
    x, y: room for four numbers.
    """
    x[0], x[1], x[2], x[3] = low_s, low_s * (1 + _STEP), high_s * (1 - _STEP), high_s
    layer_times(a, l, t, n, dram, x, 4, memory_s, k, copied_words, copies, y)
    knots[0, 0], knots[0, 1], knots[0, 3] = x[0], y[0], (y[1] - y[0]) / (x[0] * _STEP)
    knots[1, 0], knots[1, 1], knots[1, 2] = x[3], y[3], (y[3] - y[2]) / (x[3] * _STEP)
    count, i = 2, 0
    while i < count - 1 and count < MAX_KNOTS:
        x0, y0, s0 = knots[i, 0], knots[i, 1], knots[i, 3]
        x1, y1, s1 = knots[i + 1, 0], knots[i + 1, 1], knots[i + 1, 2]
        if x1 < x0 * (1 + 1e-2):
            i += 1
            continue
        chord = (y1 - y0) / (x1 - x0)
        if abs(s0 - chord) * (x1 - x0) <= TOLERANCE * y1 and abs(s1 - chord) * (x1 - x0) <= TOLERANCE * y1:
            i += 1  # straight
            continue
        meeting = (y1 - y0 + s0 * x0 - s1 * x1) / (s0 - s1) if s0 != s1 else 0.0
        if not x0 * (1 + _STEP) < meeting < x1 * (1 - _STEP):
            meeting = np.sqrt(x0 * x1)
        x[0], x[1], x[2] = meeting, meeting * (1 - _STEP), meeting * (1 + _STEP)
        layer_times(a, l, t, n, dram, x, 3, memory_s, k, copied_words, copies, y)
        for j in range(count, i + 1, -1):
            knots[j] = knots[j - 1]
        knots[i + 1, 0], knots[i + 1, 1] = meeting, y[0]
        knots[i + 1, 2], knots[i + 1, 3] = (y[0] - y[1]) / (meeting * _STEP), (y[2] - y[0]) / (meeting * _STEP)
        count += 1
        if abs(y[0] - (y0 + s0 * (meeting - x0))) <= TOLERANCE * y[0] and abs(y[0] - (y1 + s1 * (meeting - x1))) <= TOLERANCE * y[0]:
            i += 2  # both pieces are straight
    return count


@njit(cache=True)
def times_at(rows: tuple[NDArray, ...], wanted: NDArray, memory_s: float, k: Coefficients, out: NDArray) -> None:
    """Fill out [rows, CLOCKS_HZ] with `layer_s` at the `wanted` of these clocks. `rows`: numbers, layers, tilings, traffic, times
    [rows, fields], and the words and number of COPYs [rows, 2]."""
    numbers, layers, tilings, traffic, times, copies = rows
    clocks = np.flatnonzero(wanted)
    periods, found = 1 / CLOCKS_HZ[clocks], np.zeros(len(clocks))
    for row in range(len(out)):
        a, l = Architecture(*to_fixed_tuple(numbers[row], _ARCHITECTURE)), LoweredLayer(*to_fixed_tuple(layers[row], _LAYER))  # noqa: E741
        t, n = Tiling(*to_fixed_tuple(tilings[row], _TILING)), Traffic(*to_fixed_tuple(traffic[row], _TRAFFIC))
        dram = DramTimes(*to_fixed_tuple(times[row], _TIMES))
        layer_times(a, l, t, n, dram, periods, len(clocks), memory_s, k, float(copies[row, 0]), float(copies[row, 1]), found)
        for i in range(len(clocks)):
            out[row, clocks[i]] = found[i]


@njit(cache=True)
def curves(rows: tuple[NDArray, ...], at: NDArray, memory_s: float, k: Coefficients, kinks: NDArray, lines: NDArray) -> None:
    """The pieces of each of at [curves, (row, clock)], over the half octave around that clock; `rows` as of `times_at`.

    kinks [curves, MAX_KNOTS - 1]: periods where a piece ends and the next begins, rising, infinite from the last on; lines [curves,
    MAX_KNOTS - 1, 2]: time at period 0 and slope of each piece.
    """
    numbers, layers, tilings, traffic, times, copies = rows
    knots, x, y = np.zeros((MAX_KNOTS, 4)), np.zeros(4), np.zeros(4)
    for i in range(len(at)):
        row, clock = at[i, 0], at[i, 1]
        a, l = Architecture(*to_fixed_tuple(numbers[row], _ARCHITECTURE)), LoweredLayer(*to_fixed_tuple(layers[row], _LAYER))  # noqa: E741
        t, n = Tiling(*to_fixed_tuple(tilings[row], _TILING)), Traffic(*to_fixed_tuple(traffic[row], _TRAFFIC))
        dram = DramTimes(*to_fixed_tuple(times[row], _TIMES))
        copied_words, number = float(copies[row, 0]), float(copies[row, 1])
        count = _curve(a, l, t, n, dram, EDGES_S[clock + 1], EDGES_S[clock], memory_s, k, copied_words, number, knots, x, y)
        kinks[i] = np.inf
        kinks[i, : count - 2] = knots[1 : count - 1, 0]
        for piece in range(count - 1):
            slope = (knots[piece + 1, 1] - knots[piece, 1]) / (knots[piece + 1, 0] - knots[piece, 0])
            lines[i, piece, 0], lines[i, piece, 1] = knots[piece, 1] - slope * knots[piece, 0], slope


@njit(cache=True)
def time_s(kinks: NDArray, lines: NDArray, period_s: float) -> float:
    """The time at a period, of one of `curves`."""
    piece = 0
    while kinks[piece] < period_s:
        piece += 1
    return lines[piece, 0] + lines[piece, 1] * period_s
