"""Characterization of flops and clock gates: clock to output, clear, setup, hold, recovery, removal, energies, leakage."""

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import product

import numpy as np

from flow.cells.measure import Arc, CellData, Constraint, Edges, Energy, Grid, State, Sweep, condition, grid, simulate
from flow.cells.spice import SETTLED, Bench, Measured, Point, Ramp
from hw.errors import ToolError

# A data edge is early (or late) enough if the output comes at most this much later than with ample time ...
_PUSH_OUT = 1.1
# ... or, where the output must not move, if it stays within this fraction of the swing of its rail.
_GLITCH = 0.1
_ITERATIONS = 10

Steps = Sequence[dict[str, int]]


def _measure(bench: Bench, sweep: Sweep, steps: Steps, pin: str, *, over_loads: bool, label: str) -> Edges:
    """The edge of `pin` that follows after the input changes `steps`."""
    state = bench.cell.after(steps)
    edges = Edges(bench, sweep, state, pin, over_loads=over_loads)
    simulate(bench, [edges], label=label, initial=state)
    return edges


def characterize_flop(bench: Bench, sweep: Sweep) -> CellData:
    """A flop on the rising edge of its clock, with or without an asynchronous active-low clear."""
    cell = bench.cell
    clock, data, clear, output = cell.description.clock, cell.description.data, cell.description.clear, cell.outputs[0]
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

    def mean(edges: Sequence[Edges]) -> np.ndarray:
        return np.mean([e.energy_j(leakage_w)[:, 0] for e in edges], axis=0)

    quiet = mean(list(idle.values()))
    arcs = [
        Arc(
            output=output, related=clock, timing_type="rising_edge", sense="non_unate",
            delay_rise_s=grid(taken[1].delay_s(output)), delay_fall_s=grid(taken[0].delay_s(output)),
            transition_rise_s=grid(taken[1].transition_s(output)), transition_fall_s=grid(taken[0].transition_s(output)),
        )
    ]  # fmt: skip
    energies = [
        Energy(pin=clock, rise_j=grid(quiet), fall_j=grid(mean(list(back.values())))),
        Energy(pin=data, rise_j=grid(mean([moved[1, 0], moved[1, 1]])), fall_j=grid(mean([moved[0, 0], moved[0, 1]]))),
        Energy(pin=output, related=clock, **{f"{n}_j": grid(taken[q].energy_j(leakage_w) - quiet[:, None]) for q, n in ((1, "rise"), (0, "fall"))}),
    ]
    rise = {clock: [e.capacitance_f() for e in idle.values()], data: [moved[1, q].capacitance_f() for q in (0, 1)]}
    fall = {clock: [e.capacitance_f() for e in back.values()], data: [moved[0, q].capacitance_f() for q in (0, 1)]}
    checks = [
        _Check(name=f"{kind}_{d}", pin=data, new=d, kind=kind, steps=[*load(1 - q), *([{data: q}] if kind == "hold" else [])], result=q, moves=True)
        for d, kind, q in ((1, "setup", 1), (0, "setup", 0), (1, "hold", 0), (0, "hold", 1))
    ]
    if clear:
        held = [{clock: 0, data: 0, clear: 0}]
        phases = ([], [{clock: 1}])
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
        on_top = np.mean([e.energy_j(leakage_w) for e in cleared], axis=0) - mean([still])[:, None]
        energies += [
            Energy(pin=clear, rise_j=grid(mean([ends])), fall_j=grid(mean([still]))),
            Energy(pin=output, related=clear, fall_j=grid(on_top)),
        ]
        rise[clear], fall[clear] = [ends.capacitance_f()], [still.capacitance_f()]
        begin = [{clock: 0, data: 1, clear: 0}]
        checks += [
            _Check(name="recovery", pin=clear, new=1, kind="recovery", steps=begin, result=1, moves=True),
            _Check(name="removal", pin=clear, new=1, kind="removal", steps=begin, result=0, moves=False),
        ]
    return _data(bench, sweep, leakage, rise, fall, arcs, energies, _constraints(bench, sweep, clock, output, checks))


def characterize_clock_gate(bench: Bench, sweep: Sweep) -> CellData:
    """A clock gate whose latch follows the enable while the clock is low."""
    cell = bench.cell
    clock, enable, output = cell.description.clock, cell.description.data, cell.outputs[0]

    def latched(bit: int) -> list[dict[str, int]]:
        return [{clock: 0, enable: bit}, {clock: 1}]

    leakage = []
    for c, e in product((0, 1), repeat=2):
        for held in (0, 1) if c else (e,):
            steps = [*latched(held), {enable: e}] if c else [{clock: 0, enable: e}]
            state = cell.after(steps)
            bits = {clock: c, enable: e, output: state[output]}
            power = bench.leakage([{clock: c, enable: e}], label=f"leakage_{c}{e}{held}", initial=state)[0]
            leakage.append(State(when=condition(bits), leakage_w=power))
    leakage_w = float(np.mean([s.leakage_w for s in leakage]))
    up = _measure(bench, sweep, latched(1)[:1], clock, over_loads=True, label="open_rise")
    down = _measure(bench, sweep, latched(1), clock, over_loads=True, label="open_fall")
    idle_up = _measure(bench, sweep, latched(0)[:1], clock, over_loads=False, label="shut_rise")
    idle_down = _measure(bench, sweep, latched(0), clock, over_loads=False, label="shut_fall")
    moved = {d: _measure(bench, sweep, latched(1 - d)[:1], enable, over_loads=False, label=f"enable_{d}") for d in (0, 1)}

    def joule(e: Edges) -> np.ndarray:
        return e.energy_j(leakage_w)

    arcs = [
        Arc(
            output=output, related=clock, timing_type="combinational", sense="positive_unate",
            delay_rise_s=grid(up.delay_s(output)), delay_fall_s=grid(down.delay_s(output)),
            transition_rise_s=grid(up.transition_s(output)), transition_fall_s=grid(down.transition_s(output)),
        )
    ]  # fmt: skip
    energies = [
        Energy(pin=clock, rise_j=grid(joule(idle_up)[:, 0]), fall_j=grid(joule(idle_down)[:, 0])),
        Energy(pin=enable, rise_j=grid(joule(moved[1])[:, 0]), fall_j=grid(joule(moved[0])[:, 0])),
        Energy(pin=output, related=clock, rise_j=grid(joule(up) - joule(idle_up)), fall_j=grid(joule(down) - joule(idle_down))),
    ]
    rise = {clock: [idle_up.capacitance_f(), up.capacitance_f()], enable: [moved[1].capacitance_f()]}
    fall = {clock: [idle_down.capacitance_f(), down.capacitance_f()], enable: [moved[0].capacitance_f()]}
    checks = [
        _Check(name="setup_1", pin=enable, new=1, kind="setup", steps=[{clock: 0, enable: 0}], result=1, moves=True),
        _Check(name="setup_0", pin=enable, new=0, kind="setup", steps=[{clock: 0, enable: 1}], result=0, moves=False),
        _Check(name="hold_1", pin=enable, new=1, kind="hold", steps=[{clock: 0, enable: 0}], result=0, moves=False),
        _Check(name="hold_0", pin=enable, new=0, kind="hold", steps=[{clock: 0, enable: 1}], result=1, moves=True),
    ]
    return _data(bench, sweep, tuple(leakage), rise, fall, arcs, energies, _constraints(bench, sweep, clock, output, checks))


def _data(bench, sweep, leakage, rise, fall, arcs, energies, constraints) -> CellData:
    return CellData(
        name=bench.cell.name, slews_s=sweep.slews_s, loads_f=sweep.loads_f, constraint_slews_s=sweep.constraint_slews_s,
        leakage=tuple(leakage), arcs=tuple(arcs), energies=tuple(energies), constraints=constraints,
        rise_capacitance_f={pin: float(np.mean(v)) for pin, v in rise.items()},
        fall_capacitance_f={pin: float(np.mean(v)) for pin, v in fall.items()},
    )  # fmt: skip


def _flop_leakage(bench: Bench, load) -> tuple[State, ...]:
    """Leakage for every combination of clock, data and stored bit, and with the clear active."""
    cell = bench.cell
    clock, data, clear, output = cell.description.clock, cell.description.data, cell.description.clear, cell.outputs[0]
    states = []
    for c, d, q in product((0, 1), repeat=3):
        cases = [[*(load(q)[:2] if c else load(q)), {data: d}]]
        if clear and q == 0:
            cases.append([{clock: c, data: d, clear: 0}])
        for i, steps in enumerate(cases):
            state = cell.after(steps)
            inputs = {name: int(state[name]) for name in cell.inputs}
            power = bench.leakage([inputs], label=f"leakage_{c}{d}{q}{i}", initial=state)[0]
            states.append(State(when=condition({**inputs, output: int(state[output])}), leakage_w=power))
    return tuple(states)


@dataclass(frozen=True, kw_only=True)
class _Check:
    """A race between an edge of `pin` to `new` and the rising clock edge, after the input changes `steps`.

    The edge of `pin` comes before the clock for setup and recovery, after it for hold and removal. It is in
    time if the output ends at `result`, promptly where it `moves` there, and without a glitch where it stays.
    """

    name: str
    pin: str
    new: int
    kind: str
    steps: Steps
    result: int
    moves: bool


def _constraints(bench: Bench, sweep: Sweep, clock: str, output: str, checks: Sequence[_Check]) -> tuple[Constraint, ...]:
    found: dict[tuple[str, str], dict[str, Grid]] = {}
    for c in checks:
        found.setdefault((c.pin, c.kind), {})["rise_s" if c.new else "fall_s"] = grid(_bisect(bench, sweep, clock, output, c))
    return tuple(Constraint(pin=pin, related=clock, timing_type=f"{kind}_rising", **tables) for (pin, kind), tables in found.items())


def _bisect(bench: Bench, sweep: Sweep, clock: str, output: str, c: _Check) -> np.ndarray:
    """Least time [clock slew, data slew] that is enough, to within a thousandth of the bracket, for all slews at once."""
    cell, vdd, fo4 = bench.cell, bench.corner.vdd_v, sweep.fo4_s
    state = cell.after(c.steps)
    load_f = sweep.loads_f[sweep.middle[1]]
    slews = list(product(sweep.constraint_slews_s, repeat=2))
    halves = (bench.shape.lead + bench.shape.tail) * np.array([(a + b) / 2 for a, b in slews])
    too_short, enough = -(8 * fo4 + halves), 12 * fo4 + halves
    before = c.kind in ("setup", "recovery")

    def points(times: np.ndarray, must_settle: bool) -> list[Point]:
        made = []
        for (clock_slew, data_slew), time, reach in zip(slews, times, enough, strict=True):
            clock_at = fo4 + reach + bench.shape.lead * max(clock_slew, data_slew)
            edge = Ramp(start=0, end=1, at_s=clock_at, slew_s=clock_slew)
            race = Ramp(start=1 - c.new, end=c.new, at_s=clock_at + (-time if before else time), slew_s=data_slew)
            window = clock_at + reach + bench.shape.tail * max(clock_slew, data_slew) + sweep.settle_s(bench, load_f)
            inputs = {name: int(state[name]) for name in cell.inputs} | {clock: edge, c.pin: race}
            made.append(Point(
                inputs=inputs, loads_f={output: load_f}, window_s=window, expect={output: c.result},
                edges=(output,) if c.moves else (), watch=(output,), must_settle=must_settle,
            ))  # fmt: skip
        return made

    def delay(measured: Measured, point: Point) -> float:
        return measured.crossing_s.get(output, np.inf) - point.inputs[clock].at_s

    def in_time(measured: Measured, point: Point, ample: Measured, ample_point: Point) -> bool:
        if abs(measured.final_v[output] - c.result * vdd) > SETTLED * vdd:
            return False
        if c.moves:
            return 0 < delay(measured, point) <= _PUSH_OUT * delay(ample, ample_point)
        return measured.highest_v[output] < _GLITCH * vdd if c.result == 0 else measured.lowest_v[output] > (1 - _GLITCH) * vdd

    ample_points = points(enough, True)
    ample = bench.run(ample_points, label=f"{c.name}_ample", initial=state)

    def verdict(times: np.ndarray, label: str) -> np.ndarray:
        tried = points(times, False)
        runs = bench.run(tried, label=f"{c.name}_{label}", initial=state)
        return np.array([in_time(m, p, a, ap) for m, p, a, ap in zip(runs, tried, ample, ample_points, strict=True)])

    if not np.all(verdict(enough, "upper")) or np.any(verdict(too_short, "lower")):
        raise ToolError(
            f"{c.kind} of {cell.name} at {bench.corner} must lie between {too_short.min():.3g} and {enough.max():.3g} s, not outside ({bench.folder})"
        )
    low, high = too_short.copy(), enough.copy()
    for i in range(_ITERATIONS):
        middle = (low + high) / 2
        passed = verdict(middle, f"{i}")
        high, low = np.where(passed, middle, high), np.where(passed, low, middle)
    return high.reshape(len(sweep.constraint_slews_s), -1)
