"""The smallest accelerator as library cells: it runs a program cycle for cycle as its RTL does, and OpenSTA reads its timing constraints."""

import re
from pathlib import Path

import pytest

from flow.corner import Corner
from flow.liberty import Cell
from flow.synth import SynthResult, synthesize
from flow.tech import liberty_files, load_technology, read_libraries
from hw.config import AcceleratorConfig, Array, Buffers, Memory, Precision
from hw.emit import RtlBundle, emit
from hw.layers import LayerShape
from hw.sim.network import random_workload, run_workload
from hw.sim.run import IdealMemory, build
from hw.tools import run_tool

CORNER = Corner(process="tt", vdd_v=0.9, temperature_c=25, back_bias_v=0, sram_vdd_v=0.9)
SMALLEST = AcceleratorConfig(
    version=1, name="smallest", array=Array(rows=1, cols=2, lanes=2, acc_depth=1, acc_bits=16, multiplier_stages=0),
    precision=Precision(activation_bits=4, weight_bits=4), memory=Memory(axi_data_bits=32, max_burst_beats=1, read_fifo_beats=8),
    buffers=Buffers(activation_bank_bytes=64, weight_bank_bytes=64, output_bank_bytes=64, parameter_words=32),
)  # fmt: skip


@pytest.fixture(scope="module")
def bundle(tmp_path_factory) -> RtlBundle:
    return emit(SMALLEST, tmp_path_factory.mktemp("rtl"))


@pytest.fixture(scope="module")
def mapped(bundle) -> SynthResult:
    return synthesize(
        verilog=bundle.verilog, module=bundle.top, clocks=("core_clk", "mem_clk"), technology=load_technology("fdsoi28p"), corner=CORNER,
        black_boxes=bundle.black_boxes,
    )  # fmt: skip


def model(cell: Cell) -> str:
    """A cell in Verilog, from what its Liberty file says of it."""
    pins = {pin.name: pin.direction for pin in cell.pins.values() if pin.direction in ("input", "output")}
    lines = [f"module {cell.name}({', '.join(pins)});", *(f"  {direction} {name};" for name, direction in pins.items())]
    functions = {pin.name: pin.function for pin in cell.pins.values() if pin.direction == "output"}
    if cell.clock_gate:
        roles = {pin.clock_gate_role: pin.name for pin in cell.pins.values() if pin.clock_gate_role}
        enables = " | ".join(pin.name for pin in cell.pins.values() if pin.clock_gate_role in ("enable", "test"))
        lines += ["  reg gate;", f"  always_latch if (!{roles['clock']}) gate = {enables};", f"  assign {roles['out']} = {roles['clock']} & gate;"]
        functions = {}
    for state in cell.sequential:
        assert state.kind == "ff" and not state.clear and not state.preset, f"{cell.name} is more than a flop"
        lines += [f"  reg {state.state};", f"  wire {state.inverse_state} = !{state.state};"]
        lines.append(f"  always @(posedge {state.clocked_on}) {state.state} <= {state.next_state};")
    lines += [f"  assign {name} = {function};" for name, function in functions.items()]
    return "\n".join([*lines, "endmodule"])


def test_the_netlist_runs_as_the_rtl_does(bundle, mapped, tmp_path):
    """A layer with padding and stride, with stalls and clocks that do not fit each other: the same outputs, events and cycles."""
    library = read_libraries(liberty_files(load_technology("fdsoi28p"), CORNER))
    used = sorted(mapped.cell_counts)
    assert any(library.cells[name].clock_gate for name in used) and mapped.gated_fraction > 0.5
    cells = tmp_path / "cells.v"
    cells.write_text("\n".join(model(library.cells[name]) for name in used))
    simulators = [
        build(verilog=files, axi_data_bits=32, quick=True) for files in (bundle.verilog, (mapped.netlist, cells, bundle.verilog[1]))
    ]  # fmt: skip
    shape = LayerShape(
        name="layer", kind="conv", in_channels=3, out_channels=4, in_h=4, in_w=4, kernel_h=2, kernel_w=2, stride_h=2, stride_w=1, pad_left=1, relu=True
    )
    workload = random_workload(SMALLEST, [shape], zero_points=(1, -2))
    results = [
        run_workload(
            simulator, workload, core_period_ps=1000, mem_period_ps=1370, timeout_cycles=100_000, memory=IdealMemory(), stall_probability=0.2
        ) for simulator in simulators
    ]  # fmt: skip
    rtl, gates = ({"events": r.events, "cycles": r.run_cycles, "memory": r.memory, "configuration": r.configuration} for r in results)
    assert gates == rtl and rtl["events"]["compute_busy"] > 0


def sta(bundle: RtlBundle, mapped: SynthResult, folder: Path, constraints: str) -> str:
    """What OpenSTA says of the netlist with these constraints."""
    (folder / "accelerator.sdc").write_text(constraints)
    script = [f"read_liberty {path}" for path in liberty_files(load_technology("fdsoi28p"), CORNER)]
    script += [f"read_verilog {mapped.netlist}", f"link_design {bundle.top}"]
    script += [f"set {name} {value}" for name, value in (("core_period", 2.0), ("mem_period", 1.25), ("input_delay", 0.1), ("output_delay", 0.1))]
    script += [
        "source accelerator.sdc",
        *(f"puts \"{a} to {b}: [llength [find_timing_paths -from [get_clocks {a}] -to [get_clocks {b}]]]\""
          for a in ("core_clk", "mem_clk") for b in ("core_clk", "mem_clk")),
        "check_setup -verbose -no_input_delay -no_output_delay -unconstrained_endpoints", "exit",
    ]  # fmt: skip
    (folder / "read.tcl").write_text("\n".join(script) + "\n")
    return run_tool(["sta", "-no_splash", "-exit", "read.tcl"], cwd=folder, timeout_s=300)


def test_timing_constraints_are_read_and_cut_the_clocks_apart(bundle, mapped, tmp_path):
    text = bundle.constraints[0].read_text()
    output = sta(bundle, mapped, tmp_path, text)
    found = {pair: int(count) for pair, count in re.findall(r"(\w+ to \w+): (\d+)", output)}
    assert "Error" not in output and found["core_clk to core_clk"] > 0 and found["mem_clk to mem_clk"] > 0
    assert found["core_clk to mem_clk"] == found["mem_clk to core_clk"] == 0
    assert not re.search(r"no input delay|no output delay", output)
    # Without the asynchronous groups the crossings are timed: the lines above do see them.
    together = sta(bundle, mapped, tmp_path, re.sub(r"(?m)^set_clock_groups .*$", "", text))
    found = {pair: int(count) for pair, count in re.findall(r"(\w+ to \w+): (\d+)", together)}
    assert found["core_clk to mem_clk"] > 0 and found["mem_clk to core_clk"] > 0


