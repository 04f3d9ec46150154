"""The networks that ship add up to what is known of them, counted here by plain loops over the definition of each operator."""

import pytest

from hw.layers import load_network

# Millions: MACs, weights, and (convolutional networks) input and output activations; two groups and 227x227 for AlexNet.
KNOWN = {
    "alexnet": (724.4, 60.955, None, None), "vgg16": (15470.3, 138.344, None, None), "resnet18": (1814.1, 11.679, 2.183, 2.485),
    "resnet50": (4089.2, 25.503, 10.664, 11.115), "mobilenet_v1": (568.7, 4.209, 5.144, 5.044), "mobilenet_v2": (300.8, 3.470, 6.767, 6.679),
    "bert_base": (11173.6, 84.935, None, None), "deit_tiny": (1253.7, 5.648, None, None),
}  # fmt: skip


@pytest.mark.parametrize("name", KNOWN)
def test_totals_are_those_of_public_tables(name):
    network, (macs, weights, inputs, outputs) = load_network(name), KNOWN[name]
    assert round(network.macs / 1e6, 1) == macs and round(network.weights / 1e6, 3) == weights
    for total, field in ((inputs, "input_activations"), (outputs, "output_activations")):
        if total is not None:
            assert round(sum(getattr(layer, field) for layer in network.layers) / 1e6, 3) == total, field


def test_parts_of_networks():
    vgg, mobile = load_network("vgg16"), load_network("mobilenet_v1")
    convolutions = [layer for layer in vgg.layers if layer.kind == "conv"]
    assert round(sum(x.macs for x in convolutions) / 1e6, 1) == 15346.6 and round(sum(x.weights for x in convolutions) / 1e6, 3) == 14.710
    depthwise = [layer for layer in mobile.layers if layer.groups > 1]
    assert round(sum(x.macs for x in depthwise) / 1e6, 1) == 17.4 and round(sum(x.weights for x in depthwise) / 1e6, 3) == 0.045


@pytest.mark.parametrize("name", KNOWN)
def test_every_layer_reads_what_the_one_before_wrote(name):
    """Neighbouring convolutions agree in channels, and in size unless a pooling that is named as left out stands between."""
    network = load_network(name)
    pooled = any("pool" in operator for operator in network.excluded)
    for before, after in zip(network.layers, network.layers[1:], strict=False):
        if before.kind == after.kind == "conv" and "downsample" not in before.name + after.name:
            assert before.out_channels == after.in_channels, after.name
            assert after.in_h == before.out_h or (pooled and after.in_h in (before.out_h // 2, (before.out_h - 1) // 2)), after.name
