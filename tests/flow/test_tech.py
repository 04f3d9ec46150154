"""Corners and technologies: names that read back, descriptions that are refused, Liberty files that do not fit."""

import gzip
from dataclasses import replace
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from small_library import library_text, write_technology

from flow.corner import Corner
from flow.tech import liberty_files, load_technology, read_corner, technology_names, wire_capacitance_f, wire_load_group
from hw.errors import ConfigError

PDK = Path(__file__).parents[3] / "shared" / "pdk"

volts = st.integers(0, 2_000_000).map(lambda micro: micro / 1e6)


@settings(derandomize=True, max_examples=60, deadline=None)
@given(st.sampled_from(["tt", "ss", "ff"]), volts, st.integers(-55, 150), st.integers(-2000, 2000), volts)
def test_a_corner_reads_back_from_its_name(process, vdd_v, temperature_c, bias_mv, sram_vdd_v):
    corner = Corner(process=process, vdd_v=vdd_v, temperature_c=float(temperature_c), back_bias_v=bias_mv / 1000, sram_vdd_v=sram_vdd_v)
    assert Corner.parse(str(corner)) == corner


def test_the_name_of_a_corner_is_short_and_sortable():
    corner = Corner(process="tt", vdd_v=0.6, temperature_c=-40.0, back_bias_v=-0.0, sram_vdd_v=0.8)
    assert str(corner) == "tt_0.6v_-40c_+0bb_0.8vsram"
    assert str(replace(corner, temperature_c=-0.0)) == "tt_0.6v_0c_+0bb_0.8vsram"
    with pytest.raises(ConfigError, match="corner must be spelled like .*, not 'tt_0.6v'"):
        Corner.parse("tt_0.6v")


def test_a_technology_is_loaded_with_its_paths_beside_it(tmp_path, monkeypatch):
    path = write_technology(tmp_path)
    monkeypatch.chdir("/")
    technology = load_technology(path)
    nominal = technology.nominal_corner()
    assert (nominal.vdd_v, nominal.sram_vdd_v, nominal.temperature_c, nominal.back_bias_v) == (1.0, 1.0, 25.0, 0.0)
    (file,) = liberty_files(technology, nominal, cache=tmp_path / "cache")
    assert file.read_text() == library_text(1.0)
    low = Corner(process="tt", vdd_v=0.5, temperature_c=25.0, back_bias_v=0.0, sram_vdd_v=0.8)
    assert read_corner(technology, low, cache=tmp_path / "cache").vdd_v == 0.5


@pytest.mark.parametrize(
    ("old", "new", "problem"),
    [
        ("predictive: true", "predictive: perhaps", "predictive must be a valid boolean, not 'perhaps'"),
        ("nand2: NAND2, ", "", "cells.nand2 must be given"),
        ("dont_use: []", "dont_used: []", "dont_used must be a known key"),
        ("source: made up for tests", "source: ''", "wire.source must be"),
        ("sources: [made up for tests]", "sources: []", "sources must be"),
        ("vdd_v: 0.5", "vdd_v: 1.0", "a list of corners that differ, not with tt_1v_25c_+0bb_1vsram twice"),
        ("vdd_v: 0.5", "vdd_v: -0.5", "corners.1.vdd_v must be greater than 0, not -0.5"),
        ("liberty: [small_0.5.lib]", "liberty: []", "corners.1.liberty must"),
        ("liberty: [small_0.5.lib]", "liberty: small_0.5.lib", "corners.1.liberty must be a valid tuple"),
    ],
)
def test_a_broken_description_names_file_key_and_rule(tmp_path, old, new, problem):
    path = write_technology(tmp_path)
    text = path.read_text()
    assert old in text
    path.write_text(text.replace(old, new))
    with pytest.raises(ConfigError) as caught:
        load_technology(path)
    assert problem in str(caught.value) and str(path) in str(caught.value) and "\n" not in str(caught.value)


def test_an_unknown_technology_lists_the_known_ones():
    with pytest.raises(ConfigError, match="technology must be one of .* or a YAML file, not 'unobtainium'"):
        load_technology("unobtainium")


@pytest.mark.parametrize("name", technology_names())
def test_a_technology_of_the_project_is_complete(name, tmp_path):
    technology = load_technology(name)
    if not all(Path(file).is_file() for corner in technology.corners for file in corner.liberty):
        pytest.skip("the PDK is not installed below PDK_ROOT")
    library = read_corner(technology, technology.nominal_corner(), cache=tmp_path)
    for role, cell in technology.cells:
        assert cell is None or cell in library.cells, role


def test_a_corner_without_liberty_lists_those_there_are(tmp_path):
    technology = load_technology(write_technology(tmp_path))
    corner = Corner(process="tt", vdd_v=0.7, temperature_c=25.0, back_bias_v=0.0, sram_vdd_v=0.7)
    with pytest.raises(ConfigError, match=r"not tt_0\.7v_25c_\+0bb_0\.7vsram; it has tt_1v_25c_\+0bb, tt_0\.5v_25c_\+0bb$"):
        liberty_files(technology, corner, cache=tmp_path / "cache")


@pytest.mark.parametrize("damage", ["missing", "truncated", "truncated gzip", "voltage", "temperature", "not Liberty"])
def test_a_liberty_file_that_does_not_fit_its_corner_is_refused_by_name(tmp_path, damage):
    path = write_technology(tmp_path)
    file = tmp_path / "small_0.5.lib"
    if damage == "truncated gzip":
        path.write_text(path.read_text().replace("small_0.5.lib", "small_0.5.lib.gz"))
        file = tmp_path / "small_0.5.lib.gz"
    content = {
        "truncated": library_text(0.5)[:-400].encode(),
        "truncated gzip": gzip.compress(library_text(0.5).encode())[:-40],
        "voltage": library_text(0.6).encode(),
        "temperature": library_text(0.5, temperature_c=125.0).encode(),
        "not Liberty": b"hello",
    }
    file.unlink(missing_ok=True)
    if damage != "missing":
        file.write_bytes(content[damage])
    technology = load_technology(path)
    with pytest.raises(ConfigError) as caught:
        liberty_files(technology, technology.corners[1].at_sram(0.5), cache=tmp_path / "cache")
    assert str(file) in str(caught.value) and "\n" not in str(caught.value)
    if damage == "voltage":
        assert str(caught.value) == f"voltage of a Liberty file must be the 0.5 V that its corner declares, not 0.6 V ({file})"
    liberty_files(technology, technology.corners[0].at_sram(1.0), cache=tmp_path / "cache")


def test_a_default_wire_load_is_taken_out(tmp_path):
    extra = 'default_wire_load : "huge" ;\nwire_load ("huge") { resistance : 0; capacitance : 1; area : 0; slope : 500; fanout_length (1, 500); }'
    technology = load_technology(write_technology(tmp_path, extra=extra))
    (file,) = liberty_files(technology, technology.nominal_corner(), cache=tmp_path / "cache")
    assert "huge" in file.read_text() and "default_wire_load" not in file.read_text()


def test_a_library_in_several_files_is_one(tmp_path):
    path = write_technology(tmp_path, vdds_v=(1.0,))
    names = ("INV", "BUF", "NAND2", "NOR2", "XOR2", "AOI21", "DFF", "DLAT", "ICG", "TIEHI", "TIELO")
    (tmp_path / "small_1.0.lib").write_text(library_text(1.0, without=names[:4]))
    (tmp_path / "more.lib.gz").write_bytes(gzip.compress(library_text(1.0, without=names[4:]).encode()))
    path.write_text(path.read_text().replace("[small_1.0.lib]", "[small_1.0.lib, more.lib.gz]"))
    technology = load_technology(path)
    assert set(read_corner(technology, technology.nominal_corner(), cache=tmp_path / "cache").cells) == set(names)
    (tmp_path / "more.lib.gz").write_bytes(gzip.compress(library_text(1.0, without=names[5:]).encode()))
    with pytest.raises(ConfigError, match="cell XOR2 must be defined in one Liberty file, not in two"):
        read_corner(technology, technology.nominal_corner(), cache=tmp_path / "cache")


def test_cells_are_kept_out_by_pattern(tmp_path):
    technology = load_technology(write_technology(tmp_path, dont_use="'X*', DLAT"))
    library = read_corner(technology, technology.nominal_corner(), cache=tmp_path / "cache")
    assert [name for name, cell in library.cells.items() if not technology.may_use(cell)] == ["XOR2", "DLAT"]


def test_wires_grow_with_fanout_and_liberty_says_the_same(tmp_path):
    technology = load_technology(write_technology(tmp_path))
    assert [wire_capacitance_f(fanout, technology) for fanout in (1, 4)] == pytest.approx([1.25e-15, 3.5e-15])
    assert "slope : 0.00075;" in (group := wire_load_group(technology.wire, 1e-12)) and "fanout_length (1, 0.00125);" in group


@pytest.mark.skipif(not PDK.is_dir(), reason="open PDK data is not here")
def test_an_open_pdk_is_read_as_a_users_technology(tmp_path):
    file = PDK / "sg13g2_stdcell" / "sg13g2_stdcell_typ_1p20V_25C.lib.gz"
    path = write_technology(tmp_path, vdds_v=(1.2,))
    path.write_text(path.read_text().replace("small_1.2.lib", str(file)))
    technology = load_technology(path)
    assert len(read_corner(technology, technology.nominal_corner(), cache=tmp_path / "cache").cells) == 84


def test_more_corners_serve_timing_without_being_part_of_what_is_measured(tmp_path):
    path = write_technology(tmp_path).rename(tmp_path / "technology.yaml")
    before = load_technology(path)
    (tmp_path / "small_0.8.lib").write_text(library_text(0.8))
    more = tmp_path / "more_corners.yaml"
    more.write_text("corners:\n  - {process: tt, vdd_v: 0.8, temperature_c: 25.0, liberty: [small_0.8.lib]}\n")
    technology = load_technology(path)
    assert technology.model_dump() == before.model_dump() and len(technology.corners) == 2
    assert [c.vdd_v for c in technology.known_corners] == [1.0, 0.5, 0.8]
    between = Corner(process="tt", vdd_v=0.8, temperature_c=25.0, back_bias_v=0.0, sram_vdd_v=0.8)
    assert read_corner(technology, between, cache=tmp_path / "cache").vdd_v == 0.8
    more.write_text(more.read_text().replace("vdd_v: 0.8", "vdd_v: 0.5"))
    with pytest.raises(ConfigError, match=r"corners must differ, not hold tt_0.5v_25c_\+0bb_0.5vsram twice \(.*more_corners.yaml\)"):
        load_technology(path)
