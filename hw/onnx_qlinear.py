"""Operators on quantized tensors as they are: ONNX's QLinear form, and pooling and concatenation of integers. Each makes a layer and gives its output."""

from collections.abc import Callable
from dataclasses import replace

import onnx

from hw.errors import ConfigError
from hw.onnx_layers import Ending, Weights
from hw.onnx_values import Values, attributes, where
from hw.onnx_views import View

ON_INTEGERS = ("MaxPool", "GlobalMaxPool", "Relu", "Clip", "Concat")
"""Operators of ONNX itself that may stand on quantized tensors."""


def on_integers(values: Values, node: onnx.NodeProto) -> View:
    """One of these; its output has the input's scale and zero point."""
    views = [values.integers[name] for name in node.input if name in values.integers]
    source = values.build.tensors[views[0].tensor]
    target = replace(source, name=values.build.unique(node.output[0], values.build.tensors), channels=1, height=1, width=1, heads=1)
    if node.op_type in ("Relu", "Clip"):
        raise ConfigError(f"{node.op_type} must stand between DequantizeLinear and QuantizeLinear ({where(node)}); export the model in QDQ form")
    if node.op_type == "Concat":
        return values.build.concat(values.layer_name(node), views, attributes(node)["axis"], target, Ending(), where(node))
    return values.build.pool(values.layer_name(node), node.op_type, views[0], attributes(node), target, Ending(), where(node))


def _weights(values: Values, node: onnx.NodeProto, first: int, axis: int) -> Weights:
    integers, scales, zero_points = (values.constant(name, node, "weights") for name in node.input[first : first + 3])
    return Weights.of(integers, scales, zero_points, axis, where(node))


def _conv(values: Values, node: onnx.NodeProto) -> View:
    x, weights = values.integer(node.input[:3], node), _weights(values, node, 3, 0)
    target = values.tensor(node, node.input[6], node.input[7])
    scale = values.build.tensors[x.tensor].scale * weights.channel_scales(len(weights.integers))
    bias = values.constant(node.input[8], node, "bias") * scale if len(node.input) > 8 and node.input[8] else None
    return values.build.conv(values.layer_name(node), x, weights, bias, attributes(node), target, Ending(), where(node))


def _matmul(values: Values, node: onnx.NodeProto) -> View:
    x, target = values.integer(node.input[:3], node), values.tensor(node, node.input[6], node.input[7])
    if node.input[3] in values.constants:
        return values.build.gemm(values.layer_name(node), x, _weights(values, node, 3, 1), None, {}, target, Ending(), where(node))
    return values.build.matmul(values.layer_name(node), x, values.integer(node.input[3:6], node), target, Ending(), where(node))


def _gemm(values: Values, node: onnx.NodeProto) -> View:
    given = attributes(node)
    x, weights = values.integer(node.input[:3], node), _weights(values, node, 3, 0 if given.get("transB") else 1)
    if len(node.input) < 9:
        raise ConfigError(f"QGemm must have a quantized output ({where(node)})")
    count = weights.integers.shape[0 if given.get("transB") else 1]
    scale = values.build.tensors[x.tensor].scale * weights.channel_scales(count)
    bias = values.constant(node.input[6], node, "bias") * scale if node.input[6] else None
    target = values.tensor(node, node.input[7], node.input[8])
    return values.build.gemm(values.layer_name(node), x, weights, bias, given, target, Ending(), where(node))


def _add(values: Values, node: onnx.NodeProto) -> View:
    a, b = (values.integer(node.input[i : i + 3], node) for i in (0, 3))
    target = values.tensor(node, node.input[6], node.input[7])
    return values.build.add(values.layer_name(node), a, b, target, Ending(), where(node))


def _pool(values: Values, node: onnx.NodeProto) -> View:
    if attributes(node).get("channels_last"):
        raise ConfigError(f"channels_last must be 0 ({where(node)})")
    x, target = values.integer(node.input[:3], node), values.tensor(node, node.input[3], node.input[4])
    kind = node.op_type.removeprefix("QLinear")
    return values.build.pool(values.layer_name(node), kind, x, attributes(node), target, Ending(), where(node))


def _concat(values: Values, node: onnx.NodeProto) -> View:
    views = [values.integer(node.input[i : i + 3], node) for i in range(2, len(node.input), 3)]
    target = values.tensor(node, node.input[0], node.input[1])
    return values.build.concat(values.layer_name(node), views, attributes(node)["axis"], target, Ending(), where(node))


QLINEAR: dict[str, Callable[[Values, onnx.NodeProto], View]] = {
    "QLinearConv": _conv, "QLinearMatMul": _matmul, "QGemm": _gemm, "QLinearAdd": _add, "QLinearGlobalAveragePool": _pool, "QLinearAveragePool": _pool,
    "QLinearConcat": _concat,
}  # fmt: skip
"""Makes the layer of a node of the QLinear form, which carries all its scales and zero points."""
