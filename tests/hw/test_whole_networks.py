"""Whole networks from ONNX: against ONNX Runtime, on the ISA interpreter and on the RTL."""

import numpy as np
import onnx_models
import pytest
from isa_interpreter import Machine

from hw.allocation import lifetimes
from hw.config import Precision, load_design
from hw.errors import ConfigError
from hw.examples import digits
from hw.golden import run_layer
from hw.graph import LayerStep
from hw.network_compiler import compile_graph
from hw.onnx_import import import_onnx
from hw.sim.network import run_network
from hw.sim.run import IdealMemory

IDEAL = IdealMemory()
MODELS = {
    "residual int8": (onnx_models.residual, {"activations": np.int8}),
    "residual uint8": (onnx_models.residual, {"activations": np.uint8}),
    "mobilenet int8": (onnx_models.mobilenet, {"activations": np.int8}),
    "mobilenet uint8": (onnx_models.mobilenet, {"activations": np.uint8}),
    "attention": (onnx_models.attention, {}),
    "attention int8": (onnx_models.attention, {"zero": -13, "softmax": (1 / 255, -128)}),
    "attention uint8": (onnx_models.attention, {"activations": np.uint8, "zero": 117, "softmax": (1 / 256, 0)}),
}
"""Attention without zero points; with some in both operands of both products, the least in one; and the same as ONNX Runtime quantizes by itself."""


def load(name, folder):
    """(path, graph, input) of a model of the list."""
    make, options = MODELS[name]
    path = make(folder / "model.onnx", **options)
    graph = import_onnx(path, host=name.startswith("attention"))
    x = np.random.default_rng(1).normal(size=graph.input_ports[0].view.shape).astype(np.float32)
    return path, graph, x


def enter(graph, x):
    """The input's integers by tensor."""
    port = graph.input_ports[0]
    tensor = graph.tensors[port.view.tensor]
    return {tensor.name: port.enter(x, tensor, graph.batch)}


@pytest.mark.parametrize("name", MODELS)
def test_layers_and_networks_are_onnx_runtimes(name, tmp_path):
    """Each layer, fed ONNX Runtime's own integers, is within one step; few values differ at all; the output is within two steps."""
    path, graph, x = load(name, tmp_path)
    values, output = onnx_models.runtime_values(path, graph, x)
    compared = 0
    for step in graph.steps:
        if isinstance(step, LayerStep) and all(one in values for one in (*step.inputs, step.output)):
            got = run_layer(step.layer, values[step.input], values.get(step.second))
            difference = np.abs(got - values[step.output])
            assert difference.max() <= 1 and (difference > 0).mean() < 0.1, step.name
            if step.layer.shape.kind == "max_pool":
                assert difference.max() == 0
            compared += 1
    assert compared >= len(graph.layers) - 2  # all but copies and transposes, which ONNX has not
    port = graph.output_ports[0]
    tensor = graph.tensors[port.view.tensor]
    ours = port.leave(graph.run(enter(graph, x))[tensor.name], tensor)
    assert np.abs(ours - output).max() <= 2.01 * tensor.scale


@pytest.mark.parametrize("on_chip", [False, True])
@pytest.mark.parametrize("design", ["small", "medium", "large"])
@pytest.mark.parametrize("name", MODELS)
def test_programs_compute_the_graph(name, design, on_chip, tmp_path):
    """The interpreter checks tokens and addresses; tensors share memory, and every one that lives is what the golden model says."""
    _, graph, x = load(name, tmp_path)
    check_program(compile_graph(load_design(design), graph, on_chip=on_chip), enter(graph, x))


def check_program(program, inputs):
    """Run it on the interpreter: everything that is left in memory is what the golden model says."""
    graph, memory = program.graph, program.image.copy()
    golden, lives = graph.run(inputs), lifetimes(graph)
    for tensor, values in inputs.items():
        program.write(memory, tensor, values)
    arena = program.regions["activations"]
    for segment in program.segments:
        machine = Machine(program.config, memory, program.base_address, [(arena.address, arena.address + arena.size_bytes)])
        first = segment.address - program.base_address
        machine.run(memory[first : first + segment.size_bytes].tobytes())
        last = max(i for i, step in enumerate(graph.steps) if step.name in segment.layers)
        for step in graph.layers:
            if step.name in segment.layers and step.output in program.tensors and lives[graph.whole(step.output)].last >= last:
                np.testing.assert_array_equal(program.read(memory, step.output), golden[step.output])
        if segment.host_step:
            values = segment.host_step.run(*(program.read(memory, one) for one in segment.host_step.inputs))
            program.write(memory, segment.host_step.output, values)
    for tensor in graph.outputs:
        np.testing.assert_array_equal(program.read(memory, tensor), golden[tensor])


@pytest.mark.parametrize("name", ["residual int8", "mobilenet uint8", "attention", "attention int8", "attention uint8"])
def test_blocks_run_on_the_rtl(simulator, name, tmp_path):
    _, graph, x = load(name, tmp_path)
    program = compile_graph(load_design("small"), graph)
    run = run_network(simulator("small"), program, enter(graph, x), core_period_ps=1000, mem_period_ps=1370, timeout_cycles=1_000_000, memory=IDEAL,
                      stall_probability=0.2)  # fmt: skip
    np.testing.assert_array_equal(run.outputs[graph.outputs[0]], graph.run(enter(graph, x))[graph.outputs[0]])
    assert len(run.segments) == 1 + len(graph.host_steps)


def test_digits_are_read_as_onnx_runtime_reads_them(simulator, tmp_path):
    """Test images through a CNN trained here: the same class wherever ONNX Runtime's own margin is more than a step; layers within one."""
    path = digits.make(tmp_path, batch=24)
    graph, x, labels = import_onnx(path), np.load(tmp_path / "images.npy"), np.load(tmp_path / "labels.npy")
    values, expected = onnx_models.runtime_values(path, graph, x)
    for step in graph.layers:
        assert np.abs(run_layer(step.layer, values[step.input]) - values[step.output]).max() <= 1
    run = run_network(simulator("small"), compile_graph(load_design("small"), graph), enter(graph, x), core_period_ps=1000, mem_period_ps=1250,
                      timeout_cycles=1_000_000, memory=IDEAL)  # fmt: skip
    port = graph.output_ports[0]
    tensor = graph.tensors[port.view.tensor]
    logits = port.leave(run.outputs[tensor.name], tensor)
    best = np.sort(expected, axis=1)
    clear = best[:, -1] - best[:, -2] > 1.01 * tensor.scale
    assert clear.mean() > 0.9
    np.testing.assert_array_equal(logits.argmax(axis=1)[clear], expected.argmax(axis=1)[clear])
    assert np.mean(logits.argmax(axis=1) == labels) > 0.9


def test_memory_is_shared_only_by_tensors_that_do_not_live_together(tmp_path):
    _, graph, _ = load("mobilenet int8", tmp_path)
    program, lives = compile_graph(load_design("small"), graph, on_chip=False), lifetimes(graph)
    spans = {name: (program.tensors[name].address, program.tensors[name].address + program.tensors[name].layout.size_bytes) for name in lives}
    shared = 0
    for one in lives:
        for two in lives:
            if one < two and spans[one][0] < spans[two][1] and spans[two][0] < spans[one][1]:
                assert lives[one].last < lives[two].first or lives[two].last < lives[one].first, (one, two)
                shared += 1
    assert shared and program.regions["activations"].size_bytes < sum(end - first for first, end in spans.values())


def test_products_have_a_kernel_row_for_each_part_of_a_zero_point(tmp_path):
    """On a design of 8 bits the least zero point takes two, on one of 16 bits one; programs compute the graph there too."""
    _, graph, x = load("attention uint8", tmp_path)
    small = load_design("small")
    wide = {"array": small.array.model_copy(update={"acc_bits": 48}), "precision": Precision(activation_bits=16, weight_bits=16)}
    for config, rows in ((small, [3, 4]), (small.model_copy(update=wide), [3, 3])):
        program = compile_graph(config, graph)
        assert [one.lowering.numbers.kernel_h for one in program.layers if one.lowering.shape.kind == "matmul"] == rows
        check_program(program, enter(graph, x))


def test_heads_that_are_no_whole_words_are_refused(tmp_path):
    graph = import_onnx(onnx_models.attention(tmp_path / "odd.onnx", depth=6), host=True)
    with pytest.raises(ConfigError, match="use a design whose lanes divide the channels of a head"):
        compile_graph(load_design("medium"), graph)
