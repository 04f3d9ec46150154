"""Real layers on the emitted Verilog under Verilator: every output bit, every event counter, at several clock ratios, with random stalls.

The outputs are compared with the golden model, the counters with an interpreter of the instruction set (which counts what the
instructions ask for) and, for one layer, with a calculation by hand. The simulation itself fails on time-out, on anything
left over, on a breach of AXI4 and on an access outside of the program's regions.
"""

import zlib
from dataclasses import replace

import pytest
from isa_interpreter import run_program as interpret

from hw.config import load_design
from hw.dram_part import load_dram_part
from hw.errors import ToolError
from hw.isa import INSTRUCTION_BYTES, Opcode
from hw.layers import LayerShape
from hw.registers import CONFIGURATION, EVENTS, Cause
from hw.sim.network import random_workload, run_workload
from hw.sim.run import IdealMemory, MemoryRegion, simulate

IDEAL, LPDDR3 = IdealMemory(), load_dram_part("lpddr3_1600_x32")
COUNTED_BY_INSTRUCTIONS = (
    "multiplier_uses", "weight_reads", "activation_reads", "activation_writes", "accumulator_accesses", "post_outputs", "parameter_reads",
    "output_writes", "instructions",
)  # fmt: skip


def conv(channels: int, outputs: int, height: int, width: int, kernel: int = 3, stride: int = 1, pad: tuple = (1, 1, 1, 1), **more) -> LayerShape:
    top, bottom, left, right = pad
    return LayerShape(
        name=more.pop("name", "conv"), kind="conv", in_channels=channels, out_channels=outputs, in_h=height, in_w=width, kernel_h=kernel,
        kernel_w=kernel, stride_h=stride, stride_w=stride, pad_top=top, pad_bottom=bottom, pad_left=left, pad_right=right, **more,
    )  # fmt: skip


def fc(inputs: int, outputs: int, name: str = "fc") -> LayerShape:
    return LayerShape(name=name, kind="fc", in_channels=inputs, out_channels=outputs, relu=True)


class Run:
    """A compiled network with data, and what came out of the RTL."""

    def __init__(self, design: str, shapes: list[LayerShape], *, batch: int = 1, kind: str = "typical"):
        zero_points = (3, -7) if len(shapes) == 1 else (3, 3)  # a layer's output is the next one's input
        seed = zlib.crc32(repr((design, shapes, batch, kind)).encode())
        self.workload = random_workload(load_design(design), shapes, batch=batch, kind=kind, zero_points=zero_points, seed=seed)
        self.program, self.inputs = self.workload.program, self.workload.inputs

    def simulate(self, simulator, *, core_ps: int = 1000, mem_ps: int = 1250, stall: float = 0.0, memory=IDEAL, **more):
        """Runs, and checks every layer's output, the counters that the instructions determine, and the sum over all cycles."""
        result = run_workload(
            simulator, self.workload, core_period_ps=core_ps, mem_period_ps=mem_ps, timeout_cycles=400_000, memory=memory, stall_probability=stall, **more
        )
        self.check_events(result)
        return result

    def check_events(self, result) -> None:
        events, (_, counted) = result.events, interpret(self.program, self.inputs)
        assert {name: events[name] for name in COUNTED_BY_INSTRUCTIONS} == {name: counted[name] for name in COUNTED_BY_INSTRUCTIONS}
        assert events["compute_busy"] == counted["pixel_steps"]
        assert events["weight_writes"] == counted["weight_words"]
        assert events["output_reads"] == counted["output_words"]
        assert events["dram_read_bytes"] == counted["dram_read_bytes"] + self.program.program_bytes == result.memory["read_bytes"]
        assert events["dram_write_bytes"] == counted["output_bytes"]
        stalls = sum(events[f"stall_{cause}"] for cause in ("load", "store", "drain", "program"))
        assert events["compute_busy"] + stalls <= events["core_cycles"] <= result.run_cycles
        assert events["load_busy"] <= events["core_cycles"] and events["store_busy"] <= events["core_cycles"]


SMALL_LAYERS = {
    "odd sizes": [conv(6, 10, 9, 11)],
    "strided, padded on one side": [conv(5, 9, 12, 7, kernel=4, stride=2, pad=(2, 0, 0, 1), relu=True)],
    "dilated": [conv(8, 8, 10, 10, dilation=2)],
    "groups": [conv(12, 12, 6, 6, groups=3)],
    "first layer, folded": [conv(3, 8, 11, 11, kernel=5, stride=2)],
    "pointwise": [conv(16, 6, 7, 5, kernel=1, pad=(0, 0, 0, 0))],
    "fully connected": [fc(70, 37)],
    "depthwise": [conv(10, 10, 7, 9, groups=10, stride=2)],
    "average pooling": [LayerShape(name="pool", kind="average_pool", in_channels=6, in_h=9, in_w=8, kernel_h=3, kernel_w=2, stride_h=2, stride_w=2, pad_top=1)],
    "global pooling": [LayerShape(name="pool", kind="average_pool", in_channels=9, in_h=5, in_w=6, kernel_h=5, kernel_w=6)],
    "max pooling": [LayerShape(name="pool", kind="max_pool", in_channels=6, in_h=9, in_w=8, kernel_h=3, kernel_w=3, stride_h=2, pad_top=1, pad_left=1)],
    "add": [LayerShape(name="add", kind="add", in_channels=10, in_h=7, in_w=5, relu=True)],
    "matmul": [LayerShape(name="matmul", kind="matmul", in_channels=2 * 12, out_channels=2 * 9, in_h=7, groups=2)],
    "matmul with zero points": [LayerShape(name="matmul", kind="matmul", in_channels=2 * 12, out_channels=2 * 9, in_h=7, groups=2, input_zero_point=-128,
                                           second_zero_point=31)],
    "transpose": [LayerShape(name="transpose", kind="transpose", in_channels=2 * 8, in_h=7, groups=2)],
    "sequence": [LayerShape(name="fc", kind="fc", in_channels=18, out_channels=10, in_h=5)],
    "three layers": [conv(4, 8, 8, 8, name="a", relu=True), conv(8, 12, 8, 8, name="b", stride=2), conv(12, 4, 4, 4, name="c", kernel=1, pad=(0, 0, 0, 0))],
}


@pytest.mark.parametrize("layers", SMALL_LAYERS)
def test_small_design(simulator, layers):
    """Each kind of layer, with stalls in every channel of the memory and incommensurate clocks."""
    Run("small", SMALL_LAYERS[layers]).simulate(simulator("small"), core_ps=1000, mem_ps=1370, stall=0.3)


@pytest.mark.parametrize("core_ps, mem_ps", [(8000, 1000), (1000, 8000), (1000, 1000), (2917, 1000), (1000, 2310)])
@pytest.mark.parametrize("stall", [0.0, 0.5])
def test_clock_ratios(simulator, core_ps, mem_ps, stall):
    run = Run("small", [conv(8, 8, 8, 8), fc(40, 12)])
    run.simulate(simulator("small"), core_ps=core_ps, mem_ps=mem_ps, stall=stall, mem_phase_ps=330, seed=core_ps)


@pytest.mark.parametrize("layers", ["odd sizes", "three layers"])
@pytest.mark.parametrize("memory", [IDEAL, LPDDR3], ids=["ideal", "lpddr3"])
def test_responses_late_and_in_turns(simulator, layers, memory):
    """Latencies that vary by more than themselves, and beats of program and data in random turns: the same outputs."""
    Run("small", SMALL_LAYERS[layers]).simulate(simulator("small"), memory=memory, jitter_s=300e-9, interleave=True, stall=0.1, max_outstanding=5)


@pytest.mark.parametrize("kind", ["uniform", "ramp", "low", "high", "zero"])
def test_structured_data(simulator, kind):
    Run("small", [conv(8, 6, 6, 6)], kind=kind).simulate(simulator("small"), stall=0.1)


@pytest.mark.parametrize("design", ["medium", "large"])
def test_larger_designs(simulator, design):
    """Convolution, and a batch of vectors, through the LPDDR3 model at two ratios and through a memory with stalls."""
    layers = [conv(20, 40, 14, 13, relu=True), conv(16, 24, 10, 10, kernel=5, stride=2, name="strided"), fc(200, 72)]
    for shape, batch, options in (
        (layers[0], 1, {"memory": LPDDR3, "core_ps": 1000, "mem_ps": 1250}),
        (layers[0], 1, {"memory": LPDDR3, "core_ps": 5000, "mem_ps": 1250}),
        (layers[1], 2, {"stall": 0.4, "core_ps": 1000, "mem_ps": 1730}),
        (layers[2], 4, {"stall": 0.2, "core_ps": 1310, "mem_ps": 1000}),
    ):
        Run(design, [shape], batch=batch).simulate(simulator(design), **options)


@pytest.mark.parametrize("stride", [1, 2])
def test_depthwise_layers_take_kernel_columns_side_by_side(simulator, stride):
    """On a design that keeps words: 3 x 3 takes three steps, most of one word a pixel (stride 1), and average pooling likewise."""
    shapes = [conv(20, 20, 13, 11, groups=20, stride=stride, name="depthwise"),
              LayerShape(name="pool", kind="average_pool", in_channels=20, in_h=12, in_w=9, kernel_h=3, kernel_w=3, stride_h=2, stride_w=stride)]  # fmt: skip
    for shape in shapes:
        run = Run("quad64", [shape])
        result = run.simulate(simulator("quad64"), mem_ps=1370, stall=0.2)
        steps = 3 * 3 * shape.out_w * 4 * -(-shape.out_h // 4)  # words (of 8 channels) x kernel rows x pixels of a row of the array, 4 passes each
        assert steps < result.events["compute_busy"] < (1.6 if stride == 1 else 2.5) * steps


def test_one_layer_by_hand(simulator):
    """16 channels of 8 x 8, 3 x 3 kernel, 16 outputs on 2 rows x 2 cols x 4 lanes: nothing is left idle, so each count is a quotient."""
    result = Run("small", [conv(16, 16, 8, 8)]).simulate(simulator("small"))
    e = result.events
    macs = 16 * 16 * 9 * 8 * 8
    assert e["multiplier_uses"] == macs
    assert e["accumulator_accesses"] == macs // 4
    assert e["activation_reads"] == macs // (4 * 2)
    assert e["compute_busy"] == macs // 16
    assert e["post_outputs"] == 16 * 8 * 8
    assert e["output_reads"] == 16 * 8 * 8 // 4
    assert e["dram_write_bytes"] == 16 * 8 * 8
    # Weights and parameters are loaded once, the input at least once, two halo rows of a stripe for each of two stripes at most twice.
    weights, parameters, image = 16 * 16 * 9, 16 * 8, 16 * 8 * 8
    fixed = weights + parameters + e["instructions"] * INSTRUCTION_BYTES
    assert fixed + image <= e["dram_read_bytes"] <= fixed + 2 * image
    assert e["core_cycles"] >= e["compute_busy"] + weights // 4 // 4  # not before the first tile's weights are there


def test_time_follows_the_slower_clock(simulator):
    """A compute-bound layer takes the core's clocks; when the core is fast enough, the same layer takes the memory's time."""
    run = Run("small", [conv(16, 16, 12, 12)])
    slow, fast = (run.simulate(simulator("small"), core_ps=ps, mem_ps=2000) for ps in (8000, 4000))
    assert fast.events["core_cycles"] == pytest.approx(slow.events["core_cycles"], rel=0.05)
    vectors = Run("small", [fc(256, 128)])
    slow, fast = (vectors.simulate(simulator("small"), core_ps=ps, mem_ps=4000) for ps in (1000, 500))
    assert fast.events["core_cycles"] / 2 == pytest.approx(slow.events["core_cycles"], rel=0.05)
    assert fast.events["stall_load"] > fast.events["core_cycles"] / 2


def test_long_loads_take_one_beat_a_memory_clock(simulator):
    """32 KiB of weights through a 32-bit port, with a core fast enough: nearly as many memory clocks as beats."""
    run = Run("small", [fc(512, 64)])
    result = run.simulate(simulator("small"), core_ps=1000, mem_ps=2000)
    beats = result.events["dram_read_bytes"] // 4
    assert result.events["core_cycles"] / 2 < 1.1 * beats


@pytest.mark.parametrize("response", ["slave", "decode"])
def test_errors_reach_the_registers(simulator, response):
    """A bad response names its instruction, in the Verilog as in simulation of the blocks."""
    run = Run("small", [conv(8, 8, 8, 8)])
    program = run.program
    regions = [MemoryRegion(address=r.address, size_bytes=r.size_bytes, write=r.write) for r in program.regions.values()]
    for name, cause, opcode in (("conv.weights", Cause.READ_RESPONSE, Opcode.LOAD), ("conv.output", Cause.WRITE_RESPONSE, Opcode.STORE)):
        bad = program.regions[name]
        result = simulate(
            simulator=simulator("small"), image=program.memory(run.inputs), regions=regions, program_address=program.program_address,
            program_bytes=program.program_bytes, output_address=0, output_bytes=4, core_period_ps=1000, mem_period_ps=1000,
            timeout_cycles=100_000, memory=IDEAL, fault_regions=[MemoryRegion(address=bad.address + 64, size_bytes=4)], fault_response=response,
        )  # fmt: skip
        assert result.cause == cause
        index = (result.error_address - program.program_address) // INSTRUCTION_BYTES
        found, fields = program.instruction(index)
        assert found == opcode and bad.address <= fields["dram_address"] <= bad.address + 64


def test_configuration_read_back(simulator):
    """The registers say what the machine is; nothing else is needed to compile for it."""
    config = load_design("large")
    result = Run("large", [fc(16, 8)]).simulate(simulator("large"))
    assert list(result.configuration) == list(CONFIGURATION) and list(result.events) == list(EVENTS)
    assert result.configuration["rows"] == config.array.rows and result.configuration["weight_words"] == config.weight_words
    assert result.configuration["axi_data_bits"] == 128 and result.configuration["acc_bits"] == 32


def test_a_wrong_output_is_found(simulator):
    """The comparison itself: the golden model is given another bias than the machine, and the run fails."""
    run = Run("small", [fc(16, 8)])
    layer = run.workload.layers[0]
    bent = replace(run.workload, layers=(replace(layer, bias=layer.bias + (1 << 20)),))
    with pytest.raises(ToolError, match="outputs of fc must equal"):
        run_workload(simulator("small"), bent, core_period_ps=1000, mem_period_ps=1000, timeout_cycles=100_000, memory=IDEAL)
