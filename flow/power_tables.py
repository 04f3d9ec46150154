"""Liberty tables of one corner, packed for the power engine: slews through a netlist, energies by local state."""

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
from numba import njit
from numpy.typing import NDArray

from flow.liberty import Cell, InternalPower, Library, Table, TimingArc
from flow.logic import CellLogic
from flow.netlist import Netlist
from hw.errors import ToolError

FALL, RISE = 0, 1
# Set and reset arcs shape edges too rarely to set the slew of an output.
_SLEW_ARCS = ("combinational", "combinational_rise", "combinational_fall", "rising_edge", "falling_edge")


class Tables(NamedTuple):
    """Tables over (slew, load), end to end: table `t` has its axes at `slew_at[t]` and `load_at[t]`, its rows at `value_at[t]`.

    An axis that a table does not have holds one point; along it the table is constant and every argument is inside.
    """

    slew_at: np.ndarray
    load_at: np.ndarray
    value_at: np.ndarray
    slews: np.ndarray
    loads: np.ndarray
    values: np.ndarray


class Entries(NamedTuple):
    """Look-ups by cell type: those of type `k` are `start[k]:start[k + 1]`.

    `target` is the place of the result among those of the cell; `pin` and `edge` choose the input slew; `load` is
    2 * output + edge of the output, or negative for an edge of an input alone; `weight` multiplies the table's value.
    """

    start: np.ndarray
    target: np.ndarray
    pin: np.ndarray
    edge: np.ndarray
    load: np.ndarray
    table: np.ndarray
    weight: np.ndarray


class _Packer:
    """Collects tables (each once) and rows of entries for one corner."""

    def __init__(self, where: str):
        self.where = where
        self.numbers: dict[int, int] = {}
        self.kept: list[Table] = []
        self.rows: list[list[tuple]] = []

    def number(self, table: Table) -> int:
        if id(table) not in self.numbers:
            if not set(table.axes) <= {"slew_s", "load_f"}:
                raise ToolError(f"tables must be over slew_s and load_f, not {', '.join(table.axes)} ({self.where}); mark the cell as one not to use")
            self.numbers[id(table)] = len(self.kept)
            self.kept.append(table)
        return self.numbers[id(table)]

    def tables(self) -> Tables:
        slews, loads, values = [], [], []
        for table in self.kept:
            points = dict(zip(table.axes, table.points, strict=True))
            slews.append(points.get("slew_s", np.zeros(1)))
            loads.append(points.get("load_f", np.zeros(1)))
            rows = table.values.T if table.axes == ("load_f", "slew_s") else table.values
            values.append(np.ravel(rows))

        def starts(arrays: Sequence[np.ndarray]) -> np.ndarray:
            return np.cumsum([0, *(a.size for a in arrays)])

        def joined(arrays: Sequence[np.ndarray]) -> np.ndarray:
            return np.concatenate([np.zeros(0), *arrays])

        return Tables(
            slew_at=starts(slews), load_at=starts(loads), value_at=starts(values), slews=joined(slews), loads=joined(loads), values=joined(values)
        )

    def entries(self) -> Entries:
        flat = [row for rows in self.rows for row in rows]
        target, pin, edge, load, table = (np.array([row[i] for row in flat], dtype=np.int64) for i in range(5))
        return Entries(
            start=np.cumsum([0, *(len(rows) for rows in self.rows)]), target=target, pin=pin, edge=edge, load=load, table=table,
            weight=np.array([row[5] for row in flat], dtype=float),
        )  # fmt: skip


def slew_entries(netlist: Netlist, library: Library) -> tuple[Tables, Entries]:
    """Look-ups of output transitions; `target` is not used, `load` tells which transition it is."""
    packer = _Packer(f"library {library.name}")
    for logic in netlist.types:
        rows = []
        for o, output in enumerate(logic.outputs):
            for arc in library.cells[logic.name].pins[output].timing:
                for pin, in_edge, out_edge, table in _transitions(arc, logic):
                    rows.append((0, pin, in_edge, 2 * o + out_edge, packer.number(table), 1.0))
        packer.rows.append(rows)
    return packer.tables(), packer.entries()


def _transitions(arc: TimingArc, logic: CellLogic) -> list[tuple[int, int, int, Table]]:
    """(input, its edge, edge of the output, table) for each pair of edges of a delay arc."""
    if arc.timing_type not in _SLEW_ARCS:
        return []
    found = []
    for pin in (logic.inputs.index(name) for name in arc.related_pins if name in logic.inputs):
        for out_edge, table in ((RISE, arc.transition_rise_s), (FALL, arc.transition_fall_s)):
            if arc.timing_type in ("rising_edge", "falling_edge"):
                edges = [RISE if arc.timing_type == "rising_edge" else FALL]
            else:
                edges = {"positive_unate": [out_edge], "negative_unate": [1 - out_edge]}.get(arc.sense or "", [FALL, RISE])
            found += [(pin, edge, out_edge, table) for edge in edges if table is not None]
    return found


def energy_entries(netlist: Netlist, library: Library) -> tuple[Tables, Entries, Entries, list[np.ndarray]]:
    """Look-ups of internal energy: tables, entries for the edges of inputs and for the moves of outputs by cause.

    `target` counts as in `flow.profile.Layout`. The last value tells by type, [outputs, inputs, states], for which causes
    of a move the library holds no table.
    """
    packer, edges, uncovered = _Packer(f"library {library.name}"), [], []
    for logic in netlist.types:
        cell, states = library.cells[logic.name], logic.states
        rows = []
        for i, name in enumerate(logic.inputs):
            groups = [g for g in cell.pins[name].internal_power if not g.related_pins]
            for state, group, weight in _by_state(groups, logic):
                edge = state >> i & 1
                rows += _row(packer, i * states + state, i, edge, -1, group.rise_j if edge else group.fall_j, weight)
        edges.append(rows)
    arcs = []
    for logic in netlist.types:
        cell, states = library.cells[logic.name], logic.states
        rows, bare = [], np.ones((len(logic.outputs), len(logic.inputs), states), dtype=bool)
        for o, output in enumerate(logic.outputs):
            for i, name in enumerate(logic.inputs):
                groups = [g for g in cell.pins[output].internal_power if name in g.related_pins or not g.related_pins]
                for state, group, weight in _by_state(groups, logic):
                    up = int(logic.outputs_table[o, state])
                    bare[o, i, state] = False
                    target = (o * len(logic.inputs) + i) * states + state
                    rows += _row(packer, target, i, state >> i & 1, 2 * o + up, group.rise_j if up else group.fall_j, weight)
        arcs.append(rows)
        uncovered.append(bare)
    packer.rows = edges
    edge_entries = packer.entries()
    packer.rows = arcs
    return packer.tables(), edge_entries, packer.entries(), uncovered


def _row(packer: _Packer, target: int, pin: int, edge: int, load: int, table: Table | None, weight: float) -> list[tuple]:
    return [] if table is None else [(target, pin, edge, load, packer.number(table), weight)]


def _by_state(groups: Sequence[InternalPower], logic: CellLogic) -> list[tuple[int, InternalPower, float]]:
    """Which group speaks for which local state, with its weight.

    For each supply pin: the groups whose condition holds there (their mean, should several hold), else those without one.
    The energies of all supply pins add up.
    """
    chosen = []
    for supply in {g.pg_pin for g in groups}:
        stated = [(g, logic.when(g.when)) for g in groups if g.pg_pin == supply and g.when]
        general = [g for g in groups if g.pg_pin == supply and not g.when]
        for state in range(logic.states):
            speaking = [g for g, holds in stated if holds[state]] or general
            chosen += [(state, g, 1.0 / len(speaking)) for g in speaking]
    return chosen


def leakage_by_state(cell: Cell, logic: CellLogic) -> np.ndarray:
    """Static power [states] of a cell in watts; where no state-dependent entry holds, the cell's general figure stands."""
    supplies = {entry.pg_pin for entry in cell.leakage}
    if not supplies:
        return np.full(logic.states, cell.leakage_w)
    total = np.zeros(logic.states)
    for supply in supplies:
        entries = [e for e in cell.leakage if e.pg_pin == supply]
        holds = np.array([logic.when(e.when) for e in entries if e.when]).reshape(-1, logic.states)
        power = np.array([e.power_w for e in entries if e.when])
        general = [e.power_w for e in entries if not e.when]
        elsewhere = sum(general) if general else cell.leakage_w / len(supplies)
        matches = holds.sum(axis=0)
        total += np.where(matches > 0, power @ holds / np.maximum(matches, 1), elsewhere)
    return total


@njit(cache=True)
def look_up(tables: Tables, table: int, slew: float, load: float) -> tuple[float, bool]:
    """The table's value at (slew, load), linear in each cell of the table and beyond it; and whether that was beyond its last slew or load.

    Below the first ones tables are continued too, but that is no guess: the first column of fdsoi28p's delays follows from the next two
    within 3 % (median; 95th percentile 8 %), the first row within 2 % (11 %).
    """
    first, count = tables.slew_at[table], tables.slew_at[table + 1] - tables.slew_at[table]
    column, width = tables.load_at[table], tables.load_at[table + 1] - tables.load_at[table]
    axis, across = tables.slews, tables.loads
    i = j = 0
    x = y = 0.0
    outside = False
    if count > 1:
        while i < count - 2 and slew >= axis[first + i + 1]:
            i += 1
        x = (slew - axis[first + i]) / (axis[first + i + 1] - axis[first + i])
        outside = slew > axis[first + count - 1] * (1 + 1e-9)
    if width > 1:
        while j < width - 2 and load >= across[column + j + 1]:
            j += 1
        y = (load - across[column + j]) / (across[column + j + 1] - across[column + j])
        outside = outside or load > across[column + width - 1] * (1 + 1e-9)
    at = tables.value_at[table] + i * width + j
    low, high = tables.values[at], tables.values[at] if width == 1 else tables.values[at + 1]
    value = low + y * (high - low)
    if count > 1:
        low, high = tables.values[at + width], tables.values[at + width] if width == 1 else tables.values[at + width + 1]
        value += x * (low + y * (high - low) - value)
    return value, outside


@njit(cache=True)
def propagate_slews(
    tables: Tables, entries: Entries, cells: NDArray, cell_type: NDArray, pin_start: NDArray, pin_net: NDArray, inputs: NDArray, loads: NDArray,
    slews: NDArray,
) -> tuple[int, int]:  # fmt: skip
    """Fill `slews` [nets, fall and rise] of the outputs of `cells`, in order, with the slowest arc; returns look-ups and how many were outside.

    An input whose slew is NaN does not move.
    """
    done = outside = 0
    for cell in cells:
        kind, start = cell_type[cell], pin_start[cell]
        for e in range(entries.start[kind], entries.start[kind + 1]):
            slew = slews[pin_net[start + entries.pin[e]], entries.edge[e]]
            if np.isnan(slew):
                continue
            net, edge = pin_net[start + inputs[cell] + (entries.load[e] >> 1)], entries.load[e] & 1
            value, out = look_up(tables, entries.table[e], slew, loads[net, edge])
            done += 1
            outside += out
            if not slews[net, edge] >= value:
                slews[net, edge] = value
    return done, outside


@njit(cache=True)
def energies(
    tables: Tables, entries: Entries, base: NDArray, cell_type: NDArray, pin_start: NDArray, pin_net: NDArray, inputs: NDArray, loads: NDArray,
    slews: NDArray, energy: NDArray, outside: NDArray,
) -> None:  # fmt: skip
    """Fill `energy` and `outside` (flat; those of a cell start at `base[cell]`) with the energy of each edge or move."""
    for cell in range(len(cell_type)):
        kind, start = cell_type[cell], pin_start[cell]
        for e in range(entries.start[kind], entries.start[kind + 1]):
            slew = slews[pin_net[start + entries.pin[e]], entries.edge[e]]
            if np.isnan(slew):
                continue
            load = loads[pin_net[start + inputs[cell] + (entries.load[e] >> 1)], entries.load[e] & 1] if entries.load[e] >= 0 else 0.0
            value, out = look_up(tables, entries.table[e], slew, load)
            at = base[cell] + entries.target[e]
            energy[at] += entries.weight[e] * value
            outside[at] |= out
