"""What the names of an ONNX model stand for while it is read: constants, weights, quantized tensors, their real values, and operators that wait."""

import re
from collections.abc import Sequence
from math import inf

import numpy as np
import onnx
from onnx import numpy_helper
from onnx.reference import ReferenceEvaluator

from hw.errors import ConfigError
from hw.graph import Port, Tensor
from hw.onnx_layers import LayerBuilder, Weights
from hw.onnx_views import View, view

RENAMING = ("Reshape", "Flatten", "Transpose", "Squeeze", "Unsqueeze", "Identity", "Dropout")
"""Operators that move nothing: they say which axis is which."""
_BITS = {"int4": 4, "uint4": 4, "int8": 8, "uint8": 8, "int16": 16, "uint16": 16}


def attributes(node: onnx.NodeProto) -> dict:
    """A node's attributes by name."""
    return {attribute.name: onnx.helper.get_attribute_value(attribute) for attribute in node.attribute}


def evaluated(evaluator: ReferenceEvaluator, inputs: dict[str, np.ndarray]) -> np.ndarray:
    """The one output of a model, or of an operator."""
    outputs = evaluator.run(None, inputs)
    assert isinstance(outputs, list)
    return outputs[0]


def where(node: onnx.NodeProto) -> str:
    """How messages name a node."""
    return f"node {node.name or node.output[0]}, {node.op_type}"


class Values:
    """The values of one model, and the layers made of them so far (`build`)."""

    def __init__(self, model: onnx.ModelProto, name: str):
        self.model, self.name = model, name
        self.constants: dict[str, np.ndarray] = {one.name: numpy_helper.to_array(one) for one in model.graph.initializer}
        self.weights: dict[str, Weights] = {}
        self.integers: dict[str, View] = {}
        """ONNX values that are quantized tensors; `real` those that are dequantized ones."""
        self.real: dict[str, View] = {}
        self.waiting: dict[str, onnx.NodeProto] = {}
        """Operators on real values, by output, that are not finished."""
        self.inputs: dict[str, tuple[int, ...]] = {}
        self.ports: dict[str, Port] = {}
        self.build = LayerBuilder()

    def add_input(self, value: onnx.ValueInfoProto) -> None:
        """Enter an input of the model; it is a tensor only when it is quantized."""
        dimensions = value.type.tensor_type.shape.dim
        if any(d.WhichOneof("value") != "dim_value" or d.dim_value < 1 for d in dimensions):
            what = f"input {value.name} must have a static shape, which it has not ({self.name})"
            raise ConfigError(f"{what}; fix it, for example with onnxruntime.tools.make_dynamic_shape_fixed")
        shape = tuple(d.dim_value for d in dimensions)
        if len(shape) not in (2, 3, 4):
            raise ConfigError(f"input {value.name} must have 2, 3 or 4 axes, not {len(shape)} ({self.name})")
        if self.build.batch not in (0, shape[0]):
            raise ConfigError(f"inputs must have one batch size, not {self.build.batch} and {shape[0]} ({self.name})")
        self.build.batch = shape[0]
        self.inputs[value.name] = shape

    def constant(self, name: str, node: onnx.NodeProto, what: str) -> np.ndarray:
        """A constant that a node needs, which messages call `what`."""
        if name not in self.constants:
            raise ConfigError(f"{what} must be a constant ({where(node)}); fold constants, for example with onnxsim")
        return self.constants[name]

    def numbers(self, scale: str, zero_point: str, node: onnx.NodeProto, kind: str) -> tuple[float, int, int, int]:
        """(scale, zero point, bits, offset) of a tensor quantized as a whole, as signed integers; without a zero point, of integers of `kind`."""
        scales = self.constant(scale, node, "scale")
        if scales.size != 1:
            raise ConfigError(f"activations must have one scale, not {scales.size} ({where(node)})")
        step, zero = float(scales.reshape(())), 0
        if not 0 < step < inf:
            raise ConfigError(f"scale must be positive and finite, not {step} ({where(node)})")
        if zero_point:
            given = self.constant(zero_point, node, "zero point")
            kind, zero = str(given.dtype), int(given.reshape(()))
        if kind not in _BITS:
            raise ConfigError(f"activations must be quantized to one of {', '.join(_BITS)}, not {kind} ({where(node)})")
        offset = 1 << _BITS[kind] - 1 if kind.startswith("u") else 0
        return step, zero - offset, _BITS[kind], offset

    def kind(self, name: str) -> str:
        """The type of the integers of a quantized tensor."""
        if name in self.integers:
            tensor = self.build.tensors[self.integers[name].tensor]
            return f"{'uint' if tensor.offset else 'int'}{tensor.bits}"
        element = next((one.type.tensor_type.elem_type for one in self.model.graph.input if one.name == name), onnx.TensorProto.UNDEFINED)
        return "no integers" if element == onnx.TensorProto.UNDEFINED else str(onnx.helper.tensor_dtype_to_np_dtype(element))

    def tensor(self, node: onnx.NodeProto, scale: str, zero_point: str, kind: str) -> Tensor:
        """A new tensor's numbers and name; its shape comes with its layer."""
        numbers = self.numbers(scale, zero_point, node, kind)
        name = self.build.unique(node.output[0], self.build.tensors)
        return Tensor(name=name, channels=1, scale=numbers[0], zero_point=numbers[1], bits=numbers[2], offset=numbers[3])

    def view_of_input(self, name: str, numbers: tuple[float, int, int, int], *, real: bool) -> View:
        """The tensor of an input of the model, with these numbers."""
        shape = self.inputs[name]
        letters = {2: "nc", 3: "nhc", 4: "nchw"}[len(shape)]
        sizes = dict(zip(letters, shape, strict=True))
        tensor = Tensor(
            name=self.build.unique(name, self.build.tensors), channels=sizes["c"], height=sizes.get("h", 1), width=sizes.get("w", 1),
            scale=numbers[0], zero_point=numbers[1], bits=numbers[2], offset=numbers[3],
        )  # fmt: skip
        self.build.tensors[tensor.name] = tensor
        self.build.inputs.append(tensor.name)
        made = view(tensor.name, shape, letters)
        self.ports[name] = Port(name=name, view=made, real=real)
        return made

    def integer(self, given: Sequence[str], node: onnx.NodeProto) -> View:
        """The quantized tensor that a node reads: its name, scale and zero point."""
        name, scale, zero_point = given
        if name in self.waiting:
            what = f"{self.waiting[name].op_type} must stand between DequantizeLinear and QuantizeLinear"
            raise ConfigError(f"{what}, not on integers ({where(self.waiting[name])}); export the model in QDQ form")
        numbers = self.numbers(scale, zero_point, node, self.kind(name))
        if name in self.inputs and name not in self.integers:
            self.integers[name] = self.view_of_input(name, numbers, real=False)
        if name not in self.integers:
            raise ConfigError(f"input {name} must be a quantized tensor ({where(node)})")
        if numbers[:3] != self.build.tensors[self.integers[name].tensor].same_numbers:
            raise ConfigError(f"scale and zero point of {name} must be those it was made with ({where(node)})")
        return self.integers[name]

    def output_port(self, name: str) -> Port:
        """The output of that name as the outside world has it."""
        found = self.integers.get(name) or self.real.get(name)
        if found is None:
            node = self.waiting.get(name)
            what = f" ({where(node)})" if node is not None else ""
            raise ConfigError(f"output {name} must be quantized{what}; end the model with QuantizeLinear and DequantizeLinear there")
        return Port(name=name, view=found, real=name in self.real)

    def real_constant(self, name: str) -> np.ndarray | None:
        """The value of a constant in real numbers."""
        return self.constants.get(name) if name in self.constants else self.weights[name].real() if name in self.weights else None

    def scalar(self, name: str) -> float | None:
        """The value of a constant of one number."""
        if name in self.constants and self.constants[name].size == 1:
            return float(self.constants[name].reshape(()))
        if name in self.weights and self.weights[name].integers.size == 1:
            return float(self.weights[name].real().reshape(()))
        return None

    def layer_name(self, node: onnx.NodeProto) -> str:
        """A new name for the layer that a node becomes."""
        return self.build.unique(re.sub(r"[^A-Za-z0-9_./-]", "_", (node.name or node.output[0]).strip("/"))[:70] or "layer", self.build.layer_names)

    def renamed(self, source: View, node: onnx.NodeProto) -> View:
        """The same values after one of `RENAMING`."""
        given, shape, at = attributes(node), source.shape, where(node)
        if node.op_type in ("Identity", "Dropout"):
            return source
        if node.op_type == "Transpose":
            return source.transpose(tuple(given.get("perm", range(len(shape))[::-1])))
        if node.op_type == "Flatten":
            axis = given.get("axis", 1)
            axis += len(shape) if axis < 0 else 0
            return source.reshape((int(np.prod(shape[:axis])), int(np.prod(shape[axis:]))), at)
        second = [int(one) for one in self.constant(node.input[1], node, "shape or axes")] if len(node.input) > 1 and node.input[1] else None
        if node.op_type == "Squeeze":
            gone = [i for i, size in enumerate(shape) if size == 1] if second is None else [axis % len(shape) for axis in second]
            return source.reshape(tuple(size for i, size in enumerate(shape) if i not in gone), at)
        if second is None:
            raise ConfigError(f"{node.op_type} must be given its shape or axes ({at})")
        if node.op_type == "Reshape":
            wanted = [size if size or given.get("allowzero") else shape[i] for i, size in enumerate(second)]
            if -1 in wanted:
                wanted[wanted.index(-1)] = int(np.prod(shape)) // -int(np.prod(wanted))
            return source.reshape(tuple(wanted), at)
        rank = len(shape) + len(second)
        new, left = [axis % rank for axis in second], list(shape)
        return source.reshape(tuple(1 if i in new else left.pop(0) for i in range(rank)), at)
