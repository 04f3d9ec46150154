"""Layouts in DRAM: where each value lies, by plain loops."""

import numpy as np
import pytest

from hw.config import load_design
from hw.errors import ConfigError
from hw.tensors import MemoryMap, pack_words, tensor_layout, unpack_words, vector_plane_bytes


@pytest.mark.parametrize("bits", [4, 8, 16])
def test_words_hold_the_first_value_in_the_lowest_bits(bits):
    values = np.random.default_rng(bits).integers(-(1 << bits - 1), 1 << bits - 1, (5, 8))
    data = pack_words(values, bits)
    for row, packed in zip(values, data, strict=True):
        word = sum((int(value) & (1 << bits) - 1) << bits * i for i, value in enumerate(row))
        assert packed.tobytes() == word.to_bytes(bits, "little")  # 8 values of `bits` bits
    np.testing.assert_array_equal(unpack_words(data, bits), values)


def test_a_feature_map_is_groups_of_channels_in_aligned_rows():
    """Medium has 8 lanes of 8 bits: 11 channels are two groups; a row of 5 pixels takes 40 bytes, from each multiple of 32 on."""
    layout = tensor_layout(load_design("medium"), 2, 11, 3, 5)
    assert (layout.row_pitch_bytes, layout.plane_pitch_bytes, layout.image_pitch_bytes, layout.size_bytes) == (64, 3 * 64, 6 * 64, 12 * 64)
    x = np.random.default_rng(0).integers(-128, 128, (2, 11, 3, 5))
    memory = layout.pack(x)
    for n, c, i, j in np.ndindex(*x.shape):
        address = n * 384 + c // 8 * 192 + i * 64 + j * 8 + c % 8
        assert memory[address].astype(np.int8) == x[n, c, i, j] and layout.word_offset(n, c // 8, i, j) == address - c % 8
    np.testing.assert_array_equal(layout.unpack(memory), x)


def test_vectors_are_packed_without_gaps():
    layout = tensor_layout(load_design("medium"), 1, 20)
    x = np.arange(20).reshape(1, 20, 1, 1)
    assert layout.pack(x).tolist() == list(range(20)) + [0] * 12
    np.testing.assert_array_equal(layout.unpack(layout.pack(x)), x)


def test_groups_of_a_batch_of_vectors_start_so_that_they_cross_no_beat():
    for word_bytes in (1, 2, 4, 8, 16, 32, 64, 128):
        for vectors in range(1, 70):
            pitch = vector_plane_bytes(vectors, word_bytes)
            assert vectors * word_bytes <= pitch < max(2 * vectors * word_bytes, vectors * word_bytes + 32)
            assert pitch % 32 == 0 or (pitch < 32 and 32 % pitch == 0)


def test_what_does_not_fit_a_layout_is_refused():
    layout = tensor_layout(load_design("medium"), 2, 20)
    with pytest.raises(ConfigError, match="activations must be -128 to 127, not 0 to 128"):
        layout.pack(np.where(np.arange(40) == 7, 128, 0).reshape(2, 20, 1, 1))
    with pytest.raises(ConfigError, match=r"tensor must be of shape \(2, 20, 1, 1\), not \(1, 20, 1, 1\)"):
        layout.pack(np.zeros((1, 20, 1, 1)))
    with pytest.raises(ConfigError, match=f"tensor must have {layout.size_bytes} bytes, not 3"):
        layout.unpack(np.zeros(3, dtype=np.uint8))


def test_regions_follow_on_each_other_in_pages():
    memory_map = MemoryMap(0x10000)
    sizes = {"a": 1, "b": 4096, "c": 4097}
    assert [memory_map.add(name, size).address for name, size in sizes.items()] == [0x10000, 0x11000, 0x12000]
    assert memory_map.end_address == 0x14000
    with pytest.raises(ConfigError, match="base_address must be a multiple of 4096, not 100"):
        MemoryMap(100)
