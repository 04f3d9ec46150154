"""The design space: lists of values in YAML, and the legal architectures among their combinations, as arrays."""

import math
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Literal, Self, TypeVar

import numpy as np
from annotated_types import Ge, Le
from numpy.typing import NDArray
from pydantic import Field, model_validator

from flow.table import PARAMETERS
from hw.config import MAX_BANK_WORDS, MIN_BANK_WORDS, AcceleratorConfig, Array, Buffers, Memory, Precision
from hw.errors import ConfigError
from hw.settings import Settings, load_named
from hw.tile_plan import Architecture

SPACES = Path(__file__).parent / "spaces"
ARRAY_AXES = ("rows", "cols", "lanes")
AXES = (
    *ARRAY_AXES, "acc_depth", "post_lanes", "axi_data_bits", "activation_bank_bytes", "weight_bank_bytes", "output_bank_bytes", "multiplier_stages",
)  # fmt: skip
"""What varies, the last the fastest, so that those that share work lie side by side: the array decides the lowered layers and with the
banks the tilings, up to banks it decides traffic and cycles; pipeline stages change neither."""

FIXED = ("parameter_words", "activation_bits", "weight_bits")
"""What is the same for all architectures of a space."""

_Group = TypeVar("_Group", bound=Settings)
Values = Annotated[list[Annotated[int, Field(ge=0)]], Field(min_length=1)]


class Voltages(Settings):
    """`count` supplies of the core, evenly from `low` to `high`, V."""

    low: float = Field(gt=0)
    high: float = Field(gt=0)
    count: int = Field(ge=2, le=1000)

    @model_validator(mode="after")
    def _check(self) -> Self:
        if self.low >= self.high:
            raise ValueError("such that low < high")
        return self

    def values(self) -> NDArray:
        """[count] V."""
        return np.round(np.linspace(self.low, self.high, self.count), 6)

    def at_least(self, least_v: float) -> "Voltages":
        """Only those of at least `least_v`; `ConfigError` if fewer than two are."""
        left_out = int(np.sum(self.values() < least_v - 1e-9))
        if self.count - left_out < 2:
            left = self.count - left_out
            raise ConfigError(f"vdd_v must have two voltages of at least {least_v:g} V on a single rail, not {left}; give the memories their own")
        # Not the rounded value: the others would move by a part of its rounding.
        return Voltages(low=self.low + (self.high - self.low) * left_out / (self.count - 1), high=self.high, count=self.count - left_out)


class DesignSpace(Settings):
    """All combinations of the listed values of `hw.config`, of one precision; what is not listed is the same for all."""

    version: int = Field(ge=1, le=1)
    name: str = Field(pattern=r"^[a-z][a-z0-9_]{0,40}$")
    rows: Values
    cols: Values
    lanes: Values
    acc_depth: Values
    multiplier_stages: Values
    post_lanes: Values
    activation_bank_bytes: Values
    weight_bank_bytes: Values
    output_bank_bytes: Values
    axi_data_bits: Values
    parameter_words: int = 512
    activation_bits: Literal[4, 8, 16] = 8
    weight_bits: Literal[4, 8, 16] = 8
    vdd_v: Voltages
    back_bias_v: Annotated[list[float], Field(min_length=1)] = [0.0]

    @model_validator(mode="after")
    def _check(self) -> Self:
        for name in (*AXES, "back_bias_v"):
            values = getattr(self, name)
            if len(set(values)) < len(values):
                raise ValueError(f"such that every value of {name} stands once")
        return self

    @property
    def combinations(self) -> int:
        """All combinations, legal or not."""
        return math.prod(len(getattr(self, name)) for name in AXES)

    @property
    def blocks(self) -> int:
        """Different arrays; the combinations of each are the unit of work (`block`)."""
        return math.prod(len(getattr(self, name)) for name in ARRAY_AXES)

    def at(self, indices: NDArray) -> "Architectures":
        """Combinations by their place in the space, not necessarily legal."""
        digits = np.unravel_index(indices, [len(getattr(self, name)) for name in AXES])
        values = {name: np.array(getattr(self, name), dtype=np.int64)[digit] for name, digit in zip(AXES, digits, strict=True)}
        values |= {name: np.full_like(values["rows"], getattr(self, name)) for name in FIXED}
        return Architectures(values=values, index=np.asarray(indices, dtype=np.int64))

    def block(self, number: int) -> "Architectures":
        """The legal combinations of one array, perhaps none."""
        size = self.combinations // self.blocks
        found = self.at(np.arange(number * size, (number + 1) * size))
        return found[legal_combinations(found.values)]

    def architectures(self) -> "Architectures":
        """All legal combinations at once; `ConfigError` if there is none."""
        found = self.at(np.arange(self.combinations))
        legal = legal_combinations(found.values)
        if not legal.any():
            raise ConfigError(f"design space {self.name} must have at least one legal architecture, not none of {legal.size} combinations; see hw/config.py")
        return found[legal]


def legal_combinations(values: dict[str, NDArray]) -> NDArray:
    """[combinations] whether `AcceleratorConfig` accepts each combination of `AXES` and `FIXED`."""
    legal = np.ones(len(values["rows"]), dtype=bool)
    for group, names in ((Array, ("rows", "cols", "lanes", "acc_depth", "multiplier_stages", "post_lanes")), (Buffers, ("parameter_words",))):
        for name in names:
            for bound in group.model_fields[name].metadata:
                if isinstance(bound, Ge):
                    legal &= values[name] >= bound.ge
                if isinstance(bound, Le):
                    legal &= values[name] <= bound.le
    for name in ("cols", "lanes", "acc_depth", "post_lanes", "parameter_words"):
        legal &= _power_of_two(values[name])
    legal &= values["post_lanes"] <= np.minimum(values["cols"], values["lanes"])
    legal &= values["parameter_words"] >= MIN_BANK_WORDS * values["post_lanes"]
    legal &= np.isin(values["axi_data_bits"], (32, 64, 128, 256))
    for kind in ("activation", "weight", "output"):
        size, word = values[f"{kind}_bank_bytes"], _word_bytes(values, kind)
        words = size // np.maximum(1, word)
        legal &= (word >= 1) & (words * word == size) & _power_of_two(words) & (words >= MIN_BANK_WORDS) & (words <= MAX_BANK_WORDS) & (size >= 64)
    return legal


def _word_bytes(values: dict[str, NDArray], kind: str) -> NDArray:
    """Bytes of a word of a bank: `lanes` values."""
    return values["lanes"] * values["weight_bits" if kind == "weight" else "activation_bits"] // 8


def _power_of_two(values: NDArray) -> NDArray:
    return (values > 0) & (values & (values - 1) == 0)


@dataclass(frozen=True, kw_only=True)
class Architectures:
    """Architectures as arrays [architectures] by the names of `AXES` and `FIXED`, and their places in the space."""

    values: dict[str, NDArray]
    index: NDArray

    def __len__(self) -> int:
        return len(self.values["rows"])

    def __getitem__(self, chosen: slice | list[int] | NDArray) -> "Architectures":
        """Those chosen by a slice, a mask or indices."""
        return Architectures(values={name: value[chosen] for name, value in self.values.items()}, index=self.index[chosen])

    @property
    def precision(self) -> str:
        """a<activation bits>w<weight bits>, the same for all."""
        return f"a{self.values['activation_bits'][0]}w{self.values['weight_bits'][0]}"

    def by_array(self) -> list[NDArray]:
        """Indices of those of each array (`ARRAY_AXES`)."""
        _, array = np.unique(np.stack([self.values[name] for name in ARRAY_AXES], axis=1), axis=0, return_inverse=True)
        return [np.flatnonzero(array.ravel() == number) for number in range(array.max() + 1)]

    def parameters(self) -> dict[str, NDArray]:
        """With the names of `flow.table.PARAMETERS`, what the space does not vary at the default of `hw.config`."""
        v, ones = self.values, np.ones(len(self))
        words = {f"{kind}_words": v[f"{kind}_bank_bytes"] // _word_bytes(v, kind) for kind in ("activation", "weight", "output")}
        fixed = {name: field.default * ones for group in (Array, Precision, Memory) for name, field in group.model_fields.items() if not field.is_required()}
        return {name: np.asarray((fixed | v | words)[name], dtype=float) for name in PARAMETERS}

    def numbers(self) -> Architecture:
        """What tilings depend on, as arrays [architectures]."""
        p = self.parameters()
        return Architecture._make(np.asarray(p["axi_data_bits"] / 8 if name == "axi_bytes" else p[name], dtype=np.int64) for name in Architecture._fields)

    def config(self, index: int) -> AcceleratorConfig:
        """One of them as the generator takes it."""
        v = {name: int(value[index]) for name, value in self.values.items()}

        def pick(kind: type[_Group]) -> _Group:
            return kind(**{name: v[name] for name in kind.model_fields if name in v})

        return AcceleratorConfig(version=1, name=self.names()[index], array=pick(Array), precision=pick(Precision), buffers=pick(Buffers), memory=pick(Memory))

    def names(self) -> NDArray:
        """[architectures] names that tell all apart, usable as design names."""
        v = self.values
        parts = [
            ("r", v["rows"]), ("c", v["cols"]), ("l", v["lanes"]), ("_d", v["acc_depth"]), ("s", v["multiplier_stages"]), ("p", v["post_lanes"]),
            ("_a", v["activation_bank_bytes"]), ("w", v["weight_bank_bytes"]), ("o", v["output_bank_bytes"]), ("_x", v["axi_data_bits"]),
        ]  # fmt: skip
        if np.any(v["activation_bits"] != 8) or np.any(v["weight_bits"] != 8):
            parts += [("_a", v["activation_bits"]), ("w", v["weight_bits"])]
        name = np.full(len(self), "", dtype=object)
        for letter, value in parts:
            name = name + letter + value.astype(str).astype(object)
        return name


def of_config(config: AcceleratorConfig) -> Architectures:
    """One design; raises `ConfigError` if it differs from the defaults in what a space does not vary."""
    groups = (config.array, config.precision, config.buffers, config.memory)
    given = {name: value for group in groups for name, value in dict(group).items()}
    values = {name: np.array([given[name]], dtype=np.int64) for name in (*AXES, *FIXED)}
    found = Architectures(values=values, index=np.zeros(1, dtype=np.int64))
    same = found.config(0).model_copy(update={"name": config.name})
    if same != config:
        raise ConfigError(f"design must differ from the defaults of hw.config only in {', '.join((*AXES, *FIXED))}, not in more ({config.name})")
    return found


def load_space(name_or_path: str | Path) -> DesignSpace:
    """The space of that name in `explore/spaces`, or the YAML file at that path."""
    return load_named(DesignSpace, "space", SPACES, name_or_path)
