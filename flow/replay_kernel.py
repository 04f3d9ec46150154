"""The inner loop of the replay: gates by truth table, flops by clock edge, counters by phase."""

from typing import NamedTuple

import numpy as np
from numba import njit
from numpy.typing import DTypeLike, NDArray

from flow.netlist import ClockNetwork, Netlist
from flow.profile import layout

OK, HAZARD = 0, 1


class Structure(NamedTuple):
    """The netlist as the kernel reads it; the tables of cell `c` start at `table[c]`."""

    pin_start: np.ndarray
    pin_net: np.ndarray
    inputs: np.ndarray
    outputs: np.ndarray
    has_state: np.ndarray
    table: np.ndarray
    out_bits: np.ndarray
    settle: np.ndarray
    next: np.ndarray
    clock: np.ndarray
    clock_mask: np.ndarray
    flops: np.ndarray
    order: np.ndarray
    clocked: np.ndarray
    state_start: np.ndarray
    edge_start: np.ndarray
    arc_start: np.ndarray


class Memory(NamedTuple):
    """The simulated state: value of each net; stored bit and local state of each cell; flops that just captured.

    `moves` [4, n] lists changes of local states not yet counted: cell, state before, state after, whether a flop captured.
    `pending` [1] is their number.
    """

    value: np.ndarray
    stored: np.ndarray
    local: np.ndarray
    captured: np.ndarray
    moves: np.ndarray
    pending: np.ndarray


class Counts(NamedTuple):
    """Counters by phase: net toggles, half-cycles at 1, half-cycles by state, edges of pins, causes of output moves."""

    toggles: np.ndarray
    high: np.ndarray
    states: np.ndarray
    edges: np.ndarray
    arcs: np.ndarray


def structure(netlist: Netlist, network: ClockNetwork) -> Structure:
    """The arrays of `netlist` for the kernel."""
    types, which = netlist.types, netlist.cell_type

    def per_cell(values: list[int], dtype: DTypeLike = np.int64) -> np.ndarray:
        return np.array(values, dtype=dtype)[which] if netlist.cells else np.zeros(0, dtype=dtype)

    def flat(name: str) -> np.ndarray:
        return np.concatenate([np.zeros(0, dtype=np.uint8), *(getattr(t, name) for t in types)]).astype(np.uint8)

    places = layout(netlist)
    out_bits = [np.sum(t.outputs_table.astype(np.uint16) << np.arange(len(t.outputs), dtype=np.uint16)[:, None], axis=0) for t in types]
    return Structure(
        pin_start=netlist.pin_start, pin_net=netlist.pin_net,
        inputs=per_cell([len(t.inputs) for t in types]), outputs=per_cell([len(t.outputs) for t in types]),
        has_state=per_cell([t.has_state for t in types], np.uint8), table=per_cell(list(np.cumsum([0, *(t.states for t in types)])[:-1])),
        out_bits=np.concatenate([np.zeros(0, dtype=np.uint16), *out_bits]).astype(np.uint16), settle=flat("settle_table"), next=flat("next_table"),
        clock=flat("clock_table"), clock_mask=per_cell([sum(1 << i for i in t.clock_inputs) for t in types]),
        flops=netlist.cells_of("flop").astype(np.int32), order=netlist.order, clocked=network.cells,
        state_start=places.state_start, edge_start=places.edge_start, arc_start=places.arc_start,
    )


def memory(s: Structure, nets: int, ones: int, stored: np.ndarray) -> Memory:
    """A consistent start: stored bits as given, every net and cell as if all inputs were 0; net `ones` is constant 1."""
    cells = len(s.inputs)
    index = np.where(s.has_state, stored.astype(np.int64) << s.inputs, 0).astype(np.int64)
    value = np.zeros(nets, dtype=np.uint8)
    value[ones] = 1
    bits = s.out_bits[s.table + index]
    for o in range(max(s.outputs, default=0)):
        has = s.outputs > o
        value[s.pin_net[(s.pin_start[:-1] + s.inputs + o)[has]]] = bits[has] >> o & 1
    return Memory(
        value=value, stored=np.where(s.has_state, stored, 0).astype(np.uint8), local=index, captured=np.zeros(cells, dtype=np.uint8),
        moves=np.zeros((4, 3 * cells + 1), dtype=np.int64), pending=np.zeros(1, dtype=np.int64),
    )


def counts(s: Structure, nets: int, phases: int) -> Counts:
    """Counters at zero for a number of phases."""
    return Counts(
        toggles=np.zeros((phases, nets), dtype=np.int64), high=np.zeros((phases, nets), dtype=np.int64),
        states=np.zeros((phases, s.state_start[-1]), dtype=np.int64), edges=np.zeros((phases, s.edge_start[-1]), dtype=np.int64),
        arcs=np.zeros((phases, s.arc_start[-1])),
    )


# The loops below first copy members to locals: looking them up inside a loop costs more than a gate.


@njit(cache=True)
def _local_state(pin_start: NDArray, inputs: NDArray, has_state: NDArray, pin_net: NDArray, value: NDArray, stored: NDArray, cell: int) -> int:
    index, start, count = 0, pin_start[cell], inputs[cell]
    for i in range(count):
        index |= value[pin_net[start + i]] << i
    return index | stored[cell] << count if has_state[cell] else index


@njit(cache=True)
def _evaluate(s: Structure, m: Memory, cells: NDArray) -> None:
    """Bring each of `cells`, in order, up to date with its inputs and stored bit; drive its outputs and note the change."""
    pin_start, inputs, outputs, has_state, pin_net, table = s.pin_start, s.inputs, s.outputs, s.has_state, s.pin_net, s.table
    value, stored, last, captured, settle, out_bits, moves = m.value, m.stored, m.local, m.captured, s.settle, s.out_bits, m.moves
    n = m.pending[0]
    for cell in cells:
        after = _local_state(pin_start, inputs, has_state, pin_net, value, stored, cell)
        if has_state[cell]:
            settled = settle[table[cell] + after]
            if settled != stored[cell]:
                stored[cell] = settled
                after ^= 1 << inputs[cell]
        if after != last[cell]:
            bits, first = out_bits[table[cell] + after], pin_start[cell] + inputs[cell]
            for o in range(outputs[cell]):
                value[pin_net[first + o]] = bits >> o & 1
            moves[0, n], moves[1, n], moves[2, n], moves[3, n] = cell, last[cell], after, captured[cell]
            n += 1
            last[cell] = after
        captured[cell] = 0
    m.pending[0] = n


@njit(cache=True)
def _flipped(settle: NDArray, table: int, has_state: int, inputs: int, index: int, pin: int) -> np.int64 | int:
    """The local state that follows when one input moves."""
    index ^= 1 << pin
    return index & ((1 << inputs) - 1) | np.int64(settle[table + index]) << inputs if has_state else index


@njit(cache=True)
def _charged_state(
    out_bits: NDArray, settle: NDArray, table: int, has_state: int, inputs: int, before: int, after: int, output: int, pin: int
) -> np.int64 | int:  # fmt: skip
    """The local state in which `pin` alone completes the move of an output: as the last input to move, else as the first; or -1."""
    if (out_bits[table + after] ^ out_bits[table + _flipped(settle, table, has_state, inputs, after, pin)]) >> output & 1:
        return after
    first = _flipped(settle, table, has_state, inputs, before, pin)
    return first if (out_bits[table + before] ^ out_bits[table + first]) >> output & 1 else -1


@njit(cache=True)
def _count(s: Structure, m: Memory, c: Counts, phase: int) -> None:
    """Count the pending changes of local states: edges of inputs, and moves of outputs by the inputs that caused them.

    Where several inputs that moved could each have caused the move, it is shared evenly between them.
    """
    moves, pending = m.moves, m.pending[0]
    m.pending[0] = 0
    if phase < 0:
        return
    pin_start, inputs, outputs, has_state, pin_net, table = s.pin_start, s.inputs, s.outputs, s.has_state, s.pin_net, s.table
    out_bits, settle, clock_mask, state_start, edge_start, arc_start = s.out_bits, s.settle, s.clock_mask, s.state_start, s.edge_start, s.arc_start
    toggles, edges, arcs = c.toggles[phase], c.edges[phase], c.arcs[phase]
    charged = np.empty(32, dtype=np.int64)
    for k in range(pending):
        cell, before, after, captured = moves[0, k], moves[1, k], moves[2, k], moves[3, k]
        count, start, states = inputs[cell], table[cell], state_start[cell + 1] - state_start[cell]
        for i in range(count):
            if (before ^ after) >> i & 1:
                edges[edge_start[cell] + i * states + after] += 1
        moved = out_bits[start + before] ^ out_bits[start + after]
        for o in range(outputs[cell]):
            if not moved >> o & 1:
                continue
            toggles[pin_net[pin_start[cell] + count + o]] += 1
            causes = 0
            for i in range(count):
                charged[i] = -1
                if captured:
                    charged[i] = after if clock_mask[cell] >> i & 1 else -1
                elif (before ^ after) >> i & 1:
                    charged[i] = _charged_state(out_bits, settle, start, has_state[cell], count, before, after, o, i)
                causes += charged[i] >= 0
            if not causes:  # no single input does it: they move one after the other, and the first to move the output is charged
                state, causes = before, 1
                for i in range(count):
                    if (before ^ after) >> i & 1:
                        following = _flipped(settle, start, has_state[cell], count, state, i)
                        if (out_bits[start + state] ^ out_bits[start + following]) >> o & 1:
                            charged[i] = following
                            break
                        state = following
            for i in range(count):
                if charged[i] >= 0:
                    arcs[arc_start[cell] + (o * count + i) * states + charged[i]] += 1.0 / causes


@njit(cache=True)
def _drive(m: Memory, c: Counts, phase: int, nets: NDArray, values: NDArray, enabled: NDArray) -> None:
    """Put `values` on the source nets that are `enabled`."""
    for k in range(len(nets)):
        if enabled[k] and m.value[nets[k]] != values[k]:
            m.value[nets[k]] = values[k]
            if phase >= 0:
                c.toggles[phase, nets[k]] += 1


@njit(cache=True)
def _edge(s: Structure, m: Memory, c: Counts, phase: int, clock_nets: NDArray, rises: NDArray, level: int) -> int:
    """Move the clocks that `rises` names to `level`; flops see the edge with their old data. Returns how many stored bits changed."""
    _drive(m, c, phase, clock_nets, np.full(len(clock_nets), level, dtype=np.uint8), rises)
    _evaluate(s, m, s.clocked)
    pin_start, inputs, has_state, pin_net, table, clock_mask = s.pin_start, s.inputs, s.has_state, s.pin_net, s.table, s.clock_mask
    value, stored, last, captured, moves, pending = m.value, m.stored, m.local, m.captured, m.moves, m.pending
    clock, following, settle = s.clock, s.next, s.settle
    changed = 0
    for cell in s.flops:
        before, mask, start = last[cell], clock_mask[cell], table[cell]
        after = before & ~mask | _local_state(pin_start, inputs, has_state, pin_net, value, stored, cell) & mask
        if after == before:
            continue
        n = pending[0]
        moves[0, n], moves[1, n], moves[2, n], moves[3, n] = cell, before, after, 0
        pending[0] = n + 1
        last[cell] = after
        if clock[start + after] and not clock[start + before]:
            low = (1 << inputs[cell]) - 1
            # An active set or reset wins over the data.
            bit = settle[start + (after & low | np.int64(following[start + before]) << inputs[cell])]
            if bit != stored[cell]:
                captured[cell], stored[cell] = 1, bit
                changed += 1
    _count(s, m, c, phase)
    return changed


@njit(cache=True)
def _settle(s: Structure, m: Memory, c: Counts, phase: int, source_nets: NDArray, values: NDArray) -> int:
    """Apply inputs, let captured bits appear, evaluate everything. Returns a flop whose clock moved meanwhile, or -1."""
    _drive(m, c, phase, source_nets, values, np.ones(len(values), dtype=np.uint8))
    _evaluate(s, m, s.order)
    pin_start, inputs, has_state, pin_net, mask = s.pin_start, s.inputs, s.has_state, s.pin_net, s.clock_mask
    value, stored, last, hazard = m.value, m.stored, m.local, -1
    for cell in s.flops:
        if (last[cell] ^ _local_state(pin_start, inputs, has_state, pin_net, value, stored, cell)) & mask[cell]:
            hazard = cell
    # The order places a flop before the logic behind it, and so before its own data have settled: they are taken in now.
    _evaluate(s, m, s.flops)
    _count(s, m, c, phase)
    return hazard


@njit(cache=True)
def _initialise(s: Structure, m: Memory, c: Counts, source_nets: NDArray, values: NDArray) -> None:
    """Settle the first cycle with all clocks low, without a clock edge at any flop."""
    _drive(m, c, -1, source_nets, values, np.ones(len(values), dtype=np.uint8))
    _evaluate(s, m, s.order)
    for cell in s.flops:
        m.local[cell] = _local_state(s.pin_start, s.inputs, s.has_state, s.pin_net, m.value, m.stored, cell)
    m.pending[0] = 0


@njit(cache=True)
def _tally(s: Structure, m: Memory, c: Counts, phase: int) -> None:
    """Add half a cycle in the present state."""
    high, states, state_start, value, index = c.high[phase], c.states[phase], s.state_start, m.value, m.local
    for net in range(len(value)):
        high[net] += value[net]
    for cell in range(len(index)):
        states[state_start[cell] + index[cell]] += 1


@njit(cache=True)
def run(
    s: Structure, m: Memory, c: Counts, first: int, last: int, source_nets: NDArray, values: NDArray, clock_nets: NDArray, rises: NDArray,
    check_nets: NDArray, expected: NDArray, phases: NDArray, wrong: NDArray, strict: bool,
) -> tuple[int, int, int]:  # fmt: skip
    """Simulate cycles `first` to `last` (exclusive), counting in phase `phases[t]` unless that is negative.

    `values` [cycles, sources], `rises` [cycles, clocks] (at the start of the cycle) and `expected` [cycles, checks] hold bits; `wrong` (as `expected`)
    is filled. Returns a status, its cycle, and the flop whose clock moved with its data; only a `strict` run ends there, since
    registers of unknown value may do what they never really do.
    """
    for t in range(first, last):
        phase = phases[t]
        if t == 0:
            _initialise(s, m, c, source_nets, values[0])
        else:
            _edge(s, m, c, phase, clock_nets, rises[t], 1)
        hazard = _settle(s, m, c, phase, source_nets, values[t])
        if hazard >= 0 and strict:
            return HAZARD, t, hazard
        if phase >= 0:
            _tally(s, m, c, phase)
        if _edge(s, m, c, phase, clock_nets, rises[t], 0):
            hazard = _settle(s, m, c, phase, source_nets, values[t])
            if hazard >= 0 and strict:
                return HAZARD, t, hazard
        if phase >= 0:
            _tally(s, m, c, phase)
        for k in range(len(check_nets)):
            wrong[t, k] = m.value[check_nets[k]] != expected[t, k]
    return OK, last, -1
