"""Time and energy of moving data to and from off-chip DRAM, in closed form.

The DRAM keeps its voltage and clock whatever the core does. The closed forms take numpy arrays and
describe the controller of the cycle-level model (``hw/sim/dram_model.cpp``), which they are checked
against:

- address mapping: row, bank, column from the most significant bits down, the bank XORed with the
  row's bits; a sequential stream uses one whole page and goes on in another bank;
- open pages, first-ready scheduling over a queue of `DramController.queue_bursts` bursts of each
  direction, reads first and writes in batches, all-bank refresh every tREFI.
"""

import math
from dataclasses import dataclass
from typing import Annotated

import numpy as np
from numpy.typing import ArrayLike, NDArray
from pydantic import Field, model_validator

from hw.dram_part import DramPart, PowerState, dram_parts, load_dram_part
from hw.errors import ConfigError, ModelError
from hw.settings import Settings

__all__ = [
    "DramController", "DramEnergy", "DramPart", "DramPolicy", "DramTransfer", "dram_energy_j", "dram_parts", "dram_transfer", "idle_times",
    "load_dram_part", "model_settings", "read_latency_s",
]  # fmt: skip


class DramController(Settings):
    """The controller's choices, the same for every part; assumptions of this project.

    Up to `queue_bursts` bursts of each direction are reordered. Writes wait until `write_high_bursts` of them are queued or
    no read is; a direction then keeps the bus for `batch_bursts` or until it has nothing left. `latency_s` is the fixed time
    through controller and PHY that a read spends besides the DRAM's own.
    """

    queue_bursts: Annotated[int, Field(gt=0)] = 64
    write_high_bursts: Annotated[int, Field(gt=0)] = 48
    batch_bursts: Annotated[int, Field(gt=0)] = 32
    latency_s: Annotated[float, Field(ge=0)] = 20e-9

    @model_validator(mode="after")
    def _check(self) -> "DramController":
        if not self.batch_bursts <= self.write_high_bursts <= self.queue_bursts:
            raise ValueError("batch_bursts <= write_high_bursts <= queue_bursts")
        return self


def _check_channels(channels: int) -> None:
    if not 1 <= channels <= 16:
        raise ConfigError(f"channels must be 1 to 16, not {channels}; give the number of DRAM channels")


class DramPolicy(Settings):
    """What a DRAM without requests does: its rows stay open for `timeout_s`, then it goes into `idle_state`.

    Coming back takes tXP (tXSR from self-refresh) in precharge standby. The accelerator's loads are known ahead, so that this
    is taken off the idle time and delays nothing. `active_standby` keeps the rows open for good.
    """

    idle_state: PowerState = "power_down"
    timeout_s: Annotated[float, Field(ge=0)] = 0.0

    def exit_s(self, part: DramPart) -> float:
        """Time to come back from `idle_state`."""
        if self.idle_state in ("active_standby", "precharge_standby"):
            return 0.0
        return part.refresh.txsr_s if self.idle_state == "self_refresh" else part.refresh.txp_s


def model_settings(part: DramPart, controller: DramController) -> str:
    """The cycle-level model's parameters as the text it reads: one key=value on each line, times in clock cycles."""
    values = part.cycles | {
        "tck_ps": round(part.bus.tck_s * 1e12),
        "banks": part.geometry.banks,
        "page_bytes": part.geometry.page_bytes,
        "burst_bytes": part.burst_bytes,
        "queue": controller.queue_bursts,
        "write_high": controller.write_high_bursts,
        "batch": controller.batch_bursts,
        "controller_latency": math.ceil(round(controller.latency_s / part.bus.tck_s, 6)),
    }
    return "\n".join(f"{key}={value}" for key, value in values.items())


@dataclass(frozen=True, kw_only=True)
class DramTransfer:
    """time_s: how long the DRAM is busy with a transfer; activates: rows opened on the way. Both arrays."""

    time_s: NDArray[np.float64]
    activates: NDArray[np.float64]


def dram_transfer(
    part: DramPart,
    *,
    read_bytes: ArrayLike,
    write_bytes: ArrayLike,
    read_run_bytes: ArrayLike,
    write_run_bytes: ArrayLike,
    controller: DramController | None = None,
    channels: int = 1,
) -> DramTransfer:
    """Time and row activations of moving these bytes when the queues are kept full; shapes broadcast.

    Pages are interleaved over `channels`, each a part of its own; the data is taken to be spread evenly.

    Each direction's data comes in runs of consecutive bytes at unrelated addresses (aligned to DRAM bursts). With t(run) the
    larger of its data time and what its activations need (tRRD, four in tFAW, and tRC or longer in one bank), reads and writes
    alternating in batches, and

        switches = min(read bursts, write bursts) / batch, of each kind,

    time = [runs x t(run) + switches x (RL + tRTW + tWTR + exposed)] / (1 - t_refresh / tREFI). `exposed` is what remains of
    tRP + tRCD when the other direction's batch has taken every bank whose open row was wanted; activations of a direction that
    they bound go on while the bus changes direction, and hide that; t_refresh is all that a refresh
    keeps the bus from: closing the rows, tRPab, tRFC and tRCD. Rows are opened once for each page of a run, again after a
    refresh, and again when the other direction's batch took their bank (banks taken at random).

    The latency of the first access comes on top (`read_latency_s`). Against the cycle-level model of the parts that ship, runs of 32
    bytes to 64 KiB and any mix of reads and writes: time within 3 %, activations within 6 % in one direction and 25 % when mixed
    (default controller; with 32 queued bursts time is within 6 %).
    """
    _check_channels(channels)
    controller = controller or DramController()
    cycles, banks = part.cycles, part.geometry.banks
    reads = _direction(part, read_bytes, read_run_bytes, channels, controller, cycles["rtp"])
    writes = _direction(part, write_bytes, write_run_bytes, channels, controller, _after_write(part))

    switches = np.minimum(reads.bursts, writes.bursts) / controller.batch_bursts
    turnaround = cycles["read_latency"] + cycles["rtw"] + cycles["wtr"]
    to_reopen = max(cycles["rp"] + cycles["rcd"] - turnaround / 2, 0)
    reopened = switches * (reads.rows_waiting * writes.banks_taken + writes.rows_waiting * reads.banks_taken) / banks
    exposed = to_reopen * (_all_taken(reads, writes, banks) + _all_taken(writes, reads, banks))
    unhidden = turnaround * (reads.turn_share + writes.turn_share) / 2
    busy = reads.busy_cycles + writes.busy_cycles + switches * (unhidden + exposed)

    bursts = reads.bursts + writes.bursts
    write_share = np.divide(writes.bursts, bursts, out=np.zeros_like(bursts), where=bursts > 0)
    total = busy / (1 - _refresh_cycles(part, write_share) / cycles["refi"])
    mixed_share = np.divide(2 * np.minimum(reads.bursts, writes.bursts), bursts, out=np.zeros_like(bursts), where=bursts > 0)
    longer = np.where(reads.bursts >= writes.bursts, reads.rows_in_use, writes.rows_in_use)
    closed_by_refresh = np.minimum(mixed_share * (reads.rows_in_use + writes.rows_in_use) + (1 - mixed_share) * longer, banks)
    activates = reads.pages + writes.pages + reopened + total / cycles["refi"] * closed_by_refresh
    return DramTransfer(time_s=total * part.bus.tck_s, activates=channels * activates)


_SHARPNESS = 7.5
"""How sharply the slower of two limits on activations decides; this and `turn_share` were set by the cycle-level model of the parts that ship."""


@dataclass(frozen=True, kw_only=True)
class _Direction:
    """One direction of a transfer by itself.

    bursts, pages: DRAM bursts, and pages visited. busy_cycles: clock cycles without refresh and change of direction.
    turn_share: part of a change of direction that activations do not hide.
    rows_in_use: rows that the queued requests hold open. rows_waiting: those left open and still wanted when the other
    direction takes over. banks_taken: banks that one batch, and what is prepared ahead during it, opens rows in.
    """

    bursts: NDArray[np.float64]
    pages: NDArray[np.float64]
    busy_cycles: NDArray[np.float64]
    turn_share: NDArray[np.float64]
    rows_in_use: NDArray[np.float64]
    rows_waiting: NDArray[np.float64]
    banks_taken: NDArray[np.float64]


def _direction(
    part: DramPart, size_bytes: ArrayLike, run_bytes: ArrayLike, channels: int, controller: DramController, last_use: int
) -> _Direction:  # fmt: skip
    """`last_use` is how long, in cycles, a row must stay open after its last command."""
    size, run = np.broadcast_arrays(np.asarray(size_bytes, float), np.asarray(run_bytes, float))
    if channels > 1:  # a run longer than a page is a run of its share of the pages in every channel
        size, run = size / channels, np.maximum(np.minimum(run, part.geometry.page_bytes), run / channels)
    if not (np.all(size >= 0) and np.all(run > 0)):
        raise ModelError("DRAM transfers must have bytes >= 0 and runs of more than 0 bytes, and do not")
    cycles, banks = part.cycles, part.geometry.banks
    activate_cycles = max(cycles["faw"] / 4, cycles["rrd"])
    runs, bursts_of_run = size / run, np.ceil(run / part.burst_bytes)
    pages_of_run = 1 + (bursts_of_run - 1) * part.burst_bytes / part.geometry.page_bytes
    data, rows = bursts_of_run * cycles["burst"], pages_of_run * activate_cycles
    data_bound = data >= rows
    pages_a_burst = pages_of_run / bursts_of_run

    def distinct_banks(visits: NDArray[np.float64]) -> NDArray[np.float64]:
        return banks * (1 - (1 - 1 / banks) ** visits)

    rows_in_use = distinct_banks(1 + controller.queue_bursts * pages_a_burst)
    bank_cycles = max(cycles["rc"], cycles["rcd"] + last_use + cycles["rp"])
    ahead = (controller.batch_bursts + controller.queue_bursts / 2) * pages_a_burst
    return _Direction(
        bursts=runs * bursts_of_run,
        pages=runs * pages_of_run,
        busy_cycles=runs * np.maximum(data, (rows**_SHARPNESS + (pages_of_run * bank_cycles / rows_in_use) ** _SHARPNESS) ** (1 / _SHARPNESS)),
        turn_share=np.clip(3 * data / rows - 1.3, 0, 1),
        rows_in_use=rows_in_use,
        # Where activations are the bottleneck a row is used as soon as it is open.
        rows_waiting=np.where(data_bound, rows_in_use, 0),
        banks_taken=distinct_banks(1 + np.minimum(ahead, controller.batch_bursts * cycles["burst"] / activate_cycles)),
    )


def _after_write(part: DramPart) -> int:
    """Cycles from a write command until its row may be closed."""
    return part.cycles["write_latency"] + part.cycles["burst"] + part.cycles["wr"]


def _all_taken(direction: _Direction, other: _Direction, banks: int) -> NDArray[np.float64]:
    """Chance that the other direction's batch took the banks of all rows that this one had waiting."""
    return np.where(direction.rows_waiting > 0, (other.banks_taken / banks) ** direction.rows_waiting, 0)


def _refresh_cycles(part: DramPart, write_share: NDArray[np.float64]) -> NDArray[np.float64]:
    """Cycles in which one refresh keeps data off the bus: until the last burst lets its row close, then tRPab, tRFC, tRCD."""
    cycles = part.cycles
    closing = write_share * _after_write(part) + (1 - write_share) * cycles["rtp"]
    return closing + cycles["rp_all"] + cycles["rfc"] + cycles["rcd"]


def read_latency_s(part: DramPart, controller: DramController | None = None) -> float:
    """From a read's arrival at an idle controller to its last data, the row closed: tRCD + RL + the burst + the controller's own."""
    cycles = part.cycles
    return (cycles["rcd"] + cycles["read_latency"] + cycles["burst"]) * part.bus.tck_s + (controller or DramController()).latency_s


@dataclass(frozen=True, kw_only=True)
class DramEnergy:
    """Where a transfer's energy goes, each an array: the DRAM core's operations, its data lines, the PHY, standby power, refresh."""

    activate_j: NDArray[np.float64]
    read_j: NDArray[np.float64]
    write_j: NDArray[np.float64]
    io_j: NDArray[np.float64]
    phy_j: NDArray[np.float64]
    background_j: NDArray[np.float64]
    refresh_j: NDArray[np.float64]

    @property
    def core_j(self) -> NDArray[np.float64]:
        return self.activate_j + self.read_j + self.write_j

    @property
    def total_j(self) -> NDArray[np.float64]:
        return self.core_j + self.io_j + self.phy_j + self.background_j + self.refresh_j


def dram_energy_j(
    part: DramPart,
    *,
    read_bytes: ArrayLike,
    write_bytes: ArrayLike,
    activates: ArrayLike,
    busy_s: ArrayLike,
    total_s: ArrayLike,
    gaps: ArrayLike = 1,
    policy: DramPolicy | None = None,
    channels: int = 1,
) -> DramEnergy:
    """Energy of `channels` DRAMs together over `total_s`, of which each serves requests for `busy_s`; shapes broadcast.

    While busy they are in active standby; the rest of the time is made of `gaps` equal pauses, in each of which `policy` decides.
    They are refreshed throughout, except that self-refresh has that in its own current. bytes and activates are those of all
    channels. `ModelError` if `busy_s` is longer than `total_s` or anything is negative.
    """
    _check_channels(channels)
    policy = policy or DramPolicy()
    arrays = np.broadcast_arrays(*(np.asarray(a, float) for a in (read_bytes, write_bytes, activates, busy_s, total_s, gaps)))
    read, write, activates, busy, total, gaps = arrays
    if not all(np.all(a >= 0) for a in arrays) or np.any(busy > total * (1 + 1e-9)):
        raise ModelError("DRAM energy must be asked for bytes, activates, gaps and times >= 0 with busy_s <= total_s, and was not")
    idle = np.maximum(total - busy, 0)
    waiting, leaving, low = idle_times(idle, gaps, policy.timeout_s, policy.exit_s(part))
    standby, idle_w = part.background_w("active_standby"), part.background_w(policy.idle_state)
    bits = 8 * (read + write)
    return DramEnergy(
        activate_j=activates * part.activate_j,
        read_j=8 * read * part.read_j_per_bit,
        write_j=8 * write * part.write_j_per_bit,
        io_j=bits * part.io_j_per_bit,
        phy_j=bits * part.interface.phy_j_per_bit + channels * total * part.interface.phy_static_w,
        background_j=channels * ((busy + waiting) * standby + leaving * part.background_w("precharge_standby") + low * idle_w),
        refresh_j=channels * (total - low if policy.idle_state == "self_refresh" else total) * part.refresh_w,
    )


def idle_times(
    idle_s: float | NDArray, gaps: float | NDArray, timeout_s: float, exit_s: float
) -> tuple[float | NDArray, float | NDArray, float | NDArray]:  # fmt: skip
    """Of `idle_s` in `gaps` equal pauses: how long rows stay open, how long the DRAM comes back, how long it is in its idle state, s."""
    waiting = np.minimum(idle_s, gaps * timeout_s)
    leaving = np.minimum(idle_s - waiting, gaps * exit_s)
    return waiting, leaving, idle_s - waiting - leaving
