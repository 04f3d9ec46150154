"""Fronts, hypervolumes and sweeps against brute force and hand calculation."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from explore.dvfs import at_edge, compare_sweeps
from explore.pareto import distances, front, front_with_area, hypervolume, hypervolumes
from hw.errors import ModelError

# Few different values, so that there are ties and equal points.
POINTS = st.lists(st.tuples(st.integers(1, 9), st.integers(1, 9)), min_size=1, max_size=40)


@settings(max_examples=200, derandomize=True, deadline=None)
@given(POINTS)
def test_front_is_what_brute_force_finds(points):
    expected = {p for p in points if not any(q[0] >= p[0] and q[1] >= p[1] and q != p for q in points)}
    found = [points[i] for i in front(*zip(*points, strict=True))]
    assert found == sorted(expected)


@settings(max_examples=200, derandomize=True, deadline=None)
@given(POINTS)
def test_hypervolume_is_the_dominated_area(points):
    area = sum(any(x > i and y > j for x, y in points) for i in range(9) for j in range(9))  # unit squares
    x, y = (np.array([v], dtype=float) for v in zip(*points, strict=True))
    assert hypervolume(x[0], y[0]) == pytest.approx(area) and hypervolumes(x, y) == pytest.approx([area])


@settings(max_examples=200, derandomize=True, deadline=None)
@given(st.lists(st.tuples(st.integers(1, 5), st.integers(1, 5), st.integers(1, 5)), min_size=1, max_size=40))
def test_front_with_area_is_what_brute_force_finds(points):
    def beats(q, p):
        return q[0] >= p[0] and q[1] >= p[1] and q[2] <= p[2] and q != p

    expected = {p for p in points if not any(beats(q, p) for q in points)}
    found = [points[i] for i in front_with_area(*zip(*points, strict=True))]
    assert set(found) == expected and len(found) == len(expected) and [p[0] for p in found] == sorted(p[0] for p in found)


@settings(max_examples=100, derandomize=True, deadline=None)
@given(POINTS, POINTS)
def test_a_front_of_fronts_is_the_front_of_all(one, other):
    parts = [[points[i] for i in front(*zip(*points, strict=True))] for points in (one, other)]
    joined = parts[0] + parts[1]
    assert [joined[i] for i in front(*zip(*joined, strict=True))] == sorted({(one + other)[i] for i in front(*zip(*(one + other), strict=True))})


@settings(max_examples=100, derandomize=True, deadline=None)
@given(POINTS, st.tuples(st.integers(1, 12), st.integers(1, 12)))
def test_distance_is_how_far_a_point_must_grow_to_leave_the_dominated_area(points, point):
    best = np.array([points[i] for i in front(*zip(*points, strict=True))], dtype=float)
    x, y = np.array([[point[0]], [point[1]]], dtype=float)
    (found,) = distances(x, y, best[:, 0].copy(), best[:, 1].copy())

    def dominated(factor):
        return np.any((best[:, 0] > x * factor) & (best[:, 1] > y * factor))

    assert not dominated(np.exp(found) * (1 + 1e-9)) and (found == 0 or dominated(np.exp(found) * (1 - 1e-9)))


def test_points_that_are_not_numbers_are_refused():
    for bad in (np.nan, np.inf, 0.0, -1.0):
        with pytest.raises(ModelError, match="finite, above 0"):
            front([1.0, bad], [1.0, 1.0])
    with pytest.raises(ModelError):
        hypervolume([], [])


def test_effectiveness_by_hand():
    """DVFS: (1, 4), (2, 2); frequency only: (1, 1), (2, 2); the front dominates an area of 10."""
    found = compare_sweeps(*(np.array([row], dtype=float) for row in ([1, 2], [4, 2], [3, 5], [1, 2], [1, 2])), 10.0)
    assert found.effectiveness == pytest.approx([(6 - 4) / 10])  # areas 1 x 4 + 1 x 2 and 2 x 2
    assert found.throughput_range == [2] and found.efficiency_gain == [2]
    assert found.slope[0] == pytest.approx([-1, -1])  # half the efficiency for twice the throughput
    assert found.min_energy == [0] and at_edge(found.min_energy, 2) and found.core_min_energy == [0]
    assert not at_edge(np.array([1]), 3) and at_edge(np.array([3, 5]), 3).all() and not at_edge(np.array([4]), 3)
    # With a bias at which it is faster by half: (1.5, 3), (3, 1.5) join; the slopes are of each bias by itself.
    biased = compare_sweeps(*(np.array([row], dtype=float) for row in ([1, 2, 1.5, 3], [4, 2, 3, 1.5], [3, 5, 2, 6], [1, 2], [1, 2])), 10.0)
    assert biased.effectiveness == pytest.approx([(1 * 4 + 0.5 * 3 + 0.5 * 2 + 1 * 1.5 - 4) / 10]) and biased.efficiency_gain == [2]
    assert biased.slope[0] == pytest.approx([-1, -1, -1, -1]) and biased.min_energy == [0] and biased.core_min_energy == [2]
