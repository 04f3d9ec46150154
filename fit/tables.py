"""The measured corners and paths that one model is fitted on."""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import pandas as pd

from fit.blocks import BLOCKS
from fit.estimation import WHOLE, Condition, choose, select, with_sides
from flow.table import CORNER_COLUMNS, PARAMETERS, PATH_COLUMNS, Provenance, read_table

TYPICAL = "tt"
"""The process whose model is the project's; the others are fitted beside it, with its laws and terms."""


@dataclass(frozen=True, kw_only=True)
class Tables:
    """Rows of `corners.csv` (see `fit.estimation.select`) and `paths.csv`, with the `side_um` of the design, of one technology, process and layout."""

    corners: pd.DataFrame
    paths: pd.DataFrame
    condition: Condition
    corners_from: Provenance
    paths_from: Provenance

    @staticmethod
    def read(corners_csv: Path, paths_csv: Path, *, process: str | None = None, layout: str | None = None) -> "Tables":
        """Both tables; of several processes the typical one unless named. Raises `ConfigError` where one cannot be used or there are several of
        what must be one."""
        corners, corners_from = read_table(Path(corners_csv), CORNER_COLUMNS)
        paths, paths_from = read_table(Path(paths_csv), PATH_COLUMNS)
        if process is None and TYPICAL in set(corners["process"]):
            process = TYPICAL
        rows, condition = select(corners, process=process, layout=layout)
        paths = choose(paths, process=condition.process, layout=condition.layout, technology=rows["technology"].iloc[0])
        return Tables(corners=rows, paths=with_sides(paths, rows), condition=condition, corners_from=corners_from, paths_from=paths_from)

    def where(self, corners: pd.Series, paths: pd.Series) -> "Tables":
        """Only the rows that the masks keep."""
        return replace(self, corners=self.corners[corners], paths=self.paths[paths])

    def without(self, designs: Sequence[str]) -> "Tables":
        """Without the rows of these designs."""
        return self.where(~self.corners["design"].isin(designs), ~self.paths["design"].isin(designs))

    def left_out(self, design: str) -> "Tables":
        """What may be fitted when `design` is left out: no row of it, nor any row of a block with the same parameters as one of its own,
        except where the block has no other variant; and no path nor whole design that is its like in all parameters."""
        rows = self.corners
        keep = rows["design"] != design
        own = rows[rows["design"] == design]
        for name, block in BLOCKS.items():
            keys = list(block.parameters)
            of_block = rows["block"] == name
            if not keys:
                keep |= of_block
                continue
            used = set(own.loc[own["block"] == name, keys].itertuples(index=False, name=None))
            twins = of_block & np.array([key in used for key in rows[keys].itertuples(index=False, name=None)])
            others = of_block & ~twins
            keep = keep & ~twins if others.any() else keep | of_block
        parameters = list(PARAMETERS)
        mine = set(self.paths.loc[self.paths["design"] == design, parameters].itertuples(index=False, name=None))
        alike = np.array([key in mine for key in self.paths[parameters].itertuples(index=False, name=None)])
        whole = np.array([key in mine for key in rows[parameters].itertuples(index=False, name=None)]) & (rows["block"] == WHOLE)
        return self.where(keep & ~whole, ~alike)
