"""Programs compute what the golden model does, under every order of the engines, and move what the tiling formulas say."""

from collections import Counter

import numpy as np
import pytest
from hypothesis import HealthCheck, assume, given, settings
from hypothesis import strategies as st
from isa_interpreter import Fault, Machine, run_program
from strategies import channel_windows, configurations, layers, operators_on_configurations, tilings

from hw.compiler import compile_layer, compile_network
from hw.config import load_design
from hw.errors import ConfigError
from hw.golden import DATA_KINDS, activations, random_layer, run_layer, value_range
from hw.isa import Opcode
from hw.layers import LayerShape
from hw.lowering import lower
from hw.tiling import SPATIAL_OUTER, WEIGHTS_OUTER, Tiling, Traffic, architecture, measure

PROPERTY = {"derandomize": True, "deadline": None, "database": None, "suppress_health_check": list(HealthCheck)}
COUNTED = {
    "activation_read_bytes": "activation_bytes", "weight_read_bytes": "weight_bytes", "parameter_read_bytes": "parameter_bytes",
    "output_write_bytes": "output_bytes", "activation_load_words": "activation_words", "weight_load_words": "weight_words",
    "parameter_load_words": "parameter_words", "output_store_words": "output_words",
}  # fmt: skip
"""Field of Traffic -> event of the interpreter, where the names differ."""
NOT_COUNTED = ("problem", "program_read_bytes", "parameter_runs", "instructions", "output_tiles", "activation_loads", "weight_loads")


def quantized(shape, config, rng, kind="typical", zero_points=(0, 0)):
    return random_layer(shape, rng, config.precision.activation_bits, config.precision.weight_bits, kind, zero_points)


def draw_input(shape, config, batch, rng, kind="typical", zero_point=0):
    size = (batch, shape.in_channels) if shape.kind == "fc" and shape.in_h == 1 else (batch, shape.in_channels, shape.in_h, shape.in_w)
    return activations(size, config.precision.activation_bits, rng, kind, zero_point)


def draw_second(shape, config, batch, rng, zero_point):
    """The second operand of a layer that has one."""
    sizes = {"add": (shape.in_h, shape.in_w), "matmul": (shape.out_channels // shape.groups, 1)}.get(shape.kind)
    return sizes and activations((batch, shape.in_channels, *sizes), config.precision.activation_bits, rng, "uniform", zero_point)


def check_traffic(program, events):
    """The sum of `measure` over the layers is what the instructions did."""
    total = Traffic(*np.sum([measure(architecture(program.config), x.lowering.numbers, x.tiling) for x in program.layers], axis=0))
    for name, predicted in total._asdict().items():
        if name not in NOT_COUNTED:
            assert predicted == events[COUNTED.get(name, name)], name
    assert total.instructions + 1 == program.instructions == events["instructions"]
    assert total.program_read_bytes + 32 == program.program_bytes


def check_layer(data, config, shape, kinds=DATA_KINDS):
    """A layer with a drawn tiling, data and zero points computes what the golden model does and moves what the formulas say."""
    batch, seed = data.draw(st.integers(1, 3)), data.draw(st.integers(0, 2**16))
    kind, (low, high) = data.draw(st.sampled_from(kinds)), value_range(config.precision.activation_bits)
    zero_points = (data.draw(st.integers(low, high)), data.draw(st.integers(low, high)))
    rng = np.random.default_rng(seed)
    layer = quantized(shape, config, rng, kind, zero_points)
    tiling = data.draw(tilings(config, lower(config, shape, batch=batch, add_steps=layer.weights.shape[-1] or 1).numbers))
    x, second = draw_input(shape, config, batch, rng, kind, layer.input_zero_point), draw_second(shape, config, batch, rng, layer.second_zero_point)
    try:
        program = compile_layer(config, layer, batch=batch, tiling=tiling, fold_first=False)
    except ConfigError as error:  # 16-bit data with a large zero point
        assume("bias must fit" not in str(error))
        raise
    inputs = {shape.name: x} if second is None else {shape.name: x, f"{shape.name}.second": second}
    memory, events = run_program(program, inputs, seed)

    np.testing.assert_array_equal(program.output(memory), run_layer(layer, x, second))
    check_traffic(program, events)


@settings(max_examples=160, **PROPERTY)
@given(data=st.data())
def test_a_layer_computes_and_moves_what_is_predicted(data):
    check_layer(data, *data.draw(operators_on_configurations()))


@settings(max_examples=60, **PROPERTY)
@given(data=st.data())
def test_windows_of_single_channels_compute_and_move_what_is_predicted(data):
    """Designs that keep words and those that do not; values on both sides of the zero point, so that padding would show."""
    check_layer(data, data.draw(configurations(max_bank_words=256)), data.draw(channel_windows()), kinds=("uniform", "low"))


@settings(max_examples=30, **PROPERTY)
@given(data=st.data())
def test_a_network_computes_layer_after_layer(data):
    config = data.draw(configurations(max_bank_words=2048))
    batch, seed = data.draw(st.integers(1, 2)), data.draw(st.integers(0, 2**16))
    rng = np.random.default_rng(seed)
    first = data.draw(layers(name="first", max_size=10, max_channels=24))
    shapes = [first]
    if first.kind == "conv":
        kernel = min(3, first.out_h, first.out_w)
        shapes.append(
            LayerShape(name="second", kind="conv", in_channels=first.out_channels, out_channels=9, in_h=first.out_h, in_w=first.out_w,
                       kernel_h=kernel, kernel_w=kernel, pad_top=1, relu=True)
        )  # fmt: skip
    else:
        shapes.append(LayerShape(name="second", kind="fc", in_channels=first.out_channels, out_channels=9))
    shapes.append(LayerShape(name="apart", kind="fc", in_channels=30, out_channels=20))
    quantized_layers = [quantized(shape, config, rng, zero_points=points) for shape, points in zip(shapes, ((1, -2), (-2, 3), (0, 0)), strict=True)]
    try:
        program = compile_network(config, quantized_layers, batch=batch)
    except ConfigError as error:
        assume("bank" not in str(error))
        raise
    inputs = {"first": draw_input(first, config, batch, rng, zero_point=1), "apart": draw_input(shapes[2], config, batch, rng)}
    assert [x.has_own_input for x in program.layers] == [True, False, True]

    for shuffle in (False, True):
        memory, events = run_program(program, inputs, seed, shuffle)
        between = run_layer(quantized_layers[0], inputs["first"])
        np.testing.assert_array_equal(program.output(memory, "first"), between)
        np.testing.assert_array_equal(program.output(memory, "second"), run_layer(quantized_layers[1], between))
        np.testing.assert_array_equal(program.output(memory), run_layer(quantized_layers[2], inputs["apart"]))
        check_traffic(program, events)


def example(tiling=None, banks=None, **shape):
    """A small layer on the small design, with other sizes of banks if given: (program, input, expected output)."""
    config, rng = load_design("small"), np.random.default_rng(1)
    config = config.model_copy(update={"buffers": config.buffers.model_copy(update=banks or {})})
    sizes = {"in_channels": 8, "out_channels": 12, "in_h": 9, "in_w": 8, "kernel_h": 3, "kernel_w": 3, "pad_top": 1, "pad_left": 1} | shape
    layer = quantized(LayerShape(name="example", kind="conv", **sizes), config, rng, zero_points=(2, -1))
    x = draw_input(layer.shape, config, 1, rng, zero_point=2)
    return compile_layer(config, layer, tiling=tiling, fold_first=False), x, run_layer(layer, x)


@pytest.mark.parametrize("order", [WEIGHTS_OUTER, SPATIAL_OUTER])
def test_a_missing_wait_is_noticed(order):
    """Take away one wait after the other: nearly always something may now run too early, and the interpreter, whatever order it drew, says so.

    (The rest are waits of loads into places not used before.) So it would notice a wait that the compiler forgot.
    """
    program, x, _ = example(Tiling(order, 2, 3, 4, 2), banks={"activation_bank_bytes": 512, "weight_bank_bytes": 512}, out_channels=20)
    first = program.program_address - program.base_address
    writable = [(r.address, r.address + r.size_bytes) for r in program.regions.values() if r.write]
    races, waits = Counter(), 0
    for index in range(program.instructions):
        opcode, fields = program.instruction(index)
        for bit, name in enumerate(("wait_load", "wait_compute", "wait_store"), start=4):
            if fields[name]:
                waits += 1
                memory = program.memory({"example": x})
                memory[first + 32 * index] &= ~np.uint8(1 << bit)
                with pytest.raises(Fault) as fault:
                    Machine(program.config, memory, program.base_address, writable).run(memory[first : first + program.program_bytes].tobytes())
                races[opcode, name] += "may" in str(fault.value)
    assert set(races) == {(Opcode.LOAD, "wait_compute"), (Opcode.FILL, "wait_compute"), (Opcode.CONFIGURE, "wait_load"), (Opcode.COMPUTE, "wait_load"),
                          (Opcode.COMPUTE, "wait_store"), (Opcode.STORE, "wait_compute")}  # fmt: skip
    assert all(races.values()) and races.total() > 0.7 * waits


@pytest.mark.parametrize("batch", [1, 2, 3, 5, 16])
@pytest.mark.parametrize("lanes", [4, 8, 32])
def test_beats_of_batches_of_vectors(batch, lanes):
    """Rows of a vector's words may begin within a beat."""
    config, rng = load_design("large"), np.random.default_rng(batch)
    sizes = {"activation_bank_bytes": 1024 * lanes, "weight_bank_bytes": 1024 * lanes, "output_bank_bytes": 256 * lanes}
    array, buffers = config.array.model_copy(update={"lanes": lanes, "rows": 3}), config.buffers.model_copy(update=sizes)
    config = config.model_copy(update={"array": array, "buffers": buffers})
    layer = quantized(LayerShape(name="fc", kind="fc", in_channels=333, out_channels=70), config, rng)
    x = draw_input(layer.shape, config, batch, rng)
    program = compile_layer(config, layer, batch=batch)
    memory, events = run_program(program, {"fc": x})
    np.testing.assert_array_equal(program.output(memory), run_layer(layer, x))
    check_traffic(program, events)


@pytest.mark.parametrize("order", [WEIGHTS_OUTER, SPATIAL_OUTER])
@pytest.mark.parametrize("tile_k", [8, 16])
def test_parameters_of_two_tiles_take_turns(order, tile_k):
    """72 channels do not fit 32 parameters, two tiles of up to 16 do."""
    program, x, expected = example(Tiling(order, 3, 4, tile_k, 2), banks={"parameter_words": 32}, out_channels=72)
    memory, events = run_program(program, {"example": x})
    np.testing.assert_array_equal(program.output(memory), expected)
    check_traffic(program, events)
    with pytest.raises(ConfigError, match="tiling must fit the parameter banks"):
        example(Tiling(order, 3, 4, 20, 2), banks={"parameter_words": 32}, out_channels=72)


def test_the_first_layer_is_folded_where_that_is_faster():
    config, rng = load_design("medium"), np.random.default_rng(2)
    shape = LayerShape(name="conv1", kind="conv", in_channels=3, out_channels=16, in_h=23, in_w=19, kernel_h=5, kernel_w=7, stride_h=2, stride_w=3,
                       pad_top=2, pad_left=3, pad_right=1, relu=True)  # fmt: skip
    layer = quantized(shape, config, rng, zero_points=(-7, 4))
    x = draw_input(shape, config, 2, rng, zero_point=-7)
    program = compile_layer(config, layer, batch=2)
    assert program.layers[0].lowering.fold and program.layers[0].lowering.numbers.c_groups == 3  # 21 channels of 3 x 7
    memory, events = run_program(program, {"conv1": x})
    np.testing.assert_array_equal(program.output(memory), run_layer(layer, x))
    check_traffic(program, events)


def test_the_program_ends_with_end_and_layers_own_their_instructions():
    program, _, _ = example()
    assert program.instruction(program.instructions - 1)[0] is Opcode.END
    assert (program.layers[0].first_instruction, program.layers[0].instructions) == (0, program.instructions - 1)
    assert program.listing().count("\n") == program.instructions


def test_regions_do_not_overlap_and_only_outputs_are_written():
    program, _, _ = example()
    regions = sorted(program.regions.values(), key=lambda region: region.address)
    assert all(one.address + one.size_bytes <= two.address for one, two in zip(regions, regions[1:], strict=False))
    assert [region.name for region in regions if region.write] == ["example.output"]


def test_what_the_hardware_cannot_hold_is_refused():
    config, rng = load_design("small"), np.random.default_rng(3)
    shape = LayerShape(name="big", kind="fc", in_channels=8, out_channels=4)
    narrow = config.model_copy(update={"array": config.array.model_copy(update={"acc_bits": 16})})
    with pytest.raises(ConfigError, match=r"acc_bits must be such that a sum of 130048 fits, not 16 \(big\)"):
        compile_layer(narrow, quantized(shape, config, rng, "high"))
    layer = random_layer(shape, rng, 8, 16, "high")
    with pytest.raises(ConfigError, match=r"weights must be -128 to 127, not 32767 to 32767 \(big\)"):
        compile_layer(config, layer)
    with pytest.raises(ConfigError, match="output_zero_point must be -128 to 127, not 200"):
        compile_layer(config, quantized(shape, config, rng, zero_points=(0, 200)))
    with pytest.raises(ConfigError, match=r"tiling must fit the output bank, not \(0, 9, 8, 12, 2\) \(example\)"):
        example(Tiling(WEIGHTS_OUTER, 9, 8, 12, 2), pad_bottom=9, pad_right=9, stride_w=1)
    with pytest.raises(ConfigError, match="tilings must be for layers of the network, not 'other'"):
        compile_network(config, [quantized(shape, config, rng)], tilings={"other": Tiling(0, 1, 1, 4, 2)})
