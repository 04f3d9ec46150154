"""Architectures x operating points x layers, in arrays: time, energy by part, traffic and bound of each, at its best tiling.

A layer runs from DRAM to DRAM and a network's layers one after the other. The core is at an operating point; the memory side is
at nominal voltage and `mem_clk_hz`; the DRAM does not scale. Compiled kernels enumerate tilings (`explore.tilings`) and go over
rows x operating points; the closed forms of the DRAM and the laws of the chip are numpy over all rows.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np
from numba import njit
from numba.np.unsafe.ndarray import to_fixed_tuple
from numpy.typing import NDArray

from explore.space import Architectures
from explore.tilings import KEPT_EACH, Tilings, find_tilings, worth_evaluating
from fit.compose import Designs, event_counts, predict
from fit.cycles import BOUNDS, Coefficients, DramTimes, DramUse, dram_use, layer_cycles
from fit.model import FittedModel
from hw.dram import DramPart, dram_energy_j
from hw.errors import ConfigError, ModelError
from hw.layers import LayerShape
from hw.lowering import LoweredLayer, folds, lower
from hw.tile_plan import Architecture, Tiling
from hw.tiling import Traffic

OBJECTIVES = ("latency", "energy", "edp")
QUANTITIES = (
    "latency_s", "core_cycles", "core_energy_j", "core_leakage_energy_j", "memory_side_energy_j", "memory_leakage_energy_j", "dram_core_energy_j",
    "dram_io_energy_j", "dram_phy_energy_j", "dram_background_energy_j", "dram_refresh_energy_j", "dram_static_energy_j", "dram_read_bytes",
    "dram_write_bytes",
)  # fmt: skip
"""What is computed for each layer and adds up over layers. core_energy_j and memory_side_energy_j hold their leakage;
dram_static_energy_j is what of the DRAM's energy is proportional to time, and is in the others already."""
_PARTS = ("core", "io", "phy", "background", "refresh")
_Q = {name: i for i, name in enumerate(QUANTITIES)}
_ARCHITECTURE, _LAYER, _TILING, _TRAFFIC, _TIMES = (len(kind._fields) for kind in (Architecture, LoweredLayer, Tiling, Traffic, DramTimes))


@dataclass(frozen=True, kw_only=True)
class Task:
    """A layer over a batch; the first layer of a network may be folded (`hw.lowering`), because the host writes its input."""

    shape: LayerShape
    batch: int
    first: bool = False


@dataclass(frozen=True, kw_only=True)
class Conditions:
    """What is the same at all points."""

    dram: DramPart
    mem_clk_hz: float = 800e6
    margin: float = 0.1
    objective: str = "latency"

    def __post_init__(self):
        if self.objective not in OBJECTIVES:
            raise ConfigError(f"objective must be one of {', '.join(OBJECTIVES)}, not {self.objective!r}; give one of these")
        if not 0 <= self.margin < 1:
            raise ConfigError(f"margin must be at least 0 and below 1, not {self.margin}; give a part of fmax such as 0.1")
        if not self.mem_clk_hz > 0:
            raise ConfigError(f"mem_clk_hz must be above 0, not {self.mem_clk_hz}; give the memory-side clock in Hz")


@dataclass(frozen=True, kw_only=True)
class Results:
    """values [architectures, tasks, points, QUANTITIES], NaN where a layer fits no tiling; bound, row [architectures, tasks, points],
    indices into `fit.cycles.BOUNDS` and the rows of `tilings`, -1 there; limited: DRAM times that were longer than their layer."""

    values: NDArray
    bound: NDArray
    row: NDArray
    limited: int


@dataclass(frozen=True, kw_only=True)
class Prepared:
    """Everything about architectures and tasks that does not depend on the operating point. `group` [architectures] indexes those of `tilings`."""

    architectures: Architectures
    tilings: Tilings
    group: NDArray
    lowered: NDArray
    times: NDArray
    """[rows, fields of DramTimes]"""
    use: DramUse


def lower_all(architectures: Architectures, tasks: Sequence[Task]) -> tuple[NDArray, NDArray]:
    """Numbers [groups, tasks, fields of LoweredLayer], and which group [architectures] each architecture is in: a layer is lowered
    for its cols and lanes, whatever the rest is."""
    v = architectures.values
    _, first, group = np.unique(v["cols"] * 4096 + v["lanes"], return_index=True, return_inverse=True)
    configs = [architectures.config(int(i)) for i in first]
    numbers = [[lower(c, t.shape, batch=t.batch, fold=t.first and folds(t.shape, c.array.lanes)).numbers for t in tasks] for c in configs]
    return np.array(numbers, dtype=np.int64), group


def prepare(model: FittedModel, architectures: Architectures, tasks: Sequence[Task], conditions: Conditions, *, kept_each: int = KEPT_EACH) -> Prepared:
    """Lower, search tilings, work out the DRAM's times and activations for all of them, and keep those worth evaluating."""
    lowered, lowered_group = lower_all(architectures, tasks)
    table = np.stack(architectures.numbers(), axis=1)
    _, first, group = np.unique(table, axis=0, return_index=True, return_inverse=True)
    group = group.ravel()
    tilings = find_tilings(Architecture(*table[first].T), lowered, lowered_group[first])
    a = Architecture(*table[first][tilings.architecture].T)
    l = LoweredLayer(*lowered[lowered_group[first][tilings.architecture], tilings.layer].T)  # noqa: E741
    drams, use = dram_use(conditions.dram, a, l, Tiling(*tilings.tilings.T), Traffic(*tilings.traffic.T))
    times = np.stack(np.broadcast_arrays(*drams), axis=1)
    distinct = Architecture(*table[first].T)
    kept = worth_evaluating(tilings, distinct, lowered, lowered_group[first], times, 1 / conditions.mem_clk_hz, coefficients(model), kept_each)
    use = DramUse(read_bytes=use.read_bytes[kept], write_bytes=use.write_bytes[kept], activates=use.activates[kept])
    return Prepared(
        architectures=architectures, tilings=tilings.only(kept), group=group, lowered=lowered[lowered_group[first]], times=times[kept], use=use
    )  # fmt: skip


class _Rows(NamedTuple):
    """Arrays over the rows of tilings. fixed_j: the DRAM's energy [rows, parts] that does not depend on time."""

    tilings: NDArray
    traffic: NDArray
    times: NDArray
    counts: NDArray
    fixed_j: NDArray
    read_bytes: NDArray
    write_bytes: NDArray


class _Chip(NamedTuple):
    """Laws of the designs, [architectures, voltages] and for events [.., events]; memory side without voltages."""

    cycle_j: NDArray
    event_j: NDArray
    leakage_w: NDArray
    crossing_j: NDArray
    memory_cycle_j: NDArray
    memory_event_j: NDArray
    memory_leakage_w: NDArray


@njit(cache=True)
def _layer_values(i, v, a, l, row, rows, chip, busy_w, total_w, core_s, memory_s, k, out):  # noqa: E741
    """Write `QUANTITIES` of one row of tilings at one operating point into `out`; return (bound, whether the DRAM's time was limited)."""
    t, n = Tiling(*to_fixed_tuple(rows.tilings[row], _TILING)), Traffic(*to_fixed_tuple(rows.traffic[row], _TRAFFIC))
    dram = DramTimes(*to_fixed_tuple(rows.times[row], _TIMES))
    cycles = layer_cycles(a, l, t, n, dram, core_s, memory_s, k)
    total_s = cycles.total * core_s
    memory_cycles = total_s / memory_s
    dynamic = cycles.total * chip.cycle_j[i, v] + memory_cycles * chip.crossing_j[i, v]
    memory = memory_cycles * chip.memory_cycle_j[i]
    for e in range(rows.counts.shape[1]):
        dynamic += rows.counts[row, e] * chip.event_j[i, v, e]
        memory += rows.counts[row, e] * chip.memory_event_j[i, e]
    busy_s = dram.total_s * k.dram
    limited = busy_s > total_s
    busy_s = min(busy_s, total_s)
    out[0], out[1] = total_s, cycles.total
    out[3] = chip.leakage_w[i, v] * total_s
    out[2] = dynamic + out[3]
    out[5] = chip.memory_leakage_w[i] * total_s
    out[4] = memory + out[5]
    static = 0.0
    for part in range(5):
        timed = busy_w[part] * busy_s + total_w[part] * total_s
        static += timed
        out[6 + part] = rows.fixed_j[row, part] + timed
    out[11] = static
    out[12], out[13] = rows.read_bytes[row], rows.write_bytes[row]
    return cycles.bound, limited


@njit(cache=True)
def _evaluate(numbers, group, lowered, first, count, rows, chip, busy_w, total_w, frequency, voltage, memory_s, k, objective, values, bounds, chosen):
    """For each architecture, task and point write the row of least objective (then least energy, then first); return how often a DRAM time was limited."""
    trial = np.zeros(values.shape[3])
    limited = 0
    for i in range(values.shape[0]):
        g = group[i]
        a = Architecture(*to_fixed_tuple(numbers[i], _ARCHITECTURE))
        for j in range(values.shape[1]):
            l = LoweredLayer(*to_fixed_tuple(lowered[g, j], _LAYER))  # noqa: E741
            for p in range(values.shape[2]):
                best, best_energy, best_limited = np.inf, np.inf, False
                for row in range(first[g, j], first[g, j] + count[g, j]):
                    bound, over = _layer_values(
                        i, voltage[p], a, l, row, rows, chip, busy_w, total_w, 1 / frequency[i, p], memory_s, k, trial
                    )  # fmt: skip
                    energy = trial[2] + trial[4] + trial[6] + trial[7] + trial[8] + trial[9] + trial[10]
                    merit = trial[0] if objective == 0 else energy if objective == 1 else energy * trial[0]
                    if merit < best or (merit == best and energy < best_energy):
                        best, best_energy, best_limited = merit, energy, over
                        values[i, j, p] = trial
                        bounds[i, j, p] = bound
                        chosen[i, j, p] = row
                limited += best_limited
    return limited


def coefficients(model: FittedModel) -> Coefficients:
    """The cycle model's coefficients; `ModelError` if the model has none."""
    if model.cycles is None:
        raise ModelError("model must hold fitted cycles, not only corners; fit again with the table of cycles")
    return Coefficients(**{number.name: number.value for number in model.cycles.parameters})


def clock_hz(designs: Designs, conditions: Conditions) -> NDArray:
    """[architectures, voltages] fmax (1 - margin)."""
    return designs.fmax_hz * (1 - conditions.margin)


def evaluate(model: FittedModel, prepared: Prepared, designs: Designs, conditions: Conditions, frequency_hz: NDArray, voltage: NDArray) -> Results:
    """`Results` at points of clock frequency_hz [architectures, points] and index voltage [points] into the voltages of `designs`.

    Of each layer the tiling of least latency (or energy, or their product) is taken, ties by energy. The time the DRAM is busy is
    that of its closed form, but at most the layer's: how often that matters is counted.
    """
    p = prepared
    part, rows = conditions.dram, p.tilings
    parameters = {name: value[_representatives(p)][rows.architecture] for name, value in p.architectures.parameters().items()}
    counts = event_counts(parameters, Traffic(*rows.traffic.T))
    names = sorted(set(designs.core_event_j) | set(designs.memory_event_j))
    shape = designs.fmax_hz.shape
    fixed = dram_energy_j(part, read_bytes=p.use.read_bytes, write_bytes=p.use.write_bytes, activates=p.use.activates, busy_s=0, total_s=0)
    idle_w, active_w = (dram_energy_j(part, read_bytes=0, write_bytes=0, activates=0, busy_s=busy, total_s=1) for busy in (0, 1))
    total_w = np.array([float(getattr(idle_w, f"{name}_j")) for name in _PARTS])
    busy_w = np.array([float(getattr(active_w, f"{name}_j")) for name in _PARTS]) - total_w
    t = Traffic(*rows.traffic.T)
    row_arrays = _Rows(
        tilings=rows.tilings, traffic=rows.traffic, times=p.times,
        counts=np.stack([np.asarray(counts[name], dtype=float) for name in names], axis=1),
        fixed_j=np.stack([getattr(fixed, f"{name}_j") for name in _PARTS], axis=1),
        read_bytes=(t.activation_read_bytes + t.weight_read_bytes + t.parameter_read_bytes + t.program_read_bytes).astype(float),
        write_bytes=t.output_write_bytes.astype(float),
    )  # fmt: skip
    chip = _Chip(
        cycle_j=designs.core_cycle_j, leakage_w=designs.core_leakage_w, crossing_j=designs.crossing_cycle_j, memory_cycle_j=designs.memory_cycle_j,
        event_j=np.stack([np.broadcast_to(designs.core_event_j.get(name, 0.0), shape) for name in names], axis=2),
        memory_event_j=np.stack([np.broadcast_to(designs.memory_event_j.get(name, 0.0), shape[0]) for name in names], axis=1),
        memory_leakage_w=designs.memory_leakage_w,
    )  # fmt: skip
    points = np.broadcast_to(frequency_hz, (shape[0], len(voltage)))
    cells = (shape[0], p.lowered.shape[1], len(voltage))
    values, bound, row = np.full((*cells, len(QUANTITIES)), np.nan), np.full(cells, -1), np.full(cells, -1)
    limited = _evaluate(
        np.ascontiguousarray(np.stack(p.architectures.numbers(), axis=1)), p.group, p.lowered, rows.first, rows.count,
        _Rows(*(np.ascontiguousarray(x) for x in row_arrays)), _Chip(*(np.ascontiguousarray(x, dtype=float) for x in chip)), busy_w, total_w,
        np.ascontiguousarray(points, dtype=float), np.asarray(voltage, dtype=np.int64), 1 / conditions.mem_clk_hz, coefficients(model),
        OBJECTIVES.index(conditions.objective), values, bound, row,
    )  # fmt: skip
    if np.any(values < 0):
        raise ModelError("every time and energy must be at least 0, and the model predicts less; check the fit")
    return Results(values=values, bound=bound, row=row, limited=int(limited))


def _representatives(p: Prepared) -> NDArray:
    """[groups] an architecture of each group of `tilings`."""
    return np.unique(p.group, return_index=True)[1]


def predict_designs(model: FittedModel, architectures: Architectures, vdd_v: NDArray) -> Designs:
    """The laws of the chip at supplies [voltages]; the memories at the same or at least the lowest they were measured at."""
    return predict(model, architectures.parameters(), vdd_v)


@dataclass(frozen=True, kw_only=True)
class Totals:
    """A network's sums: values [architectures, points, QUANTITIES] (NaN where a layer fits no tiling) and bound [architectures, points], which sets
    the pace for most of the time."""

    values: NDArray
    bound: NDArray


def total(results: Results, tasks: Sequence[int]) -> Totals:
    """Over the tasks of these indices, one after the other."""
    values, bound = results.values[:, list(tasks)], results.bound[:, list(tasks)]
    seconds = np.stack([np.where(bound == b, values[..., _Q["latency_s"]], 0.0).sum(axis=1) for b in range(len(BOUNDS))], axis=-1)
    return Totals(values=values.sum(axis=1), bound=seconds.argmax(axis=-1))
