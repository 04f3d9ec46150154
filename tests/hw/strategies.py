"""Random legal configurations, layers and tilings for property tests."""

from hypothesis import assume
from hypothesis import strategies as st

from hw.config import AcceleratorConfig, Array, Buffers, Memory, Precision
from hw.golden import value_range
from hw.layers import LayerShape
from hw.tiling import Tiling, architecture, plan


def powers(low: int, high: int) -> st.SearchStrategy[int]:
    return st.sampled_from([1 << i for i in range(low.bit_length() - 1, high.bit_length())])


@st.composite
def configurations(draw, max_rows: int = 5, max_bank_words: int = 1024) -> AcceleratorConfig:
    cols, lanes = draw(powers(2, 16)), draw(powers(2, 16))
    precision = Precision(activation_bits=draw(st.sampled_from([4, 8, 16])), weight_bits=draw(st.sampled_from([4, 8, 16])))
    post_lanes = draw(powers(1, min(4, cols, lanes)))

    def bank(bits: int) -> int:
        return max(64, draw(powers(32, max_bank_words)) * lanes * bits // 8)

    return AcceleratorConfig(
        version=1,
        name="drawn",
        array=Array(rows=draw(st.integers(1, max_rows)), cols=cols, lanes=lanes, acc_depth=draw(powers(1, 16)), acc_bits=48, post_lanes=post_lanes,
                    depthwise_taps=draw(st.sampled_from([0, *range(2, min(lanes, 8) + 1)]))),
        precision=precision,
        buffers=Buffers(
            activation_bank_bytes=bank(precision.activation_bits),
            weight_bank_bytes=bank(precision.weight_bits),
            output_bank_bytes=bank(precision.activation_bits),
            parameter_words=draw(powers(32 * post_lanes, 256)),
        ),
        memory=Memory(axi_data_bits=draw(st.sampled_from([32, 64, 128, 256]))),
    )


@st.composite
def layers(draw, name: str = "drawn", max_size: int = 12, max_channels: int = 40) -> LayerShape:
    if draw(st.integers(0, 4)) == 0:
        inputs, outputs = draw(st.integers(1, 3 * max_channels)), draw(st.integers(1, max_channels))
        return LayerShape(name=name, kind="fc", in_channels=inputs, out_channels=outputs, relu=draw(st.booleans()))
    groups = draw(st.sampled_from([1, 1, 1, 2, 3, 4, 8]))
    sizes = {
        "kernel_h": draw(st.integers(1, 5)), "kernel_w": draw(st.integers(1, 5)), "stride_h": draw(st.integers(1, 3)), "stride_w": draw(st.integers(1, 3)),
        "pad_top": draw(st.integers(0, 3)), "pad_bottom": draw(st.integers(0, 3)), "pad_left": draw(st.integers(0, 3)), "pad_right": draw(st.integers(0, 3)),
        "dilation": draw(st.sampled_from([1, 1, 2])),
    }  # fmt: skip
    in_h, in_w = draw(st.integers(1, max_size)), draw(st.integers(1, max_size))
    assume(in_h + sizes["pad_top"] + sizes["pad_bottom"] > sizes["dilation"] * (sizes["kernel_h"] - 1))
    assume(in_w + sizes["pad_left"] + sizes["pad_right"] > sizes["dilation"] * (sizes["kernel_w"] - 1))
    return LayerShape(
        name=name,
        kind="conv",
        in_channels=groups * draw(st.integers(1, max(1, max_channels // groups))),
        out_channels=groups * draw(st.integers(1, max(1, 2 * max_channels // groups))),
        in_h=in_h,
        in_w=in_w,
        groups=groups,
        relu=draw(st.booleans()),
        **sizes,
    )


@st.composite
def operators(draw, name: str = "drawn", max_size: int = 12, max_channels: int = 40) -> LayerShape:
    """Any kind of layer; convolutions and fully connected layers as `layers` has them, and depthwise ones, and sequences of vectors."""
    kind = draw(st.sampled_from(["layers", "layers", "depthwise", "sequence", "max_pool", "average_pool", "add", "matmul", "transpose"]))
    if kind == "layers":
        return draw(layers(name=name, max_size=max_size, max_channels=max_channels))
    channels, in_h = draw(st.integers(1, max_channels)), draw(st.integers(1, max_size))
    if kind == "sequence":
        return LayerShape(name=name, kind="fc", in_channels=channels, out_channels=draw(st.integers(1, max_channels)), in_h=in_h)
    if kind == "add":
        return LayerShape(name=name, kind="add", in_channels=channels, in_h=in_h, in_w=draw(st.integers(1, max_size)), relu=draw(st.booleans()))
    if kind in ("matmul", "transpose"):
        heads, depth = draw(st.integers(1, 3)), draw(st.integers(1, max_channels))
        outputs = {"out_channels": heads * draw(st.integers(1, max_size))} if kind == "matmul" else {}
        return LayerShape(name=name, kind=kind, in_channels=heads * depth, in_h=in_h, groups=heads, **outputs)
    window = draw(layers(name=name, max_size=max_size).filter(lambda shape: shape.kind == "conv"))
    sizes = {key: getattr(window, key) for key in type(window).model_fields if key not in ("kind", "in_channels", "out_channels", "groups")}
    if kind == "max_pool":  # every window has a pixel of the image in it
        assume(all(sizes[f"pad_{side}"] < sizes["kernel_h"] * sizes["dilation"] for side in ("top", "bottom")))
        assume(max(sizes["pad_top"], sizes["pad_bottom"]) < sizes["kernel_h"] and max(sizes["pad_left"], sizes["pad_right"]) < sizes["kernel_w"])
        assume(sizes["dilation"] == 1)
    if kind != "depthwise":
        return LayerShape(kind=kind, in_channels=channels, **sizes)
    return LayerShape(kind="conv", in_channels=channels, out_channels=channels * draw(st.sampled_from([1, 1, 2, 3])), groups=channels, **sizes)


@st.composite
def channel_windows(draw, name: str = "drawn", max_size: int = 12, max_channels: int = 40) -> LayerShape:
    """Depthwise convolutions with one output a channel, and pooling, padded on all sides, often of a stride that is a multiple of the dilation."""
    kind, channels = draw(st.sampled_from(["conv", "average_pool", "max_pool"])), draw(st.integers(1, max_channels))
    kernel_h, kernel_w, dilation = draw(st.integers(1, 3)), draw(st.sampled_from([2, 3, 3, 4, 6])), draw(st.sampled_from([1, 1, 2]))
    in_h, in_w = draw(st.integers(1, max_size)), draw(st.integers(1, max_size))
    sizes = {
        "kernel_h": kernel_h, "kernel_w": kernel_w, "dilation": dilation, "stride_h": draw(st.integers(1, 2)), "stride_w": draw(st.integers(1, 3)),
        "pad_top": draw(st.integers(0, kernel_h - 1)), "pad_bottom": draw(st.integers(0, kernel_h - 1)),
        "pad_left": draw(st.integers(0, kernel_w - 1)), "pad_right": draw(st.integers(0, kernel_w - 1)),
    }  # fmt: skip
    assume(in_h + sizes["pad_top"] + sizes["pad_bottom"] > dilation * (kernel_h - 1))
    assume(in_w + sizes["pad_left"] + sizes["pad_right"] > dilation * (kernel_w - 1))
    if kind == "max_pool":  # every window has a pixel of the image in it
        assume(dilation == 1)
    return LayerShape(name=name, kind=kind, in_channels=channels, out_channels=channels, groups=channels, in_h=in_h, in_w=in_w, **sizes)


@st.composite
def operators_on_configurations(draw, max_bank_words: int = 256, **sizes) -> tuple[AcceleratorConfig, LayerShape]:
    """A configuration and a layer; for products of activations, with weights as wide as activations, and zero points of any kind."""
    config, shape = draw(configurations(max_bank_words=max_bank_words)), draw(operators(**sizes))
    if shape.kind == "matmul":
        shape = shape.model_copy(update={name: draw(zero_points(config.precision.activation_bits)) for name in ("input_zero_point", "second_zero_point")})
    return for_products(config) if shape.kind in ("matmul", "transpose") else config, shape


def zero_points(bits: int) -> st.SearchStrategy[int]:
    """0, the extremes and any other, each as often."""
    low, high = value_range(bits)
    return st.one_of(st.just(0), st.just(low), st.just(high), st.integers(low, high))


def for_products(config: AcceleratorConfig) -> AcceleratorConfig:
    """The configuration with weights as wide as activations."""
    bits = config.precision.activation_bits
    size = config.weight_words * config.array.lanes * bits // 8
    buffers, precision = config.buffers.model_copy(update={"weight_bank_bytes": size}), config.precision.model_copy(update={"weight_bits": bits})
    return config.model_copy(update={"buffers": buffers, "precision": precision})


@st.composite
def tilings(draw, config: AcceleratorConfig, numbers, legal: bool = True) -> Tiling:
    """Any tiling within the layer's bounds; with `legal`, one that fits the banks (or the example is given up)."""
    block = config.channel_block
    blocks = -(-numbers.k_per_group // block)
    a = architecture(config)
    for _ in range(20 if legal else 1):
        split = numbers.c_groups > 1 and not numbers.shared and draw(st.integers(0, 3)) == 0
        tile_h = draw(st.integers(1, min(numbers.out_h, config.array.acc_depth if split else 64)))
        t = Tiling(
            order=draw(st.integers(0, 1)),
            tile_h=tile_h,
            tile_w=draw(st.integers(1, min(numbers.out_w, max(1, config.array.acc_depth // tile_h) if split else 64))),
            tile_k=block * (1 if split else draw(st.sampled_from(sorted({1, min(2, blocks), blocks})))),
            tile_c=draw(st.integers(1, numbers.c_groups - 1)) if split else numbers.c_groups,
        )
        if not legal or plan(a, numbers, t).problem == 0:
            return t
    assume(False)
