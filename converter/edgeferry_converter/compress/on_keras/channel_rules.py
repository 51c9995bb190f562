"""How channels go through each kind of layer: small rules by the name of the class.

A rule says which axes of the layer's variables have which channels, and returns those of the output; or the reason why
it cannot, whereupon everything around the layer stays as it is.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping

import numpy as np

from edgeferry_converter.compress.on_keras import kernel_rules
from edgeferry_converter.compress.on_keras.channels import Call, Tracer, width
from edgeferry_converter.compress.on_keras.kernel_rules import CHANNELS_FIRST, activated
from edgeferry_runtime.tensors import Array

Rule = Callable[[Tracer, Call], "Array | str"]


def batch_normalization(tracer: Tracer, call: Call) -> Array | str:
    """A factor, an offset, a mean and a variance for every channel."""
    layer = call.layer
    if layer.axis not in (-1, len(call.output.shape) - 1):
        return CHANNELS_FIRST
    for name, role in {"gamma": "scale", "beta": "other", "moving_mean": "other", "moving_variance": "other"}.items():
        if getattr(layer, name, None) is not None:
            tracer.use(getattr(layer, name), 0, call.ids[0], role)
    return call.ids[0]


def over_channels(tracer: Tracer, call: Call) -> Array | str:
    """What computes over all channels computes something else without some of them."""
    tracer.graph.freeze(call.ids[0], f"{call.path!r} computes over all of its channels ({call.kind})")
    return call.ids[0]


def softmax(tracer: Tracer, call: Call) -> Array | str:
    """Over the last axis it mixes channels."""
    axes = call.layer.axis if isinstance(call.layer.axis, list | tuple) else [call.layer.axis]
    last = {-1, len(call.output.shape) - 1} & set(axes)
    return over_channels(tracer, call) if last else call.ids[0]


def activation(tracer: Tracer, call: Call) -> Array | str:
    """Most activations leave channels alone."""
    return activated(tracer, call, call.ids[0])


def slopes(tracer: Tracer, call: Call) -> Array | str:
    """A slope for every channel, and perhaps for every pixel."""
    alpha = call.layer.alpha
    if len(alpha.shape) and alpha.shape[-1] == len(call.ids[0]):
        tracer.use(alpha, len(alpha.shape) - 1, call.ids[0], "other")
    return call.ids[0]


def same(tracer: Tracer, call: Call) -> Array | str:
    """What works in space, or value by value, leaves channels alone."""
    if getattr(call.layer, "data_format", "channels_last") not in ("channels_last", None):
        return CHANNELS_FIRST
    if len(call.ids) != 1 or len(call.ids[0]) != width(call.output):
        return f"its kind, {call.kind}, is not known in this form"
    return call.ids[0]


def per_channel(tracer: Tracer, call: Call) -> Array | str:
    """Constants of the configuration belong to channels."""
    tracer.graph.freeze(call.ids[0], f"{call.path!r} has constants for it")
    return same(tracer, call)


def rescaling(tracer: Tracer, call: Call) -> Array | str:
    """A factor and an offset, of all channels or of each."""
    several = np.ndim(call.layer.scale) or np.ndim(call.layer.offset)
    return per_channel(tracer, call) if several else same(tracer, call)


def permute(tracer: Tracer, call: Call) -> Array | str:
    """Axes in space may change places."""
    if call.layer.dims[-1] != len(call.layer.dims):
        return "it moves the axis of channels"
    return call.ids[0]


def reshape(tracer: Tracer, call: Call) -> Array | str:
    """Follow every value to its place; those of one new channel become one.

    A flattened picture has the channels of each pixel one after the other; what a vector is laid out into a picture by
    unites its pixels.
    """
    if getattr(call.layer, "data_format", "channels_last") != "channels_last":
        return CHANNELS_FIRST
    old, new = tuple(call.tensors[0].shape[1:]), tuple(call.output.shape[1:])
    ids = call.ids[0]
    if None in (*old, *new):
        return ids if old[-1:] == new[-1:] and None not in old[-1:] else "it reshapes what has no fixed size"
    rows = np.broadcast_to(ids, old).reshape(-1, new[-1])
    for row in rows[1:]:
        tracer.graph.unite(row, rows[0])
    return np.array(rows[0])


def merged(tracer: Tracer, call: Call) -> Array | str:
    """What is put together value by value is one; a single channel is spread over all."""
    if not _scalars(call):
        return "it takes constants of more than one value"
    wide = [ids for ids in call.ids if len(ids) == width(call.output)]
    if not wide:
        return f"its kind, {call.kind}, is not known in this form"
    for ids in call.ids:
        if len(ids) == len(wide[0]):
            tracer.graph.unite(ids, wide[0])
        else:
            tracer.graph.freeze(ids, f"{call.path!r} spreads it over all channels")
    return wide[0]


def _scalars(call: Call) -> bool:
    others = [value for value in (*call.args, *call.kwargs.values()) if not isinstance(value, list | tuple)]
    return all(np.ndim(value) == 0 for value in others if not any(value is tensor for tensor in call.tensors))


def concatenated(tracer: Tracer, call: Call) -> Array | str:
    """Channels stand one behind the other, or are one where it is another axis that grows."""
    if call.layer.axis in (-1, len(call.output.shape) - 1):
        return np.concatenate(call.ids)
    for ids in call.ids[1:]:
        tracer.graph.unite(ids, call.ids[0])
    return call.ids[0]


def reduced(tracer: Tracer, call: Call) -> Array | str:
    """Reductions in space leave channels alone."""
    rank, axes = len(call.tensors[0].shape), call.layer.axis
    axes = range(rank) if axes is None else [axes] if isinstance(axes, int) else axes
    return "it reduces over channels" if (rank - 1) in {axis % rank for axis in axes} else same(tracer, call)


SPATIAL = (
    *("MaxPooling", "AveragePooling", "GlobalMaxPooling", "GlobalAveragePooling", "AdaptiveMaxPooling"),
    *("AdaptiveAveragePooling", "ZeroPadding", "Cropping", "UpSampling", "SpatialDropout"),
)
"""Layers of one, two and three dimensions that leave every channel in its place."""
ALIKE = (
    *("ReLU", "LeakyReLU", "ELU", "Dropout", "GaussianNoise", "GaussianDropout", "AlphaDropout", "Identity"),
    *("ActivityRegularization", "Resizing", "CenterCrop", "RandomFlip", "RandomRotation", "RandomZoom", "RandomCrop"),
    *("RandomTranslation", "RandomBrightness", "RandomContrast", "RepeatVector"),
    *("Relu", "Relu6", "LeakyRelu", "Elu", "Gelu", "Silu", "Sigmoid", "HardSigmoid", "HardSilu", "Tanh", "Softplus"),
    *("Abs", "Negative", "Square", "Sqrt", "Exp", "Clip"),
)
"""Other layers and operations that do so."""
MERGED = ("Add", "Subtract", "Multiply", "Average", "Maximum", "Minimum", "Divide", "TrueDivide")
"""Layers and operations that compute value by value."""
NORMALIZING = ("LayerNormalization", "GroupNormalization", "RMSNormalization", "UnitNormalization")
"""Layers whose statistics are of channels together."""
RULES: Mapping[str, Rule] = {
    **dict.fromkeys(("Conv1D", "Conv2D", "Conv3D"), kernel_rules.convolution),
    **dict.fromkeys(("Conv1DTranspose", "Conv2DTranspose", "Conv3DTranspose"), kernel_rules.transposed),
    **dict.fromkeys(("DepthwiseConv1D", "DepthwiseConv2D"), kernel_rules.depthwise),
    **dict.fromkeys(("SeparableConv1D", "SeparableConv2D"), kernel_rules.separable),
    "Dense": kernel_rules.dense,
    "EinsumDense": kernel_rules.einsum_dense,
    "Embedding": kernel_rules.embedding,
    "MultiHeadAttention": kernel_rules.attention,
    "BatchNormalization": batch_normalization,
    "Normalization": per_channel,
    "Rescaling": rescaling,
    "Activation": activation,
    **dict.fromkeys(("Softmax", "LogSoftmax"), softmax),
    "PReLU": slopes,
    **dict.fromkeys(NORMALIZING, over_channels),
    **dict.fromkeys((f"{kind}{dims}" for kind in SPATIAL for dims in ("1D", "2D", "3D")), same),
    **dict.fromkeys(ALIKE, same),
    **dict.fromkeys(MERGED, merged),
    "Concatenate": concatenated,
    **dict.fromkeys(("Reshape", "Flatten"), reshape),
    "Permute": permute,
    **dict.fromkeys(("Mean", "Max", "Sum"), reduced),
}
"""By the class of a layer."""
