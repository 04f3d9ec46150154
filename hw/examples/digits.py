"""Trains a small CNN on scikit-learn's handwritten digits, quantizes it and writes it as ONNX, with test images: seconds on one core.

Usage: python -m hw.examples.digits FOLDER [BATCH]
Writes digits.onnx (QDQ form, int8), images.npy (BATCH test images, float32) and labels.npy; and what a user would start from who has no
quantized model yet: float.onnx (the same network in floating point) and samples.npy (32 batches to quantize it by).
"""

import sys
from pathlib import Path

import numpy as np
import onnx
from onnx import TensorProto, helper, numpy_helper

from hw.examples.qdq import QdqModel

Parameters = dict[str, np.ndarray]


def load_digits() -> tuple[np.ndarray, np.ndarray, np.ndarray, np.ndarray]:
    """(training images, labels, test images, labels); images (n, 1, 8, 8) between 0 and 1, a fifth of the 1797 for tests."""
    from sklearn.datasets import load_digits as load

    data = load()
    order = np.random.default_rng(0).permutation(len(data.target))
    images, labels = (data.images[order, None] / 16.0).astype(np.float32), data.target[order]
    cut = len(labels) * 4 // 5
    return images[:cut], labels[:cut], images[cut:], labels[cut:]


def _patches(x: np.ndarray) -> np.ndarray:
    """3 x 3 neighbourhoods with padding 1: (n, c, h, w) -> (n, h, w, c * 9)."""
    padded = np.pad(x, ((0, 0), (0, 0), (1, 1), (1, 1)))
    windows = np.lib.stride_tricks.sliding_window_view(padded, (3, 3), axis=(2, 3))
    return windows.transpose(0, 2, 3, 1, 4, 5).reshape(len(x), x.shape[2], x.shape[3], -1)


def _fold(gradient: np.ndarray, channels: int) -> np.ndarray:
    """The adjoint of `_patches`."""
    n, h, w, _ = gradient.shape
    pieces, padded = gradient.reshape(n, h, w, channels, 3, 3), np.zeros((n, channels, h + 2, w + 2), dtype=np.float32)
    for r in range(3):
        for s in range(3):
            padded[:, :, r : r + h, s : s + w] += pieces[..., r, s].transpose(0, 3, 1, 2)
    return padded[:, :, 1:-1, 1:-1]


def forward(p: Parameters, x: np.ndarray) -> dict[str, np.ndarray]:
    """All values of the network: conv 3x3, ReLU, max pooling 2x2, conv 3x3, ReLU, fully connected."""
    v = {"x": x, "patches1": _patches(x)}
    v["conv1"] = np.maximum((v["patches1"] @ p["w1"].reshape(len(p["w1"]), -1).T + p["b1"]).transpose(0, 3, 1, 2), 0)
    n, c, h, w = v["conv1"].shape
    v["pool"] = v["conv1"].reshape(n, c, h // 2, 2, w // 2, 2).max(axis=(3, 5))
    v["patches2"] = _patches(v["pool"])
    v["conv2"] = np.maximum((v["patches2"] @ p["w2"].reshape(len(p["w2"]), -1).T + p["b2"]).transpose(0, 3, 1, 2), 0)
    v["logits"] = v["conv2"].reshape(n, -1) @ p["w3"].T + p["b3"]
    return v


def gradients(p: Parameters, v: dict[str, np.ndarray], labels: np.ndarray) -> Parameters:
    """Of the mean cross entropy."""
    shifted = np.exp(v["logits"] - v["logits"].max(axis=1, keepdims=True))
    error = shifted / shifted.sum(axis=1, keepdims=True)
    error[np.arange(len(labels)), labels] -= 1
    error /= len(labels)
    flat = v["conv2"].reshape(len(labels), -1)
    g = {"w3": error.T @ flat, "b3": error.sum(axis=0)}
    d = ((error @ p["w3"]).reshape(v["conv2"].shape) * (v["conv2"] > 0)).transpose(0, 2, 3, 1)
    g |= {"w2": np.einsum("nhwk,nhwc->kc", d, v["patches2"], optimize=True).reshape(p["w2"].shape), "b2": d.sum(axis=(0, 1, 2))}
    d = _fold(d @ p["w2"].reshape(len(p["w2"]), -1), v["pool"].shape[1])
    chosen = v["conv1"] == v["pool"].repeat(2, axis=2).repeat(2, axis=3)
    d = (d.repeat(2, axis=2).repeat(2, axis=3) * chosen * (v["conv1"] > 0)).transpose(0, 2, 3, 1)
    return g | {"w1": np.einsum("nhwk,nhwc->kc", d, v["patches1"], optimize=True).reshape(p["w1"].shape), "b1": d.sum(axis=(0, 1, 2))}


def train(x: np.ndarray, labels: np.ndarray, *, epochs: int = 12, seed: int = 0) -> Parameters:
    """Adam on batches of 32."""
    rng = np.random.default_rng(seed)
    shapes = {"w1": (8, 1, 3, 3), "w2": (16, 8, 3, 3), "w3": (10, 16 * 4 * 4)}
    p = {name: (rng.normal(size=size) * np.sqrt(2 / np.prod(size[1:]))).astype(np.float32) for name, size in shapes.items()}
    p |= {name.replace("w", "b"): np.zeros(size[0], dtype=np.float32) for name, size in shapes.items()}
    first, second = ({name: np.zeros_like(value) for name, value in p.items()} for _ in range(2))
    step = 0
    for _ in range(epochs):
        order = rng.permutation(len(labels))
        for batch in (order[i : i + 32] for i in range(0, len(order), 32)):
            step += 1
            for name, g in gradients(p, forward(p, x[batch]), labels[batch]).items():
                first[name] = 0.9 * first[name] + 0.1 * g
                second[name] = 0.999 * second[name] + 0.001 * g * g
                p[name] -= 0.003 * (first[name] / (1 - 0.9**step)) / (np.sqrt(second[name] / (1 - 0.999**step)) + 1e-8)
    return p


def export(p: Parameters, calibration: np.ndarray, path: Path, batch: int) -> Path:
    """The network with int8 activations, whose ranges are those of the calibration images, in QDQ form."""
    values, model = forward(p, calibration), QdqModel()

    def rectified(value: str, name: str) -> tuple[str, float]:
        scale = float(values[name].max()) / 255
        return model.quantized(value, scale, -128), scale

    x, scale = rectified("x", "x")
    x = model.node("Relu", model.learned("Conv", x, p["w1"], p["b1"], scale, pads=[1, 1, 1, 1]))
    x, scale = rectified(x, "conv1")
    x = model.quantized(model.node("MaxPool", x, kernel_shape=[2, 2], strides=[2, 2]), scale, -128)
    x = model.node("Relu", model.learned("Conv", x, p["w2"], p["b2"], scale, pads=[1, 1, 1, 1]))
    x, scale = rectified(x, "conv2")
    x = model.learned("Gemm", model.node("Flatten", x), p["w3"], p["b3"], scale, transB=1)
    low, high = values["logits"].min(), values["logits"].max()
    scale = float(high - low) / 255
    return model.save(path, (batch, 1, 8, 8), model.quantized(x, scale, round(-128 - low / scale)), (batch, 10))


def export_float(p: Parameters, path: Path, batch: int) -> Path:
    """The network in floating point, as training tools export it."""
    nodes = [
        helper.make_node("Conv", ["x", "w1", "b1"], ["conv1"], name="conv1", pads=[1, 1, 1, 1]),
        helper.make_node("Relu", ["conv1"], ["relu1"], name="relu1"),
        helper.make_node("MaxPool", ["relu1"], ["pool"], name="pool", kernel_shape=[2, 2], strides=[2, 2]),
        helper.make_node("Conv", ["pool", "w2", "b2"], ["conv2"], name="conv2", pads=[1, 1, 1, 1]),
        helper.make_node("Relu", ["conv2"], ["relu2"], name="relu2"),
        helper.make_node("Flatten", ["relu2"], ["flat"], name="flat"),
        helper.make_node("Gemm", ["flat", "w3", "b3"], ["logits"], name="fc", transB=1),
    ]
    ports = [helper.make_tensor_value_info(name, TensorProto.FLOAT, [batch, *shape]) for name, shape in (("x", (1, 8, 8)), ("logits", (10,)))]
    graph = helper.make_graph(nodes, "digits", ports[:1], ports[1:], [numpy_helper.from_array(value, name) for name, value in p.items()])
    onnx.save(helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=9), str(path))
    return path


def make(folder: Path, batch: int = 8) -> Path:
    """Train, quantize, write everything into `folder`; returns the model's path."""
    x, labels, test, test_labels = load_digits()
    p = train(x, labels)
    folder.mkdir(parents=True, exist_ok=True)
    np.save(folder / "images.npy", test[:batch])
    np.save(folder / "labels.npy", test_labels[:batch])
    count = min(32, len(x) // batch)
    np.save(folder / "samples.npy", x[: count * batch].reshape(count, batch, 1, 8, 8))
    export_float(p, folder / "float.onnx", batch)
    accuracy = np.mean(forward(p, test)["logits"].argmax(axis=1) == test_labels)
    print(f"accuracy in floating point: {accuracy:.1%} of {len(test)} test images")
    return export(p, x[:256], folder / "digits.onnx", batch)


if __name__ == "__main__":
    print(make(Path(sys.argv[1]), int(sys.argv[2]) if len(sys.argv) > 2 else 8))
