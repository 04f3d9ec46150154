"""Layers whose input or output stays on chip: what they move then, which tilings are worth timing, and the best of them together along a chain.

A layer is in one of four states: its input comes from DRAM or is FOUND on chip, its output goes to DRAM or is LEFT on chip (and stored as well, where
others need it). A layer's output is LEFT exactly if the next layer's input is FOUND, and both have room in the activation banks: the compiler's rule and
traffic (`hw.on_chip`). So what is best for a layer depends on its neighbours: dynamic programming over the layers of a chain, whose nodes are the states
and tilings of a layer.
"""

from collections.abc import Sequence
from typing import Any, NamedTuple

import numpy as np
from numba import njit
from numba.np.unsafe.ndarray import to_fixed_tuple
from numpy.typing import NDArray

from fit.transfers import instructions
from hw.isa import INSTRUCTION_BYTES
from hw.lowering import LoweredLayer, Lowering
from hw.on_chip import activation_words, on_chip_traffic, tile_words
from hw.tile_plan import SPATIAL_OUTER, Architecture, Plan, Tiling, activation_splits, ceil_div, inside, plan, stripe_rows, stripes, tile_columns
from hw.tiling import Traffic

FOUND, LEFT = 1, 2
STATES = 4
"""States are sums of these."""
STATE_NAMES = ("none", "input", "output", "both")
LIMITS = 3
"""For how many sizes of room in the banks the best tilings are looked for."""
_ARCHITECTURE, _LAYER, _TILING = (len(kind._fields) for kind in (Architecture, LoweredLayer, Tiling))
_PLANNED = ("activation_slots", "activation_tile_words", "spatial_tiles", "c_parts")


class Ends(NamedTuple):
    """Where the channel groups of a layer lie in the tensors that it reads and makes: first word of channels, and image, -1 where every image has the
    group; arrays [groups]. `rows`: 1 if images of one pixel are rows to the next layer."""

    in_plane: NDArray
    in_image: NDArray
    out_plane: NDArray
    out_image: NDArray
    rows: int


def ends(lowering: Lowering) -> Ends:
    """`Ends` of a layer, as `hw.on_chip` has them."""
    n, groups = lowering.numbers, np.arange(lowering.numbers.groups)
    image = groups // lowering.shape.groups if n.product else np.full(len(groups), -1)
    first_in, first_out = (np.array([plane(int(g)) for g in groups], dtype=np.int64) for plane in (lowering.first_plane, lowering.output_plane))
    return Ends(first_in, image, first_out, image, int(not n.product and n.out_h == n.out_w == 1 and not lowering.vectors))


class Links(NamedTuple):
    """Of each layer: how many operands it finds on chip if the layer before it keeps its output (0: none, it begins a chain), whether its own
    output is stored even then, and its `Ends`."""

    found: NDArray
    stored: NDArray
    ends: Sequence[Ends] = ()

    def states(self, layer: int) -> list[int]:
        """Those that a layer may be in besides the ordinary one."""
        found, kept = bool(self.found[layer]), layer + 1 < len(self.found) and bool(self.found[layer + 1])
        return [FOUND] * found + [LEFT] * kept + [FOUND + LEFT] * (found and kept)


@njit(cache=True)
def _planned(numbers: NDArray, layer: NDArray, tilings: NDArray, out: NDArray) -> None:
    """Fill out [rows, _PLANNED] for rows of numbers [rows, fields], tilings [rows, fields] of one layer."""
    l = LoweredLayer(*to_fixed_tuple(layer, _LAYER))  # noqa: E741
    for row in range(len(out)):
        a, t = Architecture(*to_fixed_tuple(numbers[row], _ARCHITECTURE)), Tiling(*to_fixed_tuple(tilings[row], _TILING))
        p = plan(a, l, t)
        out[row, 0], out[row, 1], out[row, 2], out[row, 3] = p.activation_slots, p.activation_tile_words, p.spatial_tiles, p.c_parts


def planned(numbers: NDArray, layer: NDArray, tilings: NDArray) -> Plan:
    """What `hw.on_chip` takes of the plans of tilings of one layer; the other fields are None."""
    out = np.zeros((len(tilings), len(_PLANNED)), dtype=np.int64)
    _planned(numbers, layer, tilings, out)
    fields: dict[str, Any] = dict.fromkeys(Plan._fields) | dict(zip(_PLANNED, out.T, strict=True))
    return Plan(**fields)


@njit(cache=True)
def _fills(numbers: NDArray, layer: NDArray, tilings: NDArray, out: NDArray) -> None:
    """Fill out [rows] with the FILLs of padding of a layer that finds all of its input on chip (see `hw.layer_emitter`)."""
    l = LoweredLayer(*to_fixed_tuple(layer, _LAYER))  # noqa: E741
    for row in range(len(out)):
        a, t = Architecture(*to_fixed_tuple(numbers[row], _ARCHITECTURE)), Tiling(*to_fixed_tuple(tilings[row], _TILING))
        p = plan(a, l, t)
        steps = p.k_tiles if t.order == SPATIAL_OUTER and p.c_parts == 1 else 1  # over which a tile is loaded, but for the first one of the layer
        total, first_tile = 0, 0
        for y_tile in range(p.y_tiles):
            _, working = stripes(a, l, t, y_tile)
            above = 0
            for stripe in range(working):
                first, end = stripe_rows(a, l, t, y_tile, stripe)
                top, bottom, pieces = inside(first, end, l.in_h)
                above += pieces if top == bottom or end - first > bottom - top else 0
            for x_tile in range(p.x_tiles):
                first, end = tile_columns(l, t, x_tile)
                left, right, pieces = inside(first, end, l.in_w)
                count = above + (pieces if end - first > right - left else 0)
                if count:
                    split = count * activation_splits(min(t.tile_c, l.c_groups), count * l.operands, steps)
                    total += split
                    if y_tile == 0 and x_tile == 0:
                        first_tile = split - count
        out[row] = total * l.groups * l.images * p.c_parts - first_tile


@njit(cache=True)
def _pieces(a: Architecture, l: LoweredLayer, t: Tiling, y_tile: int, low: int, high: int, edges: NDArray) -> int:  # noqa: E741
    """In how many pieces the image rows [low, high) go into the stripes of a row of tiles (`hw.transfers.shared_rows`)."""
    _, working = stripes(a, l, t, y_tile)
    count = 0
    for stripe in range(working):
        first, end = stripe_rows(a, l, t, y_tile, stripe)
        edges[count], edges[count + 1] = max(low, min(first, high)), max(low, min(end, high))
        count += 2
    if count == 0 or edges[:count].max() == edges[:count].min():
        return 0
    order, pieces = np.sort(edges[:count]), 0
    for i in range(count - 1):
        if order[i] == order[i + 1]:
            continue
        sharing = 0
        for stripe in range(working):
            first, end = stripe_rows(a, l, t, y_tile, stripe)
            sharing += first <= order[i] and order[i + 1] <= end
        pieces += (sharing + 1) // 2
    return pieces


@njit(cache=True)
def _copies(
    numbers: NDArray, layer: NDArray, tilings: NDArray, behind: NDArray, next_tilings: NDArray, out_plane: NDArray, out_image: NDArray, rows: int,
    in_plane: NDArray, in_image: NDArray, operands: int, out: NDArray,
) -> None:  # fmt: skip
    """Fill out [rows, 2] with the COPYs from a layer to the one behind it, and those of its last tile (`hw.on_chip.copies`)."""
    one, two = LoweredLayer(*to_fixed_tuple(layer, _LAYER)), LoweredLayer(*to_fixed_tuple(behind, _LAYER))
    edges = np.zeros(512, dtype=np.int64)
    for row in range(len(out)):
        a = Architecture(*to_fixed_tuple(numbers[row], _ARCHITECTURE))
        t, u = Tiling(*to_fixed_tuple(tilings[row], _TILING)), Tiling(*to_fixed_tuple(next_tilings[row], _TILING))
        p, q = plan(a, one, t), plan(a, two, u)
        planes, words = ceil_div(one.k_per_group, a.lanes), two.c_groups // two.operands
        channels, last_channels = 0, 0
        begin = 0
        for g in range(one.groups):
            for k_tile in range(p.k_tiles):
                low = out_plane[g] + k_tile * (t.tile_k // a.lanes)
                high = min(low + t.tile_k // a.lanes, out_plane[g] + planes)
                last_channels = 0
                if one.product or two.product:
                    begin = 0
                while begin < two.groups and in_plane[begin] + words <= low and not (one.product or two.product):
                    begin += 1
                for h in range(begin, two.groups):
                    if in_plane[h] >= high and not two.product:
                        break
                    if out_image[g] >= 0 and in_image[h] >= 0 and out_image[g] != in_image[h]:
                        continue
                    for part in range(q.c_parts):
                        first = in_plane[h] + (part * u.tile_c if two.operands == 1 else 0)
                        last_channels += max(low, first) < min(high, first + min(u.tile_c, words - (part * u.tile_c if two.operands == 1 else 0)))
                channels += last_channels
        columns, last_columns = 0, 0
        for x_tile in range(p.x_tiles):
            last_columns = 0
            for other in range(q.x_tiles):
                first, end = tile_columns(two, u, other)
                last_columns += max(x_tile * t.tile_w, first) < min(min((x_tile + 1) * t.tile_w, one.out_w), end)
            columns += last_columns
        heights, last_heights = 0, 0
        for image in range(one.images if rows else 1):
            for y_tile in range(p.y_tiles):
                tile_h, working = stripes(a, one, t, y_tile)
                last_heights = 0
                for stripe in range(working):
                    low = y_tile * a.rows * t.tile_h + stripe * tile_h
                    high = min(low + tile_h, one.out_h)
                    for other in range(q.y_tiles):
                        first, _ = stripe_rows(a, two, u, other, 0)
                        _, until = stripes(a, two, u, other)
                        _, end = stripe_rows(a, two, u, other, until - 1)
                        if max(low + image, first) < min(high + image, end):
                            last_heights += _pieces(a, two, u, other, low + image, high + image, edges)
                heights += last_heights
        images = one.images if not rows and out_image[0] < 0 and in_image[0] < 0 else 1
        out[row, 0] = channels * columns * heights * images * operands
        out[row, 1] = last_channels * last_columns * last_heights * operands


def copies_between(
    numbers: NDArray, layer: NDArray, tilings: NDArray, own: Ends, behind: NDArray, next_tilings: NDArray, its: Ends, operands: int
) -> tuple[NDArray, NDArray]:  # fmt: skip
    """[rows] COPYs from a layer to the one behind it, which finds `operands` on chip; and SYNCs in the place of those of a last tile that has none."""
    out = np.zeros((len(tilings), 2), dtype=np.int64)
    numbers, layer, tilings, behind, next_tilings = (
        np.ascontiguousarray(x, dtype=np.int64) for x in (numbers, layer, tilings, behind, next_tilings)
    )  # fmt: skip
    _copies(numbers, layer, tilings, behind, next_tilings, own.out_plane, own.out_image, own.rows, its.in_plane, its.in_image, operands, out)
    return out[:, 0], (out[:, 1] == 0).astype(np.int64)


def usual_tiling(numbers: NDArray, behind: NDArray) -> NDArray:
    """[rows, fields] how the layer behind is tiled if its tiles are as large as they can be, as those of one that finds its input on chip mostly are."""
    l = LoweredLayer(*(int(x) for x in behind))  # noqa: E741
    tile_h = -(-l.out_h // numbers[:, 0])
    block = np.maximum(numbers[:, 1], numbers[:, 2])
    return np.stack(np.broadcast_arrays(0, tile_h, l.out_w, -(-l.k_per_group // block) * block, l.c_groups), axis=1)


def staying(
    numbers: NDArray, layer: NDArray, tilings: NDArray, traffic: NDArray, state: int, found: int, stored: bool,
    moved_on: tuple[NDArray, NDArray] | None = None,
) -> tuple[NDArray, NDArray]:  # fmt: skip
    """(traffic, copies) of rows of one layer in a state: `found` of its operands are on chip if it is FOUND, its output is `stored` even if it is LEFT.

    copies [rows, 2]: words that COPYs bring from the output banks to the next layer's place, and how many COPYs: `moved_on` of `copies_between`, else as
    many as there would be STOREs.
    """
    n, m, p = LoweredLayer(*(int(x) for x in layer)), Traffic(*traffic.T), planned(numbers, layer, tilings)
    operands, unstored = found if state & FOUND else 0, bool(state & LEFT) and not stored
    moved = on_chip_traffic(m, n, p, operands=operands, stored=not unstored)
    count = instructions(Architecture(*numbers.T), n, Tiling(*tilings.T), m)
    stores = np.rint(count.stores).astype(np.int64)
    copies = np.zeros((len(traffic), 2), dtype=np.int64)
    total: Any = m.instructions
    if operands:
        constants = n.kernel_h - n.product + (n.product > 1) if n.product and n.kernel_h > 1 else 0
        loads = np.rint(count.activation_loads + count.fills).astype(np.int64) - constants
        fills = np.zeros(len(traffic), dtype=np.int64)
        if operands == n.operands:
            _fills(numbers, layer, tilings, fills)
        total = total - loads + (fills if operands == n.operands else loads * (n.operands - operands) // n.operands)
        repeats = m.activation_loads // moved.activation_loads
        constant = m.fill_words if n.product > 1 else 0
        filled = tile_words(n, p, resident=True) if n.product > 1 else 0
        writes = (m.activation_writes - constant * numbers[:, 0]) // repeats + filled * numbers[:, 0]
        moved = moved._replace(activation_writes=writes)
    if state & LEFT:
        number, syncs = moved_on or (stores, np.zeros_like(stores))
        copies[:, 0], copies[:, 1] = m.output_store_words, number
        total = total + number - (stores - syncs if unstored else 0)
    moved = moved._replace(instructions=total, program_read_bytes=total * INSTRUCTION_BYTES)
    return np.stack(np.broadcast_arrays(*moved), axis=1), copies


def bank_words(variants: NDArray, of: NDArray, layer: NDArray, tilings: NDArray) -> NDArray:
    """[2, rows] words of an activation bank that tilings [rows] of one layer use on architectures variants[of]: input loaded, or on chip."""
    n, p = LoweredLayer(*(int(x) for x in layer)), planned(variants[of], layer, tilings)
    words = np.zeros((2, len(of)), dtype=np.int64)
    # The bank's size matters beside the plan's numbers only where constants take half of it.
    for variant in np.unique(of) if n.product > 1 else of[:1]:
        a, own = Architecture(*(int(x) for x in variants[variant])), of == variant if n.product > 1 else slice(None)
        fields: list[Any] = [x if x is None else np.asarray(x)[own] for x in p]
        for found in range(2):
            words[found, own] = activation_words(a, n, Plan(*fields), resident=bool(found))
    return words


@njit(cache=True)
def _least(words: NDArray) -> int:
    least = words[0]
    for w in words:
        least = min(least, w)
    return least


@njit(cache=True)
def shortlist(
    groups: NDArray, rough: NDArray, bank: NDArray, found: NDArray, members: NDArray, first: NDArray, count: NDArray, words: NDArray, merits: NDArray,
    best: NDArray, marked: NDArray,
) -> None:  # fmt: skip
    """Fill best [groups, layers, STATES, kept] with the tilings worth timing in each state but the ordinary one, -1 filled; marked [tilings,
    structures, STATES]: the same by structure.

    Of each state and clock that which has the least merit within each of `LIMITS` sizes of room in the banks, from the largest that leaves the neighbours
    their least to the least that the layer can do with. bank [variants]: words of an activation bank; found: see `Links`; words [2, members]: see
    `bank_words`; merits [tilings, rough structures, STATES, clocks]; the rest as in `explore.tilings`.
    """
    layers, clocks = len(found), merits.shape[3]
    for g in range(groups.shape[0]):
        v, s = groups[g, 0], groups[g, 1]
        like = rough[s]
        for j in range(layers):
            can_find = j > 0 and found[j] > 0 and count[v, j - 1] > 0
            can_keep = j + 1 < layers and found[j + 1] > 0 and count[v, j + 1] > 0
            if not (can_find or can_keep) or count[v, j] == 0:
                continue
            begin, end = first[v, j], first[v, j] + count[v, j]
            room_before, room_behind = bank[v], bank[v]
            if can_find:
                b, e = first[v, j - 1], first[v, j - 1] + count[v, j - 1]
                least = _least(words[0, b:e])
                if j > 1 and found[j - 1] > 0:
                    least = min(least, _least(words[1, b:e]))
                room_before -= least
            if can_keep:
                room_behind -= _least(words[1, first[v, j + 1] : first[v, j + 1] + count[v, j + 1]])
            for state in range(1, STATES):
                if (state & FOUND and not can_find) or (state & LEFT and not can_keep):
                    continue
                own = words[1 if state & FOUND else 0, begin:end]
                room = min(room_before if state & FOUND else bank[v], room_behind if state & LEFT else bank[v])
                least = _least(own)
                if least > room:
                    continue
                filled = 0
                for limit in range(LIMITS):
                    allowed = room - (room - least) * limit // (LIMITS - 1)
                    for c in range(clocks):
                        at, lowest = -1, np.inf
                        for i in range(end - begin):
                            u = members[begin + i]
                            if own[i] <= allowed and merits[u, like, state, c] < lowest:
                                at, lowest = u, merits[u, like, state, c]
                        if at >= 0 and not np.any(best[g, j, state, :filled] == at):
                            best[g, j, state, filled] = at
                            filled += 1
                            marked[at, s, state] = True


@njit(cache=True)
def in_steps(cost: float, least: float, tie: float) -> float:
    """A cost as `least` and as many whole steps of `tie` times that more or less as it differs: what differs by less decides nothing."""
    return least * (1 + tie * np.trunc((cost / least - 1) / tie)) if tie > 0 else cost


@njit(cache=True)
def choose_together(
    groups: NDArray, bank: NDArray, found: NDArray, members: NDArray, first: NDArray, count: NDArray, words: NDArray, ordinary: NDArray, best: NDArray,
    row_of: NDArray, costs: NDArray, moved: NDArray, tie: float, wanted: NDArray, choice: NDArray,
) -> None:  # fmt: skip
    """Fill choice [groups, layers, clocks] of the layers of chains with the rows whose costs add up to the least, of equals those that move the fewest
    bytes, where a layer is LEFT exactly if the next is FOUND and both have room.

    ordinary [groups, layers, kept], best [groups, layers, STATES, kept]: tilings; row_of [tilings, structures, STATES]; costs [rows, clocks], counted
    (`in_steps`) in steps of `tie` times the least of the layer if nothing stays on chip; moved [rows] bytes. The rest as of `shortlist`.
    """
    layers, clocks = choice.shape[1], costs.shape[1]
    slots = ordinary.shape[2] + (STATES - 1) * best.shape[3]
    rows, states = np.zeros((layers, slots), dtype=np.int64), np.zeros((layers, slots), dtype=np.int64)
    room = np.zeros((layers, slots), dtype=np.int64)
    place = np.zeros(len(row_of), dtype=np.int64)
    number = np.zeros(layers, dtype=np.int64)
    total, bytes_, origin = np.zeros((layers, slots)), np.zeros((layers, slots)), np.zeros((layers, slots), dtype=np.int64)
    for g in range(groups.shape[0]):
        v, s = groups[g, 0], groups[g, 1]
        for j in range(layers):
            number[j] = 0
            if found[j] == 0 and (j + 1 == layers or found[j + 1] == 0):
                continue
            for i in range(first[v, j], first[v, j] + count[v, j]):
                place[members[i]] = i
            for state in range(STATES):
                for i in range(ordinary.shape[2] if state == 0 else best.shape[3]):
                    u = ordinary[g, j, i] if state == 0 else best[g, j, state, i]
                    if u < 0:
                        break
                    rows[j, number[j]], states[j, number[j]], room[j, number[j]] = row_of[u, s, state], state, words[state & FOUND, place[u]]
                    number[j] += 1
        for c in range(clocks):
            if not wanted[c]:
                continue
            begin = 0
            while begin < layers:
                end = begin + 1
                while end < layers and found[end] > 0:
                    end += 1
                if end - begin > 1 and np.all(number[begin:end] > 0):
                    for j in range(begin, end):
                        least = np.inf
                        for i in range(number[j]):
                            if states[j, i] == 0:
                                least = min(least, costs[rows[j, i], c])
                        for i in range(number[j]):
                            cost, lowest, fewest, at = in_steps(costs[rows[j, i], c], least, tie), np.inf, 0.0, -1
                            is_found = states[j, i] & FOUND
                            if j == begin:
                                lowest = 0.0 if not is_found else np.inf
                            else:
                                for b in range(number[j - 1]):
                                    is_kept = states[j - 1, b] & LEFT
                                    if (is_kept > 0) != (is_found > 0) or (is_kept and room[j - 1, b] + room[j, i] > bank[v]):
                                        continue
                                    if total[j - 1, b] < lowest or (total[j - 1, b] == lowest and bytes_[j - 1, b] < fewest):
                                        lowest, fewest, at = total[j - 1, b], bytes_[j - 1, b], b
                            total[j, i], bytes_[j, i], origin[j, i] = lowest + cost, fewest + moved[rows[j, i]], at
                    last, lowest, fewest = -1, np.inf, 0.0
                    for i in range(number[end - 1]):
                        better = total[end - 1, i] < lowest or (total[end - 1, i] == lowest and bytes_[end - 1, i] < fewest)
                        if better and not states[end - 1, i] & LEFT:
                            last, lowest, fewest = i, total[end - 1, i], bytes_[end - 1, i]
                    for j in range(end - 1, begin - 1, -1):
                        choice[g, j, c] = rows[j, last]
                        last = origin[j, last]
                begin = end
