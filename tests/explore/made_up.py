"""A model made from a known truth (see tests/fit/synthetic.py), so that the exploration can be tested without measurements."""

import sys
from functools import cache
from pathlib import Path

from explore.evaluate import Conditions
from explore.space import DesignSpace, Voltages
from fit.blocks import DELAYS
from fit.cycles import COEFFICIENTS
from fit.estimation import select, with_sides
from fit.fitting import fit_corners
from fit.model import CycleModel, FittedModel, Number
from fit.tables import Tables
from flow.table import Provenance
from hw.dram import load_dram_part

sys.path.append(str(Path(__file__).parent.parent / "fit"))
from synthetic import corners  # noqa: E402


@cache
def model() -> FittedModel:
    """Fitted on corners without noise; the cycle coefficients are where their fit starts."""
    frame, paths = corners(whole=14, noise=0.0)
    rows, condition = select(frame)
    source = Provenance(commit="0" * 40, command="made up", tools={}, inputs={})
    tables = Tables(corners=rows, paths=with_sides(paths, rows), condition=condition, corners_from=source, paths_from=source)
    cycles = CycleModel(
        parameters=tuple(Number(name=c.name, formula=c.meaning, value=c.start, unit=c.unit, standard_error=None, status="assumed") for c in COEFFICIENTS),
        log_sd=0.05, left_out=None, rows=1, layers=1,
    )  # fmt: skip
    return fit_corners(tables).model_copy(update={"cycles": cycles})


@cache
def biased() -> FittedModel:
    """The same, said to be measured at back biases up to 1 V."""
    return model().model_copy(update={"back_bias_range_v": (0.0, 1.0)})


@cache
def slow() -> FittedModel:
    """That of a process on which everything takes a quarter longer."""

    def slower(law):
        numbers = {"terms": law.terms, "wires": law.wires}
        return law.model_copy(update={key: tuple(n.model_copy(update={"value": n.value * 1.25}) for n in own) for key, own in numbers.items()})

    blocks = {
        name: block.model_copy(update={"laws": {q: slower(law) if q in DELAYS else law for q, law in block.laws.items()}})
        for name, block in biased().blocks.items()
    }
    paths = {name: path.model_copy(update={"law": slower(path.law)}) for name, path in biased().paths.items()}
    skew = biased().skew and slower(biased().skew)
    return biased().model_copy(update={"process": "ss", "blocks": blocks, "paths": paths, "skew": skew})


def space(**changes) -> DesignSpace:
    """A few architectures; `changes` replace lists of values."""
    values = {
        "rows": [2, 4], "cols": [8], "lanes": [8, 16], "acc_depth": [16], "multiplier_stages": [1, 2], "post_lanes": [2], "activation_bank_bytes": [16384],
        "weight_bank_bytes": [16384], "output_bank_bytes": [2048], "axi_data_bits": [64], "vdd_v": Voltages(low=0.5, high=1.0, count=4),
    }  # fmt: skip
    return DesignSpace(version=1, name="few", **values | changes)


def conditions(**changes) -> Conditions:
    return Conditions(dram=load_dram_part("lpddr3_1600_x32"), **changes)
