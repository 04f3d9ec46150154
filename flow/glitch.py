"""Glitches: how much more a block switches with real delays than its settled values tell, from a timed simulation of a sample.

OpenSTA writes the delays of the placed netlist as SDF, Icarus Verilog simulates the recorded inputs of some instances with them, and
every change of every net is counted. The factor is the capacitance that moves over the capacitance that would move if each net
changed at most once a cycle, clocks apart. Pulses shorter than a gate's delay are swallowed by it (inertial delay), as in gates.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pywellen

from flow import block_power as block_power_module
from flow import logic, placement, recording, tech, timing_netlist
from flow import netlist as netlist_module
from flow.block_power import NORMAL_90, net_wire_f
from flow.cache import step
from flow.logic import CellLogic
from flow.netlist import CONST1, clock_network, read_netlist
from flow.placement import read_places
from flow.recording import Event, Waveform, record
from flow.replay import Recording, Replayer
from flow.simulation import TRACE_MARGIN_CYCLES
from flow.tech import WireModel, read_libraries
from flow.timing_netlist import TimingModule, write_spef, write_timing_verilog
from flow.tools import find_tool, run_tool
from hw.errors import ToolError

_BATCHES = 10
_INPUT_DELAY_SHARE = 0.05
"""Inputs change this share of the period after the clock has reached the registers, about when registers of other blocks do."""


@dataclass(frozen=True, kw_only=True)
class GlitchFactor:
    """Mean over cycles and instances, with its 90 % interval; `cycles` were simulated in all."""

    mean: float
    lo: float
    hi: float
    cycles: int


@step(version=3, tools=("sta", "iverilog"), modules=(block_power_module, logic, netlist_module, placement, recording, tech, timing_netlist))
def glitch_factor(
    folder: Path, *, netlist: Path, places: Path, module: str, clocks: tuple[str, ...], when: Event, trace: Path, scopes: tuple[str, ...], cycles: int,
    trace_cycles: int, liberty: tuple[Path, ...], wire: WireModel, period_s: float, clock_latency_s: float, timeout_s: float = 900.0,
) -> GlitchFactor:  # fmt: skip
    """The factor of a module without black boxes in its active cycles, from `cycles` of the `trace_cycles` recorded ones of the instances at
    `scopes`: from the first active one on. Instances that never work are left out.

    `period_s` must be long enough for everything to settle; `clock_latency_s` is the delay of the clock tree. Raises `ToolError` if a
    tool fails or an output of the timed simulation is not what was recorded.
    """
    library = read_libraries(liberty)
    mapped = read_netlist(netlist, library, top=module)
    modules = {module: TimingModule(netlist=mapped, places=read_places(places, mapped))}
    write_timing_verilog(modules, folder / "design.v")
    write_spef(modules, module, wire, folder / "design.spef")
    (folder / "cells.v").write_text("\n".join(cell_model(kind) for kind in mapped.types), encoding="utf-8")
    lines = [*(f"read_liberty {{{path}}}" for path in liberty), "read_verilog design.v", f"link_design {module}", "set_cmd_units -time ps"]
    lines += [f"create_clock -name {name} -period {period_s * 1e12:.3f} [get_ports {name}]" for name in clocks]
    (folder / "sdf.tcl").write_text("\n".join([*lines, "read_spef design.spef", "write_sdf -divider . design.sdf"]) + "\n", encoding="utf-8")
    errors = (r"\bError:", r"Creating black box")
    run_tool([find_tool("sta"), "-no_init", "-no_splash", "-exit", "sdf.tcl"], cwd=folder, timeout_s=timeout_s, step="sdf", error_patterns=errors)

    waveform, moved = Waveform(trace), []
    ports = {name: len(port.nets) for name, port in mapped.ports.items() if name not in clocks}
    load_f = net_wire_f(mapped, wire, places)
    pins = [[library.cells[t.name].pins[p].capacitance_f for p in t.inputs] + [0.0] * len(t.outputs) for t in mapped.types]
    np.add.at(load_f, mapped.pin_net, np.concatenate([np.zeros(0), *(pins[k] for k in mapped.cell_type)]))
    counted = ~clock_network(mapped, clocks).nets & (mapped.driver >= 0)
    for scope in scopes:
        deciding = {name: ports[name] for group in when for name in group}
        whole = record(waveform, scope=f"tb.dut.{scope}", clocks=clocks, ports=deciding, event=when, cycles=trace_cycles)
        works = np.flatnonzero(whole.phases.get("active", np.zeros(0, dtype=bool))[TRACE_MARGIN_CYCLES:])
        if len(works) == 0:
            continue
        first = max(0, min(int(works[0]), trace_cycles - TRACE_MARGIN_CYCLES - cycles))
        recorded = record(waveform, scope=f"tb.dut.{scope}", clocks=clocks, ports=ports, event=when, cycles=TRACE_MARGIN_CYCLES + cycles, first=first)
        timed, settled = simulate_timed(folder, modules[module], recorded, clocks[0], period_s, timeout_s, clock_latency_s)
        active = recorded.phases.get("active", np.zeros(recorded.cycles, dtype=bool)).copy()
        active[:TRACE_MARGIN_CYCLES] = False
        weights = np.where(counted, load_f, 0.0)
        moved.append(np.stack([weights @ timed[:, active], weights @ settled[:, active]]))
    for scratch in ("design.v", "design.spef", "design.sdf", "cells.v", "tb.v", "inputs.txt", "outputs.txt", "simulation", "nets.vcd"):
        (folder / scratch).unlink(missing_ok=True)
    return ratio(np.concatenate(moved, axis=1) if moved else np.zeros((2, 0)))


def ratio(moved: np.ndarray) -> GlitchFactor:
    """The factor from the capacitance moved in each cycle [timed and settled, cycles], its error from batches of consecutive cycles
    (jackknife), which cycles alone would understate as neighbours are alike."""
    if moved.shape[1] < 2 * _BATCHES or not moved[1].sum() > 0:
        raise ToolError(f"a glitch factor needs at least {2 * _BATCHES} active cycles in which nets move, not {moved.shape[1]}; record a longer window")
    batches = np.stack([part.sum(axis=1) for part in np.array_split(moved, _BATCHES, axis=1)])
    whole = float(moved[0].sum() / moved[1].sum())
    without = np.array([(batches[:, 0].sum() - a) / (batches[:, 1].sum() - b) for a, b in batches])
    error = math.sqrt((_BATCHES - 1) / _BATCHES * float(((without - without.mean()) ** 2).sum()))
    return GlitchFactor(mean=whole, lo=max(1.0, whole - NORMAL_90 * error), hi=whole + NORMAL_90 * error, cycles=moved.shape[1])


# --- Icarus Verilog ------------------------------------------------------------------------------


def cell_model(kind: CellLogic) -> str:
    """A cell as Verilog: its truth tables, and a path delay from each input to each output for the SDF to fill in."""
    variables = [*kind.inputs, "s"] if kind.has_state else list(kind.inputs)
    lines = [f"module {kind.name} ({', '.join((*kind.inputs, *kind.outputs))});"]
    lines += [f"  input {', '.join(kind.inputs)};"] if kind.inputs else []
    lines += [f"  output {', '.join(kind.outputs)};"]

    def function(name: str, values: np.ndarray) -> str:
        """An expression for a table over `variables`. It names only those that matter: an unknown value of the others must not spread."""
        index, used = np.arange(len(values)), []
        for i, variable in enumerate(variables):
            if np.any(values != values[index ^ 1 << i]):
                used.append((i, variable))
        if not used:
            return f"1'b{int(values[0])}"
        bits = [values[sum((row >> k & 1) << i for k, (i, _) in enumerate(used))] for row in range(1 << len(used))]
        lines.append(f"  localparam [{len(bits) - 1}:0] {name} = {len(bits)}'b{''.join(str(int(bit)) for bit in reversed(bits))};")
        return f"{name}[{{{', '.join(variable for _, variable in reversed(used))}}}]"

    if kind.has_state:
        lines += ["  reg s; initial s = 0;"]
        # What is not known yet is not stored, so that the first known values settle everything.
        lines += [f"  wire held = {function('settle', kind.settle_table)};", "  always @(held) if (held !== 1'bx) s = held;"]
        if kind.kind == "flop":
            lines += [f"  wire following = {function('follow', kind.next_table)};", f"  wire rises = {function('clock', kind.clock_table)};"]
            lines += ["  always @(posedge rises) if (following !== 1'bx) s = following;"]
    for output, values in zip(kind.outputs, kind.outputs_table, strict=True):
        lines.append(f"  assign {output} = {function(f'values_{output}', values)};")
    paths = [
        f"    ({name} => {output}) = 0;"
        for i, name in enumerate(kind.inputs) for o, output in enumerate(kind.outputs) if kind.depends[o, i] or i in kind.clock_inputs
    ]  # fmt: skip
    if paths:
        lines += ["  specify", *paths, "  endspecify"]
    return "\n".join([*lines, "endmodule"]) + "\n"


def simulate_timed(
    folder: Path, design: TimingModule, recorded: Recording, clock: str, period_s: float, timeout_s: float, clock_latency_s: float = 0.0
) -> tuple[np.ndarray, np.ndarray]:
    """Changes of each net [nets, cycles], and those of its settled values from one cycle's end to the next.

    `folder` holds the cells, the design and its delays (`cells.v`, `design.v`, `design.sdf`). Raises `ToolError` if an output differs from
    what was recorded at the end of a cycle.
    """
    mapped = design.netlist
    inputs = [port for port in mapped.ports.values() if port.is_source and port.name != clock]
    outputs = [port for port in mapped.ports.values() if not port.is_source]
    period_ps = math.ceil(period_s * 1e12)
    delay_ps = max(1, round(clock_latency_s * 1e12 + _INPUT_DELAY_SHARE * period_ps))
    if 2 * delay_ps >= period_ps:
        raise ToolError(f"clock latency must leave inputs half of the period of {period_ps} ps, not {delay_ps} ps; give a longer one ({mapped.name})")
    for name, ports in (("inputs", inputs), ("outputs", outputs)):
        words = np.concatenate([recorded.values[port.name][:, ::-1] for port in ports], axis=1)
        (folder / f"{name}.txt").write_text("\n".join("".join(map(str, row)) for row in words.tolist()) + "\n", encoding="utf-8")
    known = Replayer(mapped, clocks=(clock,)).known_registers(recorded.registers)
    preset = [f"dut.{design.cells[cell]}.s = {bit};" for cell, bit in known.items()]
    (folder / "tb.v").write_text(_bench(mapped.name, inputs, outputs, clock, recorded.cycles, period_ps, delay_ps, preset), encoding="utf-8")
    compiler: list[str | Path] = [find_tool("iverilog"),  "-g2012", "-gspecify", "-Tmax", "-o", "simulation", "tb.v", "design.v", "cells.v"]
    run_tool(compiler, cwd=folder, timeout_s=timeout_s, step="iverilog", error_patterns=[r"\berror\b"])
    errors = (r"^ERROR", r"SDF ERROR", r"Unable to annotate", r"differs")
    run_tool([find_tool("iverilog").with_name("vvp"), "-n", "simulation"], cwd=folder, timeout_s=timeout_s, step="vvp", error_patterns=errors)
    changes: dict[str, list[tuple[int, int]]] = {}
    for variable in pywellen.Waveform(str(folder / "nets.vcd")).all_vars():
        name, known_values = variable.full_name.removeprefix("tb.dut."), [(time, value) for time, value in variable.tv if isinstance(value, int)]
        if variable.bitwidth == 1:
            changes[name] = known_values
            continue
        for bit in range(variable.bitwidth):
            of_bit = [(time, value >> bit & 1) for time, value in known_values]
            changes[f"{name}[{bit}]"] = of_bit[:1] + [now for before, now in zip(of_bit, of_bit[1:], strict=False) if now[1] != before[1]]
    timed, settled = np.zeros((mapped.nets, recorded.cycles)), np.zeros((mapped.nets, recorded.cycles))
    for net in range(CONST1 + 1, mapped.nets):
        found = changes.get(design.net_names[net], [])
        if len(found) < 2:
            continue  # quiet
        cycle = (np.array([time for time, _ in found[1:]]) // period_ps).astype(int)
        kept = cycle < recorded.cycles
        np.add.at(timed[net], cycle[kept], 1)
        last = np.full(recorded.cycles, -1)
        last[cycle[kept]] = np.array([value for _, value in found[1:]])[kept]
        before = found[0][1]
        for at in np.flatnonzero(last >= 0):
            settled[net, at] = last[at] != before
            before = last[at]
    return timed, settled


def _bench(module: str, inputs: Sequence, outputs: Sequence, clock: str, cycles: int, period_ps: int, delay_ps: int, preset: Sequence[str]) -> str:
    """A test bench: inputs change `delay_ps` after each rising edge, outputs are compared just before the next."""
    wide, out = sum(len(port.nets) for port in inputs), sum(len(port.nets) for port in outputs)

    def pins(ports: Sequence, word: str, width: int) -> list[str]:
        found, high = [], width
        for port in ports:
            found.append(f".{port.name}({word}[{high - 1}:{high - len(port.nets)}])")
            high -= len(port.nets)
        return found

    connections = ", ".join([f".{clock}(clk)", *pins(inputs, "in", wide), *pins(outputs, "out", out)])
    return f"""`timescale 1ps/1ps
module tb;
  reg clk = 0; reg [{wide - 1}:0] in; wire [{out - 1}:0] out; integer t;
  reg [{wide - 1}:0] inputs [0:{cycles - 1}]; reg [{out - 1}:0] outputs [0:{cycles - 1}];
  {module} dut ({connections});
  initial begin
    $readmemb("inputs.txt", inputs); $readmemb("outputs.txt", outputs);
    $sdf_annotate("design.sdf", dut);
    $dumpfile("nets.vcd"); $dumpvars(1, dut);
    in = inputs[0];
    {" ".join(preset)}
    for (t = 0; t < {cycles}; t = t + 1) begin
      #{delay_ps} in = inputs[t]; #{period_ps // 2 - delay_ps} clk = 0; #{period_ps - period_ps // 2 - 1};
      if (t >= {TRACE_MARGIN_CYCLES} && out !== outputs[t]) $display("output differs in cycle %0d: %b is not %b", t, out, outputs[t]);
      #1 clk = 1;
    end
    $finish;
  end
endmodule
"""
