"""A point of an exploration's front, as the design that the generator takes."""

import json
from pathlib import Path

import numpy as np
import pandas as pd

from explore.points import POINT_COLUMNS, POINTS_VERSION
from explore.space import AXES, FIXED, Architectures, DesignSpace
from hw.config import AcceleratorConfig
from hw.errors import ConfigError
from hw.settings import parse


def choose_point(folder: Path, network: str | None = None, batch: int | None = None, choice: str = "balanced", architecture: str | None = None) -> dict:
    """The Pareto point of one network and batch size (by default the first) in an exploration's `folder` that is the fastest, the most efficient
    or that of the largest product of the two; `architecture` admits its points only. Plain values by `POINT_COLUMNS`.

    Raises `ConfigError` for an exploration that is absent or of another version, and for names that are not in it.
    """
    points = _read(folder)
    points = _only(points, "network", points["network"].iloc[0] if network is None else network)
    points = _only(points, "batch", points["batch"].iloc[0] if batch is None else batch)
    if architecture is not None:
        points = _only(points, "architecture", architecture)
    speed, efficiency = points["throughput_ips"], points["efficiency_gops_w"]
    merit = {"fastest": speed, "most-efficient": efficiency, "balanced": speed * efficiency}[choice]
    return {name: value.item() if isinstance(value, np.generic) else value for name, value in points.loc[merit.idxmax()].items()}


def design_of(folder: Path, point: dict) -> AcceleratorConfig:
    """The design of a point of the exploration in `folder`."""
    try:
        run = json.loads((folder / "run.json").read_text(encoding="utf-8"))
        space = parse(DesignSpace, run["space"], str(folder / "run.json"))
    except (OSError, ValueError, KeyError, TypeError, RecursionError) as error:
        raise ConfigError(f"exploration must have a readable run.json, not {error} ({folder}); run `voltfront explore` again") from None
    values = {name: np.array([int(point[name])]) for name in AXES} | {name: np.array([getattr(space, name)]) for name in FIXED}
    return Architectures(values=values, index=np.zeros(1, dtype=np.int64)).config(0)


def _read(folder: Path) -> pd.DataFrame:
    path = folder / "pareto.csv"
    try:
        points = pd.read_csv(path)
    except FileNotFoundError:
        raise ConfigError(f"exploration must exist, not be absent ({path}); run `voltfront explore`") from None
    except ValueError as error:
        raise ConfigError(f"exploration must be a table, not {' '.join(str(error).split())} ({path}); run `voltfront explore` again") from None
    if list(points) != list(POINT_COLUMNS) or points.empty or set(points["points_version"]) != {POINTS_VERSION}:
        raise ConfigError(f"exploration must have the columns of version {POINTS_VERSION}, and has not ({path}); run `voltfront explore` again")
    return points


def _only(points: pd.DataFrame, column: str, value: object) -> pd.DataFrame:
    """Those with that value; `ConfigError` that names some others if there are none."""
    found = points[points[column] == value]
    if found.empty:
        known = points[column].unique()
        some = ", ".join(map(str, known[:8])) + (", ..." if len(known) > 8 else "")
        raise ConfigError(f"{column} must be one of the front's ({some}), not {value}; give one of these")
    return found
