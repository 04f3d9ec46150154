"""What the recorded workloads make of a design: how much of what works at the same time has something to do.

The energy of an event depends on its data. Lanes beyond the layer's channels multiply by zero and do not switch; a weight that stays
over a block of pixels does not either. Both follow from the layer and its tiling, so they are terms of the energy laws and counts of a layer.
"""

import re
from functools import lru_cache

import numpy as np
import pandas as pd

from flow.plan import Window
from flow.table import PARAMETERS
from hw.config import AcceleratorConfig, Array, Buffers, Memory, Precision
from hw.errors import ConfigError
from hw.layers import LayerShape
from hw.lowering import folds, lower
from hw.tiling import architecture, measure
from hw.tiling_choice import choose_tiling

STATISTICS = {
    "useful": "share of the multiplications that are the layer's own: neither a lane nor a column beyond its channels",
    "weight_changes": "weights taken by a processing element in a step",
    "weight_beats": "share of the bytes read that are weights",
    "steps": "share of the cycles in which the array works",
    "weight_takes": "share of the cycles in which each column takes a weight",
    "loads": "share of the cycles in which the load engine writes",
    "weight_loads": "share of the cycles in which it writes weights",
}
"""Columns that `with_statistics` adds; 1 stands for every step, word or byte."""
_NAME = re.compile(r"(?P<network>[^.\[]+)\.(?P<layer>[^\[]+)\[rows=(?P<rows>\d+)/row,blocks=(?P<blocks>\d+),batch=(?P<batch>\d+)\]")


def config_of(row: pd.Series) -> AcceleratorConfig:
    """The configuration that a row's parameter columns describe; what has no column has its default, as in every design that is measured."""
    p = {name: int(row[name]) for name in PARAMETERS}
    activation_bytes, weight_bytes = p["lanes"] * p["activation_bits"] // 8, p["lanes"] * p["weight_bits"] // 8
    return AcceleratorConfig(
        version=1, name="row", array=Array(**{name: p[name] for name in Array.model_fields if name in p}),
        precision=Precision.model_validate({n: p[n] for n in Precision.model_fields}),
        buffers=Buffers(
            activation_bank_bytes=p["activation_words"] * activation_bytes, weight_bank_bytes=p["weight_words"] * weight_bytes,
            output_bank_bytes=p["output_words"] * activation_bytes, parameter_words=p["parameter_words"],
        ),
        memory=Memory.model_validate({name: p[name] for name in Memory.model_fields}),
    )  # fmt: skip


def window_of(workload: str) -> Window:
    """The window that a table calls `workload` (`flow.plan.Window.name`)."""
    found = _NAME.fullmatch(workload)
    if found is None:
        raise ConfigError(f"workload must be named network.layer[rows=R/row,blocks=B,batch=N], not {workload!r}; characterize again")
    return Window(network=found["network"], layer=found["layer"], **{name: int(found[name]) for name in ("rows", "blocks", "batch")})


def useful_multiplications(shape: LayerShape, batch: int) -> int:
    """Multiplications of the layer itself, over a batch; of pooling and sums those by one that the array makes of them."""
    own = shape.macs or shape.output_activations * shape.kernel_h * shape.kernel_w * (2 if shape.kind == "add" else 1)
    return own * batch


@lru_cache(maxsize=512)
def statistics(config: AcceleratorConfig, window: Window) -> dict[str, float]:
    """`STATISTICS` of the window on a design."""
    shape = window.shape(config)
    lowering = lower(config, shape, batch=window.batch, fold=folds(shape, config.array.lanes))
    t = measure(architecture(config), lowering.numbers, choose_tiling(config, lowering))
    reads = t.activation_read_bytes + t.weight_read_bytes + t.parameter_read_bytes + t.program_read_bytes
    return {
        "useful": useful_multiplications(shape, window.batch) / t.multiplier_uses, "weight_changes": t.weight_reads / (config.array.cols * t.pixel_steps),
        "weight_beats": t.weight_read_bytes / reads,
    }  # fmt: skip


def _busy(rows: pd.DataFrame) -> float:
    """Share of the recorded cycles of a block in which it works."""
    cycles = rows.drop_duplicates("phase").set_index("phase")["cycles"]
    return float(cycles.get("active", 0) / cycles.sum()) if len(cycles) else 1.0


def with_statistics(rows: pd.DataFrame) -> pd.DataFrame:
    """Rows of `corners.csv` with the columns `STATISTICS`; 1 where no workload was recorded. Weights come
    through the FIFO of read data only."""
    rows = rows.copy()
    for name in STATISTICS:
        rows[name] = 1.0
    recorded = rows[rows["cycles"] > 0]
    for (_, workload), group in recorded.groupby(["design", "workload"]):
        found = statistics(config_of(group.iloc[0]), window_of(workload))
        steps, loads = (_busy(group[group["block"] == block]) for block in ("compute", "load"))
        found |= {"steps": steps, "weight_takes": steps * found["weight_changes"], "loads": loads, "weight_loads": loads * found["weight_beats"]}
        for name, value in found.items():
            rows.loc[group.index, name] = np.float64(value)
    other = (rows["block"] == "two_clock_fifo") & (rows["words"] != rows["read_fifo_beats"])
    rows.loc[other, "weight_beats"] = 0.0
    return rows
