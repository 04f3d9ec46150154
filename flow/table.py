"""The three measured tables that everything later is fitted on, and their provenance.

`corners.csv` (of a technology): one row per (design, block, corner, workload, phase), from synthesis, timing, replayed
activity and the power engine. `paths.csv` (of a technology): one row per (design, corner, start, end), the slowest path between
the registers of two kinds of blocks in the whole design. `cycles.csv`: one row per RTL simulation of a layer, with the event counters.
Beside each lies a JSON file with the same stem that says where it comes from.
"""

import json
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from pathlib import Path

import pandas as pd

from flow.files import write_text_whole
from hw.config import AcceleratorConfig
from hw.errors import ConfigError
from hw.layers import LayerShape
from hw.registers import EVENTS

TABLE_VERSION = 3

PARAMETERS = (
    "rows", "cols", "lanes", "acc_depth", "acc_bits", "multiplier_stages", "post_lanes", "depthwise_taps", "activation_bits", "weight_bits",
    "activation_words", "weight_words", "output_words", "parameter_words", "axi_data_bits", "max_burst_beats", "read_fifo_beats",
)  # fmt: skip
"""Columns of both tables that describe the design (see `hw.config`)."""


def parameters_of(config: AcceleratorConfig) -> dict[str, int]:
    """The values of `PARAMETERS` of a design; raises `ConfigError` for one that differs in what has no column."""
    for name, field in type(config.array).model_fields.items():
        if name not in PARAMETERS and getattr(config.array, name) != field.default:
            raise ConfigError(f"{name} must be {field.default}, not {getattr(config.array, name)} (design {config.name}); the tables have no column for it")
    words = {f"{kind}_words": getattr(config, f"{kind}_words") for kind in ("activation", "weight", "output")}
    values = {**dict(config.array), **dict(config.precision), **dict(config.memory), **words, "parameter_words": config.buffers.parameter_words}
    return {name: values[name] for name in PARAMETERS}


CORNER_COLUMNS: dict[str, str] = {
    "table_version": "version of this format",
    "technology": "name of the technology",
    "design": "name of the design",
    "block": "kind of block (pe, pe_row, ...), glue between them, sram: memory macro, flipflop_1r1w: memory of flip-flops, accelerator: the whole",
    "module": "Verilog module",
    "domain": "core (scales) or memory (nominal)",
    "instances": "instances of the module in the design",
    **{name: "see hw.config" for name in PARAMETERS},
    "process": "tt, ss, ff, ...",
    "vdd_v": "supply of the logic, V",
    "temperature_c": "junction temperature, C",
    "back_bias_v": "back bias, V, positive = forward",
    "sram_vdd_v": "supply of the memory macros, V",
    "layout": "wires: 'fanout' = capacitance from the fan-out, 'placed' = from placement",
    "workload": "simulated layer and window that the activity comes from",
    "batch": "images a batch in the workload",
    "precision": "a<activation bits>w<weight bits>",
    "phase": "active: cycles with the block's event; idle: cycles without",
    "event": "what the block does once per active cycle: step, output, word, instruction, beat, access, read, write",
    "cycles": "cycles of the phase that were replayed, over all sampled instances",
    "area_um2": "cell area of one instance, without child blocks and when placed with clock trees and buffers, um2",
    "min_period_s": "longest register-to-register path with setup and, when placed, clock skew, s",
    "input_to_register_s": "longest path from an input port, s",
    "register_to_output_s": "longest path to an output port, s",
    "hold_slack_s": "least slack of hold from register to register, clock skew taken off, s",
    "clock_latency_s": "longest delay of the clock trees, those inside its blocks included, s; 0 before placement",
    "critical_path": "whole designs: start and end of the longest register-to-register path",
    "leakage_w": "leakage of one instance, W",
    "energy_internal_per_cycle_j": "energy inside cells, one instance, a cycle of this phase, J, clock pins excluded",
    "energy_switching_per_cycle_j": "energy of nets, J a cycle",
    "energy_clock_per_cycle_j": "energy of clock pins, clock gates and clock nets, J a cycle",
    "energy_per_cycle_j": "the sum of the three, J a cycle",
    "energy_per_cycle_lo_j": "lower end of its 90 % sampling interval, J",
    "energy_per_cycle_hi_j": "upper end, J; both with the interval of the glitch factor",
    "glitch_factor": "how much more the nets of this block move than their settled values tell; already in the energies; 1 where not measured",
    "glitch_factor_lo": "lower end of its 90 % interval",
    "glitch_factor_hi": "upper end",
    "annotated_fraction": "fraction of nets with simulated activity",
    "provisional": "whether the numbers come from provisional constants (memory macros)",
}

PATH_COLUMNS: dict[str, str] = {
    "table_version": "version of this format",
    "technology": "name of the technology",
    "design": "name of the design",
    **{name: "see hw.config" for name in PARAMETERS},
    **{name: CORNER_COLUMNS[name] for name in ("process", "vdd_v", "temperature_c", "back_bias_v", "sram_vdd_v", "layout")},
    "domain": "core (scales) or memory (nominal)",
    "start": "where the path begins: kind of block, name of a two-clock FIFO, pe_accumulator, sram_<bank>, or glue between blocks",
    "end": "where it ends, likewise",
    "delay_s": "slowest path in the whole design from a register or memory of the one to one of the other, with setup, s",
    "start_pin": "where that path begins, hierarchical name",
    "end_pin": "where it ends",
}  # fmt: skip

CYCLE_COLUMNS: dict[str, str] = {
    "table_version": "version of this format",
    "design": "name of the design",
    **{name: "see hw.config" for name in PARAMETERS},
    "layer": "name of the layer",
    "kind": "conv or fc",
    **{name: "see hw.layers" for name in (
        "in_channels", "out_channels", "in_h", "in_w", "kernel_h", "kernel_w", "stride_h", "stride_w",
        "pad_top", "pad_bottom", "pad_left", "pad_right", "dilation", "groups")},
    "batch": "images a batch",
    **{name: "see hw.tiling" for name in ("fold", "order", "tile_h", "tile_w", "tile_k", "tile_c")},
    "core_period_s": "core clock period, s",
    "mem_period_s": "memory-side clock period, s",
    "dram": "DRAM part of the simulation, or ideal",
    **EVENTS,
}  # fmt: skip


def cycle_row(
    config: AcceleratorConfig, shape: LayerShape, *, layer: str, batch: int, fold: bool, tiling: Mapping[str, int], core_period_ps: int, mem_period_ps: int,
    dram: str, events: Mapping[str, int],
) -> dict:  # fmt: skip
    """A row of `cycles.csv`: a layer called `layer` on a design and the `events` that its simulation counted (`hw.registers.EVENTS`)."""
    row = {
        "table_version": TABLE_VERSION, "design": config.name, **parameters_of(config), **shape.model_dump(), "layer": layer, "batch": batch,
        "fold": int(fold), **tiling, "core_period_s": core_period_ps * 1e-12, "mem_period_s": mem_period_ps * 1e-12, "dram": dram, **events,
    }  # fmt: skip
    return {name: row[name] for name in CYCLE_COLUMNS}


@dataclass(frozen=True, kw_only=True)
class Provenance:
    """Where a table comes from."""

    commit: str
    command: str
    tools: dict[str, str]
    inputs: dict[str, str]
    """SHA-256 of each input, by name: RTL of each design, technology files."""


def write_table(frame: pd.DataFrame, columns: dict[str, str], path: Path, provenance: Provenance) -> None:
    """Write the table and its provenance; refuses a frame with other columns or missing values. Both files appear whole or not at all."""
    if list(frame.columns) != list(columns):
        odd = sorted(set(frame.columns) ^ set(columns)) or ["their order"]
        raise ConfigError(f"columns must be those of the format, not different in {', '.join(odd)} ({path}); correct the writer")
    missing = frame.columns[frame.isna().any()].tolist()
    if missing:
        raise ConfigError(f"values must be present in every row, not missing in {', '.join(missing)} ({path}); correct the writer")
    path.parent.mkdir(parents=True, exist_ok=True)
    write_text_whole(path.with_suffix(".json"), json.dumps(asdict(provenance), indent=1, sort_keys=True) + "\n")
    write_text_whole(path, frame.to_csv(index=False, lineterminator="\n"))


def read_table(path: Path, columns: dict[str, str]) -> tuple[pd.DataFrame, Provenance]:
    """The table at `path` and its provenance; refuses another format or version."""
    try:
        frame = pd.read_csv(path, keep_default_na=False)
        provenance = Provenance(**json.loads(path.with_suffix(".json").read_text(encoding="utf-8")))
    except FileNotFoundError as error:
        raise ConfigError(f"table must exist, not be absent ({error.filename}); run `voltfront characterize`") from None
    except (ValueError, TypeError, RecursionError, pd.errors.ParserError) as error:
        raise ConfigError(f"table must be in the documented format ({path}): {' '.join(str(error).split())}; run `voltfront characterize` again") from None
    if list(frame.columns) != list(columns) or (frame["table_version"] != TABLE_VERSION).any() or frame.empty:
        raise ConfigError(f"table must be of version {TABLE_VERSION} with its documented columns ({path}); run `voltfront characterize` again")
    return frame, provenance
