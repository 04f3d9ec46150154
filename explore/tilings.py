"""The tiling of every layer on every architecture of one array, at each of a list of clocks.

All tilings of `hw.tiling_choice.candidates` are looked at. What they are depends on the array, the banks and acc_depth only; what one of
them moves depends on the banks only through what these hold at once (`hw.tile_plan`). So the banks' combinations share
nearly all work: every different tiling is measured once, ranked by a rough time at `ROUGH_HZ`, and of each combination the
`KEPT` best of each clock and the one that moves the fewest bytes are timed by the cycle model at each of `CLOCKS_HZ` that is wanted. There the
objective decides, and of equals what they move; between clocks the nearest one's tiling is used, and only what is used gets its curve (`explore.curves`).
Layers of which one may leave its output on chip for the next are decided together (`explore.on_chip`), with more tilings of each.
"""

from collections.abc import Callable, Iterator
from dataclasses import dataclass

import numpy as np
from numba import njit
from numba.np.unsafe.ndarray import to_fixed_tuple
from numpy.typing import NDArray

from explore.curves import CLOCKS_HZ, MAX_KNOTS, curves, times_at
from explore.on_chip import FOUND, LEFT, LIMITS, STATES, Links, bank_words, choose_together, copies_between, shortlist, staying, usual_tiling
from fit.cycles import Coefficients, DramTimes, DramUse, dram_use
from hw.config import PARAMETER_BYTES
from hw.dram import DramPart
from hw.errors import ModelError
from hw.lowering import LoweredLayer
from hw.tile_plan import Architecture, Tiling, plan
from hw.tiling import Traffic, measure
from hw.tiling_choice import MAX_CANDIDATES, candidates

ROUGH_HZ = (40e6, 160e6, 500e6, 1.6e9)
KEPT = 2
TIE = 1e-2
"""Relative difference of time that decides nothing: less than the model tells apart, while what equally fast tilings move may differ by a factor of two."""
_A = {name: i for i, name in enumerate(Architecture._fields)}
_ARCHITECTURE, _LAYER, _TILING, _TRAFFIC = (len(kind._fields) for kind in (Architecture, LoweredLayer, Tiling, Traffic))
_BANKS = (_A["activation_words"], _A["weight_words"], _A["output_words"])
_POST, _DRAINS, _LOADED = _A["post_lanes"], Traffic._fields.index("pixel_drains"), Traffic._fields.index("activation_load_words")
_SHARED = ("activation_words", "weight_words", "output_words", "acc_depth", "parameter_words")
"""What decides which tilings are legal, besides the array."""
_TIMED = ("acc_depth", "post_lanes", "axi_bytes", "parameter_words")
"""What decides what a tiling moves and how long it takes, besides the array and what the banks hold."""


@dataclass(frozen=True, kw_only=True)
class Rows:
    """Tilings on architectures: numbers, tilings, traffic, times [rows, fields], layer [rows], use (the DRAM's); what stays on chip: state [rows] and
    copies [rows, 2] (`explore.on_chip`)."""

    numbers: NDArray
    layer: NDArray
    tilings: NDArray
    traffic: NDArray
    times: NDArray
    use: DramUse
    state: NDArray
    copies: NDArray

    def arrays(self, layers: NDArray) -> tuple[NDArray, ...]:
        """As `explore.curves` takes them; layers [layers, fields]."""
        return self.numbers, layers[self.layer], self.tilings, self.traffic, self.times, self.copies

    def some(self, chosen: NDArray) -> "Rows":
        """Those of these indices."""
        use = DramUse(read_bytes=self.use.read_bytes[chosen], write_bytes=self.use.write_bytes[chosen], activates=self.use.activates[chosen])
        arrays = {name: getattr(self, name)[chosen] for name in ("numbers", "layer", "tilings", "traffic", "times", "state", "copies")}
        return Rows(**arrays, use=use)


@dataclass(frozen=True, kw_only=True)
class Searched:
    """Which tiling each group of architectures takes of each layer at each of `explore.curves.CLOCKS_HZ`.

    group [architectures]; fits [groups, layers] whether there is a tiling at all; choice [groups, layers, CLOCKS_HZ] indices into `rows`, -1 where there
    is none or the clock is not wanted; curve [rows, CLOCKS_HZ] indices into kinks and lines (`explore.curves`), -1 where not chosen.
    """

    group: NDArray
    fits: NDArray
    choice: NDArray
    rows: Rows
    curve: NDArray
    kinks: NDArray
    lines: NDArray


@njit(cache=True)
def _slot(keys: NDArray, key: int) -> int:
    """Place of `key` in an open-addressed table, or of the free place (-1) where it belongs."""
    place = (key * 0x9E3779B1) & (len(keys) - 1)
    while keys[place] != -1 and keys[place] != key:
        place = (place + 1) & (len(keys) - 1)
    return place


@njit(cache=True)
def _enumerate(variants: NDArray, layers: NDArray, first: NDArray, count: NDArray) -> tuple[NDArray, NDArray, NDArray, NDArray]:
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
def _rough_s(a: Architecture, n: Traffic, core_s: float, memory_s: float, byte_s: float) -> float:
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
def _measured(numbers: NDArray, layers: NDArray, tilings: NDArray, of: NDArray, alike: NDArray, traffic: NDArray) -> None:
    """Fill traffic [rows, fields] of rows of (architecture, layer, tiling): numbers, layers [rows, fields], and tiling of[row] of `tilings`.

    Rows lie side by side if they are of one tiling; those of them that are `alike` differ in their post lanes at most, and are measured once.
    """
    kinds = alike.max() + 1 if len(alike) else 0
    known_of, first = np.full(kinds, -1), np.zeros(kinds, dtype=np.int64)
    for row in range(len(numbers)):
        kind = alike[row]
        if known_of[kind] == of[row]:  # post lanes change nothing but how long draining takes
            traffic[row] = traffic[first[kind]]
            traffic[row, _DRAINS] = traffic[row, _DRAINS] * numbers[first[kind], _POST] // numbers[row, _POST]
            continue
        known_of[kind], first[kind] = of[row], row
        a, l = Architecture(*to_fixed_tuple(numbers[row], _ARCHITECTURE)), LoweredLayer(*to_fixed_tuple(layers[row], _LAYER))  # noqa: E741
        measured = measure(a, l, Tiling(*to_fixed_tuple(tilings[of[row]], _TILING)))
        for f in range(_TRAFFIC):
            traffic[row, f] = measured[f]


@njit(cache=True)
def _merits(numbers: NDArray, traffic: NDArray, memory_s: float, byte_s: float, rough_hz: NDArray, merits: NDArray) -> None:
    """Fill merits [rows, clocks + 1]: rough times, then bytes moved."""
    for row in range(len(numbers)):
        a, n = Architecture(*to_fixed_tuple(numbers[row], _ARCHITECTURE)), Traffic(*to_fixed_tuple(traffic[row], _TRAFFIC))
        for c in range(len(rough_hz)):
            merits[row, c] = _rough_s(a, n, 1 / rough_hz[c], memory_s, byte_s)
        merits[row, len(rough_hz)] = (
            n.activation_read_bytes + n.weight_read_bytes + n.parameter_read_bytes + n.program_read_bytes + n.output_write_bytes
        )


@njit(cache=True)
def _keep(
    groups: NDArray, rough: NDArray, members: NDArray, first: NDArray, count: NDArray, merits: NDArray, kept_each: int, best: NDArray, marked: NDArray
) -> None:  # fmt: skip
    """best [groups, layers, kept]: of each group (variant, structure) the tilings of least merit, -1 filled; marked [tilings, structures].

    merits [tilings, rough structures, clocks + 1]; rough [structures]: which of the rough structures each is.
    """
    clocks = merits.shape[2]
    for g in range(groups.shape[0]):
        v, s = groups[g, 0], groups[g, 1]
        like = rough[s]
        for j in range(first.shape[1]):
            own = members[first[v, j] : first[v, j] + count[v, j]]
            filled = 0
            for c in range(clocks):
                lowest, second, at, at_second = np.inf, np.inf, -1, -1
                for u in own:
                    merit = merits[u, like, c]
                    if merit < lowest:
                        second, at_second, lowest, at = lowest, at, merit, u
                    elif merit < second:
                        second, at_second = merit, u
                for rank in range(kept_each if c < clocks - 1 else 1):
                    u = at if rank == 0 else at_second
                    if u >= 0 and not np.any(best[g, j, :filled] == u):
                        best[g, j, filled] = u
                        filled += 1
                        marked[u, s] = True


@njit(cache=True)
def _choose(
    groups: NDArray, best: NDArray, row_of: NDArray, merits: NDArray, moved: NDArray, tie: float, wanted: NDArray, choice: NDArray
) -> None:  # fmt: skip
    """choice [groups, layers, clocks]: at the `wanted` clocks the row of least merit [rows, clocks]; of those that come as near to it as `tie` (relative)
    the one that moves the fewest bytes [rows], the first of equals."""
    for g in range(groups.shape[0]):
        for j in range(best.shape[1]):
            for c in range(merits.shape[1]):
                if not wanted[c] or best[g, j, 0] < 0:
                    continue
                least, fewest = np.inf, np.inf
                for i in range(best.shape[2]):
                    if best[g, j, i] < 0:
                        break
                    least = min(least, merits[row_of[best[g, j, i], groups[g, 1]], c])
                for i in range(best.shape[2]):
                    if best[g, j, i] < 0:
                        break
                    row = row_of[best[g, j, i], groups[g, 1]]
                    if merits[row, c] <= least * (1 + tie) and moved[row] < fewest:
                        fewest = moved[row]
                        choice[g, j, c] = row


def _different(table: NDArray) -> tuple[NDArray, NDArray]:
    """First places of the different rows of a table of integers, and which of them each row is."""
    code = np.zeros(len(table), dtype=np.int64)
    for column in table.T:
        _, digit = np.unique(column, return_inverse=True)
        code = code * (digit.max(initial=0) + 1) + digit
    _, first, which = np.unique(code, return_index=True, return_inverse=True)
    return first, which


def search(
    table: NDArray, layers: NDArray, part: DramPart | None, memory_s: float, k: Coefficients, *, objective: int = 0, channels: int = 1, kept_each: int = KEPT,
    wanted: NDArray | None = None, energies: Callable[["Rows"], tuple[NDArray, NDArray]] | None = None, links: Links | None = None,
    alike: int | None = None,
) -> Searched:  # fmt: skip
    """`Searched` for architectures `table` [architectures, fields of Architecture] of one array, and layers [layers, fields of LoweredLayer].

    `wanted` [CLOCKS_HZ] says at which clocks, by default all. `objective` is an index into explore.evaluate.OBJECTIVES. Unless it is 0 (latency),
    energies(rows) gives [rows, clocks] what does not depend on time, J, and [clocks] what does, W. Without a `part` the DRAM takes no time. With `links`,
    layers that follow on each other keep activations on chip where that is better; what is best at the clock `alike`, if given, at all of them.
    """
    wanted = np.ones(len(CLOCKS_HZ), dtype=bool) if wanted is None else np.asarray(wanted, dtype=bool)
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

    # Rough times know nothing of acc_depth unless several words are read a step; tilings that it allows are legal with the largest.
    taps = np.any(layers[:, LoweredLayer._fields.index("taps")] > 1)
    order = np.argsort(-structures[:, _A["acc_depth"]], kind="stable")
    at, rough = _different(structures[order][:, [_A[name] for name in _TIMED if taps or name != "acc_depth"]])
    coarse, rough = structures[order[at]], rough[np.argsort(order)]
    of = np.repeat(np.arange(len(tilings)), len(coarse))
    numbers, moved = _rows(np.tile(coarse, (len(tilings), 1)), of, variants[origin], layers[layer], tilings)
    links = links or Links(*np.zeros((2, len(layers)), dtype=np.int64))
    merits = np.zeros((len(of), len(ROUGH_HZ) + 1))
    byte_s = 0.0 if part is None else 1 / (part.peak_bandwidth_bytes_per_s * channels * 0.9)
    _merits(numbers, moved, memory_s, byte_s, np.array(ROUGH_HZ), merits)
    best = np.full((len(groups), len(layers), len(ROUGH_HZ) * kept_each + 1), -1, dtype=np.int32)
    marked = np.zeros((len(tilings), len(structures)), dtype=np.bool_)
    _keep(groups, rough, members, first, count, merits.reshape(len(tilings), len(coarse), merits.shape[1]), kept_each, best, marked)
    marks = marked[:, :, None]
    if links.found.any():
        words = _words(variants, layers, tilings, members, count, links)
        merits = _merits_on_chip(numbers, layers, layer[of], tilings[of], moved, links, memory_s, byte_s)
        apart = np.full((len(groups), len(layers), STATES, len(ROUGH_HZ) * LIMITS), -1, dtype=np.int32)
        marks = np.repeat(marks, STATES, axis=2) & (np.arange(STATES) == 0)
        bank = np.ascontiguousarray(variants[:, _BANKS[0]])
        shortlist(groups, rough, bank, links.found, members, first, count, words, merits.reshape(len(tilings), len(coarse), *merits.shape[1:]), apart, marks)

    of, of_structure, state = np.nonzero(marks)
    row_of = np.full(marks.shape, -1, dtype=np.int32)
    row_of[marks] = np.arange(len(of))
    numbers, moved = _rows(structures[of_structure], of, variants[origin], layers[layer], tilings)
    rows = _staying_rows(part, numbers, layers, layer[of], tilings[of], of, moved, channels, state, links)
    use = rows.use
    timed = np.zeros((len(of), len(CLOCKS_HZ)))
    times_at(rows.arrays(layers), wanted, memory_s, k, timed)
    if objective > 0:
        assert energies is not None
        extra_j, per_s = energies(rows)
        energy = extra_j + timed * per_s
        timed = energy if objective == 1 else energy * timed
    choice = np.full((len(groups), len(layers), len(CLOCKS_HZ)), -1, dtype=np.int32)
    bytes_, tie = use.read_bytes + use.write_bytes, 0.0 if objective else TIE
    _choose(groups, best, np.ascontiguousarray(row_of[:, :, 0]), timed, bytes_, tie, wanted, choice)
    if links.found.any():
        choose_together(groups, bank, links.found, members, first, count, words, best, apart, row_of, timed, np.asarray(bytes_, dtype=float), tie, wanted,
                        choice)  # fmt: skip
        if alike is not None:
            own = [j for j in range(len(layers)) if links.states(j)]
            choice[:, own] = np.where(wanted, choice[:, own, alike, None], -1)

    # Only what is used goes on; how many COPYs a layer takes follows from its own tiling and the next layer's.
    behind = np.full(choice.shape, -1, dtype=np.int64)
    behind[:, :-1] = np.where((choice[:, :-1] >= 0) & (state[choice[:, :-1]] & LEFT > 0), choice[:, 1:], -1)
    used, again = np.unique(np.where(choice >= 0, choice * (len(of) + 1) + behind + 1, -1), return_inverse=True)
    choice, used = again.reshape(choice.shape) - np.count_nonzero(used < 0), used[used >= 0]
    used, after = used // (len(of) + 1), used % (len(of) + 1) - 1
    if links.found.any():
        rows = _staying_rows(
            part, numbers[used], layers, layer[of[used]], tilings[of[used]], np.arange(len(used)), moved[used], channels, state[used], links, tilings[of[after]]
        )  # fmt: skip
    else:
        rows = rows.some(used)
    pieces = np.zeros((len(used), len(CLOCKS_HZ)), dtype=bool)
    for clock in np.flatnonzero(wanted):
        here = choice[:, :, clock]
        pieces[here[here >= 0], clock] = True
    curve = np.full(pieces.shape, -1, dtype=np.int32)
    curve[pieces] = np.arange(np.count_nonzero(pieces))
    kinks, lines = np.zeros((np.count_nonzero(pieces), MAX_KNOTS - 1)), np.zeros((np.count_nonzero(pieces), MAX_KNOTS - 1, 2))
    curves(rows.arrays(layers), np.argwhere(pieces), memory_s, k, kinks, lines)
    return Searched(group=group.ravel(), fits=best[:, :, 0] >= 0, choice=choice, rows=rows, curve=curve, kinks=kinks, lines=lines)


def _in_states(layer: NDArray, links: Links, state: NDArray | None = None) -> Iterator[tuple[NDArray, int, int]]:
    """(rows, layer, state) of layers of chains in any but the ordinary state: rows that are in that `state`, or without it all of the layer."""
    for j in range(len(links.found)):
        for one in links.states(j):
            own = np.flatnonzero(layer == j if state is None else (layer == j) & (state == one))
            if len(own):
                yield own, j, one


def _staying_rows(
    part: DramPart | None, numbers: NDArray, layers: NDArray, layer: NDArray, tilings: NDArray, of: NDArray, ordinary: NDArray, channels: int, state: NDArray,
    links: Links, after: NDArray | None = None,
) -> Rows:  # fmt: skip
    """`Rows` in their states, of the `ordinary` traffic [rows, fields]; `of` numbers different (layer, tiling). `after` [rows, fields]: how the layer
    behind is tiled if the output is LEFT on chip; unless given, as is usual."""
    moved, copies = ordinary.copy(), np.zeros((len(of), 2), dtype=np.int64)
    for own, j, one in _in_states(layer, links, state):
        number = None
        if one & LEFT:
            its = usual_tiling(numbers[own], layers[j + 1]) if after is None else after[own]
            number = copies_between(numbers[own], layers[j], tilings[own], links.ends[j], layers[j + 1], its, links.ends[j + 1], int(links.found[j + 1]))
        moved[own], copies[own] = staying(numbers[own], layers[j], tilings[own], ordinary[own], one, int(links.found[j]), bool(links.stored[j]), number)
    found = np.where(state & FOUND, links.found[layer], 0)
    unstored = ((state & LEFT) > 0) & (links.stored[layer] == 0)
    times, use = _dram(part, numbers, layers[layer], tilings, of, moved, channels, found, unstored, copies[:, 1])
    return Rows(numbers=numbers, layer=layer, tilings=tilings, traffic=moved, times=times, use=use, state=state, copies=copies)


def _words(variants: NDArray, layers: NDArray, tilings: NDArray, members: NDArray, count: NDArray, links: Links) -> NDArray:
    """`explore.on_chip.bank_words` [2, members] of the layers of chains."""
    words, end = np.zeros((2, len(members)), dtype=np.int64), 0
    for j in range(len(layers)):
        begin, end = end, end + int(count[:, j].sum())
        if links.states(j):
            words[:, begin:end] = bank_words(variants, np.repeat(np.arange(len(variants)), count[:, j]), layers[j], tilings[members[begin:end]])
    return words


def _merits_on_chip(
    numbers: NDArray, layers: NDArray, layer: NDArray, tilings: NDArray, traffic: NDArray, links: Links, memory_s: float, byte_s: float
) -> NDArray:  # fmt: skip
    """Rough times [rows, STATES, ROUGH_HZ] of rows in all states but the ordinary one; infinite in those that are none of theirs."""
    merits = np.full((len(layer), STATES, len(ROUGH_HZ)), np.inf)
    for own, j, state in _in_states(layer, links):
        moved, copies = staying(numbers[own], layers[j], tilings[own], traffic[own], state, int(links.found[j]), bool(links.stored[j]))
        moved[:, _LOADED] += copies[:, 0]  # the load engine copies
        found = np.zeros((len(own), len(ROUGH_HZ) + 1))
        _merits(numbers[own], moved, memory_s, byte_s, np.array(ROUGH_HZ), found)
        merits[own, state] = found[:, :-1]
    return merits


def _rows(structures: NDArray, of: NDArray, variants: NDArray, layers: NDArray, tilings: NDArray) -> tuple[NDArray, NDArray]:
    """Numbers and traffic [rows, fields] of tiling of[row] on structures[row]; `variants` and `layers` are those of `tilings`."""
    numbers = structures.copy()
    for field in _BANKS:
        numbers[:, field] = variants[of, field]
    _, alike = _different(structures[:, [_A[name] for name in _TIMED if name != "post_lanes"]])
    traffic = np.zeros((len(of), _TRAFFIC), dtype=np.int64)
    _measured(numbers, layers[of], tilings, of, alike, traffic)
    return numbers, traffic


def _dram(
    part: DramPart | None, numbers: NDArray, layers: NDArray, tilings: NDArray, of: NDArray, moved: NDArray, channels: int, found: NDArray, unstored: NDArray,
    copies: NDArray,
) -> tuple[NDArray, DramUse]:  # fmt: skip
    """Times [rows, fields] and use of the DRAM, which knows neither of post lanes nor, but for what is moved, of acc_depth."""
    if part is None:
        return np.zeros((len(of), len(DramTimes._fields))), DramUse(**dict.fromkeys(("read_bytes", "write_bytes", "activates"), np.zeros(len(of))))
    axes = np.column_stack([of, numbers[:, [_A["axi_bytes"], _A["parameter_words"]]], found, unstored, copies])
    at, which = _different(axes)
    traffic = Traffic(*moved[at].T)
    drams, use = dram_use(
        part, Architecture(*numbers[at].T), LoweredLayer(*layers[at].T), Tiling(*tilings[at].T),
        traffic._replace(instructions=traffic.instructions - copies[at]), channels=channels, found=found[at], unstored=unstored[at],
    )  # fmt: skip
    times = np.stack(np.broadcast_arrays(*drams), axis=1)
    return times[which], DramUse(read_bytes=use.read_bytes[which], write_bytes=use.write_bytes[which], activates=use.activates[which])
