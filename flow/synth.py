"""Synthesis of one module into library cells with Yosys, and the checks that its netlist must pass.

A design is synthesized hierarchically: each distinct module once, with the modules that are
characterized apart as black boxes. Submodules that are not black boxes are flattened into it.
"""

import json
import re
import shutil
import sys
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from flow import fanout, tech
from flow import netlist as netlist_module
from flow.cache import DEFAULT_CACHE, run_step, step
from flow.corner import Corner
from flow.fanout import buffer_large_nets, net_sinks
from flow.liberty import Library
from flow.netlist import Netlist, read_netlist
from flow.tech import CellRoles, Technology, WireModel, liberty_files, read_libraries, wire_load_group
from flow.tools import ToolRun, last_lines, run_tool
from flow.verilog import module_source
from hw.errors import ConfigError, ToolError


@dataclass(frozen=True, kw_only=True)
class Recipe:
    """How logic is mapped. `mapping` is the part of the ABC script that restructures and maps.

    Nets of more than `max_fanout` sinks are buffered. Groups of at least `gated_flops_min` flops that
    share an enable get a clock gate. Where no target period is given, gates are sized for the shortest
    delay if `fastest`, else only made smaller where that costs no delay.
    """

    name: str
    mapping: str
    fastest: bool = True
    booth: bool = True
    max_fanout: int = 16
    gated_flops_min: int = 4


RECIPES = {
    recipe.name: recipe
    for recipe in (
        Recipe(name="area", mapping="strash; ifraig; dch; amap -m", fastest=False),
        Recipe(name="balanced", mapping="strash; dch -f; if -g; strash; dch; amap -m"),
        Recipe(name="speed", mapping="strash; dch; map -B 0.9"),
    )
}


@dataclass(frozen=True, kw_only=True)
class SynthResult:
    """A module as library cells.

    `netlist` (Verilog, all ports and wires unsigned) and `netlist_json` (Yosys JSON) use the same names.
    `area_um2` is that of the module's own cells, without its black boxes. `cell_counts` counts library
    cells by type, `black_box_counts` instances of black boxes. `gated_fraction` is the share of
    flops behind a clock gate, 0 if there are no flops. `max_fanout` is the largest number of sinks of a
    net that is neither a clock nor constant; `input_fanout` for each input port but clocks the most sinks of one of its bits.
    """

    module: str
    recipe: str
    netlist: Path
    netlist_json: Path
    area_um2: float
    area_nand2: float
    cell_counts: dict[str, int]
    black_box_counts: dict[str, int]
    flops: int
    gated_fraction: float
    max_fanout: int
    input_fanout: dict[str, int]


def synthesize(
    *,
    verilog: Sequence[Path],
    module: str,
    clocks: Sequence[str],
    technology: Technology,
    corner: Corner,
    recipe: Recipe = RECIPES["balanced"],
    black_boxes: Sequence[str] = (),
    box_fanout: Mapping[str, Mapping[str, int]] | None = None,
    period_s: float | None = None,
    clock_gating: bool = True,
    timeout_s: float = 900.0,
    cache: Path = DEFAULT_CACHE,
) -> SynthResult:
    """Map `module` of the `verilog` files to the cells of `technology` at `corner`.

    `clocks` names its clock ports, which are left to a clock tree. `black_boxes` names the modules below it
    that are left as they are; `box_fanout` tells for how many sinks an input port of one counts (one where it is not given).
    `period_s` is the target that gates are sized for, with the wires expected before
    placement; without it the recipe says how. Only the text of the modules that take part decides the cache
    key, so the same block in two designs is synthesized once.

    Raises `ConfigError` for a module that is not there and `ToolError` if Yosys fails or a check does:
    undriven wires, latches, unmapped cells, unconnected inputs, combinational loops, and no flop
    behind a clock gate although `clock_gating` is asked for and enough flops share an enable.
    """
    return run_step(
        _synthesize,
        cache=cache,
        source=module_source(verilog, module, black_boxes),
        module=module,
        clocks=tuple(clocks),
        black_boxes=tuple(sorted(black_boxes)),
        box_fanout={kind: dict(ports) for kind, ports in (box_fanout or {}).items()},
        liberty=liberty_files(technology, corner, cache=cache),
        cells=technology.cells,
        wire=technology.wire,
        dont_use=technology.dont_use,
        recipe=recipe,
        period_s=period_s,
        clock_gating=clock_gating,
        timeout_s=timeout_s,
    )


# --- Yosys -------------------------------------------------------------------------------------

_RUN = "import sys; from pyosys import libyosys as ys; ys.run_pass('script ' + sys.argv[1], ys.Design())"


@step(version=2, tools=("yosys",), modules=(fanout, netlist_module, tech))
def _synthesize(
    folder: Path,
    *,
    source: str,
    module: str,
    clocks: tuple[str, ...],
    black_boxes: tuple[str, ...],
    box_fanout: dict[str, dict[str, int]],
    liberty: tuple[Path, ...],
    cells: CellRoles,
    wire: WireModel,
    dont_use: tuple[str, ...],
    recipe: Recipe,
    period_s: float | None,
    clock_gating: bool,
    timeout_s: float,
) -> SynthResult:
    library = read_libraries(liberty)
    for role, name in cells:
        if name is not None and name not in library.cells:
            raise ConfigError(f"cells.{role} must be a cell of the technology's library, not {name!r} ({liberty[0]})")
    (folder / "source.v").write_text(source, encoding="utf-8")
    (folder / "abc.script").write_text(_abc_script(recipe, period_s), encoding="utf-8")
    (folder / "wired.lib").write_text(_add_wires(liberty[0], wire), encoding="utf-8")
    # ABC wants the load of the outputs in femtofarads.
    load_f = 4 * _input_capacitance_f(library, cells.inverter)
    (folder / "abc.constr").write_text(f"set_driving_cell {cells.buffer}\nset_load {load_f * 1e15:.4f}\n", encoding="utf-8")
    script = _yosys_script(module, liberty, library, cells, dont_use, recipe, clock_gating)
    (folder / "synth.ys").write_text("\n".join(script) + "\n", encoding="utf-8")
    run = _run_yosys(folder, "synth", timeout_s)
    _check_source(module, run.output, (folder / "check.txt").read_text(encoding="utf-8"))
    _check_memories(folder / "memories.json", module)
    (folder / "wired.lib").unlink()
    for scratch in folder.glob("yosys-liberty-scl-cache-*"):
        shutil.rmtree(scratch)
    netlist = _limit_fanout(folder, library, module, clocks, cells.buffer, recipe.max_fanout, box_fanout, timeout_s)
    result = _measure(folder / "netlist.json", library, module, clocks, black_boxes, cells.nand2)
    if clock_gating and result.gated_fraction == 0:
        group = _largest_enable_group(folder / "enabled.json", module)
        if group >= recipe.gated_flops_min:
            raise ToolError(f"module {module} must have flops behind clock gates, not none, as {group} share an enable; see {folder / 'yosys_synth.log'}")
    return SynthResult(recipe=recipe.name, netlist=netlist, netlist_json=folder / "netlist.json", **vars(result))


def _run_yosys(folder: Path, name: str, timeout_s: float) -> ToolRun:
    """Run the script `<name>.ys` that lies in `folder`."""
    return run_tool(
        [sys.executable, "-I", "-c", _RUN, f"{name}.ys"],
        cwd=folder,
        timeout_s=timeout_s,
        step=f"yosys_{name}",
        environment={"TMPDIR": "."},
        error_patterns=[r"^ERROR:", r"^ABC: (Error|Assertion)", r"ABC: execution of command .* failed"],
    )


# Generated names become short and the same in both files.
_WRITE = ("rename -enumerate -pattern n%", "write_json netlist.json", "write_verilog -noattr -noexpr mapped.v")


def write_netlists(folder: Path, design: dict, module: str, timeout_s: float) -> tuple[Path, Path]:
    """Write a changed design of Yosys JSON to `folder` as Verilog and as JSON with the same names; returns their paths."""
    (folder / "changed.json").write_text(json.dumps(design), encoding="utf-8")
    (folder / "rewrite.ys").write_text("\n".join(("read_json changed.json", *_WRITE)) + "\n", encoding="utf-8")
    _run_yosys(folder, "rewrite", timeout_s)
    (folder / "changed.json").unlink()
    return _strip_signed(folder / "mapped.v", folder / f"{module}.v"), folder / "netlist.json"


def _limit_fanout(
    folder: Path, library: Library, module: str, clocks: Sequence[str], buffer: str, max_fanout: int, box_fanout: Mapping[str, Mapping[str, int]],
    timeout_s: float,
) -> Path:  # fmt: skip
    """Buffer what ABC left, and write both netlists again if there was anything; returns the Verilog."""
    design = json.loads((folder / "netlist.json").read_text(encoding="utf-8"))
    ports = design["modules"][module]["ports"]
    for clock in clocks:
        if ports.get(clock, {}).get("direction") != "input":
            raise ConfigError(f"clock must be an input of module {module}, not {clock!r}")
    pins = (_only_pin(library, buffer, "input"), _only_pin(library, buffer, "output"))
    if buffer_large_nets(
        design["modules"][module], library, buffer=(buffer, *pins), max_fanout=max_fanout, clocks=clocks, box_fanout=box_fanout
    ):
        return write_netlists(folder, design, module, timeout_s)[0]
    return _strip_signed(folder / "mapped.v", folder / f"{module}.v")


def _abc_script(recipe: Recipe, period_s: float | None) -> str:
    """Map, then buffer large fan-outs and size gates with their wires (-c); ABC takes its delay target in picoseconds."""
    target = "" if period_s is None else f" -D {period_s * 1e12:.3f}"
    upsize = f"upsize -c{target}; " if recipe.fastest or period_s is not None else ""
    return f"{recipe.mapping}; topo; buffer -c -N {recipe.max_fanout}; {upsize}dnsize -c{target}; stime -p -c\n"


_CAPACITANCE_UNIT = re.compile(r"capacitive_load_unit\s*\(\s*([\d.]+)\s*,\s*\"?([fp])f\"?\s*\)\s*;?", re.IGNORECASE)


def _add_wires(liberty: Path, wire: WireModel) -> str:
    """The Liberty text with the expected wires as its default, which ABC sizes with."""
    text = liberty.read_text(encoding="utf-8")
    unit = _CAPACITANCE_UNIT.search(text)
    if unit is None:
        raise ConfigError(f"Liberty file must state its capacitive_load_unit, not leave it out ({liberty})")
    unit_f = float(unit[1]) * {"f": 1e-15, "p": 1e-12}[unit[2].lower()]
    return f'{text[: unit.end()]}\n  default_wire_load : "expected";\n{wire_load_group(wire, unit_f)}{text[unit.end() :]}'


def _yosys_script(
    module: str, liberty: Sequence[Path], library: Library, cells: CellRoles, dont_use: Sequence[str], recipe: Recipe, clock_gating: bool
) -> list[str]:
    libraries = " ".join(f"-liberty {path}" for path in liberty)
    # ABC knows cells with one output only.
    wide = [name for name, cell in library.cells.items() if sum(pin.direction == "output" for pin in cell.pins.values()) > 1]
    keep_out = " ".join(f"-dont_use {name}" for name in dont_use)
    keep_out_of_logic = " ".join(f"-dont_use {name}" for name in wide if not library.cells[name].sequential)
    gate = []
    if clock_gating:
        gate = ["json -o enabled.json t:$_*DFF*E*", _clock_gate_command(library, cells, recipe)]
    high, low = (f"{name} {_constant_pin(library, name, value)}" for name, value in ((cells.tie_high, "1"), (cells.tie_low, "0")))
    buffer_in, buffer_out = (_only_pin(library, cells.buffer, direction) for direction in ("input", "output"))
    return [
        "read_verilog -sv source.v",
        f"hierarchy -check -top {module}",
        # A table written as a case stays logic: as a memory it would lose its contents below.
        "proc -norom",
        "flatten",
        "tee -o check.txt check",
        "json -o memories.json t:$meminit* t:$memwr*",
        # Silicon has no initial values, and checks are not hardware.
        "setattr -unset init w:*",
        "delete t:$meminit t:$meminit_v2",
        "chformal -remove",
        "delete t:$print",
        # Flops whose reset dominates their enable would not be gated.
        "opt -nosdff",
        f"synth -noabc{' -booth' if recipe.booth else ''} -top {module}",
        *gate,
        # Flops are called after the register they belong to.
        "rename -wire -suffix _reg t:$_*DFF*",
        f"dfflibmap {libraries} {keep_out}",
        f"abc {libraries.replace(str(liberty[0]), 'wired.lib')} {keep_out} {keep_out_of_logic} -constr abc.constr -script abc.script",
        "setundef -zero",
        f"hilomap -singleton -hicell {high} -locell {low}",
        # Wires of one bit have no aliases; those that are left join ports, which Verilog would spell as assignments.
        "splitnets",
        "opt_clean -purge",
        f"insbuf -buf {cells.buffer} {buffer_in} {buffer_out}",
        *_WRITE,
    ]


def _clock_gate_command(library: Library, cells: CellRoles, recipe: Recipe) -> str:
    if cells.clock_gate is None:
        raise ConfigError("cells.clock_gate must be named by a technology whose designs are clock-gated; add it or turn clock gating off")
    pins = {pin.clock_gate_role: pin.name for pin in library.cells[cells.clock_gate].pins.values() if pin.clock_gate_role}
    if not {"enable", "clock", "out"} <= pins.keys():
        raise ConfigError(f"cells.clock_gate must have pins with the roles enable, clock and out, not {cells.clock_gate} with {sorted(pins)}")
    ties = f" -tie_lo {pins['test']}" if "test" in pins else ""
    return f"clockgate -pos {cells.clock_gate} {pins['enable']}:{pins['clock']}:{pins['out']}{ties} -min_net_size {recipe.gated_flops_min}"


def _only_pin(library: Library, cell: str, direction: str) -> str:
    pins = [pin.name for pin in library.cells[cell].pins.values() if pin.direction == direction]
    if len(pins) != 1:
        raise ConfigError(f"{cell} must have one {direction} to serve in its role, not {len(pins)}")
    return pins[0]


def _constant_pin(library: Library, cell: str, value: str) -> str:
    for pin in library.cells[cell].pins.values():
        if pin.direction == "output" and (pin.function or "").strip("() ") == value:
            return pin.name
    raise ConfigError(f"{cell} must have an output of constant {value} to serve as a tie cell, not none")


def _input_capacitance_f(library: Library, cell: str) -> float:
    return library.cells[cell].pins[_only_pin(library, cell, "input")].capacitance_f


_SIGNED = re.compile(r"^(\s*(?:input|output|inout|wire|reg)) signed\b", re.MULTILINE)


def _strip_signed(written: Path, stripped: Path) -> Path:
    """Yosys keeps `signed` on ports and wires, which means nothing for cells and which OpenSTA cannot read."""
    stripped.write_text(_SIGNED.sub(r"\1", written.read_text(encoding="utf-8")), encoding="utf-8")
    written.unlink()
    return stripped


# --- checks and measurements -------------------------------------------------------------------


def _check_source(module: str, log: str, checked: str) -> None:
    """Raise `ToolError` for latches, and for what Yosys `check` found before mapping."""
    log, checked = log.replace("\\", ""), checked.replace("\\", "")  # names without Yosys' escape
    latches = sorted(set(re.findall(r"Latch inferred for signal `(\S+?)' from", log)))
    if latches:
        raise ToolError(f"module {module} must have no latches, not one for {', '.join(latches[:4])}; assign it in every branch")
    problems = [line.removeprefix("Warning: ").strip() for line in checked.splitlines() if line.startswith("Warning: ")]
    if problems:
        raise ToolError(f"module {module} must have one driver for each wire and no loops, not {len(problems)} problem(s): {last_lines(problems[0])}")


def _check_memories(path: Path, module: str) -> None:
    """Raise `ToolError` for a memory that has nothing but initial contents, which silicon has not."""
    cells = json.loads(path.read_text(encoding="utf-8"))["modules"].get(module, {"cells": {}})["cells"].values()
    initialized, written = ({cell["parameters"]["MEMID"] for cell in cells if cell["type"].startswith(kind)} for kind in ("$meminit", "$memwr"))
    for name in sorted(initialized - written):
        raise ToolError(f"memory {name.lstrip(chr(92))} of module {module} must be written in operation, not only initially; write the table as a case")


@dataclass(frozen=True, kw_only=True)
class _Measured:
    module: str
    area_um2: float
    area_nand2: float
    cell_counts: dict[str, int]
    black_box_counts: dict[str, int]
    flops: int
    gated_fraction: float
    max_fanout: int
    input_fanout: dict[str, int]


def _measure(netlist_json: Path, library: Library, module: str, clocks: Sequence[str], black_boxes: Sequence[str], nand2: str) -> _Measured:
    modules = json.loads(netlist_json.read_text(encoding="utf-8"))["modules"]
    _check_black_boxes(modules, module, black_boxes)
    netlist = read_netlist(netlist_json, library, top=module, black_boxes=black_boxes)
    latches = [netlist.cell_names[cell] for cell in netlist.cells_of("latch")]
    if latches:
        raise ToolError(f"module {module} must have no latches, not {', '.join(latches[:4])}")
    counts = Counter(netlist.types[kind].name for kind in netlist.cell_type)
    area_um2 = sum(library.cells[name].area_um2 * count for name, count in counts.items())
    gated = _gated_flops(netlist)
    sinks = net_sinks(modules[module], library, clocks)
    inputs = {name: port["bits"] for name, port in modules[module]["ports"].items() if port["direction"] == "input" and name not in clocks}
    return _Measured(
        module=module,
        area_um2=area_um2,
        area_nand2=area_um2 / library.cells[nand2].area_um2,
        cell_counts=dict(sorted(counts.items())),
        black_box_counts=dict(sorted(Counter(netlist.black_boxes.values()).items())),
        flops=len(gated),
        gated_fraction=float(np.mean(gated)) if len(gated) else 0.0,
        max_fanout=max(map(len, sinks.values()), default=0),
        input_fanout={name: max((len(sinks.get(bit, ())) for bit in bits), default=0) for name, bits in inputs.items()},
    )


def _check_black_boxes(modules: dict, module: str, black_boxes: Sequence[str]) -> None:
    """Raise `ToolError` for an input of a black box that is left open."""
    for instance, cell in modules[module]["cells"].items():
        if cell["type"] in black_boxes:
            for port, entry in modules[cell["type"]]["ports"].items():
                if entry["direction"] == "input" and len(cell["connections"].get(port, ())) != len(entry["bits"]):
                    raise ToolError(f"input {port} of {instance} must be connected, not open (module {module})")


def _gated_flops(netlist: Netlist) -> np.ndarray:
    """Whether each flop's clock comes from a clock gate."""
    gates = set(netlist.cells_of("clock_gate").tolist())
    gated = []
    for cell in netlist.cells_of("flop"):
        clocks = netlist.types[netlist.cell_type[cell]].clock_inputs
        gated.append(any(int(netlist.driver[netlist.pin_net[netlist.pin_start[cell] + pin]]) in gates for pin in clocks))
    return np.array(gated, dtype=bool)


def _largest_enable_group(path: Path, module: str) -> int:
    """The most flops that shared a clock and an enable before clock gating."""
    cells = json.loads(path.read_text(encoding="utf-8"))["modules"].get(module, {"cells": {}})["cells"]
    groups = Counter((tuple(cell["connections"]["C"]), tuple(cell["connections"]["E"])) for cell in cells.values())
    return max(groups.values(), default=0)
