"""A depthwise layer with kept words (stride 1, 3 x 3), as a program written by hand: for `benchmarks.efficiency`."""

from collections.abc import Callable

import numpy as np

from hw.config import PARAMETER_BYTES, AcceleratorConfig
from hw.isa import Opcode, Target, encode
from hw.layers import LayerShape
from hw.sim.run import MemoryRegion

SHIFT = 8


def program(
    config: AcceleratorConfig, shape: LayerShape, rng: np.random.Generator
) -> tuple[bytes, int, int, list[MemoryRegion], Callable[[np.ndarray], None]]:
    """(memory, program address, program bytes, regions with the output last, check of the output's bytes) of the layer on random data.

    The padded image lies in DRAM. A group of `lanes` channels after the other, in halves of the banks in turn: stripes into the rows, one COMPUTE, one
    STORE a row. The host has written the padding; outputs are the sums, divided by 2^SHIFT and clipped.
    """
    a = config.array
    lanes, rows, cols = a.lanes, a.rows, min(a.cols, a.lanes)
    groups, height, width = shape.in_channels // lanes, shape.in_h + 2, shape.in_w + 2
    stripe, out_w = -(-shape.out_h // rows), shape.out_w
    region, passes = (stripe + 2) * width, max(1, lanes // a.cols)
    assert a.depthwise_taps >= 3 and a.cols <= lanes and (shape.stride_w, shape.kernel_w, shape.kernel_h) == (1, 3, 3)
    assert 2 * region <= config.activation_words and 2 * stripe * out_w <= config.output_words and shape.out_h % rows == 0

    x = rng.integers(-128, 128, (groups, height, width, lanes))
    w = rng.integers(-127, 128, (groups, lanes, 3, 3))
    words = np.zeros((groups, passes, 3, a.cols, lanes), np.int8)
    for channel in range(lanes):
        words[:, channel // cols, :, channel % cols, :3] = w[:, channel]
    parameters = np.full(lanes, 1 << 32 | SHIFT << 48, dtype="<i8")

    sections = {"image": x.astype(np.int8), "weights": words, "parameters": parameters}
    address, memory = {}, bytearray()
    for name, data in sections.items():
        address[name] = len(memory)
        memory += data.tobytes().ljust(-(-data.nbytes // 4096) * 4096, b"\0")
    code_address, output_bytes = len(memory), groups * shape.out_h * out_w * lanes

    size, weight_words = {"count1": 1, "count2": 1}, passes * 3
    code = [encode(Opcode.LOAD, target=Target.PARAMETER, dram_address=address["parameters"], run_words=lanes * PARAMETER_BYTES // 8, **size)]
    code.append(encode(Opcode.CONFIGURE, kernel_h=3, kernel_w=1, act_x_stride=1, act_y_stride=width, act_r_stride=width, act_s_stride=1, taps=3,
                       clip_low=-128, clip_high=127))  # fmt: skip
    loads, computes, stores = [], [], []
    output = code_address + 16384
    for g in range(groups):
        half = g % 2
        bank = half * (config.activation_words // 2)
        load = [encode(Opcode.LOAD, wait_compute=g >= 2, target=Target.WEIGHT, dram_address=address["weights"] + g * weight_words * a.cols * lanes,
                       run_words=weight_words, address_a=half * weight_words, **size)]  # fmt: skip
        for row in range(rows):
            source = address["image"] + (g * height + row * stripe) * width * lanes
            load.append(encode(Opcode.LOAD, target=Target.ACTIVATION, dram_address=source, run_words=region, banks_a=1 << row, address_a=bank,
                               signal_compute=row == rows - 1, **size))  # fmt: skip
        loads.append(load)
        out = half * (config.output_words // 2)
        computes.append(encode(Opcode.COMPUTE, wait_load=1, wait_store=g >= 2, signal_load=g + 2 < groups, signal_store=1, act_base=bank,
                               weight_base=half * weight_words, output_base=out, tile_h=stripe, tile_w=out_w, c_groups=1, passes=passes,
                               row_mask=(1 << rows) - 1, emit=1))  # fmt: skip
        stores.append([
            encode(Opcode.STORE, wait_compute=row == 0, signal_compute=row == rows - 1 and g + 2 < groups, bank=row, output_address=out,
                   run_words=stripe * out_w, dram_address=output + (g * shape.out_h + row * stripe) * out_w * lanes, **size)
            for row in range(rows)
        ])  # fmt: skip
    code += loads[0] + (loads[1] if groups > 1 else [])
    for g in range(groups):
        code += [computes[g], *stores[g], *(loads[g + 2] if g + 2 < groups else [])]
    code.append(encode(Opcode.END))
    text = b"".join(code)
    assert len(text) <= 16384

    sums = sum(x[:, r : r + shape.out_h, s : s + out_w] * w[:, None, None, :, r, s] for r in range(3) for s in range(3))
    quotient, rest = sums >> SHIFT, sums & ((1 << SHIFT) - 1)
    half_way = 1 << SHIFT - 1
    expected = np.clip(quotient + ((rest > half_way) | ((rest == half_way) & (quotient % 2 == 1))), -128, 127).astype(np.int8)

    def check(found: np.ndarray) -> None:
        assert np.array_equal(found.view(np.int8).reshape(expected.shape), expected), "outputs differ"

    regions = [MemoryRegion(address=0, size_bytes=output), MemoryRegion(address=output, size_bytes=output_bytes, write=True)]
    return bytes(memory) + text, code_address, len(text), regions, check
