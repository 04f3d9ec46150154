"""A layer as the array sees it: channels become words of `lanes`, groups become whole words, a batch becomes an image.

* A fully connected layer over a batch of N is a 1x1 convolution over an image N high and one wide.
* A layer with few input channels may be folded: its kernel's columns become channels (C' = C * kernel_w, kernel_w' = 1,
  stride_w' = 1, in_w' = out_w), its input is presented expanded like that by whoever writes it, with the padding at left and right
  written out. More traffic, fewer reduction steps.
* Channel groups are read as whole words, the lanes of a foreign group have zero weights. Neighbouring groups are merged until
  their output channels make whole blocks of `channel_block`: a depthwise layer so uses one lane of each dot product.
"""

from dataclasses import dataclass
from typing import NamedTuple

import numpy as np

from hw.config import AcceleratorConfig
from hw.errors import ConfigError
from hw.layers import LayerShape
from hw.tensors import TensorLayout, image_layout, vector_layout


class LoweredLayer(NamedTuple):
    """The layer's numbers that legality and traffic depend on: plain integers, or int64 arrays of one broadcast shape."""

    images: int
    groups: int
    """Groups of channels that are computed apart."""
    c_groups: int
    """Input words (groups of `lanes` channels) that one channel group reads."""
    in_planes: int
    """Input words of a pixel, over all channel groups."""
    k_per_group: int
    """Output channels of a channel group; a multiple of `channel_block` if there are several groups."""
    in_h: int
    in_w: int
    out_h: int
    out_w: int
    kernel_h: int
    kernel_w: int
    stride_h: int
    stride_w: int
    dilation: int
    pad_top: int
    pad_left: int
    in_row_bytes: int
    """DRAM bytes from one input row to the next; likewise below."""
    in_plane_bytes: int
    out_row_bytes: int
    out_plane_bytes: int


LOWERED_FIELDS = LoweredLayer._fields


@dataclass(frozen=True, kw_only=True)
class Lowering:
    """A layer on a configuration: the numbers, the tensors it reads and writes, and how its weights go along."""

    shape: LayerShape
    batch: int
    fold: bool
    merged_groups: int
    """Channel groups of the layer in one of `numbers.groups`."""
    numbers: LoweredLayer
    input: TensorLayout
    output: TensorLayout

    def first_plane(self, group: int) -> int:
        """The first input word that channel group `group` reads."""
        n = self.numbers
        return min(group * (self.input.channels // n.groups) // self.input.lanes, n.in_planes - n.c_groups)

    def expand_input(self, x: np.ndarray, zero_point: int) -> np.ndarray:
        """The layer's input (batch, channels, h, w) or (batch, channels) as the tensor `input` holds it, (images, channels, h, w)."""
        s = self.shape
        if s.kind == "fc":
            return x.reshape(self.batch, s.in_channels).T[None, :, :, None]
        if not self.fold:
            return x
        padded = np.pad(x, ((0, 0), (0, 0), (0, 0), (s.pad_left, s.pad_right)), constant_values=zero_point)
        span = (s.out_w - 1) * s.stride_w + 1
        return np.concatenate([padded[..., q * s.dilation : q * s.dilation + span : s.stride_w] for q in range(s.kernel_w)], axis=1)

    def expand_weights(self, weights: np.ndarray) -> np.ndarray:
        """Weights (out_channels, in_channels / groups, kernel_h, kernel_w) as (groups, k_per_group, c_groups * lanes, kernel_h, kernel_w)
        of the lowered layer, zero where a lane belongs to another group."""
        s, n, lanes = self.shape, self.numbers, self.input.lanes
        if self.fold:  # channel order: kernel column, then channel
            weights = weights.transpose(0, 3, 1, 2).reshape(s.out_channels, -1, s.kernel_h, 1)
        inputs, outputs = weights.shape[1], s.out_channels // s.groups
        full = np.zeros((n.groups, n.k_per_group, n.c_groups * lanes, *weights.shape[2:]), dtype=weights.dtype)
        for group in range(s.groups):
            target, member = divmod(group, self.merged_groups)
            first = group * inputs - self.first_plane(target) * lanes
            full[target, member * outputs : (member + 1) * outputs, first : first + inputs] = weights[group * outputs : (group + 1) * outputs]
        return full

    def restore_output(self, y: np.ndarray) -> np.ndarray:
        """The tensor `output` (images, channels, h, w) as the layer's output, (batch, channels, h, w) or (batch, channels)."""
        return y[0, :, :, 0].T if self.shape.kind == "fc" else y


def _steps(channels: int, lanes: int, kernel_w: int) -> int:
    return -(-channels // lanes) * kernel_w


def folds(shape: LayerShape, lanes: int) -> bool:
    """Whether folding the kernel's columns into the channels takes fewer reduction steps."""
    if shape.kind != "conv" or shape.groups > 1 or shape.kernel_w == 1:
        return False
    return _steps(shape.in_channels * shape.kernel_w, lanes, 1) < _steps(shape.in_channels, lanes, shape.kernel_w)


def lower(config: AcceleratorConfig, shape: LayerShape, *, batch: int = 1, fold: bool = False) -> Lowering:
    """`shape` over `batch` images on `config`. `fold` only where the layer's input may be written expanded: ask `folds`."""
    if shape.kind not in ("conv", "fc") or (shape.kind == "fc" and shape.in_h > 1):
        raise ConfigError(f"layer must be a convolution or a fully connected layer of one vector, not {shape.kind} ({shape.name})")
    lanes, block = config.array.lanes, config.channel_block
    k_per_group = shape.out_channels // shape.groups
    merged = next((m for m in range(1, shape.groups + 1) if shape.groups % m == 0 and k_per_group * m % block == 0), shape.groups)
    groups = shape.groups // merged
    if shape.kind == "fc":
        source, result = vector_layout(config, batch, shape.in_channels), vector_layout(config, batch, shape.out_channels)
    else:
        channels, width = (shape.in_channels * shape.kernel_w, shape.out_w) if fold else (shape.in_channels, shape.in_w)
        source = image_layout(config, batch, channels, shape.in_h, width)
        result = image_layout(config, batch, shape.out_channels, shape.out_h, shape.out_w)
    per_group = source.channels // groups
    c_groups = max((g * per_group + per_group - 1) // lanes - g * per_group // lanes + 1 for g in range(groups))
    numbers = LoweredLayer(
        images=source.images,
        groups=groups,
        c_groups=c_groups,
        in_planes=source.planes,
        k_per_group=k_per_group * merged,
        in_h=source.height,
        in_w=source.width,
        out_h=result.height,
        out_w=result.width,
        kernel_h=shape.kernel_h,
        kernel_w=1 if fold else shape.kernel_w,
        stride_h=shape.stride_h if shape.kind == "conv" else 1,
        stride_w=1 if fold or shape.kind == "fc" else shape.stride_w,
        dilation=shape.dilation,
        pad_top=shape.pad_top,
        pad_left=0 if fold else shape.pad_left,
        in_row_bytes=source.row_pitch_bytes,
        in_plane_bytes=source.plane_pitch_bytes,
        out_row_bytes=result.row_pitch_bytes,
        out_plane_bytes=result.plane_pitch_bytes,
    )
    return Lowering(shape=shape, batch=batch, fold=fold, merged_groups=merged, numbers=numbers, input=source, output=result)
