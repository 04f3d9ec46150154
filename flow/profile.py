"""Activity of a netlist: what each net, and each cell by its local state, does per clock cycle.

Beside toggles and duty of nets, a profile holds for every cell how often each of its pins moved in each
local state, and which input caused each move of an output. The power tables of Liberty are conditioned on
exactly that.
"""

from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np

from flow.logic import CellLogic
from flow.netlist import CONST0, CONST1, Netlist, clock_network
from hw.errors import ToolError


@dataclass(frozen=True, kw_only=True, eq=False)
class Layout:
    """Where cell `c` keeps its figures in the flat arrays of a profile.

    States at `state_start[c] + s`; edges of input pin `i` that end in state `s` at `edge_start[c] + i * S + s`;
    edges of output `o` caused by input `i` at `arc_start[c] + (o * inputs + i) * S + s`, with `S` local states.
    """

    state_start: np.ndarray
    edge_start: np.ndarray
    arc_start: np.ndarray


def layout(netlist: Netlist) -> Layout:
    """The layout of the profiles of `netlist`."""

    def starts(sizes: list[int]) -> np.ndarray:
        per_cell = np.array(sizes, dtype=np.int64)[netlist.cell_type] if netlist.cells else np.zeros(0, dtype=np.int64)
        return np.concatenate([[0], np.cumsum(per_cell)])

    return Layout(
        state_start=starts([t.states for t in netlist.types]),
        edge_start=starts([t.states * len(t.inputs) for t in netlist.types]),
        arc_start=starts([t.states * len(t.inputs) * len(t.outputs) for t in netlist.types]),
    )


@dataclass(frozen=True, kw_only=True, eq=False)
class ActivityProfile:
    """Mean activity over `cycles` cycles of the (first) clock in one phase of a window.

    `toggles_per_cycle` and `duty` (share of time at 1) are per net; `annotated` marks the nets whose values
    are known. `state_probability`, `edges_per_cycle` and `arcs_per_cycle` are flat, see `Layout`.
    `clock_nets` marks the clock network. `excluded_cycles` were simulated first and not counted, and
    `unsettled` names the registers whose value still depended on the unknown initial state after them.
    """

    netlist: str
    phase: str
    cycles: int
    toggles_per_cycle: np.ndarray
    duty: np.ndarray
    annotated: np.ndarray
    clock_nets: np.ndarray
    state_probability: np.ndarray
    edges_per_cycle: np.ndarray
    arcs_per_cycle: np.ndarray
    excluded_cycles: int = 0
    unsettled: tuple[str, ...] = ()

    @property
    def annotated_fraction(self) -> float:
        """Share of the nets (constants apart) whose activity is known."""
        return float(np.mean(self.annotated[CONST1 + 1 :])) if len(self.annotated) > CONST1 + 1 else 1.0


def combine(profiles: Sequence[ActivityProfile], *, phase: str | None = None) -> ActivityProfile:
    """The mean of profiles of one netlist, weighted by their cycles. A net counts as annotated where it is so in all."""
    if not profiles or len({(p.netlist, len(p.duty)) for p in profiles}) != 1:
        raise ToolError("profiles to combine must be of one netlist, not of none or several")
    weights = np.array([p.cycles for p in profiles], dtype=float)
    weights /= weights.sum()

    def mean(name: str) -> np.ndarray:
        return sum(w * getattr(p, name) for w, p in zip(weights, profiles, strict=True))

    return replace(
        profiles[0], phase=phase or profiles[0].phase, cycles=sum(p.cycles for p in profiles), toggles_per_cycle=mean("toggles_per_cycle"),
        duty=mean("duty"), state_probability=mean("state_probability"), edges_per_cycle=mean("edges_per_cycle"), arcs_per_cycle=mean("arcs_per_cycle"),
        annotated=np.all([p.annotated for p in profiles], axis=0), excluded_cycles=sum(p.excluded_cycles for p in profiles),
        unsettled=tuple(sorted({name for p in profiles for name in p.unsettled})),
    )


def independent_profile(
    netlist: Netlist, toggles_per_cycle: np.ndarray, duty: np.ndarray, *, clocks: Sequence[str], phase: str = "stated"
) -> ActivityProfile:
    """A profile from toggles and duty of each net alone, taking the inputs of a cell as independent.

    Both arrays are [nets]; NaN marks a net that is not known (it counts as not annotated and as quiet, at duty 0.5).
    """
    toggles = np.array(toggles_per_cycle, dtype=float)
    high = np.array(duty, dtype=float)
    if toggles.shape != (netlist.nets,) or high.shape != (netlist.nets,):
        raise ToolError(f"activity must be given for {netlist.nets} nets, not {toggles.shape} and {high.shape} (netlist {netlist.name})")
    annotated = ~(np.isnan(toggles) | np.isnan(high))
    toggles[~annotated], high[~annotated] = 0.0, 0.5
    toggles[[CONST0, CONST1]], high[[CONST0, CONST1]] = 0.0, (0.0, 1.0)
    annotated[[CONST0, CONST1]] = True
    if np.any(toggles < 0) or np.any((high < 0) | (high > 1)):
        raise ToolError(f"toggles must be at least 0 and duties within 0 to 1 (netlist {netlist.name})")
    states, edges, arcs = [np.zeros(0)], [np.zeros(0)], [np.zeros(0)]
    for cell in range(netlist.cells):
        logic = netlist.types[netlist.cell_type[cell]]
        nets = netlist.pin_net[netlist.pin_start[cell] : netlist.pin_start[cell + 1]]
        state, edge, arc = _independent_cell(logic, toggles[nets], high[nets])
        states.append(state)
        edges.append(edge.ravel())
        arcs.append(arc.ravel())
    return ActivityProfile(
        netlist=netlist.name, phase=phase, cycles=1, toggles_per_cycle=toggles, duty=high, annotated=annotated,
        clock_nets=clock_network(netlist, clocks).nets, state_probability=np.concatenate(states),
        edges_per_cycle=np.concatenate(edges), arcs_per_cycle=np.concatenate(arcs),
    )


def _independent_cell(logic: CellLogic, toggles: np.ndarray, duty: np.ndarray) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """States [S], edges [inputs, S] and arcs [outputs, inputs, S] of one cell whose pins are independent."""
    inputs, index = len(logic.inputs), np.arange(logic.states)
    stored = index >> inputs & 1
    share = [np.where(index >> i & 1, duty[i], 1 - duty[i]) for i in range(inputs)]
    if logic.has_state:
        # The stored bit has the probability that gives an output which shows it its duty.
        shown = [(duty[inputs + o], t) for o, t in enumerate(logic.outputs_table) if np.array_equal(t, stored) or np.array_equal(t, 1 - stored)]
        ones = 0.5 if not shown else shown[0][0] if np.array_equal(shown[0][1], stored) else 1 - shown[0][0]
        possible = logic.settle_table == stored
        share.append(np.where(stored, ones, 1 - ones) * possible)
    state = np.prod([np.ones(logic.states), *share], axis=0)
    state = state / max(state.sum(), 1e-300)
    edge = np.zeros((inputs, logic.states))
    for i in range(inputs):
        others = np.prod([np.ones(logic.states), *(s for j, s in enumerate(share) if j != i)], axis=0)
        edge[i] = toggles[i] * others / max(others.sum(), 1e-300)
    arc = np.zeros((len(logic.outputs), inputs, logic.states))
    followed = logic.outputs_table[:, (index & 2**inputs - 1) | logic.settle_table.astype(int) << inputs if logic.has_state else index]
    for o in range(len(logic.outputs)):
        moves = toggles[inputs + o]
        if not moves:
            continue
        causes = np.array([edge[i] * (followed[o] != followed[o][index ^ 1 << i]) for i in range(inputs)])
        for i in logic.clock_inputs:
            causes[i] = edge[i] * logic.clock_table * (logic.next_table == stored)
        for value in (0, 1):
            part = causes * (logic.outputs_table[o] == value)
            if part.sum() <= 0:
                raise ToolError(f"an output must have a moving input that can move it, not {logic.outputs[o]} of a {logic.name}; state consistent activity")
            arc[o] += part * (moves / 2 / part.sum())
    return state, edge, arc
