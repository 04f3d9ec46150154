"""Memory macros: the laws against hand calculations and published points, refusals, and timing through them in OpenSTA."""

import gzip
import math
import re
import shutil
from pathlib import Path

import numpy as np
import pytest
import yaml

from flow.corner import Corner
from flow.liberty import read_library
from flow.sram import (
    SramMacro,
    Yardstick,
    area_um2,
    library_fo4_s,
    load_sram_technology,
    read_energy_j,
    sram_figures,
    write_sram_liberty,
    yardstick,
)  # fmt: skip
from flow.tech import load_technology
from flow.tools import run_tool
from hw.errors import ConfigError
from hw.sram import Sram

PATH = Path(__file__).resolve().parents[2] / "flow" / "tech" / "fdsoi28p" / "sram.yaml"
TECH = load_sram_technology(PATH)
# A round yardstick for hand calculations: FO4 halves and leakage doubles every 0.1 V.
ROUND = Yardstick(
    vdd_v=(0.5, 0.6, 0.7, 0.8), fo4_s=(80e-12, 40e-12, 20e-12, 10e-12), leakage_w=(1e-10, 2e-10, 4e-10, 8e-10), input_capacitance_f=1e-15, area_um2=0.5
)


def corner(vdd_v: float, sram_vdd_v: float | None = None) -> Corner:
    return Corner(process="tt", vdd_v=vdd_v, temperature_c=25.0, back_bias_v=0.0, sram_vdd_v=vdd_v if sram_vdd_v is None else sram_vdd_v)


def figures(words: int, bits: int, where: Corner, inverter: Yardstick = ROUND):
    return sram_figures(SramMacro(words=words, bits=bits), tech=TECH, inverter=inverter, corner=where)


def test_figures_match_a_hand_calculation():
    f = figures(64, 32, corner(0.7))
    # 1.5 x (0.5 x 6 address bits x 20 ps + 0.0292 x 64 rows x 40 ps, the FO4 at 0.6 V)
    assert f.access_s == pytest.approx(1.5 * (0.5 * 6 * 20e-12 + 0.0292 * 64 * 40e-12), rel=1e-6)
    assert (f.setup_s, f.hold_s) == pytest.approx((60e-12, 20e-12), rel=1e-6)
    assert f.cycle_s == pytest.approx(1.25 * f.access_s)
    # 0.49 V2 x 32 bits x (10.5 fF + 64 x 0.051 fF) = 0.2158 pJ
    assert f.read_energy_j == pytest.approx(0.21582e-12, rel=1e-3)
    assert f.write_energy_j == pytest.approx(1.2 * f.read_energy_j)
    # 0.197 x 2048 + 25 x 32 + 3 x 64 = 1395.5; periphery 992 um2 is 1984 inverters
    assert f.area_um2 == pytest.approx(1395.456)
    assert f.leakage_w == pytest.approx((0.065 * 2048 + 0.3 * 1984) * 4e-10, rel=1e-6)
    assert f.provisional


def test_long_bit_lines_are_divided():
    short, long = figures(256, 8, corner(0.7)), figures(4096, 8, corner(0.7))
    assert long.access_s - short.access_s == pytest.approx(1.5 * 0.5 * 4 * 20e-12)


def test_laws_stay_within_the_stated_distance_of_published_points():
    """The points disagree among themselves by four times: each must be met within three, and on average within two."""
    ratios = []
    for p in TECH.points:
        macro = SramMacro(words=p.words, bits=p.bits)
        ours = area_um2(macro, TECH) if p.quantity == "area_um2" else read_energy_j(macro, TECH, p.vdd_v)
        ratios.append(ours / p.value)
        assert 1 / 3 < ratios[-1] < 3, p
    assert len(ratios) >= 9 and any(p.held_out for p in TECH.points)
    assert math.exp(np.mean(np.abs(np.log(ratios)))) < 2


def test_below_its_lowest_supply_a_memory_needs_a_rail_of_its_own():
    with pytest.raises(ConfigError, match=r"sram_vdd_v must be 0.6 to 1 V .*, not 0.5 V .*supply of their own"):
        figures(64, 32, corner(0.5))
    held_up = figures(64, 32, corner(0.5, 0.7))
    nominal = figures(64, 32, corner(0.7))
    assert (held_up.access_s, held_up.read_energy_j, held_up.leakage_w) == (nominal.access_s, nominal.read_energy_j, nominal.leakage_w)
    with pytest.raises(ConfigError, match="within the technology's corners, 0.5 to 0.8 V, not 0.95 V"):
        figures(64, 32, corner(0.8, 0.95))
    with pytest.raises(ConfigError, match="at least 2 words of 1 bit, not 1 x 8"):
        SramMacro(words=1, bits=8)


def test_every_constant_needs_a_source(tmp_path):
    data = yaml.safe_load(PATH.read_text())
    del data["margin"]["source"]
    (tmp_path / "sram.yaml").write_text(yaml.safe_dump(data))
    with pytest.raises(ConfigError, match="margin.source must be given"):
        load_sram_technology(tmp_path / "sram.yaml")


def test_yardstick_follows_the_technology_and_its_tables_agree_with_a_simulated_chain():
    technology = load_technology("fdsoi28p")
    found = yardstick(technology, corner(1.0))
    assert found.vdd_v == (0.5, 0.6, 0.7, 0.8, 0.9, 1.0)
    assert list(found.fo4_s) == sorted(found.fo4_s, reverse=True)
    for known, fo4_s in zip(technology.corners, found.fo4_s, strict=True):
        # The FO4 measured in ngspice stands in the library's comment.
        text = gzip.decompress(Path(known.liberty[0]).read_bytes()).decode()
        simulated_s = float(re.search(r"fo4_ps ([\d.]+)", text)[1]) * 1e-12
        assert fo4_s == pytest.approx(simulated_s, rel=0.07)
    between = found.fo4_at(0.65)
    assert found.fo4_s[2] < between < found.fo4_s[1]
    # Slower than logic at low voltage: a memory's access in FO4 grows as the supply falls.
    fast, slow = (figures(1024, 32, corner(v), found) for v in (1.0, 0.6))
    assert 1.2 < (slow.access_s / found.fo4_at(0.6)) / (fast.access_s / found.fo4_at(1.0)) < 3
    with pytest.raises(ConfigError, match="must have two supplies or more"):
        yardstick(technology, Corner(process="tt", vdd_v=1.0, temperature_c=125.0, back_bias_v=0.0, sram_vdd_v=1.0))


def test_fo4_from_tables_is_the_self_consistent_one(tmp_path):
    """Delay 2 + 3 slew + 1 load and transition 1 + 0.5 slew + 1 load, in ps over ps and fF: slew = 1 + 0.5 slew + 4 gives 10, delay 36."""
    table = 'index_1 ("0, 100"); index_2 ("0, 100");'
    lib = f"""library (x) {{ time_unit : "1ps"; capacitive_load_unit (1, ff); nom_voltage : 1; nom_temperature : 25; nom_process : 1;
 lu_table_template (t) {{ variable_1 : input_net_transition; variable_2 : total_output_net_capacitance; {table} }}
 cell (I) {{ area : 1; pin (A) {{ direction : input; capacitance : 1; }} pin (Y) {{ direction : output; function : "!A"; timing () {{ related_pin : "A";
  cell_rise (t) {{ values ("2, 102", "302, 402"); }} cell_fall (t) {{ values ("2, 102", "302, 402"); }}
  rise_transition (t) {{ values ("1, 101", "51, 151"); }} fall_transition (t) {{ values ("1, 101", "51, 151"); }} }} }} }} }}"""
    (tmp_path / "x.lib").write_text(lib)
    assert library_fo4_s(read_library(tmp_path / "x.lib"), "I") == pytest.approx(36e-12, rel=1e-6)
    with pytest.raises(ConfigError, match="inverter must be a cell of its library, not 'J'"):
        library_fo4_s(read_library(tmp_path / "x.lib"), "J")


def test_names_and_ports_are_those_of_the_rtl(tmp_path):
    rtl = Sram(words=48, bits=24)
    macro = SramMacro(words=48, bits=24)
    assert macro.module_name == rtl.module_name
    write_sram_liberty([sram_figures(macro, tech=TECH, inverter=ROUND, corner=corner(0.7))], tmp_path / "m.lib")
    text = (tmp_path / "m.lib").read_text()
    ports = {name: high for high, name in re.findall(r"(?:input|output)(?: wire| reg)? (?:\[(\d+):0\] )?(\w+)", rtl.verilog())}
    assert len(ports) == 7
    for name, high in ports.items():
        if high:
            assert re.search(rf"bus \({name}\) {{\s+bus_type : bits_{int(high) + 1};", text), name
        else:
            assert f"pin ({name})" in text
    cell = read_library(tmp_path / "m.lib").cells[macro.module_name]
    assert cell.area_um2 == pytest.approx(area_um2(macro, TECH), rel=1e-5) and cell.pins["clk"].is_clock
    assert [p.when for p in cell.pins["clk"].internal_power] == ["read_en & !write_en", "!read_en & write_en", "read_en & write_en"]
    with pytest.raises(ConfigError, match="must be at one corner"):
        write_sram_liberty([figures(64, 8, corner(0.7)), figures(64, 8, corner(0.6))], tmp_path / "n.lib")
    assert not (tmp_path / "n.lib").exists()


@pytest.mark.skipif(shutil.which("sta") is None, reason="OpenSTA is not installed")
def test_opensta_times_through_a_memory(tmp_path):
    first, second = figures(64, 4, corner(0.7)), figures(32, 4, corner(0.7))
    write_sram_liberty([first, second], tmp_path / "m.lib")
    (tmp_path / "top.v").write_text("""module top(clk, a, q); input clk; input [5:0] a; output [3:0] q; wire [3:0] d;
 sram_1r1w_64x4 m (.clk(clk), .read_en(a[0]), .read_addr(a), .read_data(d), .write_en(a[0]), .write_addr(a), .write_data(a[3:0]));
 sram_1r1w_32x4 n (.clk(clk), .read_en(a[0]), .read_addr(a[4:0]), .read_data(q), .write_en(a[0]), .write_addr(a[4:0]), .write_data(d));
endmodule
""")
    (tmp_path / "x.tcl").write_text("""read_liberty m.lib
read_verilog top.v
link_design top
create_clock -name clk -period 5000 [get_ports clk]
puts "SLACK [get_property [find_timing_paths -from [get_pins m/clk] -to [get_pins n/write_data[2]]] slack]"
report_checks -from [get_pins m/clk] -to [get_pins n/write_data[2]]
exit
""")
    output = run_tool(["sta", "-no_splash", "-exit", "x.tcl"], cwd=tmp_path, timeout_s=60, step="sta").output
    assert "Error" not in output and "Warning" not in output
    # Access into the other macro's input capacitance, then its setup time.
    expected_s = first.access_s + 0.69 * first.output_resistance_ohm * second.input_capacitance_f + second.setup_s
    assert float(output.split("SLACK ")[1].split()[0]) == pytest.approx(5000 - expected_s * 1e12, abs=0.5)
