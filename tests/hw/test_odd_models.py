"""ONNX models as exporters and people write them: each runs as in ONNX Runtime, or is refused with one line that says where and why."""

import numpy as np
import onnx
import onnxruntime
import pytest
from onnx import TensorProto, helper

from hw.errors import ConfigError
from hw.examples.qdq import QdqModel
from hw.onnx_import import import_onnx

RNG = np.random.default_rng(5)
STEP = 0.1
"""Scale of every output."""


class OddModel(QdqModel):
    """A QDQ model, and the pieces of which odd ones are made. Its one input is `x`."""

    shape: tuple[int, ...] = (2, 4, 6, 6)
    kind = TensorProto.FLOAT
    rank = 4
    """Axes of the output."""

    def real(self, integers, scale, *zero_point, **attributes):
        """Constant integers, or those of a value, as real numbers."""
        source = integers if isinstance(integers, str) else self.constant(integers)
        return self.node("DequantizeLinear", source, self.constant(np.float32(scale)), *map(self.constant, zero_point), **attributes)

    def entry(self, scale=0.05, zero_point=2):
        return self.quantized("x", scale, zero_point)

    def integers(self):
        """The input quantized, and the names of its scale and zero point."""
        numbers = self.constant(np.float32(0.05)), self.constant(self.activations(2))
        return self.node("QuantizeLinear", "x", *numbers), numbers

    def many(self, operator, inputs, outputs, **attributes):
        """A node of several outputs, or of no inputs; gives the first output."""
        self.nodes.append(helper.make_node(operator, inputs, outputs, name=f"{operator}_{len(self.nodes)}", **attributes))
        return outputs[0]

    def saved(self, path, output):
        entry = helper.make_tensor_value_info("x", self.kind, self.shape)
        leave = helper.make_tensor_value_info(output, TensorProto.FLOAT, [f"axis{i}" for i in range(self.rank)])
        graph = helper.make_graph(self.nodes, "odd", [entry], [leave], self.constants)
        onnx.save(helper.make_model(graph, opset_imports=[helper.make_opsetid("", 21)], ir_version=10), str(path))
        return path


def learned(*shape):
    return RNG.integers(-127, 128, shape).astype(np.int8)


# Models that run


def unsigned_weights(m):
    return m.node("Conv", m.entry(), m.real(RNG.integers(0, 256, (6, 4, 3, 3)).astype(np.uint8), 0.01, np.uint8(128)))


def weights_of_four_bits(m):
    m.constants.append(helper.make_tensor("w", TensorProto.INT4, [6, 4, 1, 1], RNG.integers(-7, 8, 24).tolist()))
    return m.node("Conv", m.entry(), m.real("w", 0.1))


def unsigned_weights_of_four_bits(m):
    m.constants.append(helper.make_tensor("w", TensorProto.UINT4, [6, 4, 1, 1], RNG.integers(0, 16, 24).tolist()))
    m.constants.append(helper.make_tensor("middle", TensorProto.UINT4, [], [8]))
    return m.node("Conv", m.entry(), m.node("DequantizeLinear", "w", m.constant(np.float32(0.1)), "middle"))


def one_scale_with_an_axis_of_its_own(m):
    x = m.quantized("x", [0.05], [3])
    return m.node("Conv", x, m.real(learned(6, 4, 1, 1), 0.01, np.int8(0)), m.constant(RNG.normal(size=6).astype(np.float32)))


def everything_uneven(m):
    w = m.real(learned(6, 2, 3, 2), np.linspace(0.01, 0.03, 6), axis=0)
    return m.node("Relu", m.node("Conv", m.entry(), w, group=2, dilations=[2, 2], pads=[2, 1, 0, 3], strides=[2, 1]))


def one_initializer_for_two_layers(m):
    w, scale = m.constant(learned(4, 4, 3, 3)), 0.002
    y = m.quantized(m.node("Conv", m.entry(), m.real(w, scale), pads=[1, 1, 1, 1]), 0.1)
    return m.node("Conv", y, m.real(w, scale), pads=[1, 1, 1, 1])


def one_weight_for_two_layers(m):
    w = m.real(learned(4, 4, 1, 1), 0.01)
    return m.node("Conv", m.quantized(m.node("Conv", m.entry(), w), 0.1), w)


def an_input_quantized_twice(m):
    return m.node("Add", m.entry(), m.entry())


def zero_points_left_out(m):
    """The type of the integers is then said by `output_dtype`, and by the tensor that is read."""
    scale = m.constant(np.float32(0.05))
    x = m.node("DequantizeLinear", m.node("QuantizeLinear", "x", scale, output_dtype=TensorProto.INT8), scale)
    return m.node("Conv", x, m.real(learned(6, 4, 1, 1), 0.01))


def unsigned_without_zero_points(m):
    scale = m.constant(np.float32(0.05))
    x = m.node("DequantizeLinear", m.node("QuantizeLinear", "x", scale), scale)
    return m.node("Conv", x, m.real(learned(6, 4, 1, 1), 0.01))


def an_input_of_integers(m):
    m.kind = TensorProto.INT8
    return m.node("Conv", m.real("x", 0.05), m.real(learned(6, 4, 1, 1), 0.01))


def constants_of_all_forms(m):
    low, shape = m.many("Constant", [], ["low"], value_float=-0.5), m.many("Constant", [], ["shape"], value_ints=[2, 4, 3, 12])
    return m.node("Reshape", m.node("Clip", m.node("Conv", m.entry(), m.real(learned(4, 4, 1, 1), 0.01)), low), shape)


def clips_without_common_values(m):
    below = m.node("Clip", m.entry(), m.constant(np.float32(-3)), m.constant(np.float32(-1)))
    return m.node("Clip", m.node("Relu", below), m.constant(np.float32(1)), m.constant(np.float32(2)))


def a_clip_upside_down(m):
    return m.node("Clip", m.entry(), m.constant(np.float32(2)), m.constant(np.float32(-1)))


def clips_behind_a_factor(m):
    y = m.node("Div", m.node("Clip", m.entry(), m.constant(np.float32(-2)), m.constant(np.float32(3))), m.constant(np.float32(4)))
    return m.node("Clip", y, "", m.constant(np.float32(0.6)))


def flattened_behind_the_last_axis(m):
    m.rank = 2
    return m.node("Flatten", m.entry(), axis=4)


def flattened_from_behind(m):
    m.rank = 2
    return m.node("Gemm", m.node("Flatten", m.entry(), axis=-3), m.real(learned(144, 5), 0.002))


def reshaped_by_zero_and_minus_one(m):
    m.rank = 2
    return m.node("Gemm", m.node("Reshape", m.entry(), m.constant(np.array([0, -1]))), m.real(learned(144, 5), 0.002))


def a_bias_for_all(m):
    m.shape, m.rank = (3, 6), 2
    return m.node("Gemm", m.entry(), m.real(learned(6, 3), 0.01), m.constant(np.float32(1.5)))


def a_bias_of_one_row(m):
    m.shape, m.rank = (3, 6), 2
    return m.node("Gemm", m.entry(), m.real(learned(6, 3), 0.01), m.constant(RNG.normal(size=(1, 3)).astype(np.float32)))


def weights_turned(m):
    m.shape, m.rank = (3, 6), 2
    return m.node("Gemm", m.entry(), m.node("Transpose", m.real(learned(5, 6), np.linspace(0.01, 0.05, 5), axis=0), perm=[1, 0]))


def turned_twice(m):
    m.shape, m.rank = (3, 6), 2
    return m.node("Gemm", m.entry(), m.node("Transpose", m.real(learned(6, 5), 0.01), perm=[1, 0]), transB=1)


def concatenated_from_behind(m):
    x = m.entry()
    return m.node("Concat", x, m.quantized(m.node("Relu", x), 0.03, -128), axis=-3)


def unused_indices(m):
    return m.many("MaxPool", [m.entry()], ["largest", "indices"], kernel_shape=[2, 2])


def nothing_done(m):
    return m.node("Dropout", m.node("Identity", m.node("Conv", m.entry(), m.real(learned(4, 4, 1, 1), 0.01))))


RUNS = (
    unsigned_weights, weights_of_four_bits, unsigned_weights_of_four_bits, one_scale_with_an_axis_of_its_own, everything_uneven,
    one_initializer_for_two_layers, one_weight_for_two_layers, an_input_quantized_twice, zero_points_left_out, unsigned_without_zero_points,
    an_input_of_integers, constants_of_all_forms, clips_without_common_values, a_clip_upside_down,
    clips_behind_a_factor, flattened_behind_the_last_axis, flattened_from_behind, reshaped_by_zero_and_minus_one, a_bias_for_all,
    a_bias_of_one_row, weights_turned, turned_twice, concatenated_from_behind, unused_indices, nothing_done,
)  # fmt: skip


@pytest.mark.parametrize("named", [True, False])
@pytest.mark.parametrize("build", RUNS, ids=lambda build: build.__name__)
def test_odd_models_are_onnx_runtimes(build, named, tmp_path):
    """Within one step of the output; without the names of the nodes too."""
    m = OddModel()
    path = m.saved(tmp_path / "odd.onnx", m.quantized(build(m), STEP))
    if not named:
        model = onnx.load(str(path))
        for node in model.graph.node:
            node.name = ""
        onnx.save(model, str(path))
    rng = np.random.default_rng(1)
    integers = m.kind != TensorProto.FLOAT
    x = rng.integers(-128, 128, m.shape).astype(np.int8) if integers else rng.normal(scale=2, size=m.shape).astype(np.float32)
    graph = import_onnx(path)
    (entry,), (leave,) = graph.input_ports, graph.output_ports
    source, target = graph.tensors[entry.view.tensor], graph.tensors[leave.view.tensor]
    ours = leave.leave(graph.run({source.name: entry.enter(x, source, graph.batch)})[target.name], target)
    options = onnxruntime.SessionOptions()
    options.graph_optimization_level = onnxruntime.GraphOptimizationLevel.ORT_DISABLE_ALL
    (theirs,) = onnxruntime.InferenceSession(str(path), options, providers=["CPUExecutionProvider"]).run(None, {"x": x})
    assert ours.shape == theirs.shape
    steps = np.abs(ours - theirs) / STEP
    assert steps.max() < 1.01 and (steps > 0.5).mean() < 0.1


# Models that are refused


def scales_along_the_inputs(m):
    """DequantizeLinear's axis is 1 unless it says otherwise."""
    return m.node("Conv", m.entry(), m.real(learned(4, 4, 1, 1), np.linspace(0.001, 0.02, 4)))


def too_few_scales(m):
    return m.node("Conv", m.entry(), m.real(learned(6, 4, 1, 1), np.full(4, 0.01), axis=0))


def a_dead_channel(m):
    return m.node("Conv", m.entry(), m.real(learned(3, 4, 1, 1), [0.01, 0, 0.01], axis=0))


def weights_of_32_bits(m):
    return m.node("Conv", m.entry(), m.real(RNG.integers(-(10**6), 10**6, (6, 4, 1, 1)).astype(np.int32), 1e-6))


def weights_in_blocks(m):
    m.shape, m.rank = (2, 8), 2
    return m.node("MatMul", m.entry(), m.real(learned(8, 3), np.full((2, 3), 0.01), axis=0, block_size=4))


def weights_with_other_inputs(m):
    return m.node("Conv", m.entry(), m.real(learned(6, 3, 1, 1), 0.01))


def a_scale_of_nothing(m):
    return m.node("Relu", m.entry(0.0))


def a_scale_that_is_no_number(m):
    return m.node("Relu", m.entry(np.nan))


def a_scale_for_each_channel(m):
    numbers = m.constant(np.full(4, 0.05, np.float32)), m.constant(np.zeros(4, np.int8))
    return m.node("Relu", m.node("DequantizeLinear", m.node("QuantizeLinear", "x", *numbers), *numbers))


def a_product_beyond_the_multiplier(m):
    return m.node("Conv", m.entry(), m.real(learned(6, 4, 1, 1), 1e-30))


def an_input_quantized_in_two_ways(m):
    return m.node("Add", m.entry(), m.entry(0.07))


def a_bias_for_each_vector(m):
    m.shape, m.rank = (3, 6), 2
    return m.node("Gemm", m.entry(), m.real(learned(6, 3), 0.01), m.constant(RNG.normal(size=(3, 1)).astype(np.float32)))


def a_bias_behind_the_host(m):
    m.shape, m.rank = (2, 3, 6), 3
    return m.node("Add", m.node("MatMul", m.node("Sigmoid", m.entry()), m.real(learned(6, 3), 0.01)), m.constant(np.ones(3, np.float32)))


def a_split_of_integers(m):
    x, numbers = m.integers()
    m.many("Split", [x], ["first", "second"], axis=1, num_outputs=2)
    return m.node("Add", m.node("DequantizeLinear", "first", *numbers), m.node("DequantizeLinear", "second", *numbers))


def a_split(m):
    m.many("Split", [m.entry()], ["first", "second"], axis=1, num_outputs=2)
    return m.node("Add", m.quantized("first", 0.1), m.quantized("second", 0.1))


def integers_of_two_scales_together(m):
    x, numbers = m.integers()
    other = m.node("QuantizeLinear", m.node("Relu", m.node("DequantizeLinear", x, *numbers)), m.constant(np.float32(0.1)), m.constant(np.int8(1)))
    return m.node("DequantizeLinear", m.node("Concat", x, other, axis=1), *numbers)


def integers_and_a_constant_together(m):
    x, numbers = m.integers()
    return m.node("DequantizeLinear", m.node("Concat", x, m.constant(learned(2, 3, 6, 6)), axis=1), *numbers)


def images_as_one_vector(m):
    m.rank = 2
    return m.node("Gemm", m.node("Reshape", m.entry(), m.constant(np.array([1, -1]))), m.real(learned(288, 5), 0.002))


def channels_shuffled(m):
    y = m.node("Transpose", m.node("Reshape", m.entry(), m.constant(np.array([2, 2, 2, 6, 6]))), perm=[0, 2, 1, 3, 4])
    return m.node("Conv", m.node("Reshape", y, m.constant(np.array([2, 4, 6, 6]))), m.real(learned(4, 4, 1, 1), 0.01))


def one_head_for_two(m):
    m.shape = (1, 5, 8)
    x = m.entry()
    heads = m.node("Transpose", m.node("Reshape", x, m.constant(np.array([1, 5, 2, 4]))), perm=[0, 2, 1, 3])
    keys = m.quantized(m.node("MatMul", x, m.real(learned(8, 4), 0.01)), 0.1)
    return m.node("MatMul", heads, m.node("Transpose", m.node("Unsqueeze", keys, m.constant(np.array([1]))), perm=[0, 1, 3, 2]))


def a_convolution_along_a_line(m):
    m.shape, m.rank = (2, 4, 6), 3
    return m.node("Conv", m.entry(), m.real(learned(6, 4, 3), 0.01))


def a_limit_that_is_computed(m):
    x = m.entry()
    return m.node("Clip", x, "", m.node("ReduceMax", x, keepdims=0))


REFUSED = {
    scales_along_the_inputs: r"weights must have one scale, or one for each of 4 outputs, not 4 along axis 1 \(node Conv_3, Conv\)",
    too_few_scales: r"weights must have one scale, or one for each of 6 outputs, not 4 along axis 0 \(node Conv_3, Conv\)",
    a_dead_channel: r"scales of weights must be positive, not 0.0 \(node Conv_3, Conv\)",
    weights_of_32_bits: r"weights must have at most 16 bits, not a value of \d+ \(Conv_3\)",
    weights_in_blocks: r"weights must have one scale a channel, not \(2, 3\) \(node DequantizeLinear_2",
    weights_with_other_inputs: r"weights must be of shape \(6, 4, 1, 1\), not \(6, 3, 1, 1\) \(Conv_3\)",
    a_scale_of_nothing: r"scale must be positive and finite, not 0.0 \(node QuantizeLinear_0",
    a_scale_that_is_no_number: r"scale must be positive and finite, not nan \(node QuantizeLinear_0",
    a_scale_for_each_channel: r"activations must have one scale, not 4 \(node QuantizeLinear_0",
    a_product_beyond_the_multiplier: r"scale must be 2\^-48 to 2\^16, not 5e-31 to 5e-31 \(Conv_3\)",
    an_input_quantized_in_two_ways: r"input x must be quantized with one scale and zero point, not with others too \(node QuantizeLinear_2",
    a_bias_for_each_vector: r"bias must be one value, or one for each of 3 outputs, not of shape \(3, 1\) \(Gemm_3\)",
    a_bias_behind_the_host: r"operator must be one that the accelerator runs .*, not Sigmoid \(node Sigmoid_2, Sigmoid\); give --host",
    a_split_of_integers: r"Split must stand between DequantizeLinear and QuantizeLinear, not on integers \(node Split_1, Split\)",
    a_split: r"operator must be one that the accelerator runs .*, not Split \(node Split_2, Split\); give --host",
    integers_of_two_scales_together: r"Concat of integers must be of tensors with one scale and zero point \(node Concat_4, Concat\)",
    integers_and_a_constant_together: r"Concat of integers must be of tensors with one scale and zero point \(node Concat_1, Concat\)",
    images_as_one_vector: r"inputs of a matrix must be the channels of vectors, or whole images, not axes \('', 'nchw'\) \(node Gemm_4, Gemm\)",
    channels_shuffled: r"input must be images .*, not axes \('n', 'cc', 'h', 'w'\) \(node Conv_6, Conv\)",
    one_head_for_two: r"operands must have the same batch and heads, not \(1, 2\) and \(1, 1\) \(node MatMul_\d+, MatMul\)",
    a_convolution_along_a_line: r"input must be images .*, not axes \('n', 'h', 'c'\) \(node Conv_3, Conv\)",
    a_limit_that_is_computed: r"limit must be a constant \(node Clip_3, Clip\)",
}  # fmt: skip


@pytest.mark.parametrize("build", REFUSED, ids=lambda build: build.__name__)
def test_what_odd_models_ask_too_much_is_named(build, tmp_path):
    m = OddModel()
    path = m.saved(tmp_path / "odd.onnx", m.quantized(build(m), STEP))
    with pytest.raises(ConfigError, match=REFUSED[build]) as error:
        import_onnx(path)
    assert "\n" not in str(error.value)
