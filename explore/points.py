"""Exploration points: what every column means. One row is an architecture at an operating point, running a network."""

import json
from pathlib import Path

import pandas as pd

from hw.errors import ConfigError

POINTS_VERSION = 3

_HARDWARE = "see hw.config"

POINT_COLUMNS: dict[str, str] = {
    "points_version": "version of this format",
    "network": "name of the network; its layers run one after the other, each from DRAM to DRAM but for what stays on chip (--on-chip)",
    "batch": "images a batch",
    "precision": "a<activation bits>w<weight bits>",
    "technology": "name of the technology",
    "dram": "name of the DRAM part, x its channels if several; none if its time and energy are left out",
    "architecture": "name made of the design's sizes, different for all",
    **{name: _HARDWARE for name in (
        "rows", "cols", "lanes", "acc_depth", "multiplier_stages", "post_lanes", "activation_bank_bytes", "weight_bank_bytes", "output_bank_bytes",
        "axi_data_bits")},
    "process": "process of the chip whose energy, leakage and area these are: tt, ss, ff, ...",
    "clock_process": "process whose fmax sets the clock: that of the chip, or a slower one (--corner slow), with which every chip keeps up",
    "vdd_v": "supply of the core's logic, V",
    "back_bias_v": "back bias, V, positive = forward",
    "temperature_c": "junction temperature, C",
    "sram_vdd_v": "supply of the memory macros, V: that of their own rail (by default the least they work at), or vdd_v where it is higher",
    "freq_hz": "core clock, Hz: fmax (1 - margin), or lower in a frequency-only sweep",
    "mem_clk_hz": "memory-side clock, Hz, at nominal voltage",
    "margin": "part of fmax that is given away, 1",
    "latency_s": "time of a batch, s",
    "latency_s_lo": "lower end of its 90 % interval (errors of the laws for cycles and frequency), s",
    "latency_s_hi": "upper end, s",
    "throughput_ips": "images a second: batch / latency_s",
    "throughput_gops": "useful operations (two a MAC) a second, 1e9/s",
    "efficiency_gops_w": "useful operations for the energy of the whole system, 1e9/J",
    "efficiency_gops_w_lo": "lower end of its 90 % interval (errors of the laws of the chip; the DRAM's figures have none), 1e9/J",
    "efficiency_gops_w_hi": "upper end, 1e9/J",
    "core_efficiency_gops_w": "useful operations for the energy of the core (core_energy_j), 1e9/J",
    "power_w": "energy of the whole system over latency_s, W",
    "core_energy_j": "energy of the core's domain a batch, leakage with it, J",
    "core_leakage_energy_j": "its leakage, J",
    "memory_side_energy_j": "energy of the logic in the memory domain a batch, leakage and the two-clock FIFOs with it, J",
    "dram_energy_j": "energy of the DRAM, its lines and PHY a batch: the sum of the following five, J",
    "dram_core_energy_j": "activating, reading and writing in the DRAM, J",
    "dram_io_energy_j": "data lines, J",
    "dram_phy_energy_j": "PHY, J",
    "dram_background_energy_j": "standby while busy, what the policy says otherwise, J",
    "dram_refresh_energy_j": "refresh, J",
    "area_um2": "area of the chip without PHY and pads, um2",
    "dram_read_bytes": "bytes read a batch, in whole AXI beats",
    "dram_write_bytes": "bytes written a batch, in whole AXI beats",
    "on_front": "yes: a point of the Pareto front; tie: its 90 % intervals reach the front",
    "bound": "what sets the pace for most of the time: compute, load, store, dram, instructions, store latency, load latency",
    "provisional": "whether figures rest on provisional constants",
}  # fmt: skip

SWEEP_COLUMNS: dict[str, str] = {
    "sweep": "dvfs: the clock follows the voltage, at each back bias; frequency: at nominal voltage the same clocks as without bias",
    "rank": "place of the architecture by effectiveness, 1 is the highest",
    "effectiveness": "DVFS effectiveness: [HV(dvfs) - HV(frequency)] / HV(global front), reference (0, 0)",
    "throughput_range": "highest over lowest throughput of the dvfs sweep",
    "efficiency_gain": "highest efficiency of the dvfs sweep over that at nominal voltage",
    "min_energy_vdd_v": "voltage of least system energy a batch in the dvfs sweep, V",
    "min_energy_at_edge": "whether that is the lowest or highest voltage of the sweep",
    "min_energy_back_bias_v": "back bias there, V",
    "core_min_energy_vdd_v": "voltage of least core energy a batch, V",
    "core_min_energy_at_edge": "whether that is the lowest or highest voltage of the sweep",
    "core_min_energy_back_bias_v": "back bias there, V",
    "knee_hz": "least clock of the sweep without bias from which on the network is memory-bound (load, dram or store waits longest), Hz; 0: none",
    "slope": "d ln(efficiency) / d ln(throughput) along the sweep, at this point, at one back bias",
}
"""Columns of `dvfs.csv` before those of `POINT_COLUMNS`."""

LAYER_COLUMNS: dict[str, str] = {
    "network": POINT_COLUMNS["network"],
    "batch": POINT_COLUMNS["batch"],
    "dram": POINT_COLUMNS["dram"],
    "choice": "why this Pareto point: balanced (largest throughput x efficiency), fastest, most efficient; front 1, front 2, ...: the others",
    "architecture": POINT_COLUMNS["architecture"],
    "vdd_v": POINT_COLUMNS["vdd_v"],
    "back_bias_v": POINT_COLUMNS["back_bias_v"],
    "freq_hz": POINT_COLUMNS["freq_hz"],
    "layer": "name of the layer",
    "repeats": "how many layers of the network are alike; the other columns are those of one",
    "macs": "useful multiply-accumulates a batch",
    "order": "weights outer: a weight tile stays while the image goes by; spatial outer: an activation tile stays while the weights go by",
    **{name: "see hw.tiling" for name in ("tile_h", "tile_w", "tile_k", "tile_c")},
    "core_cycles": "core cycles",
    "utilization": "macs / (multipliers x core cycles)",
    **{name: POINT_COLUMNS[name] for name in (
        "latency_s", "core_energy_j", "core_leakage_energy_j", "memory_side_energy_j", "dram_energy_j", "dram_core_energy_j", "dram_io_energy_j",
        "dram_phy_energy_j", "dram_background_energy_j", "dram_refresh_energy_j", "dram_read_bytes", "dram_write_bytes")},
    "bound": "what sets the pace of most steps",
    "on_chip": "which of its activations stay on chip between it and the layer before or behind (--on-chip): none, input, output, both",
}  # fmt: skip
"""Columns of `layers.csv`."""

ARCHITECTURE_COLUMNS: dict[str, str] = {
    "place": "place of the architecture in the space, counted over all combinations",
    **{name: _HARDWARE for name in (
        "rows", "cols", "lanes", "acc_depth", "multiplier_stages", "post_lanes", "activation_bank_bytes", "weight_bank_bytes", "output_bank_bytes",
        "axi_data_bits")},
    "area_um2": POINT_COLUMNS["area_um2"],
    "effectiveness_<network>_b<batch>": "DVFS effectiveness in that case; not a number where a layer fits no tiling",
}  # fmt: skip
"""Columns of `architectures.parquet`: every architecture that was evaluated."""


def read_run(folder: Path) -> dict:
    """The record run.json of the exploration in `folder`; raises `ConfigError` if there is none, or it is damaged."""
    path = folder / "run.json"
    try:
        run = json.loads(path.read_text(encoding="utf-8"))
    except FileNotFoundError:
        raise ConfigError(f"exploration must exist, not be absent ({path}); run `voltfront explore`") from None
    except (OSError, ValueError, RecursionError) as error:
        raise ConfigError(f"record of the exploration must be readable JSON ({path}): {' '.join(str(error).split())}; run `voltfront explore`") from None
    if not isinstance(run, dict):
        raise ConfigError(f"record of the exploration must be a mapping, not {type(run).__name__} ({path}); run `voltfront explore` again")
    return run


def read_table(folder: Path, name: str, columns: dict[str, str]) -> pd.DataFrame:
    """The table `<name>.csv` of the exploration in `folder`; raises `ConfigError` if it is absent, empty, damaged, or of another version."""
    path = folder / f"{name}.csv"
    try:
        table = pd.read_csv(path)
    except FileNotFoundError:
        raise ConfigError(f"exploration must exist, not be absent ({path}); run `voltfront explore`") from None
    except (OSError, ValueError) as error:
        raise ConfigError(f"exploration must be a table, not {' '.join(str(error).split())} ({path}); run `voltfront explore` again") from None
    if list(table) != list(columns) or table.empty or ("points_version" in columns and set(table["points_version"]) != {POINTS_VERSION}):
        raise ConfigError(f"exploration must have the columns of version {POINTS_VERSION}, and has not ({path}); run `voltfront explore` again")
    return table
