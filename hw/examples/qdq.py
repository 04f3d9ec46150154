"""Writes quantized ONNX models in QDQ form, operator by operator: for examples and tests.

Every real value that a tensor keeps goes through a QuantizeLinear and a DequantizeLinear with a given scale and zero point; weights are
symmetric int8 with a scale for each output channel, biases int32.
"""

from collections.abc import Sequence
from pathlib import Path

import numpy as np
import onnx
from numpy.typing import ArrayLike
from onnx import TensorProto, helper, numpy_helper


class QdqModel:
    """A model under construction. Values are named by the strings that methods return."""

    def __init__(self, activations: type = np.int8):
        self.activations = activations
        self.nodes: list[onnx.NodeProto] = []
        self.constants: list[onnx.TensorProto] = []

    def constant(self, array: ArrayLike) -> str:
        name = f"constant_{len(self.constants)}"
        self.constants.append(numpy_helper.from_array(np.asarray(array), name))
        return name

    def node(self, operator: str, *inputs: str, **attributes: int | Sequence[int]) -> str:
        name = f"{operator}_{len(self.nodes)}"
        node = helper.make_node(operator, inputs, [f"{name}_out"], name=name)
        node.attribute.extend(helper.make_attribute(attribute, value) for attribute, value in sorted(attributes.items()))
        self.nodes.append(node)
        return f"{name}_out"

    def quantized(self, value: str, scale: float, zero_point: int = 0) -> str:
        """A real value after quantization."""
        numbers = self.constant(np.float32(scale)), self.constant(self.activations(zero_point))
        return self.node("DequantizeLinear", self.node("QuantizeLinear", value, *numbers), *numbers)

    def weights(self, values: np.ndarray, axis: int = 0) -> tuple[str, np.ndarray]:
        """(real value, scales) of quantized weights with a scale for each index of `axis`."""
        others = tuple(i for i in range(values.ndim) if i != axis)
        scales = (np.maximum(np.abs(values).max(axis=others), 1e-6) / 127).astype(np.float32)
        shape = [-1 if i == axis else 1 for i in range(values.ndim)]
        integers = np.clip(np.rint(values / scales.reshape(shape)), -127, 127).astype(np.int8)
        numbers = self.constant(scales), self.constant(np.zeros(len(scales), dtype=np.int8))
        return self.node("DequantizeLinear", self.constant(integers), *numbers, axis=axis), scales

    def learned(
        self, operator: str, value: str, weights: np.ndarray, bias: np.ndarray | None, input_scale: float, axis: int = 0, **attributes: int | Sequence[int]
    ) -> str:  # fmt: skip
        """Conv or Gemm with quantized weights and bias."""
        real, scales = self.weights(weights, axis)
        if bias is None:
            return self.node(operator, value, real, **attributes)
        scales = (scales * np.float32(input_scale)).astype(np.float32)
        numbers = self.constant(scales), self.constant(np.zeros(len(scales), dtype=np.int32))
        integers = self.constant(np.rint(bias / scales).astype(np.int32))
        return self.node(operator, value, real, self.node("DequantizeLinear", integers, *numbers, axis=0), **attributes)

    def save(self, path: Path, input_shape: Sequence[int], output: str, output_shape: Sequence[int]) -> Path:
        """Write the model with its one input `x` and the value `output`, both real."""
        entry = helper.make_tensor_value_info("x", TensorProto.FLOAT, list(input_shape))
        leave = helper.make_tensor_value_info(output, TensorProto.FLOAT, list(output_shape))
        graph = helper.make_graph(self.nodes, "network", [entry], [leave], self.constants)
        model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=9)
        onnx.checker.check_model(model)
        onnx.save(model, str(path))
        return path
