"""Figures of memory macros: from simulated paths of their arrays, with the overheads that a macro adds calibrated to published points.

The simulated paths (`flow.sram_paths`) and the constants stand in the technology's `sram.yaml`, each with its source. The laws are in
`sram_figures`. Nothing is extrapolated beyond the supplies that were simulated, nor below the lowest at which a cell still works:
there the memory needs a rail of its own, `sram_vdd_v`, and level shifters at its inputs. `flow.latch_memory` needs neither.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from typing import Annotated, Literal

import numpy as np
from pydantic import Field, model_validator
from scipy.interpolate import PchipInterpolator

from flow.corner import Corner
from flow.liberty import fo4_s as library_fo4_s
from flow.liberty import read_library
from flow.sram_liberty import write_sram_liberty as write_sram_liberty
from flow.sram_macro import SramFigures, SramMacro
from flow.sram_paths import Paths, parse_paths
from flow.tech import Technology
from hw.errors import ConfigError
from hw.settings import Settings, load

Text = Annotated[str, Field(min_length=1)]


class Constant(Settings):
    """One number and where it comes from."""

    value: float = Field(ge=0)
    source: Text


class PublishedPoint(Settings):
    """A published figure of a macro of `words` x `bits` at `vdd_v`, to calibrate or to test the laws with."""

    quantity: Literal["read_energy_j", "write_energy_j", "area_um2", "access_s"]
    words: int
    bits: int
    ports: Literal[1, 2]
    vdd_v: float
    value: float
    held_out: bool
    source: Text


class SramTechnology(Settings):
    """Constants of the laws in `sram_figures`; capacitances in F, areas in um2, delays in FO4, leakage in inverters. `paths` is the table
    of simulated paths, as text with commas."""

    provisional: bool
    description: Text
    vdd_min_v: Constant
    vdd_max_v: Constant
    one_port_cell_area_um2: Constant
    cell_area_um2: Constant
    column_area_um2: Constant
    row_area_um2: Constant
    charge_factor: Constant
    margin: Constant
    interface_fo4: Constant
    bank_fo4: Constant
    bank_capacitance_f: Constant
    setup_fo4: Constant
    hold_fo4: Constant
    shifter_fo4: Constant
    shifter_capacitance_f: Constant
    shifter_area_um2: Constant
    periphery_leakage: Constant
    input_inverters: Constant
    output_drive: Constant
    points: Annotated[tuple[PublishedPoint, ...], Field(strict=False)] = ()
    paths: Text

    @model_validator(mode="after")
    def _paths_are_a_table(self) -> "SramTechnology":
        _paths(self.paths)
        return self

    @property
    def simulated(self) -> Paths:
        """The table of simulated paths."""
        return _paths(self.paths)


@lru_cache(maxsize=8)
def _paths(text: str) -> Paths:
    return parse_paths(text)


@dataclass(frozen=True, kw_only=True)
class Yardstick:
    """A technology's inverter against supply at one process, temperature and back bias: arrays over rising `vdd_v`."""

    vdd_v: tuple[float, ...]
    fo4_s: tuple[float, ...]
    leakage_w: tuple[float, ...]
    input_capacitance_f: float
    area_um2: float

    def fo4_at(self, vdd_v: float) -> float:
        """FO4 delay in s, its logarithm interpolated over the supply; raises `ConfigError` outside the corners."""
        return self._at(vdd_v, self.fo4_s)

    def leakage_at(self, vdd_v: float) -> float:
        """Mean leakage of the inverter in W, interpolated alike."""
        return self._at(vdd_v, self.leakage_w)

    def _at(self, vdd_v: float, values: Sequence[float]) -> float:
        if not self.vdd_v[0] - 1e-9 <= vdd_v <= self.vdd_v[-1] + 1e-9:
            raise ConfigError(
                f"supply of an SRAM figure must lie within the technology's corners, {self.vdd_v[0]:g} to {self.vdd_v[-1]:g} V, not {vdd_v:.4g} V"
            )
        return float(np.exp(PchipInterpolator(self.vdd_v, np.log(values))(np.clip(vdd_v, self.vdd_v[0], self.vdd_v[-1]))))


def yardstick(technology: Technology, corner: Corner) -> Yardstick:
    """The inverter of `technology` at all supplies of the corner's process, temperature and back bias."""
    alike = [c for c in technology.known_corners if (c.process, c.temperature_c, c.back_bias_v) == (corner.process, corner.temperature_c, corner.back_bias_v)]
    if len(alike) < 2:
        raise ConfigError(f"technology {technology.name} must have two supplies or more like {corner} to scale an SRAM, not {len(alike)}")
    found = []
    for known in sorted(alike, key=lambda c: c.vdd_v):
        library = next((lib for lib in map(read_library, known.liberty) if technology.cells.inverter in lib.cells), None)
        if library is None:
            raise ConfigError(
                f"inverter {technology.cells.inverter} must be in a Liberty file of technology {technology.name} at {known.vdd_v:g} V, not absent"
            )
        found.append((known.vdd_v, library_fo4_s(library, technology.cells.inverter), library.cells[technology.cells.inverter]))
    last = found[-1][2]
    return Yardstick(
        vdd_v=tuple(vdd for vdd, _, _ in found),
        fo4_s=tuple(fo4 for _, fo4, _ in found),
        leakage_w=tuple(cell.leakage_w for _, _, cell in found),
        input_capacitance_f=next(p.capacitance_f for p in last.pins.values() if p.direction == "input"),
        area_um2=last.area_um2,
    )


def load_sram_technology(path: Path) -> SramTechnology:
    """The constants and paths in the YAML file at `path`, such as flow/tech/fdsoi28p/sram.yaml."""
    return load(SramTechnology, path)


def area_um2(macro: SramMacro, tech: SramTechnology) -> float:
    """cell_area x bits x words + column_area x bits + row_area x words, without level shifters."""
    words, bits = macro.words, macro.bits
    cell = tech.cell_area_um2 if macro.ports == 2 else tech.one_port_cell_area_um2
    return cell.value * bits * words + tech.column_area_um2.value * bits + tech.row_area_um2.value * words


def access_energy_j(macro: SramMacro, tech: SramTechnology, corner: Corner) -> tuple[float, float]:
    """Energy of a read and of a write: charge_factor x charge of one bank's path x vdd + bank_capacitance x bits x (banks - 1) x vdd^2."""
    vdd_v = corner.sram_vdd_v
    path = tech.simulated.at(corner, ports=macro.ports, rows=macro.rows, columns=macro.columns)
    outside = vdd_v**2 * macro.bits * tech.bank_capacitance_f.value * (macro.banks - 1)
    read_c = path.row_c + macro.columns * path.column_c + macro.bits * path.sense_c
    # Columns beside the written ones are disturbed as in a read.
    write_c = path.row_c + macro.bits * path.written_c + (macro.columns - macro.bits) * path.column_c
    factor_v = tech.charge_factor.value * vdd_v
    return factor_v * read_c + outside, factor_v * write_c + outside


def sram_figures(macro: SramMacro, *, tech: SramTechnology, inverter: Yardstick, corner: Corner) -> SramFigures:
    """The figures of `macro` with its supply at `corner.sram_vdd_v`; raises `ConfigError` where the memory does not work.

    Access = margin x simulated access + (interface + bank x log2(banks)) x FO4. Where the memory's supply is above the logic's, every
    input passes a level shifter: its delay is in the setup time, at the logic's FO4.
    """
    vdd_v = corner.sram_vdd_v
    if not tech.vdd_min_v.value - 1e-9 <= vdd_v <= tech.vdd_max_v.value + 1e-9:
        raise ConfigError(
            f"sram_vdd_v must be {tech.vdd_min_v.value:g} to {tech.vdd_max_v.value:g} V for the memory cells to work, not {vdd_v:g} V ({corner}); "
            "give the memories a supply of their own"
        )
    if vdd_v < corner.vdd_v - 1e-9:
        raise ConfigError(f"sram_vdd_v must be at least the logic's supply, not {vdd_v:g} V ({corner}); shift levels down outside of the memory")
    fo4_s = inverter.fo4_at(vdd_v)
    path = tech.simulated.at(corner, ports=macro.ports, rows=macro.rows, columns=macro.columns)
    read_j, write_j = access_energy_j(macro, tech, corner)
    inputs = 1 + macro.address_bits
    shifted = vdd_v > corner.vdd_v + 1e-9
    shifters = macro.bits + macro.ports * inputs if shifted else 0
    # Half of the inputs change in an access; a shifter drives its input at the logic's supply and its output at the memory's.
    shift_j = tech.shifter_capacitance_f.value * (vdd_v**2 + corner.vdd_v**2) / 2 / 2 if shifted else 0.0
    shift_s = tech.shifter_fo4.value * inverter.fo4_at(corner.vdd_v) if shifted else 0.0
    total_um2 = area_um2(macro, tech) + shifters * tech.shifter_area_um2.value
    cells = macro.words * macro.bits
    cell_um2 = (tech.cell_area_um2 if macro.ports == 2 else tech.one_port_cell_area_um2).value
    periphery = (total_um2 - cell_um2 * cells) / inverter.area_um2
    # Of an inverter's FO4 delay one fifth is its own parasitic, four fifths its resistance into four inputs, at 0.69 RC.
    resistance_ohm = 0.8 * fo4_s / (0.69 * 4 * inverter.input_capacitance_f) / tech.output_drive.value
    return SramFigures(
        macro=macro,
        corner=corner,
        access_s=tech.margin.value * path.access_s + (tech.interface_fo4.value + tech.bank_fo4.value * math.log2(macro.banks)) * fo4_s,
        setup_s=tech.setup_fo4.value * fo4_s + shift_s,
        hold_s=tech.hold_fo4.value * fo4_s,
        cycle_s=tech.margin.value * max(path.cycle_s, path.write_s),
        read_energy_j=read_j + shift_j * inputs,
        write_energy_j=write_j + shift_j * (inputs + macro.bits),
        leakage_w=path.cell_leakage_a * vdd_v * cells + tech.periphery_leakage.value * periphery * inverter.leakage_at(vdd_v),
        area_um2=total_um2,
        input_capacitance_f=tech.input_inverters.value * inverter.input_capacitance_f,
        output_resistance_ohm=resistance_ohm,
        level_shifters=shifters,
        provisional=tech.provisional,
    )


def memory_corner(corner: Corner, tech: SramTechnology, rail: Literal["single", "dual"], *, held_v: float | None = None) -> Corner:
    """`corner` with the memories on the logic's supply (single), or held at `held_v` while the logic is below it (dual).

    Raises `ConfigError` where the memory does not work on a single rail, or would be held below its lowest supply.
    """
    if rail == "single":
        vdd_v = corner.vdd_v
    else:
        vdd_v = max(corner.vdd_v, tech.vdd_min_v.value if held_v is None else held_v)
    if vdd_v < tech.vdd_min_v.value - 1e-9:
        raise ConfigError(f"sram_vdd_v must be at least {tech.vdd_min_v.value:g} V for the memory cells to work, not {vdd_v:g} V; use a dual rail")
    return Corner(
        process=corner.process, vdd_v=corner.vdd_v, temperature_c=corner.temperature_c, back_bias_v=corner.back_bias_v, sram_vdd_v=vdd_v
    )
