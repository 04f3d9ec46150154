"""What a layer asks of the DRAM and of the load and store engines: the DRAM's time by itself for each kind of transfer, and how many instructions."""

from dataclasses import dataclass
from typing import NamedTuple

import numpy as np
from numba import njit
from numpy.typing import NDArray

from hw.dram import DramController, DramPart, DramTransfer, dram_transfer, read_latency_s
from hw.lowering import LoweredLayer
from hw.tiling import Architecture, Tiling, Traffic, measure_arrays


class DramTimes(NamedTuple):
    """The DRAM's time for each kind of transfer of a layer by itself (stores without what the controller's queue has taken when
    the layer ends; no refresh) and for all of it together (with refresh), and the latency of a read with its row closed, s; zero for an ideal memory."""

    activation_s: float
    weight_s: float
    parameter_s: float
    output_s: float
    program_s: float
    total_s: float
    latency_s: float
    in_time_s: float
    """`total_s` without the writes that the controller's queue has taken when the layer ends, and without refresh."""
    usual_latency_s: float
    """Latency of a read as it is in the mean of the layer's loads: their rows open, or closed, or to be closed first."""
    turn_s: float
    """Time to turn the bus from reading to writing and back."""
    refresh_s: float
    """Time in which one refresh keeps reads off the bus."""
    refresh_each_s: float
    """Time from one refresh to the next."""


class Instructions(NamedTuple):
    """LOADs of activations, FILLs, LOADs of weights, and STOREs of a layer; parameters have `Traffic.parameter_runs`."""

    activation_loads: float
    fills: float
    weight_loads: float
    stores: float


def instructions(a: Architecture, l: LoweredLayer, t: Tiling, n: Traffic, copies: float = 0) -> Instructions:  # noqa: E741
    """`Instructions` of a layer of whose instructions so many are COPYs; numbers or arrays that broadcast.

    There is a STORE for every working stripe of every tile, and a FILL for the rows of every stripe above and below the image
    and for the columns of every tile beside it.
    """
    y_tiles, x_tiles = -(-l.out_h // (a.rows * t.tile_h)), -(-l.out_w // t.tile_w)
    left = l.out_h - (y_tiles - 1) * a.rows * t.tile_h
    tile_h = np.minimum(t.tile_h, -(-left // a.rows))
    stripes = (y_tiles - 1) * a.rows + np.minimum(a.rows, -(-left // tile_h))  # the last row of tiles is shared out again
    stores = stripes * x_tiles * n.output_tiles / (y_tiles * x_tiles) * (n.output_runs > 0)  # what stays on chip is not stored
    weights = l.product * n.weight_loads + (l.product == 0) * n.weight_runs
    below = (l.out_h - 1) * l.stride_h + (l.kernel_h - 1) * l.dilation + 1 - l.pad_top - l.in_h
    beside = (l.out_w - 1) * l.stride_w + (l.kernel_w - 1) * l.dilation + 1 - l.pad_left - l.in_w
    rows = np.minimum(stripes, -(-l.pad_top // (l.stride_h * t.tile_h))) + np.minimum(stripes, -(-np.maximum(below, 0) // (l.stride_h * t.tile_h)))
    columns = np.minimum(x_tiles, -(-l.pad_left // (l.stride_w * t.tile_w))) + np.minimum(x_tiles, -(-np.maximum(beside, 0) // (l.stride_w * t.tile_w)))
    both = n.instructions - 1 - n.computes - weights - n.parameter_runs - stores - copies
    fills = (rows / y_tiles + columns / x_tiles) * n.activation_loads
    loads = np.minimum(np.maximum(both - fills, n.activation_loads), n.activation_runs)
    return Instructions(loads, both - loads, weights, stores)


instruction_counts = njit(cache=True)(instructions)
"""The same for one layer, callable from other kernels."""


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
        return DramTimes._make(zero for _ in DramTimes._fields)
    return dram_use(part, a, l, t, n, controller)[0]


def dram_use(
    part: DramPart, a: Architecture, l: LoweredLayer, t: Tiling, n: Traffic, controller: DramController | None = None, *, channels: int = 1,  # noqa: E741
    found: int | NDArray = 0, unstored: int | NDArray = 0,
) -> tuple[DramTimes, DramUse]:  # fmt: skip
    """`DramTimes` and `DramUse` of a layer's traffic over `channels`. Fields are numbers or arrays that broadcast.

    A run takes whole DRAM bursts and AXI beats. Runs of one tile lie a row or a plane apart, so that several of them share a page: what
    `hw.dram.dram_transfer` calls a run is all that is read of a page before the next one. `found`: operands that are on chip and are not loaded;
    `unstored`: 1 where the output stays on chip only.
    """
    # What a run costs in bytes of whole bursts and beats is what it would move over a port as wide as the larger of both.
    bursts = measure_arrays(a._replace(axi_bytes=np.maximum(a.axi_bytes, part.burst_bytes)), l, t)
    loads = bursts.activation_read_bytes * (l.operands - found) // l.operands
    weights, parameters, stores = bursts.weight_read_bytes, bursts.parameter_read_bytes, np.asarray(bursts.output_write_bytes) * (1 - unstored)
    queued = (controller or DramController()).queue_bursts * part.burst_bytes
    waited_for = np.maximum(0, 1 - queued / np.maximum(stores, 1))  # what the queue has taken at the end is not waited for
    count = instructions(a, l, t, n)
    tile_loads, tile_stores = count.activation_loads / n.activation_loads, count.stores / n.output_tiles
    rows_in = np.minimum(l.in_h, (np.asarray(t.tile_h) - 1) * l.stride_h + (l.kernel_h - 1) * l.dilation + 1)
    rows_out = np.minimum(l.out_h, np.asarray(t.tile_h))
    word_bytes = a.lanes * a.activation_bits / 8
    planes = t.tile_c * (l.operands - found) / l.operands
    load_pages = (found < l.operands) * n.activation_loads * _pages(part, tile_loads, planes, l.in_plane_bytes, rows_in * np.asarray(l.in_row_bytes))
    store_pages = n.output_tiles * _pages(part, tile_stores, np.asarray(t.tile_k) / a.lanes, l.out_plane_bytes, rows_out * np.asarray(l.out_row_bytes))
    store_pages = store_pages * (1 - unstored)
    # A product's weights are vectors of the second operand, a pass after the other; others lie in the order in which they are loaded.
    passes, plane = np.minimum(np.asarray(t.tile_k), l.k_per_group) / a.cols, l.k_per_group * word_bytes
    product_pages = l.product * n.weight_loads * _pages(part, np.maximum(1, passes), t.tile_c, plane, a.cols * word_bytes)
    weight_pages = np.where(l.product, product_pages, n.weight_runs)
    program_pages = np.maximum(1, np.asarray(n.program_read_bytes) / part.geometry.page_bytes)

    def alone(
        read: float | NDArray = 0.0, read_pages: float | NDArray = 1.0, write: float | NDArray = 0.0, write_pages: float | NDArray = 1.0
    ) -> DramTransfer:  # fmt: skip
        lengths = (np.maximum(size, part.burst_bytes) / np.maximum(pages, 1) for size, pages in ((read, read_pages), (write, write_pages)))
        read_run, write_run = (np.maximum(length, part.burst_bytes) for length in lengths)
        sizes = {"read_bytes": read, "write_bytes": write, "read_run_bytes": read_run, "write_run_bytes": write_run}
        return dram_transfer(part, **sizes, controller=controller, channels=channels)

    reads, read_pages = loads + weights + parameters + n.program_read_bytes, load_pages + weight_pages + n.parameter_runs + program_pages
    total = alone(reads, read_pages, stores, store_pages)
    in_time = alone(reads, read_pages, stores * waited_for, store_pages * waited_for)
    cycles, tck_s = part.cycles, part.bus.tck_s
    closing = cycles["rp_all"] + cycles["rfc"] + cycles["rcd"]
    read_refresh, write_refresh = cycles["rtp"] + closing, cycles["write_latency"] + cycles["burst"] + cycles["wr"] + closing
    reading, writing = 1 - read_refresh / cycles["refi"], 1 - write_refresh / cycles["refi"]
    times: dict[str, NDArray] = dict(
        activation_s=alone(loads, load_pages).time_s * reading, weight_s=alone(weights, weight_pages).time_s * reading,
        parameter_s=alone(parameters, n.parameter_runs).time_s * reading,
        output_s=alone(write=stores * waited_for, write_pages=store_pages * waited_for).time_s * writing,
        program_s=alone(n.program_read_bytes, program_pages).time_s * reading, total_s=total.time_s,
        latency_s=np.asarray(read_latency_s(part, controller)), usual_latency_s=_usual_latency_s(part, a, l, n, count, controller),
        turn_s=np.asarray((cycles["read_latency"] + cycles["rtw"] + cycles["wtr"]) * tck_s), refresh_s=np.asarray(read_refresh * tck_s),
        refresh_each_s=np.asarray(cycles["refi"] * tck_s),
    )  # fmt: skip
    apart = times["activation_s"] + times["weight_s"] + times["parameter_s"] + times["program_s"] + times["output_s"]
    share = times["output_s"] / np.maximum(apart, 1e-30)
    times["in_time_s"] = in_time.time_s * (share * writing + (1 - share) * reading)
    times = {name: np.broadcast_to(time, np.shape(reads)) for name, time in times.items()}
    return DramTimes._make(times[name] for name in DramTimes._fields), DramUse(read_bytes=np.asarray(reads), write_bytes=stores, activates=total.activates)


def _usual_latency_s(
    part: DramPart, a: Architecture, l: LoweredLayer, n: Traffic, count: Instructions, controller: DramController | None  # noqa: E741
) -> NDArray:  # fmt: skip
    """Latency of a LOAD's first run in the mean. It finds its row open, unless it is the first in its page or another stream took the bank.

    Other streams (outputs, program, a second operand, weights) take a bank by chance, 1 / banks each, once the layer's data fills the banks: regions
    follow on each other in memory, and pages that do so lie in banks of their own.
    """
    page, banks = part.geometry.page_bytes, part.geometry.banks
    loads = count.activation_loads + count.weight_loads + n.parameter_runs
    fresh = np.minimum(1, (n.activation_read_bytes + n.weight_read_bytes + n.parameter_read_bytes) / page / loads)
    weights = l.groups * l.k_per_group * l.c_groups * l.kernel_h * l.kernel_w * a.lanes * np.asarray(a.weight_bits) / 8
    inputs = np.asarray(l.in_plane_bytes) * l.c_groups * l.images * l.groups
    pages = (inputs + np.minimum(weights, n.weight_read_bytes) + n.output_write_bytes + n.program_read_bytes) / page
    others = l.operands + 1 + (np.asarray(n.weight_loads) > 1)
    taken = (1 - (1 - 1 / banks) ** others) * np.clip(pages / banks - 0.5, 0, 1)
    opening, closing = part.cycles["rcd"] * part.bus.tck_s, part.cycles["rp"] * part.bus.tck_s
    return read_latency_s(part, controller) - opening + (1 - (1 - fresh) * (1 - taken)) * (opening + closing)


def _pages(
    part: DramPart, sweeps: float | NDArray, planes: float | NDArray, plane_bytes: float | NDArray, span_bytes: float | NDArray
) -> NDArray:  # fmt: skip
    """Pages opened for a tile of `planes` planes that is moved in `sweeps`, each of which takes `span_bytes` of every plane.

    Small planes share a page. A sweep finds the pages of the one before still open if there is a bank for each.
    """
    page = part.geometry.page_bytes
    each = np.where(np.asarray(plane_bytes) < page, np.asarray(plane_bytes) / page, np.maximum(1, np.asarray(span_bytes) / page))
    once = np.maximum(1, np.asarray(planes) * each)
    return np.where(once <= part.geometry.banks, once, once * sweeps)
