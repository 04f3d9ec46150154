"""Tilings of every layer on every architecture, found by one compiled kernel, and the few that are worth evaluating everywhere.

All tilings of `hw.tiling_choice.candidates` are measured. Which of them is fastest depends on the ratio of the clocks. So the
cycle model ranks them at each of `CORE_HZ`, the `KEPT_EACH` fastest of each stay, and those that move the fewest bytes.
"""

from dataclasses import dataclass

import numpy as np
from numba import njit
from numba.np.unsafe.ndarray import to_fixed_tuple
from numpy.typing import NDArray

from fit.cycles import Coefficients, DramTimes, layer_cycles
from hw.lowering import LoweredLayer
from hw.tile_plan import Architecture, Tiling
from hw.tiling import Traffic, measure
from hw.tiling_choice import MAX_CANDIDATES, candidates

CORE_HZ = (40e6, 100e6, 250e6, 500e6, 1e9, 2e9)
"""Core clocks between and beyond which the ranking is taken to change little."""
KEPT_EACH = 2
_ARCHITECTURE, _LAYER, _TILING, _TRAFFIC, _TIMES = (len(kind._fields) for kind in (Architecture, LoweredLayer, Tiling, Traffic, DramTimes))


@dataclass(frozen=True, kw_only=True)
class Tilings:
    """Tilings, one a row, those of one architecture and layer together: rows first[i, j] to first[i, j] + count[i, j] - 1.

    `count` is 0 where a layer fits no tiling. architecture, layer: [rows] indices. tilings [rows, 5], traffic [rows, fields].
    """

    first: NDArray
    count: NDArray
    architecture: NDArray
    layer: NDArray
    tilings: NDArray
    traffic: NDArray

    def only(self, kept: NDArray) -> "Tilings":
        """Those rows that `kept` [rows] marks."""
        before = np.concatenate([[0], np.cumsum(kept)])
        return Tilings(
            first=before[self.first], count=before[self.first + self.count] - before[self.first], architecture=self.architecture[kept],
            layer=self.layer[kept], tilings=self.tilings[kept], traffic=self.traffic[kept],
        )  # fmt: skip


@njit(cache=True)
def _count(architectures, layers, group, count):
    found = np.zeros((MAX_CANDIDATES, _TILING), dtype=np.int64)
    for i in range(architectures.shape[0]):
        a = Architecture(*to_fixed_tuple(architectures[i], _ARCHITECTURE))
        for j in range(layers.shape[1]):
            l = LoweredLayer(*to_fixed_tuple(layers[group[i], j], _LAYER))  # noqa: E741
            count[i, j] = candidates(a, l, found)


@njit(cache=True)
def _measure(architectures, layers, group, first, tilings, traffic):
    found = np.zeros((MAX_CANDIDATES, _TILING), dtype=np.int64)
    for i in range(architectures.shape[0]):
        a = Architecture(*to_fixed_tuple(architectures[i], _ARCHITECTURE))
        for j in range(layers.shape[1]):
            l = LoweredLayer(*to_fixed_tuple(layers[group[i], j], _LAYER))  # noqa: E741
            for c in range(candidates(a, l, found)):
                row = first[i, j] + c
                tilings[row] = found[c]
                m = measure(a, l, Tiling(*to_fixed_tuple(found[c], _TILING)))
                for f in range(_TRAFFIC):
                    traffic[row, f] = m[f]


def find_tilings(architectures: Architecture, layers: NDArray, group: NDArray) -> Tilings:
    """All `Tilings` of architectures (arrays [architectures]); layers [groups, layers, fields of LoweredLayer] are those of `group` [architectures]."""
    table, layers = np.ascontiguousarray(np.stack(architectures, axis=1).astype(np.int64)), np.ascontiguousarray(layers, dtype=np.int64)
    group, count = np.asarray(group, dtype=np.int64), np.zeros((len(table), layers.shape[1]), dtype=np.int64)
    _count(table, layers, group, count)
    first, rows = np.cumsum(count.ravel()).reshape(count.shape) - count, int(count.sum())
    tilings, traffic = np.zeros((rows, _TILING), dtype=np.int64), np.zeros((rows, _TRAFFIC), dtype=np.int64)
    _measure(table, layers, group, first, tilings, traffic)
    architecture, layer = (np.repeat(index.ravel(), count.ravel()) for index in np.indices(count.shape))
    return Tilings(first=first, count=count, architecture=architecture, layer=layer, tilings=tilings, traffic=traffic)


@njit(cache=True)
def _keep(architectures, layers, group, first, count, tilings, traffic, times, moved, core_hz, memory_s, k, kept_each, kept):
    """Mark the rows to keep."""
    merit = np.zeros(MAX_CANDIDATES)
    for i in range(architectures.shape[0]):
        a = Architecture(*to_fixed_tuple(architectures[i], _ARCHITECTURE))
        for j in range(layers.shape[1]):
            l = LoweredLayer(*to_fixed_tuple(layers[group[i], j], _LAYER))  # noqa: E741
            total, begin = count[i, j], first[i, j]
            for which in range(len(core_hz) + 1):
                for c in range(total):
                    row = begin + c
                    if which == len(core_hz):
                        merit[c] = moved[row]
                    else:
                        t, n = Tiling(*to_fixed_tuple(tilings[row], _TILING)), Traffic(*to_fixed_tuple(traffic[row], _TRAFFIC))
                        dram = DramTimes(*to_fixed_tuple(times[row], _TIMES))
                        merit[c] = layer_cycles(a, l, t, n, dram, 1 / core_hz[which], memory_s, k).total
                for _ in range(min(kept_each, total)):
                    best = np.argmin(merit[:total])
                    kept[begin + best] = True
                    merit[best] = np.inf


def worth_evaluating(
    found: Tilings, architectures: Architecture, layers: NDArray, group: NDArray, times: NDArray, memory_s: float, k: Coefficients, kept_each: int = KEPT_EACH
) -> NDArray:  # fmt: skip
    """[rows] which of `found` to keep (see the module); arguments as of `find_tilings`, times [rows, fields of DramTimes]."""
    t = Traffic(*found.traffic.T)
    moved = t.activation_read_bytes + t.weight_read_bytes + t.parameter_read_bytes + t.program_read_bytes + t.output_write_bytes
    kept = np.zeros(len(found.layer), dtype=np.bool_)
    _keep(
        np.ascontiguousarray(np.stack(architectures, axis=1).astype(np.int64)), np.ascontiguousarray(layers, dtype=np.int64), np.asarray(group, dtype=np.int64),
        found.first, found.count, found.tilings, found.traffic, np.ascontiguousarray(times), moved.astype(float), np.array(CORE_HZ), memory_s, k, kept_each,
        kept,
    )  # fmt: skip
    return kept
