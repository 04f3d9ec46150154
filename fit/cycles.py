"""Cycles of a layer in closed form: a pipeline of steps in which loading, computing and storing overlap.

A step is one COMPUTE. With c the cycles in which it issues, b those until its outputs are written, l and s the times of its n loads and of its
stores, L and W the latencies of a load and a store, its period is the longest of

    c                         computing: of each block of pixels the longer of issuing it and draining the one before
    l + pauses                the load engine, which has two instructions in hand, so that half of L - l/n shows in each; behind padding see below
    s + pauses                the store engine, which has four
    beats x clock, DRAM       the read port and the DRAM, the program's own fetch and turns of the bus for stores included
    dispatch x instructions   the sequencer
    (b + s + W) / 2           an output tile waits for the stores of the one two before
    (b + l + e) / 2           loads wait for the COMPUTE two steps before; where only some steps have loads, (b + l + e) for those

    e = L + (L - l/n) x [loads of n after the first that wait: the third, fifth, ...]

are what loads wait for that begin with an idle engine: so do those of the layer's first step, those that wait for a COMPUTE, and those behind padding,
which hides its own length of the first L. In the first step L is that of closed rows, later that of rows which are mostly open.

Steps of the first round over the inner loop may load more than later ones, which find tiles in the banks, and of the outer loop's tile,
which is loaded ahead, not every step has a piece: these kinds of steps have periods of their own. The first loads, behind as much
of the program as the sequencer holds, and the last store overlap nothing. A refresh adds what of it the slack of two steps does not hide.

Times are in seconds inside, because core, memory side and DRAM have clocks of their own; results in core cycles. The
coefficients (`COEFFICIENTS`) are fitted on RTL counters; nothing here simulates or compiles. What kind of layer it is makes no
difference: its `hw.tiling.Traffic` says all.
"""

from dataclasses import dataclass
from typing import NamedTuple

from numba import njit

from fit.transfers import DramTimes, DramUse, dram_times, dram_use, instruction_counts
from hw.config import PARAMETER_BYTES
from hw.lowering import LoweredLayer
from hw.sequencer import program_window
from hw.tiling import WEIGHTS_OUTER, Architecture, Tiling, Traffic, plan

__all__ = ["BOUNDS", "COEFFICIENTS", "Coefficients", "DramTimes", "DramUse", "LayerCycles", "dram_times", "dram_use", "layer_cycles"]


@dataclass(frozen=True, kw_only=True)
class Coefficient:
    """A fitted number of the cycle model: what it is, its unit, where the fit starts and how far it may go."""

    name: str
    meaning: str
    unit: str
    start: float
    high: float


COEFFICIENTS = (
    Coefficient(name="start", meaning="core cycles from start to the first fetch, and from the last response to the end", unit="cycles", start=20, high=400),
    Coefficient(name="outside", meaning="core cycles in which the engine neither computes nor is counted as waiting", unit="cycles", start=40, high=200),
    Coefficient(name="step", meaning="core cycles a COMPUTE takes besides issuing", unit="cycles", start=4, high=60),
    Coefficient(name="tail", meaning="core cycles from the last issue of a COMPUTE to its last output, besides draining", unit="cycles", start=8, high=60),
    Coefficient(name="load_instruction", meaning="core cycles a LOAD or FILL takes besides writing words", unit="cycles", start=3, high=40),
    Coefficient(name="load_latency_core", meaning="core cycles of a load's latency", unit="cycles", start=20, high=100),
    Coefficient(name="load_latency_memory", meaning="memory cycles of a load's latency", unit="cycles", start=10, high=60),
    Coefficient(name="load_gap", meaning="share of a load's latency that the loads around it do not hide", unit="share", start=0.5, high=1.0),
    Coefficient(name="store_latency_core", meaning="core cycles of a store's latency", unit="cycles", start=20, high=100),
    Coefficient(name="store_latency_memory", meaning="memory cycles of a store's latency", unit="cycles", start=10, high=100),
    Coefficient(name="store_instruction", meaning="core cycles a STORE takes besides reading words", unit="cycles", start=3, high=40),
    Coefficient(name="dispatch", meaning="core cycles that the sequencer takes for an instruction", unit="cycles", start=5, high=20),
    Coefficient(name="program", meaning="share of the program's fetch that loads wait for", unit="share", start=0.3, high=2.0),
    Coefficient(name="dram", meaning="DRAM's time over its closed form", unit="1", start=1.0, high=2.0),
    Coefficient(name="refresh", meaning="share of a refresh that the loads in hand do not hide", unit="share", start=0.4, high=1.0),
    Coefficient(name="turn", meaning="share of STOREs for which the DRAM turns its bus", unit="share", start=0.3, high=1.0),
    Coefficient(name="run", meaning="memory cycles of a run besides its beats", unit="cycles", start=0.5, high=10),
)


class Coefficients(NamedTuple):
    """Values of `COEFFICIENTS`, in their order."""

    start: float
    outside: float
    step: float
    tail: float
    load_instruction: float
    load_latency_core: float
    load_latency_memory: float
    load_gap: float
    store_latency_core: float
    store_latency_memory: float
    store_instruction: float
    dispatch: float
    program: float
    dram: float
    refresh: float
    turn: float
    run: float


class LayerCycles(NamedTuple):
    """Core cycles of a layer, and what they are made of; `compute` is all that the array is busy issuing.

    `bound` is the index in `BOUNDS` of what sets the period of most steps.
    """

    total: float
    compute: float
    stall: float
    bound: int


BOUNDS = ("compute", "load", "store", "dram", "instructions", "store latency", "load latency")
LOAD, DRAM, MOSTLY = BOUNDS.index("load"), BOUNDS.index("dram"), 0.75
STORES_OPEN = 4
"""STOREs whose answers may be outstanding."""
_program_window = njit()(program_window)


class _Transfers(NamedTuple):
    """All transfers of one kind in a layer, s: by the slowest of the bank's port, the AXI port and the DRAM; on the AXI port; of the
    DRAM. And how many instructions they are."""

    service_s: float
    bus_s: float
    dram_s: float
    instructions: float


@njit(cache=True)
def _transfers(
    words: float, word_bytes: float, size_bytes: float, runs: float, instructions: float, overhead: float, dram_s: float, axi_bytes: float, core: float,
    memory: float, k: Coefficients,
) -> _Transfers:  # fmt: skip
    """`words` take a core cycle each, or as many as they are beats; a beat passes the FIFO between the clocks, one in a cycle of either."""
    bus_s = size_bytes / axi_bytes * max(core, memory) + k.run * runs * memory
    service_s = max(words * max(1.0, word_bytes / axi_bytes) * core, bus_s, dram_s * k.dram) + instructions * overhead * core
    return _Transfers(service_s, bus_s, dram_s * k.dram, float(instructions))


@njit(cache=True)
def _unevenness(pixels: int, block: int, issue: float, drain: float) -> float:
    """How much longer the blocks of a stripe take than its steps or drains: a short last block is issued while a long one drains, and back."""
    whole, rest = pixels // block, pixels % block
    if whole == 0 or rest == 0:
        return 1.0
    slower = max(issue, drain)
    pairs = max(issue * rest, drain * block) + max(issue * block, drain * rest)
    return max(1.0, ((whole - 1) * block * slower + pairs) / (pixels * slower))


@njit(cache=True)
def _waits_after_first(loads: float) -> float:
    """Of `loads` that begin with an idle engine, how many after the first wait for a latency: the third, fifth, ..., as two are in hand."""
    pairs = max(0.0, loads - 1) // 2
    return pairs + max(0.0, loads - 2 - 2 * pairs)


@njit(cache=True)
def layer_cycles(
    a: Architecture, l: LoweredLayer, t: Tiling, n: Traffic, dram: DramTimes, core_period_s: float, mem_period_s: float, k: Coefficients,  # noqa: E741
    copied_words: float = 0.0, copies: float = 0.0,
) -> LayerCycles:  # fmt: skip
    """`LayerCycles` of one layer, tiling (legal, with its traffic) and pair of clock periods; callable from other kernels.

    Of a layer whose output stays on chip, so many words are copied by so many COPYs, which the load engine does before the loads of the step two behind.
    """
    core, memory = core_period_s, mem_period_s
    p, count = plan(a, l, t), instruction_counts(a, l, t, n, copies)
    steps, tiles, beat = float(n.computes), float(n.output_tiles), float(a.axi_bytes)
    to_controller = k.load_latency_core * core + k.load_latency_memory * memory
    load_latency, first_latency = to_controller + dram.usual_latency_s, to_controller + dram.latency_s
    store_latency = k.store_latency_core * core + k.store_latency_memory * memory  # a write is answered when the controller has it
    if count.stores == 0:
        store_latency = 0.0

    # All transfers of the layer.
    word, weight_word = a.lanes * a.activation_bits / 8, a.lanes * a.weight_bits / 8
    side_by_side = max(1.0, min(beat // weight_word, float(a.cols)))
    activations = _transfers(
        n.activation_load_words, word, n.activation_read_bytes, n.activation_runs, count.activation_loads, k.load_instruction, dram.activation_s,
        beat, core, memory, k,
    )  # fmt: skip
    weights = _transfers(
        n.weight_load_words / side_by_side, side_by_side * weight_word, n.weight_read_bytes, n.weight_runs, count.weight_loads, k.load_instruction,
        dram.weight_s, beat, core, memory, k,
    )  # fmt: skip
    parameters = _transfers(
        n.parameter_load_words, PARAMETER_BYTES, n.parameter_read_bytes, n.parameter_runs, n.parameter_runs, k.load_instruction, dram.parameter_s,
        beat, core, memory, k,
    )  # fmt: skip
    outputs = _transfers(
        n.output_store_words, word, n.output_write_bytes, n.output_runs, count.stores, k.store_instruction, dram.output_s, beat, core, memory, k
    )  # fmt: skip
    alone_s = activations.dram_s + weights.dram_s + parameters.dram_s + outputs.dram_s + dram.program_s * k.dram
    mixed = dram.in_time_s * k.dram / max(1e-30, alone_s)
    # Padding is written while a load behind it waits for its data.
    fill_s = (n.fill_words + k.load_instruction * count.fills) * core / n.activation_loads
    last_fill_s = fill_s * n.activation_loads / max(count.fills, 1.0)
    behind_fill = min(1.0, count.fills / n.activation_loads) * min(1.0, count.activation_loads / n.activation_loads)

    # What each step has: computing, stores, its part of the instructions and, once the sequencer's window is full, of their fetch.
    issue, drain = n.pixel_steps / steps, n.pixel_drains / steps
    compute = (max(issue, drain) * _unevenness(t.tile_h * t.tile_w, a.acc_depth, issue, drain) + k.step) * core
    busy = compute + (min(issue, drain) / max(1.0, n.blocks / steps) + k.tail) * core
    store, tile_stores = outputs.service_s / tiles, max(1.0, count.stores / tiles)
    copying = (copied_words + k.load_instruction * copies) * core / tiles
    store_pause = max(0.0, store_latency - store / tile_stores) / STORES_OPEN * tile_stores
    turns_s = k.turn * dram.turn_s * count.stores / steps
    storing, stored = (store + store_pause) * tiles / steps, (busy + store + store_latency + copying) / 2 * tiles / steps
    dispatch = k.dispatch * n.instructions / steps * core
    program_s = max(n.program_read_bytes / beat * max(core, memory), dram.program_s * k.dram)
    ahead = min(1.0, _program_window(a.rows) / n.instructions)
    fetch, fetch_dram = (1 - ahead) * program_s / steps, (1 - ahead) * dram.program_s * k.dram / steps

    # What is loaded beside a step: a tile of the inner loop's operand where it needs a new one, a piece of the outer loop's.
    weights_outer, split = t.order == WEIGHTS_OUTER, p.c_parts > 1
    inner, outer = (activations, weights) if weights_outer else (weights, activations)
    inner_loads, outer_loads = (n.activation_loads, n.weight_loads) if weights_outer else (n.weight_loads, n.activation_loads)
    slots = steps - 1  # the first step's load is alone
    inner_slots = min(slots, inner_loads - 1.0)
    pieces = (float(outer_loads) if split else outer.instructions) * (1 - 1 / outer_loads)
    with_piece = min(1.0, pieces / slots) if slots > 0 else 0.0
    parameter_share = (1 - 1 / n.parameter_runs) / max(1.0, slots)

    total, bound, longest, refreshed = 0.0, 0, 0.0, 0.0
    for has_inner in range(2):
        # How much of the two steps from a COMPUTE to the loads that wait for it and to the COMPUTE that waits for these each load takes up.
        chained = 0.5 if has_inner or split or with_piece == 0 else min(1.0, max(0.5, (1 - with_piece) / with_piece))
        plain = 0.0
        for has_piece in range(2):
            number = (inner_slots if has_inner else slots - inner_slots) * (with_piece if has_piece else 1 - with_piece)
            if number <= 0:
                continue
            inner_share = has_inner / inner_loads
            outer_share = (1 - 1 / outer_loads) / (slots * with_piece) if has_piece else 0.0
            service = inner.service_s * inner_share + outer.service_s * outer_share + parameters.service_s * parameter_share
            waits = inner.instructions * inner_share + outer.instructions * outer_share + parameters.instructions * parameter_share
            bus = inner.bus_s * inner_share + outer.bus_s * outer_share + parameters.bus_s * parameter_share + fetch
            dram_s = inner.dram_s * inner_share + outer.dram_s * outer_share + parameters.dram_s * parameter_share + outputs.dram_s / steps + fetch_dram
            tile_share = (inner_share if weights_outer else outer_share) * n.activation_loads
            behind = behind_fill if tile_share > 0 else 0.0
            alone = max(0.0, load_latency - service / max(waits, 1.0))
            later = _waits_after_first(waits) * alone
            behind_gap = behind * (min(1.0, waits) * max(0.0, load_latency - last_fill_s) + later)
            pauses = behind_gap + (1 - behind) * k.load_gap * waits * alone
            restarted = behind_gap + (1 - behind) * (min(1.0, waits) * load_latency + later)
            loads = service + fill_s * tile_share + k.program * fetch + copying * tiles / steps
            chain = busy + loads + restarted if has_inner or has_piece else 0.0
            bounds = (
                compute, loads + pauses, storing, max(bus, mixed * dram_s + turns_s), dispatch, stored, chained * chain - (2 * chained - 1) * plain
            )  # fmt: skip
            period, which = 0.0, 0
            for i in range(len(bounds)):
                if bounds[i] > period:
                    period, which = bounds[i], i
            plain = period
            waiting = max(bounds[3], bounds[6], 0.5 * (loads + waits * load_latency))  # what a refresh makes longer
            refreshed += number * max(0.0, dram.refresh_s - 2 * (period - waiting))
            if which == LOAD and max(bus, mixed * dram_s) > MOSTLY * period:
                which = DRAM  # the load engine is the longest by its own overheads only
            total += number * period
            if number > longest:
                bound, longest = which, number

    first = activations.service_s / n.activation_loads + weights.service_s / n.weight_loads + parameters.service_s / n.parameter_runs + fill_s
    waits = activations.instructions / n.activation_loads + weights.instructions / n.weight_loads + 1.0
    pauses = _waits_after_first(waits) * max(0.0, first_latency - first / waits)
    total += k.start * core + first_latency + max(first_latency, ahead * program_s) + first + pauses
    last_pause = store_pause * max(0.0, 1 - STORES_OPEN / tile_stores)
    total += busy + store + last_pause + store_latency + copying
    if dram.refresh_each_s > 0:  # a layer that begins at any time between two refreshes, but for those that begin with the first
        total += k.refresh * (refreshed + dram.refresh_s) / steps * max(0.0, total / dram.refresh_each_s - 0.5)
    return LayerCycles(total / core, steps * compute / core, (total - steps * compute) / core, bound)
