"""Shapes along a Keras graph, from its configuration alone; what is not known here stays unknown."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from typing import Any

Shape = tuple[int, ...]
"""Dimensions with the batch in front; -1 where one is dynamic."""

ALIKE = frozenset(
    {
        "Activation",
        "BatchNormalization",
        "Dropout",
        "ReLU",
        "LeakyReLU",
        "PReLU",
        "ELU",
        "Softmax",
        "LayerNormalization",
    }
    | {"Add", "Multiply", "Subtract", "Average", "Maximum", "Minimum", "SpatialDropout2D", "GaussianNoise", "Rescaling"}
)
"""Layers whose output has the shape of their first input."""

CONVOLUTIONS = frozenset(
    {"Conv1D", "Conv2D", "Conv3D", "DepthwiseConv1D", "DepthwiseConv2D", "SeparableConv1D", "SeparableConv2D"}
)
POOLINGS = frozenset(f"{kind}Pooling{rank}D" for kind in ("Max", "Average") for rank in (1, 2, 3))


def output(kind: str, config: Mapping[str, Any], inputs: Sequence[Shape | None]) -> Shape | None:
    """Return the shape of a layer's output; None where it cannot be told."""
    if not inputs or any(shape is None for shape in inputs) or config.get("data_format") == "channels_first":
        return None
    shapes = [shape for shape in inputs if shape is not None]
    return _output(kind, config, shapes)


def _output(kind: str, config: Mapping[str, Any], shapes: list[Shape]) -> Shape | None:
    first = shapes[0]
    if kind in ALIKE:
        return max(shapes, key=len)
    if kind.startswith("Global"):
        return (first[0], first[-1])
    if kind.startswith("ZeroPadding") and len(first) == 4:
        return (first[0], *(n + sum(pad) for n, pad in zip(first[1:3], config["padding"], strict=True)), first[3])
    known = OUTPUTS.get(kind) or (_window if kind in CONVOLUTIONS | POOLINGS else None)
    return known(kind, config, shapes) if known else None


def _dense(kind: str, config: Mapping[str, Any], shapes: list[Shape]) -> Shape | None:
    return (*shapes[0][:-1], config["units"])


def _flat(kind: str, config: Mapping[str, Any], shapes: list[Shape]) -> Shape | None:
    return (shapes[0][0], math.prod(shapes[0][1:])) if -1 not in shapes[0][1:] else None


def _joined(kind: str, config: Mapping[str, Any], shapes: list[Shape]) -> Shape | None:
    if config.get("axis", -1) not in (-1, len(shapes[0]) - 1):
        return None
    return (*shapes[0][:-1], sum(shape[-1] for shape in shapes))


OUTPUTS: Mapping[str, Callable[[str, Mapping[str, Any], list[Shape]], Shape | None]] = {
    "Dense": _dense,
    "Flatten": _flat,
    "Concatenate": _joined,
}


def _window(kind: str, config: Mapping[str, Any], shapes: list[Shape]) -> Shape | None:
    """Convolutions and pooling, channels last."""
    shape, rank = shapes[0], len(shapes[0]) - 2
    window = _many(config.get("kernel_size") or config.get("pool_size"), rank)
    strides = _many(config.get("strides") or window, rank)
    dilation = _many(config.get("dilation_rate") or 1, rank)
    if -1 in shape[1:-1] or not window or config.get("padding") not in ("same", "valid"):
        return None
    edges = [0] * rank if config["padding"] == "same" else [(w - 1) * d for w, d in zip(window, dilation, strict=True)]
    spatial = (-(-(n - edge) // s) for n, edge, s in zip(shape[1:-1], edges, strides, strict=True))
    return (shape[0], *spatial, _channels(kind, config, shape[-1]))


def _channels(kind: str, config: Mapping[str, Any], channels: int) -> int:
    if kind.startswith("DepthwiseConv"):
        return int(channels * config.get("depth_multiplier", 1))
    return int(config.get("filters", channels))


def _many(value: Any, rank: int) -> list[int]:
    return [int(v) for v in value] if isinstance(value, list) else [int(value)] * rank if value else []


def macs(kind: str, weights: Sequence[Shape], given: Shape | None, made: Shape | None) -> int | None:
    """Count multiply-accumulates with a batch of one; None where shapes or the kind are unknown."""
    matrices = [shape for shape in weights if len(shape) >= 2]
    if not matrices or kind in ("Embedding", "PReLU"):
        return 0
    once = sum(math.prod(shape) for shape in matrices)
    if kind == "Dense":
        return None if given is None else once * math.prod(abs(d) for d in given[1:-1])
    if kind in CONVOLUTIONS:
        return None if made is None else once * math.prod(made[1:-1])
    if kind in ("LSTM", "GRU", "SimpleRNN"):
        return None if given is None or given[1] < 0 else once * given[1]
    return None
