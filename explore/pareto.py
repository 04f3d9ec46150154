"""Pareto fronts and hypervolumes where more is better on every axis."""

import moocore
import numpy as np
from numba import njit
from numpy.typing import ArrayLike, NDArray

from hw.errors import ModelError


def front(throughput_ips: ArrayLike, efficiency_gops_w: ArrayLike) -> NDArray:
    """Indices of the non-dominated points of arrays [points], by rising throughput; of equal points the first."""
    points = _points(throughput_ips, efficiency_gops_w)
    x, y = np.ascontiguousarray(points[:, 0]), np.ascontiguousarray(points[:, 1])
    kept, count = np.zeros(64, dtype=np.int64), 0
    kept, count = _extend(x, y, np.arange(len(x)), kept, count)
    return kept[:count].copy()


@njit(cache=True)
def _extend(x: NDArray, y: NDArray, order: NDArray, kept: NDArray, count: int) -> tuple[NDArray, int]:
    """Add points x, y [points] in the order given to the front `kept` (indices by rising x, the first `count`); returns both."""
    for point in order:
        low, high = 0, count
        while low < high:  # the first of the front that is at least as fast
            middle = (low + high) // 2
            if x[kept[middle]] < x[point]:
                low = middle + 1
            else:
                high = middle
        if low < count and y[kept[low]] >= y[point]:
            continue
        first = low
        while first > 0 and y[kept[first - 1]] <= y[point]:
            first -= 1
        end = low + 1 if low < count and x[kept[low]] == x[point] else low
        if count + 1 > len(kept):
            kept = np.concatenate((kept, np.zeros_like(kept)))
        tail = kept[end:count].copy()
        kept[first] = point
        kept[first + 1 : first + 1 + len(tail)] = tail
        count = first + 1 + len(tail)
    return kept, count


def front_with_area(throughput_ips: ArrayLike, efficiency_gops_w: ArrayLike, area_um2: ArrayLike) -> NDArray:
    """Indices of the points that none beats in throughput, efficiency and (smaller) area at once, by rising throughput; of equal points the first."""
    points = np.column_stack([_points(throughput_ips, efficiency_gops_w), -np.asarray(area_um2, dtype=float)])
    # Going up in area, only a point on the front of those before it can stay; points of equal area are sorted out afterwards.
    stays = _stays(points[:, 0].copy(), points[:, 1].copy(), np.argsort(-points[:, 2], kind="stable"))
    some = np.flatnonzero(stays)
    kept = some[moocore.is_nondominated(points[some], maximise=True)]
    return kept[np.argsort(points[kept, 0], kind="stable")]


@njit(cache=True)
def _stays(x: NDArray, y: NDArray, order: NDArray) -> NDArray:
    stays, kept, count = np.zeros(len(x), dtype=np.bool_), np.zeros(64, dtype=np.int64), 0
    for i in range(len(order)):
        kept, count = _extend(x, y, order[i : i + 1], kept, count)
        stays[order[i]] = np.any(kept[:count] == order[i])
    return stays


@njit(cache=True)
def distances(x: NDArray, y: NDArray, front_x: NDArray, front_y: NDArray) -> NDArray:
    """[points] by what factor (its logarithm) both coordinates must grow for a point to lie on the front or beyond; 0 on it. The front by rising x."""
    found = np.zeros(len(x))
    log_x, log_y = np.log(front_x), np.log(front_y)
    corners = log_x[:-1] - log_y[1:]
    for i in range(len(x)):
        if len(front_x) == 0:
            continue
        own_x, own_y = np.log(x[i]), np.log(y[i])
        at = np.searchsorted(corners, own_x - own_y)
        least = min(log_y[0] - own_y, log_x[-1] - own_x)
        for corner in (at - 1, at):
            if 0 <= corner < len(corners):
                least = min(least, max(log_x[corner] - own_x, log_y[corner + 1] - own_y))
        found[i] = max(0.0, least)
    return found


def hypervolume(throughput_ips: ArrayLike, efficiency_gops_w: ArrayLike) -> float:
    """Area that points [points] dominate, from the reference (0, 0)."""
    return float(moocore.hypervolume(_points(throughput_ips, efficiency_gops_w), ref=[0.0, 0.0], maximise=True))


def hypervolumes(throughput_ips: NDArray, efficiency_gops_w: NDArray) -> NDArray:
    """`hypervolume` of every row of arrays [sets, points], all at once."""
    return _hypervolumes(np.ascontiguousarray(throughput_ips, dtype=float), np.ascontiguousarray(efficiency_gops_w, dtype=float))


@njit(cache=True)
def _sort_runs(values: NDArray, order: NDArray, room: NDArray) -> None:
    """Write the order of rising `values` into `order`, by merging the runs that rise already: a sweep has one for each back bias. room: as long."""
    done = 0
    while done < len(values):
        end = done + 1
        while end < len(values) and values[end] >= values[end - 1]:
            end += 1
        i, j = 0, done
        for at in range(end):
            if j == end or (i < done and values[order[i]] <= values[j]):
                room[at] = order[i]
                i += 1
            else:
                room[at] = j
                j += 1
        order[:end] = room[:end]
        done = end


@njit(cache=True)
def _hypervolumes(x: NDArray, y: NDArray) -> NDArray:
    found, order, room = np.zeros(len(x)), np.zeros(x.shape[1], dtype=np.int64), np.zeros(x.shape[1], dtype=np.int64)
    for row in range(len(x)):
        _sort_runs(x[row], order, room)
        best = 0.0
        # Between one throughput and the next lower one, the best efficiency of all that are at least as fast is dominated.
        for i in range(len(order) - 1, -1, -1):
            at = order[i]
            best = max(best, y[row, at])
            before = x[row, order[i - 1]] if i > 0 else 0.0
            found[row] += (x[row, at] - before) * best
    return found


def _points(x: ArrayLike, y: ArrayLike) -> NDArray:
    points = np.stack([np.asarray(x, dtype=float), np.asarray(y, dtype=float)], axis=1)
    if points.size == 0 or not np.all(np.isfinite(points)) or np.any(points <= 0):
        raise ModelError("points of a front must be finite, above 0 and at least one, and are not; check the model")
    return points
