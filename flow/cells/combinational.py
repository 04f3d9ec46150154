"""Characterization of a combinational cell: every edge of every input, for every state of the other inputs."""

from collections import defaultdict
from itertools import product

import numpy as np

from flow.cells.measure import Arc, CellData, Edges, Energy, State, Sweep, condition, grid, simulate
from flow.cells.spice import Bench


def characterize_combinational(bench: Bench, sweep: Sweep) -> CellData:
    """Delays and transitions are those of the slowest state of the other inputs, point by point; energies are kept by state.

    Where one edge moves several outputs its energy is shared equally among them.
    """
    cell = bench.cell
    states = [dict(zip(cell.inputs, bits, strict=True)) for bits in product((0, 1), repeat=len(cell.inputs))]
    powers = bench.leakage(states, label="leakage")
    leakage = tuple(State(when=condition(bits), leakage_w=power) for bits, power in zip(states, powers, strict=True) if bits)
    leakage_w = float(np.mean(powers))

    edges: list[tuple[Edges, str]] = []
    for pin in cell.inputs:
        others = [name for name in cell.inputs if name != pin]
        for bits in product((0, 1), repeat=len(others)):
            side = dict(zip(others, bits, strict=True))
            for start in (0, 1):
                moves = any(cell.settle({**side, pin: 0})[name] != cell.settle({**side, pin: 1})[name] for name in cell.outputs)
                edges.append((Edges(bench, sweep, cell.settle({**side, pin: start}), pin, over_loads=moves), condition(side)))
    if edges:
        simulate(bench, [e for e, _ in edges], label="edges")

    tables: dict[tuple, dict[str, list[np.ndarray]]] = defaultdict(lambda: defaultdict(list))
    energies: dict[tuple, dict[str, np.ndarray]] = defaultdict(dict)
    caps: dict[bool, dict[str, list[float]]] = {True: defaultdict(list), False: defaultdict(list)}
    for e, side in edges:
        caps[e.rising][e.pin].append(e.capacitance_f())
        joule = e.energy_j(leakage_w)
        for output, value in e.moved.items():
            sense = "positive_unate" if bool(value) == e.rising else "negative_unate"
            edge = "rise" if value else "fall"
            tables[output, e.pin, sense][f"delay_{edge}_s"].append(e.delay_s(output))
            tables[output, e.pin, sense][f"transition_{edge}_s"].append(e.transition_s(output))
            energies[output, e.pin, side][f"{edge}_j"] = joule / len(e.moved)
        if not e.moved:
            energies[e.pin, None, side]["rise_j" if e.rising else "fall_j"] = joule[:, 0]

    return CellData(
        name=cell.name,
        slews_s=sweep.slews_s,
        loads_f=sweep.loads_f,
        constraint_slews_s=sweep.constraint_slews_s,
        leakage=leakage or (State(when="", leakage_w=leakage_w),),
        rise_capacitance_f={pin: float(np.mean(values)) for pin, values in caps[True].items()},
        fall_capacitance_f={pin: float(np.mean(values)) for pin, values in caps[False].items()},
        arcs=tuple(
            Arc(output=output, related=pin, timing_type="combinational", sense=sense, **{k: grid(np.max(v, axis=0)) for k, v in found.items()})
            for (output, pin, sense), found in tables.items()
        ),
        energies=tuple(
            Energy(pin=pin, related=related, when=side or None, **{k: grid(v) for k, v in found.items()}) for (pin, related, side), found in energies.items()
        ),
    )
