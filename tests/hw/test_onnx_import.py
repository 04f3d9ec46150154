"""Import of ONNX models: the QLinear form, attributes of windows, views, and what is refused and how it is named."""

import numpy as np
import onnx
import onnxruntime
import pytest
from hypothesis import assume, given, settings
from hypothesis import strategies as st
from onnx import TensorProto, helper, numpy_helper

from hw.errors import ConfigError
from hw.examples.qdq import QdqModel
from hw.golden import run_layer
from hw.onnx_import import import_onnx
from hw.onnx_layers import window_sizes
from hw.onnx_values import Values
from hw.onnx_views import view


def run_both(path, x):
    """(ours, ONNX Runtime's) output of a model."""
    graph = import_onnx(path)
    entry, leave = graph.input_ports[0], graph.output_ports[0]
    source, target = graph.tensors[entry.view.tensor], graph.tensors[leave.view.tensor]
    values = graph.run({source.name: entry.enter(x, source, graph.batch)})
    session = onnxruntime.InferenceSession(str(path), providers=["CPUExecutionProvider"])
    return leave.leave(values[target.name], target), session.run(None, {session.get_inputs()[0].name: x})[0]


@pytest.mark.parametrize("kind", [np.int8, np.uint8])
def test_the_qlinear_form_is_onnx_runtimes(kind, tmp_path):
    """QLinearConv with biases and zero points, max pooling of integers, QLinearAdd, QLinearGlobalAveragePool, QGemm: within two steps at the end."""
    rng, nodes, constants = np.random.default_rng(2), [], []
    middle = 3 if kind is np.int8 else 130

    def constant(array):
        constants.append(numpy_helper.from_array(np.asarray(array), f"c{len(constants)}"))
        return constants[-1].name

    def numbers(scale, zero_point=middle):
        return constant(np.float32(scale)), constant(kind(zero_point))

    def node(operator, *inputs, domain="", **attributes):
        nodes.append(helper.make_node(operator, inputs, [f"v{len(nodes)}"], name=f"{operator}_{len(nodes)}", domain=domain, **attributes))
        return nodes[-1].output[0]

    def conv(x, at, to, shape, **attributes):
        scales = rng.uniform(0.01, 0.02, shape[0]).astype(np.float32)
        w = constant(rng.integers(-127, 128, shape).astype(np.int8)), constant(scales), constant(np.zeros(shape[0], np.int8))
        return node("QLinearConv", x, *at, *w, *to, constant(rng.integers(-2000, 2000, shape[0]).astype(np.int32)), **attributes)

    first, second = numbers(0.05), numbers(0.2, middle + 4)
    x = node("QuantizeLinear", "x", *first)
    y = conv(x, first, second, (8, 5, 3, 3), pads=[0, 1, 1, 0], strides=[2, 1])
    y = node("MaxPool", y, kernel_shape=[2, 2], ceil_mode=1, strides=[2, 2])
    third, fourth = numbers(0.25), numbers(0.4)
    z = conv(y, second, third, (8, 4, 3, 3), group=2, auto_pad="SAME_UPPER")
    y = node("QLinearAdd", z, *third, y, *second, *fourth, domain="com.microsoft")
    fifth, sixth = numbers(0.1), numbers(0.1)
    y = node("QLinearGlobalAveragePool", y, *fourth, *fifth, domain="com.microsoft")
    y = node("Flatten", y)
    w = constant(rng.integers(-127, 128, (6, 8)).astype(np.int8)), constant(np.float32(0.01)), constant(np.int8(0))
    y = node("QGemm", y, *fifth, *w, constant(rng.integers(-200, 200, 6).astype(np.int32)), *sixth, domain="com.microsoft", transB=1)
    y = node("DequantizeLinear", y, *sixth)
    ports = [helper.make_tensor_value_info(name, TensorProto.FLOAT, size) for name, size in (("x", [2, 5, 12, 11]), (y, [2, 6]))]
    graph = helper.make_graph(nodes, "g", ports[:1], ports[1:], constants)
    path = tmp_path / "qlinear.onnx"
    onnx.save(helper.make_model(graph, opset_imports=[helper.make_opsetid("", 13), helper.make_opsetid("com.microsoft", 1)], ir_version=9), str(path))
    ours, theirs = run_both(path, rng.normal(size=(2, 5, 12, 11)).astype(np.float32))
    assert ours.shape == theirs.shape and np.abs(ours - theirs).max() <= 0.201 and np.ptp(theirs) > 3


@settings(max_examples=60, derandomize=True, deadline=None, database=None)
@given(data=st.data())
def test_windows_have_onnx_runtimes_sizes(data):
    """Padding, strides, dilation, ceil_mode, auto_pad: output sizes are ONNX Runtime's."""
    given_, size = {}, (data.draw(st.integers(3, 12)), data.draw(st.integers(3, 12)))
    kernel = (data.draw(st.integers(1, 3)), data.draw(st.integers(1, 3)))
    given_["strides"] = [data.draw(st.integers(1, 3)), data.draw(st.integers(1, 3))]
    way = data.draw(st.sampled_from(["pads", "SAME_UPPER", "SAME_LOWER", "VALID"]))
    if way == "pads":
        given_ |= {"pads": [data.draw(st.integers(0, kernel[i % 2] - 1)) for i in range(4)], "ceil_mode": data.draw(st.integers(0, 1))}
    else:
        assume(all(stride <= k for stride, k in zip(given_["strides"], kernel, strict=True)))  # ONNX Runtime refuses others
        given_["auto_pad"] = way
    node = helper.make_node("MaxPool", ["x"], ["y"], kernel_shape=kernel, **given_)
    x, y = (helper.make_tensor_value_info(name, TensorProto.FLOAT, sizes) for name, sizes in (("x", [1, 1, *size]), ("y", ["n", "c", "h", "w"])))
    model = helper.make_model(helper.make_graph([node], "g", [x], [y]), opset_imports=[helper.make_opsetid("", 19)], ir_version=9)
    options = onnxruntime.SessionOptions()
    options.log_severity_level = 4
    options.intra_op_num_threads = options.inter_op_num_threads = 1
    session = onnxruntime.InferenceSession(model.SerializeToString(), options, providers=["CPUExecutionProvider"])
    expected = session.run(None, {"x": np.zeros((1, 1, *size), np.float32)})[0].shape[2:]
    s = window_sizes({**given_, **({"auto_pad": way.encode()} if way != "pads" else {})}, *size, kernel, "here")
    sides = (("h", "top", "bottom"), ("w", "left", "right"))
    assert tuple((s[f"in_{a}"] + s[f"pad_{b}"] + s[f"pad_{c}"] - s[f"kernel_{a}"]) // s[f"stride_{a}"] + 1 for a, b, c in sides) == expected


def test_reshapes_and_transposes_only_rename():
    x = np.arange(2 * 12 * 5).reshape(2, 12, 5, 1)
    sequence = view("t", (2, 5, 12), "nhc")
    heads = sequence.reshape((2, 5, 3, 4), "here").transpose((0, 2, 1, 3))
    expected = x[..., 0].transpose(0, 2, 1).reshape(2, 5, 3, 4).transpose(0, 2, 1, 3)
    np.testing.assert_array_equal(heads.array(x), expected)
    np.testing.assert_array_equal(heads.tensor_values(expected, x.shape), x)
    assert heads.transpose((0, 2, 1, 3)).reshape((2, 5, 12), "here") == sequence
    with pytest.raises(ConfigError, match=r"reshape must split and join whole axes, not make \(2, 15, 4\) of .* \(here\)"):
        view("t", (2, 6, 10), "nhc").reshape((2, 15, 4), "here")


def simple(tmp_path, edit, shape=(1, 4, 6, 6), host=False):
    """Import a model that `edit(model, quantized input)` ends."""
    m = QdqModel()
    y = edit(m, m.quantized("x", 0.05, 2))
    return import_onnx(m.save(tmp_path / "m.onnx", shape, m.quantized(y, 0.1, 0), ["n"] * len(shape)), host=host)


def weights(*shape):
    return np.random.default_rng(0).normal(size=shape)


REFUSED = {
    "operator must be one that the accelerator runs.*, not Softmax .node Softmax_.*, Softmax.; give --host": lambda m, x: m.node("Softmax", x),
    "not Sigmoid .node Sigmoid_": lambda m, x: m.node("Mul", x, m.node("Sigmoid", x)),
    "average pooling must count padding .*node AveragePool_": lambda m, x: m.node("AveragePool", x, kernel_shape=[3, 3], pads=[1, 1, 1, 1]),
    "dilation must be the same in both directions, not .1, 2.": lambda m, x: m.node("MaxPool", x, kernel_shape=[3, 3], dilations=[1, 2]),
    "operands of Add must have the same shape": lambda m, x: m.node("Add", x, m.quantized(m.node("GlobalAveragePool", x), 0.1)),
    "first operand must be .batch, heads, vectors, channels., not axes": lambda m, x: m.node("MatMul", x, m.node("Transpose", x, perm=[0, 1, 3, 2])),
    "concat must be of whole tensors along their channels, not along axis 2": lambda m, x: m.node("Concat", x, x, axis=2),
    "shape or axes must be a constant": lambda m, x: m.node("Reshape", x, m.node("Shape", x)),
}  # fmt: skip


@pytest.mark.parametrize("message", REFUSED)
def test_what_cannot_be_run_is_named(message, tmp_path):
    with pytest.raises(ConfigError, match=message) as error:
        simple(tmp_path, REFUSED[message])
    assert "\n" not in str(error.value)


@pytest.mark.parametrize("zero_point", [0, 128, 131, 255])
def test_products_of_activations_are_onnx_runtimes_with_any_zero_point(zero_point, tmp_path):
    """Both operands are the same tensor here, all of its 256 values in it; nothing but the product itself is computed."""
    m = QdqModel(np.uint8)
    x = m.quantized("x", 0.05, zero_point)
    y = m.quantized(m.node("MatMul", x, m.node("Transpose", x, perm=[0, 2, 1])), 16.0, 128)
    path = m.save(tmp_path / "m.onnx", (1, 16, 16), y, (1, 16, 16))
    values = (np.random.default_rng(0).permutation(256).reshape(1, 16, 16) - zero_point) * np.float32(0.05)
    ours, theirs = run_both(path, values.astype(np.float32))
    assert np.abs(ours - theirs).max() <= 16.0 and (ours != theirs).mean() < 0.05 and np.ptp(theirs) > 100
    (shape,) = import_onnx(path).network("m", "here").layers  # what the exploration is given
    assert (shape.kind, shape.input_zero_point, shape.second_zero_point) == ("matmul", zero_point - 128, zero_point - 128)


def test_the_host_takes_what_the_accelerator_cannot_run(tmp_path):
    """A whole expression between quantized tensors is one step, with ONNX's own reference inside."""
    graph = simple(tmp_path, lambda m, x: m.node("Mul", x, m.node("Sigmoid", x)), host=True)
    (step,) = graph.host_steps
    assert step.operators == ("Sigmoid", "Mul") and not graph.layers
    x = np.arange(-72, 72).reshape(1, 4, 6, 6)
    real = (x - 2) * np.float32(0.05)
    np.testing.assert_allclose(step.run(x), np.rint(real / (1 + np.exp(-real)) / 0.1), atol=1)


def test_clips_factors_and_renamings_are_fused(tmp_path):
    def edit(m, x):
        y = m.learned("Conv", x, weights(6, 4, 1, 1), None, 0.05)
        y = m.node("Clip", y, m.constant(np.float32(-1)), m.constant(np.float32(2)))
        return m.node("Flatten", m.node("Mul", y, m.constant(np.float32(0.5))))

    graph = simple(tmp_path, edit)
    (step,) = graph.layers
    assert (step.layer.clip_low, step.layer.clip_high) == (-5, 10)  # -1 and 2, halved, in steps of 0.1
    assert graph.output_ports[0].view.shape == (1, 216)
    alone = simple(tmp_path, lambda m, x: m.node("Relu", x))
    assert [one.layer.shape.kind for one in alone.layers] == ["average_pool"] and alone.layers[0].layer.clip_low == 0
    x = np.arange(-72, 72).reshape(1, 4, 6, 6)
    np.testing.assert_array_equal(run_layer(alone.layers[0].layer, x), np.maximum(np.rint((x - 2) / 2), 0))


def test_models_that_are_not_quantized_or_not_static_say_what_to_do(tmp_path):
    m = QdqModel()
    with pytest.raises(ConfigError, match="model must be quantized, and has no QuantizeLinear .m.; quantize it, for example with onnxruntime.quantization"):
        import_onnx(m.save(tmp_path / "m.onnx", (1, 4), m.node("Relu", "x"), (1, 4)))
    with pytest.raises(ConfigError, match="input x must have a static shape, which it has not"):
        simple(tmp_path, lambda m, x: m.node("Relu", x), shape=("batch", 4, 6, 6))
    with pytest.raises(ConfigError, match="network must be an ONNX file, and there is none"):
        import_onnx(tmp_path / "nothing.onnx")
    (tmp_path / "broken.onnx").write_bytes(b"no model")
    with pytest.raises(ConfigError, match="network must be a valid ONNX model"):
        import_onnx(tmp_path / "broken.onnx")


def test_axes_must_be_an_input_as_in_newer_operator_sets():
    values = Values(helper.make_model(helper.make_graph([], "empty", [], [])), "old.onnx")
    node = helper.make_node("Unsqueeze", ["x"], ["y"], name="wider", axes=[2])
    with pytest.raises(ConfigError, match=r"Unsqueeze must be given its shape or axes \(node wider, Unsqueeze\)"):
        values.renamed(view("x", (2, 6), "nc"), node)


def test_weights_must_be_symmetric(tmp_path):
    def edit(m, x):
        numbers = m.constant(np.float32(0.01)), m.constant(np.uint8(120))
        return m.node("Conv", x, m.node("DequantizeLinear", m.constant(np.full((3, 4, 1, 1), 130, np.uint8)), *numbers))

    with pytest.raises(ConfigError, match="weights must have zero point 0, not -8 .node DequantizeLinear.*; quantize weights symmetrically"):
        simple(tmp_path, edit)
