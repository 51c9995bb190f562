"""The networks that are made smaller: a CNN for MNIST in both frameworks, and the keyword spotter of MLPerf Tiny."""

from __future__ import annotations

from pathlib import Path
from typing import Any

SPOTTER = "mlperf-tiny/benchmark/training/keyword_spotting/trained_models/kws_ref_model"


def keras_cnn(width: int = 32) -> Any:
    """Pictures of [28, 28, 1] become 10 probabilities: four convolutions with batch normalization."""
    import keras

    layers = keras.layers
    x = picture = keras.Input((28, 28, 1), name="image")
    for block, channels in enumerate((width, 2 * width)):
        for part in "ab":
            x = layers.Conv2D(channels, 3, padding="same", use_bias=False, name=f"conv{block}{part}")(x)
            x = layers.ReLU()(layers.BatchNormalization(momentum=0.9)(x))
        x = layers.MaxPooling2D()(x)
    x = layers.Dense(4 * width, activation="relu", name="hidden")(layers.Flatten()(x))
    return keras.Model(picture, layers.Dense(10, activation="softmax", name="digit")(x))


def narrow_cnn() -> Any:
    """Do the same by less than 7,000 parameters, with a depthwise kernel and a sum: what four bits hurt."""
    import keras

    layers = keras.layers

    def normal(x: Any) -> Any:
        return layers.BatchNormalization(momentum=0.9)(x)

    x = picture = keras.Input((28, 28, 1), name="image")
    x = layers.ReLU()(normal(layers.Conv2D(8, 3, strides=2, padding="same", use_bias=False)(x)))
    x = layers.ReLU()(normal(layers.DepthwiseConv2D(3, padding="same", use_bias=False)(x)))
    x = short = layers.ReLU(max_value=6)(normal(layers.Conv2D(16, 1, use_bias=False)(x)))
    x = normal(layers.Conv2D(16, 3, padding="same", use_bias=False)(x))
    x = layers.MaxPooling2D()(layers.ReLU()(layers.Add()([x, short])))
    x = layers.ReLU()(normal(layers.Conv2D(24, 3, padding="same", use_bias=False)(x)))
    return keras.Model(
        picture, layers.Dense(10, activation="softmax", name="digit")(layers.GlobalAveragePooling2D()(x))
    )


def teacher() -> Any:
    """Pictures of [28, 28, 1] become 10 logits, by some 90,000 parameters and with dropout."""
    return _strided((16, 32, 64), 64)


def student() -> Any:
    """Do the same by less than a tenth of the parameters."""
    return _strided((8, 12, 16), 0)


def _strided(widths: tuple[int, ...], hidden: int) -> Any:
    import keras

    layers = keras.layers
    x = picture = keras.Input((28, 28, 1), name="image")
    for width in widths:
        x = layers.Conv2D(width, 3, strides=2, padding="same", use_bias=False)(x)
        x = layers.ReLU()(layers.BatchNormalization(momentum=0.9)(x))
    x = layers.Flatten()(x)
    if hidden:
        x = layers.Dropout(0.4)(layers.Dense(hidden, activation="relu")(layers.Dropout(0.4)(x)))
    return keras.Model(picture, layers.Dense(10, name="digit")(x))


def keras_resnet20() -> Any:
    """The residual network of 20 layers of He et al. 2015 for pictures of [28, 28, 1], projections added to it."""
    import keras

    layers = keras.layers

    def conv(x: Any, width: int, size: int, stride: int) -> Any:
        x = layers.Conv2D(width, size, stride, padding="same", use_bias=False)(x)
        return layers.BatchNormalization(momentum=0.9)(x)

    x = picture = keras.Input((28, 28, 1), name="image")
    x = layers.ReLU()(conv(x, 16, 3, 1))
    for width in (16, 32, 64):
        for block in range(3):
            stride = 2 if block == 0 and width > 16 else 1
            short = conv(x, width, 1, stride) if stride > 1 else x
            x = layers.ReLU()(layers.Add()([conv(layers.ReLU()(conv(x, width, 3, stride)), width, 3, 1), short]))
    x = layers.GlobalAveragePooling2D()(x)
    return keras.Model(picture, layers.Dense(10, activation="softmax", name="digit")(x))


def torch_cnn(width: int = 32) -> Any:
    """Build the same network in PyTorch: pictures of [1, 28, 28] become 10 logits."""
    from torch import nn

    def conv(before: int, after: int) -> list[Any]:
        return [nn.Conv2d(before, after, 3, padding=1, bias=False), nn.BatchNorm2d(after), nn.ReLU()]

    first = [*conv(1, width), *conv(width, width), nn.MaxPool2d(2)]
    second = [*conv(width, 2 * width), *conv(2 * width, 2 * width), nn.MaxPool2d(2)]
    head = [nn.Flatten(), nn.Linear(2 * width * 49, 4 * width), nn.ReLU(), nn.Linear(4 * width, 10)]
    return nn.Sequential(*first, *second, *head)


def spotter(zoo: Path) -> Any:
    """Rebuild the keyword spotter in Keras 3, with the weights of its SavedModel: MFCC of [49, 10, 1] to 12 words."""
    import keras
    import tensorflow as tf

    layers = keras.layers
    x = sound = keras.Input((49, 10, 1), name="mfcc")
    x = layers.Conv2D(64, (10, 4), 2, padding="same", name="conv0")(x)
    x = layers.ReLU()(layers.BatchNormalization(momentum=0.9)(x))
    x = layers.Dropout(0.2)(x)
    for block in range(1, 5):
        x = layers.DepthwiseConv2D(3, padding="same", name=f"depthwise{block}")(x)
        x = layers.ReLU()(layers.BatchNormalization(momentum=0.9)(x))
        x = layers.Conv2D(64, 1, padding="same", name=f"conv{block}")(x)
        x = layers.ReLU()(layers.BatchNormalization(momentum=0.9)(x))
    x = layers.Dropout(0.4)(x)
    x = layers.Flatten()(layers.AveragePooling2D((25, 5))(x))
    model = keras.Model(sound, layers.Dense(12, activation="softmax", name="word")(x))
    stored = tf.saved_model.load(str(zoo / SPOTTER)).variables
    model.set_weights([variable.numpy() for variable in stored][: len(model.weights)])
    return model
