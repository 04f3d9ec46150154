"""What the datapath must do, as plain loops over the words of its banks: an independent statement of docs/accelerator.md."""

from collections import Counter

from hw.config import AcceleratorConfig


def signed(value: int, bits: int) -> int:
    """`value` modulo 2^bits as a two's-complement number."""
    value &= (1 << bits) - 1
    return value - (1 << bits) if value >> bits - 1 else value


def requantize(total: int, bias: int, multiplier: int, shift: int, zero_point: int, low: int, high: int) -> int:
    """Scale, round half to even, clip: in integers of any size."""
    product = (total + bias) * multiplier
    quotient, rest = product >> shift, product & ((1 << shift) - 1)
    twice = 2 * rest
    if twice > 1 << shift or (twice == 1 << shift and quotient % 2):
        quotient += 1
    return max(low, min(high, quotient + zero_point))


class Reference:
    """The banks, and the instructions executed on them. Banks are lists of words, a word a list of signed lanes."""

    def __init__(self, config: AcceleratorConfig, draw):
        self.config, array, precision = config, config.array, config.precision

        def words(count: int, bits: int) -> list[list[int]]:
            extremes = [-(1 << bits - 1), (1 << bits - 1) - 1]
            return [[draw.choice([*extremes, draw.randint(*extremes), draw.randint(*extremes)]) for _ in range(array.lanes)] for _ in range(count)]

        self.activations = [words(config.activation_words, precision.activation_bits) for _ in range(array.rows)]
        self.weights = [words(config.weight_words, precision.weight_bits) for _ in range(array.cols)]
        self.parameters = [
            (draw.randint(-(2**draw.randint(1, 31)), 2 ** draw.randint(1, 31) - 1), draw.choice([1, 2**15, 2**16 - 1, draw.randrange(2**16)]),
             draw.choice([0, 1, 63, draw.randrange(64), draw.randint(10, 30), draw.randint(10, 30)]))
            for _ in range(config.buffers.parameter_words)
        ]  # fmt: skip
        self.outputs = [dict[tuple[int, int], int]() for _ in range(array.rows)]  # (word, lane) -> value
        self.sums = {}
        self.settings = {}
        self.events = Counter()

    def configure(self, **settings: int) -> None:
        self.settings = settings

    def compute(self, *, act_base, weight_base, parameter_base, output_base, tile_h, tile_w, c_groups, passes, row_mask, accumulate, emit, channel_offset):
        array, s = self.config.array, self.settings
        steps = s["kernel_h"] * s["kernel_w"] * c_groups
        rows = [row for row in range(array.rows) if row_mask >> row & 1]
        pixels = tile_h * tile_w
        for one_pass in range(passes):
            for start in range(0, pixels, array.acc_depth):
                block = range(start, min(start + array.acc_depth, pixels))
                self.events["weight_reads"] += array.cols * steps
                for row in rows:
                    self._accumulate(row, block, one_pass, steps, s, tile_w, act_base, weight_base, c_groups, accumulate, channel_offset)
                    if emit:
                        self._emit(row, block, one_pass, s, parameter_base, output_base, channel_offset)
        words = passes * steps * self._words_a_step(tile_h, tile_w)
        self.events["compute_busy"] += words
        self.events["activation_reads"] += len(rows) * words
        self.events["accumulator_accesses"] += len(rows) * array.cols * passes * pixels * steps
        self.events["multiplier_uses"] += len(rows) * array.cols * array.lanes * passes * pixels * steps
        if emit:
            self.events["post_outputs"] += len(rows) * passes * pixels * array.cols
            self.events["parameter_reads"] += passes * pixels * array.cols
            self.events["output_writes"] += len(rows) * passes * pixels * max(1, array.cols // array.lanes)

    def _words_a_step(self, tile_h, tile_w) -> int:
        """Words read for one dot product of every pixel: those that the pixel before it did not read, in a block and a line."""
        s, depth = self.settings, self.config.array.acc_depth
        taps = max(1, s["taps"])
        wrap = self.config.activation_words
        new = next((n for n in (1, 2, 4) if n < taps and (s["act_x_stride"] - n * s["act_s_stride"]) % wrap == 0), taps)
        return sum(taps if p % tile_w == 0 or p % depth == 0 else new for p in range(tile_h * tile_w))

    def _accumulate(self, row, block, one_pass, steps, s, tile_w, act_base, weight_base, c_groups, accumulate, channel_offset):
        config, array = self.config, self.config.array
        taps = max(1, s["taps"])
        for p in block:
            y, x = divmod(p, tile_w)
            for col in range(array.cols):
                channel = (channel_offset + one_pass * array.cols + col) % array.lanes
                key = (row, p - block[0], col)
                total = self.sums[key] if accumulate else None
                step = 0
                for r in range(s["kernel_h"]):
                    for ks in range(s["kernel_w"]):
                        for c in range(c_groups):
                            address = act_base + y * s["act_y_stride"] + x * s["act_x_stride"]
                            address += r * s["act_r_stride"] + taps * ks * s["act_s_stride"] + c * s["act_c_stride"]
                            words = [self.activations[row][(address + k * s["act_s_stride"]) % config.activation_words] for k in range(taps)]
                            a = [word[channel] for word in words] if taps > 1 else words[0]
                            w = self.weights[col][(weight_base + one_pass * steps + step) % config.weight_words]
                            assert not any(w[len(a) :]), "lanes beyond the taps need weight 0"
                            dot = sum(i * j for i, j in zip(a, w, strict=False))
                            if total is None:
                                total = dot
                            elif s["maximum"]:
                                total = max(total, dot)
                            else:
                                total += dot
                            step += 1
                self.sums[key] = signed(total, array.acc_bits)

    def _emit(self, row, block, one_pass, s, parameter_base, output_base, channel_offset):
        config, array = self.config, self.config.array
        for p in block:
            for col in range(array.cols):
                bias, multiplier, shift = self.parameters[(parameter_base + one_pass * array.cols + col) % config.buffers.parameter_words]
                total = self.sums[row, p - block[0], col]
                y = requantize(total, bias, multiplier, shift, s["zero_point"], s["clip_low"], s["clip_high"])
                group, lane = divmod(channel_offset + one_pass * array.cols + col, array.lanes)
                self.outputs[row][(output_base + group * s["output_group_stride"] + p) % config.output_words, lane] = y
