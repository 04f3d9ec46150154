"""Figures of memory macros (black boxes with one read and one write port), and their Liberty for timing.

The laws are in `sram_figures`, the constants in the technology's `sram.yaml`, each with its source. Delay and
leakage follow the technology's own inverter at the supply of the memory (`Yardstick`), so they move with the
corner; nothing is extrapolated beyond the technology's corners, nor below the lowest supply at which a cell
still works: there the memory needs a rail of its own, `sram_vdd_v`.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Literal

import numpy as np
from pydantic import Field
from scipy.interpolate import PchipInterpolator

from flow.corner import Corner
from flow.liberty import Library, read_library
from flow.liberty_text import Attribute, Group, write_library
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

    quantity: Literal["read_energy_j", "area_um2"]
    words: int
    bits: int
    vdd_v: float
    value: float
    held_out: bool
    source: Text


class SramTechnology(Settings):
    """Constants of the laws in `sram_figures`; capacitances in F, areas in um2, delays in FO4, leakage in inverters."""

    provisional: bool
    description: Text
    vdd_min_v: Constant
    vdd_max_v: Constant
    cell_area_um2: Constant
    column_area_um2: Constant
    row_area_um2: Constant
    column_capacitance_f: Constant
    cell_capacitance_f: Constant
    write_to_read: Constant
    decode_fo4: Constant
    bitline_fo4: Constant
    cell_headroom_v: Constant
    rows_max: Constant
    margin: Constant
    cycle_to_access: Constant
    setup_fo4: Constant
    hold_fo4: Constant
    cell_leakage: Constant
    periphery_leakage: Constant
    input_inverters: Constant
    output_drive: Constant
    points: Annotated[tuple[PublishedPoint, ...], Field(strict=False)] = ()


@dataclass(frozen=True, kw_only=True)
class SramMacro:
    """A macro of `words` x `bits`, named as in the RTL (`hw.sram`)."""

    words: int
    bits: int

    def __post_init__(self) -> None:
        if self.words < 2 or self.bits < 1:
            raise ConfigError(f"a memory must have at least 2 words of 1 bit, not {self.words} x {self.bits}")

    @property
    def module_name(self) -> str:
        return f"sram_1r1w_{self.words}x{self.bits}"

    @property
    def address_bits(self) -> int:
        return (self.words - 1).bit_length()


@dataclass(frozen=True, kw_only=True)
class SramFigures:
    """A macro at a corner. Energies are per access of a whole word; access and cycle are of a read; `provisional` marks estimates."""

    macro: SramMacro
    corner: Corner
    access_s: float
    setup_s: float
    hold_s: float
    cycle_s: float
    read_energy_j: float
    write_energy_j: float
    leakage_w: float
    area_um2: float
    input_capacitance_f: float
    output_resistance_ohm: float
    provisional: bool


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


def library_fo4_s(library: Library, inverter: str) -> float:
    """FO4 delay from a library's tables: mean of both edges with four inverters as load and no wire, at the slew it sustains itself."""
    cell = library.cells.get(inverter)
    if cell is None:
        raise ConfigError(f"inverter must be a cell of its library, not {inverter!r} ({library.source})")
    load_f = 4 * next(p.capacitance_f for p in cell.pins.values() if p.direction == "input")
    arc = next(arc for p in cell.pins.values() if p.direction == "output" for arc in p.timing)
    slew_rise_s = slew_fall_s = float(arc.delay_rise_s.points[0][1])
    for _ in range(30):
        # A falling input, as steep as this inverter's own falling output, makes a rising output.
        slew_rise_s, slew_fall_s = (
            float(arc.transition_rise_s.at(slew_s=slew_fall_s, load_f=load_f)),
            float(arc.transition_fall_s.at(slew_s=slew_rise_s, load_f=load_f)),
        )
    return float(arc.delay_rise_s.at(slew_s=slew_fall_s, load_f=load_f) + arc.delay_fall_s.at(slew_s=slew_rise_s, load_f=load_f)) / 2


def yardstick(technology: Technology, corner: Corner) -> Yardstick:
    """The inverter of `technology` at all supplies of the corner's process, temperature and back bias."""
    alike = [c for c in technology.corners if (c.process, c.temperature_c, c.back_bias_v) == (corner.process, corner.temperature_c, corner.back_bias_v)]
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
    """The constants in the YAML file at `path`, such as flow/tech/fdsoi28p/sram.yaml."""
    return load(SramTechnology, path)


def area_um2(macro: SramMacro, tech: SramTechnology) -> float:
    """cell_area x bits x words + column_area x bits + row_area x words."""
    words, bits = macro.words, macro.bits
    return tech.cell_area_um2.value * bits * words + tech.column_area_um2.value * bits + tech.row_area_um2.value * words


def read_energy_j(macro: SramMacro, tech: SramTechnology, vdd_v: float) -> float:
    """vdd^2 x (column_capacitance x bits + cell_capacitance x bits x words)."""
    return vdd_v**2 * macro.bits * (tech.column_capacitance_f.value + tech.cell_capacitance_f.value * macro.words)


def sram_figures(macro: SramMacro, *, tech: SramTechnology, inverter: Yardstick, corner: Corner) -> SramFigures:
    """The figures of `macro` with its supply at `corner.sram_vdd_v`; raises `ConfigError` where the memory does not work.

    Access = margin x [decode x log2(words) x FO4(V) + bitline x min(words, rows_max) x FO4(V - cell_headroom)]: the second
    term is the bit line discharged by a stacked pair in the cell, which has less gate overdrive than logic.
    """
    vdd_v = corner.sram_vdd_v
    if not tech.vdd_min_v.value - 1e-9 <= vdd_v <= tech.vdd_max_v.value + 1e-9:
        raise ConfigError(
            f"sram_vdd_v must be {tech.vdd_min_v.value:g} to {tech.vdd_max_v.value:g} V for the memory cells to work, not {vdd_v:g} V ({corner}); "
            "give the memories a supply of their own"
        )
    fo4_s = inverter.fo4_at(vdd_v)
    rows = min(macro.words, tech.rows_max.value)
    cell_fo4_s = inverter.fo4_at(vdd_v - tech.cell_headroom_v.value)
    access_s = tech.margin.value * (tech.decode_fo4.value * math.log2(macro.words) * fo4_s + tech.bitline_fo4.value * rows * cell_fo4_s)
    energy_j = read_energy_j(macro, tech, vdd_v)
    total_um2, cells = area_um2(macro, tech), macro.words * macro.bits
    periphery = (total_um2 - tech.cell_area_um2.value * cells) / inverter.area_um2
    # Of an inverter's FO4 delay one fifth is its own parasitic, four fifths its resistance into four inputs, at 0.69 RC.
    resistance_ohm = 0.8 * fo4_s / (0.69 * 4 * inverter.input_capacitance_f) / tech.output_drive.value
    return SramFigures(
        macro=macro,
        corner=corner,
        access_s=access_s,
        setup_s=tech.setup_fo4.value * fo4_s,
        hold_s=tech.hold_fo4.value * fo4_s,
        cycle_s=tech.cycle_to_access.value * access_s,
        read_energy_j=energy_j,
        write_energy_j=tech.write_to_read.value * energy_j,
        leakage_w=(tech.cell_leakage.value * cells + tech.periphery_leakage.value * periphery) * inverter.leakage_at(vdd_v),
        area_um2=total_um2,
        input_capacitance_f=tech.input_inverters.value * inverter.input_capacitance_f,
        output_resistance_ohm=resistance_ohm,
        provisional=tech.provisional,
    )


# --- Liberty ------------------------------------------------------------------------------------

_PS, _FF, _FJ, _NW = 1e-12, 1e-15, 1e-15, 1e-9
_LOADS_F = tuple(x * 1e-15 for x in (0.5, 5.0, 20.0, 60.0))


def _simple(**values: object) -> list[Attribute]:
    return [Attribute(name=n, values=(f"{v:.6g}" if isinstance(v, float) else str(v),)) for n, v in values.items()]


def _list(name: str, values: Sequence[float]) -> Attribute:
    return Attribute(name=name, values=(", ".join(f"{v:.6g}" for v in values),), is_complex=True)


def _scalar(kind: str, value: float) -> Group:
    return Group(kind=kind, args=("scalar",), body=[_list("values", [value])])


def _cell(f: SramFigures) -> Group:
    macro = f.macro

    def port(name: str, bits: int | None, *body: Attribute | Group) -> Group:
        if bits is None:
            return Group(kind="pin", args=(name,), body=list(body))
        return Group(kind="bus", args=(name,), body=[*_simple(bus_type=f"bits_{bits}"), *body])

    def given(name: str, bits: int | None) -> Group:
        checks = [
            Group(
                kind="timing",
                body=[*_simple(related_pin="clk", timing_type=kind), _scalar("rise_constraint", time / _PS), _scalar("fall_constraint", time / _PS)],
            )
            for kind, time in (("setup_rising", f.setup_s), ("hold_rising", f.hold_s))
        ]
        return port(name, bits, *_simple(direction="input", capacitance=f.input_capacitance_f / _FF), *checks)

    def energy(when: str, joule: float) -> Group:
        return Group(kind="internal_power", body=[*_simple(when=when), _scalar("rise_power", joule / _FJ), _scalar("fall_power", 0.0)])

    delays = [(f.access_s + 0.69 * f.output_resistance_ohm * load) / _PS for load in _LOADS_F]
    # From 20 to 80 % of an exponential: ln 4 time constants.
    slews = [math.log(4) * f.output_resistance_ohm * load / _PS for load in _LOADS_F]
    launch = Group(
        kind="timing",
        body=[
            *_simple(related_pin="clk", timing_type="rising_edge", timing_sense="non_unate"),
            *(
                Group(kind=kind, args=("by_load",), body=[_list("values", values)])
                for kind, values in (("cell_rise", delays), ("rise_transition", slews), ("cell_fall", delays), ("fall_transition", slews))
            ),
        ],
    )
    clock = port(
        "clk",
        None,
        *_simple(direction="input", clock="true", capacitance=f.input_capacitance_f / _FF, min_period=f.cycle_s / _PS),
        energy("read_en & !write_en", f.read_energy_j),
        energy("!read_en & write_en", f.write_energy_j),
        energy("read_en & write_en", f.read_energy_j + f.write_energy_j),
    )
    body = [
        *_simple(area=f.area_um2, cell_leakage_power=f.leakage_w / _NW, interface_timing="true"),
        clock,
        given("read_en", None),
        given("read_addr", macro.address_bits),
        port("read_data", macro.bits, *_simple(direction="output", max_capacitance=_LOADS_F[-1] / _FF), launch),
        given("write_en", None),
        given("write_addr", macro.address_bits),
        given("write_data", macro.bits),
    ]
    return Group(kind="cell", args=(macro.module_name,), body=body)


def write_sram_liberty(figures: Sequence[SramFigures], path: Path) -> None:
    """One Liberty file with all `figures`, which must share a corner; its voltage is that of the memory's supply."""
    if not figures or len({f.corner for f in figures}) != 1:
        raise ConfigError(f"memories in one Liberty file must be at one corner, not at {sorted({str(f.corner) for f in figures})}")
    corner = figures[0].corner
    vdd_v, temperature_c = float(corner.sram_vdd_v), float(corner.temperature_c)
    widths = sorted({width for f in figures for width in (f.macro.bits, f.macro.address_bits)})
    types = [
        Group(
            kind="type",
            args=(f"bits_{width}",),
            body=_simple(base_type="array", data_type="bit", bit_width=width, bit_from=width - 1, bit_to=0, downto="true"),
        )
        for width in widths
    ]
    by_load = [*_simple(variable_1="total_output_net_capacitance"), _list("index_1", [load / _FF for load in _LOADS_F])]
    lower, upper = 20.0, 80.0
    library = Group(
        kind="library",
        args=("sram_1r1w",),
        body=[
            *_simple(delay_model="table_lookup", time_unit="1ps", voltage_unit="1V", current_unit="1uA", leakage_power_unit="1nW"),
            *_simple(pulling_resistance_unit="1kohm"),
            Attribute(name="capacitive_load_unit", values=("1", "ff"), is_complex=True),
            *_simple(nom_process=1.0, nom_voltage=vdd_v, nom_temperature=temperature_c),
            *_simple(input_threshold_pct_rise=50.0, input_threshold_pct_fall=50.0, output_threshold_pct_rise=50.0, output_threshold_pct_fall=50.0),
            *_simple(slew_lower_threshold_pct_rise=lower, slew_lower_threshold_pct_fall=lower),
            *_simple(slew_upper_threshold_pct_rise=upper, slew_upper_threshold_pct_fall=upper),
            Group(kind="operating_conditions", args=("memory",), body=_simple(process=1.0, voltage=vdd_v, temperature=temperature_c)),
            *_simple(default_operating_conditions="memory"),
            Group(kind="lu_table_template", args=("by_load",), body=by_load),
            *types,
            *(_cell(f) for f in figures),
        ],
    )
    note = "provisional figures, not simulated" if any(f.provisional for f in figures) else "calibrated figures"
    write_library(library, path, f"memory macros at {corner}: {note}")
