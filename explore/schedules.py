"""A voltage and clock for each layer of a network, exactly the best within a deadline or an energy budget, and what simpler ways would take.

The choice is a path through layers x operating points, whose arcs cost the layer's time and energy and those of a change of point. With
a limit on time or energy and on how many points are used it is a mixed-integer linear program, solved by HiGHS (scipy.optimize.milp).
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Annotated

import numpy as np
from numpy.typing import NDArray
from pydantic import Field
from scipy.optimize import LinearConstraint, milp
from scipy.sparse import coo_array

from hw.errors import ConfigError, ModelError
from hw.settings import Settings

NotNegative = Annotated[float, Field(ge=0)]


class Transitions(Settings):
    """What changing the operating point and switching off take; assumptions of whoever schedules, all provisional.

    A change of point stops the core for `transition_s` and takes `transition_j`. A power-gated core leaks `gated_leakage` of its leakage,
    and takes `wake_s` and `wake_j` to come back. At most `max_points` different points are used.
    """

    transition_s: NotNegative = 10e-6
    transition_j: NotNegative = 1e-7
    gated_leakage: Annotated[float, Field(ge=0, le=1)] = 0.05
    wake_s: NotNegative = 20e-6
    wake_j: NotNegative = 1e-6
    max_points: Annotated[int, Field(ge=1, le=256)] = 4


@dataclass(frozen=True, kw_only=True)
class Plan:
    """The point of each layer [layers], indices; time and energy until the last layer ends, transitions with it."""

    points: tuple[int, ...]
    time_s: float
    energy_j: float


def cost(points: Sequence[int], time_s: NDArray, energy_j: NDArray, transitions: Transitions) -> tuple[float, float]:
    """Time and energy of layers [layers, points] at these points; the first layer's point is there from the start."""
    changes = sum(a != b for a, b in zip(points, points[1:], strict=False))
    layers = np.arange(len(points))
    spent_s = float(time_s[layers, points].sum()) + changes * transitions.transition_s
    return spent_s, float(energy_j[layers, points].sum()) + changes * transitions.transition_j


def best_plan(
    time_s: NDArray, energy_j: NDArray, transitions: Transitions, *, deadline_s: float | None = None, budget_j: float | None = None, idle_w: float = 0.0
) -> Plan:  # fmt: skip
    """The plan of least energy that ends by `deadline_s`, or of least time that takes at most `budget_j`; exactly one is given.

    Before a deadline, time that is left costs `idle_w`. time_s, energy_j [layers, points]. `ConfigError` says what is reachable if nothing is.
    """
    if (deadline_s is None) == (budget_j is None):
        raise ConfigError("either a deadline or an energy budget must be given, not both or none; give --deadline-s or --energy-budget-j")
    layers, points = time_s.shape
    if energy_j.shape != time_s.shape or not all(np.all(np.isfinite(v)) and np.all(v >= 0) for v in (time_s, energy_j)):
        raise ModelError("times and energies of layers must be of one shape, finite and at least 0, and are not; check the model")
    # Arc variables: of layer i >= 1 from point p to q; then one for each point, whether it is used at all.
    step, p, q = (index.ravel() for index in np.indices((layers - 1, points, points)))
    first, arcs = points, points + (layers - 1) * points**2
    changed = (p != q).astype(float)
    seconds = np.concatenate([time_s[0], time_s[step + 1, q] + changed * transitions.transition_s, np.zeros(points)])
    joules = np.concatenate([energy_j[0], energy_j[step + 1, q] + changed * transitions.transition_j, np.zeros(points)])
    arc = np.arange(first, arcs)

    def matrix(rows: NDArray, columns: NDArray, values: NDArray, count: int) -> coo_array:
        return coo_array((values, (rows, columns)), shape=(count, arcs + points))

    # What flows into a point after layer i flows out of it at layer i + 1; one unit enters.
    flows = (layers - 1) * points
    start = np.arange(first)
    leaving = matrix(step * points + p, arc, -np.ones(len(arc)), flows)
    entering_later = step < layers - 2
    entering = matrix(((step + 1) * points + q)[entering_later], arc[entering_later], np.ones(int(entering_later.sum())), flows)
    constraints = [LinearConstraint(matrix(np.zeros(first, dtype=int), start, np.ones(first), 1), 1, 1)]
    if layers > 1:
        balance = leaving + entering + matrix(start, start, np.ones(first), flows)
        constraints.append(LinearConstraint(balance.tocsr(), 0, 0))
    # A point may be used by a layer only if it is among those chosen.
    use_rows = np.concatenate([start, (step + 1) * points + q])
    uses = matrix(use_rows, np.arange(arcs), np.ones(arcs), layers * points)
    chosen = matrix(np.arange(layers * points), arcs + np.tile(np.arange(points), layers), -np.ones(layers * points), layers * points)
    constraints.append(LinearConstraint((uses + chosen).tocsr(), -np.inf, 0))
    constraints.append(LinearConstraint(matrix(np.zeros(points, dtype=int), arcs + np.arange(points), np.ones(points), 1), 0, transitions.max_points))
    limited, wanted = (seconds, joules - idle_w * seconds) if deadline_s is not None else (joules, seconds)
    limit = deadline_s if deadline_s is not None else budget_j
    assert limit is not None
    scale, goal = max(limit, 1e-30), np.abs(wanted).max() or 1.0
    constraints.append(LinearConstraint(limited[None, :] / scale, -np.inf, 1))
    found = milp(wanted / goal, integrality=np.ones(arcs + points), bounds=(0, 1), constraints=constraints, options={"mip_rel_gap": 0.0})
    if not found.success:
        at = np.argmin((time_s if deadline_s is not None else energy_j).sum(axis=0))
        reachable = (time_s if deadline_s is not None else energy_j)[:, at].sum()
        what, unit = ("deadline_s", "s") if deadline_s is not None else ("energy budget", "J")
        raise ConfigError(f"{what} must be reachable, not {limit:g} {unit}; a single point takes {reachable:.4g} {unit} at least")
    x = found.x > 0.5
    path = [int(np.flatnonzero(x[:first])[0])] + [int(q[step == i][x[first:arcs][step == i]][0]) for i in range(layers - 1)]
    spent_s, spent_j = cost(path, time_s, energy_j, transitions)
    return Plan(points=tuple(path), time_s=spent_s, energy_j=spent_j)


@dataclass(frozen=True, kw_only=True)
class Strategy:
    """One way to run a network once within a period: plan, its time without idling, energy of the whole period."""

    name: str
    plan: Plan
    slowed: bool
    """Whether points are those at nominal voltage."""
    period_j: float


def strategies(
    time_s: NDArray, energy_j: NDArray, slow_energy_j: NDArray, idle_w: float, gated_w: float, transitions: Transitions, deadline_s: float
) -> list[Strategy]:  # fmt: skip
    """The best schedule, the best single point, frequency only at nominal voltage (best single clock), and race to idle with power gating.

    time_s, energy_j, slow_energy_j [layers, points], the last point nominal; idle_w with the clock stopped at the lowest voltage, gated_w with
    the core gated. A strategy that cannot keep the deadline is left out; `ConfigError` if none can.
    """
    single = transitions.model_copy(update={"max_points": 1})
    last = time_s.shape[1] - 1
    found = []

    def add(name: str, energy: NDArray, limits: Transitions, slowed: bool) -> None:
        plan = best_plan(time_s, energy, limits, deadline_s=deadline_s, idle_w=idle_w)
        found.append(Strategy(name=name, plan=plan, slowed=slowed, period_j=plan.energy_j + idle_w * (deadline_s - plan.time_s)))

    add("schedule", energy_j, transitions, False)
    if time_s.sum(axis=0).min() <= deadline_s:
        add("best single point", energy_j, single, False)
        add("frequency only", slow_energy_j, single, True)
    nominal_s, nominal_j = cost([last] * len(time_s), time_s, energy_j, transitions)
    if nominal_s + transitions.wake_s <= deadline_s:
        plan = Plan(points=(last,) * len(time_s), time_s=nominal_s + transitions.wake_s, energy_j=nominal_j + transitions.wake_j)
        found.append(Strategy(name="race to idle, power gated", plan=plan, slowed=True, period_j=plan.energy_j + gated_w * (deadline_s - plan.time_s)))
    return found
