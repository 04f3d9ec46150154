"""One layer's part of a program: its instructions, in the order in which they can run.

Hazards are guarded by tokens that are matched one to one, so that no token is ever left over:

* the last LOAD or FILL of a group gives a token to the COMPUTE of its step; if step i + 2 has a group, COMPUTE i gives one to it
  (the first instruction of that group takes it);
* the last COMPUTE of an output tile gives a token to its STOREs; the last STORE of tile e gives one to tile e + 2, which is written to
  the same place;
* the COPYs of an output tile that stays on chip begin the group of the step two behind, so that the same tokens guard them; those of the last two
  steps make groups of their own, which nothing but the order of the load engine separates from the next layer's;
* the last STORE of a layer gives a token to the first LOAD of the next layer.

Every instruction stands behind those whose tokens it takes: run one after the other they would finish, so they cannot
lock up. The loads of step i + 2 and the stores of step i, which wait for the same COMPUTE, are interleaved.
"""

import numpy as np

from hw.config import AcceleratorConfig
from hw.errors import ConfigError
from hw.golden import QuantizedLayer, value_range
from hw.isa import Engine, Opcode, Target
from hw.layer_images import WeightTiles, parameter_image, parameter_pitch, tile_channels, weight_image
from hw.lowering import LoweredLayer, Lowering
from hw.on_chip import Destination, Residence, copies, destinations, tile_words
from hw.program import CompiledLayer
from hw.schedule import Place, Step, schedule
from hw.tensors import MemoryMap, Region, align
from hw.tile_plan import ALL, PROBLEMS, Architecture, Plan, Tiling, activation_splits, architecture, constants_offset, inside, plan, stripes, weight_pieces
from hw.transfers import Instruction, dram_runs, input_boxes, input_tile, interleave, output_tile


class LayerEmitter:
    """Makes one layer's weight and parameter images and its instructions.

    `residence`: which operands the layer before leaves in the activation banks, and where; without, all are loaded. Set `keeper` to the emitter
    of the layer behind if that takes the output from there, and `stored` to False if then nobody needs it in DRAM.
    """

    def __init__(self, config: AcceleratorConfig, layer: QuantizedLayer, lowering: Lowering, tiling: Tiling, residence: Residence | None = None):
        self.config, self.layer, self.lowering, self.tiling, self.residence = config, layer, lowering, tiling, residence
        self.arch: Architecture = architecture(config)
        self.numbers: LoweredLayer = lowering.numbers
        self.plan: Plan = plan(self.arch, self.numbers, tiling)
        if self.plan.problem:
            raise ConfigError(f"tiling must fit the {PROBLEMS[self.plan.problem]}, not {tuple(tiling)} ({layer.shape.name})")
        self.input: Region | None
        self.second: Region | None = None
        self.output: Region | None
        self.weights: Region
        self.parameters: Region
        self.weight_tiles: WeightTiles
        self.keeper: LayerEmitter | None = None
        self.stored = True

    # Memory

    def place(
        self, source: Region | None, memory_map: MemoryMap, contents: dict[str, np.ndarray], second: Region | None = None, output: Region | None = None
    ) -> None:
        """Give the layer its regions, and fill those of weights and parameters. `source` and `second` hold `lowering.input` and `lowering.second` (None if
        they are on chip only); without `output` it gets a region of its own, if the output is stored."""
        name, what = self.layer.shape.name, (self.config, self.layer, self.lowering, self.tiling, self.plan)
        (weights, self.weight_tiles), parameters = weight_image(*what), parameter_image(*what)
        self.input, self.second = source, second
        self.weights = memory_map.add(f"{name}.weights", weights.size)
        self.parameters = memory_map.add(f"{name}.parameters", parameters.size)
        self.output = output
        if output is None and self.stored:
            self.output = memory_map.add(f"{name}.output", self.lowering.output.size_bytes, write=True)
        contents[self.weights.name], contents[self.parameters.name] = weights, parameters

    def _tile_channels(self, k_tile: int) -> int:
        return tile_channels(self.config, self.lowering, self.tiling, k_tile)

    def destinations(self) -> list[Destination]:
        """Where the layer before has to put what is on chip."""
        assert self.residence is not None
        return destinations(self.arch, self.lowering, self.tiling, self.plan, self.residence)

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

    def emit(self, *, after_stores: bool, last: bool) -> list[Instruction]:
        """The layer's instructions. `after_stores`: whether the layer before it in the program has stored its output; `last`: whether it is the program's
        last layer."""
        plan_ = self.plan
        order = schedule(self.numbers, self.tiling, plan_, resident=self.residence is not None)
        steps = order.steps
        groups: list[list[Instruction]] = [[] for _ in range(len(steps) + 2)]
        weight_spread = [place.step - place.first_group + 1 for place in order.weights.loads]
        for place in order.activations.loads:
            self._spread(groups, place, self._load_activations(steps[place.step], place))
        for place, spread in zip(order.weights.loads, weight_spread, strict=True):
            self._spread(groups, place, self._load_weights(steps[place.step], place.slot, spread))
        for place in order.parameters.loads:
            self._spread(groups, place, [self._load_parameters(steps[place.step], place.slot)])
        groups[0][:0] = self._constants()

        parts = plan_.subtiles * plan_.c_parts
        tiles = len(steps) // parts
        stores: list[list[Instruction]] = [[] for _ in steps]
        kept = self.keeper.destinations() if self.keeper else []
        for tile in range(tiles):
            done = (tile + 1) * parts - 1
            if self.stored:
                stores[done] = self._store(steps[done], tile, tiles, last)
            if kept:
                groups[done + 2][:0] = copies(self.arch, self.lowering, self.tiling, steps[done], self._output_base(tile), kept)
        if not self.stored and not groups[-1]:  # the next layer needs nothing of the last tile, but must not begin before that is made
            groups[-1].append((Opcode.SYNC, {"engine": Engine.LOAD}))

        program: list[Instruction] = []
        for i, group in enumerate(groups):
            if group and i >= 2:
                group[0][1]["wait_compute"] = 1
            if i == 0 and after_stores:
                group[0][1]["wait_store"] = 1
            if group and i < len(steps):
                group[-1][1]["signal_compute"] = 1
            program += interleave(group, stores[i - 2] if i >= 2 else [])
            if i == 0:
                program.append(self._configure())
            if i < len(steps):
                tile, part = divmod(i, parts)
                fields = self._compute(steps[i], order.activations.slots[i], order.weights.slots[i], order.parameters.slots[i], tile)
                # The token of the first group is taken by CONFIGURE, which so comes after all of the layer before.
                fields["wait_load"] = int(bool(group) and i > 0)
                fields["signal_load"] = int(bool(groups[i + 2]))
                fields["wait_store"] = int(self.stored and tile >= 2 and part == plan_.c_parts - 1)
                fields["signal_store"] = int(self.stored and part == parts - 1)
                program.append((Opcode.COMPUTE, fields))
        return program

    def compiled(self, first_instruction: int, instructions: int) -> CompiledLayer:
        return CompiledLayer(
            lowering=self.lowering,
            tiling=self.tiling,
            input_zero_point=self.layer.input_zero_point,
            input=self.input,
            output=self.output,
            second=self.second,
            on_chip=self.residence.operands if self.residence else frozenset(),
            stored=self.stored,
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
            "act_r_stride": constants_offset(self.arch, n) or (n.dilation * p.region_w if n.kernel_h > 1 else 0),
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
            "act_base": self._activation_base(activation_slot),
            "weight_base": weight_slot * p.weight_tile_words,
            "parameter_base": self._parameter_base(step, parameter_slot) + step.subtile * self.arch.cols,
            "output_base": self._output_base(tile),
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
        if self.lowering.rows:
            return [self._load_product_weights(step, slot, row) for row, weight in enumerate(self.lowering.rows.weights) if weight is None]
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

    def _load_product_weights(self, step: Step, slot: int, row: int) -> Instruction:
        """Vectors of the second operand as the weights of the tile's output channels in a kernel row: in the bank pass after pass, each with its rows of
        words of channels."""
        t, n, cols = self.tiling, self.numbers, self.config.array.cols
        layout = self.lowering.second
        assert layout is not None and self.second is not None  # a product's weights are its second operand
        first = step.k_tile * t.tile_k + step.subtile * cols
        c_first, c_groups = step.c_part * t.tile_c, min(t.tile_c, n.c_groups - step.c_part * t.tile_c)
        passes = self._tile_channels(step.k_tile) // cols if self.plan.c_parts == 1 else 1
        fields = {"run_words": passes, "count1": 1, "count2": 1}
        if n.kernel_h * n.c_groups > 1:
            fields = {
                "run_words": 1, "count1": c_groups, "stride1_bytes": layout.plane_pitch_bytes, "bank_stride1": 1,
                "count2": passes, "stride2_bytes": cols * layout.word_bytes, "bank_stride2": n.kernel_h * c_groups,
            }  # fmt: skip
        start = self.second.address + self.lowering.second_offset(step.image, step.group)
        address = start + c_first * layout.plane_pitch_bytes + first * layout.word_bytes
        bank = slot * self.plan.weight_tile_words + row * c_groups
        return Opcode.LOAD, {"target": Target.WEIGHT, "dram_address": address, "address_a": bank, **fields}

    def _constants(self) -> list[Instruction]:
        """What the kernel rows of a product with zero points see besides its operands: into all slots at once, for the whole layer."""
        n, t, p, rows = self.numbers, self.tiling, self.plan, self.lowering.rows
        instructions: list[Instruction] = []
        if rows is None:
            return instructions
        if rows.activation is not None:
            fields = {"banks_a": (1 << self.arch.rows) - 1, "address_a": self._activation_base(0) + constants_offset(self.arch, n)}
            fields |= {"run_words": tile_words(n, p, resident=self.residence is not None), "count1": 1, "count2": 1, "fill_value": rows.activation}
            instructions.append((Opcode.FILL, {"target": Target.ACTIVATION, **fields}))
        run_bytes = align(t.tile_c * self.arch.cols * self.config.weight_word_bytes)
        counts = {"count1": t.tile_k // self.arch.cols // p.subtiles, "count2": p.weight_slots}
        for number, (row, _) in enumerate(rows.constants):
            fields = {"dram_address": self.weights.address + number * run_bytes, "run_words": t.tile_c, "address_a": row * t.tile_c, **counts}
            fields |= {"bank_stride1": n.kernel_h * t.tile_c, "bank_stride2": p.weight_tile_words if p.weight_slots > 1 else 0}
            instructions.append((Opcode.LOAD, {"target": Target.WEIGHT, **fields}))
        return instructions

    def _load_parameters(self, step: Step, slot: int) -> Instruction:
        tile = 0 if self.numbers.uniform else step.group * self.plan.k_tiles + step.k_tile
        return Opcode.LOAD, {
            "target": Target.PARAMETER,
            "dram_address": self.parameters.address + tile * parameter_pitch(self.tiling),
            "run_words": self._tile_channels(step.k_tile),
            "count1": 1,
            "count2": 1,
            "address_a": self._parameter_base(step, slot) // self.arch.post_lanes,
        }

    def _activation_base(self, slot: int) -> int:
        return (self.residence.base if self.residence else 0) + slot * self.plan.activation_tile_words

    def _output_base(self, tile: int) -> int:
        return tile % 2 * self.plan.output_tile_words

    def _load_activations(self, step: Step, place: Place) -> list[Instruction]:
        """LOADs of what lies in the image and FILLs of the padding of a spatial tile's stripes; no LOADs of an operand that is on chip."""
        n, t, p = self.numbers, self.tiling, self.plan
        on_chip = self.residence.operands if self.residence else ()
        pitch, plane, tile = p.region_w, p.region_h * p.region_w, input_tile(self.arch, self.lowering, t, step.y_tile, step.x_tile)
        left, right, _ = inside(*tile.columns, n.in_w)
        whole_rows = p.x_tiles == 1 and right - left == pitch and n.in_row_bytes == pitch * self.config.activation_word_bytes
        boxes = input_boxes(tile, n.in_h, n.in_w, self._activation_base(place.slot), pitch)
        if len(on_chip) == n.operands:
            boxes = [box for box in boxes if box.opcode is Opcode.FILL]
        if not boxes:
            return []

        c_first = step.c_part * t.tile_c
        c_groups = min(t.tile_c, n.c_groups - c_first)
        splits = activation_splits(c_groups, len(boxes) * n.operands, place.step - place.first_group + 1)
        first = self.input.address + self.lowering.input_offset(step.image, step.group) if self.input else 0
        pieces = [(split * c_groups // splits, (split + 1) * c_groups // splits, first) for split in range(splits)]
        if n.operands == 2:  # an add's reduction is not split: the first half of its words is of the first operand
            second = self.second.address + self.lowering.second_offset(step.image, step.group) if self.second else 0
            half = c_groups // 2
            pieces = [(i * half, (i + 1) * half, source - i * half * n.in_plane_bytes) for i, source in enumerate((first, second)) if i not in on_chip]
        instructions = []
        for skip, until, source in pieces:
            for opcode, banks, row, height, width in boxes:
                fields = {key: value + skip * plane if key.startswith("address") else value for key, value in banks.items()}
                fields |= dram_runs(width, height, until - skip, pitch, plane, n.in_row_bytes, n.in_plane_bytes, whole_rows or opcode is Opcode.FILL)
                if opcode is Opcode.FILL:
                    fields |= {"fill_value": self.fill_value, "stride1_bytes": 0, "stride2_bytes": 0}
                else:
                    x_bytes = left * self.config.activation_word_bytes
                    fields["dram_address"] = source + (c_first + skip) * n.in_plane_bytes + row * n.in_row_bytes + x_bytes
                instructions.append((opcode, {"target": Target.ACTIVATION, **fields}))
        return instructions

    def _store(self, step: Step, tile: int, tiles: int, last_layer: bool) -> list[Instruction]:
        """STOREs of one output tile, one a working row; padded rows and channels are left out."""
        n, t, p, layout = self.numbers, self.tiling, self.plan, self.lowering.output
        made = output_tile(self.arch, self.lowering, t, step)
        assert self.output is not None  # only what is stored has STOREs
        start = self.output.address + self.lowering.output_offset(step.image, step.group)
        whole_rows = p.x_tiles == 1 and n.out_row_bytes == made.width * layout.word_bytes
        instructions = []
        for bank, (row, height) in enumerate(made.stripes):
            fields = dram_runs(made.width, height, made.planes, made.width, t.tile_h * t.tile_w, n.out_row_bytes, n.out_plane_bytes, whole_rows)
            fields["dram_address"] = start + layout.word_offset(0, made.first_plane, row, made.first_x)
            instructions.append((Opcode.STORE, {"bank": bank, "output_address": self._output_base(tile), **fields}))
        instructions[0][1]["wait_compute"] = 1
        instructions[-1][1]["signal_compute"] = int(tile + 2 < tiles)
        instructions[-1][1]["signal_load"] = int(tile == tiles - 1 and not last_layer)
        return instructions
