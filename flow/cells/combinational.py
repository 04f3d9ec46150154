"""Characterization of a combinational cell: every edge of every input, for every state of the other inputs."""

from collections import defaultdict
from collections.abc import Mapping, Sequence
from itertools import product

import numpy as np

from flow.cells.measure import Arc, CellData, Edges, Energy, State, Sweep, condition, grid, simulate
from flow.cells.spice import Bench

Side = str  # the state of the other inputs as a Liberty condition


def characterize_combinational(bench: Bench, sweep: Sweep) -> CellData:
    """Delays and transitions are those of the slowest state of the other inputs, point by point; energies are kept by state.

    Every state is simulated at a few slews and loads, first, middle and last. Those that are the slowest at one of
    them are simulated at all. The energy of a state that is not follows a slow one over the slews, corrected by their
    difference at the sampled points. Where one edge moves several outputs its energy is shared equally among them.
    """
    cell = bench.cell
    states = [dict(zip(cell.inputs, bits, strict=True)) for bits in product((0, 1), repeat=len(cell.inputs))]
    powers = bench.leakage(states, label="leakage")
    leakage = tuple(State(when=condition(bits), leakage_w=power) for bits, power in zip(states, powers, strict=True) if bits)
    leakage_w = float(np.mean(powers))

    edges: list[tuple[Edges, Side]] = []
    for pin in cell.inputs:
        others = [name for name in cell.inputs if name != pin]
        for bits in product((0, 1), repeat=len(others)):
            side = dict(zip(others, bits, strict=True))
            for start in (0, 1):
                moves = any(cell.settle({**side, pin: 0})[name] != cell.settle({**side, pin: 1})[name] for name in cell.outputs)
                edges.append((Edges(bench, sweep, cell.settle({**side, pin: start}), pin, over_loads=moves), condition(side)))
    if edges:
        simulate(bench, [(e, e.sampled()) for e, _ in edges], label="sampled")
    causes = _causes(edges)
    slow = _slowest(causes)
    if slow:
        simulate(bench, [(e, [at for at in e.all() if at not in e.measured]) for e in slow], label="all")

    arcs: dict[tuple, dict] = defaultdict(dict)
    for (output, pin, rising, value), alike in causes.items():
        sense = "positive_unate" if bool(value) == rising else "negative_unate"
        edge = "rise" if value else "fall"
        arcs[output, pin, sense][f"delay_{edge}_s"] = grid(np.nanmax([e.delay_s(output) for e in alike], axis=0))
        arcs[output, pin, sense][f"transition_{edge}_s"] = grid(np.nanmax([e.transition_s(output) for e in alike], axis=0))

    caps: dict[bool, dict[str, list[float]]] = {True: defaultdict(list), False: defaultdict(list)}
    energies: dict[tuple, dict] = defaultdict(dict)
    for e, when in edges:
        caps[e.rising][e.pin].append(e.capacitance_f())
        joule = _energy(e, slow, sweep, leakage_w)
        for output, value in e.moved.items():
            energies[output, e.pin, when]["rise_j" if value else "fall_j"] = grid(joule / len(e.moved))
        if not e.moved:
            energies[e.pin, None, when]["rise_j" if e.rising else "fall_j"] = grid(joule[:, 0])

    return CellData(
        name=cell.name,
        **sweep.axes(),
        leakage=leakage or (State(when="", leakage_w=leakage_w),),
        rise_capacitance_f={pin: float(np.mean(values)) for pin, values in caps[True].items()},
        fall_capacitance_f={pin: float(np.mean(values)) for pin, values in caps[False].items()},
        arcs=tuple(
            Arc(output=output, related=pin, timing_type="combinational", sense=sense, **found) for (output, pin, sense), found in arcs.items()
        ),
        energies=tuple(Energy(pin=pin, related=related, when=side or None, **found) for (pin, related, side), found in energies.items()),
    )


def _causes(edges: Sequence[tuple[Edges, Side]]) -> dict[tuple[str, str, bool, int], list[Edges]]:
    """The edges that move an output to a value, by (output, input pin, whether that rises, value)."""
    found: dict[tuple[str, str, bool, int], list[Edges]] = defaultdict(list)
    for e, _ in edges:
        for output, value in e.moved.items():
            found[output, e.pin, e.rising, value].append(e)
    return found


def _slowest(causes: Mapping[tuple[str, str, bool, int], Sequence[Edges]]) -> list[Edges]:
    """Edges with the longest delay or transition at a sampled point or more, and one at least of those that move the same outputs alike."""
    found: list[Edges] = []

    def add(e: Edges) -> None:
        if not any(e is other for other in found):
            found.append(e)

    for (output, *_), alike in causes.items():
        for value in ("delay_s", "transition_s"):
            arrays = [getattr(e, value)(output) for e in alike]
            for at in alike[0].sampled():
                add(alike[int(np.argmax([array[at] for array in arrays]))])
    for alike in causes.values():
        for e in alike:
            if not any(_similar(e, other) for other in found):
                add(e)
    return found


def _similar(e: Edges, other: Edges) -> bool:
    """Whether both move the same pin and the same outputs the same way."""
    return (e.pin, e.rising, e.moved) == (other.pin, other.rising, other.moved)


def _energy(e: Edges, slow: Sequence[Edges], sweep: Sweep, leakage_w: float) -> np.ndarray:
    """Energies of an edge: [slew, sampled load] if it moves an output, [sampled slew, 1] if not."""
    if not e.moved:
        return e.sampled_energy_j(leakage_w)
    loads = list(sweep.sampled_loads)
    if any(e is other for other in slow):
        return e.energy_j(leakage_w)[:, loads]
    like = next(other for other in slow if _similar(e, other))
    return like.energy_j(leakage_w)[:, loads] + sweep.over_slews(e.sampled_energy_j(leakage_w) - like.sampled_energy_j(leakage_w))
