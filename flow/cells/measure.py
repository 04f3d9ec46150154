"""What characterization measures on one cell at one corner: delay, transition, energy, leakage, capacitance, constraints.

Energy of an edge = vdd x (charge from the supply) + vdd/2 x (charge through the moving input)
- load x vdd^2 for each output that rises - leakage. Over a pair of edges this is exactly what the supply
delivers beyond charging the loads; the input's term only moves the energy of the cell's own gate capacitance
between the two edges so that each of them carries its own.

A flop or clock gate is described by increments that add up: its clock pin carries the energy of a clock edge that
changes nothing, its data pin that of a data change and of the first latch, which follows at once or with the
next falling clock edge, and its output what comes on top when it moves.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from itertools import product
from typing import TypedDict

import numpy as np

from flow.cells.netlist import known
from flow.cells.spice import Bench, Measured, Point, Ramp
from hw.errors import ToolError

Row = tuple[float, ...]
Grid = tuple[Row, ...]  # [slew][load]; of constraints [clock slew][data slew]


@dataclass(frozen=True, kw_only=True)
class Arc:
    """Delay and transition of `output` caused by `related`, in seconds, by the output's edge; None where it has no such edge."""

    output: str
    related: str
    timing_type: str
    sense: str
    delay_rise_s: Grid | None = None
    delay_fall_s: Grid | None = None
    transition_rise_s: Grid | None = None
    transition_fall_s: Grid | None = None


@dataclass(frozen=True, kw_only=True)
class Energy:
    """Internal energy in J of an edge of `pin`: [slew][sampled load] of an output caused by `related`, or [sampled slew] of an input itself."""

    pin: str
    related: str | None = None
    when: str | None = None
    rise_j: Grid | None = None
    fall_j: Grid | None = None


@dataclass(frozen=True, kw_only=True)
class Constraint:
    """Least time in seconds between an edge of `pin` and the clock's, by the edge of `pin`."""

    pin: str
    related: str
    timing_type: str
    rise_s: Grid | None = None
    fall_s: Grid | None = None


@dataclass(frozen=True, kw_only=True)
class PulseWidth:
    """Shortest pulse of `pin` at `level`, in seconds between the crossings of half the swing."""

    pin: str
    level: int
    least_s: float


@dataclass(frozen=True, kw_only=True)
class State:
    """Leakage in W in the state `when`."""

    when: str
    leakage_w: float


class Axes(TypedDict):
    """The axes of a cell's tables."""

    slews_s: Row
    loads_f: Row
    constraint_slews_s: Row
    sampled_slews_s: Row
    sampled_loads_f: Row


@dataclass(frozen=True, kw_only=True)
class CellData:
    """Everything measured on one cell at one corner, with the axes of its tables. Energies have fewer points than delays."""

    name: str
    slews_s: Row
    loads_f: Row
    constraint_slews_s: Row
    sampled_slews_s: Row
    sampled_loads_f: Row
    leakage: tuple[State, ...]
    rise_capacitance_f: dict[str, float]
    fall_capacitance_f: dict[str, float]
    arcs: tuple[Arc, ...] = ()
    energies: tuple[Energy, ...] = ()
    constraints: tuple[Constraint, ...] = ()
    pulse_widths: tuple[PulseWidth, ...] = ()


def condition(bits: dict[str, int]) -> str:
    """The Liberty expression that holds exactly for `bits`."""
    return " & ".join(name if bit else f"!{name}" for name, bit in bits.items())


def grid(values: np.ndarray) -> Grid:
    """An array of one or two dimensions as nested tuples."""
    return tuple(tuple(float(x) for x in row) for row in np.atleast_2d(values))


@dataclass(frozen=True, kw_only=True)
class Sweep:
    """The axes of one cell at one corner, and how long its edges take to settle."""

    fo4_s: float
    slews_s: Row
    loads_f: Row
    constraint_slews_s: Row
    load_unit_f: float

    @property
    def sampled_slews(self) -> tuple[int, ...]:
        """Indices of the few slews at which every state of the other inputs is simulated: first, middle and last."""
        return _first_middle_last(len(self.slews_s))

    @property
    def sampled_loads(self) -> tuple[int, ...]:
        """Indices of the few loads, likewise."""
        return _first_middle_last(len(self.loads_f))

    def axes(self) -> Axes:
        """The axes as `CellData` holds them."""
        return {
            "slews_s": self.slews_s,
            "loads_f": self.loads_f,
            "constraint_slews_s": self.constraint_slews_s,
            "sampled_slews_s": tuple(self.slews_s[i] for i in self.sampled_slews),
            "sampled_loads_f": tuple(self.loads_f[j] for j in self.sampled_loads),
        }

    def over_slews(self, values: np.ndarray) -> np.ndarray:
        """Values given at the sampled slews (first axis), interpolated over the logarithm of the slew to all slews."""
        at = np.log(self.slews_s)
        known = at[list(self.sampled_slews)]
        return np.apply_along_axis(lambda column: np.interp(at, known, column), 0, values)

    @property
    def middle(self) -> tuple[int, int]:
        """Index of the middle slew and load: where single figures such as pin capacitance are taken."""
        return len(self.slews_s) // 2, len(self.loads_f) // 2

    def settle_s(self, bench: Bench, load_f: float) -> float:
        """Generous time for an edge to go through the cell and settle: its stages, and its load relative to its drive."""
        return self.fo4_s * (6 + 2.5 * len(bench.cell.nodes) + 1.6 * load_f / (self.load_unit_f * bench.cell.drive))


def edge_point(bench: Bench, sweep: Sweep, *, state: dict[str, int | None], pin: str, slew_s: float, load_f: float) -> Point:
    """One edge of `pin` away from its value in the settled `state`; every output that it moves is measured."""
    cell = bench.cell
    start = known(state, cell.inputs)
    after = cell.settle({**start, pin: 1 - start[pin]}, state)
    ramp = Ramp(start=start[pin], end=1 - start[pin], at_s=sweep.fo4_s + bench.shape.lead * slew_s, slew_s=slew_s)
    return Point(
        inputs={**start, pin: ramp},
        loads_f=dict.fromkeys(cell.outputs, load_f),
        window_s=ramp.at_s + bench.shape.tail * slew_s + sweep.settle_s(bench, load_f),
        expect=known(after, cell.outputs),
        edges=tuple(name for name in cell.outputs if state[name] != after[name]),
    )


def energy_j(bench: Bench, point: Point, measured: Measured, leakage_w: float) -> float:
    """Internal energy of one simulated edge, as this module defines it."""
    vdd = bench.corner.vdd_v
    moved = sum(measured.input_charge_c.values())
    loads = sum(point.loads_f[name] * vdd**2 for name in point.edges if point.expect[name] == 1)
    return vdd * measured.supply_charge_c + vdd / 2 * moved - loads - leakage_w * measured.window_s


def _first_middle_last(count: int) -> tuple[int, ...]:
    return tuple(sorted({0, count // 2, count - 1}))


Index = tuple[int, int]


class Edges:
    """Edges of one pin from one settled state, over slews and, if `over_loads`, over loads; else at the middle load.

    What is simulated is up to `simulate`; the arrays [slew, load] hold NaN elsewhere.
    """

    def __init__(self, bench: Bench, sweep: Sweep, state: dict[str, int | None], pin: str, *, over_loads: bool):
        self.bench, self.sweep, self.state, self.pin = bench, sweep, state, pin
        self.rising = not state[pin]
        self.loads_f = sweep.loads_f if over_loads else (sweep.loads_f[sweep.middle[1]],)
        self.shape = (len(sweep.slews_s), len(self.loads_f))
        after = bench.cell.settle(known(state, bench.cell.inputs) | {pin: int(self.rising)}, state)
        self.moved = known(after, [name for name in bench.cell.outputs if state[name] != after[name]])
        self.points: dict[Index, Point] = {}
        self.measured: dict[Index, Measured] = {}

    def all(self) -> list[Index]:
        return list(product(range(self.shape[0]), range(self.shape[1])))

    def sampled(self) -> list[Index]:
        """The few points that are simulated for every state."""
        loads = self.sweep.sampled_loads if len(self.loads_f) > 1 else (0,)
        return list(product(self.sweep.sampled_slews, loads))

    def point(self, at: Index) -> Point:
        slew_s, load_f = self.sweep.slews_s[at[0]], self.loads_f[at[1]]
        return edge_point(self.bench, self.sweep, state=self.state, pin=self.pin, slew_s=slew_s, load_f=load_f)

    def _array(self, value: Callable[[Point, Measured], float]) -> np.ndarray:
        found = np.full(self.shape, np.nan)
        for at, measured in self.measured.items():
            found[at] = value(self.points[at], measured)
        return found

    def delay_s(self, output: str) -> np.ndarray:
        return self._array(lambda point, measured: measured.crossing_s[output] - point.ramp(self.pin).at_s)

    def transition_s(self, output: str) -> np.ndarray:
        return self._array(lambda _, measured: measured.transition_s[output])

    def energy_j(self, leakage_w: float) -> np.ndarray:
        return self._array(lambda point, measured: energy_j(self.bench, point, measured, leakage_w))

    def sampled_energy_j(self, leakage_w: float) -> np.ndarray:
        """Energies at the sampled points alone."""
        values = self.energy_j(leakage_w)
        return values[np.ix_(self.sweep.sampled_slews, self.sweep.sampled_loads if len(self.loads_f) > 1 else (0,))]

    def capacitance_f(self) -> float:
        """Charge that the moving pin takes, per volt, at the middle of the axes."""
        slew, load = self.sweep.middle
        return abs(self.measured[slew, load if len(self.loads_f) > 1 else 0].input_charge_c[self.pin]) / self.bench.corner.vdd_v


def simulate(
    bench: Bench, wanted: Sequence[tuple[Edges, Sequence[Index]]], *, label: str, initial: dict[str, int | None] | None = None
) -> None:
    """Run these points of these edges in one process, from the stored bits `initial`, and leave the results in the edges."""
    for edges, indices in wanted:
        edges.points |= {at: edges.point(at) for at in indices}
    results = iter(bench.run([edges.points[at] for edges, indices in wanted for at in indices], label=label, initial=initial))
    for edges, indices in wanted:
        edges.measured |= {at: next(results) for at in indices}


def check(data: CellData) -> CellData:
    """`data` if it is plausible: transitions positive, delays growing with load, energies of edge pairs positive."""

    def refuse(what: str) -> ToolError:
        return ToolError(f"characterization of {data.name} must give {what}, not otherwise; look at its decks")

    for arc in data.arcs:
        for name in ("delay_rise_s", "delay_fall_s", "transition_rise_s", "transition_fall_s"):
            table = getattr(arc, name)
            if table is None:
                continue
            values = np.array(table)
            if name.startswith("transition") and np.any(values <= 0):
                raise refuse(f"positive transitions ({arc.related} to {arc.output})")
            # With a slow input a transition can dip a little on its way: the shape of the edge changes, not only its length.
            falls = np.diff(values, axis=1) <= -(0.1 if name.startswith("transition") else 0.01) * np.abs(values[:, 1:])
            if np.any(falls) or np.any(values[:, -1] < values[:, 0]):
                raise refuse(f"a {name} that grows with load ({arc.related} to {arc.output})")
    for energy in data.energies:
        if energy.rise_j and energy.fall_j and energy.related and np.any(np.array(energy.rise_j) + np.array(energy.fall_j) <= 0):
            raise refuse(f"positive internal energy of a rise and a fall ({energy.related} to {energy.pin})")
    for pin, farad in [*data.rise_capacitance_f.items(), *data.fall_capacitance_f.items()]:
        if not farad > 0:
            raise refuse(f"a positive capacitance of {pin}")
    return data
