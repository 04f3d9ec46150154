"""What lowering the voltage with the clock brings an architecture, against lowering the clock alone. Arrays [architectures, points]."""

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from explore.pareto import hypervolumes


@dataclass(frozen=True, kw_only=True)
class Dvfs:
    """Of each architecture [architectures]; `slope` [architectures, points]. See `explore.points.SWEEP_COLUMNS`."""

    effectiveness: NDArray
    throughput_range: NDArray
    efficiency_gain: NDArray
    min_energy: NDArray
    """Index of the point of least system energy a batch."""
    core_min_energy: NDArray
    slope: NDArray


def compare_sweeps(
    throughput_ips: NDArray, efficiency_gops_w: NDArray, core_energy_j: NDArray, frequency_throughput_ips: NDArray, frequency_efficiency_gops_w: NDArray,
    front_hypervolume: float,
) -> Dvfs:  # fmt: skip
    """`Dvfs` of sweeps with rising voltage, the last nominal, one after the other for each back bias, first for none; those named `frequency`
    [architectures, voltages] have the same clocks as without bias, at nominal voltage.

    Effectiveness = [HV(DVFS sweep) - HV(frequency-only sweep)] / HV(global front) on linear axes with reference (0, 0).
    """
    gain = hypervolumes(throughput_ips, efficiency_gops_w) - hypervolumes(frequency_throughput_ips, frequency_efficiency_gops_w)
    voltages = frequency_throughput_ips.shape[1]
    throughput, efficiency = (np.log(x).reshape(len(x), -1, voltages) for x in (throughput_ips, efficiency_gops_w))
    return Dvfs(
        effectiveness=gain / front_hypervolume, throughput_range=throughput_ips.max(axis=1) / throughput_ips.min(axis=1),
        efficiency_gain=efficiency_gops_w.max(axis=1) / efficiency_gops_w[:, voltages - 1], min_energy=efficiency_gops_w.argmax(axis=1),
        core_min_energy=core_energy_j.argmin(axis=1), slope=(_gradient(efficiency) / _gradient(throughput)).reshape(throughput_ips.shape),
    )  # fmt: skip


def _gradient(values: NDArray) -> NDArray:
    """Central differences along the points, one-sided at the ends."""
    return np.concatenate([values[..., 1:2] - values[..., :1], values[..., 2:] - values[..., :-2], values[..., -1:] - values[..., -2:-1]], axis=-1)


def at_edge(index: NDArray, voltages: int) -> NDArray:
    """Whether a minimum lies at an end of the voltages of its sweep, and might lie beyond."""
    return (index % voltages == 0) | (index % voltages == voltages - 1)
