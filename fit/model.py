"""The fitted model as a value and as a file: laws with their numbers, units, errors, ranges and where they come from.

The file is JSON (`docs/model-file.md`), written whole or not at all, and read back strictly.
"""

import json
import os
import tempfile
from collections.abc import Mapping
from pathlib import Path
from typing import Annotated, Literal

import numpy as np
from numpy.typing import ArrayLike, NDArray
from pydantic import Field, ValidationError

from fit.laws import VOLTAGE_LAWS
from hw.errors import ConfigError, ModelError
from hw.settings import Settings

FORMAT = "voltfront-model"
MODEL_VERSION = 1
NORMAL_90 = 1.6448536269514722
"""Half-width of a 90 % interval in standard deviations."""

Status = Literal["fitted", "at_bound", "undetermined", "assumed"]
Range = Annotated[tuple[float, float], Field(strict=False)]


class Number(Settings):
    """A parameter: what it multiplies or means, its value and unit, its standard error (None where unknown), and its status."""

    name: str
    formula: str
    value: float
    unit: str
    standard_error: float | None
    status: Status


class ErrorSummary(Settings):
    """Absolute relative errors of predictions of rows that took no part in their fit."""

    mean: float
    median: float
    p90: float
    worst: float
    rows: int
    groups: int
    """Variants, designs or voltages left out in turn."""

    @staticmethod
    def of(errors: ArrayLike, groups: ArrayLike) -> "ErrorSummary | None":
        """Of relative errors [rows] and the group of each; None where nothing could be left out (all NaN)."""
        known = np.isfinite(np.asarray(errors, dtype=float))
        if not known.any():
            return None
        size = np.abs(np.asarray(errors, dtype=float)[known])
        return ErrorSummary(
            mean=float(size.mean()), median=float(np.median(size)), p90=float(np.quantile(size, 0.9)), worst=float(size.max()),
            rows=int(size.size), groups=len(np.unique(np.asarray(groups)[known])),
        )  # fmt: skip


class FittedLaw(Settings):
    """value = (sum of coefficient x term) x voltage law(V) / voltage law(reference voltage)."""

    quantity: str
    unit: str
    terms: tuple[Number, ...]
    voltage_law: str
    voltage_parameters: tuple[Number, ...]
    reference_vdd_v: float
    voltage_range_v: Range
    condition: float
    """Condition number of the normalized terms: above about 100, single coefficients mean little though their sum may be good."""
    residual_log_sd: float
    log_sd: float
    """Standard deviation of the logarithm of a prediction for a variant not measured."""
    left_out: ErrorSummary | None
    """Errors of variants left out in turn; None with one variant."""
    rows: int
    variants: int

    def voltage_factor(self, vdd_v: ArrayLike, temperature_c: float) -> NDArray:
        """Voltage law over its value at the reference voltage, shape of `vdd_v`."""
        return VOLTAGE_LAWS[self.voltage_law].relative(vdd_v, self.reference_vdd_v, temperature_c, [p.value for p in self.voltage_parameters])

    def structure(self, terms: Mapping[str, ArrayLike]) -> NDArray:
        """Sum of coefficient x term: the value at the reference voltage."""
        return sum(np.asarray(terms[t.name], dtype=float) * t.value for t in self.terms if t.value)


class FittedBlock(Settings):
    """Laws of one kind of block by quantity, and the range of each parameter over which it was measured."""

    domain: Literal["core", "memory"]
    supply: Literal["vdd_v", "sram_vdd_v"]
    """Which supply the laws' voltage is."""
    ranges: dict[str, Range]
    laws: dict[str, FittedLaw]
    absent: tuple[str, ...] = ()
    """Quantities that are zero in every row: the block has no such path or draws no such energy."""
    provisional: bool


class LawComparison(Settings):
    """Errors of each candidate law at voltages left out, over all delays; the one with the least mean is `chosen`."""

    chosen: str
    left_out_voltages: dict[str, ErrorSummary]


class CycleModel(Settings):
    """Fitted coefficients of `fit.cycles`."""

    parameters: tuple[Number, ...]
    log_sd: float
    left_out: ErrorSummary | None
    rows: int
    layers: int


class Source(Settings):
    """A table the model was fitted on."""

    path: str
    sha256: str
    rows: int
    commit: str
    command: str
    tools: dict[str, str]
    inputs: dict[str, str]


class Comparison(Settings):
    """A quantity of whole designs, left out: the model's errors, those of the uncalibrated ideal model, and how well each orders designs."""

    quantity: str
    split: str
    """What was left out."""
    model: ErrorSummary
    ideal: ErrorSummary | None
    rank_correlation: float | None
    """Spearman's, within each voltage, the mean over voltages; None with fewer than three designs."""
    interval_coverage: float | None
    """Share of rows inside the 90 % interval."""
    outside_range: int
    """Rows for which the fit without the design had to extrapolate (they are included)."""


class FittedModel(Settings):
    """Everything that predicts: see the module for the file, `fit.compose` for whole designs, `fit.cycles` for layers."""

    format: Literal["voltfront-model"] = FORMAT
    version: Literal[1] = MODEL_VERSION
    technology: str
    process: str
    temperature_c: float
    back_bias_v: float
    layout: str
    reference_vdd_v: float
    voltage_range_v: Range
    sram_voltage_range_v: Range
    blocks: dict[str, FittedBlock]
    delay_law: LawComparison
    cycles: CycleModel | None
    validation: tuple[Comparison, ...]
    provisional: tuple[str, ...]
    """Blocks whose numbers rest on provisional constants."""
    sources: tuple[Source, ...]


def write_model(model: FittedModel, path: Path) -> None:
    """Write the model file, whole or not at all."""
    path.parent.mkdir(parents=True, exist_ok=True)
    descriptor, name = tempfile.mkstemp(dir=path.parent, prefix=path.name)
    try:
        with os.fdopen(descriptor, "w", encoding="utf-8") as file:
            file.write(json.dumps(model.model_dump(mode="json"), indent=1) + "\n")
        os.replace(name, path)
    except BaseException:
        Path(name).unlink(missing_ok=True)
        raise


def read_model(path: Path | str, *, technology: str | None = None) -> FittedModel:
    """The model at `path`; raises `ConfigError` if it is absent, damaged, of another version, or not of `technology`."""
    path = Path(path)
    try:
        text = path.read_text(encoding="utf-8")
        head = json.loads(text)
    except FileNotFoundError:
        raise ConfigError(f"model must exist, not be absent ({path}); run `voltfront fit`") from None
    except (OSError, ValueError) as error:
        raise ConfigError(f"model must be a readable JSON file ({path}): {' '.join(str(error).split())}; run `voltfront fit` again") from None
    if not isinstance(head, dict) or head.get("format") != FORMAT:
        raise ConfigError(f"file must be a {FORMAT}, not another kind of JSON ({path})")
    if head.get("version") != MODEL_VERSION:
        raise ConfigError(f"version of a model must be {MODEL_VERSION}, not {head.get('version')!r} ({path}); run `voltfront fit` again")
    try:
        model = FittedModel.model_validate_json(text)
    except ValidationError as error:
        first = error.errors(include_url=False)[0]
        key = ".".join(map(str, first["loc"]))
        raise ConfigError(f"model must be in the documented format, not differ at {key}: {first['msg']} ({path}); run `voltfront fit` again") from None
    if technology is not None and model.technology != technology:
        raise ConfigError(f"technology of the model must be {technology}, not {model.technology} ({path}); fit the tables of {technology}")
    return model


def beyond(values: ArrayLike, valid: tuple[float, float]) -> NDArray:
    """Where `values` lie outside the range `valid` (both ends belong to it)."""
    tolerance = 1e-9 * max(abs(valid[0]), abs(valid[1]))
    return (np.asarray(values) < valid[0] - tolerance) | (np.asarray(values) > valid[1] + tolerance)


def check_range(values: ArrayLike, valid: tuple[float, float], what: str, unit: str = "") -> None:
    """Raise `ModelError` if any of `values` lies outside `valid`."""
    outside = np.asarray(values, dtype=float)[beyond(values, valid)]
    if outside.size:
        low, high, unit = *valid, f" {unit}" if unit else ""
        rule = f"{low:g}{unit}" if low == high else f"{low:g} to {high:g}{unit}"
        raise ModelError(f"{what} must be within the fitted range {rule}, not {outside[0]:g}{unit}; measure such variants or ask for extrapolation")
