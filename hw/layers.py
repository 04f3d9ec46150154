"""Layers and networks as shapes: what has to be computed, independent of any hardware."""

from pathlib import Path
from typing import Literal

import numpy as np
from pydantic import Field, model_validator

from hw.settings import Settings, load_named

NETWORKS = Path(__file__).parent / "networks"


class LayerShape(Settings):
    """A convolution or fully connected layer of one image. A fully connected layer is a 1x1 convolution on a 1x1 image."""

    name: str = Field(pattern=r"^[A-Za-z0-9_./-]{1,80}$")
    kind: Literal["conv", "fc"]
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
    relu: bool = False

    @model_validator(mode="after")
    def _check(self):
        if self.in_channels % self.groups or self.out_channels % self.groups:
            raise ValueError(f"such that groups ({self.groups}) divides in_channels and out_channels")
        if self.kind == "fc":
            given = [name for name, field in type(self).model_fields.items() if field.annotation is int and getattr(self, name) != field.default]
            if set(given) - {"in_channels", "out_channels"}:
                raise ValueError("a fully connected layer with only in_channels and out_channels")
        if self.out_h < 1 or self.out_w < 1:
            raise ValueError("such that the kernel fits into the padded image")
        return self

    @property
    def out_h(self) -> int:
        return (self.in_h + self.pad_top + self.pad_bottom - self.dilation * (self.kernel_h - 1) - 1) // self.stride_h + 1

    @property
    def out_w(self) -> int:
        return (self.in_w + self.pad_left + self.pad_right - self.dilation * (self.kernel_w - 1) - 1) // self.stride_w + 1

    @property
    def macs(self) -> int:
        """Useful multiply-accumulates for one image (padding counted as the convention of the field has it: as MACs)."""
        return self.out_h * self.out_w * self.weights

    @property
    def weights(self) -> int:
        return self.out_channels * (self.in_channels // self.groups) * self.kernel_h * self.kernel_w

    @property
    def input_activations(self) -> int:
        return self.in_channels * self.in_h * self.in_w

    @property
    def output_activations(self) -> int:
        return self.out_channels * self.out_h * self.out_w


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
    def _check(self):
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
