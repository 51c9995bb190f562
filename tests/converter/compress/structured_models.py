"""Small untrained Keras models in which channels meet in every way that the tracer knows."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any


def _layers() -> Any:
    import keras

    return keras, keras.layers


def sequential() -> Any:
    keras, L = _layers()
    return keras.Sequential(
        [
            keras.Input((8, 8, 1), name="image"),
            L.Conv2D(16, 3, activation="relu", name="first"),
            L.BatchNormalization(momentum=0.8),
            L.MaxPooling2D(2),
            L.Conv2D(16, 2, name="second"),
            L.PReLU(),
            L.Flatten(),
            L.Dense(16, activation="relu", name="third"),
            L.Dropout(0.5),
            L.Dense(10, name="last"),
        ],
        name="sequential",
    )


def _block(x: Any, channels: int, name: str, strides: int = 1) -> Any:
    _, L = _layers()
    y = L.Conv2D(channels, 3, strides, "same", use_bias=False, name=f"{name}-a")(x)
    y = L.ReLU()(L.BatchNormalization()(y))
    y = L.BatchNormalization()(L.Conv2D(channels, 3, padding="same", use_bias=False, name=f"{name}-b")(y))
    if x.shape[-1] != channels or strides > 1:
        x = L.BatchNormalization()(L.Conv2D(channels, 1, strides, use_bias=False, name=f"{name}-shortcut")(x))
    return L.ReLU()(L.Add()([x, y]))


def residual() -> Any:
    keras, L = _layers()
    image = keras.Input((8, 8, 3), name="image")
    x = L.Conv2D(16, 3, padding="same", activation="relu", name="stem")(image)
    x = _block(_block(x, 16, "one"), 32, "two", 2)
    x = L.GlobalAveragePooling2D()(_block(x, 32, "three"))
    return keras.Model(image, L.Dense(10, activation="softmax", name="last")(x), name="residual")


def inverted() -> Any:
    """Inverted residuals, a depth multiplier, a separable and a grouped convolution."""
    keras, L = _layers()
    image = keras.Input((8, 8, 3), name="image")
    x = L.Conv2D(8, 3, padding="same", name="stem")(image)
    y = L.ReLU(6.0)(L.BatchNormalization()(L.Conv2D(32, 1, name="expand")(x)))
    y = L.ReLU(6.0)(L.DepthwiseConv2D(3, padding="same", name="depthwise")(L.ZeroPadding2D(1)(y)))
    y = L.BatchNormalization()(L.Conv2D(8, 1, name="project")(L.Cropping2D(1)(y)))
    x = L.Add()([x, y])
    x = L.DepthwiseConv2D(3, depth_multiplier=2, activation="relu", name="doubled")(x)
    x = L.SeparableConv2D(16, 3, padding="same", depth_multiplier=2, activation="relu", name="separable")(x)
    x = L.Conv2D(24, 3, padding="same", groups=4, activation="relu", name="grouped")(x)
    x = L.GlobalMaxPooling2D(keepdims=True)(x)
    return keras.Model(image, L.Flatten()(L.Conv2D(10, 1, name="last")(x)), name="inverted")


def concatenating() -> Any:
    keras, L = _layers()
    image = keras.Input((8, 8, 3), name="image")
    x = L.Conv2D(12, 3, padding="same", name="stem")(image)
    for i in range(3):
        y = L.ReLU()(L.BatchNormalization()(x))
        y = L.Conv2D(6, 3, padding="same", name=f"grow{i}")(y)
        x = L.Concatenate()([x, y])
    x = L.AveragePooling2D(2)(L.Conv2D(8, 1, activation="relu", name="transition")(x))
    up = L.Conv2DTranspose(8, 2, 2, activation="relu", name="up")(x)
    x = L.Concatenate()([up, L.UpSampling2D(2)(x), image])
    return keras.Model(image, L.Conv2D(2, 1, name="last")(x), name="concatenating")


def squeezing() -> Any:
    """Squeeze and excite, a vector laid out as a picture, and one channel spread over all."""
    keras, L = _layers()
    image = keras.Input((8, 8, 1), name="image")
    x = L.Conv2D(16, 3, padding="same", activation="swish", name="stem")(image)
    gate = L.Reshape((1, 1, 16))(L.GlobalAveragePooling2D()(x))
    gate = L.Conv2D(16, 1, activation="sigmoid", name="excite")(L.Conv2D(8, 1, activation="relu", name="squeeze")(gate))
    x = L.Multiply()([x, gate])
    where = L.Conv2D(1, 3, padding="same", activation="sigmoid", name="where")(x)
    x = L.Multiply()([x, where])
    x = L.Dense(64, activation="relu", name="wide")(L.Flatten()(x))
    x = L.Conv2D(8, 3, activation="relu", name="after")(L.Reshape((4, 4, 4))(x))
    x = L.Reshape((-1, 8))(x)
    x = L.Conv1D(8, 2, activation="relu", name="steps")(L.Permute((1, 2))(x))
    return keras.Model(image, L.Dense(3, name="last")(L.GlobalAveragePooling1D()(x)), name="squeezing")


def transformer() -> Any:
    keras, L = _layers()
    words = keras.Input((12,), dtype="int32", name="words")
    x = L.Embedding(20, 16, name="table")(words)
    for i in range(2):
        y = L.MultiHeadAttention(4, 4, name=f"attention{i}")(L.LayerNormalization()(x), L.LayerNormalization()(x))
        x = L.Add()([x, y])
        y = L.Dense(32, activation="gelu", name=f"wide{i}")(L.LayerNormalization()(x))
        x = L.Add()([x, L.EinsumDense("abc,cd->abd", (None, 16), bias_axes="d", name=f"narrow{i}")(y)])
    return keras.Model(words, L.Dense(5, name="last")(L.GlobalAveragePooling1D()(x)), name="transformer")


def free_attention() -> Any:
    """Attention whose channels are all free, with a value width of its own."""
    keras, L = _layers()
    series = keras.Input((6, 3), name="series")
    x = L.Dense(16, activation="relu", name="in")(series)
    y = L.MultiHeadAttention(4, 4, value_dim=3, output_shape=8, name="attention")(x, value=x)
    return keras.Model(series, L.Dense(5, name="last")(L.Flatten()(y)), name="free_attention")


def nested() -> Any:
    """A model inside, called twice, a shared layer, and operations."""
    keras, L = _layers()
    inner_in = keras.Input((8, 8, 8))
    y = L.Conv2D(12, 3, padding="same", activation="relu", name="inner-a")(inner_in)
    inner = keras.Model(inner_in, L.Conv2D(8, 3, padding="same", name="inner-b")(y), name="inner")
    tail = keras.Sequential([L.Conv2D(16, 3, activation="relu", name="tail-a"), L.Flatten()], name="tail")
    image = keras.Input((8, 8, 1), name="image")
    stem = L.Conv2D(8, 3, padding="same", name="stem")
    x = inner(stem(image))
    x = L.ReLU()(keras.ops.add(inner(x), x) * 0.5)
    x = L.Subtract()([x, stem(L.AveragePooling2D(3, 1, "same")(image))])
    return keras.Model(image, L.Dense(4, name="last")(tail(x)), name="nested")


MODELS: dict[str, Callable[[], Any]] = {
    build.__name__: build
    for build in (*(sequential, residual, inverted, concatenating, squeezing, transformer, free_attention, nested),)
}
