"""Open PDKs as they stand, and the page on adding one's own, followed literally."""

import gzip
import json
import re
from pathlib import Path

import pytest
from click.testing import CliRunner

from flow.cli import technology as technology_command
from flow.sta import time_design
from flow.synth import synthesize
from flow.tech import Technology, liberty_files, load_technology
from hw.errors import ConfigError

ROOT = Path(__file__).resolve().parents[2]
PDK = ROOT.parent.parent / "shared" / "pdk" if ROOT.parent.name == "wt" else ROOT.parent / "shared" / "pdk"
needs_pdk = pytest.mark.skipif(not PDK.is_dir(), reason="open PDK data is not beside the project")

MAC = """module mac(input clk, input en, input [3:0] a, b, output reg [11:0] q); reg [3:0] x, y;
 always @(posedge clk) if (en) begin x <= a; y <= b; q <= q + x * y; end
endmodule
"""


@pytest.fixture
def installed(monkeypatch):
    monkeypatch.setenv("PDK_ROOT", str(PDK))


@pytest.fixture(scope="module")
def cache(tmp_path_factory):
    return tmp_path_factory.mktemp("cache")


def implement(technology: Technology, folder: Path, cache: Path, corners) -> list[float]:
    """The longest register-to-register path of a multiplier with accumulator, mapped at the nominal corner, at each of `corners`."""
    (folder / "mac.v").write_text(MAC)
    nominal = technology.nominal_corner()
    gated = technology.cells.clock_gate is not None
    result = synthesize(
        verilog=[folder / "mac.v"], module="mac", clocks=["clk"], technology=technology, corner=nominal, clock_gating=gated, cache=cache
    )
    assert result.flops == 20 and 100 < result.area_nand2 < 500
    assert result.gated_fraction == float(gated)
    timings = time_design(netlists=[result.netlist], module="mac", technology=technology, corners=corners, clocks=["clk"], cache=cache)
    return [timing["clk"].reg_to_reg.delay_s for timing in timings]


@needs_pdk
@pytest.mark.parametrize(
    ("name", "files", "fastest_s"),
    # Two corners of each: SG13G2 faster at 1.5 V, sky130 at 1.95 V and cold; ASAP7 without the complex gates, whose text is large.
    [("sg13g2", None, 3e-9), ("sky130", None, 3e-9), ("asap7", ("SIMPLE", "INVBUF", "SEQ"), 1e-9)],
)
def test_an_open_pdk_is_synthesized_and_timed_as_it_stands(name, files, fastest_s, installed, tmp_path, cache):
    technology = load_technology(name)
    chosen = {"sg13g2": (0, 1), "sky130": (6, 10), "asap7": (0, -1)}[name]
    corners = []
    for corner in (technology.corners[i] for i in chosen):
        assert all(Path(file).is_file() for file in corner.liberty)
        corners.append(corner.model_copy(update={"liberty": tuple(f for f in corner.liberty if files is None or any(f"_{x}_" in f for x in files))}))
    technology = technology.model_copy(update={"corners": tuple(corners)})
    delays = implement(technology, tmp_path, cache, [c.at_sram(c.vdd_v) for c in corners])
    assert 0 < delays[1] < delays[0] and delays[1] < fastest_s


@needs_pdk
def test_a_library_without_a_clock_gate_is_mapped_without_gating(installed, tmp_path, cache):
    technology = load_technology("sg13g2")
    technology = technology.model_copy(update={"cells": technology.cells.model_copy(update={"clock_gate": None})})
    # A design that asks for gating is refused.
    (tmp_path / "mac.v").write_text(MAC)
    with pytest.raises(ConfigError, match="add it or turn clock gating off"):
        synthesize(
            verilog=[tmp_path / "mac.v"], module="mac", clocks=["clk"], technology=technology, corner=technology.nominal_corner(), cache=cache
        )
    assert len(implement(technology, tmp_path, cache, [technology.nominal_corner()])) == 1


def test_without_the_pdk_the_missing_file_and_what_to_do_are_named(monkeypatch, tmp_path):
    monkeypatch.delenv("PDK_ROOT", raising=False)
    technology = load_technology("sky130")
    with pytest.raises(ConfigError, match=r"must exist, not be missing \(.*\$PDK_ROOT/sky130_fd_sc_hd/sky130_fd_sc_hd__tt_025C_1v80.lib\); set PDK_ROOT"):
        liberty_files(technology, technology.nominal_corner(), cache=tmp_path)


@needs_pdk
def test_the_page_on_adding_a_pdk_works_when_followed_literally(installed, tmp_path, cache, monkeypatch):
    page = (ROOT / "docs" / "own-pdk.md").read_text()
    (tmp_path / "my.yaml").write_text(re.search(r"```yaml\n(.*?)```", page, re.DOTALL)[1])
    assert "voltfront technology my.yaml" in page
    monkeypatch.chdir(tmp_path)
    shown = CliRunner().invoke(technology_command, ["my.yaml", "--json"], catch_exceptions=False)
    rows = json.loads(shown.output)
    assert [row["corner"] for row in rows] == ["typ_1.2v_25c_+0bb", "typ_1.5v_25c_+0bb", "slow_1.08v_125c_+0bb"]
    assert all(row["cells"] == 84 for row in rows) and rows[1]["fo4_s"] < rows[0]["fo4_s"] < rows[2]["fo4_s"] < 200e-12
    technology = load_technology("my.yaml")
    delays = implement(technology, tmp_path, cache, [c.at_sram(c.vdd_v) for c in technology.corners[:2]])
    assert delays[1] < delays[0]


@needs_pdk
@pytest.mark.parametrize(
    ("damage", "problem"), [("voltage", "voltage of a Liberty file must be the 1.2 V"), ("cut", "must be closed"), ("role", "cells.nand2 must be")]
)
def test_a_file_that_does_not_fit_is_refused_by_its_name(installed, tmp_path, damage, problem):
    page = (ROOT / "docs" / "own-pdk.md").read_text()
    text = re.search(r"```yaml\n(.*?)```", page, re.DOTALL)[1]
    folder = PDK / "sg13g2_stdcell"
    name = "sg13g2_stdcell_typ_1p20V_25C.lib.gz"
    if damage == "voltage":
        text = text.replace(name, "sg13g2_stdcell_typ_1p50V_25C.lib.gz", 1)
    elif damage == "cut":
        whole = gzip.decompress((folder / name).read_bytes())
        (tmp_path / name).write_bytes(gzip.compress(whole[: len(whole) // 2]))
    else:
        text = text.replace("nand2: sg13g2_nand2_1", "nand2: sg13g2_nand9_1")
    (tmp_path / "my.yaml").write_text(text)
    monkey = pytest.MonkeyPatch()
    with monkey.context() as m, pytest.raises(ConfigError, match=problem) as caught:
        m.chdir(tmp_path)
        CliRunner().invoke(technology_command, ["my.yaml"], catch_exceptions=False, standalone_mode=False)
    assert "\n" not in str(caught.value)
    assert {"voltage": "typ_1p50V", "cut": name, "role": "sg13g2_nand9_1"}[damage] in str(caught.value)
