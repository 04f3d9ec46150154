"""The cached steps of characterization: one per corner for FO4, one per cell and corner for its tables."""

from pathlib import Path

from flow import corner as corner_module
from flow.cache import step
from flow.cells import combinational, constraints, fo4, measure, netlist, sequential, spice
from flow.cells.fo4 import Fo4
from flow.cells.measure import CellData, Sweep
from flow.cells.netlist import Cell, CellLibrary, ProcessShift
from flow.cells.spice import Bench, EdgeShape
from flow.corner import Corner

_MODULES = (netlist, spice, measure, corner_module)


def sweep_for(cell: Cell, library: CellLibrary, fo4_s: float) -> Sweep:
    """The table axes of `cell` at a corner with this FO4 delay, rounded so that they read well."""
    axes = library.characterization

    def rounded(value: float) -> float:
        return float(f"{value:.3g}")

    return Sweep(
        fo4_s=fo4_s,
        slews_s=tuple(rounded(fo4_s * x) for x in axes.slews_fo4),
        loads_f=tuple(rounded(axes.load_unit_f * cell.drive * x) for x in axes.loads),
        constraint_slews_s=tuple(rounded(fo4_s * x) for x in axes.constraint_slews_fo4),
        load_unit_f=axes.load_unit_f,
    )


@step(version=1, tools=("ngspice",), modules=(fo4, netlist, spice, corner_module))
def measure_fo4(folder: Path, *, inverter: Cell, cards: Path, process: ProcessShift, corner: Corner, load_f: float) -> Fo4:
    """FO4 delay of `inverter` at `corner`, and the form of the edges in a chain of it."""
    return fo4.measure_fo4(inverter, cards, process, corner, folder, load_f=load_f)


@step(version=1, tools=("ngspice",), modules=(*_MODULES, combinational, constraints, sequential))
def characterize_cell(folder: Path, *, cell: Cell, cards: Path, process: ProcessShift, corner: Corner, sweep: Sweep, shape: EdgeShape) -> CellData:
    """All tables of one cell at one corner; raises `ToolError` if anything cannot be measured."""
    bench = Bench(cell=cell, cards=cards, process=process, corner=corner, folder=folder, shape=shape)
    kinds = {"flop": sequential.characterize_flop, "latch": sequential.characterize_latch, "clock_gate": sequential.characterize_clock_gate}
    data = measure.check(kinds.get(cell.description.kind, combinational.characterize_combinational)(bench, sweep))
    for deck in folder.glob("*.sp"):
        deck.unlink()
    for log in folder.glob("*.log"):
        log.unlink()
    return data
