"""Schedules of real layers: their table, and one of them on the RTL."""

import numpy as np
import pytest
from made_up import conditions, model

from explore.evaluate import Task, clock_hz, evaluate, predict_designs
from explore.planning import layer_table, network_layers, plan_network, run_plan
from explore.schedules import Transitions
from explore.space import of_config
from hw.config import AcceleratorConfig, load_design
from hw.errors import ConfigError
from hw.layers import LayerShape, load_network

VDD_V = np.array([0.5, 0.7, 1.0])
SLOW = conditions(margin=0.95)  # the made-up technology is too fast to simulate
LAYERS = (
    LayerShape(name="first", kind="conv", in_channels=8, out_channels=16, in_h=8, in_w=8, kernel_h=3, kernel_w=3),
    LayerShape(name="second", kind="conv", in_channels=64, out_channels=8, in_h=6, in_w=6),
    LayerShape(name="third", kind="fc", in_channels=512, out_channels=64),
)


@pytest.fixture(scope="module")
def table():
    return layer_table(model(), load_design("medium"), LAYERS, 1, SLOW, VDD_V)


def test_a_table_is_the_evaluation_of_its_layers(table):
    one = of_config(load_design("medium"))
    designs = predict_designs(model(), one, VDD_V)
    for i, shape in enumerate(LAYERS):
        found = evaluate(model(), one, [Task(shape=shape, batch=1, first=i == 0)], SLOW, VDD_V, clock_hz(designs, SLOW), np.arange(3)).values[0, 0]
        np.testing.assert_allclose(table.time_s[i], found[:, 0])
        np.testing.assert_allclose(table.energy_j[i], found[:, 2] + found[:, 4] + found[:, 6:11].sum(axis=1))
    assert np.all(table.slow_energy_j >= table.energy_j * (1 - 1e-12)) and np.allclose(table.slow_energy_j[:, -1], table.energy_j[:, -1])
    assert table.idle_w == pytest.approx(table.asleep_w + table.core_idle_w)


def test_a_schedule_runs_on_the_rtl_with_its_operating_points(table):
    """Outputs are compared inside; time at each point is near what was planned, transitions take what was stated."""
    config, transitions = load_design("medium"), Transitions(transition_s=1e-6, transition_j=1e-9, max_points=2)
    for factor in np.linspace(1.05, 2, 20):
        plan = plan_network(table, transitions, deadline_s=float(table.time_s[:, -1].sum() * factor) + 2e-6, budget_j=None)[0].plan
        if len(set(plan.points)) == 2:
            break
    measured = run_plan(config, table, plan, transitions, SLOW, 1)
    assert set(measured.measured_s) == set(measured.planned_s) == set(plan.points) and len(set(plan.points)) == 2
    assert measured.measured_transition_s == pytest.approx(measured.planned_transition_s) and measured.planned_transition_s > 0
    for point, seconds in measured.planned_s.items():
        assert measured.measured_s[point] == pytest.approx(seconds, rel=0.4), point  # the made-up model's coefficients are not fitted


def test_an_energy_budget_buys_time(table):
    least, most = table.energy_j.min(axis=1).sum(), table.energy_j.max(axis=1).sum()
    times = [plan_network(table, Transitions(), deadline_s=None, budget_j=least + x * (most - least))[0].plan.time_s for x in (0.3, 0.6, 1.1)]
    assert times[0] >= times[1] >= times[2] == pytest.approx(table.time_s.min(axis=1).sum(), rel=0.05)


def test_what_cannot_be_planned_is_refused():
    wide = LayerShape(name="wide", kind="conv", in_channels=8, out_channels=8, in_h=64, in_w=64, kernel_h=64, kernel_w=64)
    with pytest.raises(ConfigError, match=r"activation bank must be such that the least tile of layer wide fits, which it does not \(medium\)"):
        layer_table(model(), load_design("medium"), [wide], 1, SLOW, VDD_V)
    gateless = AcceleratorConfig.model_validate(load_design("medium").model_dump() | {"clock_gating": False})
    with pytest.raises(ConfigError, match="differ from the defaults of hw.config only in"):
        of_config(gateless)
    assert [shape.out_h for shape in network_layers(load_network("alexnet"), 2)] == [2] * 5 + [1] * 3
