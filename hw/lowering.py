"""A layer as the array sees it: channels become words of `lanes`, groups become whole words, a batch of vectors becomes an image.

* A fully connected layer over a batch of N vectors is a 1x1 convolution over an image N high and one wide.
* A layer with few input channels may be folded: its kernel's columns become channels (C' = C * kernel_w, kernel_w' = 1,
  stride_w' = 1, in_w' = out_w), its input is presented expanded like that by whoever writes it, with the padding at left and right
  written out. More traffic, fewer reduction steps.
* Channel groups are read as whole words, the lanes of a foreign group have zero weights. Neighbouring groups are merged until
  their output channels make whole blocks of `channel_block`: a depthwise layer so uses one lane of each dot product.
* Pooling is a depthwise layer of weights 1, add one whose reduction runs over the words of both operands. All their groups have the same weights
  and parameters, which are loaded once.
* The second operand of a matmul lies in DRAM as the weights of its output channels: words of `lanes` channels of one vector. Each image and head
  is a channel group. A transpose is the product of the identity matrix, which the compiler writes, and the input. What zero points add to a product are
  further rows of its kernel (`hw.products`).
"""

from dataclasses import dataclass
from math import gcd
from typing import NamedTuple

import numpy as np

from hw.config import AcceleratorConfig
from hw.errors import ConfigError
from hw.layers import DIAGONAL, LayerShape
from hw.products import KernelRows, kernel_rows
from hw.tensors import TensorLayout, align, tensor_layout


class LoweredLayer(NamedTuple):
    """The layer's numbers that legality and traffic depend on: plain integers, or int64 arrays of one broadcast shape."""

    images: int
    groups: int
    """Groups of channels that are computed apart."""
    c_groups: int
    """Input words (groups of `lanes` channels) that one channel group reads, of all operands."""
    in_planes: int
    """Input words of a pixel, over all channel groups."""
    k_per_group: int
    """Output channels of a channel group: a multiple of `channel_block` if there are several groups, but `lanes` where they share their weights, and
    anything for products, whose heads have words of their own."""
    in_h: int
    in_w: int
    out_h: int
    out_w: int
    kernel_h: int
    kernel_w: int
    stride_h: int
    stride_w: int
    dilation: int
    """0 if the steps of the kernel all see the same word (add, products)."""
    pad_top: int
    pad_left: int
    in_row_bytes: int
    """DRAM bytes from one input row to the next; likewise below."""
    in_plane_bytes: int
    out_row_bytes: int
    out_plane_bytes: int
    operands: int
    """Tensors that are read as activations: 2 for add."""
    uniform: int
    """1 if all output channels have the same parameters, so that one tile of them is enough."""
    shared: int
    """1 if all channel groups have the same weights."""
    product: int
    """Of a matmul or transpose, the kernel rows whose weights are the second operand: 1, and more where the first has a zero point; else 0."""
    taps: int
    """Kernel columns that one step takes side by side; 1 except for depthwise layers on designs with `depthwise_taps`."""


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
    """What is loaded into the activation banks: the input, of a transpose the identity matrix."""
    output: TensorLayout
    second: TensorLayout | None = None
    """The second operand of add and matmul; of a transpose the input."""
    rows: KernelRows | None = None
    """Of a product."""

    @property
    def vectors(self) -> bool:
        """Whether a batch of vectors is computed as an image of that height."""
        return not self.numbers.product and _is_vector(self.shape)

    def first_plane(self, group: int) -> int:
        """The first input word that channel group `group` reads."""
        n, s = self.numbers, self.shape
        if n.product:
            return 0 if s.kind == "transpose" else group % s.groups * n.c_groups
        if n.shared:
            return group
        per_group = self.input.channels if s.groups == 1 else s.in_channels // s.groups * self.merged_groups
        return min(group * per_group // self.input.lanes, n.in_planes - n.c_groups)

    def input_offset(self, image: int, group: int) -> int:
        """Byte of the input tensor at which a channel group of an image begins."""
        if self.numbers.product:
            image = 0 if self.shape.kind == "transpose" else group // self.shape.groups
        return image * self.input.image_pitch_bytes + self.first_plane(group) * self.input.plane_pitch_bytes

    def second_offset(self, image: int, group: int) -> int:
        """The same of the second operand."""
        assert self.second is not None
        if not self.numbers.product:
            return image * self.second.image_pitch_bytes + self.first_plane(group) * self.second.plane_pitch_bytes
        image, head = divmod(group, self.shape.groups)
        return image * self.second.image_pitch_bytes + head * self.numbers.c_groups * self.second.plane_pitch_bytes

    def output_plane(self, group: int) -> int:
        """The first output word that channel group `group` makes."""
        if self.numbers.product:
            return group % self.shape.groups * -(-self.numbers.k_per_group // self.output.lanes)
        return group * self.numbers.k_per_group // self.output.lanes

    def output_offset(self, image: int, group: int) -> int:
        """Byte of the output tensor at which a channel group of an image begins."""
        if self.numbers.product:
            image = group // self.shape.groups
        return image * self.output.image_pitch_bytes + self.output_plane(group) * self.output.plane_pitch_bytes

    def expand_input(self, x: np.ndarray, zero_point: int) -> np.ndarray:
        """The layer's input (batch, channels, h, w), or (batch, channels) for vectors, as the tensor `input` holds it."""
        s = self.shape
        if x.ndim == 2:
            x = x[:, :, None, None]
        if not self.fold:
            return x
        padded = np.pad(x, ((0, 0), (0, 0), (0, 0), (s.pad_left, s.pad_right)), constant_values=zero_point)
        span = (s.out_w - 1) * s.stride_w + 1
        return np.concatenate([padded[..., q * s.dilation : q * s.dilation + span : s.stride_w] for q in range(s.kernel_w)], axis=1)

    def expand_weights(self, weights: np.ndarray) -> np.ndarray:
        """The layer's weights (see `hw.golden.QuantizedLayer`) as (groups, k_per_group, c_groups * lanes, kernel_h, kernel_w) of the lowered layer
        (one group if all have the same), zero where a lane belongs to another group. Not for products."""
        s, n, lanes = self.shape, self.numbers, self.input.lanes
        if n.shared:
            one = np.eye(lanes, dtype=np.int16)
            if s.kind == "add":  # [k][operand, channel][0][step]
                return np.concatenate([one[:, :, None, None] * w for w in weights], axis=1)[None]
            return self._side_by_side(np.broadcast_to(one[None, :, :, None, None], (1, *one.shape, n.kernel_h, n.kernel_w)))
        if self.fold:  # channel order: kernel column, then channel
            weights = weights.transpose(0, 3, 1, 2).reshape(s.out_channels, -1, s.kernel_h, 1)
        inputs, outputs = weights.shape[1], s.out_channels // s.groups
        full = np.zeros((n.groups, n.k_per_group, n.c_groups * lanes, *weights.shape[2:]), dtype=weights.dtype)
        for group in range(s.groups):
            target, member = divmod(group, self.merged_groups)
            first = group * inputs - self.first_plane(target) * lanes
            full[target, member * outputs : (member + 1) * outputs, first : first + inputs] = weights[group * outputs : (group + 1) * outputs]
        return self._side_by_side(full)

    def _side_by_side(self, weights: np.ndarray) -> np.ndarray:
        """Weights with `taps` kernel columns in the first lanes of one step, in place of one in the lane of its channel."""
        n, lanes = self.numbers, self.input.lanes
        if n.taps == 1:
            return weights
        groups, outputs, inputs, kernel_h, kernel_w = weights.shape
        words = weights.reshape(groups, outputs, inputs // lanes, lanes, kernel_h, kernel_w // n.taps, n.taps)
        k = np.arange(outputs)
        own = words[:, k, :, k % lanes]  # [channel][group][word][r][chunk][tap]
        result = np.zeros((groups, outputs, inputs // lanes, lanes, kernel_h, kernel_w // n.taps), dtype=weights.dtype)
        result[:, :, :, : n.taps] = own.transpose(1, 0, 2, 5, 3, 4)
        return result.reshape(groups, outputs, inputs, kernel_h, -1)

    def restore_output(self, y: np.ndarray) -> np.ndarray:
        """The tensor `output` (batch, channels, h, w) as the layer's output; (batch, channels) for vectors of a fully connected layer."""
        return y[:, :, 0, 0] if self.shape.kind == "fc" and self.shape.in_h == 1 else y


def _steps(channels: int, lanes: int, kernel_w: int) -> int:
    return -(-channels // lanes) * kernel_w


def folds(shape: LayerShape, lanes: int) -> bool:
    """Whether folding the kernel's columns into the channels takes fewer reduction steps."""
    if shape.kind != "conv" or shape.groups > 1 or shape.kernel_w == 1:
        return False
    return _steps(shape.in_channels * shape.kernel_w, lanes, 1) < _steps(shape.in_channels, lanes, shape.kernel_w)


def _merged(shape: LayerShape, block: int) -> int:
    """How many of the layer's groups make one lowered group. The last one may lack some if the others make just a block of output channels."""
    k_per_group, groups = shape.out_channels // shape.groups, shape.groups
    merged = block // gcd(k_per_group, block)
    if groups > merged and groups % merged and merged * k_per_group == block and align(groups, merged) * (shape.in_channels // groups) <= align(
        shape.in_channels, block
    ):
        return merged
    return next((m for m in range(1, groups + 1) if groups % m == 0 and k_per_group * m % block == 0), groups)


def _taps(config: AcceleratorConfig, shape: LayerShape, fold: bool) -> int:
    """The most kernel columns that a depthwise layer takes at once: as many as the design keeps words, in equal parts. A maximum takes one by one."""
    depthwise = shape.kind == "average_pool" or (shape.kind == "conv" and shape.groups == shape.in_channels == shape.out_channels)
    if not depthwise or fold:
        return 1
    return max(t for t in range(1, max(1, config.array.depthwise_taps) + 1) if shape.kernel_w % t == 0)


def _is_vector(shape: LayerShape) -> bool:
    """Whether a layer takes one pixel to one pixel, so that a batch of them is an image of that height."""
    return shape.in_h == shape.in_w == shape.out_h == shape.out_w == 1 and shape.kernel_h == shape.kernel_w == 1


def lower(config: AcceleratorConfig, shape: LayerShape, *, batch: int = 1, fold: bool = False, add_steps: int = 1) -> Lowering:
    """`shape` over `batch` images on `config`. `fold` only where the layer's input may be written expanded: ask `folds`.

    `add_steps`: weights for each operand of an add (`hw.golden.add_weights` says how many are needed; with 8 bits nearly always 1).
    Raises `ConfigError` for a matmul or transpose if weights are not as wide as activations.
    """
    if shape.kind in ("matmul", "transpose"):
        return _lower_product(config, shape, batch)
    lanes, block = config.array.lanes, config.channel_block
    merged = _merged(shape, block)
    groups = -(-shape.groups // merged)
    channels, width = (shape.in_channels * shape.kernel_w, shape.out_w) if fold else (shape.in_channels, shape.in_w)
    source = tensor_layout(config, batch, channels, shape.in_h, width)
    result = tensor_layout(config, batch, shape.out_channels, shape.out_h, shape.out_w)
    per_group = channels if shape.groups == 1 else shape.in_channels // shape.groups * merged
    c_groups = max((g * per_group + per_group - 1) // lanes - g * per_group // lanes + 1 for g in range(groups))
    shared = shape.kind in DIAGONAL
    if shared:  # word by word, so that all groups are alike; where cols > lanes the other columns of a pass have no work
        groups, c_groups = source.planes, 1
    operands, kernel_w = (2, add_steps) if shape.kind == "add" else (1, 1 if fold else shape.kernel_w)
    vectors = _is_vector(shape)
    numbers = LoweredLayer(
        images=1 if vectors else batch,
        groups=groups,
        c_groups=operands * c_groups,
        in_planes=source.planes,
        k_per_group=lanes if shared else shape.out_channels // shape.groups * merged,
        in_h=batch if vectors else shape.in_h,
        in_w=width,
        out_h=batch if vectors else shape.out_h,
        out_w=shape.out_w,
        kernel_h=shape.kernel_h,
        kernel_w=kernel_w,
        stride_h=1 if vectors else shape.stride_h,
        stride_w=1 if fold else shape.stride_w,
        dilation=0 if shape.kind == "add" else shape.dilation,
        pad_top=shape.pad_top,
        pad_left=0 if fold else shape.pad_left,
        in_row_bytes=source.row_pitch_bytes,
        in_plane_bytes=source.plane_pitch_bytes,
        out_row_bytes=result.row_pitch_bytes,
        out_plane_bytes=result.plane_pitch_bytes,
        operands=operands,
        uniform=int(shared),
        shared=int(shared),
        product=0,
        taps=_taps(config, shape, fold),
    )
    second = source if operands == 2 else None
    return Lowering(shape=shape, batch=batch, fold=fold, merged_groups=merged, numbers=numbers, input=source, output=result, second=second)


def _lower_product(config: AcceleratorConfig, shape: LayerShape, batch: int) -> Lowering:
    """Matmul and transpose: every image and head is a channel group, its weights are vectors of the second operand."""
    heads = shape.groups
    depth = shape.in_channels // heads
    if config.precision.weight_bits != config.precision.activation_bits:
        raise ConfigError(f"weight_bits must be activation_bits for the product of two activations, not {config.precision.weight_bits} ({shape.name})")
    vectors, rows = shape.out_channels // heads, kernel_rows(shape, config.precision.activation_bits)
    second = tensor_layout(config, batch, shape.in_channels, vectors, heads=heads, sequence=True)
    if shape.kind == "transpose":
        source = tensor_layout(config, 1, depth, depth)
    else:
        source = tensor_layout(config, batch, shape.in_channels, shape.in_h, heads=heads)
    result = tensor_layout(config, batch, shape.out_channels, shape.out_h, heads=heads)
    numbers = LoweredLayer(
        images=1, groups=batch * heads, c_groups=-(-depth // config.array.lanes), in_planes=source.planes, k_per_group=vectors, in_h=source.height, in_w=1,
        out_h=result.height, out_w=1, kernel_h=len(rows.weights), kernel_w=1, stride_h=1, stride_w=1, dilation=0, pad_top=0, pad_left=0,
        in_row_bytes=source.row_pitch_bytes, in_plane_bytes=source.plane_pitch_bytes,
        out_row_bytes=result.row_pitch_bytes, out_plane_bytes=result.plane_pitch_bytes, operands=1, uniform=1, shared=0, product=rows.second_reads,
        taps=1,
    )  # fmt: skip
    return Lowering(shape=shape, batch=batch, fold=False, merged_groups=1, numbers=numbers, input=source, output=result, second=second, rows=rows)
