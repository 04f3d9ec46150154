"""Calibration plans: which designs are measured, on which windows of which layers."""

from pathlib import Path
from typing import Literal, Self

from pydantic import Field, model_validator

from hw.config import AcceleratorConfig, load_design
from hw.errors import ConfigError
from hw.layers import LayerShape, load_network
from hw.settings import Settings, load_named

PLANS = Path(__file__).parent / "plans"


class Window(Settings):
    """A stated part of a real layer, small enough to simulate: its first output rows and channels, with all input channels they need.

    `rows` counts output rows for every array row, `blocks` output channels in units of the design's channel_block (at most
    `channels` in all), so that every design gets about the same number of tiles. `batch` images.
    """

    network: str
    layer: str
    rows: int = Field(1, ge=1)
    blocks: int = Field(2, ge=1)
    batch: int = Field(1, ge=1)
    mem_period_ps: int | None = Field(None, ge=100)
    """Memory clock period of the activity run, if not the usual one: a slow memory side shows how a starved machine moves."""

    @property
    def name(self) -> str:
        """As it stands in the tables."""
        slow = f",mem_period_ps={self.mem_period_ps}" if self.mem_period_ps else ""
        return f"{self.network}.{self.layer}[rows={self.rows}/row,blocks={self.blocks},batch={self.batch}{slow}]"

    def shape(self, config: AcceleratorConfig) -> LayerShape:
        """The layer that is simulated on this design."""
        whole = next((layer for layer in load_network(self.network).layers if layer.name == self.layer), None)
        if whole is None:
            raise ConfigError(f"layer must be one of network {self.network}, not {self.layer!r} (plan); correct the plan")
        return whole.window(out_rows=self.rows * config.array.rows, out_channels=self.blocks * config.channel_block)


class Run(Settings):
    """One simulation of a window at a pair of clock periods."""

    window: Window
    core_period_ps: int = Field(ge=100)
    mem_period_ps: int = Field(1250, ge=100)


class Plan(Settings):
    """Designs to measure. Those of `designs` calibrate, except those named in `held_out`, which only validate, as do others of `hw/designs` named there."""

    version: Literal[1]
    name: str = Field(pattern=r"^[a-z][a-z0-9_]*$")
    designs: list[AcceleratorConfig] = Field(min_length=1)
    held_out: list[str]
    supplies_only: list[str] = []
    """Designs that are measured without heat, cold and back bias: large ones, of which a corner takes minutes, for what depends on size."""
    activity: list[Window] = Field(min_length=1)
    """Windows whose last cycles are recorded, block by block."""
    activity_cycles: int = Field(ge=200, le=20_000)
    instances: int = Field(ge=2, le=64)
    """Instances of each module that are replayed at most."""
    runs: list[Run] = Field(min_length=1)
    layouts: list[Literal["fanout", "placed"]] = Field(default=["fanout", "placed"], min_length=1)
    """Wires expected from the fan-out, wires of a placement, or both beside one another."""

    @model_validator(mode="after")
    def _check(self) -> Self:
        names = [design.name for design in self.all_designs()]
        for name in names:
            if names.count(name) > 1:
                raise ValueError(f"such that every design stands once ({name} stands twice)")
        for name in self.supplies_only:
            if name not in names:
                raise ValueError(f"such that supplies_only names its designs ({name} is none)")
        return self

    def all_designs(self) -> list[AcceleratorConfig]:
        """All that are measured: `designs`, then those of `hw/designs`."""
        own = {design.name for design in self.designs}
        return self.designs + [load_design(name) for name in self.held_out if name not in own]


def load_plan(name_or_path: str | Path) -> Plan:
    """The plan of that name in `flow/plans`, or the YAML file at that path."""
    return load_named(Plan, "plan", PLANS, name_or_path)
