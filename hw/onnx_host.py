"""What the host computes between two programs: whole expressions of operators that the accelerator cannot run, by ONNX's own reference."""

from collections.abc import Sequence
from dataclasses import replace

import numpy as np
import onnx
from onnx import numpy_helper
from onnx.reference import ReferenceEvaluator

from hw.errors import ConfigError
from hw.graph import HostStep, Tensor
from hw.onnx_values import RENAMING, Values, evaluated, where
from hw.onnx_views import View, view


def expression(values: Values, source: str) -> tuple[list[onnx.NodeProto], list[str]]:
    """(all operators between quantized tensors and the real value `source`, in order; those tensors' real values)."""
    nodes: list[onnx.NodeProto] = []
    inputs: list[str] = []
    seen: set[str] = set()

    def collect(name: str) -> None:
        if name in seen or name in values.constants or not name:
            return
        seen.add(name)
        if name in values.real:
            inputs.append(name)
        elif name in values.waiting:
            for one in values.waiting[name].input:
                collect(one)
            if values.waiting[name] not in nodes:
                nodes.append(values.waiting[name])
        elif name not in values.weights:
            raise ConfigError(f"input {name} must be made from quantized tensors ({where(values.waiting[source])})")

    collect(source)
    return nodes, inputs


def host_step(
    values: Values, nodes: Sequence[onnx.NodeProto], inputs: Sequence[str], source: str, target: Tensor, quantize: onnx.NodeProto, guilty: onnx.NodeProto
) -> View:  # fmt: skip
    """The view of a new tensor that a step of the host makes: `expression`'s operators, quantized as `target`. `guilty` names the step."""
    constants = {name: values.real_constant(name) for name in {one for node in nodes for one in node.input} if values.real_constant(name) is not None}
    shapes = {value.name: [d.dim_value for d in value.type.tensor_type.shape.dim] for value in values.model.graph.value_info}
    if not shapes.get(source) or not all(shapes[source]):
        raise ConfigError(f"shape of {source} must be known ({where(quantize)}); run onnx.shape_inference")
    evaluator = _evaluator(nodes, {name: values.real[name].shape for name in inputs}, constants, source, shapes[source], values.model)
    views = [values.real[name] for name in inputs]
    made = _like(values, views, tuple(shapes[source]), target, where(guilty))
    tensors = [values.build.tensors[one.tensor] for one in views]
    result = values.build.tensors[made.tensor]

    def run(*integers: np.ndarray) -> np.ndarray:
        arrays = {name: v.array(t.dequantize(x)) for name, v, t, x in zip(inputs, views, tensors, integers, strict=True)}
        array = result.quantize(evaluated(evaluator, arrays))
        return made.tensor_values(array, (values.build.batch, *result.shape))

    operators = tuple(node.op_type for node in nodes if node.op_type not in RENAMING)
    names = tuple(one.tensor for one in views)
    values.build.steps.append(HostStep(name=values.layer_name(guilty), operators=operators, inputs=names, output=made.tensor, run=run))
    return made


def _like(values: Values, views: list[View], shape: tuple[int, ...], target: Tensor, at: str) -> View:
    """A view of a new tensor in `shape`: laid out as an input of that shape, else as images, sequences or vectors."""
    for one in views:
        if one.shape == shape:
            like = values.build.tensors[one.tensor]
            values.build.tensors[target.name] = replace(target, channels=like.channels, height=like.height, width=like.width, heads=like.heads)
            return replace(one, tensor=target.name)
    letters = {2: "nc", 3: "nhc", 4: "nchw"}.get(len(shape))
    if letters is None or shape[0] != values.build.batch:
        raise ConfigError(f"result must have 2 to 4 axes, the first the batch, not {shape} ({at})")
    sizes = dict(zip(letters, shape, strict=True))
    values.build.tensors[target.name] = replace(target, channels=sizes["c"], height=sizes.get("h", 1), width=sizes.get("w", 1))
    return view(target.name, shape, letters)


def _evaluator(nodes: Sequence, inputs: dict, constants: dict, output: str, shape: list[int], model: onnx.ModelProto) -> ReferenceEvaluator:
    """ONNX's own reference of some nodes."""
    make = onnx.helper.make_tensor_value_info
    graph = onnx.helper.make_graph(
        list(nodes), "host", [make(name, onnx.TensorProto.FLOAT, size) for name, size in inputs.items()], [make(output, onnx.TensorProto.FLOAT, shape)],
        [numpy_helper.from_array(np.asarray(value), name) for name, value in constants.items()],
    )  # fmt: skip
    return ReferenceEvaluator(onnx.helper.make_model(graph, opset_imports=model.opset_import, ir_version=model.ir_version))
