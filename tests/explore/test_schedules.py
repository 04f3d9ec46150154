"""Schedules against all schedules there are."""

import itertools

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from explore.schedules import Transitions, best_plan, cost, strategies
from hw.errors import ConfigError, ModelError

LAYERS, POINTS = 4, 3
TABLE = st.lists(st.lists(st.integers(1, 30), min_size=POINTS, max_size=POINTS), min_size=LAYERS, max_size=LAYERS).map(lambda x: np.array(x, dtype=float))


def every(time_s, energy_j, transitions):
    """(time, energy) of every schedule that uses few enough points."""
    paths = [p for p in itertools.product(range(time_s.shape[1]), repeat=len(time_s)) if len(set(p)) <= transitions.max_points]
    return [cost(path, time_s, energy_j, transitions) for path in paths]


@settings(max_examples=60, derandomize=True, deadline=None)
@given(TABLE, TABLE, st.integers(1, 3), st.integers(0, 5), st.integers(0, 5), st.integers(4, 100), st.integers(0, 2))
def test_no_schedule_is_better(time_s, energy_j, max_points, transition_s, transition_j, limit, idle_w):
    transitions = Transitions(transition_s=float(transition_s), transition_j=float(transition_j), max_points=max_points)
    all_of_them = every(time_s, energy_j, transitions)
    for limited, options in ((0, {"deadline_s": float(limit), "idle_w": float(idle_w)}), (1, {"budget_j": float(limit)})):
        allowed = [c for c in all_of_them if c[limited] <= limit]
        if not allowed:
            with pytest.raises(ConfigError, match="must be reachable"):
                best_plan(time_s, energy_j, transitions, **options)
            continue
        plan = best_plan(time_s, energy_j, transitions, **options)
        merit = (lambda c: c[1] - idle_w * c[0]) if limited == 0 else (lambda c: c[0])
        assert (plan.time_s, plan.energy_j)[limited] <= limit * (1 + 1e-9) and len(set(plan.points)) <= max_points
        assert merit((plan.time_s, plan.energy_j)) == pytest.approx(min(map(merit, allowed)), abs=1e-6)


def test_strategies_by_hand():
    """Two layers, two points: the slow one takes twice the time. Deadline 30, idle 1 W, gated 0.1 W."""
    time_s, energy_j, slow_j = np.array([[10.0, 5.0], [10.0, 5.0]]), np.array([[4.0, 10.0], [6.0, 10.0]]), np.array([[8.0, 10.0], [9.0, 10.0]])
    transitions = Transitions(transition_s=1.0, transition_j=2.0, wake_s=3.0, wake_j=1.0)
    found = {s.name: s for s in strategies(time_s, energy_j, slow_j, 1.0, 0.1, transitions, 30.0)}
    assert found["schedule"].plan.points == (0, 0) and found["schedule"].period_j == 4 + 6 + 10
    assert found["best single point"].period_j == 20 and found["frequency only"].period_j == 8 + 9 + 10
    assert found["race to idle, power gated"].period_j == pytest.approx(20 + 1 + 0.1 * 17)
    tight = {s.name: s for s in strategies(time_s, energy_j, slow_j, 1.0, 0.1, transitions, 16.5)}
    assert tight["schedule"].plan.points == (0, 1) and tight["schedule"].plan.time_s == 16 and tight["schedule"].plan.energy_j == 4 + 10 + 2
    assert tight["best single point"].plan.points == (1, 1)
    assert "race to idle, power gated" in tight


def test_what_is_not_a_schedule_is_refused():
    table = np.ones((2, 2))
    for options in ({}, {"deadline_s": 1.0, "budget_j": 1.0}):
        with pytest.raises(ConfigError, match="either a deadline or an energy budget"):
            best_plan(table, table, Transitions(), **options)
    with pytest.raises(ConfigError, match="deadline_s must be reachable, not 1 s; a single point takes 2 s"):
        best_plan(table, table, Transitions(), deadline_s=1.0)
    for bad in (np.array([[1, np.nan], [1, 1]]), -table):
        with pytest.raises(ModelError, match="finite and at least 0"):
            best_plan(table, bad, Transitions(), deadline_s=3.0)
