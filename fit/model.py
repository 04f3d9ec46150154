"""The fitted model as a value and as a file: laws with their numbers, units, errors, ranges and where they come from.

The file is JSON (`fields` says what is in it), written whole or not at all, and read back strictly.
"""

import json
from collections.abc import Container, Iterable, Mapping
from pathlib import Path
from typing import Annotated, Final, Literal, get_args, get_origin

import numpy as np
from numpy.typing import ArrayLike, NDArray
from pydantic import ConfigDict, Field, ValidationError

from fit.blocks import Domain, Supply
from fit.laws import VOLTAGE_LAWS, Corners
from flow.files import write_text_whole
from hw.errors import ConfigError, ModelError
from hw.settings import Settings

FORMAT: Final = "voltfront-model"
MODEL_VERSION: Final = 7
NORMAL_90 = 1.6448536269514722
"""Half-width of a 90 % interval in standard deviations."""

Status = Literal["fitted", "at_bound", "unused", "undetermined", "assumed", "shared"]
Range = Annotated[tuple[float, float], Field(strict=False)]


class _Described(Settings):
    """A part of the model file; the strings below its fields are the file's documentation (see `fields`)."""

    model_config = ConfigDict(use_attribute_docstrings=True)


class Number(_Described):
    """A parameter of a law."""

    name: str
    """Name in the formula."""
    formula: str
    """What it multiplies, or the law it stands in."""
    value: float
    """Its value; 0 where undetermined."""
    unit: str
    """Its unit; 1 for none."""
    standard_error: float | None
    """Jackknife over what was left out in turn; null where unknown."""
    status: Status
    """fitted; at_bound: the bound is best; unused: predictions of variants left out are better without it; undetermined: not
    independent of the terms before it; assumed: too little data, the law's usual value; shared: too little data of this process, the typical one's."""


class ErrorSummary(_Described):
    """Absolute relative errors of predictions of rows that took no part in their fit."""

    mean: float
    """Mean."""
    median: float
    """Median."""
    p90: float
    """90th percentile."""
    worst: float
    """Largest."""
    rows: int
    """Rows predicted."""
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


class FittedLaw(_Described):
    """value = sum of coefficient x wire + (sum of coefficient x term) x corner law(V, T, bias) / corner law at the reference corner."""

    quantity: str
    """area_um2, leakage_w, a delay, idle_energy_j (a cycle) or <event>_energy_j (a cycle with the event)."""
    unit: str
    """Of the quantity, and of each coefficient at the reference corner."""
    terms: tuple[Number, ...]
    """Coefficients of the structural terms."""
    wires: tuple[Number, ...] = ()
    """Coefficients of what wires alone add to a delay, the same at every corner."""
    voltage_law: str
    """Name of the corner law in fit/laws.py."""
    voltage_parameters: tuple[Number, ...]
    """Parameters of the corner law."""
    reference_vdd_v: float
    """Reference voltage."""
    voltage_range_v: Range
    """Least and highest voltage measured."""
    condition: float
    """Condition number of the normalized terms: above about 100, single coefficients mean little though their sum may be good."""
    residual_log_sd: float
    """Standard deviation of the logarithm of the residuals."""
    log_sd: float
    """Standard deviation of the logarithm of a prediction for a variant not measured; +-1.645 of it covers 90 %."""
    left_out: ErrorSummary | None
    """Errors of variants left out in turn; null with one variant."""
    rows: int
    """Rows fitted."""
    variants: int
    """Different sets of the block's parameters among them."""

    def factor(self, corners: Corners, reference: Corners) -> NDArray:
        """Corner law over its value at the reference corner, in the shape of `corners`."""
        return VOLTAGE_LAWS[self.voltage_law].relative(corners, reference, [p.value for p in self.voltage_parameters])

    def structure(self, terms: Mapping[str, ArrayLike], names: Container[str] | None = None) -> NDArray:
        """Sum of coefficient x term, of the terms `names` only if given: the value at the reference corner, but for the wires."""
        return _weighted([t for t in self.terms if names is None or t.name in names], terms)

    def across_wires(self, terms: Mapping[str, ArrayLike]) -> NDArray:
        """Sum of coefficient x wire: what wires add at any corner."""
        return _weighted(self.wires, terms)


def _weighted(numbers: Iterable[Number], terms: Mapping[str, ArrayLike]) -> NDArray:
    return sum((np.asarray(terms[n.name], dtype=float) * n.value for n in numbers), np.zeros(np.shape(next(iter(terms.values())))))


class FittedBlock(_Described):
    """Laws of one kind of block, and the ranges over which it was measured."""

    domain: Domain
    """Whether it scales with the core or stays at nominal voltage."""
    supply: Supply
    """Which supply the laws' voltage is."""
    ranges: dict[str, Range]
    """Least and highest value measured, of each parameter and of each of the laws' terms (products of parameters)."""
    laws: dict[str, FittedLaw]
    """By quantity."""
    absent: tuple[str, ...] = ()
    """Quantities that are zero in every row: the block has no such path or draws no such energy."""
    provisional: bool
    """Whether its figures rest on provisional constants."""


class FittedPath(_Described):
    """The slowest of the paths that share a law (`fit.blocks.path_group`) in whole designs: its law, on top of a memory's access time."""

    start: str
    """Where they start: pe, pe_row, pe_accumulator, a memory's role in fit/compose.py, or logic: any registers."""
    end: str
    """Where they end: a role, pe_accumulator, glue; logic: any registers; sram: any memory."""
    domain: Domain
    """Which clock drives it."""
    memory: str = ""
    """Role of the memory whose access time is added, at the memories' supply; empty for none."""
    law: FittedLaw
    """Of the logic, setup of the register or memory included."""
    most: float
    """Largest part of a design's period that it took in any row."""


class LawComparison(_Described):
    """The choice of the delay law."""

    chosen: str
    """The law with the least mean error."""
    left_out_voltages: dict[str, ErrorSummary]
    """Errors of each law at voltages left out in turn (but the lowest and the highest), over the slow paths of the core."""


class CycleModel(_Described):
    """Fitted coefficients of fit/cycles.py."""

    parameters: tuple[Number, ...]
    """The coefficients."""
    log_sd: float
    """Standard deviation of the logarithm of a prediction for a layer not measured."""
    left_out: ErrorSummary | None
    """Errors of layers left out in turn."""
    rows: int
    """Rows fitted."""
    layers: int
    """Different layers among them."""


class Source(_Described):
    """A table the model was fitted on, and where that came from."""

    path: str
    """File name."""
    sha256: str
    """Of the file."""
    rows: int
    """Rows in it."""
    commit: str
    """Commit of the source tree that measured it."""
    command: str
    """Command that measured it."""
    tools: dict[str, str]
    """Versions of the tools."""
    inputs: dict[str, str]
    """SHA-256 of what was measured, by name."""


class Comparison(_Described):
    """How well a quantity of what was left out is predicted."""

    quantity: str
    """What is predicted."""
    split: str
    """What was left out of the fit."""
    model: ErrorSummary
    """The model's errors."""
    ideal: ErrorSummary | None
    """Those of an uncalibrated ideal model: peak rate, V^2, one figure a multiplier."""
    rank_correlation: float | None
    """Spearman's, within each voltage, the mean over voltages; null with fewer than three different designs."""
    interval_coverage: float | None
    """Share of rows inside the 90 % interval."""
    half_width: float | None
    """Median half-width of that interval, relative."""
    outside_range: int
    """Rows for which the fit had to extrapolate (they are included)."""


class Interval(_Described):
    """How wide the 90 % interval of a quantity of a whole design is: value x exp(+-1.645 of a standard deviation of its logarithm)."""

    log_sd: float
    """That of a design inside the fitted range, from the errors of the designs fitted."""
    outside_log_sd: float
    """That of one beyond it, from designs left out in turn, which then lie beyond what is left."""
    designs: int
    """Designs whose errors these are."""


class FittedModel(_Described):
    """Everything that predicts: see the module for the file, `fit.compose` for whole designs, `fit.cycles` for layers."""

    format: Literal["voltfront-model"] = FORMAT
    """What the file is."""
    version: Literal[7] = MODEL_VERSION
    """Version of this format."""
    technology: str
    """Name of the technology."""
    process: str
    """tt, ss, ff, ..."""
    temperature_c: float
    """Junction temperature at which coefficients are stated, C."""
    back_bias_v: float
    """Back bias at which coefficients are stated, V, positive = forward."""
    temperature_range_c: Range
    """Least and highest junction temperature measured, C; of a process fitted beside the typical one, over both."""
    back_bias_range_v: Range
    """The same of the back bias, V."""
    layout: str
    """Wires of the measured rows: fanout or placed."""
    reference_vdd_v: float
    """Voltage at which coefficients are stated, and supply of the memory domain, V."""
    voltage_range_v: Range
    """Least and highest supply of the logic measured, V."""
    sram_voltage_range_v: Range
    """The same of the memories, V."""
    blocks: dict[str, FittedBlock]
    """By kind of block."""
    paths: dict[str, FittedPath]
    """The paths that may set the frequency, by `<start> to <end>`, with ` (memory)` for those of the memory's clock."""
    skew: FittedLaw | None
    """What the skew of the core's clock adds to its period; null where the measured rows have ideal clocks."""
    path_ranges: dict[str, Range]
    """The same of the designs whose paths were measured."""
    intervals: dict[str, Interval]
    """By quantity: fmax, leakage, area, energy."""
    delay_law: LawComparison
    """Which delay law, and why."""
    cycles: CycleModel | None
    """Cycles of a layer; null if no table of cycles was given."""
    validation: tuple[Comparison, ...]
    """Errors on what took no part in the fit."""
    provisional: tuple[str, ...]
    """Blocks whose figures rest on provisional constants."""
    sources: tuple[Source, ...]
    """The tables fitted."""


def reference_corner(model: FittedModel) -> Corners:
    """The corner at which the model's coefficients are stated."""
    return Corners(np.asarray(model.reference_vdd_v), np.asarray(model.temperature_c), np.asarray(model.back_bias_v))


def fields(kind: type[_Described] = FittedModel, prefix: str = "") -> dict[str, str]:
    """The fields of the model file with their meaning, by dotted name; `*` stands for a key or a position in a list."""
    found = {}
    for name, field in kind.model_fields.items():
        found[prefix + name] = field.description or ""
        for part in (field.annotation, *get_args(field.annotation)):
            if isinstance(part, type) and issubclass(part, _Described):
                several = get_origin(field.annotation) in (tuple, dict)
                found |= fields(part, f"{prefix}{name}.{'*.' if several else ''}")
    return found


def write_model(model: FittedModel, path: Path) -> None:
    """Write the model file, whole or not at all."""
    write_text_whole(path, json.dumps(model.model_dump(mode="json"), indent=1) + "\n")


def read_model(path: Path | str, *, technology: str | None = None) -> FittedModel:
    """The model at `path`; raises `ConfigError` if it is absent, damaged, of another version, or not of `technology`."""
    path = Path(path)
    try:
        text = path.read_text(encoding="utf-8")
        head = json.loads(text)
    except FileNotFoundError:
        raise ConfigError(f"model must exist, not be absent ({path}); run `voltfront fit`") from None
    except (OSError, ValueError, RecursionError) as error:
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
