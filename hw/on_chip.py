"""What one layer leaves in the activation banks for the next: where it lies there, and the COPYs that bring it.

A layer whose input is on chip holds it whole: every tile of every channel group in a place of its own, with the rows that two stripes need in both
banks and padding around, just as it would be loaded. The layer before copies each tile there as soon as it is made.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import product
from typing import NamedTuple

from hw.isa import Opcode, Target
from hw.lowering import LoweredLayer, Lowering
from hw.schedule import Step
from hw.tile_plan import Architecture, Plan, Tiling, constants_offset
from hw.tiling import Traffic
from hw.transfers import InputTile, Instruction, copy_runs, input_tile, output_tile, shared_rows


@dataclass(frozen=True, kw_only=True)
class Residence:
    """Which operands (0: the input, 1: an add's second) are on chip, and the first word of the activation banks that the layer uses."""

    operands: frozenset[int]
    base: int


def tile_words(n: LoweredLayer, p: Plan, *, resident: bool) -> int:
    """Words of every activation bank that hold a layer's tiles, its input on chip or not."""
    slots = n.groups * p.spatial_tiles * p.c_parts if resident else p.activation_slots
    return slots * p.activation_tile_words


def activation_words(a: Architecture, n: LoweredLayer, p: Plan, *, resident: bool) -> int:
    """Words of every activation bank from the first to the last that a layer uses."""
    return constants_offset(a, n) + tile_words(n, p, resident=resident)


def on_chip_traffic(m: Traffic, n: LoweredLayer, p: Plan, *, operands: int, stored: bool) -> Traffic:
    """`hw.tiling.measure` of a layer of which so many operands are on chip, and whose output is stored or not. COPYs belong to the layer that makes
    what they copy, and are not counted; of the program's bytes and instructions and of writes to activation banks those of the ordinary case are left."""
    if operands:
        repeats = m.activation_loads // (n.groups * p.spatial_tiles * p.c_parts)
        loaded = {name: getattr(m, name) // repeats * (n.operands - operands) // n.operands
                  for name in ("activation_read_bytes", "activation_runs", "activation_load_words")}  # fmt: skip
        fill_words = tile_words(n, p, resident=True) if n.product > 1 else m.fill_words // repeats
        m = m._replace(**loaded, fill_words=fill_words, activation_loads=m.activation_loads // repeats)
    return m if stored else m._replace(output_write_bytes=0, output_runs=0, output_store_words=0)


class Destination(NamedTuple):
    """A part of the input in the banks: words of channels of an image, and the bank word of their first one at the tile's first pixel."""

    image: int
    first_plane: int
    end_plane: int
    tile: InputTile
    address: int
    row_pitch: int
    plane_pitch: int


def _image_and_row(lowering: Lowering, image: int, group: int, single_pixels: bool) -> tuple[int, int]:
    """The tensor's image, and the row in it, that a layer means with its row 0; images of one pixel are rows of image 0."""
    if lowering.numbers.product:
        return group // lowering.shape.groups, 0
    return (0, image) if single_pixels else (image, 0)


def destinations(a: Architecture, lowering: Lowering, t: Tiling, p: Plan, residence: Residence) -> list[Destination]:
    """Where the layer has its input: one for each tile, part of the channels and operand on chip."""
    n, found = lowering.numbers, []
    words = n.c_groups // n.operands
    tiles = list(product(range(n.images), range(p.y_tiles), range(p.x_tiles)))
    for group, (index, (image, y_tile, x_tile)), c_part in product(range(n.groups), enumerate(tiles), range(p.c_parts)):
        slot = (group * len(tiles) + index) * p.c_parts + c_part
        tile, plane_pitch = input_tile(a, lowering, t, y_tile, x_tile), p.region_h * p.region_w
        for operand in sorted(residence.operands):
            first = c_part * t.tile_c if n.operands == 1 else 0
            count = min(t.tile_c, words - first)
            plane = lowering.first_plane(group) + first
            address = residence.base + slot * p.activation_tile_words + operand * words * plane_pitch
            found.append(Destination(_image_and_row(lowering, image, group, False)[0], plane, plane + count, tile, address, p.region_w, plane_pitch))
    return found


def copies(a: Architecture, lowering: Lowering, t: Tiling, step: Step, output_base: int, kept: Sequence[Destination]) -> list[Instruction]:
    """The COPYs of the tile that a step has emitted to `output_base`: to all of the next layer's places that need some of it."""
    made, n, instructions = output_tile(a, lowering, t, step), lowering.numbers, []
    image, shift = _image_and_row(lowering, step.image, step.group, n.out_h == n.out_w == 1 and not lowering.vectors)
    first_plane = lowering.output_plane(step.group) + made.first_plane
    source_plane = t.tile_h * t.tile_w
    for place in kept:
        low, high = max(first_plane, place.first_plane), min(first_plane + made.planes, place.end_plane)
        left, right = max(made.first_x, place.tile.columns[0]), min(made.first_x + made.width, place.tile.columns[1])
        if place.image != image or low >= high or left >= right:
            continue
        base = place.address + (low - place.first_plane) * place.plane_pitch + left - place.tile.columns[0]
        for bank, (first_row, rows) in enumerate(made.stripes):
            for row, end, banks in shared_rows(place.tile.rows, first_row + shift, first_row + shift + rows, base, place.row_pitch):
                source = output_base + (low - first_plane) * source_plane + (row - shift - first_row) * made.width + left - made.first_x
                runs = copy_runs(right - left, end - row, high - low, made.width, source_plane, place.row_pitch, place.plane_pitch)
                instructions.append((Opcode.COPY, {"target": Target.ACTIVATION, "source_bank": bank, "source_address": source, **banks, **runs}))
    return instructions
