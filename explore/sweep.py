"""Time and energy of whole networks on all architectures of one array, at all operating points: the fast path of the exploration.

The same quantities as `explore.evaluate`, added up over layers at once: what a layer moves and counts is summed per group of
architectures and clock, its time comes from its curve, so that a point costs little more than its arithmetic.
"""

from typing import NamedTuple

import numpy as np
from numba import njit
from numpy.typing import NDArray

from explore.curves import nearest_clock, time_s
from explore.evaluate import Chip, Conditions, Idle, LayerRows, idle_powers
from explore.tilings import Searched
from hw.dram import idle_times


class Sweeps(NamedTuple):
    """Arrays [cases, architectures, points]: time and energy of a batch with the clock at fmax (1 - margin) of each supply and bias, and what of the
    energy is the core's; slow_energy_j [cases, architectures, voltages]: at the same clocks as the first points, those without bias, and the nominal
    voltage, the last of them. NaN where a layer fits no tiling; then misfits [tasks] counts the architectures, and uncovered counts points whose
    clock curves do not cover."""

    latency_s: NDArray
    energy_j: NDArray
    core_energy_j: NDArray
    slow_energy_j: NDArray
    period_s: NDArray
    """[architectures, points] of the core's clock."""
    misfits: NDArray
    uncovered: int


_idle_times = njit(cache=True, inline="always")(idle_times)


@njit(cache=True)
def _network(choice: NDArray, fits: NDArray, repeats: NDArray, rows: LayerRows, counts: NDArray, moving_j: NDArray) -> bool:
    """Sums over a network's layers for one group: counts [events, clocks], moving_j [clocks]; whether every layer fits."""
    counts[:], moving_j[:] = 0.0, 0.0
    for j in range(len(repeats)):
        if repeats[j] == 0:
            continue
        if not fits[j]:
            return False
        for c in range(choice.shape[1]):
            row = choice[j, c]
            if row < 0:
                continue
            for e in range(len(counts)):
                counts[e, c] += repeats[j] * rows.counts[row, e]
            moving_j[c] += repeats[j] * (rows.moving_j[row, 0] + rows.moving_j[row, 1] + rows.moving_j[row, 2])
    return True


@njit(cache=True)
def _sweep(
    group: NDArray, choice: NDArray, layer_fits: NDArray, curve: NDArray, repeats: NDArray, kinks: NDArray, lines: NDArray, rows: LayerRows, chip: Chip,
    idle: Idle, memory_s: float, latency: NDArray, energy: NDArray, core_energy: NDArray, slow_energy: NDArray,
) -> int:  # fmt: skip
    cases, tasks, clocks = repeats.shape[0], repeats.shape[1], choice.shape[2]
    points, events, last = chip.period_s.shape[1], rows.counts.shape[1], slow_energy.shape[2] - 1
    counts, moving = np.zeros((cases, events, clocks)), np.zeros((cases, clocks))
    fits, before, uncovered = np.zeros(cases, dtype=np.bool_), -1, 0
    times, clock_of = np.zeros((tasks, points, 3)), np.zeros(points, dtype=np.int64)
    dynamic_j, slow_j, memory_j = np.zeros(points), np.zeros(clocks), np.zeros(clocks)
    for i in range(len(group)):
        g = group[i]
        if g != before:
            before = g
            for n in range(cases):
                fits[n] = _network(choice[g], layer_fits[g], repeats[n], rows, counts[n], moving[n])
        for v in range(points):
            clock_of[v] = nearest_clock(chip.period_s[i, v])
            uncovered += clock_of[v] < 0
        if uncovered:
            continue
        for j in range(tasks):  # time, that of it in which the DRAM comes back from its idle state, and in that state
            if not layer_fits[g, j]:
                continue
            for v in range(points):
                row = choice[g, j, clock_of[v]]
                total_s = time_s(kinks[curve[row, clock_of[v]]], lines[curve[row, clock_of[v]]], chip.period_s[i, v])
                waiting_s, leaving_s, low_s = _idle_times(max(0.0, total_s - rows.busy_s[row]), rows.gaps[row], idle.timeout_s, idle.exit_s)
                times[j, v, 0], times[j, v, 1], times[j, v, 2] = total_s, leaving_s, low_s
        for n in range(cases):
            if not fits[n]:
                continue
            dynamic_j[:], slow_j[:], memory_j[:] = 0.0, 0.0, moving[n]
            for e in range(events):
                own = counts[n, e]
                for v in range(points):
                    dynamic_j[v] += own[clock_of[v]] * chip.event_j[i, e, v]
                for c in range(clocks):
                    slow_j[c] += own[c] * chip.event_j[i, e, last]
                    memory_j[c] += own[c] * chip.memory_event_j[i, e]
            for v in range(points):
                clock, total_s, leaving_s, low_s = clock_of[v], 0.0, 0.0, 0.0
                for j in range(tasks):
                    if repeats[n, j]:
                        total_s += repeats[n, j] * times[j, v, 0]
                        leaving_s += repeats[n, j] * times[j, v, 1]
                        low_s += repeats[n, j] * times[j, v, 2]
                cycles, memory_cycles = total_s / chip.period_s[i, v], total_s / memory_s
                core = cycles * chip.cycle_j[i, v] + total_s * chip.leakage_w[i, v] + dynamic_j[v]
                rest = cycles * chip.crossing_j[i] + memory_cycles * chip.memory_cycle_j[i] + total_s * chip.memory_leakage_w[i] + memory_j[clock]
                rest += total_s * idle.phy_w + (total_s - leaving_s - low_s) * idle.standby_w + leaving_s * idle.leaving_w + low_s * idle.low_w
                rest += (total_s - low_s) * idle.refresh_w + low_s * idle.low_refresh_w
                latency[n, i, v], energy[n, i, v], core_energy[n, i, v] = total_s, core + rest, core
                if v <= last:
                    slow = cycles * chip.cycle_j[i, last] + total_s * chip.leakage_w[i, last] + slow_j[clock]
                    slow_energy[n, i, v] = slow + rest
    return uncovered


def sweep(searched: Searched, rows: LayerRows, chip: Chip, conditions: Conditions, repeats: NDArray, voltages: int | None = None) -> Sweeps:
    """`Sweeps` of the architectures that `searched` and `chip` are of; repeats [cases, tasks]: how often each case runs each task.

    The first `voltages` points are those without bias, by rising voltage; by default all are.
    """
    shape = (len(repeats), *chip.period_s.shape)
    latency, energy, core_energy = (np.full(shape, np.nan) for _ in range(3))
    slow_energy = np.full((*shape[:2], voltages or shape[2]), np.nan)
    uncovered = _sweep(
        searched.group, searched.choice, searched.fits, searched.curve, np.asarray(repeats, dtype=np.int64), searched.kinks, searched.lines, rows, chip,
        idle_powers(conditions), 1 / conditions.mem_clk_hz, latency, energy, core_energy, slow_energy,
    )  # fmt: skip
    misfits = (~searched.fits[searched.group]).sum(axis=0)
    return Sweeps(
        latency_s=latency, energy_j=energy, core_energy_j=core_energy, slow_energy_j=slow_energy, period_s=chip.period_s, misfits=misfits,
        uncovered=int(uncovered),
    )  # fmt: skip
