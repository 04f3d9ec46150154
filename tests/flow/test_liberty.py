"""Liberty reader and writer: units and dialects on small own files, broken files, and open PDK data where it is present."""

import gzip
from pathlib import Path

import numpy as np
import pytest

from flow.liberty import fo4_s, read_library
from flow.liberty_text import Attribute, Group, library_text, parse_text, write_library
from hw.errors import ConfigError, ModelError

PDK = Path(__file__).resolve().parents[2].parent / "shared" / "pdk"

# ps, fF, pW; slews 20/80; a flop whose only output is inverted; numbers over several lines.
PICO = """
/* a comment { with a brace */
library (pico) {
  time_unit : "1ps"; voltage_unit : "1V"; leakage_power_unit : "1pW"; capacitive_load_unit (1,ff);
  nom_voltage : 0.7; nom_temperature : 25; nom_process : 1;
  slew_lower_threshold_pct_rise : 20; slew_upper_threshold_pct_rise : 80; slew_derate_from_library : 0.5;
  operating_conditions (typical) { process : 1; temperature : 30; voltage : 0.7; }
  default_operating_conditions : typical;
  lu_table_template (delay_2x3) {
    variable_1 : input_net_transition; variable_2 : total_output_net_capacitance;
    index_1 ("5, 10"); index_2 ("1, 2, 4");
  }
  lu_table_template (setup_2x2) {
    variable_1 : related_pin_transition; variable_2 : constrained_pin_transition;
    index_1 ("5, 10"); index_2 ("20, 40");
  }
  power_lut_template (passive_2) { variable_1 : input_transition_time; index_1 ("5, 10"); }
  cell (INV) {
    area : 0.5
    leakage_power () { value : 40; when : "A"; related_pg_pin : VDD; }
    leakage_power () { value : 2; when : "A"; related_pg_pin : VSS; }
    leakage_power () { value : 60; when : "!A"; related_pg_pin : VDD; }
    leakage_power () { value : 4; when : "!A"; related_pg_pin : VSS; }
    pin (A) { direction : input; capacitance : 0.6; rise_capacitance : 0.7; fall_capacitance : 0.5; max_transition : 320; }
    pin (Y) {
      direction : output; function : "!A"; max_capacitance : 46;
      timing () {
        related_pin : "A"; timing_sense : negative_unate;
        cell_rise (delay_2x3) { values ( \\
          "1, 2, 4", \\
          "3, 4, 6" \\
        ); }
        rise_transition (delay_2x3) { index_2 ("1, 2, 8"); values ("1,2,3", "4,5,6"); }
      }
      internal_power () {
        related_pin : "A"; related_pg_pin : VDD;
        rise_power (delay_2x3) { values ("0.1,0.1,0.1", "0.2,0.2,0.2"); }
        fall_power (scalar) { values ("-0.02"); }
      }
    }
  }
  cell ("DFFN") {
    area : 2; dont_use : true; cell_leakage_power : 7;
    ff (IQN, IQNN) { clocked_on : "CLK"; next_state : "!D"; }
    pin ("CLK") { clock : true; direction : input; capacitance : 0.5; internal_power () { rise_power (passive_2) { values ("0.5, 0.6"); } } }
    pin ("D") {
      direction : input; capacitance : 0.5;
      timing () { related_pin : "CLK"; timing_type : setup_rising; rise_constraint (setup_2x2) { values ("1, 2", "3, 4"); } }
    }
    pin (QN) { direction : output; function : "IQN"; timing () { related_pin : "CLK"; timing_type : rising_edge; } }
    bundle (X) { members (a, b); direction : input; }
  }
  cell (GATE) {
    clock_gating_integrated_cell : "latch_posedge";
    statetable ("CLK E", "M") { table : "L L : - : L , L H : - : H , H - : - : N"; }
    pin (CLK) { direction : input; clock : true; clock_gate_clock_pin : true; }
    pin (E) { direction : input; clock_gate_enable_pin : true; }
    pin (GCLK) { direction : output; state_function : "CLK & M"; clock_gate_out_pin : true; }
  }
}
"""

# ns, pF, nW; quoted names and bare values; slews 10/90; both flop outputs.
NANO = """
library("nano") {
 time_unit : "1ns" ;
 voltage_unit : "1V" ;
 leakage_power_unit : "1nW" ;
 capacitive_load_unit ( 1.0, "pf" ) ;
 nom_process : 1.0 ; nom_voltage : 1.8 ; nom_temperature : -40.0 ;
 slew_lower_threshold_pct_rise : 10.0; slew_upper_threshold_pct_rise : 90.0;
 lu_table_template("t") { variable_1 : "total_output_net_capacitance"; variable_2 : "input_net_transition"; index_1("0.001, 0.002"); index_2("0.01, 0.02"); }
 cell("DFF") {
  area : 20.0 ; cell_leakage_power : 0.008 ;
  ff("IQ","IQ_N") { clocked_on : "!CLK_N" ; next_state : "D" ; clear : "!RESET_B" ; }
  pin("Q") { direction : "output"; function : "IQ";
    timing() { related_pin : "CLK_N"; timing_type : "falling_edge"; cell_rise("t") { values("0.1, 0.2", "0.3, 0.4"); } }
    internal_power() { related_pin : "CLK_N RESET_B"; power("t") { values("0.001, 0.002", "0.003, 0.004"); } } }
  pin("Q_N") { direction : "output"; function : "IQ_N"; }
 }
}
"""


def read(tmp_path: Path, text: str, name: str = "x.lib"):
    path = tmp_path / name
    data = text.encode()
    path.write_bytes(gzip.compress(data) if name.endswith(".gz") else data)
    return read_library(path)


def test_units_become_si_in_a_ps_ff_pw_library(tmp_path):
    library = read(tmp_path, PICO)
    assert (library.name, library.vdd_v, library.temperature_c, library.operating_conditions) == ("pico", 0.7, 30.0, "typical")
    assert (library.slew_lower, library.slew_upper, library.slew_derate) == (0.2, 0.8, 0.5)
    inv = library.cells["INV"]
    assert inv.area_um2 == 0.5
    assert inv.pins["A"].capacitance_f == pytest.approx(0.6e-15)
    assert (inv.pins["A"].rise_capacitance_f, inv.pins["A"].fall_capacitance_f) == pytest.approx((0.7e-15, 0.5e-15))
    assert inv.pins["A"].max_transition_s == pytest.approx(320e-12)
    assert inv.pins["Y"].max_capacitance_f == pytest.approx(46e-15)
    arc = inv.pins["Y"].timing[0]
    assert (arc.related_pins, arc.sense, arc.timing_type) == (("A",), "negative_unate", "combinational")
    assert arc.delay_rise_s.axes == ("slew_s", "load_f")
    np.testing.assert_allclose(arc.delay_rise_s.points[0], [5e-12, 10e-12])
    np.testing.assert_allclose(arc.delay_rise_s.points[1], [1e-15, 2e-15, 4e-15])
    np.testing.assert_allclose(arc.delay_rise_s.values, np.array([[1, 2, 4], [3, 4, 6]]) * 1e-12)
    np.testing.assert_allclose(arc.transition_rise_s.points[1], [1e-15, 2e-15, 8e-15])
    power = inv.pins["Y"].internal_power[0]
    assert (power.related_pins, power.pg_pin) == (("A",), "VDD")
    np.testing.assert_allclose(power.rise_j.values, np.array([[0.1] * 3, [0.2] * 3]) * 1e-15)
    assert power.fall_j.axes == () and power.fall_j.values == pytest.approx(-0.02e-15)


def test_leakage_is_summed_over_rails_and_averaged_over_states(tmp_path):
    inv = read(tmp_path, PICO).cells["INV"]
    assert [(s.when, s.pg_pin) for s in inv.leakage] == [("A", "VDD"), ("A", "VSS"), ("!A", "VDD"), ("!A", "VSS")]
    assert inv.leakage_w == pytest.approx((42 + 64) / 2 * 1e-12)
    assert read(tmp_path, PICO).cells["DFFN"].leakage_w == pytest.approx(7e-12)


def test_flop_with_inverted_output_clock_gate_and_constraints(tmp_path):
    library = read(tmp_path, PICO)
    flop = library.cells["DFFN"]
    assert flop.dont_use and not library.cells["INV"].dont_use
    assert flop.sequential[0].kind == "ff" and flop.sequential[0].clocked_on == "CLK"
    assert flop.inverted_outputs() == ("QN",)
    assert flop.pins["CLK"].is_clock and not flop.pins["D"].is_clock
    setup = flop.pins["D"].timing[0]
    assert setup.timing_type == "setup_rising" and setup.constraint_rise_s.axes == ("related_slew_s", "constrained_slew_s")
    assert setup.constraint_rise_s.values[1, 0] == pytest.approx(3e-12)
    assert flop.pins["CLK"].internal_power[0].rise_j.axes == ("slew_s",)
    gate = library.cells["GATE"]
    assert gate.clock_gate == "latch_posedge"
    assert {p.clock_gate_role for p in gate.pins.values()} == {"clock", "enable", "out"}


def test_units_become_si_in_an_ns_pf_nw_library_read_compressed(tmp_path):
    library = read(tmp_path, NANO, "nano.lib.gz")
    assert (library.vdd_v, library.temperature_c, library.slew_lower) == (1.8, -40.0, 0.1)
    flop = library.cells["DFF"]
    assert flop.leakage_w == pytest.approx(8e-12)
    assert flop.sequential[0].clear == "!RESET_B"
    assert flop.inverted_outputs() == ("Q_N",)
    arc = flop.pins["Q"].timing[0]
    assert arc.delay_rise_s.axes == ("load_f", "slew_s")
    assert arc.delay_rise_s.at(load_f=1e-15, slew_s=20e-12) == pytest.approx(0.2e-9)
    power = flop.pins["Q"].internal_power[0]
    assert power.related_pins == ("CLK_N", "RESET_B")
    np.testing.assert_allclose(power.rise_j.values, [[1e-15, 2e-15], [3e-15, 4e-15]])
    assert power.fall_j is not None


def test_look_up_interpolates_and_refuses_to_leave_the_table(tmp_path):
    table = read(tmp_path, PICO).cells["INV"].pins["Y"].timing[0].delay_rise_s
    got = table.at(slew_s=np.array([5e-12, 7.5e-12, 10e-12]), load_f=np.array([3e-15, 1e-15, 4e-15]))
    np.testing.assert_allclose(got, np.array([3, 2, 6]) * 1e-12)
    with pytest.raises(ModelError, match="load_f must be within"):
        table.at(slew_s=5e-12, load_f=8e-15)
    assert table.at(slew_s=5e-12, load_f=8e-15, extrapolate=True) == pytest.approx(8e-12)


@pytest.mark.parametrize(
    "cut, rule",
    [
        (lambda t: t[: t.index("fall_power")], "closed with"),
        (lambda t: t[: t.index("0.2,0.2")], "must be an attribute, a group or"),
        (lambda t: t.replace("library (pico)", "cell (pico)"), "must be a library group"),
        (lambda t: t + "}", "at its end"),
        (lambda t: t.replace('"1,2,3", "4,5,6"', '"1,2,3", "4,5"'), "must hold 2x3 finite values, not 5"),
        (lambda t: t.replace('"1,2,3", "4,5,6"', '"1,2,3", "4,5,x"'), "must hold numbers only"),
        (lambda t: t.replace('index_1 ("5, 10"); index_2 ("1, 2, 4");', 'index_1 ("10, 5"); index_2 ("1, 2, 4");'), "must increase"),
        (lambda t: t.replace("cell_rise (delay_2x3)", "cell_rise (nowhere)"), "must use a template of this library, not 'nowhere'"),
        (lambda t: t.replace('time_unit : "1ps"', 'time_unit : "1 hour"'), "time_unit must be"),
        (lambda t: t.replace("area : 2;", "area : two;"), "area must be a number, not 'two'"),
        (lambda t: t.replace("nom_voltage : 0.7;", "").replace("voltage : 0.7;", ""), "must state its nom_voltage"),
        (lambda t: t.replace('cell ("DFFN")', 'cell ("INV")'), "cell INV must be defined once"),
        (lambda t: "", "must be a library group"),
    ],
)
def test_broken_file_is_refused_with_file_and_line(tmp_path, cut, rule):
    with pytest.raises(ConfigError, match=rule) as caught:
        read(tmp_path, cut(PICO))
    assert "x.lib, line " in str(caught.value)
    assert "\n" not in str(caught.value)


def test_error_names_the_right_line(tmp_path):
    text = PICO.replace("area : 2;", "area : two;")
    line = text[: text.index('cell ("DFFN")')].count("\n") + 1
    with pytest.raises(ConfigError, match=rf"line {line}\)"):
        read(tmp_path, text)


@pytest.mark.parametrize("damage", [lambda data: data[: len(data) // 2], lambda data: data[:60] + b"\0\0\0\0" + data[64:]])
def test_damaged_compressed_file_is_refused(tmp_path, damage):
    path = tmp_path / "cut.lib.gz"
    path.write_bytes(damage(gzip.compress(PICO.encode())))
    with pytest.raises(ConfigError, match="must be readable and complete, not .*cut.lib.gz"):
        read_library(path)


def test_absent_file_is_refused(tmp_path):
    with pytest.raises(ConfigError, match="No such file"):
        read_library(tmp_path / "none.lib")


def test_written_library_reads_back_the_same_and_bytes_repeat(tmp_path):
    tree = parse_text(PICO, "pico")
    again = parse_text(library_text(tree, "header"), "again")

    def plain(group: Group):
        return (group.kind, group.args, [(i.name, i.values) if isinstance(i, Attribute) else plain(i) for i in group.body])

    assert plain(again) == plain(tree)
    write_library(tree, tmp_path / "a.lib.gz", "header")
    first = (tmp_path / "a.lib.gz").read_bytes()
    write_library(tree, tmp_path / "a.lib.gz", "header")
    assert (tmp_path / "a.lib.gz").read_bytes() == first
    assert first[4:8] == bytes(4)  # no time stamp
    assert [p.name for p in tmp_path.iterdir()] == ["a.lib.gz"]
    assert read_library(tmp_path / "a.lib.gz").cells["INV"].leakage_w == pytest.approx(53e-12)


@pytest.mark.parametrize(
    "name, cells, vdd_v, temperature_c",
    [
        ("sky130_fd_sc_hd/sky130_fd_sc_hd__tt_025C_1v80.lib.gz", 428, 1.8, 25),
        ("sg13g2_stdcell/sg13g2_stdcell_slow_1p08V_125C.lib.gz", 84, 1.08, 125),
        ("asap7sc7p5t_28_rvt/asap7sc7p5t_SEQ_RVT_TT_nldm_220123.lib.gz", 33, 0.7, 25),
        ("asap7sc7p5t_28_rvt/asap7sc7p5t_SIMPLE_RVT_FF_nldm_250407.lib.gz", 56, 0.77, 0),
    ],
)
def test_open_pdk_files_read_whole(name, cells, vdd_v, temperature_c):
    if not (PDK / name).exists():
        pytest.skip(f"open PDK data {name} is not beside the project")
    library = read_library(PDK / name)
    assert (len(library.cells), library.vdd_v, library.temperature_c) == (cells, vdd_v, temperature_c)
    for cell in library.cells.values():
        for pin in cell.pins.values():
            assert 0 <= pin.capacitance_f < 1e-11
    if name.startswith("sky130"):
        flop = library.cells["sky130_fd_sc_hd__dfxtp_1"]
        clock = [p for p in flop.pins["CLK"].internal_power if p.when is None or p.when]
        energy = sum(float(p.rise_j.at(slew_s=0.05e-9) + p.fall_j.at(slew_s=0.05e-9)) for p in clock) / len(clock)
        assert energy == pytest.approx(40.7e-15, rel=0.03)
    if "SEQ" in name:
        assert library.cells["DFFHQNx1_ASAP7_75t_R"].inverted_outputs() == ("QN",)
        assert library.cells["DFFHQNx1_ASAP7_75t_R"].area_um2 == 0.2916


def test_fo4_wants_delays_and_transitions_of_both_edges(tmp_path):
    path = tmp_path / "pico.lib"
    path.write_text(PICO)
    with pytest.raises(ConfigError, match="inverter INV must have delays and transitions of both edges"):
        fo4_s(read_library(path), "INV")
