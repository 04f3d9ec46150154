"""Tables against direct simulation at random points between their breakpoints: `python -m flow.cells.accuracy`.

A point is a (corner, cell, arc, edge, slew, load); slew and load are log-uniform over the table. Delay and transition are compared
for the slowest state of the other inputs, as the table gives them, and energy for one of the states. The error of a delay is
relative to the delay, or to half an FO4 delay where that is longer (a delay can be zero); the error of an energy is relative to
what the edge costs in all: its internal energy and half of load x vdd^2.
"""

import random
import tempfile
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from itertools import product
from pathlib import Path

import click
import numpy as np
import pandas as pd

from flow.cells.fo4 import measure_fo4
from flow.cells.measure import edge_point, energy_j
from flow.cells.netlist import Cell, CellLibrary, all_cells, load_cell_library
from flow.cells.spice import Bench, Point, Ramp
from flow.cells.steps import sweep_for
from flow.corner import Corner
from flow.liberty import Cell as LibertyCell
from flow.liberty import InternalPower, Library, read_library
from flow.logic import evaluate
from flow.tech import Technology, load_technology

CELL_DATA = Path(__file__).parents[1] / "tech" / "fdsoi28p"


@dataclass(frozen=True, kw_only=True)
class Comparison:
    """One point. Energies are of the whole edge without what charges the load; errors as this module defines them."""

    corner: str
    cell: str
    related_pin: str
    output: str
    edge: str
    slew_s: float
    load_f: float
    delay_s: float
    delay_direct_s: float
    delay_error: float
    transition_error: float
    energy_j: float
    energy_direct_j: float
    energy_error: float


def compare(
    library: Library, cells: CellLibrary, corner: Corner, *, cards: Path, count: int, rng: random.Random, folder: Path
) -> list[Comparison]:
    """`count` random points of `library`, which must be of `cells` at `corner`; decks go to `folder`."""
    every = {cell.name: cell for cell in all_cells(cells)}
    process = cells.processes[corner.process]
    fo4 = measure_fo4(every["INV_X1"], cards, process, corner, folder, load_f=4 * cells.characterization.load_unit_f)
    kinds = [cell for cell in every.values() if cell.description.kind in ("combinational", "flop")]
    found = []
    for number in range(count):
        cell = rng.choice(kinds)
        bench = Bench(cell=cell, cards=cards, process=process, corner=corner, folder=folder, shape=fo4.shape)
        found.append(_compare_one(library.cells[cell.name], cells, bench, fo4.delay_s, rng, f"{cell.name}_{number}"))
    return found


def _compare_one(liberty: LibertyCell, cells: CellLibrary, bench: Bench, fo4_s: float, rng: random.Random, label: str) -> Comparison:
    cell = bench.cell
    sweep = sweep_for(cell, cells, fo4_s)
    output = rng.choice(cell.outputs)
    pin, causes = _causes(cell, output, rng)
    value = rng.choice(sorted({after for _, after in causes}))
    arcs = [a for a in liberty.pins[output].timing if a.related_pins == (pin,) and a.timing_type in ("combinational", "rising_edge")]
    edge = "rise" if value else "fall"
    # Of a gate that can go either way only one sense at a time: its table is that of one edge of the input.
    rising = rng.choice(sorted({not state[pin] for state, after in causes if after == value}))
    states = [state for state, after in causes if after == value and (not state[pin]) == rising]
    sense = "positive_unate" if bool(value) == rising else "negative_unate"
    arc = next(a for a in arcs if a.sense in (sense, "non_unate"))
    table, moves = getattr(arc, f"delay_{edge}_s"), getattr(arc, f"transition_{edge}_s")
    slew_s, load_f = (float(np.exp(rng.uniform(*np.log((axis[0], axis[-1]))))) for axis in table.points)
    points = [edge_point(bench, sweep, state=state, pin=pin, slew_s=slew_s, load_f=load_f) for state in states]
    if cell.description.kind == "combinational":
        measured = bench.run(points, label=label)
    else:
        measured = [bench.run([point], label=f"{label}_{i}", initial=state)[0] for i, (point, state) in enumerate(zip(points, states, strict=True))]
    direct_delay = max(m.crossing_s[output] - _ramp(p, pin).at_s for m, p in zip(measured, points, strict=True))
    direct_transition = max(m.transition_s[output] for m in measured)
    chosen = rng.randrange(len(states))
    leakage_w = liberty.leakage_w
    direct_j = energy_j(bench, points[chosen], measured[chosen], leakage_w) / len(points[chosen].edges)
    table_j = _energy_j(liberty, pin, output, edge, rising, states[chosen], slew_s, load_f, cell)
    at = {"slew_s": slew_s, "load_f": load_f}
    delay, transition = float(table.at(**at)), float(moves.at(**at))
    return Comparison(
        corner=str(bench.corner), cell=cell.name, related_pin=pin, output=output, edge=edge, slew_s=slew_s, load_f=load_f, delay_s=delay,
        delay_direct_s=direct_delay, delay_error=(delay - direct_delay) / max(abs(direct_delay), fo4_s / 2),
        transition_error=transition / direct_transition - 1, energy_j=table_j, energy_direct_j=direct_j,
        energy_error=(table_j - direct_j) / (abs(direct_j) + load_f * bench.corner.vdd_v**2 / 2),
    )  # fmt: skip


def _ramp(point: Point, pin: str) -> Ramp:
    edge = point.inputs[pin]
    assert isinstance(edge, Ramp), "the pin that moves has a ramp"
    return edge


def _causes(cell: Cell, output: str, rng: random.Random) -> tuple[str, list[tuple[dict, int]]]:
    """An input pin that moves `output`, and every settled state before such a move with the output's value after it."""
    d = cell.description
    if d.kind == "flop":
        assert d.clock is not None and d.data is not None, "every flop has both"
        off = {d.clear: 1} if d.clear else {}
        return d.clock, [(cell.after([{d.clock: 0, d.data: 1 - q, **off}, {d.clock: 1}, {d.clock: 0}, {d.data: q}]), q) for q in (0, 1)]
    pin = rng.choice(cell.inputs)
    found = []
    for bits in product((0, 1), repeat=len(cell.inputs)):
        before = dict(zip(cell.inputs, bits, strict=True))
        state, after = cell.settle(before), cell.settle({**before, pin: 1 - before[pin]})
        if state[output] != (value := after[output]):
            assert value is not None, "a settled combinational cell drives its output"
            found.append((state, int(value)))
    return pin, found


def _energy_j(liberty: LibertyCell, pin: str, output: str, edge: str, rising: bool, state: dict, slew_s: float, load_f: float, cell: Cell) -> float:
    """What the tables say of the whole edge; a flop's clock pin has its share."""
    bits = {name: np.asarray(bool(value)) for name, value in state.items() if value is not None}

    def holds(power: InternalPower) -> bool:
        return power.when is None or bool(evaluate(power.when, bits, cell.name))

    power = next(p for p in liberty.pins[output].internal_power if p.related_pins == (pin,) and holds(p))
    energy = float(getattr(power, f"{edge}_j").at(slew_s=slew_s, load_f=load_f))
    if cell.description.kind == "flop":
        own = liberty.pins[pin].internal_power[0]
        table = own.rise_j if rising else own.fall_j
        assert table is not None, "a clock pin has a table of each edge"
        energy += float(table.at(slew_s=slew_s))
    return energy


def summary(found: Sequence[Comparison]) -> dict[str, float]:
    """Mean and worst absolute errors, as fractions."""
    frame = pd.DataFrame([asdict(c) for c in found])
    errors = {name: frame[f"{name}_error"].abs() for name in ("delay", "transition", "energy")}
    return {f"{name}_{kind}": float(getattr(e, "mean" if kind == "mean" else "max")()) for name, e in errors.items() for kind in ("mean", "worst")}


@click.command()
@click.option("--points", default=200, show_default=True)
@click.option("--seed", default=1, show_default=True)
@click.option("--out", type=click.Path(path_type=Path), default=CELL_DATA / "accuracy.csv", show_default=True)
def main(points: int, seed: int, out: Path) -> None:
    """Compare the committed library with direct simulation at random points of random corners, and write them to a table."""
    technology: Technology = load_technology("fdsoi28p")
    cells, rng = load_cell_library(CELL_DATA), random.Random(seed)
    chosen = [rng.choice(technology.known_corners) for _ in range(points)]
    found: list[Comparison] = []
    with tempfile.TemporaryDirectory() as folder:
        for known in dict.fromkeys(chosen):
            corner, library = known.at_sram(known.vdd_v), read_library(known.liberty[0])
            cards = CELL_DATA / cells.transistors.cards
            found += compare(library, cells, corner, cards=cards, count=chosen.count(known), rng=rng, folder=Path(folder))
            click.echo(f"{len(found)} of {points} points ({corner})", err=True)
    pd.DataFrame([asdict(c) for c in found]).to_csv(out, index=False, float_format="%.5g")
    for name, value in summary(found).items():
        click.echo(f"{name:18} {100 * value:.2f} %")


if __name__ == "__main__":
    main()
