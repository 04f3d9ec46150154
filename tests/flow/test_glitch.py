"""Glitches: counted on a circuit that is known to make them, refused when the simulation does not do as the recording."""

import math
from pathlib import Path

import numpy as np
import pytest

from flow.glitch import cell_model, ratio, simulate_timed
from flow.netlist import read_netlist
from flow.placement import place_module, read_places
from flow.replay import Recording, Replayer, to_bits
from flow.synth import synthesize
from flow.tech import liberty_files, load_technology, read_corner
from flow.timing_netlist import TimingModule, write_spef, write_timing_verilog
from flow.tools import find_tool, run_tool
from hw.errors import ToolError

MULTIPLY = """module multiply(input clk, input [5:0] a, b, output reg [11:0] p);
  reg [5:0] x, y; always @(posedge clk) begin x <= a; y <= b; p <= x * y; end endmodule"""
CYCLES = 90


@pytest.fixture(scope="module")
def multiplier(tmp_path_factory) -> tuple[TimingModule, Path]:
    """A placed multiplier, and a folder with all that its timed simulation needs."""
    folder, technology = tmp_path_factory.mktemp("glitch"), load_technology("fdsoi28p")
    (folder / "multiply.v").write_text(MULTIPLY)
    corner, cache = technology.nominal_corner(), folder / "cache"
    made = synthesize(verilog=[folder / "multiply.v"], module="multiply", clocks=["clk"], technology=technology, corner=corner, cache=cache)
    placed = place_module(made, clocks=["clk"], technology=technology, corner=corner, boxes={}, cache=cache)
    netlist = read_netlist(placed.netlist_json, read_corner(technology, corner, cache=cache))
    design = TimingModule(netlist=netlist, places=read_places(placed.places, netlist))
    write_timing_verilog({"multiply": design}, folder / "design.v")
    write_spef({"multiply": design}, "multiply", technology.wire, folder / "design.spef")
    (folder / "cells.v").write_text("\n".join(cell_model(kind) for kind in netlist.types))
    liberty = liberty_files(technology, corner, cache=cache)[0]
    commands = [f"read_liberty {liberty}", "read_verilog design.v", "link_design multiply", "set_cmd_units -time ps", "create_clock -period 1000 clk"]
    (folder / "sdf.tcl").write_text("\n".join([*commands, "read_spef design.spef", "write_sdf -divider . design.sdf"]))
    run_tool([find_tool("sta"), "-no_init", "-no_splash", "-exit", "sdf.tcl"], cwd=folder, timeout_s=60, step="sdf", error_patterns=[r"\bError:"])
    return design, folder


def recording(*, constant: bool = False) -> Recording:
    rng = np.random.default_rng(3)
    a, b = (np.full(CYCLES, 21) if constant else rng.integers(0, 64, CYCLES) for _ in range(2))
    p = np.concatenate([[0, 0], (a * b)[:-2]])
    return Recording(name="test", cycles=CYCLES, values={"a": to_bits(a, 6), "b": to_bits(b, 6), "p": to_bits(p, 12)})


def test_settled_changes_are_those_of_the_replay_and_only_logic_glitches(multiplier):
    design, folder = multiplier
    timed, settled = simulate_timed(folder, design, recording(), "clk", 3e-9, 60)
    netlist = design.netlist
    replayed = Replayer(netlist, clocks=("clk",)).replay(recording())["all"]
    kept = slice(replayed.excluded_cycles, None)
    logic = ~replayed.clock_nets & (netlist.driver >= 0)
    np.testing.assert_allclose(settled[:, kept].sum(axis=1)[logic], (replayed.toggles_per_cycle * replayed.cycles)[logic], atol=1.01)
    assert np.all(timed >= settled)
    flops = netlist.cells_of("flop")
    outputs = np.array([net for net in np.flatnonzero(logic) if netlist.driver[net] in set(flops)])
    np.testing.assert_array_equal(timed[outputs], settled[outputs])
    # An array of adders is known to glitch: the middle bits of the product most.
    assert 1.1 < timed[logic][:, kept].sum() / settled[logic][:, kept].sum() < 3


def test_what_does_not_move_does_not_glitch(multiplier):
    design, folder = multiplier
    timed, _ = simulate_timed(folder, design, recording(constant=True), "clk", 3e-9, 60)
    clock = Replayer(design.netlist, clocks=("clk",)).network.nets
    assert not timed[~clock][:, 70:].any() and np.all(timed[clock][:, 70:-1] == 2)


def test_outputs_that_differ_from_the_recording_are_refused(multiplier):
    design, folder = multiplier
    wrong = recording()
    wrong.values["p"][80, 3] ^= 1
    with pytest.raises(ToolError, match="output differs in cycle 80"):
        simulate_timed(folder, design, wrong, "clk", 3e-9, 60)


def test_the_factor_and_its_interval_by_hand():
    settled = np.full(40, 2.0)
    timed = np.tile([2.0, 4.0], 20)
    found = ratio(np.stack([timed, settled]))
    assert found.mean == pytest.approx(1.5) and found.cycles == 40 and found.lo == pytest.approx(found.hi)  # every batch is alike
    timed = np.repeat(np.arange(10.0), 4)
    without = [(45 - i) * 4 / (36 * 2.0) for i in range(10)]
    error = math.sqrt(0.9 * sum((x - np.mean(without)) ** 2 for x in without))
    found = ratio(np.stack([timed, settled]))
    assert found.mean == pytest.approx(180 / 80) and found.hi == pytest.approx(180 / 80 + 1.645 * error) and found.lo == pytest.approx(180 / 80 - 1.645 * error)
    with pytest.raises(ToolError, match="at least 20 active cycles"):
        ratio(np.ones((2, 19)))
