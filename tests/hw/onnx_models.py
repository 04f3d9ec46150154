"""Small quantized models for tests, random weights and scales from a seed; and what ONNX Runtime makes of them."""

import numpy as np
import onnx
import onnxruntime
from onnx import helper, shape_inference

from hw.examples.qdq import QdqModel
from hw.graph import Graph


def residual(path, activations=np.int8, seed=0):
    """Convolution, max pooling, convolution added to its input, global pooling, fully connected; two images."""
    rng, m = np.random.default_rng(seed), QdqModel(activations)
    zero = {"int8": -5, "uint8": 120}[np.dtype(activations).name]
    x = m.quantized("x", 0.03, zero)
    y = m.node("Relu", m.learned("Conv", x, rng.normal(size=(12, 6, 3, 3)), rng.normal(size=12), 0.03, pads=[1, 1, 1, 1]))
    y = m.quantized(y, 0.1, zero)
    y = m.quantized(m.node("MaxPool", y, kernel_shape=[3, 3], strides=[2, 2], pads=[1, 1, 1, 1]), 0.1, zero)
    z = m.quantized(m.learned("Conv", y, rng.normal(size=(12, 12, 3, 3)), None, 0.1, pads=[1, 1, 1, 1]), 0.3, zero + 3)
    y = m.quantized(m.node("Relu", m.node("Add", z, y)), 0.33, zero)
    y = m.quantized(m.node("GlobalAveragePool", y), 0.05, zero)
    y = m.quantized(m.learned("Gemm", m.node("Flatten", y), rng.normal(size=(10, 12)), rng.normal(size=10), 0.05, transB=1), 0.1, zero)
    return m.save(path, (2, 6, 10, 9), y, (2, 10))


def mobilenet(path, activations=np.int8, seed=0, channels=8, size=9):
    """Expand, depthwise, project with ReLU6, add; then average and max pooling side by side, one of them twice, concatenated."""
    rng, m = np.random.default_rng(seed), QdqModel(activations)
    low, zero = {"int8": (-128, -10), "uint8": (0, 118)}[np.dtype(activations).name]
    wide = 3 * channels

    def relu6(value):
        return m.quantized(m.node("Clip", value, m.constant(np.float32(0)), m.constant(np.float32(6))), 6 / 255, low)

    x = m.quantized("x", 0.02, zero)
    y = relu6(m.learned("Conv", x, rng.normal(size=(wide, channels, 1, 1)), rng.normal(size=wide), 0.02))
    y = relu6(m.learned("Conv", y, rng.normal(size=(wide, 1, 3, 3)), None, 6 / 255, group=wide, pads=[1, 1, 1, 1]))
    y = m.quantized(m.learned("Conv", y, rng.normal(size=(channels, wide, 1, 1)) / 5, None, 6 / 255), 0.05, zero)
    y = m.quantized(m.node("Add", x, y), 0.06, zero)
    pooled = [m.quantized(m.node(kind, y, kernel_shape=[2, 2], strides=[2, 2]), 0.06, zero) for kind in ("AveragePool", "MaxPool")]
    y = m.quantized(m.node("Concat", *pooled, pooled[0], axis=1), 0.06, zero)
    y = m.quantized(m.learned("Conv", y, rng.normal(size=(channels, wide, 1, 1)) / 5, None, 0.06), 0.05, zero)
    return m.save(path, (2, channels, size, size), y, (2, channels, size // 2, size // 2))


def attention(path, seed=0, heads=2, depth=8, tokens=6, activations=np.int8, zero=0, softmax=(1 / 127, 0)):
    """One attention block over two sequences with softmax, which only the host runs, and a residual. `zero` is the zero point of most tensors, the value
    and the output have others unless it is 0; `softmax` are the numbers of that."""
    rng, m, width = np.random.default_rng(seed), QdqModel(activations), heads * depth
    x, other = m.quantized("x", 0.02, zero), zero + 9 if zero else 0

    def linear(value, scale, zero=zero):
        product = m.learned("MatMul", value, rng.normal(size=(width, width)) / 4, None, 0.02, axis=1)
        return m.quantized(m.node("Add", m.constant((rng.normal(size=width) / 10).astype(np.float32)), product), scale, zero)

    def split(value, order):
        return m.node("Transpose", m.node("Reshape", value, m.constant(np.array([0, 0, heads, depth]))), perm=order)

    q, k, v = split(linear(x, 0.03), [0, 2, 1, 3]), split(linear(x, 0.03), [0, 2, 3, 1]), split(linear(x, 0.03, other), [0, 2, 1, 3])
    scores = m.quantized(m.node("Div", m.node("MatMul", q, k), m.constant(np.float32(np.sqrt(depth)))), 0.05, zero)
    y = m.quantized(m.node("MatMul", m.quantized(m.node("Softmax", scores, axis=-1), *softmax), v), 0.03, zero)
    y = m.node("Reshape", m.node("Transpose", y, perm=[0, 2, 1, 3]), m.constant(np.array([0, 0, width])))
    y = m.quantized(m.node("Add", linear(y, 0.03), x), 0.03, zero + 3)
    return m.save(path, (2, tokens, width), y, (2, tokens, width))


def runtime_values(path, graph: Graph, x: np.ndarray) -> tuple[dict[str, np.ndarray], np.ndarray]:
    """(every quantized tensor's integers as the graph counts them, the model's output) by ONNX Runtime, nothing fused."""
    model = shape_inference.infer_shapes(onnx.load(str(path)))
    types = {value.name: value.type for value in model.graph.value_info}
    names = [name for name in graph.values if name in types]
    for name in names:
        model.graph.output.append(helper.make_value_info(name, types[name]))
    options = onnxruntime.SessionOptions()
    options.graph_optimization_level = onnxruntime.GraphOptimizationLevel.ORT_DISABLE_ALL
    options.log_severity_level = 3
    session = onnxruntime.InferenceSession(model.SerializeToString(), options)
    output, *found = session.run(None, {session.get_inputs()[0].name: x})
    values = {}
    for name, array in zip(names, found, strict=True):
        v = graph.values[name]
        tensor = graph.tensors[v.tensor]
        values[v.tensor] = v.tensor_values(array.astype(np.int64) - tensor.offset, (graph.batch, *tensor.shape))
    return values, output
