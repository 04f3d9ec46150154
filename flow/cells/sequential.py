"""Characterization of flops, latches and clock gates: delays, clear, constraints, pulse widths, energies, leakage."""

from collections.abc import Callable, Sequence
from itertools import product

import numpy as np

from flow.cells.constraints import Pulse, Race, Steps, least_times, least_widths
from flow.cells.measure import Arc, CellData, Edges, Energy, State, Sweep, condition, grid, simulate
from flow.cells.netlist import known
from flow.cells.spice import Bench


def _measure(bench: Bench, sweep: Sweep, steps: Steps, pin: str, *, over_loads: bool, label: str) -> Edges:
    """The edge of `pin` that follows after the input changes `steps`: at all slews and loads, or at the sampled slews only."""
    state = bench.cell.after(steps)
    edges = Edges(bench, sweep, state, pin, over_loads=over_loads)
    simulate(bench, [(edges, edges.all() if over_loads else edges.sampled())], label=label, initial=state)
    return edges


class _Energies:
    """Energies at the sampled slews, means over edges; and what a moving output adds to them."""

    def __init__(self, sweep: Sweep, leakage_w: float):
        self.sweep, self.leakage_w = sweep, leakage_w

    def quiet(self, edges: Sequence[Edges]) -> np.ndarray:
        """[sampled slew] of edges that move no output."""
        return np.mean([e.sampled_energy_j(self.leakage_w)[:, 0] for e in edges], axis=0)

    def on_top(self, edges: Sequence[Edges], quiet: np.ndarray) -> np.ndarray:
        """[slew, sampled load]: energies of edges that move the output, beyond the `quiet` ones of the same pin."""
        moving = np.mean([e.energy_j(self.leakage_w)[:, list(self.sweep.sampled_loads)] for e in edges], axis=0)
        return moving - self.sweep.over_slews(quiet)[:, None]


def characterize_flop(bench: Bench, sweep: Sweep) -> CellData:
    """A flop on the rising edge of its clock, with or without an asynchronous active-low clear."""
    cell = bench.cell
    clock, data, clear, output = cell.description.clock, cell.description.data, cell.description.clear, cell.outputs[0]
    assert clock and data
    off = {clear: 1} if clear else {}

    def load(bit: int) -> list[dict[str, int]]:
        """Clock `bit` in and return the clock to low."""
        return [{clock: 0, data: bit, **off}, {clock: 1}, {clock: 0}]

    leakage = _flop_leakage(bench, load)
    leakage_w = float(np.mean([s.leakage_w for s in leakage]))
    idle = {v: _measure(bench, sweep, load(v), clock, over_loads=False, label=f"idle_rise_{v}") for v in (0, 1)}
    back = {v: _measure(bench, sweep, load(v)[:2], clock, over_loads=False, label=f"idle_fall_{v}") for v in (0, 1)}
    taken = {q: _measure(bench, sweep, [*load(1 - q), {data: q}], clock, over_loads=True, label=f"take_{q}") for q in (0, 1)}
    # The flop holds either bit while its data pin moves to d.
    moved = {(d, q): _measure(bench, sweep, [*load(q), {data: 1 - d}], data, over_loads=False, label=f"data_{d}_{q}") for d in (0, 1) for q in (0, 1)}

    energy = _Energies(sweep, leakage_w)
    quiet = energy.quiet(list(idle.values()))
    arcs = [
        Arc(
            output=output, related=clock, timing_type="rising_edge", sense="non_unate",
            delay_rise_s=grid(taken[1].delay_s(output)), delay_fall_s=grid(taken[0].delay_s(output)),
            transition_rise_s=grid(taken[1].transition_s(output)), transition_fall_s=grid(taken[0].transition_s(output)),
        )
    ]  # fmt: skip
    energies = [
        Energy(pin=clock, rise_j=grid(quiet), fall_j=grid(energy.quiet(list(back.values())))),
        Energy(pin=data, rise_j=grid(energy.quiet([moved[1, 0], moved[1, 1]])), fall_j=grid(energy.quiet([moved[0, 0], moved[0, 1]]))),
        Energy(pin=output, related=clock, rise_j=grid(energy.on_top([taken[1]], quiet)), fall_j=grid(energy.on_top([taken[0]], quiet))),
    ]
    rise = {clock: [e.capacitance_f() for e in idle.values()], data: [moved[1, q].capacitance_f() for q in (0, 1)]}
    fall = {clock: [e.capacitance_f() for e in back.values()], data: [moved[0, q].capacitance_f() for q in (0, 1)]}
    races = [
        Race(name=f"{kind}_{d}", pin=data, new=d, kind=kind, steps=[*load(1 - q), *([{data: q}] if kind == "hold" else [])], result=q, moves=True)
        for d, kind, q in ((1, "setup", 1), (0, "setup", 0), (1, "hold", 0), (0, "hold", 1))
    ]
    pulses = [Pulse(pin=clock, level=1, steps=[*load(1 - q), {data: q}], result=q) for q in (0, 1)]
    pulses += [Pulse(pin=clock, level=0, steps=[*load(1 - q)[:2], {data: q}], result=q, late=True) for q in (0, 1)]
    if clear:
        held = [{clock: 0, data: 0, clear: 0}]
        phases: tuple[Steps, ...] = ([], [{clock: 1}])
        cleared = [_measure(bench, sweep, [*load(1), *phase], clear, over_loads=True, label=f"clear_{i}") for i, phase in enumerate(phases)]
        still = _measure(bench, sweep, load(0), clear, over_loads=False, label="clear_idle_fall")
        ends = _measure(bench, sweep, held, clear, over_loads=False, label="clear_idle_rise")
        arcs.append(
            Arc(
                output=output, related=clear, timing_type="clear", sense="positive_unate",
                delay_fall_s=grid(np.max([e.delay_s(output) for e in cleared], axis=0)),
                transition_fall_s=grid(np.max([e.transition_s(output) for e in cleared], axis=0)),
            )
        )  # fmt: skip
        still_j = energy.quiet([still])
        energies += [
            Energy(pin=clear, rise_j=grid(energy.quiet([ends])), fall_j=grid(still_j)),
            Energy(pin=output, related=clear, fall_j=grid(energy.on_top(cleared, still_j))),
        ]
        rise[clear], fall[clear] = [ends.capacitance_f()], [still.capacitance_f()]
        begin = [{clock: 0, data: 1, clear: 0}]
        races += [
            Race(name="recovery", pin=clear, new=1, kind="recovery", steps=begin, result=1, moves=True),
            Race(name="removal", pin=clear, new=1, kind="removal", steps=begin, result=0, moves=False),
        ]
        pulses += [Pulse(pin=clear, level=0, steps=[*load(1), *phase], result=0) for phase in phases]
    return _data(bench, sweep, leakage, rise, fall, arcs, energies, clock, races, pulses)


def characterize_clock_gate(bench: Bench, sweep: Sweep) -> CellData:
    """A clock gate whose latch follows the enable while the clock is low."""
    cell = bench.cell
    clock, enable, output = cell.description.clock, cell.description.data, cell.outputs[0]
    assert clock and enable

    def latched(bit: int) -> list[dict[str, int]]:
        return [{clock: 0, enable: bit}, {clock: 1}]

    leakage = []
    for c, e in product((0, 1), repeat=2):
        for held in (0, 1) if c else (e,):
            steps: Steps = [*latched(held), {enable: e}] if c else [{clock: 0, enable: e}]
            state = cell.after(steps)
            bits = {clock: c, enable: e, **known(state, [output])}
            power = bench.leakage([{clock: c, enable: e}], label=f"leakage_{c}{e}{held}", initial=state)[0]
            leakage.append(State(when=condition(bits), leakage_w=power))
    leakage_w = float(np.mean([s.leakage_w for s in leakage]))
    up = _measure(bench, sweep, latched(1)[:1], clock, over_loads=True, label="open_rise")
    down = _measure(bench, sweep, latched(1), clock, over_loads=True, label="open_fall")
    idle_up = _measure(bench, sweep, latched(0)[:1], clock, over_loads=False, label="shut_rise")
    idle_down = _measure(bench, sweep, latched(0), clock, over_loads=False, label="shut_fall")
    moved = {d: _measure(bench, sweep, latched(1 - d)[:1], enable, over_loads=False, label=f"enable_{d}") for d in (0, 1)}

    energy = _Energies(sweep, leakage_w)
    shut = {1: energy.quiet([idle_up]), 0: energy.quiet([idle_down])}
    arcs = [
        Arc(
            output=output, related=clock, timing_type="combinational", sense="positive_unate",
            delay_rise_s=grid(up.delay_s(output)), delay_fall_s=grid(down.delay_s(output)),
            transition_rise_s=grid(up.transition_s(output)), transition_fall_s=grid(down.transition_s(output)),
        )
    ]  # fmt: skip
    energies = [
        Energy(pin=clock, rise_j=grid(shut[1]), fall_j=grid(shut[0])),
        Energy(pin=enable, rise_j=grid(energy.quiet([moved[1]])), fall_j=grid(energy.quiet([moved[0]]))),
        Energy(pin=output, related=clock, rise_j=grid(energy.on_top([up], shut[1])), fall_j=grid(energy.on_top([down], shut[0]))),
    ]
    rise = {clock: [idle_up.capacitance_f(), up.capacitance_f()], enable: [moved[1].capacitance_f()]}
    fall = {clock: [idle_down.capacitance_f(), down.capacitance_f()], enable: [moved[0].capacitance_f()]}
    races = [
        Race(name="setup_1", pin=enable, new=1, kind="setup", steps=[{clock: 0, enable: 0}], result=1, moves=True),
        Race(name="setup_0", pin=enable, new=0, kind="setup", steps=[{clock: 0, enable: 1}], result=0, moves=False),
        Race(name="hold_1", pin=enable, new=1, kind="hold", steps=[{clock: 0, enable: 0}], result=0, moves=False),
        Race(name="hold_0", pin=enable, new=0, kind="hold", steps=[{clock: 0, enable: 1}], result=1, moves=True),
    ]
    pulses = [
        Pulse(pin=clock, level=1, steps=[{clock: 0, enable: 1}], result=0, returns=True),
        # The latch, open while the clock is low, must take the enable that changed before.
        Pulse(pin=clock, level=0, steps=[*latched(0), {enable: 1}], result=1, late=True),
    ]
    return _data(bench, sweep, leakage, rise, fall, arcs, energies, clock, races, pulses)


def characterize_latch(bench: Bench, sweep: Sweep) -> CellData:
    """A latch that follows its data while its gate (`clock`) is high."""
    cell = bench.cell
    gate, data, output = cell.description.clock, cell.description.data, cell.outputs[0]
    assert gate and data

    def held(bit: int) -> list[dict[str, int]]:
        return [{gate: 1, data: bit}, {gate: 0}]

    leakage = []
    for g, d in product((0, 1), repeat=2):
        for q in (d,) if g else (0, 1):
            steps: Steps = [{gate: 1, data: d}] if g else [*held(q), {data: d}]
            state = cell.after(steps)
            power = bench.leakage([{gate: g, data: d}], label=f"leakage_{g}{d}{q}", initial=state)[0]
            leakage.append(State(when=condition({gate: g, data: d, output: q}), leakage_w=power))
    leakage_w = float(np.mean([s.leakage_w for s in leakage]))
    opened = {q: _measure(bench, sweep, [*held(1 - q), {data: q}], gate, over_loads=True, label=f"open_{q}") for q in (0, 1)}
    passed = {q: _measure(bench, sweep, [{gate: 1, data: 1 - q}], data, over_loads=True, label=f"pass_{q}") for q in (0, 1)}
    idle = {q: _measure(bench, sweep, held(q), gate, over_loads=False, label=f"idle_rise_{q}") for q in (0, 1)}
    back = {q: _measure(bench, sweep, held(q)[:1], gate, over_loads=False, label=f"idle_fall_{q}") for q in (0, 1)}
    moved = {(d, q): _measure(bench, sweep, [*held(q), {data: 1 - d}], data, over_loads=False, label=f"data_{d}_{q}") for d in (0, 1) for q in (0, 1)}
    energy = _Energies(sweep, leakage_w)
    quiet = energy.quiet(list(idle.values()))
    shut = {d: energy.quiet([moved[d, 0], moved[d, 1]]) for d in (0, 1)}
    arcs, energies = [], [
        Energy(pin=gate, rise_j=grid(quiet), fall_j=grid(energy.quiet(list(back.values())))),
        Energy(pin=data, rise_j=grid(shut[1]), fall_j=grid(shut[0])),
    ]  # fmt: skip
    for pin, kind, sense, by, base in (
        (gate, "rising_edge", "non_unate", opened, {1: quiet, 0: quiet}), (data, "combinational", "positive_unate", passed, shut)
    ):  # fmt: skip
        arcs.append(
            Arc(
                output=output, related=pin, timing_type=kind, sense=sense,
                delay_rise_s=grid(by[1].delay_s(output)), delay_fall_s=grid(by[0].delay_s(output)),
                transition_rise_s=grid(by[1].transition_s(output)), transition_fall_s=grid(by[0].transition_s(output)),
            )
        )  # fmt: skip
        energies.append(Energy(pin=output, related=pin, rise_j=grid(energy.on_top([by[1]], base[1])), fall_j=grid(energy.on_top([by[0]], base[0]))))
    rise = {gate: [e.capacitance_f() for e in idle.values()], data: [moved[1, q].capacitance_f() for q in (0, 1)]}
    fall = {gate: [e.capacitance_f() for e in back.values()], data: [moved[0, q].capacitance_f() for q in (0, 1)]}
    closing = [{gate: 1, data: 1}], [{gate: 1, data: 0}]
    races = [Race(name=f"setup_{d}", pin=data, new=d, kind="setup", steps=closing[d], result=d, moves=True, clock_to=0, through=True) for d in (0, 1)]
    races += [Race(name=f"hold_{d}", pin=data, new=d, kind="hold", steps=closing[d], result=1 - d, moves=False, clock_to=0) for d in (0, 1)]
    pulses = [Pulse(pin=gate, level=1, steps=[*held(1 - q), {data: q}], result=q) for q in (0, 1)]
    return _data(bench, sweep, leakage, rise, fall, arcs, energies, gate, races, pulses)


def _data(
    bench: Bench, sweep: Sweep, leakage: Sequence[State], rise: dict[str, list[float]], fall: dict[str, list[float]], arcs: Sequence[Arc],
    energies: Sequence[Energy], clock: str, races: Sequence[Race], pulses: Sequence[Pulse],
) -> CellData:  # fmt: skip
    output = bench.cell.outputs[0]
    return CellData(
        name=bench.cell.name, **sweep.axes(), leakage=tuple(leakage), arcs=tuple(arcs), energies=tuple(energies),
        constraints=least_times(bench, sweep, clock, output, races), pulse_widths=least_widths(bench, sweep, output, pulses),
        rise_capacitance_f={pin: float(np.mean(v)) for pin, v in rise.items()},
        fall_capacitance_f={pin: float(np.mean(v)) for pin, v in fall.items()},
    )  # fmt: skip


def _flop_leakage(bench: Bench, load: Callable[[int], list[dict[str, int]]]) -> tuple[State, ...]:
    """Leakage for every combination of clock, data and stored bit, and with the clear active."""
    cell = bench.cell
    clock, data, clear, output = cell.description.clock, cell.description.data, cell.description.clear, cell.outputs[0]
    assert clock and data
    states = []
    for c, d, q in product((0, 1), repeat=3):
        cases = [[*(load(q)[:2] if c else load(q)), {data: d}]]
        if clear and q == 0:
            cases.append([{clock: c, data: d, clear: 0}])
        for i, steps in enumerate(cases):
            state = cell.after(steps)
            inputs = known(state, cell.inputs)
            power = bench.leakage([inputs], label=f"leakage_{c}{d}{q}{i}", initial=state)[0]
            states.append(State(when=condition({**inputs, **known(state, [output])}), leakage_w=power))
    return tuple(states)
