"""Measured results, one compressed file (a shard) a design, with the hashes of what they were measured on.

A shard is gzip-compressed JSON: where it comes from, and the rows of the tables column by column. It is written whole when its design is
finished, so a campaign that is killed keeps all finished designs. It is fresh while the design, the parts of the plan that
concern it, its RTL and the technology are what they were; else it is stale, and `voltfront tables --check` fails.
"""

import gzip
import hashlib
import json
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path

import pandas as pd

from flow.cache import file_hash
from flow.files import write_whole
from flow.plan import Plan
from flow.table import CORNER_COLUMNS, CYCLE_COLUMNS, PATH_COLUMNS, TABLE_VERSION, Provenance, write_table
from flow.tech import Technology
from hw.config import AcceleratorConfig
from hw.errors import ConfigError

SHIPPED = Path(__file__).parent / "tables"
"""Shards that come with the project: `<plan>/<technology>/<design>.json.gz`."""
SUFFIX = ".json.gz"
_TABLES = {"corners": CORNER_COLUMNS, "paths": PATH_COLUMNS, "cycles": CYCLE_COLUMNS}


@dataclass(frozen=True, kw_only=True)
class Shard:
    """The rows of one design in the three tables. `inputs` are hashes by name (design, plan, rtl, technology), see `shard_inputs`."""

    design: str
    corners: list[dict]
    paths: list[dict]
    cycles: list[dict]
    commit: str
    command: str
    tools: dict[str, str]
    inputs: dict[str, str]


def technology_hash(technology: Technology) -> str:
    """Names the technology's settings and the contents of its files."""
    files = sorted({file for corner in technology.corners for file in corner.liberty} | ({technology.sram} if technology.sram else set()))
    settings = technology.model_dump(mode="json", exclude={"corners", "sram", "sources", "description"})
    corners = [corner.model_dump(mode="json", exclude={"liberty"}) for corner in technology.corners]
    return _hash([settings, corners, [file_hash(Path(file)) for file in files]])


def shard_inputs(design: AcceleratorConfig, plan: Plan, technology: Technology, rtl_hash: str) -> dict[str, str]:
    """What a shard depends on."""
    measured = plan.model_dump(mode="json", include={"activity", "activity_cycles", "instances", "runs", "layouts"})
    if design.name in plan.supplies_only:
        measured["supplies_only"] = True
    return {
        "table_version": str(TABLE_VERSION), "design": _hash(design.model_dump(mode="json")), "plan": _hash(measured), "rtl": rtl_hash,
        "technology": technology_hash(technology),
    }  # fmt: skip


def _hash(value: object) -> str:
    return hashlib.sha256(json.dumps(value, sort_keys=True).encode()).hexdigest()


def write_shard(shard: Shard, folder: Path) -> Path:
    """Write `<design>.json.gz`, whole or not at all; the same shard makes the same bytes."""
    data = asdict(shard) | {kind: _columns(getattr(shard, kind), columns, shard.design) for kind, columns in _TABLES.items()}
    path = folder / f"{shard.design}{SUFFIX}"
    content = gzip.compress(json.dumps(data, sort_keys=True, allow_nan=False).encode(), mtime=0)
    try:
        write_whole(path, lambda temporary: temporary.write_bytes(content))
    except OSError as error:
        raise ConfigError(f"shard must be writable, not fail with {error.strerror} ({path}); free the disk and repeat: finished designs are kept") from None
    return path


def _columns(rows: Sequence[Mapping], columns: Mapping[str, str], design: str) -> dict[str, list]:
    odd = next((sorted(set(row) ^ set(columns)) for row in rows if set(row) != set(columns)), None)
    if odd:
        raise ConfigError(f"rows must have the columns of the format, not differ in {', '.join(odd)} (design {design}); correct the writer")
    return {name: [row[name] for row in rows] for name in columns}


def read_shard(path: Path) -> Shard:
    """The shard at `path`; raises `ConfigError` for anything else, such as a file of another table version."""
    try:
        data = json.loads(gzip.decompress(path.read_bytes()))
        tables = {}
        for kind, columns in _TABLES.items():
            if list(data[kind]) != sorted(columns):
                raise ValueError(f"its {kind} have other columns")
            tables[kind] = [dict(zip(columns, row, strict=True)) for row in zip(*(data[kind][name] for name in columns), strict=True)]
        return Shard(**(data | tables))
    except (OSError, EOFError, ValueError, KeyError, TypeError, RecursionError) as error:
        raise ConfigError(f"shard must be a readable table of this version, not {path} ({error}); run `voltfront characterize` again") from None


def stale_inputs(shard: Shard, inputs: Mapping[str, str]) -> tuple[str, ...]:
    """The names of the inputs that are not what the shard was measured on."""
    return tuple(sorted(name for name in {*shard.inputs, *inputs} if shard.inputs.get(name) != inputs.get(name)))


def assemble(shards: Sequence[Shard], *, technology: str, tables: Path) -> tuple[Path, Path]:
    """Write the tables of `shards`, in their order; returns `<tables>/<technology>/corners.csv` and `<tables>/cycles.csv`. `paths.csv` lies
    beside the former."""
    if not shards:
        raise ConfigError(f"shards of technology {technology} must exist, not be none; run `voltfront characterize`")
    provenance = Provenance(
        commit=" ".join(sorted({shard.commit for shard in shards})), command="; ".join(sorted({shard.command for shard in shards})),
        tools={name: version for shard in shards for name, version in shard.tools.items()},
        inputs={f"{name}:{shard.design}": value for shard in shards for name, value in shard.inputs.items() if name != "technology"}
        | {f"technology:{technology}": value for shard in shards for name, value in shard.inputs.items() if name == "technology"},
    )  # fmt: skip
    paths = {kind: tables / technology / f"{kind}.csv" for kind in ("corners", "paths")} | {"cycles": tables / "cycles.csv"}
    for kind, columns in _TABLES.items():
        frame = pd.DataFrame([row for shard in shards for row in getattr(shard, kind)], columns=list(columns))
        write_table(frame, columns, paths[kind], provenance)
    return paths["corners"], paths["cycles"]


def assemble_folder(folder: Path, *, technology: str, tables: Path) -> tuple[Path, Path]:
    """Write the tables of all shards in `<folder>/<technology>`, by name."""
    paths = sorted((folder / technology).glob(f"*{SUFFIX}"))
    if not paths:
        raise ConfigError(f"shards of technology {technology} must exist, not be none ({folder}); run `voltfront characterize`")
    return assemble([read_shard(path) for path in paths], technology=technology, tables=tables)
