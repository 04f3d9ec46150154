"""Liberty of memory macros: a black box for timing, with scalar figures."""

import math
from collections.abc import Sequence
from pathlib import Path

from flow.liberty_text import Attribute, Group, write_library
from flow.sram_macro import SramFigures
from hw.errors import ConfigError

_PS, _FF, _FJ, _NW = 1e-12, 1e-15, 1e-15, 1e-9
_LOADS_F = tuple(x * 1e-15 for x in (0.5, 5.0, 20.0, 60.0))


def _simple(**values: object) -> list[Attribute | Group]:
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
    body: list[Attribute | Group] = [
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
