"""Reads a quantized ONNX model (QDQ or QLinear form) as a `hw.graph.Graph`.

Nodes are visited in order. A DequantizeLinear makes a real value of a tensor (or of weights), other operators on real values wait until the
QuantizeLinear that ends them says how they are scaled: from there `_finish` walks back over what is fused (clips, constant factors, renamings)
to the operator itself. QLinear operators carry all of that themselves. What the accelerator cannot run is refused with its node's name, or becomes a
`HostStep` if that is allowed. Semantics: docs/mapping.md.
"""

import re
from collections.abc import Iterable
from dataclasses import dataclass, replace
from math import inf
from pathlib import Path

import numpy as np
import onnx
from onnx import numpy_helper
from onnx.reference import ReferenceEvaluator

from hw.errors import ConfigError
from hw.graph import Graph, HostStep, Port, Tensor
from hw.onnx_layers import LayerBuilder, Weights
from hw.onnx_views import View, view

LEAST_OPSET = 13
RENAMING = ("Reshape", "Flatten", "Transpose", "Squeeze", "Unsqueeze", "Identity", "Dropout")
_BITS = {"int4": 4, "uint4": 4, "int8": 8, "uint8": 8, "int16": 16, "uint16": 16}


@dataclass(frozen=True, kw_only=True)
class Ending:
    """What follows an operator before its result is quantized: a factor, then clips, as real numbers, and renamings."""

    gain: float = 1.0
    low: float = -inf
    high: float = inf
    renamings: tuple[onnx.NodeProto, ...] = ()


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


def attributes(node: onnx.NodeProto) -> dict:
    """A node's attributes by name."""
    return {attribute.name: onnx.helper.get_attribute_value(attribute) for attribute in node.attribute}


class Importer:
    """One model on its way into a graph."""

    def __init__(self, model: onnx.ModelProto, *, name: str, host: bool):
        self.model, self.name, self.host = model, name, host
        self.opset = max((entry.version for entry in model.opset_import if entry.domain in ("", "ai.onnx")), default=0)
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
                self._input(value)
        for node in self.model.graph.node:
            self._visit(node)
        outputs = tuple(self._output(value.name) for value in self.model.graph.output)
        unused = [name for name in self.inputs if name not in self.ports]
        if unused:
            raise ConfigError(f"input {unused[0]} must be quantized and used, and is not ({self.name})")
        b, inputs = self.build, tuple(self.ports.values())
        return Graph(
            name=self.name, batch=b.batch, tensors=b.tensors, steps=tuple(b.steps), inputs=tuple(b.inputs), parts=b.parts,
            outputs=tuple(dict.fromkeys(port.view.tensor for port in outputs)), input_ports=inputs, output_ports=outputs, values=self.integers,
        )  # fmt: skip

    # Values

    def where(self, node: onnx.NodeProto) -> str:
        """How messages name a node."""
        return f"node {node.name or node.output[0]}, {node.op_type}"

    def _input(self, value: onnx.ValueInfoProto) -> None:
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

    def _constant(self, name: str, node: onnx.NodeProto, what: str) -> np.ndarray:
        if name not in self.constants:
            raise ConfigError(f"{what} must be a constant ({self.where(node)}); fold constants, for example with onnxsim")
        return self.constants[name]

    def _numbers(self, scale: str, zero_point: str, node: onnx.NodeProto) -> tuple[float, int, int, int]:
        """(scale, zero point, bits, offset) of a tensor quantized as a whole, as signed integers."""
        scales = self._constant(scale, node, "scale")
        if scales.size != 1:
            raise ConfigError(f"activations must have one scale, not {scales.size} ({self.where(node)})")
        zero = self._constant(zero_point, node, "zero point") if zero_point else np.uint8(0)
        kind = str(zero.dtype)
        if kind not in _BITS:
            raise ConfigError(f"activations must be quantized to one of {', '.join(_BITS)}, not {kind} ({self.where(node)})")
        offset = 1 << _BITS[kind] - 1 if kind.startswith("u") else 0
        return float(scales.reshape(())), int(zero.reshape(())) - offset, _BITS[kind], offset

    def _tensor(self, node: onnx.NodeProto, scale: str, zero_point: str) -> Tensor:
        """A new tensor's numbers and name; its shape comes with its layer."""
        numbers = self._numbers(scale, zero_point, node)
        name = self.build.unique(node.output[0], self.build.tensors)
        return Tensor(name=name, channels=1, scale=numbers[0], zero_point=numbers[1], bits=numbers[2], offset=numbers[3])

    def _view_of_input(self, name: str, numbers: tuple[float, int, int, int], *, real: bool) -> View:
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

    def _integer(self, name: str, scale: str, zero_point: str, node: onnx.NodeProto) -> View:
        """The quantized tensor that a node reads with these numbers."""
        numbers = self._numbers(scale, zero_point, node)
        if name in self.inputs and name not in self.integers:
            self.integers[name] = self._view_of_input(name, numbers, real=False)
        if name not in self.integers:
            raise ConfigError(f"input {name} must be a quantized tensor ({self.where(node)})")
        if numbers[:3] != self.build.tensors[self.integers[name].tensor].same_numbers:
            raise ConfigError(f"scale and zero point of {name} must be those it was made with ({self.where(node)})")
        return self.integers[name]

    def _output(self, name: str) -> Port:
        found = self.integers.get(name) or self.real.get(name)
        if found is None:
            node = self.waiting.get(name)
            what = f" ({self.where(node)})" if node is not None else ""
            raise ConfigError(f"output {name} must be quantized{what}; end the model with QuantizeLinear and DequantizeLinear there")
        return Port(name=name, view=found, real=name in self.real)

    # Nodes

    def _visit(self, node: onnx.NodeProto) -> None:
        kind = node.op_type
        handler = getattr(self, f"_do_{kind.lower()}", None)
        if kind == "Constant":
            self.constants[node.output[0]] = numpy_helper.to_array(attributes(node)["value"])
        elif kind in RENAMING:
            self._rename(node)
        elif handler:
            handler(node)
        elif kind in ("MaxPool", "GlobalMaxPool", "Relu", "Clip", "Concat") and node.input[0] in self.integers:
            self._on_integers(node)
        elif kind.startswith("QLinear") or node.domain not in ("", "ai.onnx", "com.microsoft"):
            raise ConfigError(f"operator must be one that the accelerator runs, not {kind} ({self.where(node)}); export the model in QDQ form")
        else:
            for output in node.output:
                self.waiting[output] = node

    def _rename(self, node: onnx.NodeProto) -> None:
        source, target = node.input[0], node.output[0]
        for values in (self.integers, self.real):
            if source in values:
                values[target] = self._renamed(values[source], node)
                return
        if source in self.constants:
            self.constants[target] = ReferenceEvaluator(node).run(None, {name: self.constants[name] for name in node.input})[0]
        elif source in self.weights and node.op_type == "Transpose":
            self.weights[target] = self.weights[source].transpose(tuple(attributes(node).get("perm", range(self.weights[source].integers.ndim)[::-1])))
        else:
            self.waiting[target] = node

    def _renamed(self, source: View, node: onnx.NodeProto) -> View:
        given, shape, where = attributes(node), source.shape, self.where(node)
        if node.op_type in ("Identity", "Dropout"):
            return source
        if node.op_type == "Transpose":
            return source.transpose(tuple(given.get("perm", range(len(shape))[::-1])))
        if node.op_type == "Flatten":
            axis = given.get("axis", 1) % len(shape)
            return source.reshape((int(np.prod(shape[:axis])), int(np.prod(shape[axis:]))), where)
        second = self._constant(node.input[1], node, "shape or axes") if len(node.input) > 1 and node.input[1] else None
        if node.op_type == "Reshape":
            wanted = [int(size) if size or given.get("allowzero") else shape[i] for i, size in enumerate(second)]
            if -1 in wanted:
                wanted[wanted.index(-1)] = int(np.prod(shape)) // -int(np.prod(wanted))
            return source.reshape(tuple(wanted), where)
        axes = None if second is None else [int(axis) for axis in second]
        if node.op_type == "Squeeze":
            gone = [i for i, size in enumerate(shape) if size == 1] if axes is None else [axis % len(shape) for axis in axes]
            return source.reshape(tuple(size for i, size in enumerate(shape) if i not in gone), where)
        rank = len(shape) + len(axes)
        new, left = [axis % rank for axis in axes], list(shape)
        return source.reshape(tuple(1 if i in new else left.pop(0) for i in range(rank)), where)

    def _do_dequantizelinear(self, node: onnx.NodeProto) -> None:
        source, scale, zero = node.input[0], node.input[1], node.input[2] if len(node.input) > 2 else ""
        if source in self.constants:
            axis = attributes(node).get("axis", 1)
            zeros = self._constant(zero, node, "zero point") if zero else None
            self.weights[node.output[0]] = Weights.of(self.constants[source], self._constant(scale, node, "scale"), zeros, axis, self.where(node))
        else:
            self.real[node.output[0]] = self._integer(source, scale, zero, node)

    def _do_quantizelinear(self, node: onnx.NodeProto) -> None:
        source, scale, zero = node.input[0], node.input[1], node.input[2] if len(node.input) > 2 else ""
        target = node.output[0]
        if source in self.inputs:
            self.integers[target] = self._view_of_input(source, self._numbers(scale, zero, node), real=True)
        elif source in self.constants:
            raise ConfigError(f"constants must be stored quantized, not {source} in floating point ({self.where(node)})")
        else:
            self.integers[target] = self._finish(source, self._tensor(node, scale, zero), node)

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
            made = self.build.rescale(self.real[name], target, ending, self._name(quantize if name == source else self.waiting[source]))
        elif name in self.waiting and self._runs(self.waiting[name]):
            made = self._layer(self.waiting[name], target, ending)
        elif name in self.waiting or source in self.waiting:
            return self._host(source, target, quantize)
        else:
            raise ConfigError(f"input {source} must be made from quantized tensors ({self.where(quantize)})")
        for node in reversed(ending.renamings):
            made = self._renamed(made, node)
        return made

    def _fused(self, node: onnx.NodeProto, ending: Ending) -> tuple[Ending, str] | None:
        """(ending, what it is applied to) if the node is part of an operator's ending, which is `ending` so far."""
        kind, given = node.op_type, list(node.input)
        if kind in RENAMING:
            return replace(ending, renamings=(*ending.renamings, node)), given[0]
        if kind == "Relu":
            return replace(ending, low=max(ending.low, 0.0)), given[0]
        if kind == "Clip":
            limits = [float(self._constant(name, node, "limit").reshape(())) if name else None for name in (*given[1:], "", "")[:2]]
            low, high = (-inf if limits[0] is None else limits[0]), (inf if limits[1] is None else limits[1])
            return replace(ending, low=max(ending.low, low * ending.gain), high=min(ending.high, high * ending.gain)), given[0]
        if kind in ("Mul", "Div"):
            factors = [i for i, name in enumerate(given) if self._scalar(name) is not None]
            if len(factors) == 1 and (kind == "Mul" or factors == [1]):
                factor = self._scalar(given[factors[0]])
                if factor > 0:
                    return replace(ending, gain=ending.gain * (factor if kind == "Mul" else 1 / factor)), given[1 - factors[0]]
        return None

    def _scalar(self, name: str) -> float | None:
        """The value of a constant of one number."""
        if name in self.constants and self.constants[name].size == 1:
            return float(self.constants[name].reshape(()))
        if name in self.weights and self.weights[name].integers.size == 1:
            return float(self.weights[name].real().reshape(()))
        return None

    def _name(self, node: onnx.NodeProto) -> str:
        return self.build.unique(re.sub(r"[^A-Za-z0-9_./-]", "_", (node.name or node.output[0]).strip("/"))[:70] or "layer", self.build.layer_names)

    # Operators on real values

    def _bias(self, node: onnx.NodeProto) -> tuple[onnx.NodeProto, np.ndarray | None] | None:
        """(MatMul, its bias) where the node adds a constant to one."""
        for one, other in ((0, 1), (1, 0)):
            matmul = self.waiting.get(node.input[one])
            if matmul is not None and matmul.op_type == "MatMul" and matmul.input[1] in self.weights:
                constant = self._real_constant(node.input[other])
                if constant is not None:
                    return matmul, constant
        return None

    def _real_constant(self, name: str) -> np.ndarray | None:
        return self.constants.get(name) if name in self.constants else self.weights[name].real() if name in self.weights else None

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
        kind, where, name = node.op_type, self.where(node), self._name(node)
        if kind in ("Conv", "Gemm"):
            bias = self._real_constant(node.input[2]) if len(node.input) > 2 and node.input[2] else None
            if len(node.input) > 2 and node.input[2] and bias is None:
                raise ConfigError(f"bias must be a constant ({where})")
            build = self.build.conv if kind == "Conv" else self.build.gemm
            return build(name, self.real[node.input[0]], self.weights[node.input[1]], bias, attributes(node), target, ending, where)
        if kind == "Add" and not all(one in self.real for one in node.input):
            matmul, bias = self._bias(node)
            return self.build.gemm(name, self.real[matmul.input[0]], self.weights[matmul.input[1]], bias, {}, target, ending, where)
        if kind == "MatMul" and node.input[1] in self.weights:
            return self.build.gemm(name, self.real[node.input[0]], self.weights[node.input[1]], None, {}, target, ending, where)
        views = [self.real[one] for one in node.input if one in self.real]
        if kind == "MatMul":
            return self.build.matmul(name, *views, target, ending, where)
        if kind == "Add":
            return self.build.add(name, *views, target, ending, where)
        if kind == "Concat":
            return self.build.concat(name, views, attributes(node)["axis"], target, ending, where)
        pooled = "GlobalAveragePool" if kind == "ReduceMean" else kind
        made = self.build.pool(name, pooled, views[0], attributes(node), target, ending, where)
        if kind == "ReduceMean" and not attributes(node).get("keepdims", 1):
            made = made.reshape(made.shape[:2], where)
        return made

    # Operators on integers

    def _on_integers(self, node: onnx.NodeProto) -> None:
        """An operator of ONNX itself that works on quantized tensors as they are."""
        views = [self.integers[name] for name in node.input if name in self.integers]
        source = self.build.tensors[views[0].tensor]
        target = replace(source, name=self.build.unique(node.output[0], self.build.tensors), channels=1, height=1, width=1, heads=1)
        if node.op_type == "Concat":
            made = self.build.concat(self._name(node), views, attributes(node)["axis"], target, Ending(), self.where(node))
        elif node.op_type in ("Relu", "Clip"):
            raise ConfigError(f"{node.op_type} must stand between DequantizeLinear and QuantizeLinear ({self.where(node)}); export the model in QDQ form")
        else:
            made = self.build.pool(self._name(node), node.op_type, views[0], attributes(node), target, Ending(), self.where(node))
        self.integers[node.output[0]] = made

    def _quantized_weights(self, node: onnx.NodeProto, first: int, axis: int) -> Weights:
        values = [self._constant(name, node, "weights") for name in node.input[first : first + 3]]
        return Weights.of(*values, axis, self.where(node))

    def _do_qlinearconv(self, node: onnx.NodeProto) -> None:
        x, weights = self._integer(*node.input[:3], node), self._quantized_weights(node, 3, 0)
        target = self._tensor(node, node.input[6], node.input[7])
        scale = self.build.tensors[x.tensor].scale * weights.channel_scales(len(weights.integers))
        bias = self._constant(node.input[8], node, "bias") * scale if len(node.input) > 8 and node.input[8] else None
        made = self.build.conv(self._name(node), x, weights, bias, attributes(node), target, Ending(), self.where(node))
        self.integers[node.output[0]] = made

    def _do_qlinearmatmul(self, node: onnx.NodeProto) -> None:
        x, target, where = self._integer(*node.input[:3], node), self._tensor(node, node.input[6], node.input[7]), self.where(node)
        if node.input[3] in self.constants:
            made = self.build.gemm(self._name(node), x, self._quantized_weights(node, 3, 1), None, {}, target, Ending(), where)
        else:
            made = self.build.matmul(self._name(node), x, self._integer(*node.input[3:6], node), target, Ending(), where)
        self.integers[node.output[0]] = made

    def _do_qgemm(self, node: onnx.NodeProto) -> None:
        given = attributes(node)
        x, weights = self._integer(*node.input[:3], node), self._quantized_weights(node, 3, 0 if given.get("transB") else 1)
        if len(node.input) < 9:
            raise ConfigError(f"QGemm must have a quantized output ({self.where(node)})")
        count = weights.integers.shape[0 if given.get("transB") else 1]
        scale = self.build.tensors[x.tensor].scale * weights.channel_scales(count)
        bias = self._constant(node.input[6], node, "bias") * scale if node.input[6] else None
        target = self._tensor(node, node.input[7], node.input[8])
        self.integers[node.output[0]] = self.build.gemm(self._name(node), x, weights, bias, given, target, Ending(), self.where(node))

    def _do_qlinearadd(self, node: onnx.NodeProto) -> None:
        views = [self._integer(*node.input[i : i + 3], node) for i in (0, 3)]
        target = self._tensor(node, node.input[6], node.input[7])
        self.integers[node.output[0]] = self.build.add(self._name(node), *views, target, Ending(), self.where(node))

    def _do_qlinearglobalaveragepool(self, node: onnx.NodeProto) -> None:
        if attributes(node).get("channels_last"):
            raise ConfigError(f"channels_last must be 0 ({self.where(node)})")
        x, target = self._integer(*node.input[:3], node), self._tensor(node, node.input[3], node.input[4])
        kind = node.op_type.removeprefix("QLinear")
        self.integers[node.output[0]] = self.build.pool(self._name(node), kind, x, attributes(node), target, Ending(), self.where(node))

    _do_qlinearaveragepool = _do_qlinearglobalaveragepool

    def _do_qlinearconcat(self, node: onnx.NodeProto) -> None:
        views = [self._integer(*node.input[i : i + 3], node) for i in range(2, len(node.input), 3)]
        target = self._tensor(node, node.input[0], node.input[1])
        made = self.build.concat(self._name(node), views, attributes(node)["axis"], target, Ending(), self.where(node))
        self.integers[node.output[0]] = made

    # Host

    def _host(self, source: str, target: Tensor, quantize: onnx.NodeProto) -> View:
        """All operators between quantized tensors and `source` as one step of the host."""
        nodes, seen, inputs = [], set(), []

        def collect(name: str) -> None:
            if name in seen or name in self.constants or not name:
                return
            seen.add(name)
            if name in self.real:
                inputs.append(name)
            elif name in self.waiting:
                for one in self.waiting[name].input:
                    collect(one)
                if self.waiting[name] not in nodes:
                    nodes.append(self.waiting[name])
            elif name not in self.weights:
                raise ConfigError(f"input {name} must be made from quantized tensors ({self.where(self.waiting[source])})")

        collect(source)
        guilty = next((node for node in nodes if node.op_type not in (*RENAMING, "Relu", "Clip") and not self._runs(node)), nodes[-1])
        if not self.host:
            what = f"operator must be one that the accelerator runs on quantized inputs, not {guilty.op_type} ({self.where(guilty)})"
            raise ConfigError(f"{what}; give --host to run it on the host")
        constants = {name: self._real_constant(name) for name in {one for node in nodes for one in node.input} if self._real_constant(name) is not None}
        shapes = {value.name: [d.dim_value for d in value.type.tensor_type.shape.dim] for value in self.model.graph.value_info}
        if not shapes.get(source) or not all(shapes[source]):
            raise ConfigError(f"shape of {source} must be known ({self.where(quantize)}); run onnx.shape_inference")
        evaluator = _evaluator(nodes, {name: self.real[name].shape for name in inputs}, constants, source, shapes[source], self.model)
        views = [self.real[name] for name in inputs]
        made = self._like(views, tuple(shapes[source]), target, self.where(guilty))
        tensors = [self.build.tensors[one.tensor] for one in views]
        result = self.build.tensors[made.tensor]

        def run(*integers: np.ndarray) -> np.ndarray:
            values = {name: v.array(t.dequantize(x)) for name, v, t, x in zip(inputs, views, tensors, integers, strict=True)}
            array = result.quantize(evaluator.run(None, values)[0])
            return made.tensor_values(array, (self.build.batch, *result.shape))

        operators = tuple(node.op_type for node in nodes if node.op_type not in RENAMING)
        names = tuple(one.tensor for one in views)
        self.build.steps.append(HostStep(name=self._name(guilty), operators=operators, inputs=names, output=made.tensor, run=run))
        return made

    def _like(self, views: list[View], shape: tuple[int, ...], target: Tensor, where: str) -> View:
        """A view of a new tensor in `shape`: laid out as an input of that shape, else as images, sequences or vectors."""
        for one in views:
            if one.shape == shape:
                like = self.build.tensors[one.tensor]
                self.build.tensors[target.name] = replace(target, channels=like.channels, height=like.height, width=like.width, heads=like.heads)
                return replace(one, tensor=target.name)
        letters = {2: "nc", 3: "nhc", 4: "nchw"}.get(len(shape))
        if letters is None or shape[0] != self.build.batch:
            raise ConfigError(f"result must have 2 to 4 axes, the first the batch, not {shape} ({where})")
        sizes = dict(zip(letters, shape, strict=True))
        self.build.tensors[target.name] = replace(target, channels=sizes["c"], height=sizes.get("h", 1), width=sizes.get("w", 1))
        return view(target.name, shape, letters)


def _evaluator(nodes: Iterable, inputs: dict, constants: dict, output: str, shape: list[int], model: onnx.ModelProto) -> ReferenceEvaluator:
    """ONNX's own reference of some nodes."""
    make = onnx.helper.make_tensor_value_info
    graph = onnx.helper.make_graph(
        list(nodes), "host", [make(name, onnx.TensorProto.FLOAT, size) for name, size in inputs.items()], [make(output, onnx.TensorProto.FLOAT, shape)],
        [numpy_helper.from_array(np.asarray(value), name) for name, value in constants.items()],
    )  # fmt: skip
    return ReferenceEvaluator(onnx.helper.make_model(graph, opset_imports=model.opset_import, ir_version=model.ir_version))
