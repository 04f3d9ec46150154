"""Schedules for the report: a voltage and clock for each layer at the chosen architectures of an exploration, beside simpler ways to keep the deadline."""

from collections.abc import Mapping
from pathlib import Path

import numpy as np
import pandas as pd

from explore.chains import Found, find_network
from explore.evaluate import Conditions
from explore.front_design import architecture_of
from explore.planning import LayerTable, layer_table, plan_network
from explore.points import LAYER_COLUMNS, POINT_COLUMNS, read_run, read_table
from explore.schedules import Strategy, Transitions
from explore.space import DesignSpace
from fit.model import FittedModel, read_model
from hw.dram import DramPolicy
from hw.dram_part import load_dram_part
from hw.errors import ConfigError
from hw.settings import parse

SLACK = 1.5
"""The deadline, over the time at the highest voltage."""
_POINTS = 11
"""Operating points to choose from at most, spread evenly over the voltages of the space."""
COLUMNS = ("network", "batch", "dram", "architecture", "deadline_s", "strategy", "period_j", "layer", "vdd_v", "freq_hz", "time_s", "energy_j")
"""`period_j`: energy of a deadline's time, idling included; `time_s` and `energy_j` are the layer's, without what a change of point takes."""


def schedules(run: Mapping, pareto: pd.DataFrame, layers: pd.DataFrame, model: FittedModel) -> pd.DataFrame:
    """`COLUMNS` of every way to run a network within `SLACK` times its shortest time: one row a layer, of the architectures chosen in `layers`
    (balanced, fastest, most efficient).

    run, pareto and layers are those of an exploration. A case whose network is not known by its name, or whose DRAM is left out, has no rows.
    """
    frames = [pd.DataFrame(columns=list(COLUMNS))]
    if "space" not in run or run["dram"] == "none":
        return frames[0]
    conditions, vdd_v = _conditions(run), _voltages(run, model)
    chosen = layers[~layers["choice"].str.startswith("front ")]
    for network, batch, dram, architecture in chosen[["network", "batch", "dram", "architecture"]].drop_duplicates().itertuples(index=False, name=None):
        found = _network(run, network, int(batch))
        if found is None:
            continue
        own = pareto[(pareto["network"] == network) & (pareto["batch"] == batch) & (pareto["architecture"] == architecture)]
        table = layer_table(model, architecture_of(run, own.iloc[0]), found.network.layers, int(batch), conditions, vdd_v, found.own_links)
        deadline_s = SLACK * float(table.time_s[:, -1].sum())
        for strategy in plan_network(table, Transitions(), deadline_s=deadline_s, budget_j=None):
            same = {"network": network, "batch": batch, "dram": dram, "architecture": architecture, "deadline_s": deadline_s}
            frames.append(_rows(table, strategy).assign(**same)[list(COLUMNS)])
    return pd.concat(frames[1:] or frames, ignore_index=True)


def _conditions(run: Mapping) -> Conditions:
    """Those that the exploration was made with."""
    name, _, channels = run["dram"].partition(" x")
    return Conditions(
        dram=load_dram_part(name), channels=int(channels or 1), policy=parse(DramPolicy, run["dram_policy"], "run.json"), mem_clk_hz=run["mem_clk_hz"],
        margin=run["margin"], objective=run["objective"], sram_vdd_v=run["rails"]["sram_vdd_v"],
    )  # fmt: skip


def _voltages(run: Mapping, model: FittedModel) -> np.ndarray:
    vdd_v = parse(DesignSpace, run["space"], "run.json").vdd_v.values()
    vdd_v = vdd_v[vdd_v <= model.reference_vdd_v + 1e-9]
    return vdd_v[np.unique(np.linspace(0, len(vdd_v) - 1, min(_POINTS, len(vdd_v))).round().astype(int))]


def _network(run: Mapping, name: str, batch: int) -> Found | None:
    """The network that was explored under that name, if it is one that can be found again."""
    try:
        found = find_network(name, on_chip=bool(run.get("on_chip")))
    except ConfigError:
        return None
    explored = next(result for result in run["results"] if result["network"] == name and result["batch"] == batch)
    return found if found.network.macs * batch == explored["macs"] else None


def _rows(table: LayerTable, strategy: Strategy) -> pd.DataFrame:
    """The layers of one strategy, each at its point."""
    points, every = np.array(strategy.plan.points), np.arange(len(table.layers))
    energy = table.slow_energy_j if strategy.slowed else table.energy_j
    return pd.DataFrame(
        {
            "strategy": strategy.name, "period_j": strategy.period_j, "layer": [layer.name for layer in table.layers],
            "vdd_v": table.vdd_v[np.full(len(points), len(table.vdd_v) - 1) if strategy.slowed else points], "freq_hz": table.freq_hz[points],
            "time_s": table.time_s[every, points], "energy_j": energy[every, points],
        }
    )  # fmt: skip


def explored_schedules(explore_dir: Path, model_path: Path) -> pd.DataFrame:
    """`schedules` of the exploration in a folder; raises `ConfigError` if it is absent, damaged or of another version."""
    run, pareto, layers = read_run(explore_dir), read_table(explore_dir, "pareto", POINT_COLUMNS), read_table(explore_dir, "layers", LAYER_COLUMNS)
    return schedules(run, pareto, layers, read_model(model_path))
