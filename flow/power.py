"""Energy per cycle and leakage of a netlist at one corner, from Liberty tables and an activity profile.

Internal energy is looked up for every edge at its own input slew and output load, for its own direction and
local state. A net costs C V^2 / 2 per transition, C being what its rising edge sees: that is when the supply
delivers C V^2. Leakage is weighted with the time spent in each local state. Energies are per clock cycle and
do not depend on the frequency; a power stands only beside one.
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from flow.liberty import Library
from flow.netlist import CONST1, Netlist, clock_network
from flow.power_tables import FALL, RISE, energies, energy_entries, leakage_by_state, propagate_slews, slew_entries
from flow.profile import ActivityProfile, layout
from hw.errors import ToolError

MIN_ANNOTATED_FRACTION = 0.95
MAX_EXTRAPOLATED_FRACTION = 0.10

WireCap = float | np.ndarray | Callable[[Netlist], np.ndarray]


@dataclass(frozen=True, kw_only=True, eq=False)
class PowerResult:
    """Energy per clock cycle and leakage of one netlist in one phase at one corner.

    The four energies are disjoint: `clock_*` are those of the edges of the clock network (flop clock pins and clock
    gates included), the others all the rest. `internal_by_class_j` and `leakage_by_class_w` split by class of cell
    (combinational, flop, latch, clock_gate, clock_buffer), `switching_by_net_j` by net group (clock, input, data; input
    nets come from outside the block and are charged here for the pins and wire inside). Their sums are the totals.
    `extrapolated_fraction` is the share of edges whose energy lies beyond its table, `slew_extrapolated_fraction` that
    of slew look-ups, `uncovered_fraction` the share of output moves whose cause has no table. Black boxes are not in.
    """

    library: str
    vdd_v: float
    temperature_c: float
    phase: str
    cycles: int
    internal_per_cycle_j: float
    switching_per_cycle_j: float
    clock_internal_per_cycle_j: float
    clock_switching_per_cycle_j: float
    leakage_w: float
    internal_by_class_j: Mapping[str, float]
    switching_by_net_j: Mapping[str, float]
    leakage_by_class_w: Mapping[str, float]
    annotated_fraction: float
    extrapolated_fraction: float
    slew_extrapolated_fraction: float
    uncovered_fraction: float
    black_boxes: tuple[str, ...] = ()

    @property
    def clock_per_cycle_j(self) -> float:
        """Energy of the clock network."""
        return self.clock_internal_per_cycle_j + self.clock_switching_per_cycle_j

    @property
    def energy_per_cycle_j(self) -> float:
        """All dynamic energy of a cycle."""
        return self.internal_per_cycle_j + self.switching_per_cycle_j + self.clock_per_cycle_j

    def power_w(self, freq_hz: float) -> float:
        """Dynamic power at `freq_hz` and leakage together."""
        return self.energy_per_cycle_j * freq_hz + self.leakage_w


class PowerModel:
    """A netlist at one corner: the energy of everything that can happen in it. One model serves any number of profiles.

    `wire_cap_f` is the wire capacitance of each net: a number, an array [nets] or a function of the netlist. `output_load_f`
    loads each output port and each input of a black box. `outside_load_f`, a number or [nets], loads nets too, but belongs to
    other blocks: it slows edges down, and its energy is charged there. `input_slew_s` and `clock_slew_s` are the slews of the
    input and clock ports, between the library's slew thresholds. Slews are the slowest of each net's arcs, as in static timing.
    With `clock_tree`, for a netlist that has none yet, every clock edge is taken as at least as sharp as the clock port's, as
    a tree would keep it.
    """

    def __init__(
        self, netlist: Netlist, library: Library, *, clocks: Sequence[str], input_slew_s: float, clock_slew_s: float, output_load_f: float,
        wire_cap_f: WireCap = 0.0, outside_load_f: float | np.ndarray = 0.0, clock_tree: bool = True,
    ):  # fmt: skip
        missing = [t.name for t in netlist.types if t.name not in library.cells]
        if missing:
            raise ToolError(f"library {library.name} must hold the cells {', '.join(missing)} of netlist {netlist.name}; use one library family")
        self.netlist, self.liberty = netlist, library
        self.network = clock_network(netlist, clocks)
        own_load_f = self._loads(output_load_f, wire_cap_f)
        self.load_f = own_load_f + np.broadcast_to(outside_load_f, netlist.nets)[:, None]
        self.slew_s, self.slew_extrapolated_fraction = self._slews(clocks, input_slew_s, clock_slew_s, clock_tree)
        self.edge_j, self.edge_outside, self.arc_j, self.arc_outside, self.arc_uncovered = self._energies()
        per_type = [leakage_by_state(library.cells[t.name], t) for t in netlist.types]
        self.state_leakage_w = np.concatenate([np.zeros(0), *(per_type[k] for k in netlist.cell_type)])
        self.net_j = 0.5 * own_load_f[:, RISE] * library.vdd_v**2

    def _loads(self, output_load_f: float, wire_cap_f: WireCap) -> np.ndarray:
        """Capacitance [nets, fall and rise] against each edge: input pins, wire, and the load outside of output ports."""
        netlist = self.netlist
        wire = np.asarray(wire_cap_f(netlist) if callable(wire_cap_f) else wire_cap_f, dtype=float)
        if wire.shape not in ((), (netlist.nets,)) or not np.all(wire >= 0):
            raise ToolError(f"wire_cap_f must be a number or an array of {netlist.nets} numbers of at least 0, not {wire.shape} (netlist {netlist.name})")
        load = np.broadcast_to(wire, netlist.nets)[:, None] + np.zeros(2)
        for edge, name in ((FALL, "fall_capacitance_f"), (RISE, "rise_capacitance_f")):
            caps = [[getattr(self.liberty.cells[t.name].pins[p], name) for p in t.inputs] + [0.0] * len(t.outputs) for t in netlist.types]
            np.add.at(load[:, edge], netlist.pin_net, np.concatenate([np.zeros(0), *(caps[k] for k in netlist.cell_type)]))
        for port in netlist.ports.values():
            if not port.is_source:
                np.add.at(load, port.nets, output_load_f)
        load[: CONST1 + 1] = 0.0
        return load

    def _slews(self, clocks: Sequence[str], input_slew_s: float, clock_slew_s: float, clock_tree: bool) -> tuple[np.ndarray, float]:
        """Slews [nets, fall and rise], NaN for nets that do not move, and the share of look-ups outside their tables."""
        netlist, slews = self.netlist, np.full((self.netlist.nets, 2), np.nan)
        for port in netlist.ports.values():
            if port.is_source:
                slews[port.nets] = clock_slew_s if port.name in clocks else input_slew_s
        slews[: CONST1 + 1] = np.nan
        tables, entries = slew_entries(netlist, self.liberty)
        inputs = self._per_cell([len(t.inputs) for t in netlist.types])
        done = outside = 0
        # The clock network goes first: the order of the netlist does not pass through the clock pins of flops.
        for cells in (self.network.cells, np.setdiff1d(netlist.order, self.network.cells, assume_unique=True)):
            done, outside = propagate_slews(
                tables, entries, cells, netlist.cell_type, netlist.pin_start, netlist.pin_net, inputs, self.load_f, slews
            )
            if clock_tree:
                slews[self.network.nets] = np.minimum(slews[self.network.nets], clock_slew_s)
        return slews, outside / max(done, 1)

    def _energies(self) -> tuple[np.ndarray, ...]:
        """Energy of each edge and move, whether outside its table, and whether it has none; flat as in a profile."""
        netlist, places = self.netlist, layout(self.netlist)
        tables, edges, arcs, uncovered = energy_entries(netlist, self.liberty)
        inputs = self._per_cell([len(t.inputs) for t in netlist.types])
        found = []
        for entries, start in ((edges, places.edge_start), (arcs, places.arc_start)):
            energy, outside = np.zeros(start[-1]), np.zeros(start[-1], dtype=bool)
            energies(
                tables, entries, start, netlist.cell_type, netlist.pin_start, netlist.pin_net, inputs, self.load_f, self.slew_s, energy, outside
            )
            found += [energy, outside]
        bare = np.concatenate([np.zeros(0, dtype=bool), *(uncovered[k].ravel() for k in netlist.cell_type)])
        return (*found, bare)

    def clock_latency_s(self) -> float:
        """Longest delay from a clock port through buffers and clock gates to a flop or black box, rising edges, without the wires' own resistance."""
        netlist, library = self.netlist, self.liberty
        arrival = np.full(netlist.nets, np.nan)
        for name in self.network.ports:
            arrival[netlist.ports[name].nets] = 0.0
        for cell in self.network.cells.tolist():
            logic = netlist.types[netlist.cell_type[cell]]
            pins = netlist.pin_net[netlist.pin_start[cell] : netlist.pin_start[cell + 1]]
            for o, output in enumerate(logic.outputs):
                net = pins[len(logic.inputs) + o]
                for arc in library.cells[logic.name].pins[output].timing:
                    for before in (pins[logic.inputs.index(pin)] for pin in arc.related_pins if pin in logic.inputs):
                        if arc.delay_rise_s is not None and self.network.nets[net] and not np.isnan(arrival[before]):
                            delay_s = float(arc.delay_rise_s.at(slew_s=self.slew_s[before, RISE], load_f=self.load_f[net, RISE], extrapolate=True))
                            arrival[net] = np.nanmax([arrival[net], arrival[before] + delay_s])
        return float(np.nanmax(arrival[self.network.nets], initial=0.0))

    def _per_cell(self, values: Sequence[int]) -> np.ndarray:
        return np.array(values, dtype=np.int64)[self.netlist.cell_type] if self.netlist.cells else np.zeros(0, dtype=np.int64)

    def evaluate(
        self, profile: ActivityProfile, *, min_annotated_fraction: float = MIN_ANNOTATED_FRACTION, max_extrapolated_fraction: float = MAX_EXTRAPOLATED_FRACTION
    ) -> PowerResult:
        """The power of `profile`. Raises `ToolError` when too few nets are annotated or too many look-ups are extrapolated or have no table."""
        netlist = self.netlist
        where = f"netlist {netlist.name}, phase {profile.phase}, library {self.liberty.name}"
        if profile.netlist != netlist.name or len(profile.duty) != netlist.nets or len(profile.state_probability) != len(self.state_leakage_w):
            raise ToolError(f"profile must be of netlist {netlist.name}, not of {profile.netlist} ({where})")
        if profile.annotated_fraction < min_annotated_fraction:
            raise ToolError(
                f"annotated fraction must be at least {min_annotated_fraction:g}, not {profile.annotated_fraction:.3f} ({where}); "
                "record the missing nets or registers"
            )
        moves, edges = profile.arcs_per_cycle, profile.edges_per_cycle
        arcs_with_table = moves * ~self.arc_uncovered
        looked_up = arcs_with_table.sum() + edges[self.edge_j != 0].sum()
        extrapolated = float((moves[self.arc_outside].sum() + edges[self.edge_outside].sum()) / looked_up) if looked_up else 0.0
        uncovered = float(moves[self.arc_uncovered].sum() / moves.sum()) if moves.sum() else 0.0
        for what, value in (
            ("share of energies outside their tables", extrapolated), ("share of slews outside their tables", self.slew_extrapolated_fraction),
            ("share of output moves without a table", uncovered),
        ):  # fmt: skip
            if value > max_extrapolated_fraction:
                raise ToolError(f"{what} must be at most {max_extrapolated_fraction:g}, not {value:.3f} ({where}); use tables that cover slews and loads")

        edge_cell, edge_clocked, arc_cell, arc_clocked, state_cell = self._owners(profile.clock_nets)
        edge_j, arc_j = edges * self.edge_j, moves * self.arc_j
        clock_internal = edge_j[edge_clocked].sum() + arc_j[arc_clocked].sum()
        internal = edge_j.sum() + arc_j.sum() - clock_internal
        net_j = profile.toggles_per_cycle * self.net_j
        state_w = profile.state_probability * self.state_leakage_w
        groups = self._net_groups(profile.clock_nets)
        switching = {name: float(net_j[mask].sum()) for name, mask in groups.items()}
        by_cell_j = np.bincount(edge_cell, edge_j, netlist.cells) + np.bincount(arc_cell, arc_j, netlist.cells)
        by_cell_w = np.bincount(state_cell, state_w, netlist.cells)
        classes = self._classes(profile.clock_nets)
        return PowerResult(
            library=self.liberty.name, vdd_v=self.liberty.vdd_v, temperature_c=self.liberty.temperature_c, phase=profile.phase, cycles=profile.cycles,
            internal_per_cycle_j=float(internal), switching_per_cycle_j=switching["input"] + switching["data"],
            clock_internal_per_cycle_j=float(clock_internal), clock_switching_per_cycle_j=switching["clock"], leakage_w=float(state_w.sum()),
            internal_by_class_j={name: float(by_cell_j[mask].sum()) for name, mask in classes.items()}, switching_by_net_j=switching,
            leakage_by_class_w={name: float(by_cell_w[mask].sum()) for name, mask in classes.items()}, annotated_fraction=profile.annotated_fraction,
            extrapolated_fraction=extrapolated, slew_extrapolated_fraction=self.slew_extrapolated_fraction, uncovered_fraction=uncovered,
            black_boxes=tuple(sorted(netlist.black_boxes)),
        )

    def _owners(self, clock_nets: np.ndarray) -> tuple[np.ndarray, ...]:
        """For the flat arrays of a profile: the cell of each place, and whether its edge is one of the clock network."""
        netlist, places = self.netlist, layout(self.netlist)
        cells = np.arange(netlist.cells)
        inputs, states = self._per_cell([len(t.inputs) for t in netlist.types]), np.diff(places.state_start)
        edge_cell = np.repeat(cells, np.diff(places.edge_start))
        arc_cell = np.repeat(cells, np.diff(places.arc_start))
        pin = (np.arange(len(edge_cell)) - places.edge_start[edge_cell]) // states[edge_cell]
        output = (np.arange(len(arc_cell)) - places.arc_start[arc_cell]) // (inputs * states)[arc_cell]
        edge_net = netlist.pin_net[netlist.pin_start[edge_cell] + pin]
        arc_net = netlist.pin_net[netlist.pin_start[arc_cell] + inputs[arc_cell] + output]
        return edge_cell, clock_nets[edge_net], arc_cell, clock_nets[arc_net], np.repeat(cells, states)

    def _net_groups(self, clock_nets: np.ndarray) -> dict[str, np.ndarray]:
        from_outside = self.netlist.driver < 0
        return {"clock": clock_nets, "input": from_outside & ~clock_nets, "data": ~from_outside & ~clock_nets}

    def _classes(self, clock_nets: np.ndarray) -> dict[str, np.ndarray]:
        """Masks [cells] of the classes of cells."""
        netlist = self.netlist
        masks = {kind: np.zeros(netlist.cells, dtype=bool) for kind in ("combinational", "flop", "latch", "clock_gate", "clock_buffer")}
        for kind in ("combinational", "flop", "latch", "clock_gate"):
            masks[kind][netlist.cells_of(kind)] = True
        on_clock = np.zeros(netlist.cells, dtype=bool)
        on_clock[netlist.driver[clock_nets & (netlist.driver >= 0)]] = True
        masks["clock_buffer"] = masks["combinational"] & on_clock
        masks["combinational"] &= ~on_clock
        return masks


def sampled_mean(values: Sequence[float], *, population: int) -> tuple[float, float]:
    """Mean over a sample of instances and its standard error, for `population` instances in all.

    error = s / sqrt(n) * sqrt(1 - n / N), s with n - 1 (simple random sampling without replacement; zero when all are sampled).
    """
    sample = np.asarray(values, dtype=float)
    if not 1 <= len(sample) <= population or (len(sample) == 1 < population):
        raise ToolError(f"a sample must hold 2 to {population} instances, not {len(sample)}; one instance alone says nothing about the spread")
    spread = sample.std(ddof=1) if len(sample) > 1 else 0.0
    return float(sample.mean()), float(spread / np.sqrt(len(sample)) * np.sqrt(1 - len(sample) / population))
