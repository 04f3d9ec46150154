"""What lies in DRAM: the layout of activations, the packing of small integers into words, the memory map.

A tensor is `[image][C/lanes][H][W][lanes]`: one activation word holds `lanes` channels of one pixel, lane 0 in the lowest bits.
`tensor_layout` says how it is stored:

* an image: every row starts at a multiple of 32 bytes;
* a sequence (H vectors, one wide): vectors follow on each other without gaps, every plane starts at a multiple of 32 bytes;
* one vector an image: those of all images follow on each other, so that a batch is read like a sequence.
"""

from dataclasses import dataclass, replace

import numpy as np

from hw.config import DRAM_ALIGNMENT_BYTES, AcceleratorConfig
from hw.errors import ConfigError

REGION_ALIGNMENT_BYTES = 4096


def align(size: int, unit: int = DRAM_ALIGNMENT_BYTES) -> int:
    """`size` rounded up to a multiple of `unit`."""
    return -(-size // unit) * unit


def pack_words(values: np.ndarray, bits: int) -> np.ndarray:
    """Signed integers (..., n) of `bits` bits as bytes (..., n * bits / 8), uint8, the first value in the lowest bits."""
    if bits == 4:
        nibbles = values.astype(np.uint8) & 0xF
        return nibbles[..., 0::2] | nibbles[..., 1::2] << 4
    return np.ascontiguousarray(values.astype(f"<i{bits // 8}")).view(np.uint8)


def unpack_words(data: np.ndarray, bits: int) -> np.ndarray:
    """The inverse of `pack_words`: uint8 (..., m) -> int64 (..., m * 8 / bits)."""
    if bits == 4:
        nibbles = np.stack([data & 0xF, data >> 4], axis=-1).reshape(*data.shape[:-1], -1).astype(np.int64)
        return nibbles - ((nibbles & 8) << 1)
    return np.ascontiguousarray(data).view(f"<i{bits // 8}").astype(np.int64)


@dataclass(frozen=True, kw_only=True)
class TensorLayout:
    """Where each word of a tensor lies, relative to its first byte."""

    images: int
    channels: int
    height: int
    width: int
    lanes: int
    bits: int
    row_pitch_bytes: int
    plane_pitch_bytes: int
    image_pitch_bytes: int
    size_bytes: int
    """With room behind the last plane for what is written or read beyond it, in whole blocks of channels or of vectors."""
    head_channels: int
    """Channels of a head, each of which starts with a word of its own; all of the channels if there is one head."""

    @property
    def heads(self) -> int:
        return self.channels // self.head_channels

    @property
    def head_planes(self) -> int:
        """Groups of `lanes` channels of a head."""
        return -(-self.head_channels // self.lanes)

    @property
    def planes(self) -> int:
        """Groups of `lanes` channels."""
        return self.heads * self.head_planes

    @property
    def word_bytes(self) -> int:
        return self.lanes * self.bits // 8

    def word_offset(self, image: int, plane: int, y: int, x: int) -> int:
        """First byte of one word."""
        return image * self.image_pitch_bytes + plane * self.plane_pitch_bytes + y * self.row_pitch_bytes + x * self.word_bytes

    def same_words(self, other: "TensorLayout") -> bool:
        """Whether every word lies in the same place, relative to its image."""
        fields = ("images", "channels", "height", "width", "head_channels", "row_pitch_bytes", "plane_pitch_bytes")
        return all(getattr(self, name) == getattr(other, name) for name in fields)

    def part(self, first_channel: int, channels: int) -> tuple[int, "TensorLayout"]:
        """(offset in bytes, layout) of some of the channels, which must begin with a word and end with one or with the tensor."""
        end = first_channel + channels
        if first_channel % self.lanes or (end % self.lanes and end != self.channels) or self.heads > 1:
            raise ConfigError(f"parts of a tensor must be whole words of {self.lanes} channels, not channels {first_channel} to {end}")
        offset = first_channel // self.lanes * self.plane_pitch_bytes
        return offset, replace(self, channels=channels, head_channels=channels, size_bytes=self.size_bytes - offset)

    def _words(self, memory: np.ndarray) -> np.ndarray:
        """A view (images, planes, height, width, word bytes) of the tensor's bytes."""
        pitches = (self.image_pitch_bytes, self.plane_pitch_bytes, self.row_pitch_bytes, self.word_bytes, 1)
        return np.lib.stride_tricks.as_strided(memory, (self.images, self.planes, self.height, self.width, self.word_bytes), pitches)

    def pack(self, x: np.ndarray, fill: int = 0) -> np.ndarray:
        """Integers (images, channels, height, width) as the tensor's bytes; gaps are zero, padded channels `fill`."""
        if x.shape != (self.images, self.channels, self.height, self.width):
            raise ConfigError(f"tensor must be of shape {(self.images, self.channels, self.height, self.width)}, not {x.shape}")
        low, high = -(1 << self.bits - 1), (1 << self.bits - 1) - 1
        if x.size and (x.min() < low or x.max() > high):
            raise ConfigError(f"activations must be {low} to {high}, not {x.min()} to {x.max()}")
        padded = np.full((self.images, self.heads, self.head_planes * self.lanes, self.height, self.width), fill, dtype=np.int64)
        padded[:, :, : self.head_channels] = x.reshape(self.images, self.heads, self.head_channels, self.height, self.width)
        lanes_last = padded.reshape(self.images, self.planes, self.lanes, self.height, self.width).transpose(0, 1, 3, 4, 2)
        memory = np.zeros(self.size_bytes, dtype=np.uint8)
        self._words(memory)[...] = pack_words(lanes_last, self.bits)
        return memory

    def unpack(self, memory: np.ndarray) -> np.ndarray:
        """The inverse of `pack`, int64."""
        if memory.size < self.size_bytes:
            raise ConfigError(f"tensor must have {self.size_bytes} bytes, not {memory.size}")
        lanes_last = unpack_words(self._words(np.ascontiguousarray(memory, dtype=np.uint8)), self.bits)
        heads = lanes_last.transpose(0, 1, 4, 2, 3).reshape(self.images, self.heads, -1, self.height, self.width)
        return heads[:, :, : self.head_channels].reshape(self.images, self.channels, self.height, self.width).copy()


def vector_plane_bytes(vectors: int, word_bytes: int) -> int:
    """Bytes from one group of `lanes` channels to the next in a batch of vectors: a multiple of 32, or a power of two below."""
    size = vectors * word_bytes
    return align(size) if size > DRAM_ALIGNMENT_BYTES else 1 << (size - 1).bit_length()


def tensor_layout(
    config: AcceleratorConfig, images: int, channels: int, height: int = 1, width: int = 1, *, heads: int = 1, sequence: bool = False
) -> TensorLayout:
    """The layout of `images` tensors (channels, height, width). With `heads`, the channels of each start with a word of their own.
    `sequence`: even if it has one vector only."""
    lanes, word = config.array.lanes, config.activation_word_bytes
    planes = heads * -(-channels // heads // lanes)
    block_planes = config.channel_block // lanes
    if height == width == 1 and not sequence:
        row, plane, image = word, vector_plane_bytes(images, word), word
        size = align(align(planes, block_planes) * plane)
    else:
        row = word if width == 1 else align(width * word)
        plane = align(height * row)
        image = align(planes, block_planes) * plane
        size = images * image + (align(config.channel_block * word) if width == 1 else 0)
    return TensorLayout(
        images=images, channels=channels, height=height, width=width, lanes=lanes, bits=config.precision.activation_bits,
        row_pitch_bytes=row, plane_pitch_bytes=plane, image_pitch_bytes=image, size_bytes=size,
        head_channels=channels if channels // heads % lanes == 0 else channels // heads,
    )  # fmt: skip


@dataclass(frozen=True, kw_only=True)
class Region:
    """A named part of DRAM, and what the accelerator does there."""

    name: str
    address: int
    size_bytes: int
    write: bool = False


class MemoryMap:
    """Gives out regions one after the other from `base_address` on, each aligned to 4 KB."""

    def __init__(self, base_address: int = 0):
        if base_address % REGION_ALIGNMENT_BYTES:
            raise ConfigError(f"base_address must be a multiple of {REGION_ALIGNMENT_BYTES}, not {base_address}")
        self.base_address = base_address
        self.end_address = base_address
        self.regions: dict[str, Region] = {}

    def add(self, name: str, size_bytes: int, write: bool = False) -> Region:
        """A new region of that size."""
        region = Region(name=name, address=self.end_address, size_bytes=size_bytes, write=write)
        self.regions[name] = region
        self.end_address += align(size_bytes, REGION_ALIGNMENT_BYTES)
        return region
