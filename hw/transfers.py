"""The transfers that fill the activation banks and empty the output banks, as fields of instructions.

A *box* is a rectangle of pixels over a number of words of channels. It is moved by one instruction, whose runs are its rows, or more than
that where they follow on each other on both sides.
"""

from collections.abc import Iterator, Sequence
from typing import NamedTuple

from hw.isa import Opcode
from hw.lowering import Lowering
from hw.schedule import Step
from hw.tile_plan import Architecture, Tiling, inside, stripe_rows, stripes, tile_columns

Instruction = tuple[Opcode, dict[str, int]]


class OutputTile(NamedTuple):
    """What one COMPUTE emits, in the numbers of the lowered layer: rows and columns of output pixels, words of output channels of a channel group."""

    first_plane: int
    planes: int
    first_x: int
    width: int
    stripes: tuple[tuple[int, int], ...]
    """(first row, rows) that each working row of the array makes."""


def output_tile(a: Architecture, lowering: Lowering, t: Tiling, step: Step) -> OutputTile:
    """The tile of a step; padded rows and channels are left out."""
    n = lowering.numbers
    tile_h, working = stripes(a, n, t, step.y_tile)
    first_x, first_plane = step.x_tile * t.tile_w, step.k_tile * t.tile_k // a.lanes
    rows = [step.y_tile * a.rows * t.tile_h + stripe * tile_h for stripe in range(working)]
    return OutputTile(
        first_plane=first_plane,
        planes=min(t.tile_k // a.lanes, -(-n.k_per_group // a.lanes) - first_plane),
        first_x=first_x,
        width=min(t.tile_w, n.out_w - first_x),
        stripes=tuple((row, min(tile_h, n.out_h - row)) for row in rows),
    )


class InputTile(NamedTuple):
    """The part of the lowered input that a spatial tile needs: (first, end) image columns, and image rows of each working row of the array."""

    columns: tuple[int, int]
    rows: tuple[tuple[int, int], ...]


def input_tile(a: Architecture, lowering: Lowering, t: Tiling, y_tile: int, x_tile: int) -> InputTile:
    """Of a spatial tile; what lies outside of the image is padding."""
    n = lowering.numbers
    _, working = stripes(a, n, t, y_tile)
    return InputTile(columns=tile_columns(n, t, x_tile), rows=tuple(stripe_rows(a, n, t, y_tile, stripe) for stripe in range(working)))


class Box(NamedTuple):
    """Rows and columns of the image that go into the same place of one or two banks, or padding of that size."""

    opcode: Opcode
    banks: dict[str, int]
    row: int
    height: int
    width: int


def input_boxes(tile: InputTile, image_h: int, image_w: int, base: int, pitch: int) -> list[Box]:
    """FILLs of a tile's padding and LOADs of the rest; `base`: the bank word of its first pixel, `pitch`: words a row."""
    (first_x, end_x), rows, boxes = tile.columns, tile.rows, []
    left, right, _ = inside(first_x, end_x, image_w)
    for low, high in _outside(first_x, end_x, image_w):
        boxes.append(Box(Opcode.FILL, {"banks_a": (1 << len(rows)) - 1, "address_a": base + low - first_x}, 0, rows[0][1] - rows[0][0], high - low))
    for stripe, (first, end) in enumerate(rows):
        for low, high in _outside(first, end, image_h):
            boxes.append(Box(Opcode.FILL, {"banks_a": 1 << stripe, "address_a": base + (low - first) * pitch}, 0, high - low, end_x - first_x))
    if right > left:
        for low, high, banks in shared_rows(rows, 0, image_h, base + left - first_x, pitch):
            boxes.append(Box(Opcode.LOAD, banks, low, high - low, right - left))
    return boxes


def shared_rows(rows: Sequence[tuple[int, int]], low: int, high: int, base: int, pitch: int) -> Iterator[tuple[int, int, dict[str, int]]]:
    """(first, end, fields of the banks) of the image rows within [low, high) that the stripes need: rows that the same stripes need together, once for
    every two of these stripes. `base` is the bank word of every stripe's first row."""
    parts = [(max(low, min(first, high)), max(low, min(end, high))) for first, end in rows]
    edges = sorted({edge for part in parts for edge in part})
    for start, until in zip(edges, edges[1:], strict=False):
        sharing = [stripe for stripe, (first, end) in enumerate(rows) if first <= start and until <= end]
        for one, *other in (sharing[i : i + 2] for i in range(0, len(sharing), 2)):
            banks = {"banks_a": 1 << one, "address_a": base + (start - rows[one][0]) * pitch}
            for two in other:
                banks |= {"banks_b": 1 << two, "address_b": base + (start - rows[two][0]) * pitch}
            yield start, until, banks


def _outside(first: int, end: int, size: int) -> list[tuple[int, int]]:
    """The pieces of [first, end) that lie outside of [0, size)."""
    low, high, _ = inside(first, end, size)
    if low == high:
        return [(first, end)]
    return [piece for piece in ((first, low), (high, end)) if piece[0] < piece[1]]


def dram_runs(width: int, height: int, depth: int, pitch: int, plane: int, row_bytes: int, plane_bytes: int, whole_rows: bool) -> dict[str, int]:
    """The fields that describe `depth` x `height` runs of `width` words between a bank and DRAM.

    `pitch` and `plane` are bank words from row to row and plane to plane, `row_bytes` and `plane_bytes` DRAM bytes.
    `whole_rows`: whether rows follow on each other in DRAM.
    """
    if not (whole_rows and width == pitch):
        strides = {"stride1_bytes": row_bytes, "bank_stride1": pitch, "stride2_bytes": plane_bytes, "bank_stride2": plane}
        return {"run_words": width, "count1": height, "count2": depth, **strides}
    if height * pitch == plane and height * row_bytes == plane_bytes:
        return {"run_words": width * height * depth, "count1": 1, "count2": 1}
    return {"run_words": width * height, "count1": depth, "stride1_bytes": plane_bytes, "bank_stride1": plane, "count2": 1}


def copy_runs(width: int, height: int, depth: int, source_pitch: int, source_plane: int, pitch: int, plane: int) -> dict[str, int]:
    """The same between an output bank (`source_pitch`, `source_plane` words from row to row and plane to plane) and activation banks."""
    if height > 1 and not width == source_pitch == pitch:
        strides = {"source_stride1": source_pitch, "bank_stride1": pitch, "source_stride2": source_plane, "bank_stride2": plane}
        return {"run_words": width, "count1": height, "count2": depth, **strides}
    if depth == 1 or width * height == source_plane == plane:
        return {"run_words": width * height * depth, "count1": 1, "count2": 1}
    return {"run_words": width * height, "count1": depth, "source_stride1": source_plane, "bank_stride1": plane, "count2": 1}


def interleave(a: list[Instruction], b: list[Instruction]) -> list[Instruction]:
    """Both lists in their order, evenly mixed."""
    keyed = [((i + 0.5) / len(part), which, item) for which, part in enumerate((a, b)) for i, item in enumerate(part)]
    return [item for _, _, item in sorted(keyed, key=lambda entry: entry[:2])]
