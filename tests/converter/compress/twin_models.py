"""The same small network in both frameworks, with the same weights."""

from __future__ import annotations

from typing import Any

import numpy as np

from edgeferry_converter.compress.lessons import Lessons
from edgeferry_converter.compress.on_keras.network import KerasNetwork
from edgeferry_converter.compress.on_torch.network import TorchNetwork
from edgeferry_converter.sources.torch_shapes import call_by_name
from edgeferry_runtime.tensors import TensorSpec

CLASSES = 4
LAYERS = {"keras": ("early", "late", "digit"), "torch": ("early", "late", "digit")}


def keras_twin(last: str | None = None, classes: int = CLASSES, width: int = 6, dropout: float = 0.0) -> KerasNetwork:
    """Pictures called image, of [N, 8, 8, 1], become digit: `last` is the activation of the output."""
    import keras

    keras.utils.set_random_seed(width)
    image = keras.Input((8, 8, 1), name="image")
    x = keras.layers.Conv2D(width, 3, padding="same", activation="relu", name="early")(image)
    x = keras.layers.BatchNormalization(name="norm", epsilon=1e-5, momentum=0.9)(x)
    x = keras.layers.MaxPooling2D()(keras.layers.Dropout(dropout)(x))
    x = keras.layers.Conv2D(8, 3, padding="same", activation="relu", name="late")(x)
    x = keras.layers.GlobalAveragePooling2D()(x)
    return KerasNetwork("twin", keras.Model(image, keras.layers.Dense(classes, activation=last, name="digit")(x)))


def torch_twin(last: str | None = None, classes: int = CLASSES, width: int = 6, dropout: float = 0.0) -> TorchNetwork:
    """Pictures called image, of [N, 1, 8, 8], become digit."""
    import torch
    from torch import nn

    class Convolution(nn.Conv2d):
        def forward(self, x: Any) -> Any:
            return torch.relu(super().forward(x))

    class Twin(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.early, self.norm = Convolution(1, width, 3, padding=1), nn.BatchNorm2d(width)
            self.drop, self.pool = nn.Dropout(dropout), nn.MaxPool2d(2)
            self.late, self.digit = Convolution(width, 8, 3, padding=1), nn.Linear(8, classes)

        def forward(self, image: Any) -> Any:
            x = self.late(self.pool(self.drop(self.norm(self.early(image)))))
            x = self.digit(x.mean((2, 3)))
            ends = {None: lambda x: x, "softmax": lambda x: torch.softmax(x, -1), "sigmoid": torch.sigmoid}
            return {"digit": ends[last](x)}

    torch.manual_seed(width)
    call = call_by_name(Twin().eval(), {"image": torch.rand(1, 1, 8, 8)}, [])
    borders = (TensorSpec("image", (-1, 1, 8, 8), "float32"),), (TensorSpec("digit", (-1, classes), "float32"),)
    return TorchNetwork("twin", call, borders)


def pair(last: str | None = None, classes: int = CLASSES, width: int = 6) -> tuple[KerasNetwork, TorchNetwork]:
    """Return both, of the same weights."""
    left, right = keras_twin(last, classes, width), torch_twin(last, classes, width)
    state = right.state()
    for layer in ("early", "late", "digit"):
        kernel, bias = left.state()[f"{layer}/kernel"], left.state()[f"{layer}/bias"]
        state[f"{layer}.weight"] = kernel.T if kernel.ndim == 2 else kernel.transpose(3, 2, 0, 1)
        state[f"{layer}.bias"] = bias
    right.restore(state)
    return left, right


def lessons(count: int = 48, framework: str = "keras", classes: int = CLASSES, seed: int = 0) -> Lessons:
    """Return noise whose class is where it is brightest."""
    random = np.random.default_rng(seed)
    truth = random.integers(0, classes, count)
    image = random.random((count, 8, 8, 1), dtype=np.float32)
    image[np.arange(count), truth * (8 // classes)] += 1
    return Lessons({"image": image if framework == "keras" else image.transpose(0, 3, 1, 2).copy()}, truth)


def line(framework: str) -> KerasNetwork | TorchNetwork:
    """Return one linear layer of [N, 3] to [N, 2], called x and y, of the same weights in both frameworks."""
    kernel = np.random.default_rng(5).normal(size=(3, 2)).astype(np.float32)
    borders = (TensorSpec("x", (-1, 3), "float32"),), (TensorSpec("y", (-1, 2), "float32"),)
    if framework == "keras":
        import keras

        x = keras.Input((3,), name="x")
        left = KerasNetwork("line", keras.Model(x, keras.layers.Dense(2, use_bias=False, name="y")(x)))
        left.write("y/kernel", kernel)
        return left
    import torch

    class Line(torch.nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.linear = torch.nn.Linear(3, 2, bias=False)

        def forward(self, x: Any) -> Any:
            return {"y": self.linear(x)}

    right = TorchNetwork("line", call_by_name(Line().eval(), {"x": torch.rand(1, 3)}, []), borders)
    right.write("linear.weight", kernel.T)
    return right
