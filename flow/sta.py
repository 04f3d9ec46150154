"""Static timing of mapped netlists with OpenSTA, one process per corner.

The clock is ideal: no skew, sharp edges. Wires are those of a placement (SPEF), or those expected before it
(`flow.tech.wire_capacitance_f`), as capacitance only. Inputs are driven by the technology's buffer,
outputs carry four inverters.

Paths are kept in four classes, so that blocks timed alone compose into a design: what a path
from one block's register to another's needs is `reg_to_output` of the first plus `input_to_reg`
of the second. In a whole design the slowest path between any two groups of registers can be
asked for: it goes through the ports that are really connected, with the loads they really have.
"""

import os
import re
from collections.abc import Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path

from flow import tech
from flow.cache import DEFAULT_CACHE, run_step, step
from flow.corner import Corner
from flow.tech import CellRoles, Technology, WireModel, liberty_files, plain_liberty, read_libraries, wire_load_group
from flow.tools import ToolRun, find_tool, last_lines, parse_metrics, run_tool
from hw.errors import ConfigError, ToolError

_CLASSES = {  # class of path: the clock it starts at and the one it ends at, {0} being the real one
    "reg_to_reg": ("{0}", "{0}"),
    "input_to_reg": ("{0}__inputs", "{0}"),
    "reg_to_output": ("{0}", "{0}__outputs"),
    "input_to_output": ("{0}__inputs", "{0}__outputs"),
}
OTHER_GROUP = "glue"
"""Registers that belong to no group."""
# Long against every path, so that slack is positive and one from one edge of a clock to the other shows: half of the period counts as its
# delay. Short enough for OpenSTA's single precision.
_LONG_PERIOD_PS = 1e5


@dataclass(frozen=True, kw_only=True)
class TimedPath:
    """The slowest path of a class. `delay_s` is what it takes of a clock period: from the clock edge or the
    input, through the logic, to the output or to the next edge with the setup time before it."""

    delay_s: float
    start: str
    end: str


@dataclass(frozen=True, kw_only=True)
class ClockTiming:
    """Timing of one clock domain of a module; None where it has no path of a class.

    `hold_slack_s` is the least slack of hold from register to register; negative means a violation.
    """

    clock: str
    reg_to_reg: TimedPath | None
    input_to_reg: TimedPath | None
    reg_to_output: TimedPath | None
    input_to_output: TimedPath | None
    hold_slack_s: float | None

    @property
    def min_period_s(self) -> float:
        """Shortest clock period of the module by itself: no path of any class takes longer. 0 if it has no path."""
        return max((path.delay_s for path in self._paths()), default=0.0)

    @property
    def critical_path(self) -> TimedPath | None:
        """The path that sets `min_period_s`."""
        return max(self._paths(), key=lambda path: path.delay_s, default=None)

    def _paths(self) -> list[TimedPath]:
        return [path for path in (getattr(self, name) for name in _CLASSES) if path is not None]


@dataclass(frozen=True, kw_only=True)
class GroupPath:
    """The slowest path from one group of registers to another (or to itself) that one clock drives."""

    clock: str
    start_group: str
    end_group: str
    path: TimedPath


@dataclass(frozen=True, kw_only=True)
class TimingResult:
    """Timing of a module at one corner, one entry for each clock in the order asked for.

    `untimed_endpoints` counts flop inputs and outputs that no timed path reaches, such as those tied to a constant.
    `groups` holds the slowest path between any two groups of registers that have one.
    """

    module: str
    corner: Corner
    clocks: tuple[ClockTiming, ...]
    untimed_endpoints: int
    groups: tuple[GroupPath, ...] = ()

    def __getitem__(self, clock: str) -> ClockTiming:
        return next(timing for timing in self.clocks if timing.clock == clock)


def boundary_delay_s(driver: ClockTiming, receiver: ClockTiming) -> float:
    """Period that paths from the registers of one block straight into those of another need."""
    return sum(path.delay_s for path in (driver.reg_to_output, receiver.input_to_reg) if path is not None)


def time_design(
    *,
    netlists: Sequence[Path],
    module: str,
    technology: Technology,
    corners: Sequence[Corner],
    clocks: Sequence[str],
    macro_liberty: Mapping[Corner, Sequence[Path]] | None = None,
    spef: Path | None = None,
    groups: Sequence[tuple[str, str]] = (),
    timeout_s: float = 900.0,
    jobs: int | None = None,
    cache: Path = DEFAULT_CACHE,
) -> tuple[TimingResult, ...]:
    """Timing of `module` at each of `corners`, in their order.

    `netlists` are the mapped Verilog files of the module and of all modules below it: one file for a
    block, all of them for a whole design. `clocks` names its clock ports; several are asynchronous to one
    another. `macro_liberty` gives the Liberty files of SRAM macros for each corner, made for the corner's
    `sram_vdd_v`. `spef` holds the wires, with the names of `netlists`. `groups` are (pattern of hierarchical pin names, as of
    Tcl's `string match`; name of the group): a register is in the first one that it matches, else in `OTHER_GROUP`.
    `jobs` corners run at a time (default: one per processor).

    Raises `ConfigError` for a corner without Liberty or an unknown clock port, `ToolError` if OpenSTA
    fails, an instance has no definition, a register has no clock, or paths do not take a whole period.
    """
    if len(set(clocks)) != len(clocks) or not clocks:
        raise ConfigError(f"clocks must be different ports, at least one, not {list(clocks)}")

    def time_corner(corner: Corner) -> TimingResult:
        macros = (macro_liberty or {}).get(corner, ())
        timings, untimed, between = run_step(
            _time,
            cache=cache,
            netlists=tuple(Path(path).absolute() for path in netlists),
            module=module,
            clocks=tuple(clocks),
            liberty=liberty_files(technology, corner, cache=cache),
            macros=tuple(plain_liberty(path, vdd_v=corner.sram_vdd_v, temperature_c=corner.temperature_c, cache=cache) for path in macros),
            cells=technology.cells,
            wire=technology.wire,
            spef=spef,
            groups=tuple(groups),
            timeout_s=timeout_s,
        )
        return TimingResult(module=module, corner=corner, clocks=timings, untimed_endpoints=untimed, groups=between)

    with ThreadPoolExecutor(max_workers=jobs or os.cpu_count() or 1) as pool:
        futures = [pool.submit(time_corner, corner) for corner in corners]
        try:
            return tuple(future.result() for future in futures)
        except BaseException:
            pool.shutdown(cancel_futures=True)
            raise


# OpenSTA says most of what is wrong in a warning, and exits with 0 even after an error.
_ERRORS = (r"\bError:", r"Creating black box", r"Warning: (port|pin|instance|cell|clock|net|liberty cell) .*not found", r"unclocked", r"combinational loop",
           r"Warning: \S+, line \d+ .*not found")  # fmt: skip


@step(version=3, tools=("sta",), modules=(tech,))
def _time(
    folder: Path,
    *,
    netlists: tuple[Path, ...],
    module: str,
    clocks: tuple[str, ...],
    liberty: tuple[Path, ...],
    macros: tuple[Path, ...],
    cells: CellRoles,
    wire: WireModel,
    spef: Path | None,
    groups: tuple[tuple[str, str], ...],
    timeout_s: float,
) -> tuple[tuple[ClockTiming, ...], int, tuple[GroupPath, ...]]:
    library = read_libraries(liberty)
    inverter = library.cells[cells.inverter]
    load_f = 4 * sum(pin.capacitance_f for pin in inverter.pins.values() if pin.direction == "input")
    (folder / "wires.lib").write_text(_wire_liberty(wire), encoding="utf-8")
    script = [
        *(f"read_liberty {{{path}}}" for path in (*liberty, *macros, "wires.lib")),
        *(f"read_verilog {{{path}}}" for path in netlists),
        f"link_design {module}",
        f"set load_ff {load_f * 1e15!r}",
        f"set buffer {cells.buffer}",
        f"set clocks {{{' '.join(clocks)}}}",
        f"set period_ps {_LONG_PERIOD_PS!r}",
        "set_cmd_units -time ps -capacitance fF",
        f"read_spef {{{spef}}}" if spef else "set_wire_load_mode top\nset_wire_load_model -name expected -library voltfront_wires",
        _TCL,
    ]
    if groups:
        script += [f"set groups {{{' '.join(f'{{{pattern}}} {name}' for pattern, name in groups)}}}", _GROUPS_TCL]
    script += ["check_setup -no_clock -loops -unconstrained_endpoints"]
    for clock in clocks:
        script += [f"report_class {name} {{{clock}}} {{{start.format(clock)}}} {{{end.format(clock)}}}" for name, (start, end) in _CLASSES.items()]
        script += [f"report_hold {{{clock}}}"]
    if groups:
        script += [f"report_groups {{{clock}}}" for clock in clocks]
    script += ['puts "METRIC longest $::longest_ps ps"']
    (folder / "sta.tcl").write_text("\n".join(script) + "\n", encoding="utf-8")
    run = run_tool([find_tool("sta"), "-no_init", "-no_splash", "-exit", "sta.tcl"], cwd=folder, timeout_s=timeout_s, step="sta", error_patterns=_ERRORS)
    untimed = re.search(r"There (?:is|are) (\d+) unconstrained endpoint", run.output)
    return _read_timings(run, module, clocks), int(untimed[1]) if untimed else 0, _read_groups(run)


def _wire_liberty(wire: WireModel) -> str:
    """A library with nothing but the expected wires."""
    thresholds = "".join(
        f"  {kind}_threshold_pct_{edge} : {value};\n"
        for kind, value in (("input", 50), ("output", 50), ("slew_lower", 20), ("slew_upper", 80))
        for edge in ("rise", "fall")
    )
    return (
        f'library (voltfront_wires) {{\n  time_unit : "1ps";\n  voltage_unit : "1V";\n  current_unit : "1uA";\n'
        f'  pulling_resistance_unit : "1kohm";\n  leakage_power_unit : "1nW";\n  capacitive_load_unit (1, ff);\n{thresholds}'
        f"  nom_process : 1;\n  nom_voltage : 1;\n  nom_temperature : 25;\n{wire_load_group(wire, 1e-15)}}}\n"
    )


# The inputs and outputs of each clock get virtual clocks of their own, so that the clocks at
# which a path starts and ends tell its class.
_TCL = r"""

proc make_clocks {period_ps} {
  foreach clock $::clocks {
    create_clock -name $clock -period $period_ps [get_ports $clock]
    create_clock -name ${clock}__inputs -period $period_ps
    create_clock -name ${clock}__outputs -period $period_ps
  }
}
make_clocks $period_ps

set inputs {}
foreach port [all_inputs] {
  if {[lsearch -exact $clocks [get_property $port full_name]] < 0} { lappend inputs $port }
}
foreach clock $clocks {
  if {[llength $inputs]} { set_input_delay 0 -add_delay -clock ${clock}__inputs $inputs }
  if {[llength [all_outputs]]} { set_output_delay 0 -add_delay -clock ${clock}__outputs [all_outputs] }
}
if {[llength $inputs]} { set_driving_cell -lib_cell $buffer $inputs }
if {[llength [all_outputs]]} { set_load $load_ff [all_outputs] }
if {[llength $clocks] > 1} {
  set groups {}
  foreach clock $clocks { lappend groups -group [get_clocks [list $clock ${clock}__inputs ${clock}__outputs]] }
  eval set_clock_groups -asynchronous $groups
}

set longest_ps 0

# OpenSTA returns the worst path of each group: checks of asynchronous resets are a group of their own.
proc worst_path {from to min_max} {
  set worst {}
  foreach path [find_timing_paths -from [get_clocks [list $from]] -to [get_clocks [list $to]] -path_delay $min_max] {
    if {$worst eq {} || [get_property $path slack] < [get_property $worst slack]} { set worst $path }
  }
  return $worst
}
proc report_class {class clock start end} {
  set path [worst_path $start $end max]
  puts "METRIC $class.$clock.paths [expr {$path ne {}}] 1"
  if {$path eq {}} { return }
  set delay_ps [expr {$::period_ps - [get_property $path slack]}]
  if {$delay_ps > $::longest_ps} { set ::longest_ps $delay_ps }
  puts "METRIC $class.$clock.delay $delay_ps ps"
  puts "NAME $class.$clock.start [get_property [get_property $path startpoint] full_name]"
  puts "NAME $class.$clock.end [get_property [get_property $path endpoint] full_name]"
}
proc report_hold {clock} {
  set path [worst_path $clock $clock min]
  puts "METRIC hold.$clock.paths [expr {$path ne {}}] 1"
  if {$path ne {}} { puts "METRIC hold.$clock.slack [get_property $path slack] ps" }
}
"""


# Each group of registers is the start of a path group, so that the one search of the arrivals keeps the worst path from each of them to
# every endpoint. A search from the pins of one group at a time would propagate all that it reaches anew.
_GROUPS_TCL = r"""
set group_cache [dict create]
proc group_of {pin} {
  regsub {\[\d+\].*$} $pin {} word
  if {[dict exists $::group_cache $word]} { return [dict get $::group_cache $word] }
  set group %OTHER%
  foreach {pattern name} $::groups { if {[string match $pattern $word]} { set group $name; break } }
  dict set ::group_cache $word $group
  return $group
}
set starts [dict create]
foreach clock $clocks {
  foreach pin [all_registers -clock_pins -clock [get_clocks [list $clock]]] {
    dict lappend starts [list $clock [group_of [get_property $pin full_name]]] $pin
  }
}
dict for {start pins} $starts { group_path -name $start -from $pins -to [get_clocks [list [lindex $start 0]]] }

proc report_groups {clock} {
  set worst [dict create]
  foreach start [dict keys $::starts [list $clock *]] { dict set worst [lindex $start 1] [dict create] }
  set real [get_clocks [list $clock]]
  foreach path [find_timing_paths -from $real -to $real -path_delay max -group_count 1000000 -endpoint_count 1] {
    set start [group_of [get_property [get_property $path startpoint] full_name]]
    set end [group_of [get_property [get_property $path endpoint] full_name]]
    set slack [get_property $path slack]
    if {![dict exists $worst $start $end] || $slack < [lindex [dict get $worst $start $end] 0]} { dict set worst $start $end [list $slack $path] }
  }
  dict for {start ends} $worst {
    dict for {end found} $ends {
      set path [lindex $found 1]
      puts "GROUP $clock $start $end [expr {$::period_ps - [lindex $found 0]}]\
 [get_property [get_property $path startpoint] full_name] [get_property [get_property $path endpoint] full_name]"
    }
  }
}
""".replace("%OTHER%", OTHER_GROUP)


def _read_groups(run: ToolRun) -> tuple[GroupPath, ...]:
    found = []
    for line in run.output.splitlines():
        if line.startswith("GROUP "):
            _, clock, start_group, end_group, delay_ps, start, end = line.split(" ")
            path = TimedPath(delay_s=float(delay_ps) * 1e-12, start=start, end=end)
            found.append(GroupPath(clock=clock, start_group=start_group, end_group=end_group, path=path))
    return tuple(found)


def _read_timings(run: ToolRun, module: str, clocks: Sequence[str]) -> tuple[ClockTiming, ...]:
    counts = [f"{name}.{clock}.paths" for clock in clocks for name in (*_CLASSES, "hold")]
    metrics = parse_metrics(run.output, [*counts, "longest"], step="sta")
    names = dict(line.removeprefix("NAME ").split(" ", 1) for line in run.output.splitlines() if line.startswith("NAME "))

    def value_s(name: str) -> float:
        if name not in metrics or metrics[name].unit != "ps":
            raise ToolError(f"sta: metric {name} must be printed in ps; last lines: {last_lines(run.output)}")
        return metrics[name].value * 1e-12

    def path(name: str, clock: str) -> TimedPath | None:
        if metrics[f"{name}.{clock}.paths"].value == 0:
            return None
        return TimedPath(delay_s=value_s(f"{name}.{clock}.delay"), start=names[f"{name}.{clock}.start"], end=names[f"{name}.{clock}.end"])

    longest_s, half_period_s = value_s("longest"), _LONG_PERIOD_PS / 2 * 1e-12
    if longest_s == 0:
        raise ToolError(f"module {module} must have a timed path, not none; check that its Liberty gives delays (delay_model : table_lookup)")
    if longest_s >= half_period_s:
        raise ToolError(
            f"paths of {module} must take whole clock periods and less than {half_period_s:.3g} s, not parts of periods or {longest_s:.3g} s;"
            " use one edge of each clock"
        )
    return tuple(
        ClockTiming(
            clock=clock,
            **{name: path(name, clock) for name in _CLASSES},
            hold_slack_s=value_s(f"hold.{clock}.slack") if metrics[f"hold.{clock}.paths"].value else None,
        )
        for clock in clocks
    )
