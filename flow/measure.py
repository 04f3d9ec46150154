"""Rows of the corner table for one design: synthesis, placement, timing, replayed activity and power of each of its blocks at each corner."""

import math
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from flow.block_power import PhasePower, block_power
from flow.cache import DEFAULT_CACHE, run_step, step
from flow.corner import Corner
from flow.glitch import GlitchFactor, glitch_factor
from flow.mapped_design import GLUE, KINDS, MappedDesign, MappedModule, sampled_instances
from flow.simulation import Rtl
from flow.sram import sram_figures
from flow.sta import ClockTiming, TimingResult
from flow.table import CORNER_COLUMNS, PATH_COLUMNS, TABLE_VERSION, parameters_of
from flow.tech import Technology
from flow.timing_netlist import TimingModule, original_name
from hw.config import AcceleratorConfig
from hw.emit import TOP, Block

LAYOUTS = ("fanout", "placed")
"""Wires before placement, expected from the fan-out, with an ideal clock; and those of a placement, with clock trees."""
GLITCH_INSTANCES, GLITCH_CYCLES = 2, 300
"""Sample of PEs and of recorded cycles each that are simulated with delays."""
NO_GLITCHES = GlitchFactor(mean=1.0, lo=1.0, hi=1.0, cycles=0)


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
    layouts: Sequence[str] = LAYOUTS,
    cache: Path = DEFAULT_CACHE,
) -> tuple[list[dict], list[dict]]:
    """All rows of `flow.table.CORNER_COLUMNS` of one design: its blocks, the logic between them, its memories, and the whole; and its `PATH_COLUMNS` rows."""
    design = MappedDesign(config=config, rtl=rtl, technology=technology, corners=tuple(corners), cache=cache)
    rows, paths = [], []
    for layout in layouts:
        found = _layout_rows(design, layout, traces, instances)
        rows += found[0]
        paths += found[1]
    return [{name: row[name] for name in CORNER_COLUMNS} for row in rows], [{name: row[name] for name in PATH_COLUMNS} for row in paths]


def _layout_rows(design: MappedDesign, layout: str, traces: Sequence[Trace], instances: int) -> tuple[list[dict], list[dict]]:
    """Rows of both tables of one layout."""
    mapped = design.layout(layout)
    loads = design.loads(mapped)
    technology = design.technology
    identity = _identity(design.config, technology, layout)
    skew = 0.0
    if layout == "placed":
        assert technology.placement is not None  # else nothing could be placed
        skew = technology.placement.clock_skew_fraction
    rows: list[dict] = []
    latency_s: dict[Corner, dict[str, float]] = {corner: {} for corner in design.corners}
    wholes, paths = [], []
    for block in design.blocks:
        kind, module, clocks = KINDS[block.name], mapped[block.module], tuple(block.clocks)
        boxes = tuple(design.synthesized[block.module].black_box_counts)
        base = identity | {
            "block": block.name, "module": block.module, "instances": len(block.instances), "domain": _domain(block), "event": kind.event,
            "area_um2": module.area_um2, "provisional": technology.wire.provisional,
        }  # fmt: skip
        powers = [
            run_step(
                block_power, cache=design.cache, netlist=module.netlist, places=module.places, module=block.module, clocks=clocks, when=kind.when,
                trace=trace.path, scopes=sampled_instances(block, instances), boxes={kind: loads[kind] for kind in boxes},
                population=len(block.instances), cycles=trace.cycles(_domain(block), clocks), cells=technology.cells, wire=technology.wire,
                liberty=design.liberty,
            )
            for trace in traces
        ]  # fmt: skip
        timings = design.time(block.module, clocks, mapped)
        glitches = NO_GLITCHES
        if block.name == "pe" and module.placed:
            latencies_s = [max(power[number].clock_latency_s for power in powers) for number in range(len(design.corners))]
            glitches = _glitches(design, block, module, traces[0], timings, latencies_s, instances)
        # What is inside a black box counts from the clock port of the box on.
        held = [kind for kind in design.below(block.module)[1:]]
        for number, (corner, timing) in enumerate(zip(design.corners, timings, strict=True)):
            own_s = max(power[number].clock_latency_s for power in powers)
            latency_s[corner][block.module] = own_s + max((latency_s[corner][kind] for kind in held), default=0.0)
            delays = _delays(timing.clocks, skew * latency_s[corner][block.module])
            extra = {"clock_latency_s": latency_s[corner][block.module], "hold_slack_s": _hold_slack_s(timing.clocks, skew * latency_s[corner][block.module])}
            if block is GLUE:
                names = design.names(TOP, mapped) if module.placed else None
                wholes.append((corner, _delays([timing["core_clk"]], skew * latency_s[corner][TOP]), extra, _critical_path(timing["core_clk"], names)))
                paths += _path_rows(identity, timing, names)
                # The paths between the blocks are those of the whole design; the logic between them has none of its own.
                delays = dict.fromkeys(delays, 0.0)
            for trace, power in zip(traces, powers, strict=True):
                shared = base | _corner(corner) | delays | extra | {"workload": trace.workload, "batch": trace.batch, "critical_path": ""}
                rows += [shared | _energies(phase, glitches) for phase in power[number].phases]
    rows += _memory_rows(design, identity)
    return rows + _whole_rows(design, identity, rows, wholes), paths


def _glitches(
    design: MappedDesign, block: Block, module: MappedModule, trace: Trace, timings: Sequence[TimingResult], latencies_s: Sequence[float], instances: int
) -> GlitchFactor:
    """The glitch factor of a PE at the nominal corner: gates slow down alike at another supply, so it hardly depends on it."""
    nominal = min(timings, key=lambda timing: abs(timing.corner.vdd_v - design.technology.nominal_vdd_v))
    at = design.corners.index(nominal.corner)
    period_s = 3 * max(clock.min_period_s for clock in nominal.clocks)
    return run_step(
        glitch_factor, cache=design.cache, netlist=module.netlist, places=module.places, module=block.module, clocks=tuple(block.clocks),
        when=KINDS[block.name].when, trace=trace.path, scopes=sampled_instances(block, instances)[:GLITCH_INSTANCES], cycles=GLITCH_CYCLES,
        trace_cycles=trace.cycles(_domain(block), tuple(block.clocks)),
        liberty=tuple(unconditional(path, cache=design.cache) for path in design.liberty[at]), wire=design.technology.wire, period_s=period_s,
        clock_latency_s=latencies_s[at],
    )  # fmt: skip


def unconditional(liberty: Path, *, cache: Path = DEFAULT_CACHE) -> Path:
    """A Liberty file whose SDF has no delays under a condition, of which not every spelling can be read; each pin keeps its delays over all of
    them. The file itself if it has none."""
    return run_step(_unconditional, cache=cache, liberty=liberty) if "sdf_cond" in liberty.read_text(encoding="utf-8") else liberty


_SDF_CONDITION = re.compile(r"^\s*sdf_cond\w*\s*:.*$", re.MULTILINE)


@step(version=1)
def _unconditional(folder: Path, *, liberty: Path) -> Path:
    path = folder / liberty.name
    path.write_text(_SDF_CONDITION.sub("", liberty.read_text(encoding="utf-8")), encoding="utf-8")
    return path


def _critical_path(timing: ClockTiming, names: Mapping[str, TimingModule] | None) -> str:
    """Start and end of the longest path from register to register, by the names of the netlist."""
    path = timing.reg_to_reg
    return " -> ".join(_pin_name(pin, names) for pin in (path.start, path.end)) if path is not None else ""


def _path_rows(identity: dict, timing: TimingResult, names: Mapping[str, TimingModule] | None) -> list[dict]:
    """Rows of `PATH_COLUMNS` of the whole design at one corner."""
    domains = {"core_clk": "core", "mem_clk": "memory"}
    return [
        identity | _corner(timing.corner)
        | {"domain": domains[found.clock], "start": found.start_group, "end": found.end_group, "delay_s": found.path.delay_s,
           "start_pin": _pin_name(found.path.start, names), "end_pin": _pin_name(found.path.end, names)}
        for found in timing.groups
    ]  # fmt: skip


def _pin_name(pin: str, names: Mapping[str, TimingModule] | None) -> str:
    return pin if names is None else original_name(names, TOP, pin)


def _identity(config: AcceleratorConfig, technology: Technology, layout: str) -> dict:
    """The columns that say which design and technology a row is about."""
    precision = f"a{config.precision.activation_bits}w{config.precision.weight_bits}"
    named = {"table_version": TABLE_VERSION, "technology": technology.name, "design": config.name, "layout": layout, "precision": precision}
    return named | parameters_of(config)


def _domain(block: Block) -> str:
    """Whose supply the block stands on (`hw.constraints.upf`): the memory side's if the memory's clock reaches it, so that this clock never meets
    a slow core voltage. What lies between the blocks is the core's."""
    return "memory" if block is not GLUE and "mem" in block.clocks.values() else "core"


def _corner(corner: Corner) -> dict:
    return {name: getattr(corner, name) for name in ("process", "vdd_v", "temperature_c", "back_bias_v", "sram_vdd_v")}


def _delays(clocks: Sequence[ClockTiming], skew_s: float) -> dict:
    """The longest path of each class over the clocks, 0 where there is none. Between registers the clock's skew is lost."""
    columns = {"min_period_s": "reg_to_reg", "input_to_register_s": "input_to_reg", "register_to_output_s": "reg_to_output"}
    delays = {
        column: max((path.delay_s for path in (getattr(clock, kind) for clock in clocks) if path is not None), default=0.0)
        for column, kind in columns.items()
    }
    return delays | {"min_period_s": delays["min_period_s"] + skew_s if delays["min_period_s"] else 0.0}


def _hold_slack_s(clocks: Sequence[ClockTiming], skew_s: float) -> float:
    """The least slack of hold with the clock's skew; 0 where there is no such path."""
    slacks = [clock.hold_slack_s for clock in clocks if clock.hold_slack_s is not None]
    return min(slacks) - skew_s if slacks else 0.0


def _energies(phase: PhasePower, glitches: GlitchFactor) -> dict:
    """The energies of a phase; in active cycles logic moves more than its settled values tell."""
    data_j, total_j = phase.internal_j + phase.switching_j, phase.internal_j + phase.switching_j + phase.clock_j
    factor = glitches if phase.phase == "active" else NO_GLITCHES
    energy_j = total_j + (factor.mean - 1) * data_j
    # Sampling of instances and of glitches are independent.
    half_j = math.hypot((phase.hi_j - total_j) * factor.mean, (factor.hi - factor.mean) * data_j)
    return {
        "phase": phase.phase, "cycles": phase.cycles, "leakage_w": phase.leakage_w, "annotated_fraction": phase.annotated_fraction,
        "energy_internal_per_cycle_j": phase.internal_j * factor.mean, "energy_switching_per_cycle_j": phase.switching_j * factor.mean,
        "energy_clock_per_cycle_j": phase.clock_j, "energy_per_cycle_j": energy_j, "energy_per_cycle_lo_j": max(0.0, energy_j - half_j),
        "energy_per_cycle_hi_j": energy_j + half_j, **_glitch_columns(factor),
    }  # fmt: skip


def _glitch_columns(factor: GlitchFactor) -> dict:
    return {"glitch_factor": factor.mean, "glitch_factor_lo": factor.lo, "glitch_factor_hi": factor.hi}


def _memory_rows(design: MappedDesign, identity: dict) -> list[dict]:
    """Rows of the memory macros, from the laws of `flow.sram`: one for a read, one for a write."""
    rows = []
    for memory in design.rtl.macros:
        for corner in design.corners:
            figures = sram_figures(design.macros[memory.module], tech=design.sram, inverter=design.inverter(corner), corner=corner)
            shared = identity | _corner(corner) | {
                "block": "sram", "module": memory.module, "instances": len(memory.instances), "domain": "core", "workload": "law", "batch": 1,
                "cycles": 0, "area_um2": figures.area_um2, "leakage_w": figures.leakage_w, "min_period_s": figures.cycle_s,
                "input_to_register_s": figures.setup_s, "register_to_output_s": figures.access_s, "energy_clock_per_cycle_j": 0.0,
                "energy_switching_per_cycle_j": 0.0, "annotated_fraction": 1.0, "provisional": figures.provisional, "phase": "active",
                "clock_latency_s": 0.0, "hold_slack_s": 0.0, "critical_path": "", **_glitch_columns(NO_GLITCHES),
            }  # fmt: skip
            for event, energy_j in (("read", figures.read_energy_j), ("write", figures.write_energy_j)):
                energies = {f"energy_{part}_j": energy_j for part in ("internal_per_cycle", "per_cycle", "per_cycle_lo", "per_cycle_hi")}
                rows.append(shared | {"event": event} | energies)
    return rows


def _whole_rows(design: MappedDesign, identity: dict, rows: Sequence[dict], wholes: Sequence[tuple]) -> list[dict]:
    """The whole design at each corner: timed with all its netlists and memories linked; area and leakage added up over its blocks.
    Its energy is that of a cycle of the first workload, blocks weighted with the cycles they spent in each phase."""
    first = next(row["workload"] for row in rows if row["block"] == "compute")
    found = []
    for corner, delays, extra, critical_path in wholes:
        here = [row for row in rows if all(row[key] == value for key, value in _corner(corner).items())]
        once = {row["module"]: row for row in here}.values()
        parts = [row for row in here if row["workload"] == first]
        total = {row["module"]: sum(x["cycles"] for x in parts if x["module"] == row["module"]) for row in parts}
        energy = {
            key: sum(row[key] * row["instances"] * row["cycles"] / total[row["module"]] for row in parts)
            for key in parts[0] if key.startswith("energy_")
        }  # fmt: skip
        found.append(
            identity | _corner(corner) | delays | extra | energy
            | {
                "block": "accelerator", "module": "accelerator", "instances": 1, "domain": "core", "workload": first, "batch": 1, "event": "cycle",
                "phase": "active", "cycles": max(total.values()), "provisional": True, "critical_path": critical_path,
                "area_um2": sum(row["area_um2"] * row["instances"] for row in once),
                "leakage_w": sum(row["leakage_w"] * row["instances"] for row in once),
                "annotated_fraction": min(row["annotated_fraction"] for row in parts), **_glitch_columns(NO_GLITCHES),
            }
        )  # fmt: skip
    return found
