"""What a layer needs in DRAM besides activations: its weights and parameters, in the order in which they are loaded."""

import numpy as np

from hw.config import PARAMETER_BYTES, AcceleratorConfig
from hw.errors import ConfigError
from hw.golden import BIAS_BITS, QuantizedLayer, value_range
from hw.lowering import Lowering
from hw.tensors import align, pack_words
from hw.tile_plan import Plan, Tiling

WeightTiles = dict[tuple[int, int, int, int], tuple[int, int]]
"""(group, k_tile, subtile, c_part) -> (byte offset, words a column) in the weight image."""


def tile_channels(config: AcceleratorConfig, lowering: Lowering, tiling: Tiling, k_tile: int) -> int:
    """Output channels computed in a k tile: whole blocks of channel_block."""
    return min(tiling.tile_k, align(lowering.numbers.k_per_group, config.channel_block) - k_tile * tiling.tile_k)


def weight_image(config: AcceleratorConfig, layer: QuantizedLayer, lowering: Lowering, tiling: Tiling, plan: Plan) -> tuple[np.ndarray, WeightTiles]:
    """The bytes, and where each tile lies in them. Of products, whose weights are activations, the constants of kernel rows one after the other."""
    cols, lanes = config.array.cols, config.array.lanes
    if lowering.rows:
        runs = [pack_words(np.full(tiling.tile_c * cols * lanes, weight), config.precision.weight_bits) for _, weight in lowering.rows.constants]
        return np.concatenate([np.zeros(0, dtype=np.uint8), *(np.pad(run, (0, align(run.size) - run.size)) for run in runs)]), {}
    weights = lowering.expand_weights(layer.weights)
    groups, _, channels, kernel_h, kernel_w = weights.shape
    tiles: WeightTiles = {}
    pieces, size = [], 0
    for group in range(groups):
        for k_tile in range(plan.k_tiles):
            first, count = k_tile * tiling.tile_k, tile_channels(config, lowering, tiling, k_tile)
            tile = np.zeros((count, channels, kernel_h, kernel_w), dtype=weights.dtype)
            valid = weights[group, first : first + count]
            tile[: len(valid)] = valid
            # [pass][col][c_group][lane][r][s] -> [pass][r][s][c_group][col][lane]
            words = tile.reshape(-1, cols, channels // lanes, lanes, kernel_h, kernel_w).transpose(0, 4, 5, 2, 1, 3)
            for subtile in range(plan.subtiles):
                passes = words[subtile : subtile + 1] if plan.c_parts > 1 else words
                for c_part in range(plan.c_parts):
                    part = passes[:, :, :, c_part * tiling.tile_c : (c_part + 1) * tiling.tile_c]
                    data = pack_words(part.reshape(-1), config.precision.weight_bits)
                    tiles[group, k_tile, subtile, c_part] = size, part.size // (cols * lanes)
                    pieces.append(np.pad(data, (0, align(data.size) - data.size)))
                    size += pieces[-1].size
    return np.concatenate(pieces), tiles


def parameter_pitch(tiling: Tiling) -> int:
    """Bytes from the parameters of one k tile to those of the next."""
    return align(tiling.tile_k * PARAMETER_BYTES)


def parameter_image(config: AcceleratorConfig, layer: QuantizedLayer, lowering: Lowering, tiling: Tiling, plan: Plan) -> np.ndarray:
    """The bytes: of every k tile of every group, or of one tile where all channels are alike."""
    n, parameters = lowering.numbers, hardware_parameters(config, layer)
    if n.uniform:
        image = np.zeros((1, parameter_pitch(tiling)), dtype=np.uint8)
        image[0, : tiling.tile_k * PARAMETER_BYTES] = np.tile(parameters[0], tiling.tile_k)
        return image.reshape(-1)
    image = np.zeros((n.groups, plan.k_tiles, parameter_pitch(tiling)), dtype=np.uint8)
    for group in range(n.groups):
        for k_tile in range(plan.k_tiles):
            first = k_tile * tiling.tile_k
            valid = parameters[group * n.k_per_group + first : group * n.k_per_group + min(first + tiling.tile_k, n.k_per_group)].reshape(-1)
            image[group, k_tile, : valid.size] = valid
    return image.reshape(-1)


def hardware_parameters(config: AcceleratorConfig, layer: QuantizedLayer) -> np.ndarray:
    """(out_channels, 8) bytes: bias with the input's zero point folded in, multiplier, shift. Refuses what the hardware cannot hold."""
    name = layer.shape.name
    low, high = value_range(config.precision.weight_bits)
    if layer.weights.size and (layer.weights.min() < low or layer.weights.max() > high):
        raise ConfigError(f"weights must be {low} to {high}, not {layer.weights.min()} to {layer.weights.max()} ({name})")
    largest, offset = _sums(config, layer)
    if largest >= 1 << config.array.acc_bits - 1:
        raise ConfigError(f"acc_bits must be such that a sum of {largest} fits, not {config.array.acc_bits} ({name}); use more bits or smaller weights")
    activation_low, activation_high = value_range(config.precision.activation_bits)
    for field in ("input_zero_point", "second_zero_point", "output_zero_point", "clip_low", "clip_high"):
        if not activation_low <= getattr(layer, field) <= activation_high:
            raise ConfigError(f"{field} must be {activation_low} to {activation_high}, not {getattr(layer, field)} ({name})")
    bias = layer.bias - offset
    if np.abs(bias).max() >= 1 << BIAS_BITS - 1:
        raise ConfigError(f"bias must fit {BIAS_BITS} bits with the input's zero point folded in, not {bias[np.abs(bias).argmax()]} ({name})")
    bias = np.broadcast_to(bias, layer.multiplier.shape)
    words = (bias & 0xFFFFFFFF) | layer.multiplier << 32 | layer.shift << 48
    return words.astype("<i8").view(np.uint8).reshape(-1, PARAMETER_BYTES)


def _sums(config: AcceleratorConfig, layer: QuantizedLayer) -> tuple[int, np.ndarray | int]:
    """(largest magnitude of a sum, what the zero points add to all of them)."""
    highest = 1 << config.precision.activation_bits - 1
    if layer.shape.kind == "matmul":  # its weights are activations, of which the bits are all that is known
        first, second, depth = layer.input_zero_point, layer.second_zero_point, layer.shape.in_channels // layer.shape.groups
        if first:  # lanes beyond the channels hold it
            depth = align(depth, config.array.lanes)
        return depth * highest * (highest + abs(first) + abs(second)), -depth * first * second
    magnitude, offset = _weight_sums(layer)
    return magnitude * highest, offset


def _weight_sums(layer: QuantizedLayer) -> tuple[int, np.ndarray | int]:
    """(largest sum of the weights' magnitudes over the channels, what the zero points add to the sums)."""
    s, zero = layer.shape, layer.input_zero_point
    if s.kind == "average_pool":
        return s.kernel_h * s.kernel_w, zero * s.kernel_h * s.kernel_w
    if s.kind == "max_pool":
        return 1, zero
    if s.kind == "add":
        sums = layer.weights.sum(axis=1, dtype=np.int64)
        return int(sums.sum()), zero * sums[0] + layer.second_zero_point * sums[1]
    if s.kind == "transpose":
        return 1, 0
    weights = layer.weights.reshape(s.out_channels, -1)
    return int(np.abs(weights, dtype=np.int64).sum(axis=1).max()), zero * weights.sum(axis=1, dtype=np.int64)
