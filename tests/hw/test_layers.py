"""Layer tables: shapes, totals, and what is refused."""

import pytest

from hw.errors import ConfigError
from hw.layers import LayerShape, Network, load_network
from hw.settings import parse


def test_alexnet_has_the_published_totals():
    """Per layer: outputs x inputs a group x kernel area, by hand from the paper; totals 724.4 M MACs, 60.955 M weights."""
    network = load_network("alexnet")
    macs = {
        "conv1": 96 * 55 * 55 * 3 * 121, "conv2": 256 * 27 * 27 * 48 * 25, "conv3": 384 * 13 * 13 * 256 * 9, "conv4": 384 * 13 * 13 * 192 * 9,
        "conv5": 256 * 13 * 13 * 192 * 9, "fc6": 9216 * 4096, "fc7": 4096 * 4096, "fc8": 4096 * 1000,
    }  # fmt: skip
    assert {layer.name: layer.macs for layer in network.layers} == macs
    assert network.macs == sum(macs.values()) and round(network.macs / 1e6, 1) == 724.4
    convolutions = network.select([f"conv{i}" for i in range(1, 6)], "alexnet_conv")
    assert (round(convolutions.macs / 1e6, 1), round(convolutions.weights / 1e6, 3)) == (665.8, 2.333)
    assert round(sum(layer.input_activations for layer in convolutions.layers) / 1e6, 3) == 0.398
    assert round(sum(layer.output_activations for layer in convolutions.layers) / 1e6, 3) == 0.650
    assert round(network.weights / 1e6, 3) == 60.955


def test_output_sizes_are_the_positions_that_fit():
    for size in range(1, 12):
        for kernel in range(1, 5):
            for stride in range(1, 4):
                for dilation in (1, 2):
                    for before, after in ((0, 0), (1, 2), (3, 0)):
                        positions = [i for i in range(0, size + before + after, stride) if i + dilation * (kernel - 1) < size + before + after]
                        sizes = {"kernel_h": kernel, "stride_h": stride, "pad_top": before, "pad_bottom": after, "dilation": dilation, "in_h": size}
                        if positions:
                            assert LayerShape(name="x", kind="conv", in_channels=1, out_channels=1, **sizes).out_h == len(positions)
                        else:
                            with pytest.raises(ValueError, match="the kernel fits"):
                                LayerShape(name="x", kind="conv", in_channels=1, out_channels=1, **sizes)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"kind": "fc", "in_w": 2}, "a fully connected layer with only in_channels, out_channels and in_h"),
        ({"kind": "fc", "pad_top": 1}, "a fully connected layer with only in_channels, out_channels and in_h"),
        ({"kind": "add", "out_channels": 3, "kernel_h": 2}, "an add with only in_channels, in_h and in_w"),
        ({"kind": "max_pool"}, "such that out_channels and groups are in_channels (max_pool)"),
        ({"kind": "average_pool", "out_channels": 3, "groups": 1}, "such that out_channels and groups are in_channels (average_pool)"),
        ({"kind": "matmul", "stride_h": 2}, "a matmul with only in_channels, out_channels, in_h, groups and zero points"),
        ({"kind": "matmul", "second_zero_point": 1 << 15}, "layers.0.second_zero_point must be less than 32768, not 32768 (here)"),
        ({"input_zero_point": 3}, "a convolution without zero points, which cost it nothing"),
        ({"kind": "transpose", "in_h": 3}, "such that out_channels is groups * in_h (transpose)"),
        ({"groups": 2}, "such that groups (2) divides in_channels and out_channels"),
        ({"in_h": 0}, "layers.0.in_h must be greater than or equal to 1, not 0 (here)"),
        ({"kernel": 3}, "layers.0.kernel must be a known key, not 3 (here); remove it or correct its spelling"),
        ({"in_channels": 3.0}, "layers.0.in_channels must be a valid integer, not 3.0 (here)"),
    ],
)
def test_a_wrong_layer_is_refused(change, message):
    layer = {"name": "x", "kind": "conv", "in_channels": 3, "out_channels": 4} | change
    with pytest.raises(ConfigError) as error:
        parse(Network, {"version": 1, "name": "n", "source": "here", "layers": [layer]}, "here")
    assert message in str(error.value) and "\n" not in str(error.value)


def test_totals_that_do_not_add_up_are_refused():
    layer = {"name": "x", "kind": "fc", "in_channels": 3, "out_channels": 4}
    network = {"version": 1, "name": "n", "source": "here", "layers": [layer], "totals": {"macs": 13, "weights": 12, "source": "here"}}
    with pytest.raises(ConfigError, match="the layers' macs add up to the stated total 13 .they make 12."):
        parse(Network, network, "here")
    with pytest.raises(ConfigError, match="totals.source must be given"):
        parse(Network, network | {"totals": {"macs": 12, "weights": 12}}, "here")


def test_an_unknown_network_lists_what_there_is():
    with pytest.raises(ConfigError, match="network must be one of .*alexnet.*, or a path ending in .yaml, not 'lenet'"):
        load_network("lenet")


def test_the_table_has_one_record_a_layer():
    network = load_network("alexnet")
    table = network.table()
    assert table.shape == (8,) and table["out_h"].tolist() == [layer.out_h for layer in network.layers]
    assert table["groups"].tolist() == [1, 2, 1, 2, 2, 1, 1, 1] and table["dilation"].tolist() == [1] * 8


def test_what_the_field_counts():
    """MACs of an attention head's products and of a depthwise layer by hand; pooling, add and transpose have none; only conv and fc learn."""

    def layer(**sizes):
        return parse(LayerShape, {"name": "x"} | sizes, "here")

    depthwise = layer(kind="conv", in_channels=32, out_channels=32, groups=32, in_h=10, in_w=10, kernel_h=3, kernel_w=3, pad_top=1, pad_left=1)
    assert (depthwise.macs, depthwise.weights) == (9 * 9 * 9 * 32, 9 * 32)
    tokens = layer(kind="fc", in_channels=768, out_channels=3072, in_h=128)
    assert (tokens.macs, tokens.weights, tokens.output_activations) == (128 * 768 * 3072, 768 * 3072, 128 * 3072)
    scores = layer(kind="matmul", in_channels=12 * 64, out_channels=12 * 128, in_h=128, groups=12)  # 12 heads of 64 for 128 tokens
    assert (scores.macs, scores.weights) == (12 * 128 * 128 * 64, 0)
    assert scores.input_activations == 2 * 128 * 768 and scores.output_activations == 12 * 128 * 128
    turned = layer(kind="transpose", in_channels=768, in_h=128, groups=12)
    assert (turned.out_h, turned.out_channels, turned.output_activations, turned.macs) == (64, 12 * 128, 128 * 768, 0)
    pool = layer(kind="max_pool", in_channels=64, in_h=112, in_w=112, kernel_h=3, kernel_w=3, stride_h=2, stride_w=2, pad_top=1, pad_left=1)
    assert (pool.out_channels, pool.groups, pool.out_h, pool.macs, pool.weights) == (64, 64, 56, 0, 0)
    add = layer(kind="add", in_channels=64, in_h=56, in_w=56)
    assert (add.out_channels, add.macs, add.input_activations) == (64, 0, 2 * 64 * 56 * 56)
    assert layer(kind="average_pool", in_channels=512, in_h=7, in_w=7, kernel_h=7, kernel_w=7).out_h == 1
