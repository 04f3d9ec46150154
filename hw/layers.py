"""Layers and networks as shapes: what has to be computed, independent of any hardware."""

from pathlib import Path
from typing import Literal, Self

import numpy as np
from pydantic import Field, model_validator

from hw.settings import Settings, load_named

NETWORKS = Path(__file__).parent / "networks"


DIAGONAL = ("max_pool", "average_pool", "add")
"""Kinds in which every output channel has the input channel of its own number, and nothing to learn."""


class LayerShape(Settings):
    """What one layer computes for one image; sizes of the input are `in_channels` x `in_h` x `in_w`.

    * `conv`: a convolution; depthwise if groups = in_channels.
    * `fc`: a fully connected layer, applied to `in_h` vectors (1 unless it is one of a sequence's).
    * `max_pool`, `average_pool`: pooling (average: over the padded kernel); global if the kernel is the image.
    * `add`: the sum of two tensors of this size.
    * `matmul`: the product of two activations, `groups` (heads) of them: in_h vectors of in_channels / groups each times
      a second operand of out_channels / groups vectors as long. That is a fully connected layer with groups and an activation as weights.
      Only of a matmul the zero points of the operands (as signed integers) are part of what it costs: `hw.products` says why.
    * `transpose`: each group's in_h vectors of in_channels / groups as in_channels / groups vectors of in_h: makes the second operand of
      a matmul whose reduction runs over the vectors.

    Pooling and add have out_channels = groups = in_channels, transpose has out_channels = groups * in_h: none of them need be given.
    """

    name: str = Field(pattern=r"^[A-Za-z0-9_./-]{1,80}$")
    kind: Literal["conv", "fc", "max_pool", "average_pool", "add", "matmul", "transpose"]
    in_channels: int = Field(ge=1)
    out_channels: int = Field(ge=1)
    in_h: int = Field(1, ge=1)
    in_w: int = Field(1, ge=1)
    kernel_h: int = Field(1, ge=1)
    kernel_w: int = Field(1, ge=1)
    stride_h: int = Field(1, ge=1)
    stride_w: int = Field(1, ge=1)
    pad_top: int = Field(0, ge=0)
    pad_bottom: int = Field(0, ge=0)
    pad_left: int = Field(0, ge=0)
    pad_right: int = Field(0, ge=0)
    dilation: int = Field(1, ge=1)
    groups: int = Field(1, ge=1)
    input_zero_point: int = Field(0, ge=-(1 << 15), lt=1 << 15)
    second_zero_point: int = Field(0, ge=-(1 << 15), lt=1 << 15)
    relu: bool = False

    @model_validator(mode="before")
    @classmethod
    def _derive(cls, data: object) -> object:
        if isinstance(data, dict) and isinstance(data.get("in_channels"), int):
            if data.get("kind") in DIAGONAL:
                return {"out_channels": data["in_channels"], "groups": data["in_channels"]} | data
            if data.get("kind") == "transpose" and isinstance(data.get("groups", 1), int) and isinstance(data.get("in_h", 1), int):
                return {"out_channels": data.get("groups", 1) * data.get("in_h", 1)} | data
        return data

    @model_validator(mode="after")
    def _check(self) -> Self:
        if self.kind in DIAGONAL and not self.in_channels == self.out_channels == self.groups:
            raise ValueError(f"such that out_channels and groups are in_channels ({self.kind})")
        if self.kind == "transpose" and self.out_channels != self.groups * self.in_h:
            raise ValueError("such that out_channels is groups * in_h (transpose)")
        if self.in_channels % self.groups or self.out_channels % self.groups:
            raise ValueError(f"such that groups ({self.groups}) divides in_channels and out_channels")
        free, what = _FREE[self.kind]
        given = [name for name, field in type(self).model_fields.items() if field.annotation is int and getattr(self, name) != field.default]
        if set(given) - {"in_channels", "out_channels", *free}:
            raise ValueError(what)
        if self.out_h < 1 or self.out_w < 1:
            raise ValueError("such that the kernel fits into the padded image")
        return self

    @property
    def out_h(self) -> int:
        if self.kind == "transpose":
            return self.in_channels // self.groups
        return (self.in_h + self.pad_top + self.pad_bottom - self.dilation * (self.kernel_h - 1) - 1) // self.stride_h + 1

    @property
    def out_w(self) -> int:
        return (self.in_w + self.pad_left + self.pad_right - self.dilation * (self.kernel_w - 1) - 1) // self.stride_w + 1

    @property
    def vectors(self) -> bool:
        """Whether the input is a sequence of `in_h` vectors, not an image."""
        return self.kind in ("fc", "matmul", "transpose")

    @property
    def macs(self) -> int:
        """Useful multiply-accumulates for one image, as the field counts them: padding counts, pooling, add and transpose have none."""
        if self.kind not in ("conv", "fc", "matmul"):
            return 0
        return self.out_h * self.out_w * self.out_channels * (self.in_channels // self.groups) * self.kernel_h * self.kernel_w

    @property
    def weights(self) -> int:
        """Learned weights, without biases: those of convolutions and fully connected layers."""
        return self.out_channels * (self.in_channels // self.groups) * self.kernel_h * self.kernel_w if self.kind in ("conv", "fc") else 0

    @property
    def input_activations(self) -> int:
        """Values read for one image, over both operands."""
        one = self.in_channels * self.in_h * self.in_w
        return one + {"add": one, "matmul": self.out_channels * (self.in_channels // self.groups)}.get(self.kind, 0)

    @property
    def output_activations(self) -> int:
        return self.out_channels * self.out_h * self.out_w


    def window(self, *, out_rows: int, out_channels: int) -> "LayerShape":
        """The first output rows and channels at most, with all inputs that they need: of few groups part of the first, else the first groups.
        Of an fc, matmul or transpose the first vectors; a transpose stays whole."""
        if self.kind == "transpose":
            return self
        rows, per_group = min(self.out_h, out_rows), self.out_channels // self.groups
        groups = min(self.groups, max(1, out_channels // per_group))
        changes = {"groups": groups, "in_channels": groups * (self.in_channels // self.groups), "out_channels": groups * min(per_group, out_channels)}
        needed = (rows - 1) * self.stride_h + self.dilation * (self.kernel_h - 1) + 1 - self.pad_top
        # Above the last row all is there; padding below only where the window reaches the end of the image.
        return self.model_copy(update=changes | {"in_h": max(1, min(self.in_h, needed)), "pad_bottom": max(0, needed - self.in_h)})


_WINDOW = ("in_h", "in_w", "kernel_h", "kernel_w", "stride_h", "stride_w", "pad_top", "pad_bottom", "pad_left", "pad_right", "dilation", "groups")
_FREE = {
    "conv": (_WINDOW, "a convolution without zero points, which cost it nothing"),
    "max_pool": (_WINDOW, "a pooling without zero points, which cost it nothing"),
    "average_pool": (_WINDOW, "a pooling without zero points, which cost it nothing"),
    "add": (("in_h", "in_w", "groups"), "an add with only in_channels, in_h and in_w"),
    "fc": (("in_h",), "a fully connected layer with only in_channels, out_channels and in_h"),
    "matmul": (("in_h", "groups", "input_zero_point", "second_zero_point"), "a matmul with only in_channels, out_channels, in_h, groups and zero points"),
    "transpose": (("in_h", "groups"), "a transpose with only in_channels, in_h and groups"),
}  # fmt: skip
"""Which sizes besides the channels a kind may state, and what to say of others."""


class Totals(Settings):
    """What a network's table must add up to; checked when it is loaded. `source` says where the totals come from."""

    macs: int
    weights: int
    source: str


class Network(Settings):
    """A network as a list of layers, with its source, its published totals and the operators it leaves out."""

    version: Literal[1]
    name: str = Field(pattern=r"^[a-z][a-z0-9_]{0,40}$")
    source: str
    layers: list[LayerShape] = Field(min_length=1)
    excluded: list[str] = []
    """Operators of the network that are not in the table, by name: neither their time nor their energy is counted."""
    totals: Totals | None = None

    @model_validator(mode="after")
    def _check(self) -> Self:
        names = [layer.name for layer in self.layers]
        for name in names:
            if names.count(name) > 1:
                raise ValueError(f"such that every layer has its own name ({name} stands twice)")
        if self.totals:
            for key in ("macs", "weights"):
                ours, stated = getattr(self, key), getattr(self.totals, key)
                if ours != stated:
                    raise ValueError(f"such that the layers' {key} add up to the stated total {stated} (they make {ours})")
        return self

    @property
    def macs(self) -> int:
        return sum(layer.macs for layer in self.layers)

    @property
    def weights(self) -> int:
        return sum(layer.weights for layer in self.layers)

    def select(self, names: list[str], new_name: str) -> "Network":
        """A network of only those layers."""
        return Network(version=1, name=new_name, source=self.source, layers=[x for x in self.layers if x.name in names], excluded=self.excluded)

    def table(self) -> np.ndarray:
        """The layers as a structured array, one record a layer, fields as in LayerShape plus out_h, out_w."""
        keys = [k for k, v in LayerShape.model_fields.items() if v.annotation is int] + ["out_h", "out_w"]
        return np.array([tuple(getattr(x, k) for k in keys) for x in self.layers], dtype=[(k, np.int64) for k in keys])


def load_network(name_or_path: str | Path) -> Network:
    """The network of that name in `hw/networks`, or the YAML file at that path."""
    return load_named(Network, "network", NETWORKS, name_or_path)
