"""Rows of the corner and path tables for one design: synthesis, timing, replayed activity and power of each of its blocks at each corner."""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from flow import netlist as netlist_module
from flow import power, power_tables, profile, recording, replay, replay_kernel, tech
from flow.cache import DEFAULT_CACHE, run_step, step
from flow.corner import Corner
from flow.netlist import Netlist, read_netlist
from flow.power import PowerModel, sampled_mean
from flow.profile import ActivityProfile, combine
from flow.recording import Event, Waveform, record
from flow.replay import Recording, Replayer
from flow.simulation import TRACE_MARGIN_CYCLES, Rtl
from flow.sram import SramMacro, Yardstick, library_fo4_s, load_sram_technology, sram_figures, write_sram_liberty, yardstick
from flow.sta import ClockTiming, TimingResult, time_design
from flow.synth import RECIPES, SynthResult, synthesize
from flow.table import CORNER_COLUMNS, PATH_COLUMNS, TABLE_VERSION, parameters_of
from flow.tech import CellRoles, Technology, WireModel, liberty_files, read_libraries
from hw.config import AcceleratorConfig
from hw.emit import Block
from hw.errors import ToolError

MIN_PHASE_CYCLES = 16
"""A phase that the sampled instances were in for fewer cycles has no row: too little to say anything."""
NORMAL_90 = 1.645
"""Half-width of a 90 % interval in standard errors."""


@dataclass(frozen=True, kw_only=True)
class BlockKind:
    """What the table calls a block's work (`event`), and the ports that say in which cycles it does it."""

    event: str
    when: Event = ()


KINDS = {
    "pe": BlockKind(event="step", when=(("write_0",), ("write_1",))),
    "pe_row": BlockKind(event="step", when=(("mac_en",),)),
    "post": BlockKind(event="output", when=(("start",),)),
    "compute": BlockKind(event="step", when=(("step",),)),
    "load": BlockKind(event="word", when=(("act_write_a",), ("act_write_b",), ("weight_write",), ("param_write",))),
    "store": BlockKind(event="word", when=(("beat_valid", "beat_ready"),)),
    "sequencer": BlockKind(event="instruction", when=(("load_valid", "load_ready"), ("compute_valid", "compute_ready"), ("store_valid", "store_ready"))),
    "registers": BlockKind(event="cycle"),
    "memory_read": BlockKind(event="beat", when=(("rvalid", "rready"),)),
    "memory_write": BlockKind(event="beat", when=(("wvalid", "wready"),)),
    "axi_lite": BlockKind(event="access", when=(("access_valid", "access_ready"),)),
    "two_clock_fifo": BlockKind(event="word", when=(("w_valid", "w_ready"), ("r_valid", "r_ready"))),
    "synchronizer": BlockKind(event="cycle"),
}
ACCUMULATORS = "pe_accumulator"
"""Group of the registers that a PE's last stage ends in; its paths are the accumulation, those between its others the multiplication."""
GLUE = "glue"
"""The logic between the blocks (multiplexers of the top level), characterized with every block as a black box."""


@dataclass(frozen=True, kw_only=True)
class PhasePower:
    """Energy per cycle of one phase at one corner, a mean over sampled instances with its 90 % sampling interval, J; leakage, W."""

    phase: str
    cycles: int
    internal_j: float
    switching_j: float
    clock_j: float
    lo_j: float
    hi_j: float
    leakage_w: float
    annotated_fraction: float


def characterized(blocks: Sequence[Block]) -> tuple[Block, ...]:
    """The blocks that are characterized apart: those not inside another block, and the PEs inside their rows."""
    paths = {path for block in blocks for path in block.instances}

    def inside(path: str) -> bool:
        parts = path.split(".")
        return any(".".join(parts[:i]) in paths for i in range(1, len(parts)))

    return tuple(block for block in blocks if block.name == "pe" or not any(inside(path) for path in block.instances))


def sampled_instances(block: Block, limit: int) -> tuple[str, ...]:
    """Instances to replay: evenly spaced, first and last among them; all if there are no more than `limit`."""
    paths = block.instances
    if len(paths) <= limit:
        return paths
    return tuple(paths[round(i * (len(paths) - 1) / (limit - 1))] for i in range(limit))


@step(version=1, modules=(netlist_module, power, power_tables, profile, recording, replay, replay_kernel, tech))
def _block_power(
    folder: Path,
    *,
    netlist: Path,
    module: str,
    black_boxes: tuple[str, ...],
    clocks: tuple[str, ...],
    when: Event,
    trace: Path,
    scopes: tuple[str, ...],
    population: int,
    cycles: int,
    liberty: tuple[tuple[Path, ...], ...],
    cells: CellRoles,
    wire: WireModel,
) -> tuple[tuple[PhasePower, ...], ...]:
    """For each corner (an entry of `liberty`) the power of each phase of `module`, from the traced instances at `scopes`."""
    libraries = [read_libraries(paths) for paths in liberty]
    mapped = read_netlist(netlist, libraries[0], top=module, black_boxes=black_boxes)
    ports = {name: len(port.nets) for name, port in mapped.ports.items() if name not in clocks}
    waveform = Waveform(trace)
    replayer = Replayer(mapped, clocks=clocks)
    profiles: list[dict[str, ActivityProfile]] = []
    for scope in scopes:
        recorded = record(waveform, scope=f"tb.dut.{scope}", clocks=clocks, ports=ports, event=when, cycles=cycles)
        profiles.append(replayer.replay(_settled(recorded), warm_up_cycles=TRACE_MARGIN_CYCLES))

    results = []
    for library in libraries:
        fo4_s = library_fo4_s(library, cells.inverter)
        pin_f = next(p.capacitance_f for p in library.cells[cells.inverter].pins.values() if p.direction == "input")
        model = PowerModel(
            mapped, library, clocks=clocks, input_slew_s=fo4_s, clock_slew_s=fo4_s, output_load_f=4 * pin_f, wire_cap_f=lambda n: net_wire_f(n, wire)
        )
        results.append(tuple(_phase_power(model, phase, profiles, population) for phase in _phases(profiles)))
    return tuple(results)


def net_wire_f(mapped: Netlist, wire: WireModel) -> np.ndarray:
    """Wire capacitance [nets] from the fan-out; nets without a sink inside are charged as with one."""
    sinks = np.maximum(np.diff(mapped.reader_start), 1)
    return wire.capacitance_per_um_f * (wire.length_base_um + wire.length_per_fanout_um * sinks)


def _settled(recorded: Recording) -> Recording:
    """Phases without the first cycles, in which registers settle, and only those long enough to count."""
    after = np.arange(recorded.cycles) >= TRACE_MARGIN_CYCLES
    phases = {name: mask & after for name, mask in recorded.phases.items() if (mask & after).sum() >= MIN_PHASE_CYCLES}
    if not phases:
        raise ToolError(f"recording must hold a phase of at least {MIN_PHASE_CYCLES} cycles, not none ({recorded.name}); record a longer window")
    return Recording(
        name=recorded.name, cycles=recorded.cycles, values=recorded.values, phases=phases, registers=recorded.registers, rises=recorded.rises
    )


def _phases(profiles: Sequence[Mapping[str, ActivityProfile]]) -> list[str]:
    """Phases that every sampled instance was in, in a fixed order."""
    return [phase for phase in ("active", "idle") if all(phase in instance for instance in profiles)]


def _phase_power(model: PowerModel, phase: str, profiles: Sequence[Mapping[str, ActivityProfile]], population: int) -> PhasePower:
    results = [model.evaluate(instance[phase]) for instance in profiles]
    energies = [result.energy_per_cycle_j for result in results]
    mean, error = sampled_mean(energies, population=population) if len(energies) > 1 or population == 1 else (energies[0], math.nan)
    whole = model.evaluate(combine([instance[phase] for instance in profiles]))
    scale = mean / whole.energy_per_cycle_j if whole.energy_per_cycle_j else 1.0
    return PhasePower(
        phase=phase,
        cycles=whole.cycles,
        internal_j=scale * whole.internal_per_cycle_j,
        switching_j=scale * whole.switching_per_cycle_j,
        clock_j=scale * whole.clock_per_cycle_j,
        lo_j=max(0.0, mean - NORMAL_90 * error),
        hi_j=mean + NORMAL_90 * error,
        leakage_w=float(np.mean([result.leakage_w for result in results])),
        annotated_fraction=min(result.annotated_fraction for result in results),
    )


@dataclass(frozen=True, kw_only=True)
class Trace:
    """A recorded window: the VCD file, its name in the tables, its batch, and core and memory cycles it holds at least."""

    path: Path
    workload: str
    batch: int
    core_cycles: int
    mem_cycles: int

    def cycles(self, domain: str, clocks: Sequence[str]) -> int:
        """Cycles that a block's recording has; a block with two clocks gets one for each edge of either (few coincide)."""
        if len(clocks) > 1:
            return max(self.core_cycles, self.mem_cycles)
        return self.mem_cycles if domain == "memory" else self.core_cycles


def design_rows(
    config: AcceleratorConfig,
    rtl: Rtl,
    traces: Sequence[Trace],
    *,
    technology: Technology,
    corners: Sequence[Corner],
    instances: int,
    cache: Path = DEFAULT_CACHE,
) -> tuple[list[dict], list[dict]]:
    """All rows of `flow.table.CORNER_COLUMNS` of one design: its blocks, the logic between them, its memories, and the whole; and its `PATH_COLUMNS` rows."""
    nominal = technology.nominal_corner()
    blocks = characterized(rtl.blocks)
    pes = tuple(sorted({block.module for block in blocks if block.name == "pe"}))
    outer = [block for block in blocks if block.name != "pe"]
    macros = {memory.module: SramMacro(words=memory.words, bits=memory.bits) for memory in rtl.macros}

    def mapped(module: str, clocks: Sequence[str], black_boxes: Sequence[str]) -> SynthResult:
        return synthesize(
            verilog=(rtl.modules, rtl.memories), module=module, clocks=clocks, technology=technology, corner=nominal, black_boxes=black_boxes,
            recipe=RECIPES["balanced"], clock_gating=config.clock_gating, cache=cache,
        )  # fmt: skip

    def timed(netlists: Sequence[SynthResult], module: str, clocks: Sequence[str], macro_liberty=None, groups=()) -> tuple[TimingResult, ...]:
        return time_design(
            netlists=[n.netlist for n in netlists], module=module, technology=technology, corners=corners, clocks=clocks, macro_liberty=macro_liberty,
            groups=groups, jobs=1, cache=cache,
        )  # fmt: skip

    boxes = {block.module: _inside(block, rtl, pes) for block in blocks}
    synthesized = {block.module: mapped(block.module, tuple(block.clocks), boxes[block.module]) for block in blocks}
    inverter = yardstick(technology, corners[0])
    liberty = {
        corner: [run_step(_macro_liberty, cache=cache, macros=tuple(macros.values()), sram=Path(technology.sram), inverter=inverter, corner=corner)]
        for corner in corners
    }
    rows: list[dict] = []
    for block in blocks:
        kind, result = KINDS[block.name], synthesized[block.module]
        children = [synthesized[pe] for pe in pes] if block.name == "pe_row" else []
        clocks = tuple(block.clocks)
        timings = timed([result, *children], block.module, clocks, liberty if set(boxes[block.module]) & set(macros) else None)
        base = _identity(config, technology) | {
            "block": block.name, "module": block.module, "instances": len(block.instances), "domain": _domain(block), "event": kind.event,
            "area_um2": result.area_um2, "provisional": technology.wire.provisional,
        }  # fmt: skip
        sample = sampled_instances(block, instances)
        for trace in traces:
            by_corner = run_step(
                _block_power, cache=cache, netlist=result.netlist_json, module=block.module, clocks=clocks, when=kind.when, trace=trace.path, scopes=sample,
                black_boxes=boxes[block.module],
                population=len(block.instances), cycles=trace.cycles(_domain(block), clocks), cells=technology.cells, wire=technology.wire,
                liberty=tuple(liberty_files(technology, corner, cache=cache) for corner in corners),
            )  # fmt: skip
            for corner, timing, phases in zip(corners, timings, by_corner, strict=True):
                shared = base | _corner(corner) | _delays(timing.clocks) | {"workload": trace.workload, "batch": trace.batch}
                rows += [shared | _energies(phase) for phase in phases]
    rows += _memory_rows(config, rtl, macros, technology=technology, corners=corners)
    glue = mapped("accelerator", ("core_clk", "mem_clk"), [block.module for block in outer] + list(macros))
    timings = timed([glue, *synthesized.values()], "accelerator", ("core_clk", "mem_clk"), liberty, register_groups(rtl))
    rows += _whole_rows(config, rows, glue, timings, technology=technology)
    return [{name: row[name] for name in CORNER_COLUMNS} for row in rows], _path_rows(config, timings, technology=technology)


def register_groups(rtl: Rtl) -> tuple[tuple[str, str], ...]:
    """Patterns of pins of the whole netlist and the group of each, the inner ones first: kinds of blocks, FIFOs by name, banks, accumulators.

    Below an instance of a characterized block the netlist is hierarchical ('/'); everything above is flat, with '.' in its names.
    """
    blocks = characterized(rtl.blocks)
    outer = [path for block in blocks if block.name != "pe" for path in block.instances]

    def pins(path: str) -> str:
        inside = next((p for p in outer if path.startswith(f"{p}.")), None)
        return f"{path}/*" if inside is None else f"{inside}/{path.removeprefix(f'{inside}.')}/*"

    memories = [(pins(path), f"sram_{path.split('.')[-1].split('_')[0]}") for memory in rtl.macros for path in memory.instances]
    pes = [pins(path) for block in blocks if block.name == "pe" for path in block.instances]
    groups = [*memories, *((f"{pattern.removesuffix('*')}acc_*", ACCUMULATORS) for pattern in pes), *((pattern, "pe") for pattern in pes)]
    for block in blocks:
        if block.name != "pe":
            groups += [(pins(path), path.split(".")[-1] if block.name == "two_clock_fifo" else block.name) for path in block.instances]
    return tuple(groups)


def _path_rows(config: AcceleratorConfig, timings: Sequence[TimingResult], *, technology: Technology) -> list[dict]:
    """Rows of `PATH_COLUMNS` of the whole design."""
    domains = {"core_clk": "core", "mem_clk": "memory"}
    rows = [
        _identity(config, technology) | _corner(timing.corner)
        | {"domain": domains[found.clock], "start": found.start_group, "end": found.end_group, "delay_s": found.path.delay_s,
           "start_pin": found.path.start, "end_pin": found.path.end}
        for timing in timings for found in timing.groups
    ]  # fmt: skip
    return [{name: row[name] for name in PATH_COLUMNS} for row in rows]


def _inside(block: Block, rtl: Rtl, pes: Sequence[str]) -> tuple[str, ...]:
    """Modules below a block that stay black boxes: the PEs of a row, and memory macros."""
    first = f"{block.instances[0]}."
    macros = tuple(memory.module for memory in rtl.macros if any(path.startswith(first) for path in memory.instances))
    return macros + (tuple(pes) if block.name == "pe_row" else ())


def _identity(config: AcceleratorConfig, technology: Technology) -> dict:
    """The columns that say which design and technology a row is about."""
    precision = f"a{config.precision.activation_bits}w{config.precision.weight_bits}"
    named = {"table_version": TABLE_VERSION, "technology": technology.name, "design": config.name, "layout": "fanout", "precision": precision}
    return named | parameters_of(config)


def _domain(block: Block) -> str:
    """`memory` for blocks that only the memory clock reaches; a FIFO between both belongs to the domain that scales."""
    return "memory" if set(block.clocks.values()) == {"mem"} else "core"


def _corner(corner: Corner) -> dict:
    return {name: getattr(corner, name) for name in ("process", "vdd_v", "temperature_c", "back_bias_v", "sram_vdd_v")}


def _delays(clocks: Sequence[ClockTiming]) -> dict:
    """The longest path of each class over the clocks, 0 where there is none."""
    columns = {"min_period_s": "reg_to_reg", "input_to_register_s": "input_to_reg", "register_to_output_s": "reg_to_output"}
    return {
        column: max((path.delay_s for path in (getattr(clock, kind) for clock in clocks) if path is not None), default=0.0)
        for column, kind in columns.items()
    }


def _energies(phase: PhasePower) -> dict:
    return {
        "phase": phase.phase, "cycles": phase.cycles, "leakage_w": phase.leakage_w, "annotated_fraction": phase.annotated_fraction,
        "energy_internal_per_cycle_j": phase.internal_j, "energy_switching_per_cycle_j": phase.switching_j, "energy_clock_per_cycle_j": phase.clock_j,
        "energy_per_cycle_j": phase.internal_j + phase.switching_j + phase.clock_j, "energy_per_cycle_lo_j": phase.lo_j, "energy_per_cycle_hi_j": phase.hi_j,
    }  # fmt: skip


def _memory_rows(
    config: AcceleratorConfig, rtl: Rtl, macros: Mapping[str, SramMacro], *, technology: Technology, corners: Sequence[Corner]
) -> list[dict]:
    """Rows of the memory macros, from the laws of `flow.sram`: one for a read, one for a write."""
    rows = []
    sram, inverter = load_sram_technology(Path(technology.sram)), yardstick(technology, corners[0])
    for memory in rtl.macros:
        for corner in corners:
            figures = sram_figures(macros[memory.module], tech=sram, inverter=inverter, corner=corner)
            shared = _identity(config, technology) | _corner(corner) | {
                "block": "sram", "module": memory.module, "instances": len(memory.instances), "domain": "core", "workload": "law", "batch": 1,
                "cycles": 0, "area_um2": figures.area_um2, "leakage_w": figures.leakage_w, "min_period_s": figures.cycle_s,
                "input_to_register_s": figures.setup_s, "register_to_output_s": figures.access_s, "energy_clock_per_cycle_j": 0.0,
                "energy_switching_per_cycle_j": 0.0, "annotated_fraction": 1.0, "provisional": figures.provisional, "phase": "active",
            }  # fmt: skip
            for event, energy_j in (("read", figures.read_energy_j), ("write", figures.write_energy_j)):
                energies = {f"energy_{part}_j": energy_j for part in ("internal_per_cycle", "per_cycle", "per_cycle_lo", "per_cycle_hi")}
                rows.append(shared | {"event": event} | energies)
    return rows


@step(version=1)
def _macro_liberty(folder: Path, *, macros: tuple[SramMacro, ...], sram: Path, inverter: Yardstick, corner: Corner) -> Path:
    path = folder / "macros.lib"
    tech_constants = load_sram_technology(sram)
    write_sram_liberty([sram_figures(macro, tech=tech_constants, inverter=inverter, corner=corner) for macro in macros], path)
    return path


def _whole_rows(config: AcceleratorConfig, rows: list[dict], glue: SynthResult, timings: Sequence[TimingResult], *, technology: Technology) -> list[dict]:
    """The whole design at each corner: timed with all its netlists and memories linked; area and leakage added up over its blocks and
    the logic between them. Its energy is that of a cycle of the first workload, blocks weighted with the cycles they spent in each phase."""
    first = next(row["workload"] for row in rows if row["block"] == "compute")
    found = []
    for timing in timings:
        corner = timing.corner
        here = [row for row in rows if all(row[key] == value for key, value in _corner(corner).items())]
        once = {row["module"]: row for row in here}.values()
        parts = [row for row in here if row["workload"] == first]
        total = {row["module"]: sum(x["cycles"] for x in parts if x["module"] == row["module"]) for row in parts}
        energy = {
            key: sum(row[key] * row["instances"] * row["cycles"] / total[row["module"]] for row in parts)
            for key in parts[0] if key.startswith("energy_")
        }  # fmt: skip
        found.append(
            _identity(config, technology) | _corner(corner) | _delays([timing["core_clk"]]) | energy
            | {
                "block": "accelerator", "module": "accelerator", "instances": 1, "domain": "core", "workload": first, "batch": 1, "event": "cycle",
                "phase": "active", "cycles": max(total.values()), "provisional": True,
                "area_um2": glue.area_um2 + sum(row["area_um2"] * row["instances"] for row in once),
                "leakage_w": sum(row["leakage_w"] * row["instances"] for row in once),
                "annotated_fraction": min(row["annotated_fraction"] for row in parts),
            }
        )  # fmt: skip
    return found
