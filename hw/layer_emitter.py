"""One layer's part of a program: its weights and parameters in the order they are loaded, and its instructions.

Hazards are guarded by tokens that are matched one to one, so that no token is ever left over:

* the last LOAD or FILL of a group gives a token to the COMPUTE of its step; if step i + 2 has a group, COMPUTE i gives one to it
  (the first instruction of that group takes it);
* the last COMPUTE of an output tile gives a token to its STOREs; the last STORE of tile e gives one to tile e + 2, which is written to
  the same place;
* the last STORE of a layer gives a token to the first LOAD of the next layer.

Every instruction stands behind those whose tokens it takes: run one after the other they would finish, so they cannot
lock up. The loads of step i + 2 and the stores of step i, which wait for the same COMPUTE, are interleaved.
"""

import numpy as np

from hw.config import PARAMETER_BYTES, AcceleratorConfig
from hw.errors import ConfigError
from hw.golden import BIAS_BITS, QuantizedLayer, value_range
from hw.isa import Opcode, Target
from hw.lowering import LoweredLayer, Lowering
from hw.program import CompiledLayer
from hw.schedule import Place, Step, schedule
from hw.tensors import MemoryMap, Region, align, pack_words
from hw.tile_plan import (
    ALL,
    PROBLEMS,
    Architecture,
    Plan,
    Tiling,
    activation_splits,
    architecture,
    inside,
    plan,
    stripe_rows,
    stripes,
    tile_columns,
    weight_pieces,
)  # fmt: skip

Instruction = tuple[Opcode, dict[str, int]]


def _hardware_parameters(config: AcceleratorConfig, layer: QuantizedLayer) -> np.ndarray:
    """(out_channels, 8) bytes: bias with the input's zero point folded in, multiplier, shift. Refuses what the hardware cannot hold."""
    name, shape = layer.shape.name, layer.shape
    low, high = value_range(config.precision.weight_bits)
    if layer.weights.size and (layer.weights.min() < low or layer.weights.max() > high):
        raise ConfigError(f"weights must be {low} to {high}, not {layer.weights.min()} to {layer.weights.max()} ({name})")
    if shape.kind in ("matmul", "transpose") and (layer.input_zero_point or layer.second_zero_point):
        zeros = f"{layer.input_zero_point} and {layer.second_zero_point}"
        raise ConfigError(f"zero points of a product of activations must be 0, not {zeros} ({name}); quantize its operands symmetrically, to signed integers")
    magnitude, offset = _weight_sums(layer, config.precision.weight_bits)
    largest = magnitude << config.precision.activation_bits - 1
    if largest >= 1 << config.array.acc_bits - 1:
        raise ConfigError(f"acc_bits must be such that a sum of {largest} fits, not {config.array.acc_bits} ({name}); use more bits or smaller weights")
    activation_low, activation_high = value_range(config.precision.activation_bits)
    for field in ("input_zero_point", "second_zero_point", "output_zero_point", "clip_low", "clip_high"):
        if not activation_low <= getattr(layer, field) <= activation_high:
            raise ConfigError(f"{field} must be {activation_low} to {activation_high}, not {getattr(layer, field)} ({name})")
    bias = layer.bias - offset
    if np.abs(bias).max() >= 1 << BIAS_BITS - 1:
        raise ConfigError(f"bias must fit {BIAS_BITS} bits with the input's zero point folded in, not {bias[np.abs(bias).argmax()]} ({name})")
    bias = np.broadcast_to(bias, layer.multiplier.shape)
    words = (bias & 0xFFFFFFFF) | layer.multiplier << 32 | layer.shift << 48
    return words.astype("<i8").view(np.uint8).reshape(-1, PARAMETER_BYTES)


def _weight_sums(layer: QuantizedLayer, weight_bits: int) -> tuple[int, np.ndarray | int]:
    """(largest sum of the weights' magnitudes over the channels, what the zero points add to the sums)."""
    s, zero = layer.shape, layer.input_zero_point
    if s.kind == "average_pool":
        return s.kernel_h * s.kernel_w, zero * s.kernel_h * s.kernel_w
    if s.kind == "max_pool":
        return 1, zero
    if s.kind == "add":
        sums = layer.weights.sum(axis=1, dtype=np.int64)
        return int(sums.sum()), zero * sums[0] + layer.second_zero_point * sums[1]
    if s.kind == "transpose":
        return 1, 0
    if s.kind == "matmul":  # its weights are activations, of which the bits are all that is known
        return s.in_channels // s.groups << weight_bits - 1, 0
    weights = layer.weights.reshape(s.out_channels, -1)
    return int(np.abs(weights, dtype=np.int64).sum(axis=1).max()), zero * weights.sum(axis=1, dtype=np.int64)


class LayerEmitter:
    """Makes one layer's weight and parameter images and its instructions."""

    def __init__(self, config: AcceleratorConfig, layer: QuantizedLayer, lowering: Lowering, tiling: Tiling):
        self.config, self.layer, self.lowering, self.tiling = config, layer, lowering, tiling
        self.arch: Architecture = architecture(config)
        self.numbers: LoweredLayer = lowering.numbers
        self.plan: Plan = plan(self.arch, self.numbers, tiling)
        if self.plan.problem:
            raise ConfigError(f"tiling must fit the {PROBLEMS[self.plan.problem]}, not {tuple(tiling)} ({layer.shape.name})")
        self.input: Region
        self.second: Region | None = None
        self.output: Region
        self.weights: Region
        self.parameters: Region
        self.weight_tiles: dict[tuple[int, int, int, int], tuple[int, int]] = {}
        """(group, k_tile, subtile, c_part) -> (byte offset, words a column) in the weight image."""
        self.parameter_pitch = align(tiling.tile_k * PARAMETER_BYTES)

    # Memory

    def place(
        self, source: Region, memory_map: MemoryMap, contents: dict[str, np.ndarray], second: Region | None = None, output: Region | None = None
    ) -> None:
        """Give the layer its regions, and fill those of weights and parameters. `source` and `second` hold `lowering.input` and `lowering.second`;
        without `output` it gets a region of its own."""
        name = self.layer.shape.name
        weights, parameters = self._weight_image(), self._parameter_image()
        self.input, self.second = source, second
        self.weights = memory_map.add(f"{name}.weights", weights.size)
        self.parameters = memory_map.add(f"{name}.parameters", parameters.size)
        self.output = output or memory_map.add(f"{name}.output", self.lowering.output.size_bytes, write=True)
        contents[self.weights.name], contents[self.parameters.name] = weights, parameters

    def _tile_channels(self, k_tile: int) -> int:
        """Output channels computed in a k tile: whole blocks of channel_block."""
        return min(self.tiling.tile_k, align(self.numbers.k_per_group, self.config.channel_block) - k_tile * self.tiling.tile_k)

    def _weight_image(self) -> np.ndarray:
        a, t, p = self.arch, self.tiling, self.plan
        if self.numbers.product:
            return np.zeros(0, dtype=np.uint8)
        weights = self.lowering.expand_weights(self.layer.weights)
        groups, _, channels, kernel_h, kernel_w = weights.shape
        pieces, size = [], 0
        for group in range(groups):
            for k_tile in range(p.k_tiles):
                first, count = k_tile * t.tile_k, self._tile_channels(k_tile)
                tile = np.zeros((count, channels, kernel_h, kernel_w), dtype=weights.dtype)
                valid = weights[group, first : first + count]
                tile[: len(valid)] = valid
                # [pass][col][c_group][lane][r][s] -> [pass][r][s][c_group][col][lane]
                words = tile.reshape(-1, a.cols, channels // a.lanes, a.lanes, kernel_h, kernel_w).transpose(0, 4, 5, 2, 1, 3)
                for subtile in range(p.subtiles):
                    passes = words[subtile : subtile + 1] if p.c_parts > 1 else words
                    for c_part in range(p.c_parts):
                        part = passes[:, :, :, c_part * t.tile_c : (c_part + 1) * t.tile_c]
                        data = pack_words(part.reshape(-1), a.weight_bits)
                        self.weight_tiles[group, k_tile, subtile, c_part] = size, part.size // (a.cols * a.lanes)
                        pieces.append(np.pad(data, (0, align(data.size) - data.size)))
                        size += pieces[-1].size
        return np.concatenate(pieces)

    def _parameter_image(self) -> np.ndarray:
        t, p, n = self.tiling, self.plan, self.numbers
        parameters = _hardware_parameters(self.config, self.layer)
        if n.uniform:
            image = np.zeros((1, self.parameter_pitch), dtype=np.uint8)
            image[0, : t.tile_k * PARAMETER_BYTES] = np.tile(parameters[0], t.tile_k)
            return image.reshape(-1)
        image = np.zeros((n.groups, p.k_tiles, self.parameter_pitch), dtype=np.uint8)
        for group in range(n.groups):
            for k_tile in range(p.k_tiles):
                first = k_tile * t.tile_k
                valid = parameters[group * n.k_per_group + first : group * n.k_per_group + min(first + t.tile_k, n.k_per_group)].reshape(-1)
                image[group, k_tile, : valid.size] = valid
        return image.reshape(-1)

    @property
    def fill_value(self) -> int:
        """What padding holds: the zero point, and what no maximum takes notice of for max pooling."""
        return value_range(self.config.precision.activation_bits)[0] if self.layer.shape.kind == "max_pool" else self.layer.input_zero_point

    def _parameter_base(self, step: Step, slot: int) -> int:
        """Where the parameters of a step's k tile lie in the banks, counted in channels."""
        if self.numbers.uniform:
            return 0
        if self.plan.parameters_hold == ALL:
            return step.group * align(self.numbers.k_per_group, self.config.channel_block) + step.k_tile * self.tiling.tile_k
        return slot * self.tiling.tile_k

    # Instructions

    def emit(self, *, first: bool, last: bool) -> list[Instruction]:
        """The layer's instructions. `first`, `last`: whether it is the first or last layer of the program."""
        plan_ = self.plan
        order = schedule(self.numbers, self.tiling, plan_)
        steps = order.steps
        groups: list[list[Instruction]] = [[] for _ in steps]
        weight_spread = [place.step - place.first_group + 1 for place in order.weights.loads]
        for place in order.activations.loads:
            self._spread(groups, place, self._load_activations(steps[place.step], place))
        for place, spread in zip(order.weights.loads, weight_spread, strict=True):
            self._spread(groups, place, self._load_weights(steps[place.step], place.slot, spread))
        for place in order.parameters.loads:
            self._spread(groups, place, [self._load_parameters(steps[place.step], place.slot)])

        parts = plan_.subtiles * plan_.c_parts
        tiles = len(steps) // parts
        stores: list[list[Instruction]] = [[] for _ in steps]
        for tile in range(tiles):
            stores[(tile + 1) * parts - 1] = self._store(steps[tile * parts], tile, tiles, last)

        program: list[Instruction] = []
        for i, step in enumerate(steps):
            group = groups[i]
            if group:
                if i >= 2:
                    group[0][1]["wait_compute"] = 1
                if i == 0 and not first:
                    group[0][1]["wait_store"] = 1
                group[-1][1]["signal_compute"] = 1
            program += _interleave(group, stores[i - 2] if i >= 2 else [])
            if i == 0:
                program.append(self._configure())
            tile, part = divmod(i, parts)
            fields = self._compute(step, order.activations.slots[i], order.weights.slots[i], order.parameters.slots[i], tile)
            # The token of the first group is taken by CONFIGURE, which so comes after all of the layer before.
            fields["wait_load"] = int(bool(group) and i > 0)
            fields["signal_load"] = int(i + 2 < len(steps) and bool(groups[i + 2]))
            fields["wait_store"] = int(tile >= 2 and part == plan_.c_parts - 1)
            fields["signal_store"] = int(part == parts - 1)
            program.append((Opcode.COMPUTE, fields))
        for tail in stores[max(0, len(steps) - 2) :]:
            program += tail
        return program

    def compiled(self, first_instruction: int, instructions: int) -> CompiledLayer:
        return CompiledLayer(
            lowering=self.lowering,
            tiling=self.tiling,
            input_zero_point=self.layer.input_zero_point,
            input=self.input,
            output=self.output,
            second=self.second,
            first_instruction=first_instruction,
            instructions=instructions,
        )

    @staticmethod
    def _spread(groups: list[list[Instruction]], place: Place, instructions: list[Instruction]) -> None:
        """Distribute a thing's instructions evenly over the groups in which it may be loaded."""
        gap = place.step - place.first_group + 1
        for i, instruction in enumerate(instructions):
            groups[place.first_group + i * gap // len(instructions)].append(instruction)

    def _configure(self) -> Instruction:
        n, p, t, q = self.numbers, self.plan, self.tiling, self.layer
        plane = p.region_h * p.region_w
        return Opcode.CONFIGURE, {
            "wait_load": 1,
            "kernel_h": n.kernel_h,
            "kernel_w": n.kernel_w // n.taps,
            "act_x_stride": n.stride_w if t.tile_w > 1 else 0,
            "act_y_stride": n.stride_h * p.region_w if t.tile_h > 1 else 0,
            "act_r_stride": n.dilation * p.region_w if n.kernel_h > 1 else 0,
            "act_s_stride": n.dilation if n.kernel_w > 1 else 0,
            "act_c_stride": plane if n.c_groups > 1 else 0,
            "output_group_stride": t.tile_h * t.tile_w if t.tile_k > self.arch.lanes else 0,
            "zero_point": q.output_zero_point,
            "clip_low": q.clip_low,
            "clip_high": q.clip_high,
            "taps": n.taps if n.taps > 1 else 0,
            "maximum": int(q.shape.kind == "max_pool"),
        }

    def _compute(self, step: Step, activation_slot: int, weight_slot: int, parameter_slot: int, tile: int) -> dict[str, int]:
        n, p, t = self.numbers, self.plan, self.tiling
        tile_h, working = stripes(self.arch, n, t, step.y_tile)
        return {
            "act_base": activation_slot * p.activation_tile_words,
            "weight_base": weight_slot * p.weight_tile_words,
            "parameter_base": self._parameter_base(step, parameter_slot) + step.subtile * self.arch.cols,
            "output_base": tile % 2 * p.output_tile_words,
            "tile_h": tile_h,
            "tile_w": min(t.tile_w, n.out_w - step.x_tile * t.tile_w),
            "c_groups": min(t.tile_c, n.c_groups - step.c_part * t.tile_c),
            "passes": self._tile_channels(step.k_tile) // self.arch.cols if p.c_parts == 1 else 1,
            "row_mask": (1 << working) - 1,
            "accumulate": int(step.c_part > 0),
            "emit": int(step.c_part == p.c_parts - 1),
            "channel_offset": step.subtile * self.arch.cols,
        }

    def _load_weights(self, step: Step, slot: int, spread: int) -> list[Instruction]:
        if self.numbers.product:
            return [self._load_product_weights(step, slot)]
        group = 0 if self.numbers.shared else step.group
        offset, words = self.weight_tiles[group, step.k_tile, step.subtile, step.c_part]
        size, pieces = weight_pieces(self.arch, words, spread)
        return [
            (
                Opcode.LOAD,
                {
                    "target": Target.WEIGHT,
                    "dram_address": self.weights.address + offset + i * size * self.config.weight_word_bytes * self.arch.cols,
                    "run_words": min(size, words - i * size),
                    "count1": 1,
                    "count2": 1,
                    "address_a": slot * self.plan.weight_tile_words + i * size,
                },
            )
            for i in range(pieces)
        ]

    def _load_product_weights(self, step: Step, slot: int) -> Instruction:
        """Vectors of the second operand as the weights of the tile's output channels: in the bank pass after pass, each with its words of channels."""
        t, n, cols = self.tiling, self.numbers, self.config.array.cols
        layout = self.lowering.second
        first = step.k_tile * t.tile_k + step.subtile * cols
        c_first, c_groups = step.c_part * t.tile_c, min(t.tile_c, n.c_groups - step.c_part * t.tile_c)
        passes = self._tile_channels(step.k_tile) // cols if self.plan.c_parts == 1 else 1
        fields = {"run_words": passes, "count1": 1, "count2": 1}
        if n.c_groups > 1:
            fields = {
                "run_words": 1, "count1": c_groups, "stride1_bytes": layout.plane_pitch_bytes, "bank_stride1": 1,
                "count2": passes, "stride2_bytes": cols * layout.word_bytes, "bank_stride2": c_groups,
            }  # fmt: skip
        start = self.second.address + self.lowering.second_offset(step.image, step.group)
        address = start + c_first * layout.plane_pitch_bytes + first * layout.word_bytes
        return Opcode.LOAD, {"target": Target.WEIGHT, "dram_address": address, "address_a": slot * self.plan.weight_tile_words, **fields}

    def _load_parameters(self, step: Step, slot: int) -> Instruction:
        tile = 0 if self.numbers.uniform else step.group * self.plan.k_tiles + step.k_tile
        return Opcode.LOAD, {
            "target": Target.PARAMETER,
            "dram_address": self.parameters.address + tile * self.parameter_pitch,
            "run_words": self._tile_channels(step.k_tile),
            "count1": 1,
            "count2": 1,
            "address_a": self._parameter_base(step, slot) // self.arch.post_lanes,
        }

    def _load_activations(self, step: Step, place: Place) -> list[Instruction]:
        """LOADs of what lies in the image and FILLs of the padding of a spatial tile's stripes."""
        a, n, t, p = self.arch, self.numbers, self.tiling, self.plan
        base, pitch = place.slot * p.activation_tile_words, p.region_w
        tile_h, working = stripes(a, n, t, step.y_tile)
        rows = [stripe_rows(a, n, t, step.y_tile, stripe) for stripe in range(working)]
        first_x, end_x = tile_columns(n, t, step.x_tile)
        left, right, _ = inside(first_x, end_x, n.in_w)
        whole_rows = p.x_tiles == 1 and right - left == pitch and n.in_row_bytes == pitch * self.config.activation_word_bytes

        boxes: list[tuple[Opcode, dict[str, int], int, int, int]] = []  # opcode, banks and addresses, image row, rows, width
        for low, high in _outside(first_x, end_x, n.in_w):
            boxes.append((Opcode.FILL, {"banks_a": (1 << working) - 1, "address_a": base + low - first_x}, 0, rows[0][1] - rows[0][0], high - low))
        for stripe, (first, end) in enumerate(rows):
            for low, high in _outside(first, end, n.in_h):
                boxes.append((Opcode.FILL, {"banks_a": 1 << stripe, "address_a": base + (low - first) * pitch}, 0, high - low, end_x - first_x))
        if right > left:
            edges = sorted({edge for first, end in rows for edge in inside(first, end, n.in_h)[:2]})
            for low, high in zip(edges, edges[1:], strict=False):
                sharing = [stripe for stripe, (first, end) in enumerate(rows) if first <= low and high <= end]
                for one, *other in (sharing[i : i + 2] for i in range(0, len(sharing), 2)):
                    banks = {"banks_a": 1 << one, "address_a": base + (low - rows[one][0]) * pitch + left - first_x}
                    for two in other:
                        banks |= {"banks_b": 1 << two, "address_b": base + (low - rows[two][0]) * pitch + left - first_x}
                    boxes.append((Opcode.LOAD, banks, low, high - low, right - left))

        c_first = step.c_part * t.tile_c
        c_groups = min(t.tile_c, n.c_groups - c_first)
        splits = activation_splits(c_groups, len(boxes) * n.operands, place.step - place.first_group + 1)
        sources = [self.input.address + self.lowering.input_offset(step.image, step.group)]
        if n.operands == 2:  # an add's reduction is not split: the first half of its words is of the first operand
            sources.append(self.second.address + self.lowering.second_offset(step.image, step.group))
        pieces = [(split * c_groups // splits, (split + 1) * c_groups // splits, sources[0]) for split in range(splits)]
        if n.operands == 2:
            pieces = [(i * c_groups // 2, (i + 1) * c_groups // 2, source - i * c_groups // 2 * n.in_plane_bytes) for i, source in enumerate(sources)]
        instructions = []
        for skip, until, source in pieces:
            for opcode, banks, row, height, width in boxes:
                fields = {key: value + skip * p.region_h * pitch if key.startswith("address") else value for key, value in banks.items()}
                fields |= _runs(width, height, until - skip, pitch, p.region_h * pitch, n.in_row_bytes, n.in_plane_bytes, whole_rows or opcode is Opcode.FILL)
                if opcode is Opcode.FILL:
                    fields |= {"fill_value": self.fill_value, "stride1_bytes": 0, "stride2_bytes": 0}
                else:
                    x_bytes = left * self.config.activation_word_bytes
                    fields["dram_address"] = source + (c_first + skip) * n.in_plane_bytes + row * n.in_row_bytes + x_bytes
                instructions.append((opcode, {"target": Target.ACTIVATION, **fields}))
        return instructions

    def _store(self, step: Step, tile: int, tiles: int, last_layer: bool) -> list[Instruction]:
        """STOREs of one output tile, one a working row; padded rows and channels are left out."""
        a, n, t, p = self.arch, self.numbers, self.tiling, self.plan
        layout = self.lowering.output
        tile_h, working = stripes(a, n, t, step.y_tile)
        width = min(t.tile_w, n.out_w - step.x_tile * t.tile_w)
        first_plane = step.k_tile * t.tile_k // a.lanes
        planes = min(t.tile_k // a.lanes, -(-n.k_per_group // a.lanes) - first_plane)
        start = self.output.address + self.lowering.output_offset(step.image, step.group)
        whole_rows = p.x_tiles == 1 and n.out_row_bytes == width * layout.word_bytes
        instructions = []
        for stripe in range(working):
            row = step.y_tile * a.rows * t.tile_h + stripe * tile_h
            height = min(tile_h, n.out_h - row)
            fields = _runs(width, height, planes, width, t.tile_h * t.tile_w, n.out_row_bytes, n.out_plane_bytes, whole_rows)
            fields["dram_address"] = start + layout.word_offset(0, first_plane, row, step.x_tile * t.tile_w)
            instructions.append((Opcode.STORE, {"bank": stripe, "output_address": tile % 2 * p.output_tile_words, **fields}))
        instructions[0][1]["wait_compute"] = 1
        instructions[-1][1]["signal_compute"] = int(tile + 2 < tiles)
        instructions[-1][1]["signal_load"] = int(tile == tiles - 1 and not last_layer)
        return instructions


def _outside(first: int, end: int, size: int) -> list[tuple[int, int]]:
    """The pieces of [first, end) that lie outside of [0, size)."""
    low, high, _ = inside(first, end, size)
    if low == high:
        return [(first, end)]
    return [piece for piece in ((first, low), (high, end)) if piece[0] < piece[1]]


def _runs(width: int, height: int, depth: int, pitch: int, plane: int, row_bytes: int, plane_bytes: int, whole_rows: bool) -> dict[str, int]:
    """The fields that describe `depth` x `height` runs of `width` words, with fewer and longer runs where they follow on each other.

    `pitch` and `plane` are bank words from row to row and plane to plane, `row_bytes` and `plane_bytes` DRAM bytes.
    `whole_rows`: whether rows follow on each other in DRAM.
    """
    if not (whole_rows and width == pitch):
        strides = {"stride1_bytes": row_bytes, "bank_stride1": pitch, "stride2_bytes": plane_bytes, "bank_stride2": plane}
        return {"run_words": width, "count1": height, "count2": depth, **strides}
    if height * pitch == plane and height * row_bytes == plane_bytes:
        return {"run_words": width * height * depth, "count1": 1, "count2": 1}
    return {"run_words": width * height, "count1": depth, "stride1_bytes": plane_bytes, "bank_stride1": plane, "count2": 1}


def _interleave(a: list[Instruction], b: list[Instruction]) -> list[Instruction]:
    """Both lists in their order, evenly mixed."""
    keyed = [((i + 0.5) / len(part), which, item) for which, part in enumerate((a, b)) for i, item in enumerate(part)]
    return [item for _, _, item in sorted(keyed, key=lambda entry: entry[:2])]
