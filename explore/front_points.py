"""Points of an exploration's Pareto front, ready to be built: which ones to take, and what was predicted of each."""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pandas as pd

from explore.chains import find_network
from explore.frames import ORDERS
from explore.front_design import architecture_of
from explore.points import LAYER_COLUMNS, POINT_COLUMNS, POINTS_VERSION, read_run, read_table
from fit.estimation import CORNER
from flow.cache import file_hash
from flow.corner import Corner
from hw.config import AcceleratorConfig
from hw.errors import ConfigError
from hw.layers import LayerShape, Network
from hw.tiling import Tiling


@dataclass(frozen=True, kw_only=True)
class PlannedLayer:
    """A layer as the exploration runs it: over the batch, with its tiling, and the core cycles predicted for one of `repeats` like it."""

    shape: LayerShape
    repeats: int
    first: bool
    tiling: Tiling
    cycles: float


@dataclass(frozen=True, kw_only=True)
class Point:
    """A Pareto point of one case: what to build, where it works and what was predicted."""

    config: AcceleratorConfig
    network: str
    batch: int
    corner: Corner
    freq_hz: float
    mem_clk_hz: float
    dram: str
    throughput_ips: float
    efficiency_gops_w: float
    layers: tuple[PlannedLayer, ...]

    @property
    def cycles(self) -> float:
        """Core cycles predicted for the whole network."""
        return sum(layer.repeats * layer.cycles for layer in self.layers)


@dataclass(frozen=True, kw_only=True)
class Front:
    """The Pareto points of one case of an exploration (rows of `POINT_COLUMNS` and `LAYER_COLUMNS`), and its record, run.json."""

    points: pd.DataFrame
    layers: pd.DataFrame
    run: dict
    network: Network
    whole: Network

    def point(self, row: int) -> Point:
        """The point in that row of `points`, with its layers."""
        p = self.points.iloc[row]
        at = ["architecture", "vdd_v", "back_bias_v"]
        own = self.layers[(self.layers[at] == p[at]).all(axis=1)].drop_duplicates("layer")
        if own.empty:
            raise ConfigError(f"layers.csv must hold the layers of {p['architecture']} at {p['vdd_v']:g} V, not none of them; run `voltfront explore` again")
        shapes = {layer.name: layer for layer in self.whole.layers}
        layers = tuple(
            PlannedLayer(
                shape=shapes[r["layer"]], repeats=int(r["repeats"]), first=r["layer"] == self.whole.layers[0].name, cycles=float(r["core_cycles"]),
                tiling=Tiling(ORDERS.index(r["order"]), *(int(r[name]) for name in Tiling._fields[1:])),
            )
            for _, r in own.iterrows()
        )  # fmt: skip
        return Point(
            config=architecture_of(self.run, p), network=p["network"], batch=int(p["batch"]),
            corner=Corner(process=p["process"], **{name: float(p[name]) for name in CORNER}), freq_hz=float(p["freq_hz"]),
            mem_clk_hz=float(p["mem_clk_hz"]), dram=p["dram"], throughput_ips=float(p["throughput_ips"]), efficiency_gops_w=float(p["efficiency_gops_w"]),
            layers=layers,
        )  # fmt: skip


def read_front(folder: Path, model_path: Path, network: str | None = None, batch: int | None = None) -> Front:
    """The front of one case of the exploration in `folder`; by default that of its first case. `network` is a name or a file.

    Raises `ConfigError` if there is no such exploration or case, or it was made with another model than that at `model_path`, and for a DRAM that
    the simulator has no match for.
    """
    run = read_run(folder)
    if run.get("points_version") != POINTS_VERSION:
        raise ConfigError(f"exploration must be of version {POINTS_VERSION}, not {run.get('points_version')!r} ({folder}); run `voltfront explore` again")
    points, layers = read_table(folder, "pareto", POINT_COLUMNS), read_table(folder, "layers", LAYER_COLUMNS)
    if run["inputs"]["model"] != file_hash(model_path):
        raise ConfigError(f"model must be the one that was explored, not another ({model_path}); run `voltfront explore` again")
    if run.get("on_chip"):
        raise ConfigError(f"exploration must be one in which every layer goes through DRAM, as single layers are simulated ({folder}); leave --on-chip out")
    name = network or str(points["network"].iloc[0])
    found, whole, _ = find_network(name)
    points, layers = points[points["network"] == found.name], layers[layers["network"] == found.name]
    batch = int(points["batch"].iloc[0]) if batch is None and len(points) else batch
    points, layers = points[points["batch"] == batch], layers[layers["batch"] == batch]
    if points.empty:
        cases = ", ".join(f"{r['network']} batch {r['batch']}" for r in run["results"])
        raise ConfigError(f"network and batch must be a case of the exploration ({cases}), not {name} batch {batch}; give one of these")
    if run["dram"] == "none" or " x" in run["dram"]:
        raise ConfigError(f"dram of the exploration must be one channel of a part, which can be simulated, not {run['dram']}; explore with one")
    return Front(points=points.reset_index(drop=True), layers=layers.reset_index(drop=True), run=run, network=found, whole=whole)


def spread(points: pd.DataFrame, count: int, most_multipliers: int) -> list[int]:
    """Rows of `points` across a front: of distinct architectures of at most so many multipliers those that come nearest to throughputs spaced
    evenly on a logarithmic scale, from the slowest on. `ConfigError` if there are not as many."""
    allowed = np.flatnonzero(points[["rows", "cols", "lanes"]].prod(axis=1) <= most_multipliers)
    different = points["architecture"].iloc[allowed].nunique()
    if different < count:
        raise ConfigError(f"points must be at most the front's {different} architectures of up to {most_multipliers} multipliers, not {count}; ask for fewer")
    speed, names = np.log(points["throughput_ips"].to_numpy()), points["architecture"].to_numpy()
    chosen: list[int] = []
    for wanted in np.linspace(speed[allowed].min(), speed[allowed].max(), count):
        used = {names[row] for row in chosen}
        chosen.append(int(min((row for row in allowed if names[row] not in used), key=lambda row: (abs(speed[row] - wanted), names[row], row))))
    return sorted(chosen, key=lambda row: speed[row])


def named(points: pd.DataFrame, architectures: Sequence[str]) -> list[int]:
    """Rows of these architectures, each at its point of largest throughput x efficiency; `ConfigError` for one that is not on the front."""
    product = points["throughput_ips"] * points["efficiency_gops_w"]
    chosen = []
    for name in architectures:
        own = product[points["architecture"] == name]
        if own.empty:
            some = ", ".join(points["architecture"].unique()[:3])
            raise ConfigError(f"architecture must be on the front ({some}, ...), not {name!r}; see pareto.csv")
        chosen.append(int(own.idxmax()))
    return chosen
