"""The points that a reader can explore in the report: which of them the page holds, and how they are packed into it."""

import base64
import re
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pandas as pd
import pyarrow as pa
import pyarrow.dataset as ds
from numpy.typing import NDArray

from explore.pareto import front
from explore.points import POINT_COLUMNS, POINTS_VERSION
from explore.report_charts import ENERGIES
from explore.space import AXES
from hw.config import Array, Buffers, Memory
from hw.dram_part import load_dram_part
from hw.errors import ConfigError
from hw.settings import Settings

LIMIT = 100_000
"""Points in one page at most, over all cases: what a browser draws without delay."""

NUMBERS = (
    "vdd_v", "freq_hz", "latency_s", "latency_s_lo", "latency_s_hi", "efficiency_gops_w", "efficiency_gops_w_lo", "efficiency_gops_w_hi", "throughput_gops",
    "sram_vdd_v",
)  # fmt: skip
"""Columns that are packed as they are; beside them go `dram_bytes` and the parts of the energy."""
NAMES = ("bound",)
"""Columns of names that are packed as indices."""
CONDITIONS = ("process", "temperature_c", "back_bias_v")
"""Columns by which points can be filtered where they vary."""

GROUPS: dict[str, type[Settings]] = {"array": Array, "buffers": Buffers, "memory": Memory}
"""Parts of a design file that the columns `AXES` fill."""


@dataclass(frozen=True, kw_only=True)
class Choice:
    """Indices of the chosen architectures, and whether the fronts of all points and of every single value of a parameter are among their points."""

    architectures: NDArray
    complete: bool


def choose(throughput: NDArray, efficiency: NDArray, owner: NDArray, parameters: Sequence[NDArray], wanted: NDArray, limit: int) -> Choice:
    """At most `limit` architectures: those `wanted`, those on the front, those on the front of each value of each parameter, then those closest to the front.

    throughput, efficiency, owner [points] (owner: index of the point's architecture); parameters [architectures] each; wanted: indices.
    """
    best = front(throughput, efficiency)
    fronts = [owner[best]]
    for values in parameters:
        for value in np.unique(values):
            own = np.flatnonzero(values[owner] == value)
            fronts.append(owner[own[front(throughput[own], efficiency[own])]])
    needed = np.concatenate([wanted, *fronts])
    needed = needed[np.sort(np.unique(needed, return_index=True)[1])]
    gap = np.full(len(owner), -np.inf)  # log of the factor by which both axes would have to grow for the point to be on the front
    for t, e in zip(np.log(throughput[best]), np.log(efficiency[best]), strict=True):
        gap = np.maximum(gap, np.minimum(t - np.log(throughput), e - np.log(efficiency)))
    closest = np.full(owner.max() + 1, np.inf)
    np.minimum.at(closest, owner, gap)
    closest[needed] = -np.inf
    others = np.argsort(closest, kind="stable")[len(needed) :]
    return Choice(architectures=np.concatenate([needed, others])[:limit], complete=len(needed) <= limit)


def _pack(values: NDArray, kind: str) -> str:
    return base64.b64encode(np.ascontiguousarray(values, dtype=kind).tobytes()).decode("ascii")


def packed_case(path: Path, case: dict[str, object], sweeps: pd.DataFrame, limit: int) -> dict:
    """One case's points in `points.parquet` and its DVFS `sweeps` as plain values for the page: all points of architectures that have about `limit`.

    Raises `ConfigError` for a file that is not what `voltfront explore` writes.
    """
    frame = _read(path, case)
    frame = pd.concat([frame, sweeps[list(frame)]]).drop_duplicates(["architecture", "vdd_v", *CONDITIONS], ignore_index=True)
    owner, names = pd.factorize(frame["architecture"])
    frame = frame.assign(owner=owner).sort_values(["owner", "vdd_v"], kind="stable", ignore_index=True)
    owner = frame["owner"].to_numpy()
    first = np.unique(owner, return_index=True)[1]
    throughput, efficiency = frame["throughput_ips"].to_numpy(), frame["efficiency_gops_w"].to_numpy()
    parameters = {name: frame[name].to_numpy()[first] for name in AXES}
    of_name = {name: i for i, name in enumerate(names)}
    chosen = choose(
        throughput, efficiency, owner, list(parameters.values()), np.array([of_name[name] for name in sweeps["architecture"].unique()], dtype=np.int64),
        max(1, limit * len(names) // len(frame)),
    )  # fmt: skip
    place = np.full(len(names), -1)
    kept = np.sort(chosen.architectures)
    place[kept] = np.arange(len(kept))
    rows = frame[place[owner] >= 0]
    columns = {name: rows[name] for name in NUMBERS} | {f"{name} (J)": value(rows) for name, value in ENERGIES.items()}
    columns["dram_bytes"] = rows["dram_read_bytes"] + rows["dram_write_bytes"]
    packed_names = {}
    for name in (*NAMES, *(c for c in CONDITIONS if frame[c].nunique() > 1)):
        codes, values = pd.factorize(rows[name], sort=True)
        packed_names[name] = {"values": [str(v) for v in values], "codes": _pack(codes, "<u1")}
    return {
        "stored": len(frame), "points": len(rows), "complete": chosen.complete, "names": [str(names[i]) for i in kept],
        "parameters": {name: [int(v) for v in values[kept]] for name, values in parameters.items()},
        "area_um2": [float(v) for v in frame["area_um2"].to_numpy()[first][kept]], "owner": _pack(place[rows["owner"]], "<u4"),
        "numbers": {name: _pack(values, "<f4") for name, values in columns.items()}, "categories": packed_names,
        "mem_clk_hz": float(frame["mem_clk_hz"].iloc[0]), "dram_bytes_per_s": _dram_rate(str(case["dram"])),
    }  # fmt: skip


def _read(path: Path, case: dict[str, object]) -> pd.DataFrame:
    columns = sorted({*NUMBERS, *NAMES, *CONDITIONS, *AXES, "architecture", "throughput_ips", "area_um2", "mem_clk_hz", "points_version"}
                     | {name for name in POINT_COLUMNS if name.endswith("energy_j") or name.endswith("_bytes") and name.startswith("dram")})  # fmt: skip
    try:
        where = None
        for name, value in case.items():
            where = ds.field(name) == value if where is None else where & (ds.field(name) == value)
        points = ds.dataset(path, format="parquet")
        missing = sorted({*columns, *case} - set(points.schema.names))
        if missing:
            raise ConfigError(f"columns must include {missing[0]}, not lack it ({path}); run `voltfront explore` again")
        frame = points.to_table(columns=columns, filter=where).to_pandas()
    except FileNotFoundError:
        raise ConfigError(f"table must exist, not be absent ({path}); run `voltfront explore`") from None
    except (OSError, pa.ArrowException) as error:
        raise ConfigError(f"table must be readable Parquet ({path}): {' '.join(str(error).split())[:200]}; run `voltfront explore` again") from None
    if frame.empty:
        raise ConfigError(f"table must have points of each case, not none of {', '.join(map(str, case.values()))} ({path}); run `voltfront explore` again")
    if (frame["points_version"] != POINTS_VERSION).any():
        raise ConfigError(f"points_version must be {POINTS_VERSION}, not {frame['points_version'].max()} ({path}); run `voltfront explore` again")
    for name in {*NUMBERS, "throughput_ips"}:
        if not pd.api.types.is_numeric_dtype(frame[name]) or not (np.isfinite(frame[name]) & (frame[name] > 0)).all():
            raise ConfigError(f"values of {name} must be finite numbers above 0, not others ({path}); run `voltfront explore` again")
    return frame


def _dram_rate(dram: str) -> float | None:
    """Peak bytes a second of a part that is known by its name."""
    try:
        return load_dram_part(dram).peak_bandwidth_bytes_per_s
    except ConfigError:
        return None


def read_pictures(folder: Path, names: Sequence[str]) -> dict[str, str]:
    """The pictures `<name>.png` in `folder`, of those names that have one, as addresses that hold them; raises `ConfigError` for another format."""
    found = {}
    for name in names:
        path = folder / f"{name}.png"
        if re.fullmatch(r"[a-z0-9_]+", name) and path.is_file():
            content = path.read_bytes()
            if not content.startswith(b"\x89PNG"):
                raise ConfigError(f"picture must be a PNG file, not another ({path}); make it with `voltfront placement`")
            found[name] = "data:image/png;base64," + base64.b64encode(content).decode("ascii")
    return found


def design_form(run: dict) -> dict:
    """How a design file is made of an architecture's parameters: the names in each group, and what the space holds fixed."""
    space = run.get("space")
    fixed = {name: space[name] for kind in GROUPS.values() for name in kind.model_fields if isinstance(space, dict) and isinstance(space.get(name), int)}
    return {
        "groups": {group: [name for name in kind.model_fields if name in AXES or name in fixed] for group, kind in GROUPS.items()},
        "fixed": fixed,
    }
