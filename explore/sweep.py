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
    """Arrays [cases, architectures, voltages]: time and energy of a batch with the clock at fmax (1 - margin) of each voltage, what of the
    energy is the core's, and the energy at the same clock and nominal voltage (the last). NaN where a layer fits no tiling; then
    misfits [tasks] counts the architectures, and uncovered counts points whose clock curves do not cover."""

    latency_s: NDArray
    energy_j: NDArray
    core_energy_j: NDArray
    slow_energy_j: NDArray
    period_s: NDArray
    """[architectures, voltages] of the core's clock."""
    misfits: NDArray
    uncovered: int


_idle_times = njit(cache=True, inline="always")(idle_times)


@njit(cache=True)
def _network(choice, fits, repeats, rows, counts, moving_j):
    """Sums over a network's layers for one group: counts [clocks, events], moving_j [clocks]; whether every layer fits."""
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
            for e in range(counts.shape[1]):
                counts[c, e] += repeats[j] * rows.counts[row, e]
            moving_j[c] += repeats[j] * (rows.moving_j[row, 0] + rows.moving_j[row, 1] + rows.moving_j[row, 2])
    return True


@njit(cache=True)
def _sweep(group, choice, layer_fits, curve, repeats, kinks, lines, rows, chip, idle: Idle, memory_s, latency, energy, core_energy, slow_energy):
    cases, tasks, clocks, last = repeats.shape[0], repeats.shape[1], choice.shape[2], chip.period_s.shape[1] - 1
    counts, moving = np.zeros((cases, clocks, rows.counts.shape[1])), np.zeros((cases, clocks))
    fits, before, uncovered = np.zeros(cases, dtype=np.bool_), -1, 0
    times = np.zeros((tasks, 3))
    for i in range(len(group)):
        g = group[i]
        if g != before:
            before = g
            for n in range(cases):
                fits[n] = _network(choice[g], layer_fits[g], repeats[n], rows, counts[n], moving[n])
        for v in range(last + 1):
            core_s = chip.period_s[i, v]
            clock = nearest_clock(core_s)
            if clock < 0:
                uncovered += 1
                continue
            for j in range(tasks):  # time, that of it in which the DRAM comes back from its idle state, and in that state
                row = choice[g, j, clock]
                if row >= 0:
                    total_s = time_s(kinks[curve[row, clock]], lines[curve[row, clock]], core_s)
                    waiting_s, leaving_s, low_s = _idle_times(max(0.0, total_s - rows.busy_s[row]), rows.gaps[row], idle.timeout_s, idle.exit_s)
                    times[j, 0], times[j, 1], times[j, 2] = total_s, leaving_s, low_s
            for n in range(cases):
                if not fits[n]:
                    continue
                total_s, leaving_s, low_s = 0.0, 0.0, 0.0
                for j in range(tasks):
                    if repeats[n, j]:
                        total_s += repeats[n, j] * times[j, 0]
                        leaving_s += repeats[n, j] * times[j, 1]
                        low_s += repeats[n, j] * times[j, 2]
                cycles, memory_cycles = total_s / core_s, total_s / memory_s
                core = cycles * chip.cycle_j[i, v] + total_s * chip.leakage_w[i, v]
                slow = cycles * chip.cycle_j[i, last] + total_s * chip.leakage_w[i, last]
                rest = cycles * chip.crossing_j[i] + memory_cycles * chip.memory_cycle_j[i] + total_s * chip.memory_leakage_w[i] + moving[n, clock]
                rest += total_s * idle.phy_w + (total_s - leaving_s - low_s) * idle.standby_w + leaving_s * idle.leaving_w + low_s * idle.low_w
                rest += (total_s - low_s) * idle.refresh_w + low_s * idle.low_refresh_w
                for e in range(counts.shape[2]):
                    core += counts[n, clock, e] * chip.event_j[i, e, v]
                    slow += counts[n, clock, e] * chip.event_j[i, e, last]
                    rest += counts[n, clock, e] * chip.memory_event_j[i, e]
                latency[n, i, v], energy[n, i, v], core_energy[n, i, v], slow_energy[n, i, v] = total_s, core + rest, core, slow + rest
    return uncovered


def sweep(searched: Searched, rows: LayerRows, chip: Chip, conditions: Conditions, repeats: NDArray) -> Sweeps:
    """`Sweeps` of the architectures that `searched` and `chip` are of; repeats [cases, tasks]: how often each case runs each task."""
    shape = (len(repeats), *chip.period_s.shape)
    latency, energy, core_energy, slow_energy = (np.full(shape, np.nan) for _ in range(4))
    uncovered = _sweep(
        searched.group, searched.choice, searched.fits, searched.curve, np.asarray(repeats, dtype=np.int64), searched.kinks, searched.lines, rows, chip,
        idle_powers(conditions), 1 / conditions.mem_clk_hz, latency, energy, core_energy, slow_energy,
    )  # fmt: skip
    misfits = (~searched.fits[searched.group]).sum(axis=0)
    return Sweeps(
        latency_s=latency, energy_j=energy, core_energy_j=core_energy, slow_energy_j=slow_energy, period_s=chip.period_s, misfits=misfits,
        uncovered=int(uncovered),
    )  # fmt: skip
