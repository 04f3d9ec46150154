"""Operators on quantized tensors as they are: ONNX's QLinear form, and pooling and concatenation of integers. Each makes a layer and gives its output."""

from collections.abc import Callable
from dataclasses import replace

import onnx

from hw.errors import ConfigError
from hw.graph import Tensor
from hw.onnx_layers import Ending, Weights
from hw.onnx_values import Values, attributes, where
from hw.onnx_views import View

ON_INTEGERS = ("MaxPool", "GlobalMaxPool", "Relu", "Clip", "Concat")
"""Operators of ONNX itself that may stand on quantized tensors."""


def on_integers(values: Values, node: onnx.NodeProto) -> View:
    """One of these; its output has the input's scale and zero point."""
    views = [values.integers[name] for name in node.input if name in values.integers]
    source = values.build.tensors[views[0].tensor]
    alike = all(values.build.tensors[one.tensor].same_numbers == source.same_numbers for one in views)
    if node.op_type == "Concat" and not (alike and len(views) == len(node.input)):
        raise ConfigError(f"Concat of integers must be of tensors with one scale and zero point ({where(node)}); export the model in QDQ form")
    target = replace(source, name=values.build.unique(node.output[0], values.build.tensors), channels=1, height=1, width=1, heads=1)
    if node.op_type in ("Relu", "Clip"):
        raise ConfigError(f"{node.op_type} must stand between DequantizeLinear and QuantizeLinear ({where(node)}); export the model in QDQ form")
    if node.op_type == "Concat":
        return values.build.concat(values.layer_name(node), views, attributes(node)["axis"], target, Ending(), where(node))
    return values.build.pool(values.layer_name(node), node.op_type, views[0], attributes(node), target, Ending(), where(node))


def _target(values: Values, node: onnx.NodeProto, at: int) -> Tensor:
    """The output, whose scale and zero point are a node's inputs `at` and behind. Without a zero point its integers are of the first input's type."""
    return values.tensor(node, node.input[at], node.input[at + 1] if len(node.input) > at + 1 else "", values.kind(node.input[0]))


def _weights(values: Values, node: onnx.NodeProto, first: int, axis: int) -> Weights:
    integers, scales, zero_points = (values.constant(name, node, "weights") for name in node.input[first : first + 3])
    return Weights.of(integers, scales, zero_points, axis, where(node))


def _conv(values: Values, node: onnx.NodeProto) -> View:
    x, weights = values.integer(node.input[:3], node), _weights(values, node, 3, 0)
    target = _target(values, node, 6)
    scale = values.build.tensors[x.tensor].scale * weights.channel_scales(0, where(node))
    bias = values.constant(node.input[8], node, "bias") * scale if len(node.input) > 8 and node.input[8] else None
    return values.build.conv(values.layer_name(node), x, weights, bias, attributes(node), target, Ending(), where(node))


def _matmul(values: Values, node: onnx.NodeProto) -> View:
    x, target = values.integer(node.input[:3], node), _target(values, node, 6)
    if node.input[3] in values.constants:
        return values.build.gemm(values.layer_name(node), x, _weights(values, node, 3, 1), None, {}, target, Ending(), where(node))
    return values.build.matmul(values.layer_name(node), x, values.integer(node.input[3:6], node), target, Ending(), where(node))


def _gemm(values: Values, node: onnx.NodeProto) -> View:
    given = attributes(node)
    outputs = 0 if given.get("transB") else 1
    x, weights = values.integer(node.input[:3], node), _weights(values, node, 3, outputs)
    if len(node.input) < 8:
        raise ConfigError(f"QGemm must have a quantized output ({where(node)})")
    scale = values.build.tensors[x.tensor].scale * weights.channel_scales(outputs, where(node))
    bias = values.constant(node.input[6], node, "bias") * scale if node.input[6] else None
    target = _target(values, node, 7)
    return values.build.gemm(values.layer_name(node), x, weights, bias, given, target, Ending(), where(node))


def _add(values: Values, node: onnx.NodeProto) -> View:
    a, b = (values.integer(node.input[i : i + 3], node) for i in (0, 3))
    target = _target(values, node, 6)
    return values.build.add(values.layer_name(node), a, b, target, Ending(), where(node))


def _pool(values: Values, node: onnx.NodeProto) -> View:
    if attributes(node).get("channels_last"):
        raise ConfigError(f"channels_last must be 0 ({where(node)})")
    x, target = values.integer(node.input[:3], node), _target(values, node, 3)
    kind = node.op_type.removeprefix("QLinear")
    return values.build.pool(values.layer_name(node), kind, x, attributes(node), target, Ending(), where(node))


def _concat(values: Values, node: onnx.NodeProto) -> View:
    views = [values.integer(node.input[i : i + 3], node) for i in range(2, len(node.input), 3)]
    target = values.tensor(node, node.input[0], node.input[1], values.kind(node.input[2]))
    return values.build.concat(values.layer_name(node), views, attributes(node)["axis"], target, Ending(), where(node))


QLINEAR: dict[str, Callable[[Values, onnx.NodeProto], View]] = {
    "QLinearConv": _conv, "QLinearMatMul": _matmul, "QGemm": _gemm, "QLinearAdd": _add, "QLinearGlobalAveragePool": _pool, "QLinearAveragePool": _pool,
    "QLinearConcat": _concat,
}  # fmt: skip
"""Makes the layer of a node of the QLinear form, which carries all its scales and zero points."""
