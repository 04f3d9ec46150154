"""Liberty between characterized corners: known laws are recovered, structure and range are checked, and a held-out corner is met."""

import random
from pathlib import Path

import numpy as np
import pytest
from small_library import library_text, write_technology

from flow.cells.netlist import load_cell_library
from flow.corner import Corner
from flow.interpolate import CornerFile, interpolate
from flow.liberty import read_library
from flow.tech import liberty_files, load_technology
from hw.errors import ConfigError

TECH = Path(__file__).resolve().parents[2] / "flow" / "tech" / "fdsoi28p"


def corner(vdd_v: float, *, temperature_c: float = 25.0, back_bias_v: float = 0.0, process: str = "tt") -> Corner:
    return Corner(process=process, vdd_v=vdd_v, temperature_c=temperature_c, back_bias_v=back_bias_v, sram_vdd_v=vdd_v)


LAW = """library (x) {{ time_unit : "1ps"; capacitive_load_unit (1, ff); nom_voltage : {v}; nom_temperature : {t}; nom_process : 1; comment : "at {v}";
 lu_table_template (d) {{ variable_1 : input_net_transition; index_1 ("1, 2"); }}
 power_lut_template (e) {{ variable_1 : input_transition_time; index_1 ("1, 2"); }}
 operating_conditions ("c{v}") {{ process : 1; voltage : {v}; temperature : {t}; }} default_operating_conditions : "c{v}";
 cell (I) {{ area : 1; cell_leakage_power : {leak}; pin (A) {{ direction : input; capacitance : 1; }}
  pin (B) {{ direction : input; capacitance : 1; {powers} }}
  pin (Y) {{ direction : output; function : "!A"; timing () {{ related_pin : "A"; cell_rise (d) {{ values ("{d1}, {d2}"); }} rise_transition (d) {{
  values ("1, 1"); }} }} }} }} }}"""


def law(folder: Path, vdd_v: float, temperature_c: float, bias_v: float, *, joined: bool = False) -> CornerFile:
    """Delay exp(-3 V - 0.4 bias + 0.002 T) x (1 or -0.5), leakage exp(2 V + 2 bias + 0.03 T): lines in the logarithm."""
    delay = 100 * np.exp(-3 * vdd_v - 0.4 * bias_v + 0.002 * temperature_c)
    one = 'internal_power () {{ when : "{when}"; rise_power (e) {{ values ("{v}, {v}"); }} }}'
    whens = ["(A) | (!A)"] if joined else ["!A", "A"]
    values = {"v": vdd_v, "t": temperature_c, "d1": delay, "d2": -0.5 * delay, "leak": np.exp(2 * vdd_v + 2 * bias_v + 0.03 * temperature_c)}
    path = folder / f"{vdd_v}_{temperature_c}_{bias_v}.lib"
    path.write_text(LAW.format(**values, powers=" ".join(one.format(when=w, v=2 * vdd_v) for w in whens)))
    return CornerFile(vdd_v=vdd_v, temperature_c=temperature_c, back_bias_v=bias_v, path=path)


@pytest.mark.parametrize(("vdd_v", "temperature_c", "bias_v"), [(0.63, 25.0, 0.0), (0.63, 25.0, 0.2), (0.71, 60.0, 0.0), (0.71, 60.0, 0.2)])
def test_exponential_laws_are_recovered_with_negative_delays_and_joined_states(tmp_path, vdd_v, temperature_c, bias_v):
    known = [law(tmp_path, v, 25.0, b, joined=v == 0.6) for v in (0.5, 0.6, 0.7, 0.8, 0.9) for b in (0.0, 0.5, 1.0)]
    known += [law(tmp_path, v, t, 0.0) for v in (0.5, 0.7, 0.9) for t in (-40.0, 125.0)]
    interpolate(known, corner(vdd_v, temperature_c=temperature_c, back_bias_v=bias_v), tmp_path / "out.lib")
    found = read_library(tmp_path / "out.lib")
    assert (found.vdd_v, found.temperature_c) == (vdd_v, temperature_c)
    delay = 100e-12 * np.exp(-3 * vdd_v - 0.4 * bias_v + 0.002 * temperature_c)
    arc = found.cells["I"].pins["Y"].timing[0]
    assert arc.delay_rise_s.values == pytest.approx([delay, -0.5 * delay], rel=1e-4)
    assert found.cells["I"].leakage_w == pytest.approx(1e-9 * np.exp(2 * vdd_v + 2 * bias_v + 0.03 * temperature_c), rel=1e-4)
    powers = found.cells["I"].pins["B"].internal_power
    assert [p.when for p in powers] == ["!A", "A"] and powers[0].rise_j.values[0] == pytest.approx(2e-15 * vdd_v, rel=1e-3)


def test_outside_the_range_and_between_unlike_corners_it_refuses(tmp_path):
    known = [law(tmp_path, v, 25.0, b) for v in (0.5, 0.7, 0.9) for b in (0.0, 1.0)]
    out = tmp_path / "out.lib"
    for wrong, problem in (
        (corner(0.45), "vdd_v must be within the characterized 0.5 to 0.9, not 0.45"),
        (corner(0.6, back_bias_v=1.2), "back_bias_v must be within the characterized 0 to 1, not 1.2"),
        (corner(0.6, temperature_c=30.0), "temperature_c must be within the characterized 25 to 25, not 30"),
    ):
        with pytest.raises(ConfigError, match=problem):
            interpolate(known, wrong, out)
    with pytest.raises(ConfigError, match="temperature or back bias must be a characterized one"):
        interpolate([*known, law(tmp_path, 0.5, 125.0, 0.5), law(tmp_path, 0.9, 125.0, 0.5)], corner(0.6, temperature_c=60.0, back_bias_v=0.2), out)
    text = known[2].path.read_text()
    known[2].path.write_text(text.replace('values ("1, 1")', 'values ("1, 1, 1")').replace('index_1 ("1, 2")', 'index_1 ("1, 2, 3")'))
    with pytest.raises(ConfigError, match="must have the same cells, arcs and tables, not differ"):
        interpolate(known, corner(0.6), out)
    assert not out.exists()


def test_a_technology_interpolates_only_where_it_says_so(tmp_path):
    path = write_technology(tmp_path, vdds_v=(0.5, 1.0))
    between = corner(0.7)
    with pytest.raises(ConfigError, match="must be one that technology"):
        liberty_files(load_technology(path), between, cache=tmp_path / "cache")
    path.write_text(path.read_text().replace("corners:", "interpolate: true\ncorners:"))
    technology = load_technology(path)
    (file,) = liberty_files(technology, between, cache=tmp_path / "cache")
    assert read_library(file).vdd_v == 0.7
    (file,) = liberty_files(technology, corner(0.5), cache=tmp_path / "cache")
    assert file.read_text() == library_text(0.5)
    with pytest.raises(ConfigError, match="vdd_v must be within the characterized 0.5 to 1, not 1.1"):
        liberty_files(technology, corner(1.1), cache=tmp_path / "cache")
    with pytest.raises(ConfigError, match="process of ss_0.7v.* must be one that is characterized"):
        liberty_files(technology, corner(0.7, process="ss"), cache=tmp_path / "cache")


def test_a_characterized_corner_that_is_held_out_is_met_by_its_neighbours(tmp_path):
    """Every table of a sample of cells: 2 % on average, 7 % at worst, of delays and transitions, or of one FO4 delay where they are shorter."""
    technology = load_technology("fdsoi28p")
    line = sorted((c for c in technology.known_corners if (c.process, c.temperature_c, c.back_bias_v) == ("tt", 25.0, 0.0)), key=lambda c: c.vdd_v)
    held = next(c for c in line if c.vdd_v == 0.8)
    known = [CornerFile(vdd_v=c.vdd_v, temperature_c=25.0, back_bias_v=0.0, path=Path(c.liberty[0])) for c in line if c is not held]
    interpolate(known, held.at_sram(0.8), tmp_path / "between.lib")
    ours, direct = read_library(tmp_path / "between.lib"), read_library(held.liberty[0])
    errors = []
    fo4_s = float(direct.cells["INV_X1"].pins["Y"].timing[0].delay_rise_s.points[0][0]) * 4
    for name in random.Random(3).sample(sorted(load_cell_library(TECH).cells), 12):
        cell = f"{name}_X{4 if name == 'CLKBUF' else 2 if name == 'ICG' else 1}"
        for pin, given in direct.cells[cell].pins.items():
            for mine, theirs in zip(ours.cells[cell].pins[pin].timing, given.timing, strict=True):
                for table in ("delay_rise_s", "delay_fall_s", "transition_rise_s", "transition_fall_s"):
                    if getattr(theirs, table) is not None:
                        want, (slews, *loads) = getattr(theirs, table).values, getattr(theirs, table).points
                        at = {"slew_s": slews[:, None], "load_f": loads[0][None, :]}
                        found = getattr(mine, table).at(extrapolate=True, **at)
                        errors.append(np.abs(found - want) / np.maximum(np.abs(want), fo4_s))
        assert ours.cells[cell].leakage_w == pytest.approx(direct.cells[cell].leakage_w, rel=0.02)
    errors = np.concatenate([e.ravel() for e in errors])
    assert len(errors) > 1000 and errors.mean() < 0.02 and errors.max() < 0.07
