"""What lies in DRAM: the layout of activations, the packing of small integers into words, the memory map.

A tensor is `[image][C/lanes][H][W][lanes]`: one activation word holds `lanes` channels of one pixel, lane 0 in the lowest
bits. A row starts at a multiple of 32 bytes. The vectors of a fully connected layer are rows of an image one pixel
wide, packed without gaps (H = batch), so that a vector, or a batch, is read in one run.
"""

from dataclasses import dataclass

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

    @property
    def planes(self) -> int:
        """Groups of `lanes` channels."""
        return -(-self.channels // self.lanes)

    @property
    def word_bytes(self) -> int:
        return self.lanes * self.bits // 8

    @property
    def image_pitch_bytes(self) -> int:
        return align(self.planes * self.plane_pitch_bytes)

    @property
    def size_bytes(self) -> int:
        return self.images * self.image_pitch_bytes

    def word_offset(self, image: int, plane: int, y: int, x: int) -> int:
        """First byte of one word."""
        return image * self.image_pitch_bytes + plane * self.plane_pitch_bytes + y * self.row_pitch_bytes + x * self.word_bytes

    def _words(self, memory: np.ndarray) -> np.ndarray:
        """A view (images, planes, height, width, word bytes) of the tensor's bytes."""
        pitches = (self.image_pitch_bytes, self.plane_pitch_bytes, self.row_pitch_bytes, self.word_bytes, 1)
        return np.lib.stride_tricks.as_strided(memory, (self.images, self.planes, self.height, self.width, self.word_bytes), pitches)

    def pack(self, x: np.ndarray) -> np.ndarray:
        """Integers (images, channels, height, width) as the tensor's bytes; gaps and padded channels are zero."""
        if x.shape != (self.images, self.channels, self.height, self.width):
            raise ConfigError(f"tensor must be of shape {(self.images, self.channels, self.height, self.width)}, not {x.shape}")
        low, high = -(1 << self.bits - 1), (1 << self.bits - 1) - 1
        if x.size and (x.min() < low or x.max() > high):
            raise ConfigError(f"activations must be {low} to {high}, not {x.min()} to {x.max()}")
        padded = np.zeros((self.images, self.planes * self.lanes, self.height, self.width), dtype=np.int64)
        padded[:, : self.channels] = x
        lanes_last = padded.reshape(self.images, self.planes, self.lanes, self.height, self.width).transpose(0, 1, 3, 4, 2)
        memory = np.zeros(self.size_bytes, dtype=np.uint8)
        self._words(memory)[...] = pack_words(lanes_last, self.bits)
        return memory

    def unpack(self, memory: np.ndarray) -> np.ndarray:
        """The inverse of `pack`, int64."""
        if memory.size < self.size_bytes:
            raise ConfigError(f"tensor must have {self.size_bytes} bytes, not {memory.size}")
        lanes_last = unpack_words(self._words(np.ascontiguousarray(memory, dtype=np.uint8)), self.bits)
        all_channels = lanes_last.transpose(0, 1, 4, 2, 3).reshape(self.images, self.planes * self.lanes, self.height, self.width)
        return all_channels[:, : self.channels].copy()


def image_layout(config: AcceleratorConfig, images: int, channels: int, height: int, width: int) -> TensorLayout:
    """The layout of `images` feature maps."""
    row = align(width * config.activation_word_bytes)
    return TensorLayout(
        images=images,
        channels=channels,
        height=height,
        width=width,
        lanes=config.array.lanes,
        bits=config.precision.activation_bits,
        row_pitch_bytes=row,
        plane_pitch_bytes=height * row,
    )


def vector_plane_bytes(vectors: int, word_bytes: int) -> int:
    """Bytes from one group of `lanes` channels to the next in a batch of vectors: a multiple of 32, or a power of two below."""
    size = vectors * word_bytes
    return align(size) if size > DRAM_ALIGNMENT_BYTES else 1 << (size - 1).bit_length()


def vector_layout(config: AcceleratorConfig, vectors: int, channels: int) -> TensorLayout:
    """The layout of a batch of vectors: one image, one pixel wide, `vectors` high."""
    word = config.activation_word_bytes
    return TensorLayout(
        images=1,
        channels=channels,
        height=vectors,
        width=1,
        lanes=config.array.lanes,
        bits=config.precision.activation_bits,
        row_pitch_bytes=word,
        plane_pitch_bytes=vector_plane_bytes(vectors, word),
    )


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
