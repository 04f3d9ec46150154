"""The campaign: every design of a plan through simulation, synthesis, placement, timing and power, one shard a design.

Every stage of every design is a cached step and every finished design a shard, so a second run resumes where the first one ended,
however that was. Designs are independent tasks of a dask cluster: one of this machine by default, any other by its address.
Rows come out in the order of the plan, the same on any number of workers.
"""

import os
import subprocess
import sys
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING

from tqdm import tqdm

from flow.cache import DEFAULT_CACHE
from flow.corner import Corner
from flow.flipflop_memory import recorded_words, with_memories
from flow.mapped_design import characterized, sampled_instances
from flow.measure import Trace, design_rows
from flow.plan import Plan, Run, Window
from flow.shards import SHIPPED, SUFFIX, Shard, assemble, read_shard, shard_inputs, stale_inputs, write_shard
from flow.simulation import DRAM_PART, TRACE_MARGIN_CYCLES, Rtl, RunResult, emit_rtl, simulate_window
from flow.sram import load_sram_technology
from flow.table import cycle_row
from flow.tech import Technology
from flow.tools import TOOLS, tool_version
from hw.config import AcceleratorConfig
from hw.dram import load_dram_part
from hw.errors import ConfigError, ToolError

if TYPE_CHECKING:  # imported where a campaign starts: it takes a second
    from distributed import Client, Future

TABLES = Path("build/tables")
SHARDS = Path("build/shards")
ACTIVITY_PERIOD_PS = 2000
"""Core clock period of the activity runs; the toggles per cycle hardly depend on it, the share of stalled cycles does."""
MEM_PERIOD_PS = 1250
_TAIL_CYCLES = 8
_LOSSES = 2
"""How often a design is tried again elsewhere when its worker is lost; one that fails is not tried again."""


def characterize(
    plan: Plan, technology: Technology, *, tables: Path = TABLES, shards: Path = SHARDS, cache: Path = DEFAULT_CACHE, workers: int | None = None,
    scheduler: str | None = None, command: str = "", shipped: Path | None = None, afresh: Sequence[str] = (),
) -> tuple[Path, Path]:  # fmt: skip
    """Measure all designs of `plan` whose shard in `<shards>/<technology>` is missing or stale, and assemble the tables.

    `shipped` is another folder of shards, whose fresh ones are taken instead of measuring, except those of designs named in `afresh`.

    `scheduler` is the address of a dask scheduler whose workers have this project installed; by default `workers` processes of this
    machine do the work. Returns the paths of `<tables>/<technology>/corners.csv` and `<tables>/cycles.csv`. Designs that fail do not
    hold up others; the campaign then ends with the first one's error.
    """
    from distributed import as_completed

    corners, folder, designs = table_corners(technology), shards / technology.name, plan.all_designs()
    sources: dict[str, tuple[Path, ...]] = {design.name: (folder,) for design in designs}
    if shipped is not None:
        sources |= {name: (folder, shipped / technology.name) for name in sources if name not in afresh}
    with _cluster(workers, scheduler) as client:
        futures, failed = {}, []
        for design in designs:
            known = tuple(_known_inputs(source / f"{design.name}{SUFFIX}") for source in sources[design.name])
            task = client.submit(
                measure_shard, design, plan, technology, corners, Path(cache), known, command, pure=False, key=f"design-{design.name}"
            )
            futures[task] = design.name
        with tqdm(total=len(futures), desc="characterize", unit="design", file=sys.stderr, disable=None, mininterval=5) as bar:
            for done in as_completed(list(futures)):
                name, what = futures[done], "measured"
                try:
                    found = _result(done, name)
                except (ConfigError, ToolError) as error:
                    failed.append((name, error))
                    what = "failed"
                else:
                    if isinstance(found, int):
                        what = "is fresh"
                        found = read_shard(sources[name][found] / f"{name}{SUFFIX}")
                    write_shard(found, folder)
                bar.update()
                if bar.disable:
                    print(f"characterize: {name} {what}", file=sys.stderr, flush=True)
                done.release()
    if failed:
        names, first = ", ".join(name for name, _ in failed), failed[0][1]
        raise type(first)(f"{len(failed)} of {len(designs)} designs must be measured, not fail ({names}); the first one: {first}")
    return assemble([read_shard(folder / f"{design.name}{SUFFIX}") for design in designs], technology=technology.name, tables=tables)


@contextmanager
def _cluster(workers: int | None, scheduler: str | None) -> Iterator["Client"]:
    """A client of the named scheduler, or of a cluster of processes on this machine. One task a worker at a time: the tools take the processor."""
    import dask
    from distributed import Client, LocalCluster

    # A design takes minutes inside external tools, during which a worker answers late.
    dask.config.set({"distributed.comm.timeouts.connect": "60s", "distributed.worker.daemon": False, "distributed.scheduler.allowed-failures": _LOSSES})
    if scheduler is not None:
        try:
            client = Client(scheduler, timeout="30s")
        except (OSError, TimeoutError, ValueError) as error:
            raise ConfigError(f"scheduler must be the address of a running dask scheduler, not {scheduler!r} ({error}); start `dask scheduler`") from None
        with client:
            yield client
        return
    count = workers or os.cpu_count() or 1
    with LocalCluster(
        n_workers=count, threads_per_worker=1, processes=True, dashboard_address=":0", memory_limit=0, silence_logs="ERROR", local_directory="build/dask"
    ) as cluster, Client(cluster) as client:
        yield client


def _result(done: "Future", name: str) -> Shard | int:
    """What a finished task returned; its own error if it failed, and one that names the design if its worker was lost too often."""
    from distributed import KilledWorker

    try:
        return done.result()
    except KilledWorker as error:
        raise ToolError(f"workers must finish design {name}, not be lost {_LOSSES + 1} times ({error}); look for a lack of memory") from None


def table_corners(technology: Technology) -> tuple[Corner, ...]:
    """The technology's corners with the memories at the logic's supply, or at the least they work at where that is higher. Without figures of
    memory macros all memories are of the logic's cells."""
    lowest_v = load_sram_technology(technology.sram_file()).vdd_min_v.value if technology.sram is not None else 0.0
    return tuple(known.at_sram(max(known.vdd_v, lowest_v)) for known in technology.corners if known.measure)


def design_corners(config: AcceleratorConfig, plan: Plan, technology: Technology, corners: Sequence[Corner]) -> tuple[Corner, ...]:
    """Those of `corners` at which a design of the plan is measured."""
    usual = technology.nominal_corner()
    return tuple(
        corner for corner in corners
        if config.name not in plan.supplies_only or (corner.temperature_c, corner.back_bias_v) == (usual.temperature_c, usual.back_bias_v)
    )  # fmt: skip


def measure_shard(
    config: AcceleratorConfig, plan: Plan, technology: Technology, corners: Sequence[Corner], cache: Path, known: Sequence[Mapping[str, str]],
    command: str = "",
) -> Shard | int:  # fmt: skip
    """One design through all stages; if `known` are the inputs of shards that it has and one was measured on the same, the number of that."""
    rtl = emit_rtl(config, cache=cache)
    inputs = shard_inputs(config, plan, technology, rtl.content_hash)
    if inputs in known:
        return list(known).index(inputs)
    corners = design_corners(config, plan, technology, corners)
    cycles = [_cycle_row(config, run, simulate_window(config, run, cache=cache)) for run in plan.runs]
    mapped = with_memories(rtl, technology, cache=cache)
    traces = [_trace(config, mapped, window, plan, cache) for window in plan.activity]
    if mapped is not rtl:
        traces = [replace(trace, path=recorded_words(trace.path, rtl.macros, cycles=trace.core_cycles, cache=cache)) for trace in traces]
    rows, paths = design_rows(config, mapped, traces, technology=technology, corners=corners, instances=plan.instances, layouts=plan.layouts, cache=cache)
    tools = {name: tool_version(name) for name in TOOLS}
    return Shard(design=config.name, corners=rows, paths=paths, cycles=cycles, commit=source_commit(), command=command, tools=tools, inputs=inputs)


def kept_shard(
    config: AcceleratorConfig, plan: Plan, technology: Technology, corners: Sequence[Corner], folder: Path, *, cache: Path = DEFAULT_CACHE, command: str = ""
) -> Shard:  # fmt: skip
    """The shard of a design in `folder`, measured and kept there first unless it is fresh."""
    path = folder / f"{config.name}{SUFFIX}"
    found = measure_shard(config, plan, technology, corners, cache, [_known_inputs(path)], command)
    if isinstance(found, int):
        return read_shard(path)
    write_shard(found, folder)
    return found


def _known_inputs(path: Path) -> dict[str, str]:
    """What the shard at `path` was measured on; nothing if there is none, or a broken one."""
    try:
        return read_shard(path).inputs
    except ConfigError:
        return {}


def stale_shards(plan: Plan, technology: Technology, folder: Path, *, cache: Path = DEFAULT_CACHE) -> dict[str, tuple[str, ...]]:
    """The designs of `plan` whose shard in `<folder>/<technology>` is missing or stale, each with the inputs that changed (none: no shard)."""
    found: dict[str, tuple[str, ...]] = {}
    for design in plan.all_designs():
        path = folder / technology.name / f"{design.name}{SUFFIX}"
        if not path.is_file():
            found[design.name] = ()
            continue
        shard = read_shard(path)
        inputs = shard_inputs(design, plan, technology, emit_rtl(design, cache=cache).content_hash)
        if changed := stale_inputs(shard, inputs):
            found[design.name] = changed
    return found


def shipped_difference(design: str, plan: Plan, technology: Technology, *, shards: Path = SHARDS, shipped: Path = SHIPPED) -> float | None:
    """The largest relative difference between the figures of a design's shard in `shards` and of the one that ships; None if none ships that
    was measured on the same inputs. Raises `ToolError` if they do not even have the same rows."""
    path = shipped / plan.name / technology.name / f"{design}{SUFFIX}"
    if not path.is_file():
        return None
    ours, theirs = read_shard(shards / technology.name / f"{design}{SUFFIX}"), read_shard(path)
    if ours.inputs != theirs.inputs:
        return None
    worst = 0.0
    for mine, shipped_rows in ((ours.corners, theirs.corners), (ours.paths, theirs.paths), (ours.cycles, theirs.cycles)):
        if len(mine) != len(shipped_rows):
            raise ToolError(f"design {design} must have the {len(shipped_rows)} rows that ship, not {len(mine)}; report this with the versions of the tools")
        for row, other in zip(mine, shipped_rows, strict=True):
            for name, value in row.items():
                if isinstance(value, float) and value != other[name]:
                    worst = max(worst, abs(value - other[name]) / max(abs(value), abs(other[name])))
    return worst


def _trace(config: AcceleratorConfig, rtl: Rtl, window: Window, plan: Plan, cache: Path) -> Trace:
    """A recording of the last cycles of a window, which hold computing, draining and storing."""
    mem_period_ps = window.mem_period_ps or MEM_PERIOD_PS
    run = Run(window=window, core_period_ps=ACTIVITY_PERIOD_PS, mem_period_ps=mem_period_ps)
    total = simulate_window(config, run, cache=cache).events["core_cycles"]
    wanted = plan.activity_cycles + TRACE_MARGIN_CYCLES
    first = max(1, total - wanted - _TAIL_CYCLES)
    last = total - _TAIL_CYCLES
    blocks = characterized(rtl.blocks)
    sampled = {scope for block in blocks if block.name in ("pe", "pe_row") for scope in sampled_instances(block, plan.instances)}
    whole = {scope for block in blocks if block.name not in ("pe", "pe_row") for scope in block.instances}
    # The top is replayed with the ports of everything in it.
    ports = {scope for block in blocks if block.name != "pe" for scope in block.instances} | {scope for macro in rtl.macros for scope in macro.instances}
    scopes = {"": 1} | dict.fromkeys(ports, 1) | dict.fromkeys(sampled | whole, 4)
    traced = simulate_window(config, run, trace_window=(first, last), scopes=tuple(sorted(scopes.items())), cache=cache)
    held = last - first - 2
    assert traced.trace is not None, "a simulation that is given a window records it"
    return Trace(
        path=traced.trace, workload=window.name, batch=window.batch, core_cycles=held, mem_cycles=held * ACTIVITY_PERIOD_PS // mem_period_ps - 2
    )


def _cycle_row(config: AcceleratorConfig, run: Run, result: RunResult) -> dict:
    return cycle_row(
        config, run.window.shape(config), layer=run.window.name, batch=run.window.batch, fold=result.fold, tiling=result.tiling,
        core_period_ps=run.core_period_ps, mem_period_ps=run.mem_period_ps, dram=load_dram_part(DRAM_PART).name, events=result.events,
    )  # fmt: skip


def source_commit() -> str:
    """The commit of the source tree, with `-dirty` if it was changed since, measured tables and documents apart; `unknown` outside a git checkout."""

    def git(*arguments: str) -> str:
        run = subprocess.run(["git", *arguments], cwd=Path(__file__).parents[1], capture_output=True, text=True, timeout=30, check=True)
        return run.stdout.strip()

    try:
        commit = git("rev-parse", "--short=12", "HEAD")
        changed = git("status", "--porcelain", "--untracked-files=no", "--", ".", ":!flow/tables", ":!docs", ":!*.md")
    except (OSError, subprocess.SubprocessError):
        return "unknown"
    return f"{commit}-dirty" if changed else commit
