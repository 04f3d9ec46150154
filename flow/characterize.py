"""The campaign: every design of a plan through simulation, synthesis, timing and power, into the tables.

Every stage of every design is a cached step, so a second run resumes where the first one ended. Designs are independent
tasks; rows come out in the order of the plan whatever the number of workers.
"""

import os
import subprocess
import sys
from collections.abc import Sequence
from concurrent.futures import FIRST_EXCEPTION, ProcessPoolExecutor, wait
from dataclasses import dataclass
from multiprocessing import get_context
from pathlib import Path

import pandas as pd
from tqdm import tqdm

from flow.cache import DEFAULT_CACHE, file_hash
from flow.corner import Corner
from flow.measure import Trace, characterized, design_rows, sampled_instances
from flow.plan import Plan, Run, Window
from flow.simulation import DRAM_PART, TRACE_MARGIN_CYCLES, Rtl, RunResult, emit_rtl, simulate_window
from flow.sram import load_sram_technology
from flow.table import CORNER_COLUMNS, CYCLE_COLUMNS, PATH_COLUMNS, TABLE_VERSION, Provenance, parameters_of, write_table
from flow.tech import Technology
from flow.tools import TOOLS, tool_version
from hw.config import AcceleratorConfig
from hw.dram import load_dram_part
from hw.errors import ConfigError

TABLES = Path("build/tables")
ACTIVITY_PERIOD_PS = 2000
"""Core clock period of the activity runs; the toggles per cycle hardly depend on it, the share of stalled cycles does."""
MEM_PERIOD_PS = 1250
_TAIL_CYCLES = 8


@dataclass(frozen=True, kw_only=True)
class DesignTables:
    """What one design adds to the tables."""

    corners: list[dict]
    paths: list[dict]
    cycles: list[dict]
    rtl_hash: str


def characterize(
    plan: Plan, technology: Technology, *, tables: Path = TABLES, cache: Path = DEFAULT_CACHE, workers: int | None = None, command: str = ""
) -> tuple[Path, Path]:
    """Measure all designs of `plan`; writes and returns `<tables>/<technology>/corners.csv` and `<tables>/cycles.csv`. Beside the former lies `paths.csv`."""
    corners = table_corners(technology)
    designs = plan.all_designs()
    results: dict[str, DesignTables] = {}
    # Fresh processes: the cocotb and numba run-times do not like to be forked.
    with ProcessPoolExecutor(max_workers=workers or os.cpu_count() or 1, mp_context=get_context("spawn")) as pool:
        futures = {pool.submit(measure_design, design, plan, technology, corners, cache): design.name for design in designs}
        try:
            with tqdm(total=len(futures), desc="characterize", unit="design", file=sys.stderr, disable=None, mininterval=5) as bar:
                pending = set(futures)
                while pending:
                    done, pending = wait(pending, timeout=5, return_when=FIRST_EXCEPTION)
                    for future in done:
                        results[futures[future]] = future.result()
                        bar.update()
                        if bar.disable:
                            print(f"characterize: {len(results)} of {len(futures)} designs ({futures[future]})", file=sys.stderr, flush=True)
        except BaseException:
            pool.shutdown(wait=True, cancel_futures=True)
            raise
    ordered = [results[design.name] for design in designs]
    provenance = Provenance(
        commit=source_commit(),
        command=command,
        tools={name: tool_version(name) for name in TOOLS},
        inputs={f"rtl:{d.name}": t.rtl_hash for d, t in zip(designs, ordered, strict=True)}
        | {f"liberty:{Path(p).name}": file_hash(Path(p)) for corner in technology.corners for p in corner.liberty},
    )
    corner_path, cycle_path = tables / technology.name / "corners.csv", tables / "cycles.csv"
    path_path = corner_path.with_name("paths.csv")
    write_table(pd.DataFrame([row for t in ordered for row in t.paths], columns=list(PATH_COLUMNS)), PATH_COLUMNS, path_path, provenance)
    write_table(pd.DataFrame([row for t in ordered for row in t.corners], columns=list(CORNER_COLUMNS)), CORNER_COLUMNS, corner_path, provenance)
    write_table(pd.DataFrame([row for t in ordered for row in t.cycles], columns=list(CYCLE_COLUMNS)), CYCLE_COLUMNS, cycle_path, provenance)
    return corner_path, cycle_path


def table_corners(technology: Technology) -> tuple[Corner, ...]:
    """The technology's corners with the memories at the logic's supply, or at the least they work at where that is higher."""
    if technology.sram is None:
        raise ConfigError(f"technology {technology.name} must name its memory figures (sram: file.yaml), not leave them out; add them")
    lowest_v = load_sram_technology(Path(technology.sram)).vdd_min_v.value
    return tuple(known.at_sram(max(known.vdd_v, lowest_v)) for known in technology.corners if known.measure)


def measure_design(config: AcceleratorConfig, plan: Plan, technology: Technology, corners: Sequence[Corner], cache: Path) -> DesignTables:
    """One design through all stages."""
    rtl = emit_rtl(config, cache=cache)
    cycles = [_cycle_row(config, run, simulate_window(config, run, cache=cache)) for run in plan.runs]
    traces = [_trace(config, rtl, window, plan, cache) for window in plan.activity]
    rows, paths = design_rows(config, rtl, traces, technology=technology, corners=corners, instances=plan.instances, cache=cache)
    return DesignTables(corners=rows, paths=paths, cycles=cycles, rtl_hash=rtl.content_hash)


def _trace(config: AcceleratorConfig, rtl: Rtl, window: Window, plan: Plan, cache: Path) -> Trace:
    """A recording of the last cycles of a window, which hold computing, draining and storing."""
    run = Run(window=window, core_period_ps=ACTIVITY_PERIOD_PS, mem_period_ps=MEM_PERIOD_PS)
    total = simulate_window(config, run, cache=cache).events["core_cycles"]
    wanted = plan.activity_cycles + TRACE_MARGIN_CYCLES
    first = max(1, total - wanted - _TAIL_CYCLES)
    last = total - _TAIL_CYCLES
    blocks = characterized(rtl.blocks)
    sampled = {scope for block in blocks if block.name in ("pe", "pe_row") for scope in sampled_instances(block, plan.instances)}
    whole = {scope for block in blocks if block.name not in ("pe", "pe_row") for scope in block.instances}
    scopes = {"": 1} | dict.fromkeys(sampled | whole, 4)
    traced = simulate_window(config, run, trace_window=(first, last), scopes=tuple(sorted(scopes.items())), cache=cache)
    held = last - first - 2
    return Trace(
        path=traced.trace, workload=window.name, batch=window.batch, core_cycles=held, mem_cycles=held * ACTIVITY_PERIOD_PS // MEM_PERIOD_PS - 2
    )


def _cycle_row(config: AcceleratorConfig, run: Run, result: RunResult) -> dict:
    shape = run.window.shape(config)
    row = {
        "table_version": TABLE_VERSION, "design": config.name, **parameters_of(config), **shape.model_dump(),
        "layer": run.window.name, "batch": run.window.batch, "fold": int(result.fold), **result.tiling, "core_period_s": run.core_period_ps * 1e-12,
        "mem_period_s": run.mem_period_ps * 1e-12, "dram": load_dram_part(DRAM_PART).name, **result.events,
    }  # fmt: skip
    return {name: row[name] for name in CYCLE_COLUMNS}


def source_commit() -> str:
    """The commit of the source tree, with `-dirty` if it was changed since; `unknown` outside a git checkout."""
    try:
        root = Path(__file__).parent
        run = subprocess.run(["git", "describe", "--always", "--dirty", "--abbrev=12", "--exclude=*"], cwd=root, capture_output=True, text=True, timeout=30)
    except (OSError, subprocess.TimeoutExpired):
        return "unknown"
    return run.stdout.strip() if run.returncode == 0 and run.stdout.strip() else "unknown"
