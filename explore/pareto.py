"""Pareto fronts and hypervolumes where more is better on every axis."""

import moocore
import numpy as np
from numpy.typing import ArrayLike, NDArray

from hw.errors import ModelError


def front(throughput_ips: ArrayLike, efficiency_gops_w: ArrayLike) -> NDArray:
    """Indices of the non-dominated points of arrays [points], by rising throughput; of equal points the first."""
    points = _points(throughput_ips, efficiency_gops_w)
    kept = np.flatnonzero(moocore.is_nondominated(points, maximise=True))
    return kept[np.argsort(points[kept, 0], kind="stable")]


def hypervolume(throughput_ips: ArrayLike, efficiency_gops_w: ArrayLike) -> float:
    """Area that points [points] dominate, from the reference (0, 0)."""
    return float(moocore.hypervolume(_points(throughput_ips, efficiency_gops_w), ref=[0.0, 0.0], maximise=True))


def hypervolumes(throughput_ips: NDArray, efficiency_gops_w: NDArray) -> NDArray:
    """`hypervolume` of every row of arrays [sets, points], all at once."""
    order = np.argsort(-throughput_ips, axis=1, kind="stable")
    x, y = (np.take_along_axis(v, order, axis=1) for v in (throughput_ips, efficiency_gops_w))
    # Between one throughput and the next lower one, the best efficiency of all that are at least as fast is dominated.
    width = x - np.concatenate([x[:, 1:], np.zeros((len(x), 1))], axis=1)
    return (width * np.maximum.accumulate(y, axis=1)).sum(axis=1)


def _points(x: ArrayLike, y: ArrayLike) -> NDArray:
    points = np.stack([np.asarray(x, dtype=float), np.asarray(y, dtype=float)], axis=1)
    if points.size == 0 or not np.all(np.isfinite(points)) or np.any(points <= 0):
        raise ModelError("points of a front must be finite, above 0 and at least one, and are not; check the model")
    return points
