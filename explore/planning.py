"""A network's layers at every operating point of one architecture, the schedules over them, and one of them run on the RTL."""

import tempfile
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from explore.chains import Link
from explore.chunks import tasks_of
from explore.evaluate import Conditions, clock_hz, evaluate, idle_powers, predict_designs
from explore.schedules import Plan, Strategy, Transitions, best_plan, strategies
from explore.space import of_config
from fit.model import FittedModel
from hw.config import AcceleratorConfig
from hw.dram import DramPolicy
from hw.errors import ConfigError
from hw.layers import LayerShape, Network
from hw.lowering import folds, lower
from hw.tile_plan import Tiling
from hw.tiling_choice import enumerate_tilings


@dataclass(frozen=True, kw_only=True)
class LayerTable:
    """Layers x operating points of an architecture: time_s, energy_j, slow_energy_j (same clock at nominal voltage) [layers, points] of the whole
    system, tilings [layers, points, 5]; vdd_v, freq_hz [points] by rising voltage. idle_w: with the core stopped at the
    lowest voltage and the DRAM in self-refresh; core_idle_w of it the core's."""

    layers: tuple[LayerShape, ...]
    time_s: NDArray
    energy_j: NDArray
    slow_energy_j: NDArray
    tilings: NDArray
    vdd_v: NDArray
    freq_hz: NDArray
    idle_w: float
    core_idle_w: float
    asleep_w: float
    """The rest of idle_w: memory side, DRAM and PHY, W."""


def layer_table(
    model: FittedModel, config: AcceleratorConfig, layers: Sequence[LayerShape], batch: int, conditions: Conditions, vdd_v: NDArray, links: Sequence[Link] = ()
) -> LayerTable:  # fmt: skip
    """`LayerTable` of `layers` one after the other, clocks at fmax less margin; raises `ConfigError` naming layer and buffer where no tiling fits. With the
    layers' `links`, activations stay on chip where that is better at the middle one of the clocks, and so at all of them."""
    one = of_config(config)
    designs = predict_designs(model, one, vdd_v, conditions)
    frequency, points = clock_hz(designs, conditions), np.arange(len(vdd_v))
    tasks = tasks_of(layers, batch, links)
    for task in tasks:
        enumerate_tilings(config, lower(config, task.shape, batch=batch, fold=task.first and folds(task.shape, config.array.lanes)))
    found = [
        evaluate(model, one, tasks, conditions, vdd_v, frequency, voltage, alike=True) for voltage in (points, np.full(len(vdd_v), len(vdd_v) - 1))
    ]
    energy = [results.values[0, :, :, 2] + results.values[0, :, :, 4] + results.values[0, :, :, 6:11].sum(axis=-1) for results in found]
    asleep = idle_powers(replace(conditions, policy=DramPolicy(idle_state="self_refresh")))
    asleep_w = float(designs.memory_leakage_w[0]) + asleep.low_w + asleep.low_refresh_w + asleep.phy_w
    core_w = float(designs.core_leakage_w[0, 0])
    return LayerTable(
        layers=tuple(layers), time_s=found[0].values[0, :, :, 0], energy_j=energy[0], slow_energy_j=energy[1], tilings=found[0].tilings[0], vdd_v=vdd_v,
        freq_hz=frequency[0], core_idle_w=core_w, idle_w=core_w + asleep_w, asleep_w=asleep_w,
    )  # fmt: skip


def plan_network(table: LayerTable, transitions: Transitions, *, deadline_s: float | None, budget_j: float | None) -> list[Strategy]:
    """The strategies of `explore.schedules` before a deadline, or the fastest schedule and single point within an energy budget."""
    if deadline_s is not None and budget_j is None:
        gated_w = table.asleep_w + transitions.gated_leakage * table.core_idle_w
        return strategies(table.time_s, table.energy_j, table.slow_energy_j, table.idle_w, gated_w, transitions, deadline_s)
    found = []
    for name, limits in (("schedule", transitions), ("best single point", transitions.model_copy(update={"max_points": 1}))):
        try:
            plan = best_plan(table.time_s, table.energy_j, limits, deadline_s=deadline_s, budget_j=budget_j)
        except ConfigError:
            if name == "schedule":
                raise
            continue
        found.append(Strategy(name=name, plan=plan, slowed=False, period_j=plan.energy_j))
    return found


@dataclass(frozen=True, kw_only=True)
class Measured:
    """A schedule on the RTL: planned and measured time at each operating point (its index) and in transitions, s."""

    planned_s: dict[int, float]
    measured_s: dict[int, float]
    planned_transition_s: float
    measured_transition_s: float


def run_plan(config: AcceleratorConfig, table: LayerTable, plan: Plan, transitions: Transitions, conditions: Conditions, batch: int) -> Measured:
    """Compile the layers with the plan's tilings and OPERATING_POINT instructions and run them on the RTL with the DRAM, every output compared.

    The clock periods are those of the plan in whole picoseconds. Before the first layer the clock is that of its point.
    """
    from hw.emit import emit
    from hw.operating_points import OperatingPoint, with_operating_points
    from hw.sim.network import random_workload, run_workload
    from hw.sim.run import build

    tilings = {shape.name: Tiling(*(int(x) for x in table.tilings[i, plan.points[i]])) for i, shape in enumerate(table.layers)}
    workload = random_workload(config, list(table.layers), batch=batch, tilings=tilings)
    changes = {shape.name: plan.points[i] for i, shape in enumerate(table.layers) if i and plan.points[i] != plan.points[i - 1]}
    periods = {point: round(1e12 / table.freq_hz[point]) for point in set(plan.points)}
    if changes:
        workload = replace(workload, program=with_operating_points(workload.program, changes))
    with tempfile.TemporaryDirectory() as folder:
        simulator = build(verilog=emit(config, Path(folder)).verilog, axi_data_bits=config.memory.axi_data_bits)
    result = run_workload(
        simulator, workload, where=f"schedule on {config.name}", core_period_ps=periods[plan.points[0]], mem_period_ps=round(1e12 / conditions.mem_clk_hz),
        memory=conditions.dram, timeout_cycles=200_000_000,
        operating_points={p: OperatingPoint(core_period_ps=period, transition_s=transitions.transition_s) for p, period in periods.items()},
    )  # fmt: skip
    planned = {point: float(sum(table.time_s[i, p] for i, p in enumerate(plan.points) if p == point)) for point in periods}
    measured = {plan.points[0] if point is None else point: seconds for point, seconds in result.operating_point_s.items() if point is not None}
    if None in result.operating_point_s:
        measured[plan.points[0]] = measured.get(plan.points[0], 0.0) + result.operating_point_s[None]
    return Measured(
        planned_s=planned, measured_s=measured, planned_transition_s=len(changes) * transitions.transition_s, measured_transition_s=result.transition_s
    )  # fmt: skip


def network_layers(network: Network, window_rows: int | None = None) -> tuple[LayerShape, ...]:
    """The network's layers, or windows of them: `window_rows` output rows and 64 output channels of each, which simulate in seconds."""
    if window_rows is None:
        return tuple(network.layers)
    return tuple(shape.window(out_rows=window_rows, out_channels=64) for shape in network.layers)
