"""From transistor cards and cell descriptions to Liberty: every cell at every corner, in parallel, resumable to the cell."""

import sys
from collections.abc import Sequence
from concurrent.futures import FIRST_COMPLETED, ThreadPoolExecutor, wait
from pathlib import Path
from typing import Any

from pydantic import RootModel
from tqdm import tqdm

from flow.cache import run_step
from flow.cells.emit import library_group
from flow.cells.measure import CellData
from flow.cells.netlist import Cell, CellLibrary, ProcessShift, all_cells, load_cell_library
from flow.cells.steps import characterize_cell, measure_fo4, sweep_for
from flow.corner import Corner
from flow.liberty_text import write_library
from hw.errors import ConfigError
from hw.settings import parse, read_yaml


def liberty_name(technology: str, corner: Corner) -> str:
    """File name of a corner's library, such as fdsoi28p_tt_0p50v_25c.lib.gz."""

    def number(value: float, digits: int) -> str:
        return f"{abs(value):.{digits}f}".replace(".", "p")

    temperature = ("m" if corner.temperature_c < 0 else "") + number(corner.temperature_c, 0)
    bias = f"_bb{'m' if corner.back_bias_v < 0 else ''}{number(corner.back_bias_v, 2)}v" if corner.back_bias_v else ""
    return f"{technology}_{corner.process}_{number(corner.vdd_v, 2)}v_{temperature}c{bias}.lib.gz"


def characterize_library(
    *,
    tech_dir: Path,
    out_dir: Path,
    corners: Sequence[Corner] | None = None,
    workers: int = 2,
    flavour: str | None = None,
    cache: Path = Path("build/cells"),
) -> list[Path]:
    """Characterize every cell of the technology in `tech_dir` at `corners` (or all of its grid) and write one Liberty file a corner to `out_dir`.

    `workers` simulations run at a time. Each cell of a corner is kept in `cache` when done, so that a second run
    continues where a first one ended. Nothing is written for a corner until all its cells are measured. `flavour` names
    a shift of the transistors in `flavours.yaml`, which is added to that of the process; its name is added to the technology's.
    """
    library = load_cell_library(tech_dir)
    processes = library.processes if flavour is None else _flavoured(library, tech_dir, flavour)
    cards = tech_dir / library.transistors.cards
    if workers < 1:
        raise ConfigError(f"workers must be at least 1, not {workers}")
    corners = library.corners() if corners is None else corners
    unknown = sorted({corner.process for corner in corners} - library.processes.keys())
    if unknown:
        raise ConfigError(f"process must be one of {', '.join(sorted(library.processes))}, not {unknown[0]} ({tech_dir / 'cells.yaml'})")
    try:
        out_dir.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise ConfigError(f"output folder must be writable, not {out_dir} ({error.strerror})") from None
    technology = tech_dir.name + (f"_{flavour}" if flavour else "")
    store = cache / tech_dir.name
    cells = all_cells(library)
    for cell in cells:
        _check_connected(cell, tech_dir / "cells.yaml")
    inverter = next((cell for cell in cells if cell.name == "INV_X1"), None)
    if inverter is None:
        raise ConfigError(f"cells must include INV_X1, the yardstick of a corner, not only {', '.join(library.cells)} ({tech_dir / 'cells.yaml'})")
    written: list[Path] = []
    with ThreadPoolExecutor(workers) as pool, tqdm(total=len(cells) * len(corners), unit="cell", disable=not sys.stderr.isatty()) as bar:
        try:
            for corner in corners:
                circuit: dict[str, Any] = {"cache": store, "cards": cards, "process": processes[corner.process], "corner": corner}
                unit = run_step(measure_fo4, inverter=inverter, load_f=4 * library.characterization.load_unit_f, **circuit)
                bar.set_description(str(corner))
                waiting = {
                    pool.submit(run_step, characterize_cell, cell=c, sweep=sweep_for(c, library, unit.delay_s), shape=unit.shape, **circuit): c for c in cells
                }
                results: dict[str, CellData] = {}
                while waiting:
                    done, _ = wait(waiting, return_when=FIRST_COMPLETED)
                    for future in done:
                        cell = waiting.pop(future)
                        results[cell.name] = future.result()
                        bar.update()
                path = out_dir / liberty_name(technology, corner)
                header = (
                    f"{technology} at {corner.vdd_v:g} V, {corner.temperature_c:g} C, back bias {corner.back_bias_v:g} V. PREDICTIVE: own transistor cards, "
                    "not silicon-verified, not foundry data. Generated from cells.yaml with ngspice; regenerate with: make cells"
                )
                group = library_group(technology=technology, corner=corner, cells=cells, results=results, fo4_s=unit.delay_s)
                write_library(group, path, header)
                written.append(path)
                if not sys.stderr.isatty():
                    print(f"{path.name}: {len(results)} cells, FO4 {unit.delay_s * 1e12:.2f} ps", file=sys.stderr, flush=True)
        except BaseException:
            pool.shutdown(wait=False, cancel_futures=True)
            raise
    return written


class _Flavours(RootModel[dict[str, ProcessShift]]):
    """The file `flavours.yaml`."""


def _flavoured(library: CellLibrary, tech_dir: Path, flavour: str) -> dict[str, ProcessShift]:
    """The processes with the shift of `flavour` added."""
    path = tech_dir / "flavours.yaml"
    known = parse(_Flavours, read_yaml(path), str(path)).root  # type: ignore[type-var]  # a mapping of settings; parse needs no more of it
    if flavour not in known:
        raise ConfigError(f"flavour must be one of {', '.join(sorted(known))}, not {flavour!r} ({path})")
    shift = known[flavour]
    return {
        name: ProcessShift(
            threshold_v=process.threshold_v + shift.threshold_v, mobility=process.mobility * shift.mobility, source=f"{name} and {flavour}"
        )
        for name, process in library.processes.items()
    }


def _check_connected(cell: Cell, path: Path) -> None:
    """Raise `ConfigError` for a node that nothing drives, an output that is no node, or an input that drives nothing."""
    driven = {*cell.inputs, *cell.nodes, "VDD", "VSS"}
    gates = {t.gate for t in cell.transistors}
    floating = sorted(gates - driven) + [name for name in cell.outputs if name not in cell.nodes]
    if floating:
        raise ConfigError(f"every node of a cell must be driven, not {floating[0]} float (cell {cell.name}, {path})")
    unused = [name for name in cell.inputs if name not in gates]
    if unused:
        raise ConfigError(f"every input of a cell must drive a transistor, not {unused[0]} none (cell {cell.name}, {path})")
