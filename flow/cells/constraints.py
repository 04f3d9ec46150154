"""Races of a stored bit: the least time between two edges, or the least width of a pulse, that still works.

A time is searched on a fixed raster, a fraction of the corner's FO4 delay: outward from a guess until it is between
one that works and one that does not, then by halves. The guess saves simulations and does not change the result.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from itertools import product

import numpy as np

from flow.cells.measure import Constraint, Grid, PulseWidth, Sweep, grid
from flow.cells.netlist import known
from flow.cells.spice import SETTLED, Bench, Measured, Point, Ramp
from hw.errors import ToolError

# An edge is in time if the output comes at most this much later than with ample time ...
_PUSH_OUT = 1.1
# ... or, where the output must not move, if it stays within this fraction of the swing of its rail.
_GLITCH = 0.1
_RASTER_FO4 = 1 / 16
_AMPLE_FO4 = 12
_REACH_FO4 = 40
"""No race is decided further from zero than this, beside the slews."""

Steps = Sequence[dict[str, int]]


@dataclass(frozen=True, kw_only=True)
class Race:
    """A race between an edge of `pin` to `new` and the clock's edge to `clock_to`, after the input changes `steps`.

    The edge of `pin` comes before the clock for setup and recovery, after it for hold and removal. It is in
    time if the output ends at `result`, promptly where it `moves` there, and without a glitch where it stays.
    With `through` the output follows `pin` (an open latch), else the clock.
    """

    name: str
    pin: str
    new: int
    kind: str
    steps: Steps
    result: int
    moves: bool
    clock_to: int = 1
    through: bool = False


@dataclass(frozen=True, kw_only=True)
class Pulse:
    """A pulse of `pin` to `level` after the input changes `steps`, which must bring the output to `result`.

    With `late` the output follows the end of the pulse, else its begin. With `returns` the output is a pulse itself, which must
    come within a glitch of its rail in between.
    """

    pin: str
    level: int
    steps: Steps
    result: int
    late: bool = False
    returns: bool = False


def least_times(bench: Bench, sweep: Sweep, clock: str, output: str, races: Sequence[Race]) -> tuple[Constraint, ...]:
    """The constraints that `races` stand for, [clock slew][data slew]."""
    found: dict[tuple[str, str, int], dict[str, Grid]] = {}
    for race in races:
        found.setdefault((race.pin, race.kind, race.clock_to), {})["rise_s" if race.new else "fall_s"] = grid(_race(bench, sweep, clock, output, race))
    return tuple(
        Constraint(pin=pin, related=clock, timing_type=f"{kind}_{'rising' if to else 'falling'}", **tables) for (pin, kind, to), tables in found.items()
    )


def _race(bench: Bench, sweep: Sweep, clock: str, output: str, race: Race) -> np.ndarray:
    """Least time [clock slew, data slew] that is enough: the middle slews first, then one axis at a time, then the rest from their sums."""
    cell, shape, fo4 = bench.cell, bench.shape, sweep.fo4_s
    state = cell.after(race.steps)
    load_f = sweep.loads_f[sweep.middle[1]]
    slews, raster_s = sweep.constraint_slews_s, fo4 * _RASTER_FO4
    before = race.kind in ("setup", "recovery")

    def point(at: tuple[int, int], time_s: float, *, must_settle: bool) -> Point:
        clock_slew, data_slew = slews[at[0]], slews[at[1]]
        begin = fo4 + shape.lead * max(clock_slew, data_slew)
        clock_at = begin + max(0.0, time_s if before else -time_s)
        race_at = clock_at + (-time_s if before else time_s)
        window = max(clock_at, race_at) + shape.tail * max(clock_slew, data_slew) + sweep.settle_s(bench, load_f)
        inputs: dict[str, int | Ramp] = {**known(state, cell.inputs)}
        inputs[clock] = Ramp(start=1 - race.clock_to, end=race.clock_to, at_s=clock_at, slew_s=clock_slew)
        inputs[race.pin] = Ramp(start=1 - race.new, end=race.new, at_s=race_at, slew_s=data_slew)
        return Point(
            inputs=inputs, loads_f={output: load_f}, window_s=window, expect={output: race.result},
            edges=(output,) if race.moves else (), watch=(output,), must_settle=must_settle,
        )  # fmt: skip

    # The usual delay depends on the slew of the edge that the output follows.
    middle, mover, axis_of_mover = len(slews) // 2, race.pin if race.through else clock, int(race.through)
    reference = [(middle, i) if race.through else (i, middle) for i in range(len(slews))]
    ample_points = [point((i, j), _ample_s(bench, sweep, (slews[i], slews[j])), must_settle=True) for i, j in reference]
    ample = bench.run(ample_points, label=f"{race.name}_ample", initial=state)

    def in_time(at: tuple[int, int], measured: Measured, tried: Point) -> bool:
        i = at[axis_of_mover]
        usual = ample[i].crossing_s[output] - ample_points[i].ramp(mover).at_s if race.moves else 0.0
        return _works(bench, measured, output, race.result, moves=race.moves, since_s=tried.ramp(mover).at_s, usual_s=usual)

    def verdicts(indices: Sequence[tuple[int, int]], steps: Sequence[int], label: str) -> list[bool]:
        tried = [point(at, k * raster_s, must_settle=False) for at, k in zip(indices, steps, strict=True)]
        runs = bench.run(tried, label=f"{race.name}_{label}", initial=state)
        return [in_time(at, measured, p) for at, measured, p in zip(indices, runs, tried, strict=True)]

    what = f"{race.kind} of {race.pin} of {cell.name} at {bench.corner}"
    found = np.zeros((len(slews), len(slews)), dtype=int)

    def solve(indices: Sequence[tuple[int, int]], guesses: Sequence[int], first_step: int, label: str) -> None:
        reach = [int((_REACH_FO4 * fo4 + (shape.lead + shape.tail) * (slews[i] + slews[j]) / 2) / raster_s) for i, j in indices]
        solved = _search(lambda which, steps, n: verdicts([indices[w] for w in which], steps, f"{label}{n}"), guesses, first_step, reach, what, bench)
        for at, k in zip(indices, solved, strict=True):
            found[at] = k

    solve([(middle, middle)], [round((1.5 if before else -0.5) / _RASTER_FO4)], 8, "middle")
    axis = [(i, middle) for i in range(len(slews)) if i != middle] + [(middle, j) for j in range(len(slews)) if j != middle]
    solve(axis, [found[middle, middle]] * len(axis), 8, "axis")
    rest = [(i, j) for i, j in product(range(len(slews)), repeat=2) if middle not in (i, j)]
    if rest:
        solve(rest, [found[i, middle] + found[middle, j] - found[middle, middle] for i, j in rest], 4, "rest")
    return found * raster_s


def least_widths(bench: Bench, sweep: Sweep, output: str, pulses: Sequence[Pulse]) -> tuple[PulseWidth, ...]:
    """The shortest pulse of each pin and level that works in all its cases, with the steepest edges of the constraints."""
    found: dict[tuple[str, int], float] = {}
    for i, pulse in enumerate(pulses):
        width = _width(bench, sweep, output, pulse, f"pulse_{pulse.pin}_{pulse.level}_{i}")
        found[pulse.pin, pulse.level] = max(width, found.get((pulse.pin, pulse.level), 0.0))
    return tuple(PulseWidth(pin=pin, level=level, least_s=width) for (pin, level), width in found.items())


def _width(bench: Bench, sweep: Sweep, output: str, pulse: Pulse, label: str) -> float:
    cell, shape, fo4 = bench.cell, bench.shape, sweep.fo4_s
    state = cell.after(pulse.steps)
    load_f, slew_s = sweep.loads_f[sweep.middle[1]], sweep.constraint_slews_s[0]
    raster_s = fo4 * _RASTER_FO4
    # Both edges must have room; a real pulse cannot be shorter.
    least = int(np.ceil((shape.lead + shape.tail) * slew_s * 1.01 / raster_s))

    def point(width_s: float, *, must_settle: bool) -> Point:
        at = fo4 + shape.lead * slew_s
        ramp = Ramp(start=1 - pulse.level, end=pulse.level, at_s=at, slew_s=slew_s, back_s=at + width_s)
        return Point(
            inputs={**known(state, cell.inputs), pulse.pin: ramp}, loads_f={output: load_f},
            window_s=at + width_s + shape.tail * slew_s + sweep.settle_s(bench, load_f), expect={output: pulse.result},
            edges=() if pulse.returns else (output,), watch=(output,), must_settle=must_settle,
        )  # fmt: skip

    def since_s(p: Point) -> float:
        ramp = p.ramp(pulse.pin)
        assert ramp.back_s is not None  # a pulse
        return ramp.back_s if pulse.late else ramp.at_s

    ample_point = point(2 * _AMPLE_FO4 * fo4 + least * raster_s, must_settle=True)
    (ample,) = bench.run([ample_point], label=f"{label}_ample", initial=state)

    def verdicts(_: Sequence[int], steps: Sequence[int], n: str) -> list[bool]:
        # Shorter than both edges need never works.
        tried = [point(k * raster_s, must_settle=False) for k in steps if k >= least]
        runs = iter(zip(bench.run(tried, label=f"{label}_{n}", initial=state) if tried else [], tried, strict=True))
        return [k >= least and works(*next(runs)) for k in steps]

    def works(measured: Measured, p: Point) -> bool:
        if pulse.returns:
            vdd = bench.corner.vdd_v
            return (measured.lowest_v[output] < _GLITCH * vdd) if pulse.result else (measured.highest_v[output] > (1 - _GLITCH) * vdd)
        usual = ample.crossing_s[output] - since_s(ample_point)
        return _works(bench, measured, output, pulse.result, moves=True, since_s=since_s(p), usual_s=usual)

    what = f"pulse width of {pulse.pin} of {cell.name} at {bench.corner}"
    (found,) = _search(verdicts, [round(3 / _RASTER_FO4)], 8, [int(2 * _REACH_FO4 / _RASTER_FO4)], what, bench)
    return found * raster_s


def _ample_s(bench: Bench, sweep: Sweep, slews: tuple[float, float]) -> float:
    return _AMPLE_FO4 * sweep.fo4_s + (bench.shape.lead + bench.shape.tail) * sum(slews) / 2


def _works(bench: Bench, measured: Measured, output: str, result: int, *, moves: bool, since_s: float, usual_s: float) -> bool:
    vdd = bench.corner.vdd_v
    if abs(measured.final_v[output] - result * vdd) > SETTLED * vdd:
        return False
    if moves:
        return measured.crossing_s.get(output, np.inf) - since_s <= _PUSH_OUT * usual_s
    return measured.highest_v[output] < _GLITCH * vdd if result == 0 else measured.lowest_v[output] > (1 - _GLITCH) * vdd


@dataclass(frozen=True)
class _Bracket:
    fails: int | None = None
    works: int | None = None

    @property
    def done(self) -> bool:
        return self.fails is not None and self.works is not None and self.works - self.fails == 1


def _search(
    verdicts: Callable[[Sequence[int], Sequence[int], str], Sequence[bool]], guesses: Sequence[int], first_step: int, reach: Sequence[int], what: str,
    bench: Bench,
) -> list[int]:  # fmt: skip
    """For each guess, the least step of the raster that works, all searched side by side.

    `verdicts(which, steps, label)` tells whether each of `steps` works for the items `which`. Raises `ToolError` beyond `reach`.
    """
    brackets = [_Bracket() for _ in guesses]
    trials, strides = list(guesses), [first_step] * len(guesses)
    for n in range(64):
        which = [i for i, bracket in enumerate(brackets) if not bracket.done]
        if not which:
            works = [bracket.works for bracket in brackets if bracket.works is not None]
            assert len(works) == len(brackets), "a bracket that is done has both ends"
            return works
        outcome = verdicts(which, [trials[i] for i in which], str(n))
        for i, passed in zip(which, outcome, strict=True):
            brackets[i] = replace(brackets[i], **{"works" if passed else "fails": trials[i]})
            low, high = brackets[i].fails, brackets[i].works
            if low is not None and high is not None:
                if high <= low:
                    raise ToolError(f"{what} must divide times that work from shorter ones that fail, not the other way ({bench.folder})")
                trials[i] = (low + high) // 2
                continue
            trials[i] += strides[i] if high is None else -strides[i]
            strides[i] *= 2
            if abs(trials[i]) > reach[i]:
                raise ToolError(f"{what} must lie within {reach[i] * _RASTER_FO4:.3g} FO4 delays, not outside ({bench.folder})")
    raise ToolError(f"{what} must be found in 64 trials ({bench.folder})")
