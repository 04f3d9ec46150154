"""A quantized network as a graph: tensors of integers, the layers that the accelerator runs, and what is left to the host.

Steps stand in an order in which they can run. A value lies between 0 and the accelerator's full scale as a signed integer: unsigned
tensors of the outside world are shifted by half their range (`Tensor.offset`), zero points with them.
"""

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field

import numpy as np

from hw.errors import ConfigError
from hw.golden import QuantizedLayer, run_layer
from hw.layers import Network
from hw.onnx_views import View
from hw.settings import parse


@dataclass(frozen=True, kw_only=True)
class Tensor:
    """Activations (batch, channels, height, width), signed integers of `bits` bits; value = scale * (integer - zero_point).

    `heads`: the channels are those of that many heads. `offset` is what must be added for the integers of the outside world.
    """

    name: str
    channels: int
    height: int = 1
    width: int = 1
    heads: int = 1
    scale: float = 1.0
    zero_point: int = 0
    bits: int = 8
    offset: int = 0

    @property
    def shape(self) -> tuple[int, int, int]:
        return self.channels, self.height, self.width

    @property
    def same_numbers(self) -> tuple[float, int, int]:
        """Equal for two tensors whose integers mean the same."""
        return self.scale, self.zero_point, self.bits

    @property
    def low(self) -> int:
        return -(1 << self.bits - 1)

    @property
    def high(self) -> int:
        return (1 << self.bits - 1) - 1

    def quantize(self, values: np.ndarray) -> np.ndarray:
        """Integers of real values: scaled, rounded half to even, clipped (ONNX's QuantizeLinear, which divides in single precision)."""
        scaled = np.rint(np.asarray(values, dtype=np.float32) / np.float32(self.scale)).astype(np.int64)
        return np.clip(scaled + self.zero_point, self.low, self.high)

    def dequantize(self, integers: np.ndarray) -> np.ndarray:
        """Real values of integers, float32."""
        return (integers - self.zero_point).astype(np.float32) * np.float32(self.scale)


@dataclass(frozen=True, kw_only=True)
class LayerStep:
    """A layer on the accelerator, and the names of its tensors."""

    layer: QuantizedLayer
    input: str
    output: str
    second: str | None = None

    @property
    def name(self) -> str:
        return self.layer.shape.name

    @property
    def inputs(self) -> tuple[str, ...]:
        return (self.input,) if self.second is None else (self.input, self.second)


@dataclass(frozen=True, kw_only=True)
class HostStep:
    """What the host does between two programs: reads tensors from DRAM, computes, writes one. `run` takes and gives integers."""

    name: str
    operators: tuple[str, ...]
    inputs: tuple[str, ...]
    output: str
    run: Callable[..., np.ndarray] = field(repr=False)


Step = LayerStep | HostStep


@dataclass(frozen=True, kw_only=True)
class Port:
    """An input or output of the network as the outside world has it: real numbers or integers, its axes in the order of `view`."""

    name: str
    view: View
    real: bool

    def enter(self, array: np.ndarray, tensor: Tensor, batch: int) -> np.ndarray:
        """The tensor's integers of an array from outside."""
        if array.shape != self.view.shape:
            raise ConfigError(f"{self.name} must be of shape {self.view.shape}, not {array.shape}")
        integers = tensor.quantize(array) if self.real else array.astype(np.int64) - tensor.offset
        return self.view.tensor_values(integers, (batch, *tensor.shape))

    def leave(self, integers: np.ndarray, tensor: Tensor) -> np.ndarray:
        """The array for outside of a tensor's integers."""
        array = self.view.array(integers)
        if self.real:
            return tensor.dequantize(array)
        return (array + tensor.offset).astype(f"{'u' if tensor.offset else ''}int{max(8, tensor.bits)}")


@dataclass(frozen=True, kw_only=True)
class Graph:
    """A network over `batch` images. `parts` places a tensor within another: name -> (whole, first channel)."""

    name: str
    batch: int
    tensors: Mapping[str, Tensor]
    steps: tuple[Step, ...]
    inputs: tuple[str, ...]
    outputs: tuple[str, ...]
    parts: Mapping[str, tuple[str, int]] = field(default_factory=dict)
    input_ports: tuple[Port, ...] = ()
    output_ports: tuple[Port, ...] = ()
    values: Mapping[str, View] = field(default_factory=dict)
    """Quantized values of the model that the graph comes from, by their names there."""

    @property
    def layers(self) -> tuple[LayerStep, ...]:
        return tuple(step for step in self.steps if isinstance(step, LayerStep))

    @property
    def host_steps(self) -> tuple[HostStep, ...]:
        return tuple(step for step in self.steps if isinstance(step, HostStep))

    def network(self, name: str, source: str) -> Network:
        """Its layers as shapes; steps of the host are what the network leaves out."""
        excluded = [f"{step.name} on the host ({', '.join(step.operators)})" for step in self.host_steps]
        layers = [step.layer.shape for step in self.layers]
        return parse(Network, {"version": 1, "name": name, "source": source, "layers": layers, "excluded": excluded}, source)

    def whole(self, name: str) -> str:
        """The tensor in whose memory a tensor lies."""
        while name in self.parts:
            name = self.parts[name][0]
        return name

    def run(self, inputs: Mapping[str, np.ndarray]) -> dict[str, np.ndarray]:
        """Every tensor's integers (batch, channels, height, width) by the golden model, from those of the inputs."""
        if sorted(inputs) != sorted(self.inputs):
            raise ConfigError(f"inputs must be given for {', '.join(self.inputs)}, not for {', '.join(inputs) or 'none'} ({self.name})")
        values = dict(inputs)
        for name, value in values.items():
            expected = (self.batch, *self.tensors[name].shape)
            if value.shape != expected:
                raise ConfigError(f"input {name} must be of shape {expected}, not {value.shape} ({self.name})")
        for step in self.steps:
            if isinstance(step, HostStep):
                self.keep(values, step.output, step.run(*(values[name] for name in step.inputs)))
            else:
                second = None if step.second is None else values[step.second]
                self.keep(values, step.output, run_layer(step.layer, values[step.input], second))
        return values

    def keep(self, values: dict[str, np.ndarray], name: str, value: np.ndarray) -> None:
        """Enter a tensor's integers, and in the tensors of which it is a part."""
        values[name] = value
        while name in self.parts:
            name, first = self.parts[name][0], self.parts[name][1]
            whole = values.setdefault(name, np.zeros((self.batch, *self.tensors[name].shape), dtype=np.int64))
            whole[:, first : first + value.shape[1]] = value
            value = whole
