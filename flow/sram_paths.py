"""Simulated memory paths over array sizes and corners: `python -m flow.sram_paths` fills the table that `flow.sram` reads.

Five arrays a corner and kind of cell are simulated: three numbers of rows at one number of columns, and the other way. A path of
another size is the sum of what its rows and what its columns add, each interpolated; over the supply logarithms are interpolated.
"""

import io
import os
from collections.abc import Sequence
from dataclasses import asdict, dataclass, fields
from functools import cached_property
from pathlib import Path
from typing import Annotated, get_args

import click
import numpy as np
import pandas as pd
from pydantic import Field
from scipy.interpolate import PchipInterpolator

from flow import corner as corner_module
from flow.cache import run_step, step
from flow.cells import fo4, netlist, spice, sram_path
from flow.cells.netlist import Cell, ProcessShift, all_cells, load_cell_library
from flow.cells.sram_path import ArrayPath, BitCell, Ports, Setup, simulate_path
from flow.cells.steps import measure_fo4
from flow.corner import Corner
from flow.sram_macro import COLUMNS_MAX, ROWS_MAX
from hw.errors import ConfigError
from hw.settings import Settings, load

ROWS, COLUMNS = (16, 64, ROWS_MAX), (16, 128, COLUMNS_MAX)
_MIDDLE = (64, 128)
SIZES = tuple(dict.fromkeys([(r, _MIDDLE[1]) for r in ROWS] + [(_MIDDLE[0], c) for c in COLUMNS]))
_KEYS = ("process", "temperature_c", "back_bias_v", "ports", "vdd_v", "rows", "columns")
_VALUES = tuple(field.name for field in fields(ArrayPath) if field.name not in _KEYS)


class BitCells(Settings):
    """The file `bitcells.yaml`: the cell with one port and the one with a read and a write port, and the corners to simulate."""

    one_port: BitCell
    two_ports: BitCell
    grid: Annotated[tuple[netlist.Grid, ...], Field(strict=False, min_length=1)]

    def of(self, ports: Ports) -> BitCell:
        return self.one_port if ports == 1 else self.two_ports


@step(version=1, tools=("ngspice",), modules=(sram_path, fo4, netlist, spice, corner_module))
def _simulate(
    folder: Path, *, cells: tuple[Cell, ...], cards: Path, process: ProcessShift, corner: Corner, bit_cell: BitCell, ports: Ports, fo4_s: float, rows: int,
    columns: int,
) -> ArrayPath:  # fmt: skip
    setup = Setup(
        cells={c.name: c for c in cells}, cards=cards, process=process, corner=corner, bit_cell=bit_cell, ports=ports, fo4_s=fo4_s, folder=folder
    )
    return simulate_path(setup, rows=rows, columns=columns)


def measure_paths(
    tech_dir: Path, corners: Sequence[Corner] | None = None, *, cache: Path = Path("build/cells"), sizes: Sequence[tuple[int, int]] = SIZES
) -> pd.DataFrame:
    """One row per corner, kind of cell and array size (rows, columns); what is in `cache` is not simulated again.

    Raises `ToolError` where a cell does not work.
    """
    library = load_cell_library(tech_dir)
    bit_cells = load(BitCells, tech_dir / "bitcells.yaml")
    cells = {cell.name: cell for cell in all_cells(library)}
    used = tuple(cells[name] for name in sram_path.PATH_CELLS)
    store = cache / tech_dir.name
    rows = []
    for corner in corners or tuple(dict.fromkeys(c for grid in bit_cells.grid for c in grid.corners())):
        cards, process = tech_dir / library.transistors.cards, library.processes[corner.process]
        unit = run_step(
            measure_fo4, cache=store, inverter=cells["INV_X1"], load_f=4 * library.characterization.load_unit_f, cards=cards, process=process, corner=corner
        )  # fmt: skip
        for ports in get_args(Ports):
            for r, c in sizes:
                path = run_step(
                    _simulate, cache=store, cells=used, cards=cards, process=process, corner=corner, bit_cell=bit_cells.of(ports), ports=ports,
                    fo4_s=unit.delay_s, rows=r, columns=c,
                )  # fmt: skip
                rows.append({name: getattr(corner, name) for name in ("process", "temperature_c", "back_bias_v", "vdd_v")} | {"ports": ports} | asdict(path))
        click.echo(f"memory paths at {corner}", err=True)
    return pd.DataFrame(rows)[[*_KEYS, *_VALUES]].sort_values(list(_KEYS))


@dataclass(frozen=True)
class Paths:
    """The table of simulated paths."""

    frame: pd.DataFrame

    @cached_property
    def _groups(self) -> dict[tuple, pd.DataFrame]:
        return {key: group for key, group in self.frame.groupby(["process", "temperature_c", "back_bias_v", "ports"])}

    def at(self, corner: Corner, *, ports: Ports, rows: int, columns: int) -> ArrayPath:
        """The path at the memory's supply of `corner`. Raises `ConfigError` outside what was simulated."""
        key = (corner.process, corner.temperature_c, corner.back_bias_v, ports)
        group = self._groups.get(key)
        if group is None:
            known = ", ".join(f"{p} {t:g} C {b:+g} V" for p, t, b in sorted({k[:3] for k in self._groups}))
            raise ConfigError(f"memory paths must be simulated at the corner's process, temperature and bias: {known}, not {corner}")
        supplies = np.unique(group["vdd_v"])
        if not supplies[0] - 1e-9 <= corner.sram_vdd_v <= supplies[-1] + 1e-9:
            raise ConfigError(
                f"sram_vdd_v must be within the simulated {supplies[0]:g} to {supplies[-1]:g} V, not {corner.sram_vdd_v:g} V ({corner})"
            )
        if not (1 <= rows <= ROWS[-1] and 1 <= columns <= COLUMNS[-1]):
            raise ConfigError(f"an array must have up to {ROWS[-1]} rows and {COLUMNS[-1]} columns, not {rows} x {columns}; divide it into banks")
        found = {}
        for name in _VALUES:
            logs = [np.log(self._of_size(group[group["vdd_v"] == vdd], name, rows, columns)) for vdd in supplies]
            x = np.clip(corner.sram_vdd_v, supplies[0], supplies[-1])
            found[name] = float(np.exp(PchipInterpolator(supplies, logs)(x)))
        return ArrayPath(rows=rows, columns=columns, **found)

    @staticmethod
    def _of_size(here: pd.DataFrame, name: str, rows: int, columns: int) -> float:
        value = {(r, c): v for r, c, v in zip(here["rows"], here["columns"], here[name], strict=True)}

        def linear(x: int, points: Sequence[int], values: Sequence[float]) -> float:
            """Linear between the points and beyond the first."""
            i = int(np.clip(np.searchsorted(points, x) - 1, 0, len(points) - 2))
            return values[i] + (values[i + 1] - values[i]) * (x - points[i]) / (points[i + 1] - points[i])

        by_rows = linear(rows, ROWS, [value[r, _MIDDLE[1]] for r in ROWS])
        by_columns = linear(columns, COLUMNS, [value[_MIDDLE[0], c] for c in COLUMNS])
        return by_rows + by_columns - value[_MIDDLE]


def parse_paths(text: str) -> Paths:
    """The table in `text`, with commas; raises `ConfigError` if it is not one."""
    try:
        frame = pd.read_csv(io.StringIO(text))
    except (pd.errors.ParserError, pd.errors.EmptyDataError) as error:
        raise ConfigError(f"memory paths must be a table, not unreadable ({error}); run python -m flow.sram_paths") from None
    if list(frame.columns) != [*_KEYS, *_VALUES] or frame.isna().any().any():
        raise ConfigError(f"memory paths must have the columns {', '.join((*_KEYS, *_VALUES))} in every row; run python -m flow.sram_paths")
    return Paths(frame)


_MARK = "\n# Generated by `python -m flow.sram_paths` from bitcells.yaml; do not edit.\npaths: |\n"


@click.command()
@click.option("--technology", default="fdsoi28p", show_default=True)
def main(technology: str) -> None:
    """Simulate the memory paths of a technology and write them into its sram.yaml."""
    tech_dir = Path(__file__).parent / "tech" / technology
    target = tech_dir / "sram.yaml"
    constants = target.read_text(encoding="utf-8").split(_MARK)[0]
    table = measure_paths(tech_dir).to_csv(index=False, float_format="%.4g", lineterminator="\n")
    scratch = target.with_name(f".{target.name}.{os.getpid()}")
    scratch.write_text(constants + _MARK + "".join(f"  {line}\n" for line in table.splitlines()), encoding="utf-8")
    scratch.replace(target)


if __name__ == "__main__":
    main()
