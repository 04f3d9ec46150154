"""Standard cells: from transistors to Liberty.

`netlist` describes cells, `spice` runs them in ngspice, `combinational` and `sequential` measure them, `emit` prints
Liberty, and `characterize.characterize_library` does all of it for the corners of a technology.
"""
