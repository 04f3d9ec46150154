"""Reads a quantized ONNX model (QDQ or QLinear form) as a `hw.graph.Graph`.

Nodes are visited in order. A DequantizeLinear makes a real value of a tensor (or of weights), other operators on real values wait until the
QuantizeLinear that ends them says how they are scaled: from there `_finish` walks back over what is fused (clips, constant factors, renamings)
to the operator itself. Operators on integers carry all of that themselves (`hw.onnx_qlinear`). What the accelerator cannot run is refused with its node's
name, or becomes a `HostStep` if that is allowed (`hw.onnx_host`). Semantics: docs/mapping.md.
"""

from dataclasses import replace
from math import inf
from pathlib import Path

import numpy as np
import onnx
from onnx.reference import ReferenceEvaluator

from hw.errors import ConfigError
from hw.graph import Graph, Tensor
from hw.onnx_host import expression, host_step
from hw.onnx_layers import Ending, Weights
from hw.onnx_qlinear import ON_INTEGERS, QLINEAR, on_integers
from hw.onnx_values import RENAMING, Values, attributes, evaluated, where
from hw.onnx_views import View

LEAST_OPSET = 13


def import_onnx(path: str | Path, *, host: bool = False) -> Graph:
    """The network in an ONNX file. `host`: operators that the accelerator cannot run go to the host instead of being refused.

    Raises `ConfigError` naming node and operator for what cannot be run or is not as the accelerator needs it.
    """
    try:
        model = onnx.load(str(path))
        onnx.checker.check_model(model)
        model = onnx.shape_inference.infer_shapes(model)
    except FileNotFoundError:
        raise ConfigError(f"network must be an ONNX file, and there is none ({path})") from None
    except Exception as error:  # onnx raises errors of protobuf and of its own
        raise ConfigError(f"network must be a valid ONNX model, not one with: {str(error).splitlines()[0]} ({path})") from None
    return Importer(model, name=Path(path).stem, host=host).graph()


class Importer(Values):
    """One model on its way into a graph."""

    def __init__(self, model: onnx.ModelProto, *, name: str, host: bool):
        super().__init__(model, name)
        self.host = host
        self.opset = max((entry.version for entry in model.opset_import if entry.domain in ("", "ai.onnx")), default=0)

    def graph(self) -> Graph:
        """Visit all nodes."""
        if self.opset < LEAST_OPSET:
            raise ConfigError(f"opset must be at least {LEAST_OPSET}, not {self.opset} ({self.name}); convert the model with onnx.version_converter")
        known = {"QuantizeLinear", "DequantizeLinear", "QLinearConv", "QLinearMatMul"}
        if not any(node.op_type in known for node in self.model.graph.node):
            what = f"model must be quantized, and has no QuantizeLinear ({self.name})"
            raise ConfigError(f"{what}; quantize it, for example with onnxruntime.quantization.quantize_static")
        self.build.batch = 0
        for value in self.model.graph.input:
            if value.name not in self.constants:
                self.add_input(value)
        for node in self.model.graph.node:
            self._visit(node)
        outputs = tuple(self.output_port(value.name) for value in self.model.graph.output)
        unused = [name for name in self.inputs if name not in self.ports]
        if unused:
            raise ConfigError(f"input {unused[0]} must be quantized and used, and is not ({self.name})")
        b, inputs = self.build, tuple(self.ports.values())
        return Graph(
            name=self.name, batch=b.batch, tensors=b.tensors, steps=tuple(b.steps), inputs=tuple(b.inputs), parts=b.parts,
            outputs=tuple(dict.fromkeys(port.view.tensor for port in outputs)), input_ports=inputs, output_ports=outputs, values=self.integers,
        )  # fmt: skip

    # Nodes

    def _visit(self, node: onnx.NodeProto) -> None:
        kind = node.op_type
        if kind == "Constant":
            self.constants[node.output[0]] = evaluated(ReferenceEvaluator(node), {})
        elif kind in RENAMING:
            self._rename(node)
        elif kind == "DequantizeLinear":
            self._dequantize(node)
        elif kind == "QuantizeLinear":
            self._quantize(node)
        elif kind in QLINEAR:
            self.integers[node.output[0]] = QLINEAR[kind](self, node)
        elif kind in ON_INTEGERS and node.input[0] in self.integers:
            self.integers[node.output[0]] = on_integers(self, node)
        elif kind.startswith("QLinear") or node.domain not in ("", "ai.onnx", "com.microsoft"):
            raise ConfigError(f"operator must be one that the accelerator runs, not {kind} ({where(node)}); export the model in QDQ form")
        else:
            for output in node.output:
                self.waiting[output] = node

    def _rename(self, node: onnx.NodeProto) -> None:
        source, target = node.input[0], node.output[0]
        for values in (self.integers, self.real):
            if source in values:
                values[target] = self.renamed(values[source], node)
                return
        if all(name in self.constants for name in node.input if name):
            self.constants[target] = evaluated(ReferenceEvaluator(node), {name: self.constants[name] for name in node.input if name})
        elif source in self.weights and node.op_type == "Transpose":
            self.weights[target] = self.weights[source].transpose(tuple(attributes(node).get("perm", range(self.weights[source].integers.ndim)[::-1])))
        else:
            self.waiting[target] = node

    def _dequantize(self, node: onnx.NodeProto) -> None:
        source, scale, zero = node.input[0], node.input[1], node.input[2] if len(node.input) > 2 else ""
        if source in self.constants:
            axis = attributes(node).get("axis", 1)
            zeros = self.constant(zero, node, "zero point") if zero else None
            self.weights[node.output[0]] = Weights.of(self.constants[source], self.constant(scale, node, "scale"), zeros, axis, where(node))
        else:
            self.real[node.output[0]] = self.integer((source, scale, zero), node)

    def _quantize(self, node: onnx.NodeProto) -> None:
        source, scale, zero = node.input[0], node.input[1], node.input[2] if len(node.input) > 2 else ""
        target = node.output[0]
        kind = str(onnx.helper.tensor_dtype_to_np_dtype(attributes(node).get("output_dtype") or onnx.TensorProto.UINT8))
        if source in self.inputs:
            self.integers[target] = self._quantized_input(source, self.numbers(scale, zero, node, kind), node)
        elif source in self.constants:
            raise ConfigError(f"constants must be stored quantized, not {source} in floating point ({where(node)})")
        else:
            self.integers[target] = self._finish(source, self.tensor(node, scale, zero, kind), node)

    def _quantized_input(self, name: str, numbers: tuple[float, int, int, int], node: onnx.NodeProto) -> View:
        """The one tensor of an input of the model, however often it is quantized."""
        if name not in self.ports:
            return self.view_of_input(name, numbers, real=True)
        made = self.ports[name].view
        if numbers[:3] != self.build.tensors[made.tensor].same_numbers:
            raise ConfigError(f"input {name} must be quantized with one scale and zero point, not with others too ({where(node)})")
        return made

    def _finish(self, source: str, target: Tensor, quantize: onnx.NodeProto) -> View:
        """The layers that make the real value `source` as the tensor `target`."""
        ending = Ending()
        name = source
        while name in self.waiting:
            node = self.waiting[name]
            before = self._fused(node, ending)
            if before is None:
                break
            ending, name = before
        if name in self.real:  # nothing but an ending: requantization
            made = self.build.rescale(self.real[name], target, ending, self.layer_name(quantize if name == source else self.waiting[source]))
        elif name in self.waiting and self._runs(self.waiting[name]):
            made = self._layer(self.waiting[name], target, ending)
        elif name in self.waiting or source in self.waiting:
            return self._host(source, target, quantize)
        else:
            raise ConfigError(f"input {source} must be made from quantized tensors ({where(quantize)})")
        for node in reversed(ending.renamings):
            made = self.renamed(made, node)
        return made

    def _fused(self, node: onnx.NodeProto, ending: Ending) -> tuple[Ending, str] | None:
        """(ending, what it is applied to) if the node is part of an operator's ending, which is `ending` so far."""
        kind, given = node.op_type, list(node.input)
        if kind in RENAMING:
            return replace(ending, renamings=(*ending.renamings, node)), given[0]
        if kind == "Relu":
            return ending.clipped(0.0, inf), given[0]
        if kind == "Clip":
            limits = [float(self.constant(name, node, "limit").reshape(())) if name else None for name in (*given[1:], "", "")[:2]]
            low, high = (-inf if limits[0] is None else limits[0]), (inf if limits[1] is None else limits[1])
            return ending.clipped(min(low, high) * ending.gain, high * ending.gain), given[0]
        if kind in ("Mul", "Div"):
            factors = [(i, factor) for i, name in enumerate(given) if (factor := self.scalar(name)) is not None]
            if len(factors) == 1 and (kind == "Mul" or factors[0][0] == 1):
                at, factor = factors[0]
                if factor > 0:
                    return replace(ending, gain=ending.gain * (factor if kind == "Mul" else 1 / factor)), given[1 - at]
        return None

    # Operators on real values

    def _bias(self, node: onnx.NodeProto) -> tuple[onnx.NodeProto, np.ndarray | None] | None:
        """(MatMul, its bias) where the node adds a constant to one."""
        for one, other in ((0, 1), (1, 0)):
            matmul = self.waiting.get(node.input[one])
            if matmul is not None and matmul.op_type == "MatMul" and matmul.input[0] in self.real and matmul.input[1] in self.weights:
                constant = self.real_constant(node.input[other])
                if constant is not None and constant.ndim <= len(self.real[matmul.input[0]].shape):
                    return matmul, constant
        return None

    def _runs(self, node: onnx.NodeProto) -> bool:
        """Whether the accelerator runs this operator on these inputs, as far as their kinds say."""
        inputs = [name for name in node.input if name]
        real = [name in self.real for name in inputs]
        if node.op_type in ("Conv", "Gemm"):
            return real[0] and inputs[1] in self.weights
        if node.op_type == "MatMul":
            return real[0] and (real[1] or inputs[1] in self.weights)
        if node.op_type == "Add":
            return all(real) or self._bias(node) is not None
        if node.op_type == "ReduceMean":
            return real[0] and self._reduces_image(node)
        return node.op_type in ("MaxPool", "AveragePool", "GlobalAveragePool", "GlobalMaxPool", "Concat") and all(real)

    def _reduces_image(self, node: onnx.NodeProto) -> bool:
        source = self.real[node.input[0]]
        axes = attributes(node).get("axes") or (self.constants.get(node.input[1]) if len(node.input) > 1 else None)
        return axes is not None and len(source.shape) == 4 and sorted(int(a) % 4 for a in axes) == [2, 3]

    def _layer(self, node: onnx.NodeProto, target: Tensor, ending: Ending) -> View:
        kind, at, name = node.op_type, where(node), self.layer_name(node)
        if kind in ("Conv", "Gemm"):
            bias = self.real_constant(node.input[2]) if len(node.input) > 2 and node.input[2] else None
            if len(node.input) > 2 and node.input[2] and bias is None:
                raise ConfigError(f"bias must be a constant ({at})")
            build = self.build.conv if kind == "Conv" else self.build.gemm
            return build(name, self.real[node.input[0]], self.weights[node.input[1]], bias, attributes(node), target, ending, at)
        biased = self._bias(node) if kind == "Add" and not all(one in self.real for one in node.input) else None
        if biased is not None:
            matmul, bias = biased
            return self.build.gemm(name, self.real[matmul.input[0]], self.weights[matmul.input[1]], bias, {}, target, ending, at)
        if kind == "MatMul" and node.input[1] in self.weights:
            return self.build.gemm(name, self.real[node.input[0]], self.weights[node.input[1]], None, {}, target, ending, at)
        views = [self.real[one] for one in node.input if one in self.real]
        if kind == "MatMul":
            return self.build.matmul(name, views[0], views[1], target, ending, at)
        if kind == "Add":
            return self.build.add(name, views[0], views[1], target, ending, at)
        if kind == "Concat":
            return self.build.concat(name, views, attributes(node)["axis"], target, ending, at)
        pooled = "GlobalAveragePool" if kind == "ReduceMean" else kind
        made = self.build.pool(name, pooled, views[0], attributes(node), target, ending, at)
        if kind == "ReduceMean" and not attributes(node).get("keepdims", 1):
            made = made.reshape(made.shape[:2], at)
        return made

    def _host(self, source: str, target: Tensor, quantize: onnx.NodeProto) -> View:
        """A step of the host that makes the real value `source`, if that is allowed."""
        nodes, inputs = expression(self, source)
        guilty = next((node for node in nodes if node.op_type not in (*RENAMING, "Relu", "Clip") and not self._runs(node)), nodes[-1])
        if not self.host:
            what = f"operator must be one that the accelerator runs on quantized inputs, not {guilty.op_type} ({where(guilty)})"
            raise ConfigError(f"{what}; give --host to run it on the host")
        return host_step(self, nodes, inputs, source, target, quantize, guilty)
