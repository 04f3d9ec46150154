"""Chosen architectures x operating points x layers, in arrays: time, energy by part, traffic and bound of each.

A network's layers run one after the other, each from DRAM to DRAM unless it may find its input on chip (`Task.found`). The core is at an operating
point; the memory side is at nominal voltage and `mem_clk_hz`; the DRAM does not scale. `explore.sweep` computes the same sums for whole spaces, without
the parts.
"""

from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from typing import NamedTuple

import numpy as np
from numba import njit
from numba.np.unsafe.ndarray import to_fixed_tuple
from numpy.typing import NDArray

from explore.curves import CLOCKS_HZ, LONGEST_S, SHORTEST_S, nearest_clock, time_s
from explore.on_chip import Ends, Links, ends
from explore.space import Architectures
from explore.tilings import Rows, Searched, search
from fit.compose import EVENT_COUNTS, DesignLaws, Designs, Terms, design_laws, event_counts, predict
from fit.cycles import BOUNDS, Coefficients, DramTimes, layer_cycles
from fit.model import FittedModel
from fit.workloads import useful_multiplications
from hw.dram import DramPart, DramPolicy, dram_energy_j, idle_times
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
_Q = {name: i for i, name in enumerate(QUANTITIES)}
_ARCHITECTURE, _LAYER, _TILING, _TRAFFIC, _TIMES = (len(kind._fields) for kind in (Architecture, LoweredLayer, Tiling, Traffic, DramTimes))
_DRAM_BOUND = BOUNDS.index("dram")


@dataclass(frozen=True, kw_only=True)
class Task:
    """A layer over a batch; the first layer of a network may be folded (`hw.lowering`), because the host writes its input.

    `found` of its operands may be on chip, left there by the task before it in the list; its own output is `stored` even if it stays for the next.
    """

    shape: LayerShape
    batch: int
    first: bool = False
    found: int = 0
    stored: bool = True


@dataclass(frozen=True, kw_only=True)
class Conditions:
    """What is the same at all points. With `free_memory` the DRAM with its lines and PHY takes neither time nor energy.

    `sram_vdd_v` is the rail of the memory macros, V, see `sram_supplies`.
    """

    dram: DramPart
    channels: int = 1
    policy: DramPolicy = field(default_factory=DramPolicy)
    free_memory: bool = False
    mem_clk_hz: float = 800e6
    margin: float = 0.1
    objective: str = "latency"
    sram_vdd_v: float | None = None

    @property
    def part(self) -> DramPart | None:
        """The DRAM whose time counts."""
        return None if self.free_memory else self.dram

    def __post_init__(self) -> None:
        if self.objective not in OBJECTIVES:
            raise ConfigError(f"objective must be one of {', '.join(OBJECTIVES)}, not {self.objective!r}; give one of these")
        if not 1 <= self.channels <= 16:
            raise ConfigError(f"channels must be 1 to 16, not {self.channels}; give the number of DRAM channels")
        if not 0 <= self.margin < 1:
            raise ConfigError(f"margin must be at least 0 and below 1, not {self.margin}; give a part of fmax such as 0.1")
        if self.sram_vdd_v is not None and not self.sram_vdd_v > 0:
            raise ConfigError(f"sram_vdd_v must be above 0, not {self.sram_vdd_v}; give the supply of the memories' rail in V, or none")
        if not self.mem_clk_hz > 0:
            raise ConfigError(f"mem_clk_hz must be above 0, not {self.mem_clk_hz}; give the memory-side clock in Hz")


class Idle(NamedTuple):
    """The DRAMs' power, W: while busy, per state of a pause, refresh and PHY at all times but in the idle state, and in it; see `DramPolicy`."""

    standby_w: float
    leaving_w: float
    low_w: float
    refresh_w: float
    low_refresh_w: float
    phy_w: float
    timeout_s: float
    exit_s: float


def idle_powers(conditions: Conditions) -> Idle:
    """`Idle` of all channels together."""
    part, policy, n = conditions.dram, conditions.policy, 0 if conditions.free_memory else conditions.channels
    low_refresh_w = 0.0 if policy.idle_state == "self_refresh" else part.refresh_w
    return Idle(
        n * part.background_w("active_standby"), n * part.background_w("precharge_standby"), n * part.background_w(policy.idle_state), n * part.refresh_w,
        n * low_refresh_w, n * part.interface.phy_static_w, policy.timeout_s, policy.exit_s(part),
    )  # fmt: skip


def moving_j(conditions: Conditions, rows: Rows) -> NDArray:
    """[rows, (core, io, phy)] energy of the DRAM that does not depend on time."""
    use = rows.use
    energy = dram_energy_j(conditions.dram, read_bytes=use.read_bytes, write_bytes=use.write_bytes, activates=use.activates, busy_s=0, total_s=0)
    return np.stack([energy.core_j, energy.io_j, energy.phy_j], axis=1) * (not conditions.free_memory)


_idle_times = njit(cache=True, inline="always")(idle_times)


@dataclass(frozen=True, kw_only=True)
class Results:
    """values [architectures, tasks, points, QUANTITIES], NaN where a layer fits no tiling; bound [architectures, tasks, points], an
    index into `fit.cycles.BOUNDS`, tilings [architectures, tasks, points, 5] and state [architectures, tasks, points], what stays on chip (an index into
    `explore.on_chip.STATE_NAMES`), all -1 there."""

    values: NDArray
    bound: NDArray
    tilings: NDArray
    state: NDArray


def lower_all(architectures: Architectures, tasks: Sequence[Task]) -> NDArray:
    """[tasks, fields of LoweredLayer] for architectures of one array: a layer is lowered for its cols and lanes, whatever the rest is."""
    return _lowered(architectures, tasks)[0]


def _lowered(architectures: Architectures, tasks: Sequence[Task]) -> tuple[NDArray, list[Ends]]:
    """The same, and the layers' `explore.on_chip.Ends`."""
    config = architectures.config(0)
    for task in tasks:
        key = (config.array.cols, config.array.lanes, config.precision, task.shape, task.batch, task.first)
        if key not in _LOWERED:
            lowering = lower(config, task.shape, batch=task.batch, fold=task.first and folds(task.shape, config.array.lanes))
            _LOWERED[key] = lowering.numbers, ends(lowering)
    array = (config.array.cols, config.array.lanes, config.precision)
    found = [_LOWERED[*array, task.shape, task.batch, task.first] for task in tasks]
    return np.array([numbers for numbers, _ in found], dtype=np.int64), [one for _, one in found]


_LOWERED: dict[tuple, tuple[LoweredLayer, Ends]] = {}
"""What `lower_all` has found in this process."""


def sram_supplies(model: FittedModel, conditions: Conditions, vdd_v: NDArray) -> NDArray:
    """[voltages] supply of the memory macros: that of a rail of their own, by default the least they were measured at, or the core's where it is higher."""
    return np.maximum(vdd_v, model.sram_voltage_range_v[0] if conditions.sram_vdd_v is None else conditions.sram_vdd_v)


def laws_at(
    model: FittedModel, architectures: Architectures, conditions: Conditions, vdd_v: NDArray, back_bias_v: NDArray | None = None
) -> DesignLaws:  # fmt: skip
    """`fit.compose.design_laws` of the architectures at these supplies and back biases (by default the model's) of the core, [points] each."""
    return design_laws(model, architectures.parameters(), vdd_v, sram_vdd_v=sram_supplies(model, conditions, vdd_v), back_bias_v=back_bias_v)


def search_all(
    model: FittedModel, architectures: Architectures, tasks: Sequence[Task], conditions: Conditions, vdd_v: NDArray, wanted: NDArray | None = None,
    known: dict | None = None, alike: int | None = None,
) -> tuple[Searched, NDArray]:  # fmt: skip
    """Tilings of `tasks` on architectures of one array (`explore.tilings.search` at the clocks `wanted`), and the lowered layers.

    What was found for the least latency is kept in `known` if given and taken from there again: energies do not matter to it.
    """
    (layers, layer_ends), table = _lowered(architectures, tasks), np.stack(architectures.numbers(), axis=1)
    part, k = conditions.part, coefficients(model)
    links = Links(np.array([task.found for task in tasks], dtype=np.int64), np.array([task.stored for task in tasks], dtype=np.int64), layer_ends)
    timing = part and part.model_dump_json(include={"geometry", "bus", "bank", "refresh"})
    given = (table.tobytes(), layers.tobytes(), timing, conditions.mem_clk_hz, conditions.channels, k, None if wanted is None else wanted.tobytes(),
             links.found.tobytes(), links.stored.tobytes())  # fmt: skip
    known = known if conditions.objective == "latency" else None
    if known is not None and given in known:
        return known[given], layers

    def energies(found: Rows) -> tuple[NDArray, NDArray]:
        """For `search`: with the laws of the first architecture, at the supply whose clock comes nearest."""
        chip = chip_laws(laws_at(model, architectures[[0]], conditions, vdd_v), conditions)
        at = np.abs(np.log(CLOCKS_HZ[:, None] * chip.period_s[0])).argmin(axis=1)
        rows = layer_rows(found, conditions, tasks=tasks)
        powers = idle_powers(conditions)
        static_w = chip.leakage_w[0, at] + chip.memory_leakage_w[0] + powers.low_w + powers.low_refresh_w + powers.phy_w
        clocked_w = CLOCKS_HZ * (chip.cycle_j[0, at] + chip.crossing_j[0]) + conditions.mem_clk_hz * chip.memory_cycle_j[0]
        return rows.counts @ (chip.event_j[0][:, at] + chip.memory_event_j[0][:, None]) + rows.moving_j.sum(axis=1)[:, None], static_w + clocked_w

    searched = search(
        table, layers, part, 1 / conditions.mem_clk_hz, k, objective=OBJECTIVES.index(conditions.objective), channels=conditions.channels,
        wanted=wanted, energies=energies, links=links, alike=alike,
    )  # fmt: skip
    if known is not None:
        known[given] = searched
    return searched, layers


def wanted_clocks(period_s: NDArray) -> NDArray:
    """[CLOCKS_HZ] which of them these core clocks are nearest to; those beyond what curves cover are left out."""
    covered = np.asarray(period_s)[(period_s >= SHORTEST_S) & (period_s <= LONGEST_S)]
    wanted = np.zeros(len(CLOCKS_HZ), dtype=bool)
    if covered.size:
        slowest, fastest = nearest_clock(covered.max()), nearest_clock(covered.min())
        wanted[slowest : fastest + 1] = True
    return wanted


def coefficients(model: FittedModel) -> Coefficients:
    """Those of the cycle model; `ModelError` if the model has none, or others."""
    if model.cycles is None:
        raise ModelError("model must hold fitted cycles, and does not; fit it with the table of cycles")
    found = {p.name: p.value for p in model.cycles.parameters}
    if differing := found.keys() ^ set(Coefficients._fields):
        names = ", ".join(sorted(differing))
        raise ModelError(f"cycle coefficients of the model must be those of fit/cycles.py, and differ in {names}; run `voltfront fit` again")
    return Coefficients(**found)


class Chip(NamedTuple):
    """Laws of the designs: [architectures, voltages], event_j [architectures, events, voltages]; memory side: no voltages. period_s: of fmax (1 - margin).
    crossing_j is what a core cycle costs on the memory side."""

    period_s: NDArray
    cycle_j: NDArray
    leakage_w: NDArray
    crossing_j: NDArray
    event_j: NDArray
    memory_cycle_j: NDArray
    memory_leakage_w: NDArray
    memory_event_j: NDArray


@njit(cache=True)
def _grids(reference: NDArray, factor: NDArray, group: NDArray, out: NDArray) -> None:
    """Add reference [designs, laws] x factor [laws, voltages] to out [designs, groups, voltages] at the group of each law."""
    for i in range(out.shape[0]):
        for k in range(reference.shape[1]):
            x, row = reference[i, k], out[i, group[k]]
            for v in range(len(row)):
                row[v] += x * factor[k, v]


@njit(cache=True)
def _periods(reference: NDArray, factor: NDArray, parts: NDArray, out: NDArray) -> None:
    """out [designs, voltages]: the longest path, each the sum of its parts [paths, most parts]."""
    delay = np.zeros(factor.shape[1])
    for i in range(out.shape[0]):
        for p in range(parts.shape[0]):
            delay[:] = 0.0
            for part in parts[p]:
                if part >= 0:
                    x = reference[i, part]
                    for v in range(len(delay)):
                        delay[v] += x * factor[part, v]
            for v in range(len(delay)):
                out[i, v] = max(out[i, v], delay[v])


def chip_laws(laws: DesignLaws, conditions: Conditions, clocks: DesignLaws | None = None) -> Chip:
    """`Chip` of `fit.compose.DesignLaws`, its clocks those of `clocks` if given (the slow corner's); `ModelError` for an event that has no count."""
    shape = len(laws.delays.reference), laws.delays.factor.shape[1]

    def grids(terms: list[Terms], number: int, group: NDArray, voltages: int) -> NDArray:
        out = np.zeros((shape[0], number, voltages))
        if terms:
            _grids(np.concatenate([t.reference for t in terms], axis=1), np.concatenate([t.factor for t in terms]), group, out)
        return out

    def events(found: dict[str, Terms], voltages: int) -> NDArray:
        unknown = set(found) - set(EVENT_COUNTS)
        if unknown:
            raise ModelError(f"events that cost energy must be among {', '.join(EVENT_COUNTS)}, not {min(unknown)}")
        group = [EVENT_COUNTS.index(name) for name, t in found.items() for _ in t.log_sd]
        return grids(list(found.values()), len(EVENT_COUNTS), np.array(group, dtype=np.int64), voltages)

    def one(terms: Terms, voltages: int) -> NDArray:
        return grids([terms], 1, np.zeros(len(terms.log_sd), dtype=np.int64), voltages)[:, 0]

    period = np.zeros(shape)
    timed = laws if clocks is None else clocks
    _periods(timed.delays.reference, timed.delays.factor, timed.parts, period)
    return Chip(
        period_s=(period + one(timed.skew, shape[1])) / (1 - conditions.margin), cycle_j=one(laws.core_cycle_j, shape[1]),
        leakage_w=one(laws.core_leakage_w, shape[1]),
        crossing_j=one(laws.crossing_cycle_j, 1)[:, 0], event_j=events(laws.core_event_j, shape[1]), memory_cycle_j=one(laws.memory_cycle_j, 1)[:, 0],
        memory_leakage_w=one(laws.memory_leakage_w, 1)[:, 0], memory_event_j=events(laws.memory_event_j, 1)[:, :, 0],
    )  # fmt: skip


class LayerRows(NamedTuple):
    """What rows of tilings cost whatever the operating point: counts [rows, EVENT_COUNTS], moving_j [rows, 3], busy_s, gaps [rows]; bytes in AXI beats."""

    counts: NDArray
    moving_j: NDArray
    busy_s: NDArray
    gaps: NDArray
    read_bytes: NDArray
    write_bytes: NDArray


def layer_rows(
    rows: Rows, conditions: Conditions, dram_factor: float = 1.0, tasks: Sequence[Task] | None = None
) -> LayerRows:  # fmt: skip
    """`LayerRows` of `rows`; `dram_factor` is the fitted one of the cycle model. Without `tasks` every lane and column counts as full."""
    t = Traffic(*rows.traffic.T)
    numbers = dict(zip(Architecture._fields, rows.numbers.T, strict=True))
    useful = None if tasks is None else np.array([useful_multiplications(task.shape, task.batch) for task in tasks])[rows.layer]
    counts = event_counts(numbers | {"axi_data_bits": 8 * numbers["axi_bytes"]}, t, useful, rows.copies[:, 0])
    return LayerRows(
        counts=np.stack([np.asarray(counts[name], dtype=float) for name in EVENT_COUNTS], axis=1), moving_j=moving_j(conditions, rows),
        busy_s=rows.times[:, DramTimes._fields.index("total_s")] * dram_factor, gaps=np.asarray(t.computes, dtype=float),
        read_bytes=np.asarray(t.activation_read_bytes + t.weight_read_bytes + t.parameter_read_bytes + t.program_read_bytes, dtype=float),
        write_bytes=np.asarray(t.output_write_bytes, dtype=float),
    )  # fmt: skip


def clock_hz(designs: Designs, conditions: Conditions) -> NDArray:
    """[architectures, voltages] fmax (1 - margin)."""
    return designs.fmax_hz * (1 - conditions.margin)


@njit(cache=True)
def _evaluate(
    group: NDArray, choice: NDArray, lowered: NDArray, found: tuple[NDArray, ...], curve: tuple[NDArray, NDArray, NDArray],
    rows: LayerRows, chip: Chip, idle: Idle, periods: NDArray, voltage: NDArray, memory_s: float, k: Coefficients, values: NDArray, bounds: NDArray,
    tilings: NDArray, states: NDArray,
) -> None:  # fmt: skip
    """Fill `Results`; see there. `found` are numbers, tilings, traffic, times, copies and state of the rows."""
    numbers, row_tilings, traffic, times, copies, row_state = found
    which, kinks, lines = curve
    for i in range(values.shape[0]):
        for p in range(values.shape[2]):
            core_s, v = periods[i, p], voltage[p]
            clock = nearest_clock(core_s)
            for j in range(values.shape[1]):
                row = choice[group[i], j, clock]
                if row < 0 or clock < 0:
                    continue
                a, l = Architecture(*to_fixed_tuple(numbers[row], _ARCHITECTURE)), LoweredLayer(*to_fixed_tuple(lowered[j], _LAYER))  # noqa: E741
                t, n = Tiling(*to_fixed_tuple(row_tilings[row], _TILING)), Traffic(*to_fixed_tuple(traffic[row], _TRAFFIC))
                dram = DramTimes(*to_fixed_tuple(times[row], _TIMES))
                total_s = time_s(kinks[which[row, clock]], lines[which[row, clock]], core_s)
                cycles = layer_cycles(a, l, t, n, dram, core_s, memory_s, k, float(copies[row, 0]), float(copies[row, 1]))
                memory_cycles = total_s / memory_s
                out = values[i, j, p]
                out[0], out[1] = total_s, total_s / core_s
                out[3] = chip.leakage_w[i, v] * total_s
                out[2] = out[1] * chip.cycle_j[i, v] + out[3]
                out[5] = chip.memory_leakage_w[i] * total_s
                out[4] = out[1] * chip.crossing_j[i] + memory_cycles * chip.memory_cycle_j[i] + out[5]
                for e in range(rows.counts.shape[1]):
                    out[2] += rows.counts[row, e] * chip.event_j[i, e, v]
                    out[4] += rows.counts[row, e] * chip.memory_event_j[i, e]
                busy_s = min(rows.busy_s[row], total_s)
                waiting_s, leaving_s, low_s = _idle_times(total_s - busy_s, rows.gaps[row], idle.timeout_s, idle.exit_s)
                out[6], out[7], out[8] = rows.moving_j[row, 0], rows.moving_j[row, 1], rows.moving_j[row, 2] + total_s * idle.phy_w
                out[9] = (busy_s + waiting_s) * idle.standby_w + leaving_s * idle.leaving_w + low_s * idle.low_w
                out[10] = (total_s - low_s) * idle.refresh_w + low_s * idle.low_refresh_w
                out[11] = total_s * idle.phy_w + out[9] + out[10]
                out[12], out[13] = rows.read_bytes[row], rows.write_bytes[row]
                bounds[i, j, p] = cycles.bound if cycles.total * core_s >= rows.busy_s[row] else _DRAM_BOUND
                tilings[i, j, p], states[i, j, p] = row_tilings[row], row_state[row]


def evaluate(
    model: FittedModel, architectures: Architectures, tasks: Sequence[Task], conditions: Conditions, vdd_v: NDArray, frequency_hz: NDArray, voltage: NDArray,
    back_bias_v: NDArray | None = None, alike: bool = False,
) -> Results:  # fmt: skip
    """`Results` at points of clock frequency_hz [architectures, points] and index voltage [points] into vdd_v and back_bias_v (by default the model's).

    `alike`: layers of which one may find its input on chip have the same tilings at all points, so that each of them may run at another: those chosen
    for the middle of the clocks.
    """
    cells = (len(architectures), len(tasks), len(voltage))
    values, bound, tilings = np.full((*cells, len(QUANTITIES)), np.nan), np.full(cells, -1), np.full((*cells, _TILING), -1)
    state = np.full(cells, -1)
    k = coefficients(model)
    periods = 1 / np.broadcast_to(np.asarray(frequency_hz, dtype=float), (cells[0], cells[2]))
    if np.any((periods < SHORTEST_S) | (periods > LONGEST_S)):
        raise ModelError(f"core clocks must be {1 / LONGEST_S:g} to {1 / SHORTEST_S:g} Hz, not others; see explore/curves.py")
    for own in architectures.by_array():
        one = architectures[own]
        middle = nearest_clock(np.exp(np.log(periods[own]).mean())) if alike else None
        searched, lowered = search_all(model, one, tasks, conditions, vdd_v, wanted=wanted_clocks(periods[own]), alike=middle)
        rows, chip = layer_rows(searched.rows, conditions, k.dram, tasks), chip_laws(laws_at(model, one, conditions, vdd_v, back_bias_v), conditions)
        v, b, t, s, r = values[own], bound[own], tilings[own], state[own], searched.rows
        found = (r.numbers, r.tilings, r.traffic, r.times, r.copies, r.state)
        _evaluate(
            searched.group, searched.choice, lowered, found, (searched.curve, searched.kinks, searched.lines), rows, chip, idle_powers(conditions),
            np.ascontiguousarray(periods[own]),
            np.asarray(voltage, dtype=np.int64), 1 / conditions.mem_clk_hz, k, v, b, t, s,
        )  # fmt: skip
        values[own], bound[own], tilings[own], state[own] = v, b, t, s
    if np.any(values < 0):
        raise ModelError("every time and energy must be at least 0, and the model predicts less; check the fit")
    return Results(values=values, bound=bound, tilings=tilings, state=state)


def predict_designs(
    model: FittedModel, architectures: Architectures, vdd_v: NDArray, conditions: Conditions | None = None, back_bias_v: NDArray | None = None,
    clocks: FittedModel | None = None,
) -> Designs:  # fmt: skip
    """The laws of the chip at supplies and back biases (by default the model's) of the core, [points] each; the memories at `sram_supplies`, by default
    those of no rail that was asked for. The clocks, fmax_hz with its path and error, are those of the model `clocks` if given (the slow corner)."""
    p, sram_vdd_v = architectures.parameters(), None if conditions is None else sram_supplies(model, conditions, vdd_v)
    found = predict(model, p, vdd_v, sram_vdd_v=sram_vdd_v, back_bias_v=back_bias_v)
    if clocks is None:
        return found
    slow = predict(clocks, p, vdd_v, sram_vdd_v=sram_vdd_v, back_bias_v=back_bias_v)
    timing = ("fmax_hz", "limit", "paths", "fmax_log_sd", "memory_fmax_hz")
    return replace(found, **{name: getattr(slow, name) for name in timing})


@dataclass(frozen=True, kw_only=True)
class Totals:
    """A network's sums: values [architectures, points, QUANTITIES] (NaN where a layer fits no tiling) and bound [architectures, points], which sets
    the pace for most of the time."""

    values: NDArray
    bound: NDArray


def total(results: Results, tasks: Sequence[int], repeats: Sequence[int] | None = None) -> Totals:
    """Over the tasks of these indices, one after the other, each as often as `repeats` says."""
    times = np.ones(len(tasks)) if repeats is None else np.asarray(repeats, dtype=float)
    values, bound = results.values[:, list(tasks)] * times[:, None, None], results.bound[:, list(tasks)]
    seconds = np.stack([np.where(bound == b, values[..., _Q["latency_s"]], 0.0).sum(axis=1) for b in range(len(BOUNDS))], axis=-1)
    return Totals(values=values.sum(axis=1), bound=seconds.argmax(axis=-1))
