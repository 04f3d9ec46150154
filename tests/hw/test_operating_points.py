"""A program changes the core's clock while it runs: each part takes the time that it takes by itself at its operating point."""

import numpy as np
import pytest

from hw.config import load_design
from hw.emit import emit
from hw.errors import ConfigError
from hw.isa import Opcode
from hw.layers import LayerShape
from hw.operating_points import OperatingPoint, with_operating_points
from hw.sim.network import Workload, random_workload, run_workload
from hw.sim.run import IdealMemory, SimulationError, build
from hw.tools import BUILD_DIR

LAYERS = [
    LayerShape(name="a", kind="conv", in_channels=8, out_channels=16, in_h=8, in_w=8, kernel_h=3, kernel_w=3, pad_top=1, pad_left=1, relu=True),
    LayerShape(name="b", kind="conv", in_channels=16, out_channels=8, in_h=7, in_w=7, kernel_h=3, kernel_w=3),
]
POINTS = {3: OperatingPoint(core_period_ps=5000, transition_s=2e-6), 200: OperatingPoint(core_period_ps=1730, transition_s=0.5e-6)}
START_PS = 1000


@pytest.fixture(scope="module")
def simulator(tmp_path_factory):
    config = load_design("small")
    bundle = emit(config, tmp_path_factory.mktemp("rtl"))
    BUILD_DIR.mkdir(exist_ok=True)
    return build(verilog=bundle.verilog, axi_data_bits=config.memory.axi_data_bits)


@pytest.fixture(scope="module")
def workload() -> Workload:
    return random_workload(load_design("small"), LAYERS, zero_points=(3, 3), seed=4)


def scheduled(workload: Workload, points: dict[str, int]) -> Workload:
    return Workload(layers=workload.layers, program=with_operating_points(workload.program, points), inputs=workload.inputs)


def run(simulator, workload, **more):
    options = {"core_period_ps": START_PS, "mem_period_ps": 1250, "timeout_cycles": 60_000, "memory": IdealMemory(latency_s=20e-9)}
    return run_workload(simulator, workload, **options | more)


def test_each_layer_takes_its_time_at_its_point(simulator, workload):
    result = run(simulator, scheduled(workload, {"a": 3, "b": 200}), operating_points=POINTS)
    assert result.op_requests == 2
    assert result.transition_s == pytest.approx(2.5e-6)
    # Alone, a layer's run has a start and an end of its own (fetching the program, the interrupt): some 100 cycles.
    alone = {}
    for layer, index in zip(LAYERS, POINTS, strict=True):
        period = POINTS[index].core_period_ps
        work = random_workload(load_design("small"), [layer], zero_points=(3, 3), seed=4)
        alone[index] = run(simulator, work, core_period_ps=period).run_cycles * period * 1e-12
    for index, seconds in alone.items():
        assert result.operating_point_s[index] == pytest.approx(seconds, abs=120 * POINTS[index].core_period_ps * 1e-12, rel=0)
    total = sum(result.operating_point_s.values()) + result.transition_s
    assert total == pytest.approx(sum(alone.values()) + 2.5e-6, rel=0.02)
    # To the cycle: every edge belongs to one point.
    cycles = {None: result.operating_point_s[None] / 1e-9, 3: result.operating_point_s[3] / 5e-9, 200: result.operating_point_s[200] / 1.73e-9}
    assert sum(cycles.values()) == pytest.approx(result.run_cycles, abs=3)
    assert cycles[None] < 100


def test_nothing_is_lost_while_the_clock_stands_still(simulator, workload):
    """Outputs are compared bit by bit in every run; here with stalls, and a long way up and down between the same layers."""
    for period in (400, 20_000):
        points = {0: OperatingPoint(core_period_ps=period, transition_s=30e-6), 255: OperatingPoint(core_period_ps=1000)}
        result = run(simulator, scheduled(workload, {"a": 0, "b": 255}), operating_points=points, stall_probability=0.3, timeout_cycles=200_000)
        assert result.transition_s == pytest.approx(30e-6) and set(result.operating_point_s) == {None, 0, 255}


def test_without_a_table_requests_change_nothing(simulator, workload):
    result = run(simulator, scheduled(workload, {"b": 1}))
    assert result.op_requests == 1 and result.operating_point_s == {} and result.transition_s == 0


def test_an_unknown_point_ends_the_run(simulator, workload):
    with pytest.raises(SimulationError, match="operating point must be one of 3, 200, not 7"):
        run(simulator, scheduled(workload, {"b": 7}), operating_points=POINTS)


def test_a_program_with_operating_points(workload):
    program = with_operating_points(workload.program, {"b": 9})
    index = program.layer("b").first_instruction - 1
    assert program.instruction(index) == (Opcode.OPERATING_POINT, {name: 0 for name in program.instruction(index)[1]} | {"index": 9})
    before = [workload.program.instruction(i) for i in range(workload.program.instructions)]
    assert [program.instruction(i) for i in range(program.instructions) if i != index] == before
    size = workload.program.program_address
    assert np.array_equal(program.image[:size], workload.program.image[:size])
    with pytest.raises(ConfigError, match="layer must be one of a, b"):
        with_operating_points(workload.program, {"c": 1})
    with pytest.raises(ConfigError, match="operating point must be 0 to 255, not 256"):
        with_operating_points(workload.program, {"a": 256})
