"""A point of an exploration's front, as the design that the generator takes."""

from collections.abc import Mapping
from pathlib import Path

import numpy as np
import pandas as pd

from explore.points import POINT_COLUMNS, read_run, read_table
from explore.space import AXES, FIXED, Architectures, DesignSpace
from hw.config import AcceleratorConfig
from hw.errors import ConfigError
from hw.settings import parse


def choose_point(folder: Path, network: str | None = None, batch: int | None = None, choice: str = "balanced", architecture: str | None = None) -> dict:
    """The Pareto point of one network and batch size (by default the first) in an exploration's `folder` that is the fastest, the most efficient
    or that of the largest product of the two; `architecture` admits its points only. Plain values by `POINT_COLUMNS`.

    Raises `ConfigError` for an exploration that is absent or of another version, and for names that are not in it.
    """
    points = read_table(folder, "pareto", POINT_COLUMNS)
    points = _only(points, "network", points["network"].iloc[0] if network is None else network)
    points = _only(points, "batch", points["batch"].iloc[0] if batch is None else batch)
    if architecture is not None:
        points = _only(points, "architecture", architecture)
    speed, efficiency = points["throughput_ips"], points["efficiency_gops_w"]
    merit = {"fastest": speed, "most-efficient": efficiency, "balanced": speed * efficiency}[choice]
    return {name: value.item() if isinstance(value, np.generic) else value for name, value in points.loc[merit.idxmax()].items()}


def design_of(folder: Path, point: Mapping) -> AcceleratorConfig:
    """The design of a point of the exploration in `folder`."""
    return architecture_of(read_run(folder), point)


def architecture_of(run: Mapping, point: Mapping) -> AcceleratorConfig:
    """The design of a point (`POINT_COLUMNS`) of the exploration whose record is `run`; raises `ConfigError` if that has no space."""
    if "space" not in run:
        raise ConfigError("record of the exploration must have its space, not lack it (run.json); run `voltfront explore` again")
    space = parse(DesignSpace, run["space"], "run.json")
    values = {name: np.array([int(point[name])]) for name in AXES} | {name: np.array([getattr(space, name)]) for name in FIXED}
    return Architectures(values=values, index=np.zeros(1, dtype=np.int64)).config(0)


def _only(points: pd.DataFrame, column: str, value: object) -> pd.DataFrame:
    """Those with that value; `ConfigError` that names some others if there are none."""
    found = points[points[column] == value]
    if found.empty:
        known = points[column].unique()
        some = ", ".join(map(str, known[:8])) + (", ..." if len(known) > 8 else "")
        raise ConfigError(f"{column} must be one of the front's ({some}), not {value}; give one of these")
    return found
