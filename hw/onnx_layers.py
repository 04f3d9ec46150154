"""Quantized layers from ONNX operators: shapes, integers and scales."""

import re
from collections.abc import Collection, Sequence
from dataclasses import dataclass, field, replace
from itertools import chain, count
from math import ceil, inf

import numpy as np
import onnx
from pydantic import ValidationError

from hw.errors import ConfigError
from hw.golden import QuantizedLayer, add_layer, quantize_scale, scaled_layer
from hw.graph import LayerStep, Step, Tensor
from hw.layers import LayerShape
from hw.onnx_views import View, view


@dataclass(frozen=True, kw_only=True)
class Ending:
    """What follows an operator before its result is quantized: a factor, then clips, as real numbers, and renamings."""

    gain: float = 1.0
    low: float = -inf
    high: float = inf
    renamings: tuple[onnx.NodeProto, ...] = ()

    def clipped(self, low: float, high: float) -> "Ending":
        """This ending behind one more clip, which cannot leave its range."""
        return replace(self, low=min(max(low, self.low), self.high), high=max(min(high, self.high), self.low))


@dataclass(frozen=True, kw_only=True)
class Weights:
    """Constant integers, signed and symmetric, with one scale, or one for each index of `axis`."""

    integers: np.ndarray
    scales: np.ndarray
    axis: int

    @classmethod
    def of(cls, integers: np.ndarray, scales: np.ndarray, zero_points: np.ndarray | None, axis: int, where: str) -> "Weights":
        """From ONNX's numbers; unsigned integers are shifted by half their range. Refuses zero points that are not 0 then."""
        kind = str(integers.dtype)
        if not re.fullmatch(r"u?int\d+", kind):
            raise ConfigError(f"weights must be integers, not {kind} ({where})")
        values, zeros = integers.astype(np.int64), np.zeros(1, dtype=np.int64) if zero_points is None else zero_points.astype(np.int64)
        if kind.startswith("u"):
            half = 1 << int(kind.removeprefix("uint")) - 1
            values, zeros = values - half, zeros - half
        if scales.size > 1 and scales.ndim != 1:
            raise ConfigError(f"weights must have one scale a channel, not {scales.shape} ({where})")
        if zeros.any():
            worst = zeros.ravel()[np.abs(zeros).argmax()]
            raise ConfigError(f"weights must have zero point 0, not {worst} ({where}); quantize weights symmetrically, to signed integers")
        return cls(integers=values, scales=np.asarray(scales, dtype=np.float64).reshape(-1), axis=axis % max(1, integers.ndim))

    def real(self) -> np.ndarray:
        """The values."""
        if self.scales.size == 1:
            return self.integers * self.scales[0]
        return self.integers * self.scales.reshape([-1 if i == self.axis else 1 for i in range(self.integers.ndim)])

    def transpose(self, order: tuple[int, ...]) -> "Weights":
        return Weights(integers=self.integers.transpose(order), scales=self.scales, axis=order.index(self.axis))

    def channel_scales(self, axis: int, where: str) -> np.ndarray:
        """One scale for each output channel: for each index of `axis`."""
        outputs = self.integers.shape[axis]
        if self.scales.size > 1 and (self.axis != axis or self.scales.size != outputs):
            raise ConfigError(f"weights must have one scale, or one for each of {outputs} outputs, not {self.scales.size} along axis {self.axis} ({where})")
        if not (self.scales > 0).all():
            raise ConfigError(f"scales of weights must be positive, not {self.scales.min()} ({where})")
        return np.broadcast_to(self.scales, (outputs,))


def window_sizes(given: dict, height: int, width: int, kernel: tuple[int, int], where: str) -> dict[str, int]:
    """The sizes of a window in a LayerShape, from the attributes of Conv or of pooling on an image."""
    strides, dilations = given.get("strides", (1, 1)), given.get("dilations", (1, 1))
    if len(kernel) != 2:
        raise ConfigError(f"kernel must have 2 axes, not {len(kernel)} ({where})")
    if dilations[0] != dilations[1]:
        raise ConfigError(f"dilation must be the same in both directions, not {list(dilations)} ({where})")
    spans = [dilations[0] * (k - 1) + 1 for k in kernel]
    pads, kind = list(given.get("pads", (0, 0, 0, 0))), given.get("auto_pad", b"NOTSET").decode()
    if kind in ("SAME_UPPER", "SAME_LOWER"):
        totals = [max(0, (ceil(size / stride) - 1) * stride + span - size) for size, stride, span in zip((height, width), strides, spans, strict=True)]
        small, large = [total // 2 for total in totals], [total - total // 2 for total in totals]
        pads = [*small, *large] if kind == "SAME_UPPER" else [*large, *small]
    if given.get("ceil_mode"):  # one more window where it begins within the image or the padding before it
        for i, (size, stride, span) in enumerate(zip((height, width), strides, spans, strict=True)):
            count = ceil((size + pads[i] + pads[i + 2] - span) / stride) + 1
            count -= (count - 1) * stride >= size + pads[i]
            pads[i + 2] = max(pads[i + 2], (count - 1) * stride + span - size - pads[i])
    if min(pads) < 0:
        raise ConfigError(f"padding must not be negative, not {pads} ({where})")
    return {
        "in_h": height, "in_w": width, "kernel_h": kernel[0], "kernel_w": kernel[1], "stride_h": strides[0], "stride_w": strides[1],
        "dilation": dilations[0], "pad_top": pads[0], "pad_left": pads[1], "pad_bottom": pads[2], "pad_right": pads[3],
    }  # fmt: skip


@dataclass(kw_only=True)
class LayerBuilder:
    """Collects tensors and steps; every method makes a layer and returns the view of its output."""

    batch: int = 1
    tensors: dict[str, Tensor] = field(default_factory=dict)
    steps: list[Step] = field(default_factory=list)
    inputs: list[str] = field(default_factory=list)
    parts: dict[str, tuple[str, int]] = field(default_factory=dict)
    layer_names: set[str] = field(default_factory=set)

    def unique(self, name: str, taken: Collection[str]) -> str:
        """`name`, or with a number behind it, and not in `taken`; entered there if that is a set."""
        found = next(one for one in chain([name], (f"{name}.{i}" for i in count(1))) if one not in taken)
        if isinstance(taken, set):
            taken.add(found)
        return found

    def conv(self, name: str, x: View, weights: Weights, bias: np.ndarray | None, given: dict, target: Tensor, ending: Ending, where: str) -> View:
        source = self._image(x, where)
        if weights.integers.ndim != 4:
            raise ConfigError(f"weights must have 4 axes, not {weights.integers.ndim} ({where})")
        groups, (outputs, _, *kernel) = given.get("group", 1), weights.integers.shape
        sizes = window_sizes(given, source.height, source.width, tuple(kernel), where)
        shape = _shape(where, name=name, kind="conv", in_channels=source.channels, out_channels=outputs, groups=groups, **sizes)
        result = replace(target, channels=outputs, height=shape.out_h, width=shape.out_w)
        self._learned(shape, source, weights.integers, weights.channel_scales(0, where), bias, result, ending)
        return view(result.name, (self.batch, *result.shape), "nchw")

    def gemm(self, name: str, x: View, weights: Weights, bias: np.ndarray | None, given: dict, target: Tensor, ending: Ending, where: str) -> View:
        """A matrix of weights (inputs, outputs), or its transpose: over vectors, over the vectors of a sequence, or over whole images as vectors."""
        if given.get("transA") or given.get("alpha", 1.0) != 1.0 or (bias is not None and given.get("beta", 1.0) != 1.0):
            raise ConfigError(f"Gemm must have transA 0, alpha and beta 1 ({where})")
        if weights.integers.ndim != 2:
            raise ConfigError(f"weights must be a matrix, not of shape {weights.integers.shape} ({where})")
        if not given.get("transB"):
            weights = weights.transpose((1, 0))
        source, outputs = self.tensors[x.tensor], len(weights.integers)
        letters = x.letters
        axes = [axis for axis in letters[:-1] if axis]
        if letters[-1] in ("c", "") and axes in (["n"], ["n", "h"], ["h"], []) and source.width == 1:
            shape = _shape(where, name=name, kind="fc", in_channels=source.channels, out_channels=outputs, in_h=source.height)
            integers = weights.integers[:, :, None, None]
        elif letters[-1] in ("chw", "ch", "cw", "hw", "h", "w") and axes in (["n"], []):  # the whole image: a kernel of its size
            sizes = {"in_h": source.height, "in_w": source.width, "kernel_h": source.height, "kernel_w": source.width}
            shape = _shape(where, name=name, kind="conv", in_channels=source.channels, out_channels=outputs, **sizes)
            integers = weights.integers.reshape(outputs, *source.shape)
        else:
            raise ConfigError(f"inputs of a matrix must be the channels of vectors, or whole images, not axes {letters} ({where})")
        if weights.integers.shape[1] != integers[0].size or x.shape[-1] != integers[0].size:
            raise ConfigError(f"weights must have {x.shape[-1]} inputs, not {weights.integers.shape[1]} ({where})")
        result = replace(target, channels=outputs, height=shape.out_h)
        self._learned(shape, source, integers, weights.channel_scales(0, where), bias, result, ending)
        made = view(result.name, (self.batch, result.height, outputs), "nhc")
        return made.reshape((*x.shape[:-1], outputs), where)

    def pool(self, name: str, kind: str, x: View, given: dict, target: Tensor, ending: Ending, where: str) -> View:
        source = self._image(x, where)
        if kind.startswith("Global"):
            given = {}
            kernel = (source.height, source.width)
        else:
            kernel = tuple(given["kernel_shape"])
        sizes = window_sizes(given, source.height, source.width, kernel, where)
        average = kind.endswith("AveragePool")
        plain = window_sizes({**given, "ceil_mode": 0}, source.height, source.width, kernel, where)
        padded = any(sizes[f"pad_{side}"] for side in ("top", "left", "bottom", "right"))
        if average and padded and (not given.get("count_include_pad") or sizes != plain):
            raise ConfigError(f"average pooling must count padding (count_include_pad 1, ceil_mode 0), which this does not ({where})")
        shape = _shape(where, name=name, kind="average_pool" if average else "max_pool", in_channels=source.channels, **sizes)
        result = replace(target, channels=source.channels, height=shape.out_h, width=shape.out_w)
        self._scaled(shape, source, source.scale / result.scale, result, ending)
        return view(result.name, (self.batch, *result.shape), "nchw")

    def rescale(self, x: View, target: Tensor, ending: Ending, name: str) -> View:
        """The same values with other numbers, clipped: pooling over one pixel. Nothing at all if that changes nothing."""
        source = self.tensors[x.tensor]
        result = replace(target, channels=source.channels, height=source.height, width=source.width, heads=source.heads)
        low, high = _clips(result, ending)
        if source.same_numbers == target.same_numbers and ending.gain == 1.0 and (low, high) == (target.low, target.high):
            return x
        sizes = {"in_channels": source.channels, "in_h": source.height, "in_w": source.width}
        shape = _shape(name, name=self.unique(name, self.layer_names), kind="average_pool", **sizes)
        self._scaled(shape, source, source.scale / result.scale, result, ending)
        return replace(x, tensor=result.name)

    def add(self, name: str, a: View, b: View, target: Tensor, ending: Ending, where: str) -> View:
        first, second = self.tensors[a.tensor], self.tensors[b.tensor]
        if a.axes != b.axes or first.shape != second.shape:
            raise ConfigError(f"operands of Add must have the same shape and order of axes, not {a.shape} and {b.shape} ({where})")
        result = replace(target, channels=first.channels, height=first.height, width=first.width, heads=first.heads)
        low, high = _clips(result, ending)
        scales = first.scale * ending.gain / result.scale, second.scale * ending.gain / result.scale
        shape = _shape(where, name=name, kind="add", in_channels=first.channels, in_h=first.height, in_w=first.width)
        layer = add_layer(
            shape, scales, first.bits, first.bits, input_zero_point=first.zero_point, second_zero_point=second.zero_point,
            output_zero_point=result.zero_point, clip_low=low, clip_high=high,
        )  # fmt: skip
        self._append(layer, first, result, second)
        return replace(a, tensor=result.name)

    def matmul(self, name: str, a: View, b: View, target: Tensor, ending: Ending, where: str) -> View:
        """Two activations: (.., vectors, channels) x (.., channels, vectors). If b's channels run the other way it is transposed first."""
        first, second = self.tensors[a.tensor], self.tensors[b.tensor]
        heads = a.shape[1] if len(a.shape) == 4 else 1
        expected = ["n", "c", "h", "c"] if len(a.shape) == 4 else ["n", "h", "c"]
        if not _alike(a.letters, expected):
            raise ConfigError(f"first operand must be (batch, heads, vectors, channels), not axes {a.letters} ({where})")
        if a.shape[:-2] != b.shape[:-2]:
            raise ConfigError(f"operands must have the same batch and heads, not {a.shape[:-2]} and {b.shape[:-2]} ({where})")
        turned = [*expected[:-2], "c", "h"]
        if not _alike(b.letters, turned):
            if not _alike(b.letters, expected):
                raise ConfigError(f"second operand must be (batch, heads, channels, vectors) of a tensor, not axes {b.letters} ({where})")
            shape = _shape(where, name=self.unique(f"{name}.transpose", self.layer_names), kind="transpose", in_channels=second.channels,
                           in_h=second.height, groups=heads)  # fmt: skip
            new = replace(second, name=self.unique(f"{second.name}.transposed", self.tensors), channels=shape.out_channels, height=shape.out_h, heads=heads)
            layer = scaled_layer(shape, 1.0, input_zero_point=0, output_zero_point=0, clip_low=second.low, clip_high=second.high)
            self._append(layer, second, new)
            second = new
        shape = _shape(where, name=name, kind="matmul", in_channels=first.channels, out_channels=heads * b.shape[-1], in_h=first.height, groups=heads,
                       input_zero_point=first.zero_point, second_zero_point=second.zero_point)  # fmt: skip
        result = replace(target, channels=shape.out_channels, height=first.height, heads=heads)
        self._scaled(shape, first, first.scale * second.scale / result.scale, result, ending, second)
        plain = view(result.name, (self.batch, result.height, result.channels), "nhc")
        if len(a.shape) == 3:
            return plain
        return plain.reshape((self.batch, result.height, heads, b.shape[-1]), where).transpose((0, 2, 1, 3))

    def concat(self, name: str, views: list[View], axis: int, target: Tensor, ending: Ending, where: str) -> View:
        """Tensors behind each other in the channels: each is made where it belongs, or copied there if something else needs it otherwise."""
        tensors = [self.tensors[one.tensor] for one in views]
        letters, axis = views[0].letters, axis % len(views[0].shape)
        sizes = {(t.height, t.width, t.heads) for t in tensors}
        if letters[axis] not in ("c", "") or len(sizes) > 1 or any(not _alike(one.letters, letters) for one in views) or tensors[0].heads > 1:
            raise ConfigError(f"concat must be of whole tensors along their channels, not along axis {axis} of {letters} ({where})")
        whole = replace(tensors[0], name=target.name, channels=sum(t.channels for t in tensors), scale=target.scale, zero_point=target.zero_point,
                        bits=target.bits, offset=target.offset)  # fmt: skip
        made, first = {step.output for step in self.steps}, 0
        self.tensors[whole.name] = whole
        for tensor in tensors:
            unchanged = tensor.same_numbers == whole.same_numbers and ending.gain == 1.0 and _clips(whole, ending) == (whole.low, whole.high)
            if not (unchanged and tensor.name in made and tensor.name not in self.parts):
                copied = replace(whole, name=self.unique(f"{tensor.name}.copied", self.tensors), channels=tensor.channels)
                shape = _shape(where, name=self.unique(f"{name}.copy", self.layer_names), kind="average_pool", in_channels=tensor.channels,
                               in_h=tensor.height, in_w=tensor.width)  # fmt: skip
                self._scaled(shape, tensor, tensor.scale / whole.scale, copied, ending)
                tensor = copied
            self.parts[tensor.name] = (whole.name, first)
            first += tensor.channels
        extent = list(views[0].shape)
        extent[axis] = whole.channels
        return view(whole.name, tuple(extent), "".join("c" if i == axis else letter or "n" for i, letter in enumerate(letters)))

    # What all have in common

    def _image(self, x: View, where: str) -> Tensor:
        if len(x.shape) != 4 or not _alike(x.letters, ["n", "c", "h", "w"]):
            raise ConfigError(f"input must be images (batch, channels, height, width), not axes {x.letters} ({where})")
        return self.tensors[x.tensor]

    def _learned(
        self, shape: LayerShape, source: Tensor, integers: np.ndarray, scales: np.ndarray, bias: np.ndarray | None, result: Tensor, ending: Ending
    ) -> None:  # fmt: skip
        sums = source.scale * scales
        integer_bias = np.zeros(shape.out_channels, dtype=np.int64)
        if bias is not None:
            if np.size(bias) != 1 and (np.size(bias) != shape.out_channels or np.shape(bias)[-1] != shape.out_channels):
                raise ConfigError(f"bias must be one value, or one for each of {shape.out_channels} outputs, not of shape {np.shape(bias)} ({shape.name})")
            integer_bias = np.rint(np.broadcast_to(np.ravel(bias), shape.out_channels) / sums).astype(np.int64)
        if np.abs(integers).max() >= 1 << 15:
            raise ConfigError(f"weights must have at most 16 bits, not a value of {np.abs(integers).max()} ({shape.name})")
        multiplier, shift = quantize_scale(sums * ending.gain / result.scale, shape.name)
        low, high = _clips(result, ending)
        layer = QuantizedLayer(
            shape=shape, weights=integers.astype(np.int16), bias=integer_bias, multiplier=multiplier, shift=shift, input_zero_point=source.zero_point,
            output_zero_point=result.zero_point, clip_low=low, clip_high=high,
        )  # fmt: skip
        self._append(layer, source, result)

    def _scaled(self, shape: LayerShape, source: Tensor, scale: float, result: Tensor, ending: Ending, second: Tensor | None = None) -> None:
        low, high = _clips(result, ending)
        layer = scaled_layer(
            shape, scale * ending.gain, input_zero_point=source.zero_point, second_zero_point=second.zero_point if second else 0,
            output_zero_point=result.zero_point, clip_low=low, clip_high=high,
        )  # fmt: skip
        self._append(layer, source, result, second)

    def _append(self, layer: QuantizedLayer, source: Tensor, result: Tensor, second: Tensor | None = None) -> None:
        self.tensors[result.name] = result
        self.steps.append(LayerStep(layer=layer, input=source.name, output=result.name, second=None if second is None else second.name))


def _shape(where: str, **sizes: int | str) -> LayerShape:
    try:
        return LayerShape.model_validate(sizes)
    except ValidationError as error:
        raise ConfigError(f"layer must be {error.errors()[0]['msg'].removeprefix('Value error, ')} ({where})") from None


def _clips(result: Tensor, ending: Ending) -> tuple[int, int]:
    """The least and the greatest integer that an ending leaves."""
    low = max(result.low, round(ending.low / result.scale) + result.zero_point) if np.isfinite(ending.low) else result.low
    high = min(result.high, round(ending.high / result.scale) + result.zero_point) if np.isfinite(ending.high) else result.high
    return min(low, result.high), max(high, result.low)


def _alike(letters: Sequence[str], expected: Sequence[str]) -> bool:
    """Whether axes are the expected ones; those of size 1 are nameless."""
    return len(letters) == len(expected) and all(one in ("", other) for one, other in zip(letters, expected, strict=True))
