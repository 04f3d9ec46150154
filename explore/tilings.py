"""The tiling of every layer on every architecture of one array, at each of a list of clocks.

All tilings of `hw.tiling_choice.candidates` are looked at. What they are depends on the array, the banks and acc_depth only; what one of
them moves depends on the banks only through what these hold at once (`hw.tile_plan`). So the banks' combinations share
nearly all work: every different tiling is measured once, ranked by a rough time at `ROUGH_HZ`, and of each combination the
`KEPT` best of each clock and the one that moves the fewest bytes get their curve (`explore.curves`). Among these the
objective decides at each of `CLOCKS_HZ`; between clocks the nearest one's tiling is used.
"""

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
from numba import njit
from numba.np.unsafe.ndarray import to_fixed_tuple
from numpy.typing import NDArray

from explore.curves import LONGEST_S, MAX_KNOTS, SHORTEST_S, curves, time_s
from fit.cycles import Coefficients, DramTimes, DramUse, dram_use
from hw.config import PARAMETER_BYTES
from hw.dram import DramPart
from hw.errors import ModelError
from hw.lowering import LoweredLayer
from hw.tile_plan import Architecture, Tiling, plan
from hw.tiling import Traffic, measure
from hw.tiling_choice import MAX_CANDIDATES, candidates

_FIRST_HZ, _CLOCKS = 20e6, 16
CLOCKS_HZ = _FIRST_HZ * 2.0 ** (np.arange(_CLOCKS) / 2)
"""20 MHz to 3.6 GHz."""
ROUGH_HZ = (40e6, 160e6, 500e6, 1.6e9)
KEPT = 2
_A = {name: i for i, name in enumerate(Architecture._fields)}
_ARCHITECTURE, _LAYER, _TILING, _TRAFFIC = (len(kind._fields) for kind in (Architecture, LoweredLayer, Tiling, Traffic))
_BANKS = (_A["activation_words"], _A["weight_words"], _A["output_words"])
_POST, _DRAINS = _A["post_lanes"], Traffic._fields.index("pixel_drains")
_SHARED = ("activation_words", "weight_words", "output_words", "acc_depth", "parameter_words")
"""What decides which tilings are legal, besides the array."""
_TIMED = ("acc_depth", "post_lanes", "axi_bytes", "parameter_words")
"""What decides what a tiling moves and how long it takes, besides the array and what the banks hold."""


@dataclass(frozen=True, kw_only=True)
class Searched:
    """Rows of tilings worth looking at, and which of them each group of architectures takes.

    group [architectures]; choice [groups, layers, CLOCKS_HZ] indices of rows, -1 where a layer fits no tiling. Of the rows: numbers, tilings, traffic,
    times [rows, fields], layer [rows], use (the DRAM's), and kinks, lines of their curves (`explore.curves`).
    """

    group: NDArray
    choice: NDArray
    numbers: NDArray
    layer: NDArray
    tilings: NDArray
    traffic: NDArray
    times: NDArray
    use: DramUse
    kinks: NDArray
    lines: NDArray


@njit(cache=True)
def _slot(keys, key):
    """Place of `key` in an open-addressed table, or of the free place (-1) where it belongs."""
    place = (key * 0x9E3779B1) & (len(keys) - 1)
    while keys[place] != -1 and keys[place] != key:
        place = (place + 1) & (len(keys) - 1)
    return place


@njit(cache=True)
def _enumerate(variants, layers, first, count):
    """All legal tilings of each of `variants` [variants, fields of Architecture] and layer, different ones numbered in the order they are found.

    Returns members (tiling numbers; those of a variant and layer are first[v, j] to first[v, j] + count[v, j] - 1), and of each tiling number
    its fields, layer and a variant that has it.
    """
    found = np.zeros((MAX_CANDIDATES, _TILING), dtype=np.int64)
    members = np.zeros(1 << 14, dtype=np.int32)
    tilings, origin = np.zeros((1 << 10, _TILING), dtype=np.int64), np.zeros((1 << 10, 2), dtype=np.int64)
    used, different = 0, 0
    keys, numbers = np.empty(1 << 14, dtype=np.int64), np.empty(1 << 14, dtype=np.int32)
    for j in range(layers.shape[0]):
        l = LoweredLayer(*to_fixed_tuple(layers[j], _LAYER))  # noqa: E741
        keys[:] = -1
        for v in range(variants.shape[0]):
            a = Architecture(*to_fixed_tuple(variants[v], _ARCHITECTURE))
            total = candidates(a, l, found)
            first[v, j], count[v, j] = used, total
            if used + total > len(members):
                members = np.concatenate((members, np.zeros(len(members) + total, dtype=np.int32)))
            for c in range(total):
                t = Tiling(*to_fixed_tuple(found[c], _TILING))
                p = plan(a, l, t)
                key = t.order + 2 * (t.tile_h + 1024 * (t.tile_w + 4096 * (t.tile_k + 65536 * t.tile_c)))
                key = (key * 3 + p.activations_hold) * 3 + p.weights_hold
                place = _slot(keys, key)
                if keys[place] == -1:
                    if different == len(tilings):
                        tilings = np.concatenate((tilings, np.zeros_like(tilings)))
                        origin = np.concatenate((origin, np.zeros_like(origin)))
                    keys[place], numbers[place] = key, different
                    tilings[different], origin[different, 0], origin[different, 1] = found[c], j, v
                    different += 1
                members[used] = numbers[place]
                used += 1
    return members[:used], tilings[:different], origin[:different, 0], origin[:different, 1]


@njit(cache=True)
def _rough_s(a, n, core_s, memory_s, byte_s):
    """About how long a layer takes: its busiest part, the first load and last store, and something for each COMPUTE."""
    word, weight_word, beat = a.lanes * a.activation_bits / 8, a.lanes * a.weight_bits / 8, a.axi_bytes
    side_by_side = max(1.0, min(beat // weight_word, a.cols))
    moved = n.activation_read_bytes + n.weight_read_bytes + n.parameter_read_bytes + n.program_read_bytes + n.output_write_bytes
    runs = n.activation_runs + n.weight_runs + n.parameter_runs + n.output_runs
    load = n.activation_load_words * max(1.0, word / beat) + n.fill_words + n.weight_load_words * max(1.0 / side_by_side, weight_word / beat)
    load += n.parameter_load_words * max(1.0, PARAMETER_BYTES / beat) + 3.0 * n.instructions
    array = max(n.pixel_steps, n.pixel_drains) + 4.0 * n.computes
    store = n.output_store_words * max(1.0, word / beat)
    ends = n.activation_read_bytes / max(1, n.activation_loads) + n.weight_read_bytes / max(1, n.weight_loads)
    ends = (ends + n.output_write_bytes / max(1, n.output_tiles)) * max(core_s / beat, memory_s / beat, byte_s)
    waiting = n.computes * (40.0 * core_s + 30.0 * memory_s + 60e-9) / 2
    return max(array * core_s, load * core_s, store * core_s, moved * byte_s, (moved / beat + 0.5 * runs) * memory_s, waiting) + ends


@njit(cache=True)
def _measure_all(structures, like, variants, layers, tilings, layer, variant, memory_s, byte_s, rough_hz, traffic, merits):
    """Fill traffic [structures, tilings, fields], measured for one structure of those that are `like` it, and merits [structures, tilings,
    clocks + 1]: rough times, then bytes moved."""
    for s in range(structures.shape[0]):
        for u in range(tilings.shape[0]):
            numbers = structures[s].copy()
            for field in _BANKS:
                numbers[field] = variants[variant[u], field]
            a, l = Architecture(*to_fixed_tuple(numbers, _ARCHITECTURE)), LoweredLayer(*to_fixed_tuple(layers[layer[u]], _LAYER))  # noqa: E741
            if like[s] == s:
                measured = measure(a, l, Tiling(*to_fixed_tuple(tilings[u], _TILING)))
                for f in range(_TRAFFIC):
                    traffic[s, u, f] = measured[f]
            else:  # post lanes change nothing but how long draining takes
                traffic[s, u] = traffic[like[s], u]
                traffic[s, u, _DRAINS] = traffic[like[s], u, _DRAINS] * structures[like[s], _POST] // a.post_lanes
            n = Traffic(*to_fixed_tuple(traffic[s, u], _TRAFFIC))
            for c in range(len(rough_hz)):
                merits[s, u, c] = _rough_s(a, n, 1 / rough_hz[c], memory_s, byte_s)
            moved = n.activation_read_bytes + n.weight_read_bytes + n.parameter_read_bytes + n.program_read_bytes + n.output_write_bytes
            merits[s, u, len(rough_hz)] = moved


@njit(cache=True)
def _keep(groups, members, first, count, merits, kept_each, best, marked):
    """best [groups, layers, kept]: of each group (variant, structure) the tilings of least merit, -1 filled; marked [structures, tilings]."""
    clocks = merits.shape[2]
    for g in range(groups.shape[0]):
        v, s = groups[g, 0], groups[g, 1]
        for j in range(first.shape[1]):
            own = members[first[v, j] : first[v, j] + count[v, j]]
            filled = 0
            for c in range(clocks):
                lowest, second, at, at_second = np.inf, np.inf, -1, -1
                for u in own:
                    merit = merits[s, u, c]
                    if merit < lowest:
                        second, at_second, lowest, at = lowest, at, merit, u
                    elif merit < second:
                        second, at_second = merit, u
                for rank in range(kept_each if c < clocks - 1 else 1):
                    u = at if rank == 0 else at_second
                    if u >= 0 and not np.any(best[g, j, :filled] == u):
                        best[g, j, filled] = u
                        filled += 1
                        marked[s, u] = True


@njit(cache=True)
def _choose(groups, best, row_of, merits, choice):
    """choice [groups, layers, clocks]: the row of least merit [rows, clocks], the first of equals."""
    for g in range(groups.shape[0]):
        for j in range(best.shape[1]):
            for c in range(merits.shape[1]):
                least = np.inf
                for i in range(best.shape[2]):
                    if best[g, j, i] < 0:
                        break
                    row = row_of[groups[g, 1], best[g, j, i]]
                    if merits[row, c] < least:
                        least = merits[row, c]
                        choice[g, j, c] = row


@njit(cache=True)
def _times(kinks, lines, clocks_hz):
    """[rows, clocks]"""
    found = np.zeros((len(kinks), len(clocks_hz)))
    for row in range(len(kinks)):
        for c in range(len(clocks_hz)):
            found[row, c] = time_s(kinks[row], lines[row], 1 / clocks_hz[c])
    return found


def _different(table: NDArray) -> tuple[NDArray, NDArray]:
    """First places of the different rows of a table of integers, and which of them each row is."""
    code = np.zeros(len(table), dtype=np.int64)
    for column in table.T:
        _, digit = np.unique(column, return_inverse=True)
        code = code * (digit.max() + 1) + digit
    _, first, which = np.unique(code, return_index=True, return_inverse=True)
    return first, which


def search(
    table: NDArray, layers: NDArray, part: DramPart | None, memory_s: float, k: Coefficients, *, objective: int = 0, channels: int = 1, kept_each: int = KEPT,
    energies: Callable[["Searched"], tuple[NDArray, NDArray]] | None = None,
) -> Searched:  # fmt: skip
    """`Searched` for architectures `table` [architectures, fields of Architecture] of one array, and layers [layers, fields of LoweredLayer].

    `objective` is an index into explore.evaluate.OBJECTIVES. Unless it is 0 (latency), energies(searched without its choice) gives [rows, clocks]
    what does not depend on time, J, and [clocks] what does, W. Without a `part` the
    DRAM takes no time.
    """
    at, variant = _different(table[:, [_A[name] for name in _SHARED]])
    variants = np.ascontiguousarray(table[at])
    at, structure = _different(table[:, [_A[name] for name in _TIMED]])
    structures = np.ascontiguousarray(table[at])
    pairs = np.stack([variant, structure], axis=1)
    at, group = _different(pairs)
    groups = pairs[at]
    layers = np.ascontiguousarray(layers, dtype=np.int64)
    if np.any(layers >= 1 << 40):
        raise ModelError("layers must have sizes below 2^40, and have not")
    first, count = np.zeros((len(variants), len(layers)), dtype=np.int64), np.zeros((len(variants), len(layers)), dtype=np.int64)
    members, tilings, layer, origin = _enumerate(variants, layers, first, count)

    traffic = np.zeros((len(structures), len(tilings), _TRAFFIC), dtype=np.int64)
    merits = np.zeros((len(structures), len(tilings), len(ROUGH_HZ) + 1))
    byte_s = 0.0 if part is None else 1 / (part.peak_bandwidth_bytes_per_s * channels * 0.9)
    _, like = np.unique(structures[:, [_A[name] for name in _TIMED if name != "post_lanes"]], axis=0, return_inverse=True)
    like = np.array([np.flatnonzero(like.ravel() == number)[0] for number in like.ravel()])
    _measure_all(structures, like, variants, layers, tilings, layer, origin, memory_s, byte_s, np.array(ROUGH_HZ), traffic, merits)
    best = np.full((len(groups), len(layers), len(ROUGH_HZ) * kept_each + 1), -1, dtype=np.int32)
    marked = np.zeros(merits.shape[:2], dtype=np.bool_)
    _keep(groups, members, first, count, merits, kept_each, best, marked)

    of_structure, of_tiling = np.nonzero(marked)
    row_of = np.full(marked.shape, -1, dtype=np.int64)
    row_of[marked] = np.arange(len(of_structure))
    numbers = structures[of_structure]
    for field in _BANKS:
        numbers[:, field] = variants[origin[of_tiling], field]
    rows, moved = tilings[of_tiling], traffic[of_structure, of_tiling]
    lowered = layers[layer[of_tiling]]
    if part is None:
        times, use = np.zeros((len(rows), len(DramTimes._fields))), DramUse(**dict.fromkeys(("read_bytes", "write_bytes", "activates"), np.zeros(len(rows))))
    else:
        drams, use = dram_use(part, Architecture(*numbers.T), LoweredLayer(*lowered.T), Tiling(*rows.T), Traffic(*moved.T), channels=channels)
        times = np.ascontiguousarray(np.stack(np.broadcast_arrays(*drams), axis=1))
    kinks, lines = np.zeros((len(rows), MAX_KNOTS - 2)), np.zeros((len(rows), MAX_KNOTS - 1, 2))
    curves(numbers, lowered, rows, moved, times, memory_s, k, kinks, lines)

    choice = np.full((len(groups), len(layers), len(CLOCKS_HZ)), -1, dtype=np.int32)
    searched = Searched(
        group=group.ravel(), choice=choice, numbers=numbers, layer=layer[of_tiling], tilings=rows, traffic=moved, times=times, use=use, kinks=kinks,
        lines=lines,
    )  # fmt: skip
    merits = _times(kinks, lines, CLOCKS_HZ)
    if objective > 0:
        extra_j, per_s = energies(searched)
        energy = extra_j + merits * per_s
        merits = energy if objective == 1 else energy * merits
    _choose(groups, best, row_of, merits, choice)
    return searched


@njit(cache=True)
def nearest_clock(period_s):
    """Index into `CLOCKS_HZ`; -1 for a period that curves do not cover."""
    if not SHORTEST_S <= period_s <= LONGEST_S:
        return -1
    return min(_CLOCKS - 1, max(0, int(np.floor(2 * np.log2(1 / (_FIRST_HZ * period_s)) + 0.5))))
