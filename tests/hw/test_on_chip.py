"""Activations that stay on chip between layers: programs of random networks, hand-counted traffic, and the RTL."""

import json
from collections import Counter
from dataclasses import replace

import numpy as np
import pytest
from click.testing import CliRunner
from hypothesis import HealthCheck, assume, given, settings
from hypothesis import strategies as st
from isa_interpreter import Fault, Machine
from strategies import configurations, for_products, tilings

from hw.cli import compile as compile_command
from hw.cli import simulate
from hw.config import load_design
from hw.errors import ConfigError
from hw.examples.qdq import QdqModel
from hw.golden import activations, random_layer
from hw.graph import Graph, LayerStep, Tensor
from hw.isa import INSTRUCTION_BYTES, Opcode, decode, encode
from hw.layers import LayerShape
from hw.lowering import lower
from hw.network_compiler import compile_graph
from hw.network_run import simulate_model
from hw.onnx_import import import_onnx
from hw.operating_points import OperatingPoint
from hw.sim.network import run_network
from hw.sim.run import IdealMemory
from hw.tiling import WEIGHTS_OUTER, Tiling

PROPERTY = {"derandomize": True, "deadline": None, "database": None, "suppress_health_check": list(HealthCheck)}


# Random networks


class Chain:
    """A network under construction: layers on each other's outputs, now and then on an earlier one."""

    def __init__(self, config, batch, zero_point, seed):
        self.config, self.batch, self.zero = config, batch, zero_point
        self.rng = np.random.default_rng(seed)
        self.tensors, self.steps, self.inputs = {}, [], []

    def tensor(self, channels, height, width, heads=1, given=False, zero_point=None):
        name, zero_point = f"t{len(self.tensors)}", self.zero if zero_point is None else zero_point
        self.tensors[name] = Tensor(name=name, channels=channels, height=height, width=width, heads=heads, zero_point=zero_point)
        if given:
            self.inputs.append(name)
        return name

    def layer(self, source, second=None, **sizes):
        precision = self.config.precision
        if sizes["kind"] == "matmul":
            sizes |= {"input_zero_point": self.tensors[source].zero_point, "second_zero_point": self.tensors[second].zero_point}
        shape = LayerShape(name=f"layer{len(self.steps)}", **sizes)
        try:
            layer = random_layer(shape, self.rng, precision.activation_bits, precision.weight_bits, "uniform", (self.zero, self.zero))
        except ConfigError as error:  # 16-bit sums of weights of 4 bits
            assume("exact to half a step" not in str(error))
            raise
        output = self.tensor(shape.out_channels, shape.out_h, shape.out_w, heads=shape.groups if shape.kind == "matmul" else 1)
        self.steps.append(LayerStep(layer=layer, input=source, output=output, second=second))
        return output

    def graph(self, outputs):
        return Graph(name="chain", batch=self.batch, tensors=self.tensors, steps=tuple(self.steps), inputs=tuple(self.inputs), outputs=tuple(outputs))

    def values(self):
        bits = self.config.precision.activation_bits
        return {name: activations((self.batch, *self.tensors[name].shape), bits, self.rng, "uniform") for name in self.inputs}


@st.composite
def networks(draw):
    """(chain, graph): convolutions of all kinds, pooling, sums with what was made before, vectors; or vectors of sequences and their products."""
    config = draw(configurations(max_rows=4, max_bank_words=512))
    chain = Chain(config, draw(st.integers(1, 2)), draw(st.integers(-3, 3)), draw(st.integers(0, 2**16)))
    if draw(st.integers(0, 2)) == 0:
        return chain, chain.graph([draw_sequence(draw, chain)])
    now = chain.tensor(draw(st.integers(1, 12)), draw(st.integers(1, 9)), draw(st.integers(1, 9)), given=True)
    for _ in range(draw(st.integers(2, 4))):
        t = chain.tensors[now]
        kind = draw(st.sampled_from(["conv", "conv", "depthwise", "max_pool", "average_pool", "add", "add", "vector"]))
        if kind == "add":
            alike = [name for name, one in chain.tensors.items() if one.shape == t.shape]
            operands = draw(st.permutations([now, draw(st.sampled_from(alike))]))
            now = chain.layer(*operands, kind="add", in_channels=t.channels, in_h=t.height, in_w=t.width)
        elif kind == "vector":
            now = chain.layer(now, kind="average_pool", in_channels=t.channels, in_h=t.height, in_w=t.width, kernel_h=t.height, kernel_w=t.width)
            now = chain.layer(now, kind="fc", in_channels=t.channels, out_channels=draw(st.integers(1, 12)))
        else:
            window = {"kernel_h": draw(st.integers(1, min(3, t.height))), "kernel_w": draw(st.integers(1, min(3, t.width)))}
            window |= {f"pad_{side}": draw(st.integers(0, window[f"kernel_{axis}"] - 1)) for side, axis in
                       (("top", "h"), ("bottom", "h"), ("left", "w"), ("right", "w"))}  # fmt: skip
            window |= {"stride_h": draw(st.integers(1, 2)), "stride_w": draw(st.integers(1, 2)), "in_h": t.height, "in_w": t.width}
            channels = {"in_channels": t.channels}
            if kind == "conv":
                channels["out_channels"] = draw(st.integers(1, 20))
            if kind == "depthwise":
                channels |= {"out_channels": t.channels, "groups": t.channels}
            now = chain.layer(now, kind="conv" if kind == "depthwise" else kind, **channels, **window)
    return chain, chain.graph(sorted({now, draw(st.sampled_from([step.output for step in chain.steps]))}))


def draw_sequence(draw, chain):
    """Vectors through a layer, a product with another input, a sum."""
    zeros = st.sampled_from([0, -5, -128, 127])
    chain.zero, chain.config = draw(zeros), for_products(chain.config)
    config = chain.config
    lanes, heads, length, vectors = config.array.lanes, draw(st.integers(1, 2)), draw(st.integers(2, 6)), draw(st.integers(1, 5))
    width = draw(st.integers(1, 2 * lanes)) if heads == 1 else heads * lanes * draw(st.integers(1, 2))
    x, second = chain.tensor(draw(st.integers(1, 9)), length, 1, given=True), chain.tensor(width, vectors, 1, heads=heads, given=True, zero_point=draw(zeros))
    y = chain.layer(x, kind="fc", in_channels=chain.tensors[x].channels, out_channels=width, in_h=length)
    y = chain.layer(y, second, kind="matmul", in_channels=width, out_channels=heads * vectors, in_h=length, groups=heads)
    t = chain.tensors[y]
    assume(t.channels // heads % lanes == 0 or heads == 1)
    return chain.layer(y, kind="fc", in_channels=t.channels, out_channels=draw(st.integers(1, 9)), in_h=length)


def interpret(program, inputs, seed=0, change=lambda code: code):
    """(memory afterwards, events) of a program's segments one after the other; `change` may alter a segment's instructions."""
    memory, events, arena = program.image.copy(), Counter(), program.regions["activations"]
    for name, values in inputs.items():
        program.write(memory, name, values)
    for segment in program.segments:
        machine = Machine(program.config, memory, program.base_address, [(arena.address, arena.address + arena.size_bytes)], seed)
        first = segment.address - program.base_address
        events.update(machine.run(change(memory[first : first + segment.size_bytes].tobytes())))
    return memory, events


def test_random_networks_compute_and_move_what_is_predicted():
    """Whatever stays on chip, outputs are the golden model's; DRAM is read and written as the formulas say, and never more than without."""
    seen = Counter()

    @settings(max_examples=120, **PROPERTY)
    @given(data=st.data())
    def check(data):
        chain, graph = data.draw(networks())
        config, inputs, given_tilings = chain.config, chain.values(), {}
        for step in graph.layers if data.draw(st.booleans()) else ():
            lowering = lower(config, step.layer.shape, batch=graph.batch, add_steps=step.layer.weights.shape[-1] or 1)
            given_tilings[step.name] = data.draw(tilings(config, lowering.numbers))
        golden, moved = graph.run(inputs), {}
        for on_chip, by_layer in ((False, False), (True, True), (True, False)):
            try:
                program = compile_graph(config, graph, on_chip=on_chip, by_layer=by_layer, tilings=given_tilings)
            except ConfigError as error:
                assume("bank" not in str(error) and "tiling must fit" not in str(error) and "bias must fit" not in str(error) and "tensor" not in str(error))
                raise
            memory, events = interpret(program, inputs, seed=data.draw(st.integers(0, 99)))
            for name in graph.outputs:
                np.testing.assert_array_equal(program.read(memory, name), golden[name])
            if by_layer:
                continue
            for field, event in (("activation_read_bytes", "activation_bytes"), ("output_write_bytes", "output_bytes"), ("fill_words", "fill_words"),
                                 ("weight_read_bytes", "weight_bytes"), ("parameter_read_bytes", "parameter_bytes"),
                                 ("activation_load_words", "activation_words"), ("activation_runs", "activation_runs"), ("output_runs", "output_runs"),
                                 ("output_store_words", "output_words")):  # fmt: skip
                assert sum(getattr(program.traffic(layer), field) for layer in program.layers) == events[event], field
            moved[on_chip] = events["activation_bytes"] + events["output_bytes"]
            assert sum(program.traffic(layer).instructions for layer in program.layers) + 1 == events["instructions"]
            if on_chip:
                kept = [layer for layer in program.layers if layer.on_chip]
                seen.update(layer.lowering.shape.kind for layer in kept)
                seen["zero points"] += sum(layer.lowering.numbers.product > 1 for layer in kept)
                seen.update({"tiles": sum(layer.lowering.numbers.images < program.traffic(layer).activation_loads for layer in kept),
                             "part of the operands": sum(len(layer.on_chip) < layer.lowering.numbers.operands for layer in kept),
                             "kept and stored": sum(one.stored for one, two in zip(program.layers, program.layers[1:], strict=False) if two.on_chip),
                             "two in a row": sum(bool(a.on_chip and b.on_chip) for a, b in zip(program.layers, program.layers[1:], strict=False))})  # fmt: skip
        if given_tilings:
            assert moved[True] <= moved[False]

    check()
    wanted = ("conv", "fc", "max_pool", "average_pool", "add", "matmul", "zero points", "tiles", "part of the operands", "kept and stored", "two in a row")
    assert not [what for what in wanted if not seen[what]], seen


def two_convolutions(tilings, first=None, second=None):
    """(program, inputs, golden output): 8 to 8 channels on 4 x 4 pixels, then a kernel of one pixel, on the small design."""
    chain = Chain(load_design("small"), 1, 2, 5)
    x = chain.tensor(8, 4, 4, given=True)
    y = chain.layer(x, kind="conv", **{"in_channels": 8, "out_channels": 8, "in_h": 4, "in_w": 4} | (first or {}))
    t = chain.tensors[y]
    y = chain.layer(y, kind="conv", **{"in_channels": t.channels, "out_channels": 4, "in_h": t.height, "in_w": t.width} | (second or {}))
    graph, inputs = chain.graph([y]), chain.values()
    program = compile_graph(chain.config, graph, tilings=tilings)
    assert [bool(layer.on_chip) for layer in program.layers] == [False, True]
    return program, inputs, graph.run(inputs)[y]


def without(opcode):
    """A program with instructions of one kind taken out."""
    return lambda code: b"".join(one for one in (code[i : i + INSTRUCTION_BYTES] for i in range(0, len(code), INSTRUCTION_BYTES)) if decode(one)[0] != opcode)


def test_a_last_tile_that_nobody_needs_still_separates_the_layers():
    """Tiles are one pixel in each row of the array; of rows 0 and 2 the columns 0 to 2 are needed, so that the last tile has nothing to copy."""
    program, inputs, expected = two_convolutions({"layer0": Tiling(WEIGHTS_OUTER, 1, 1, 8, 2)}, second={"stride_h": 2, "stride_w": 2})
    memory, events = interpret(program, inputs)
    np.testing.assert_array_equal(program.read(memory, "t2"), expected)
    assert events["syncs"] == 1 and events["copied_words"] == 2 * 3 * 2
    with pytest.raises(Fault, match="load overwrites what compute may still read"):
        for seed in range(20):
            interpret(program, inputs, seed, without(Opcode.SYNC))


def test_an_input_on_chip_may_be_reduced_in_parts():
    """32 channels are 8 words, reduced by 3, 3 and 2 in each of the four blocks of pixels."""
    program, inputs, expected = two_convolutions({"layer1": Tiling(WEIGHTS_OUTER, 1, 2, 4, 3)}, first={"out_channels": 32})
    memory, events = interpret(program, inputs)
    np.testing.assert_array_equal(program.read(memory, "t2"), expected)
    assert program.traffic(program.layers[1]).activation_loads == 2 * 2 * 3 and events["copied_words"] == 8 * 16


# By hand, and on the RTL


@pytest.mark.parametrize("zero", [-128, 6])
def test_a_product_with_zero_points_finds_its_operand_on_chip(simulator, zero):
    """On the RTL: 10 channels, so that the last word is part padding, which the layer before leaves at the zero point."""
    chain = Chain(load_design("small"), 3, zero, 3)
    x, second = chain.tensor(7, 9, 1, given=True), chain.tensor(10, 6, 1, given=True, zero_point=-31)
    y = chain.layer(x, kind="fc", in_channels=7, out_channels=10, in_h=9)
    y = chain.layer(y, second, kind="matmul", in_channels=10, out_channels=6, in_h=9)
    graph, inputs = chain.graph([y]), chain.values()
    program = compile_graph(chain.config, graph)
    assert [bool(layer.on_chip) for layer in program.layers] == [False, True]
    _, events = interpret(program, inputs)
    assert program.traffic(program.layers[1]).fill_words == events["fill_words"] == 3 * 5 * 3  # of 3 images 5 vectors of 3 words in either row
    run = run_network(simulator("small"), program, inputs, core_period_ps=1000, mem_period_ps=1370, timeout_cycles=100_000, memory=IdealMemory(),
                      stall_probability=0.2)  # fmt: skip
    np.testing.assert_array_equal(run.outputs[y], graph.run(inputs)[y])


def small_model(path):
    """Convolution 3x3 from 4 to 8 channels on 8 x 8 pixels, max pooling 2x2, convolution of one pixel to 4 channels."""
    rng, m = np.random.default_rng(0), QdqModel()
    y = m.quantized(m.learned("Conv", m.quantized("x", 0.03), rng.normal(size=(8, 4, 3, 3)), None, 0.03, pads=[1, 1, 1, 1]), 0.2)
    y = m.quantized(m.node("MaxPool", y, kernel_shape=[2, 2], strides=[2, 2]), 0.2)
    y = m.quantized(m.learned("Conv", y, rng.normal(size=(4, 8, 1, 1)), None, 0.2), 0.4)
    return m.save(path, (1, 4, 8, 8), y, (1, 4, 4, 4))


def test_traffic_by_layer_is_what_a_hand_counts(simulator, tmp_path, capsys):
    """On the RTL. Words have 4 channels: the first tensor has 1 word of 4 bytes a pixel, the second 2, the third 2 on a quarter of the pixels, the last 1."""
    path = small_model(tmp_path / "model.onnx")
    np.save(tmp_path / "x.npy", np.random.default_rng(1).normal(size=(1, 4, 8, 8)).astype(np.float32))
    options = {"core_period_ps": 1000, "mem_period_ps": 1250, "memory": IdealMemory()}
    answers = {}
    for on_chip in (False, True):
        simulate_model(path, load_design("small"), simulator("small"), tmp_path / "x.npy", tmp_path / f"{on_chip}.npy", host=False, on_chip=on_chip,
                       as_json=True, options=options)  # fmt: skip
        answers[on_chip] = json.loads(capsys.readouterr().out)
    read = {False: [256, 512, 128], True: [256, 0, 0]}
    written = {False: [512, 128, 64], True: [0, 0, 64]}
    for on_chip, answer in answers.items():
        rows, total = answer["layers"], answer["total"]
        assert [row["closed_form"]["activation_read"] for row in rows] == read[on_chip]
        assert [row["dram_write_bytes"] for row in rows] == written[on_chip] and total["dram_write_bytes"] == sum(written[on_chip])
        assert [row["input_on_chip"] for row in rows] == [False, on_chip, on_chip]
        for row in rows:  # a program by itself ends with END
            parts = row["closed_form"]
            assert row["dram_read_bytes"] == sum(parts.values()) - parts["output_write"] + (0 if row["input_on_chip"] else INSTRUCTION_BYTES)
        # Programs that run together have one END.
        assert total["dram_read_bytes"] == sum(row["dram_read_bytes"] for row in rows) - (0 if on_chip else 2 * INSTRUCTION_BYTES)
    assert answers[True]["total"]["core_cycles"] < answers[False]["total"]["core_cycles"]
    assert [row["closed_form"]["weight_read"] for row in answers[True]["layers"]] == [row["closed_form"]["weight_read"] for row in answers[False]["layers"]]
    np.testing.assert_array_equal(np.load(tmp_path / "True.npy"), np.load(tmp_path / "False.npy"))


def test_the_clock_changes_between_layers_that_share_the_banks(simulator, tmp_path):
    """An OPERATING_POINT before every layer: what is on chip stays there while the core's clock stands still."""
    graph = import_onnx(small_model(tmp_path / "model.onnx"))
    program = compile_graph(load_design("small"), graph)
    (segment,) = program.segments
    first = segment.address - program.base_address
    code = [program.image[first + i : first + i + INSTRUCTION_BYTES] for i in range(0, segment.size_bytes, INSTRUCTION_BYTES)]
    for layer, index in zip(reversed(program.layers), (1, 0, 1), strict=True):
        code.insert(layer.first_instruction, np.frombuffer(encode(Opcode.OPERATING_POINT, index=index), dtype=np.uint8))
    grown = np.concatenate(code)
    region = replace(program.regions["program.0"], size_bytes=grown.size)
    program = replace(
        program, image=np.concatenate([program.image[:first], grown]), regions=program.regions | {"program.0": region},
        segments=(replace(segment, size_bytes=grown.size),),
    )  # fmt: skip
    points = {0: OperatingPoint(core_period_ps=3100, transition_s=2e-6), 1: OperatingPoint(core_period_ps=700, transition_s=1e-6)}
    x = np.random.default_rng(2).integers(-128, 128, (1, 4, 8, 8))
    run = run_network(simulator("small"), program, {graph.inputs[0]: x}, core_period_ps=1000, mem_period_ps=1250, timeout_cycles=100_000,
                      memory=IdealMemory(), stall_probability=0.1, operating_points=points)  # fmt: skip
    assert run.segments[0].op_requests == 3 and run.segments[0].transition_s == pytest.approx(4e-6)
    np.testing.assert_array_equal(run.outputs[graph.outputs[0]], graph.run({graph.inputs[0]: x})[graph.outputs[0]])


def test_what_stays_on_chip_has_no_place_in_memory(tmp_path):
    path = small_model(tmp_path / "model.onnx")

    def compiled(*flags):
        result = CliRunner().invoke(compile_command, [str(path), "--out", str(tmp_path / "out"), "--json", *flags], catch_exceptions=False)
        tensors = json.loads((tmp_path / "out" / "memory_map.json").read_text())["tensors"]
        return json.loads(result.stdout), tensors, (tmp_path / "out" / "program.txt").read_text()

    on, tensors_on, listing_on = compiled()
    off, tensors_off, listing_off = compiled("--no-on-chip")
    assert on["on_chip"] == ["MaxPool_6", "Conv_10"] and off["on_chip"] == []
    assert len(tensors_on) == 2 and len(tensors_off) == 4 and on["activation_bytes"] < off["activation_bytes"]
    assert "COPY" in listing_on and "COPY" not in listing_off
    with pytest.raises(ConfigError, match="network must be an ONNX model where .* --no-on-chip is given, not alexnet"):
        CliRunner().invoke(simulate, ["--no-on-chip"], catch_exceptions=False)


@pytest.mark.parametrize(("words", "expected"), [(64, False), (128, True)])
def test_two_layers_share_the_banks_if_they_fit_together(words, expected, tmp_path):
    """The pooling's input has 2 words for 8 x 8 pixels, 64 a row of the array; the image with its padding has 6 x 10 there at the most."""
    graph, config = import_onnx(small_model(tmp_path / "model.onnx")), load_design("small")
    small = config.model_copy(update={"buffers": config.buffers.model_copy(update={"activation_bank_bytes": 4 * words})})
    assert bool(compile_graph(small, graph).layers[1].on_chip) is expected
