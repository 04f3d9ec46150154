"""All files of an export, for one design at one operating point."""

import json
from collections.abc import Sequence
from functools import partial
from pathlib import Path

import pandas as pd
import yaml

from explore import timeloop, zigzag
from explore.components import ACTION_COLUMNS, COMPONENT_COLUMNS, CalibratedDesign
from flow.files import write_text_whole, write_whole
from hw.layers import LayerShape


def write_export(design: CalibratedDesign, shapes: Sequence[LayerShape], out: Path) -> list[Path]:
    """Write everything below `out`, each file whole; returns the files. Raises `ConfigError` for a layer that a tool has no form for, before writing.

    `components.csv`, `actions.csv` (also as Parquet), `point.json`; `accelergy/`, `timeloop/` with a problem a layer, `zigzag/`.
    """
    yamls: dict[str, object] = {
        "accelergy/ERT.yaml": timeloop.energy_table(design), "accelergy/ART.yaml": timeloop.area_table(design),
        "timeloop/architecture.yaml": timeloop.architecture(design),
        **{f"timeloop/problem_{i}.yaml": timeloop.problem(shape) for i, shape in enumerate(shapes)},
        "zigzag/hardware.yaml": zigzag.hardware(design), "zigzag/mapping.yaml": zigzag.mapping(shapes, design.config),
        "zigzag/workload.yaml": [zigzag.layer(shape, i, design.config) for i, shape in enumerate(shapes)],
    }  # fmt: skip
    texts = {name: yaml.safe_dump(content, sort_keys=False, width=160) for name, content in yamls.items()}
    tables: dict[str, pd.DataFrame] = {"components": design.components, "actions": design.actions}
    texts |= {f"{name}.csv": table.to_csv(index=False, lineterminator="\n") for name, table in tables.items()}
    layers = [{"file": f"timeloop/problem_{i}.yaml", "layer": shape.name, "macs": shape.macs} for i, shape in enumerate(shapes)]
    columns = {"components": COMPONENT_COLUMNS, "actions": ACTION_COLUMNS}
    texts["point.json"] = json.dumps({"point": design.point, "layers": layers, "columns": columns}, indent=1) + "\n"
    for name, text in texts.items():
        write_text_whole(out / name, text)
    for name, table in tables.items():
        write_whole(out / f"{name}.parquet", partial(table.to_parquet, index=False))
    return sorted(out / name for name in (*texts, *(f"{name}.parquet" for name in tables)))
