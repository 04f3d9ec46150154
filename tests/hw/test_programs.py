"""Programs written by hand on the emitted Verilog: a depthwise layer with kept words, its output copied between rows, max pooling of the copy."""

import random

import numpy as np
import pytest
from block_bench import variant
from compute_reference import requantize

from hw.emit import emit
from hw.isa import INSTRUCTION_BYTES, Opcode, Target, encode
from hw.registers import Cause
from hw.sim.run import IdealMemory, MemoryRegion, build, simulate
from hw.tools import BUILD_DIR

CONFIG = variant("small", array={"depthwise_taps": 3}, buffers={"activation_bank_bytes": 1024, "weight_bank_bytes": 512, "output_bank_bytes": 512})
LANES, ROWS, COLS = 4, 2, 2
PROGRAM, IMAGE, WEIGHTS, PARAMETERS, FIRST, SECOND = 0x0, 0x1000, 0x2000, 0x3000, 0x4000, 0x5000
HEIGHT, WIDTH = 10, 8
"""Of the image, padding included; rows make 4 output rows each from 6 of it."""


@pytest.fixture(scope="module")
def simulator(tmp_path_factory):
    bundle = emit(CONFIG, tmp_path_factory.mktemp("rtl"))
    BUILD_DIR.mkdir(exist_ok=True)
    return build(verilog=bundle.verilog, axi_data_bits=CONFIG.memory.axi_data_bits)


def depthwise_columns(kernel: np.ndarray) -> bytes:
    """Weights (channel, kernel row, kernel column) as they are loaded: [pass][row][column bank][lane = kernel column]."""
    words = np.zeros((LANES // COLS, 3, COLS, LANES), np.int8)
    for channel in range(LANES):
        words[channel // COLS, :, channel % COLS, :3] = kernel[channel]
    return words.tobytes()


def pooling_columns() -> bytes:
    """Weight 1 at each channel's own lane, for four kernel positions."""
    words = np.zeros((LANES // COLS, 4, COLS, LANES), np.int8)
    for channel in range(LANES):
        words[channel // COLS, :, channel % COLS, channel] = 1
    return words.tobytes()


def program() -> bytes:
    """Row r makes output rows 4 r and up of the depthwise layer; the other row pools them."""
    size = {"count1": 1, "count2": 1}
    code = []
    for row in range(ROWS):
        code.append(encode(Opcode.LOAD, target=Target.ACTIVATION, dram_address=IMAGE + 4 * row * WIDTH * LANES, run_words=6 * WIDTH, banks_a=1 << row, **size))
    code.append(encode(Opcode.LOAD, target=Target.PARAMETER, dram_address=PARAMETERS, run_words=2 * LANES, **size))
    code.append(encode(Opcode.LOAD, target=Target.WEIGHT, dram_address=WEIGHTS, run_words=6 + 8, signal_compute=1, **size))
    output = {"clip_low": -128, "clip_high": 127}
    code.append(encode(Opcode.CONFIGURE, kernel_h=3, kernel_w=1, act_x_stride=1, act_y_stride=WIDTH, act_r_stride=WIDTH, act_s_stride=1, taps=3, zero_point=5,
                       **output))  # fmt: skip
    code.append(encode(Opcode.COMPUTE, wait_load=1, signal_load=1, signal_store=1, tile_h=4, tile_w=6, c_groups=1, passes=2, row_mask=3, emit=1))
    for row in range(ROWS):  # with gaps between lines, into the other row's bank, while the store engine reads the same banks
        code.append(encode(Opcode.COPY, wait_compute=row == 0, signal_compute=row == 1, source_bank=row, run_words=6, count1=4, source_stride1=6,
                           bank_stride1=7, count2=1, banks_a=2 >> row, address_a=100))  # fmt: skip
        code.append(encode(Opcode.STORE, wait_compute=row == 0, bank=row, dram_address=FIRST + row * 24 * LANES, run_words=24, **size))
    code.append(encode(Opcode.CONFIGURE, kernel_h=2, kernel_w=2, act_x_stride=2, act_y_stride=14, act_r_stride=7, act_s_stride=1, maximum=1, **output))
    code.append(encode(Opcode.COMPUTE, wait_load=1, signal_store=1, act_base=100, weight_base=6, parameter_base=LANES, output_base=64, tile_h=2, tile_w=3,
                       c_groups=1, passes=2, row_mask=3, emit=1))  # fmt: skip
    for row in range(ROWS):
        code.append(encode(Opcode.STORE, wait_compute=row == 0, bank=row, output_address=64, dram_address=SECOND + row * 6 * LANES, run_words=6, **size))
    return b"".join([*code, encode(Opcode.END)])


def memory_and_outputs(seed: int) -> tuple[bytearray, np.ndarray, np.ndarray]:
    """The memory before, and both layers' outputs (h, w, channel) by plain loops."""
    draw = random.Random(seed)
    image = np.array([draw.choice([-128, 127, draw.randrange(-128, 128)]) for _ in range(HEIGHT * WIDTH * LANES)]).reshape(HEIGHT, WIDTH, LANES)
    kernel = np.array([draw.choice([-128, 127, draw.randrange(-128, 128)]) for _ in range(LANES * 9)]).reshape(LANES, 3, 3)
    parameters = [(draw.randrange(-9999, 9999), draw.randrange(1, 2**16), draw.randrange(22, 26)) for _ in range(LANES)]
    first = np.zeros((8, 6, LANES), int)
    for y in range(8):
        for x in range(6):
            for c in range(LANES):
                total = int((image[y : y + 3, x : x + 3, c] * kernel[c]).sum())
                first[y, x, c] = requantize(total, *parameters[c], 5, -128, 127)
    rows = [first[4 * row : 4 * row + 4] for row in range(ROWS)]
    second = np.stack([[[rows[1 - row][2 * y : 2 * y + 2, 2 * x : 2 * x + 2].max(axis=(0, 1)) for x in range(3)] for y in range(2)] for row in range(ROWS)])
    scales = b"".join((bias & 2**32 - 1 | multiplier << 32 | shift << 48).to_bytes(8, "little") for bias, multiplier, shift in parameters + [(0, 1, 0)] * 4)
    memory = bytearray(0x6000)
    for address, data in (
        (PROGRAM, program()), (IMAGE, image.astype(np.int8).tobytes()), (WEIGHTS, depthwise_columns(kernel) + pooling_columns()),
        (PARAMETERS, scales),
    ):  # fmt: skip
        memory[address : address + len(data)] = data
    return memory, first, second


def run(simulator, image: bytes, *, write_last: int = 0x5FFF, **more):
    regions = [MemoryRegion(address=0, size_bytes=FIRST), MemoryRegion(address=FIRST, size_bytes=write_last + 1 - FIRST, write=True)]
    return simulate(
        simulator=simulator, image=image, regions=regions, program_address=PROGRAM, program_bytes=len(program()), output_address=FIRST,
        output_bytes=0x2000, timeout_cycles=20_000, memory=IdealMemory(), **({"core_period_ps": 1000, "mem_period_ps": 1000} | more),
    )  # fmt: skip


@pytest.mark.parametrize(("core_ps", "mem_ps", "stall"), [(1000, 1000, 0.0), (1000, 1370, 0.4), (2900, 1000, 0.2), (1000, 7700, 0.0)])
def test_depthwise_copy_and_pooling(simulator, core_ps, mem_ps, stall):
    image, first, second = memory_and_outputs(core_ps + mem_ps)
    result = run(simulator, image, core_period_ps=core_ps, mem_period_ps=mem_ps, stall_probability=stall)
    assert result.cause == Cause.NONE
    stored = result.output.view(np.int8)
    assert np.array_equal(stored[: first.size].reshape(first.shape), first)
    assert np.array_equal(stored[SECOND - FIRST :][: second.size].reshape(second.shape), second)

    # 24 pixels of a stripe in lines of 6 and blocks of 4: 3 words where a line or a block begins (8 pixels), else 1; for 3 kernel rows, in 2 passes.
    pixels, begins, pooled = 24, 8, 6
    words = 2 * 3 * (3 * begins + (pixels - begins)) + 2 * 4 * pooled
    dot_products = 2 * 3 * pixels + 2 * 4 * pooled
    events = result.events
    assert events["compute_busy"] == words and events["activation_reads"] == ROWS * words
    assert events["multiplier_uses"] == ROWS * COLS * LANES * dot_products and events["accumulator_accesses"] == ROWS * COLS * dot_products
    assert events["output_reads"] == ROWS * (24 + 24 + pooled)
    assert events["activation_writes"] == ROWS * (6 * WIDTH + 24)
    assert events["dram_write_bytes"] == first.size + second.size


def test_outside_the_windows_nothing_is_written_or_read(simulator):
    """The write window ends before the second output: the first is there, nothing else, and the cause names the instruction."""
    image, first, _ = memory_and_outputs(1)
    result = run(simulator, image, write_last=SECOND - 1)
    assert result.cause == Cause.WRITE_OUTSIDE
    assert result.error_address // INSTRUCTION_BYTES in (12, 13)
    assert np.array_equal(result.output.view(np.int8)[: first.size].reshape(first.shape), first)
    image[3 * INSTRUCTION_BYTES : 4 * INSTRUCTION_BYTES] = encode(
        Opcode.LOAD, target=Target.WEIGHT, dram_address=0x7000, run_words=14, signal_compute=1, count1=1, count2=1
    )
    result = run(simulator, image)
    assert (result.cause, result.error_address) == (Cause.READ_OUTSIDE, 3 * INSTRUCTION_BYTES)


def test_a_program_that_waits_for_ever_is_stopped(simulator):
    image, *_ = memory_and_outputs(2)
    image[5 * INSTRUCTION_BYTES : 6 * INSTRUCTION_BYTES] = encode(
        Opcode.COMPUTE, wait_load=1, wait_store=1, tile_h=4, tile_w=6, c_groups=1, passes=2, row_mask=3, emit=1
    )
    result = run(simulator, image)
    assert (result.cause, result.error_address) == (Cause.DEADLOCK, 5 * INSTRUCTION_BYTES)
