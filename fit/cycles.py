"""Cycles of a layer in closed form: a pipeline of steps in which loading, computing and storing overlap.

A step is one COMPUTE. With c the cycles in which it issues, b those until its outputs are written, l and s the times of its loads
and stores, d the DRAM's time for both, and the latencies L of a load and W of a store, two tiles a bank give the period

    p = max(c, l, s, d, 2 I, (b + s + W) / 2, (b + l + L) / 2)

because loads wait for the COMPUTE two steps before, a COMPUTE waits for the stores two tiles before, and the sequencer starts
one of the step's I instructions in two cycles. Steps of the first round over the inner loop may load more than later ones, which
find tiles in the banks: the two kinds have periods of their own. The first load and the last store do not overlap anything.

Times are in seconds inside, because core, memory side and DRAM have clocks of their own; results in core cycles. The
coefficients (`COEFFICIENTS`) are fitted on RTL counters; nothing here simulates or compiles.
"""

from dataclasses import dataclass
from typing import NamedTuple

import numpy as np
from numba import njit
from numpy.typing import NDArray

from hw.config import PARAMETER_BYTES
from hw.dram import DramController, DramPart, dram_transfer, read_latency_s
from hw.lowering import LoweredLayer
from hw.tiling import ALL, WEIGHTS_OUTER, Architecture, Plan, Tiling, Traffic, measure_arrays, plan, stripes


@dataclass(frozen=True, kw_only=True)
class Coefficient:
    """A fitted number of the cycle model: what it is, its unit, where the fit starts and how far it may go."""

    name: str
    meaning: str
    unit: str
    start: float
    high: float


COEFFICIENTS = (
    Coefficient(name="start", meaning="core cycles from start to the first LOAD, and from the last response to the end", unit="cycles", start=60, high=400),
    Coefficient(name="step", meaning="core cycles a COMPUTE takes besides issuing", unit="cycles", start=4, high=60),
    Coefficient(name="tail", meaning="core cycles from the last issue of a COMPUTE to its last output, besides draining", unit="cycles", start=8, high=60),
    Coefficient(name="load_instruction", meaning="core cycles a LOAD or FILL takes besides writing words", unit="cycles", start=3, high=40),
    Coefficient(name="load_latency_core", meaning="core cycles of a load's latency", unit="cycles", start=20, high=100),
    Coefficient(name="load_latency_memory", meaning="memory cycles of a load's latency", unit="cycles", start=10, high=60),
    Coefficient(name="store_latency_core", meaning="core cycles of a store's latency", unit="cycles", start=20, high=100),
    Coefficient(name="store_latency_memory", meaning="memory cycles of a store's latency", unit="cycles", start=10, high=100),
    Coefficient(name="store_instruction", meaning="core cycles a STORE takes besides reading words", unit="cycles", start=3, high=40),
    Coefficient(name="dram", meaning="DRAM's time over its closed form", unit="1", start=1.0, high=2.0),
    Coefficient(name="run", meaning="memory cycles of a run besides its beats", unit="cycles", start=0.5, high=10),
)


class Coefficients(NamedTuple):
    """Values of `COEFFICIENTS`, in their order."""

    start: float
    step: float
    tail: float
    load_instruction: float
    load_latency_core: float
    load_latency_memory: float
    store_latency_core: float
    store_latency_memory: float
    store_instruction: float
    dram: float
    run: float


class DramTimes(NamedTuple):
    """The DRAM's time for each kind of transfer of a layer by itself and for all of it together, s; zero for an ideal memory."""

    activation_s: float
    weight_s: float
    parameter_s: float
    output_s: float
    total_s: float
    latency_s: float


class LayerCycles(NamedTuple):
    """Core cycles of a layer, and what they are made of; `compute` is all that the array is busy issuing.

    `bound` is the index in `BOUNDS` of what sets the period of most steps.
    """

    total: float
    compute: float
    stall: float
    bound: int


BOUNDS = ("compute", "load", "store", "dram", "instructions", "store latency", "load latency")
PROGRAM_RUN_INSTRUCTIONS = 4
"""Instructions that the sequencer asks for in one run."""
DISPATCH_CYCLES = 2
"""The sequencer starts at most one instruction in two core cycles."""


@dataclass(frozen=True, kw_only=True)
class DramUse:
    """What a layer asks of the DRAM: bytes of whole DRAM bursts, and rows opened. Arrays."""

    read_bytes: NDArray
    write_bytes: NDArray
    activates: NDArray


def dram_times(part: DramPart | None, a: Architecture, l: LoweredLayer, t: Tiling, n: Traffic, controller: DramController | None = None) -> DramTimes:  # noqa: E741
    """The times of `dram_use`; `part` None is a memory without limits of its own."""
    if part is None:
        zero = np.zeros(np.shape(n.instructions))
        return DramTimes(zero, zero, zero, zero, zero, zero)
    return dram_use(part, a, l, t, n, controller)[0]


def dram_use(
    part: DramPart, a: Architecture, l: LoweredLayer, t: Tiling, n: Traffic, controller: DramController | None = None, *, channels: int = 1  # noqa: E741
) -> tuple[DramTimes, DramUse]:  # fmt: skip
    """`DramTimes` and `DramUse` of a layer's traffic over `channels`. Fields are numbers or arrays that broadcast.

    A run takes whole DRAM bursts. Runs of one tile lie a row or a plane apart, so that several of them share a page: what
    `hw.dram.dram_transfer` calls a run is all that is read of a page before the next one.
    """
    # What a run costs in bytes of whole bursts is what it would move over a port as wide as a burst.
    bursts = measure_arrays(a._replace(axi_bytes=part.burst_bytes), l, t)
    loads, stores, weights, parameters = bursts.activation_read_bytes, bursts.output_write_bytes, bursts.weight_read_bytes, bursts.parameter_read_bytes
    rows_in = np.minimum(l.in_h, (a.rows * np.asarray(t.tile_h) - 1) * l.stride_h + (l.kernel_h - 1) * l.dilation + 1)
    rows_out = np.minimum(l.out_h, a.rows * np.asarray(t.tile_h))
    load_pages = n.activation_loads * _pages(part, t.tile_c, l.in_plane_bytes, rows_in * np.asarray(l.in_row_bytes))
    store_pages = n.output_tiles * _pages(part, np.asarray(t.tile_k) / a.lanes, l.out_plane_bytes, rows_out * np.asarray(l.out_row_bytes))
    program_runs = np.asarray(n.instructions) / PROGRAM_RUN_INSTRUCTIONS

    def alone(read=0.0, read_pages=1.0, write=0.0, write_pages=1.0):
        lengths = (np.maximum(size, part.burst_bytes) / np.maximum(pages, 1) for size, pages in ((read, read_pages), (write, write_pages)))
        read_run, write_run = (np.maximum(length, part.burst_bytes) for length in lengths)
        sizes = {"read_bytes": read, "write_bytes": write, "read_run_bytes": read_run, "write_run_bytes": write_run}
        return dram_transfer(part, **sizes, controller=controller, channels=channels)

    reads, read_pages = loads + weights + parameters + n.program_read_bytes, load_pages + n.weight_runs + n.parameter_runs + program_runs
    total = alone(reads, read_pages, stores, store_pages)
    times = DramTimes(
        activation_s=alone(loads, load_pages).time_s, weight_s=alone(weights, n.weight_runs).time_s, parameter_s=alone(parameters, n.parameter_runs).time_s,
        output_s=alone(write=stores, write_pages=store_pages).time_s, total_s=total.time_s,
        latency_s=np.broadcast_to(read_latency_s(part, controller), np.shape(reads)),
    )  # fmt: skip
    return times, DramUse(read_bytes=reads, write_bytes=stores, activates=total.activates)


def _pages(part: DramPart, planes, plane_bytes, span_bytes) -> NDArray:
    """Pages that a tile of `planes` planes lies in, of each of which it takes `span_bytes`; small planes share a page."""
    page = part.geometry.page_bytes
    return np.maximum(1, np.asarray(planes) * np.where(np.asarray(plane_bytes) < page, np.asarray(plane_bytes) / page, np.maximum(1, span_bytes / page)))


class _Loads(NamedTuple):
    """Time of all loads of a layer by kind, and of all its stores, s."""

    activation: float
    weight: float
    parameter: float
    store: float
    activation_instructions: float


@njit(cache=True)
def _stores(a: Architecture, l: LoweredLayer, t: Tiling, p: Plan):  # noqa: E741
    """STOREs of a layer: one for every working stripe of every tile."""
    working = (p.y_tiles - 1) * a.rows + stripes(a, l, t, p.y_tiles - 1)[1]  # only the last row of tiles may have fewer
    return working * p.x_tiles * p.k_tiles * l.groups * l.images


@njit(cache=True)
def _transfer(words_cycles, size_bytes, runs, instructions, instruction_cycles, dram_s, axi_bytes, core, memory, k):
    """Time of transfers of one kind: the slowest of the bank's port, the AXI port and the DRAM, and a pause for each instruction."""
    return max(words_cycles * core, (size_bytes / axi_bytes + k.run * runs) * memory, dram_s * k.dram) + instructions * instruction_cycles * core


@njit(cache=True)
def _loads(a: Architecture, l: LoweredLayer, t: Tiling, p: Plan, n: Traffic, dram: DramTimes, core, memory, k: Coefficients) -> _Loads:  # noqa: E741
    word, weight_word, beat = a.lanes * a.activation_bits // 8, a.lanes * a.weight_bits // 8, a.axi_bytes
    side_by_side = max(1, min(beat // weight_word, a.cols))
    stores = _stores(a, l, t, p)
    instructions = n.instructions - 1 - n.computes - n.weight_runs - n.parameter_runs - stores
    words, weight_items = n.activation_load_words * max(1.0, word / beat), n.weight_load_words / side_by_side * max(1.0, side_by_side * weight_word / beat)
    parameters, outputs = n.parameter_load_words * max(1.0, PARAMETER_BYTES / beat), n.output_store_words * max(1.0, word / beat)
    return _Loads(
        _transfer(words, n.activation_read_bytes, n.activation_runs, instructions, k.load_instruction, dram.activation_s, beat, core, memory, k)
        + n.fill_words * core,
        _transfer(weight_items, n.weight_read_bytes, n.weight_runs, n.weight_runs, k.load_instruction, dram.weight_s, beat, core, memory, k),
        _transfer(parameters, n.parameter_read_bytes, n.parameter_runs, n.parameter_runs, k.load_instruction, dram.parameter_s, beat, core, memory, k),
        _transfer(outputs, n.output_write_bytes, n.output_runs, stores, k.store_instruction, dram.output_s, beat, core, memory, k),
        instructions,
    )


class _Step(NamedTuple):
    """What all steps of a layer have in common, s: c, b, s, d's share of a load or store, 2 I, (b + s + W) / 2, L."""

    issue: float
    busy: float
    store: float
    dram_share: float
    instructions: float
    stored: float
    load_latency: float


@njit(cache=True)
def _period(x: _Step, load, waits):
    """(period of a step beside which `load` is loaded, index of what bounds it); `waits` says whether that load waits for a COMPUTE."""
    bounds = (
        x.issue,
        load,
        x.store,
        x.dram_share * (load + x.store),
        x.instructions,
        x.stored,
        (x.busy + load + x.load_latency) / 2 if waits and load > 0 else 0.0,
    )
    period, which = 0.0, 0
    for i in range(len(bounds)):
        if bounds[i] > period:
            period, which = bounds[i], i
    return period, which


@njit(cache=True)
def layer_cycles(
    a: Architecture, l: LoweredLayer, t: Tiling, n: Traffic, dram: DramTimes, core_period_s, mem_period_s, k: Coefficients  # noqa: E741
) -> LayerCycles:  # fmt: skip
    """`LayerCycles` of one layer, tiling (legal, with its traffic) and pair of clock periods; callable from other kernels."""
    core, memory = core_period_s, mem_period_s
    p = plan(a, l, t)
    x = _loads(a, l, t, p, n, dram, core, memory, k)
    steps, tiles = float(n.computes), float(n.output_tiles)
    store_latency = k.store_latency_core * core + k.store_latency_memory * memory + dram.latency_s
    load_latency = k.load_latency_core * core + k.load_latency_memory * memory + dram.latency_s

    last_block_drain = n.pixel_drains / max(1, n.blocks)
    issue = (max(n.pixel_steps, n.pixel_drains) / steps + k.step) * core
    busy = issue + (k.tail + last_block_drain) * core
    stored = (busy + x.store / tiles + store_latency) / 2 * tiles / steps
    dram_share = dram.total_s * k.dram / (x.activation + x.weight + x.parameter + x.store)
    step = _Step(issue, busy, x.store / steps, dram_share, DISPATCH_CYCLES * n.instructions / steps * core, stored, load_latency)

    # The inner loop's tiles, if they all fit into the banks, are loaded in the first round of the outer loop only.
    # The outer loop's tiles are loaded ahead, in pieces that not every step has.
    weights_outer = t.order == WEIGHTS_OUTER
    rounds, inner_hold = (p.k_tiles, p.activations_hold) if weights_outer else (p.spatial_tiles, p.weights_hold)
    inner, outer = (x.activation, x.weight + x.parameter) if weights_outer else (x.weight + x.parameter, x.activation)
    outer_loads, pieces = (n.weight_loads, n.weight_runs) if weights_outer else (n.activation_loads, x.activation_instructions)
    first_load = x.activation / max(1, n.activation_loads) + x.weight / max(1, n.weight_loads) + x.parameter / max(1, n.parameter_runs)
    with_piece = min(1.0, max(0.0, pieces - pieces / outer_loads) / max(1.0, steps - 1))
    piece = outer * (1 - 1 / outer_loads) / max(1.0, steps - 1) / max(with_piece, 1e-12)

    # The load of a step goes on while the step before computes. The first step's load is alone, the last step has none beside it,
    # the second step's load does not wait for a COMPUTE.
    total, bound = k.start * core + load_latency + first_load, 0
    first_round = steps / rounds
    for later in range(2):
        slots = steps - first_round if later else first_round - 1
        if slots <= 0:
            continue
        tile = (0.0 if later else inner / first_round) if inner_hold == ALL and rounds > 1 else inner / steps
        plain, plain_bound = _period(step, tile, True)
        loaded, loaded_bound = _period(step, tile + piece, True)
        total += slots * ((1 - with_piece) * plain + with_piece * loaded)
        if not later:
            total -= with_piece * (loaded - _period(step, tile + piece, False)[0]) + (1 - with_piece) * (plain - _period(step, tile, False)[0])
        if 2 * slots >= steps - 1:
            bound = loaded_bound if with_piece > 0.5 else plain_bound
    total += busy + x.store / tiles + store_latency
    return LayerCycles(total / core, steps * issue / core, (total - steps * issue) / core, bound)
