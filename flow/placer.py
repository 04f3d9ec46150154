"""Runs Coloquinte on a circuit in `circuit.npz` of the working folder and writes `placed.npz`: a program of its own, so that it has a time limit.

Lengths are integers. `area` [4] is (left, right, bottom, top); `cells` [n, 5] holds width, height, fixed, x, y (lower left);
the pins of net `i` are `pins[start[i]:start[i + 1]]`, rows of (cell, x offset, y offset). `effort` is 1 to 9.
"""

import coloquinte
import numpy as np


def main() -> None:
    with np.load("circuit.npz") as given:
        area, row, effort = given["area"].tolist(), int(given["row"]), int(given["effort"])
        cells, start, pins = given["cells"], given["start"].tolist(), given["pins"]
        detailed = bool(given["detailed"])
    circuit = coloquinte.Circuit(len(cells))
    circuit.cell_width, circuit.cell_height = cells[:, 0].tolist(), cells[:, 1].tolist()
    circuit.cell_is_fixed = [bool(fixed) for fixed in cells[:, 2]]
    circuit.cell_is_obstruction = [bool(width and height) for width, height in cells[:, :2]]
    circuit.cell_x, circuit.cell_y = cells[:, 3].tolist(), cells[:, 4].tolist()
    for first, last in zip(start, start[1:], strict=False):
        cell, x, y = pins[first:last].T.tolist()
        circuit.add_net(cell, x, y)
    circuit.setup_rows(coloquinte.Rectangle(*area), row, False, False)
    circuit.check()
    if detailed:
        circuit.place(effort)
    else:
        circuit.place_global(effort)
    np.savez("placed.npz", x=np.array(circuit.cell_x), y=np.array(circuit.cell_y))
    print(f"METRIC hpwl {circuit.hpwl()} 1")


if __name__ == "__main__":
    main()
