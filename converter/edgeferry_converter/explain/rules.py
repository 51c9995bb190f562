"""Why a layer lost so much: small rules over what was measured. Each names one known reason, or says nothing."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from edgeferry_converter.explain.measure import Seen
from edgeferry_converter.explain.network import Network, Op
from edgeferry_runtime.tensors import Array

UNEQUAL = 8.0
"""How many times wider one range than another must be to say so: it costs 3 of 8 bits."""

OUTLIER = 16.0
"""How many times larger one channel than the median channel must be to say so: it costs 4 of 8 bits."""

DEAD = 1e-4
"""A channel whose weights are smaller than this share of the median channel's is dead."""

SWISH_FLOOR = -0.2785
"""The lowest value of x * sigmoid(x)."""

FEW_STEPS = 8.0
"""A part of a curve that is stored in fewer steps than these has lost its shape."""

SATURATED = 0.001
"""The share of values beyond the limits of storage that is worth telling."""

ADVICE = "keep it in float"

CONCATS = ("CONCATENATION", "Concat")
SIGMOIDS = ("LOGISTIC", "Sigmoid")
PRODUCTS = ("MUL", "Mul")
SWISHES = ("HARD_SWISH", "HardSwish", "GELU", "Gelu", "Swish")
PADS = ("PADV2", "Pad")
CARRIERS = (
    *("RESHAPE", "TRANSPOSE", "SQUEEZE", "EXPAND_DIMS", "SLICE", "STRIDED_SLICE", "SPLIT", "SPLIT_V", "GATHER", "PACK"),
    *("UNPACK", "MAX_POOL_2D", "PAD", "PADV2", "RELU", "Reshape", "Transpose", "Squeeze", "Unsqueeze", "Slice"),
    *("Split", "Gather", "MaxPool", "Pad", "Relu", "Flatten", *CONCATS),
)
"""Operators that hand values on as they are, and with them what was lost."""


@dataclass(frozen=True)
class Reason:
    """A known reason for an error.

    Attributes:
        rule: Its name.
        text: What was seen, in one line.
        layers: The layers to keep in float, by which the tensor that loses is not quantized at all.
        advice: What to do.
    """

    rule: str
    text: str
    layers: tuple[str, ...]
    advice: str = ADVICE


@dataclass(frozen=True)
class Facts:
    """What the rules look at.

    Attributes:
        float_network: The truth.
        quantized: What it became.
        seen: What was measured, by tensor name.
    """

    float_network: Network
    quantized: Network
    seen: Mapping[str, Seen]

    def maker(self, tensor: str) -> Op | None:
        """Return the operator that writes a tensor."""
        return next((op for op in self.float_network.ops if tensor in op.outputs), None)

    def readers(self, tensor: str) -> list[Op]:
        """Return the operators that read a tensor."""
        return [op for op in self.float_network.ops if tensor in op.inputs]

    def steps(self, width: float, tensor: str) -> float:
        """Return how many steps of a tensor's storage a width is."""
        stored = self.quantized.stored(tensor)
        return width / min(stored.quantization.scale) if stored else np.inf

    def around(self, tensor: str) -> tuple[str, ...]:
        """Return the layers that write a tensor, hand it on, and read it: in float, they leave it in float."""
        found: dict[str, None] = {}
        self._add_makers(tensor, found)
        self._add_readers(tensor, found)
        return tuple(found)

    def _add_makers(self, tensor: str, found: dict[str, None]) -> None:
        """Add what writes a tensor, with what was fused into it: operators whose own output is no longer there."""
        op = self.maker(tensor)
        if op is None or op.name in found:
            return
        for name in op.inputs:
            if name not in self.seen and self.maker(name) is not None:
                self._add_makers(name, found)
        found[op.name] = None

    def _add_readers(self, tensor: str, found: dict[str, None]) -> None:
        for op in self.readers(tensor):
            if op.name in found:
                continue
            found[op.name] = None
            for name in op.outputs:
                if op.kind in CARRIERS or name not in self.seen:
                    self._add_readers(name, found)


def reasons(facts: Facts, tensor: str) -> list[Reason]:
    """Return the known reasons why the layer that writes `tensor` loses: its own, then one of each tensor it reads."""
    op = facts.maker(tensor)
    if op is None:
        return []
    found = [reason for rule in WEIGHT_RULES if (reason := rule(facts, op, tensor))]
    for near in dict.fromkeys(_near(facts, op)):
        maker = facts.maker(near)
        if maker is not None and near in facts.seen:
            asked = (rule(facts, maker, near) for rule in TENSOR_RULES)
            found += [reason for reason in asked if reason][:1]
    return found


def _near(facts: Facts, op: Op) -> Iterator[str]:
    """Yield what an operator writes, what forces its scale on that, and what reached the operator as it was."""
    yield from op.outputs
    for name in op.outputs:
        yield from (out for reader in facts.readers(name) if reader.kind in (*CONCATS, *PADS) for out in reader.outputs)
    yield from _upstream(facts, op)


def _upstream(facts: Facts, op: Op) -> Iterator[str]:
    for name in op.inputs:
        maker = facts.maker(name)
        if maker is not None:
            yield name
            if maker.kind in CARRIERS or name not in facts.seen:
                yield from _upstream(facts, maker)


def unequal_concat(facts: Facts, op: Op, tensor: str) -> Reason | None:
    """A concat joins ranges that differ, and one scale serves both."""
    joined = [(name, facts.seen[name]) for name in op.inputs if name in facts.seen]
    if op.kind not in CONCATS or len(joined) < 2:
        return None
    widths = sorted((max(abs(seen.low), abs(seen.high)), name) for name, seen in joined)
    (narrow, small), (wide, large) = widths[0], widths[-1]
    if not 0 < narrow * UNEQUAL < wide:
        return None
    steps = facts.steps(2 * narrow, tensor)
    text = (
        f"{op.name} joins {small} (up to {narrow:.3g}) with {large} (up to {wide:.3g}): one scale serves both, "
        f"and leaves the narrow one {steps:.0f} of its 256 steps"
    )
    return Reason("unequal concat", text, facts.around(tensor)) if steps < 256 / UNEQUAL * 2 else None


def outlier_channel(facts: Facts, op: Op, tensor: str) -> Reason | None:
    """One channel of an activation is far larger than the others, and one scale serves all."""
    seen, stored = facts.seen[tensor], facts.quantized.stored(tensor)
    loudest = _loudest(seen.channels)
    if op.kind in CONCATS or stored is None or loudest is None:
        return None
    channel, peak, median = loudest
    text = (
        f"channel {channel} of {tensor} reaches {peak:.3g}, and the median channel {median:.3g}: one scale serves "
        f"all, and leaves most channels {facts.steps(2 * median, tensor):.0f} of 256 steps or fewer"
    )
    return Reason("outlier channel", text, facts.around(tensor))


def _loudest(channels: Array) -> tuple[int, float, float] | None:
    """Return a channel's index and size, and the median size, where one is an outlier."""
    alive = channels[channels > 0]
    if alive.size < 3:
        return None
    channel, median = int(np.argmax(channels)), float(np.median(alive))
    peak = float(channels[channel])
    return (channel, peak, median) if peak > OUTLIER * median else None


def outlier_value(facts: Facts, op: Op, tensor: str) -> Reason | None:
    """A few values are far beyond the others, and widen the range for all."""
    seen = facts.seen[tensor]
    low, high = seen.typical
    whole, typical = seen.high - seen.low, high - low
    if facts.quantized.stored(tensor) is None or not 0 < typical * UNEQUAL < whole or _loudest(seen.channels):
        return None
    text = (
        f"{tensor} reaches from {seen.low:.3g} to {seen.high:.3g}, and the typical sample from {low:.3g} to "
        f"{high:.3g}: few of 256 steps are left for that"
    )
    return Reason("outlier value", text, facts.around(tensor), f"try --calibration percentile, or {ADVICE}")


def swish_tail(facts: Facts, op: Op, tensor: str) -> Reason | None:
    """The small negative tail of a swish falls into a few steps."""
    seen = facts.seen[tensor]
    steps = facts.steps(-SWISH_FLOOR, tensor)
    if not _is_swish(facts, op) or steps >= FEW_STEPS or seen.low > -0.1:
        return None
    text = f"{tensor} is a swish up to {seen.high:.3g}: its negative tail ({seen.low:.3g} to 0) has {steps:.1f} steps"
    layers = [layer for name in (*op.inputs, tensor) for layer in facts.around(name)]
    return Reason("swish tail", text, tuple(dict.fromkeys(layers)))


def _is_swish(facts: Facts, op: Op) -> bool:
    if op.kind in SWISHES:
        return True
    gates = [facts.maker(name) for name in op.inputs] if op.kind in PRODUCTS else []
    return any(g is not None and g.kind in SIGMOIDS and set(g.inputs) & set(op.inputs) for g in gates)


def wide_padding(facts: Facts, op: Op, tensor: str) -> Reason | None:
    """A padding value lies far outside of what is padded, and widens the range."""
    inside = facts.seen.get(op.inputs[0]) if op.inputs else None
    value = facts.float_network.constant(op.inputs[2]) if op.kind in PADS and len(op.inputs) > 2 else None
    if inside is None or value is None or value.size != 1 or not np.isfinite(value).all():
        return None
    pad, width = float(value.ravel()[0]), inside.high - inside.low
    if not max(inside.low - pad, pad - inside.high) > UNEQUAL * width:
        return None
    text = f"{op.name} pads with {pad:.3g} what lies in {inside.low:.3g} to {inside.high:.3g}, and widens its range"
    advice = f"pad with a value that the range holds already, or {ADVICE}"
    return Reason("padding value", text, facts.around(tensor), advice)


def saturated(facts: Facts, op: Op, tensor: str) -> Reason | None:
    """Values lie beyond what the tensor's storage can hold."""
    seen, stored = facts.seen[tensor], facts.quantized.stored(tensor)
    if stored is None or seen.clipped < SATURATED:
        return None
    low, high = stored.limits()
    text = (
        f"{seen.clipped:.1%} of {tensor} lie outside of {low:.3g} to {high:.3g}, which its storage can hold "
        f"(values reach from {seen.low:.3g} to {seen.high:.3g})"
    )
    advice = f"calibrate with data that reach as far, with --calibration min-max, or {ADVICE}"
    return Reason("saturated output", text, facts.around(tensor), advice)


def dead_channel(facts: Facts, op: Op, tensor: str) -> Reason | None:
    """A channel of weights is next to nothing, so that its scale is too fine for its bias."""
    peaks = _weight_peaks(facts, op)
    if peaks is None or not (median := float(np.median(peaks))):
        return None
    dead = [int(i) for i in np.flatnonzero(peaks < DEAD * median)]
    if not dead:
        return None
    listed = ", ".join(map(str, dead[:5])) + (f" and {len(dead) - 5} more" if len(dead) > 5 else "")
    text = f"channel {listed} of the weights of {op.name} is dead (below {DEAD:g} of the median channel's size)"
    return Reason("dead channel", text, (op.name,), f"prune it, or {ADVICE}")


def uneven_weights(facts: Facts, op: Op, tensor: str) -> Reason | None:
    """One channel of weights is far larger than the others, and one scale serves all."""
    peaks = _weight_peaks(facts, op)
    stored = facts.quantized.stored(op.inputs[1]) if peaks is not None else None
    loudest = _loudest(peaks) if peaks is not None else None
    if loudest is None or stored is None or len(stored.quantization.scale) > 1:
        return None
    channel, peak, median = loudest
    text = (
        f"channel {channel} of the weights of {op.name} reaches {peak:.3g}, and the median channel {median:.3g}: "
        "one scale serves all"
    )
    return Reason("outlier channel in weights", text, (op.name,))


CHANNELS_OF_WEIGHTS: Mapping[str, int] = {
    "CONV_2D": 0, "FULLY_CONNECTED": 0, "TRANSPOSE_CONV": 0, "DEPTHWISE_CONV_2D": 3, "Conv": 0, "MatMul": 1, "Gemm": 1,
}  # fmt: skip
"""The axis of output channels in the second input."""


def _weight_peaks(facts: Facts, op: Op) -> Array | None:
    """Return the largest absolute weight of each output channel."""
    axis = CHANNELS_OF_WEIGHTS.get(op.kind)
    weights = facts.float_network.constant(op.inputs[1]) if axis is not None and len(op.inputs) > 1 else None
    if axis is None or weights is None or weights.ndim <= axis:
        return None
    peaks: Array = np.abs(np.moveaxis(weights, axis, 0).reshape(weights.shape[axis], -1)).max(axis=1)
    return peaks


Rule = Callable[[Facts, Op, str], Reason | None]

TENSOR_RULES: Sequence[Rule] = (
    unequal_concat, wide_padding, swish_tail, outlier_channel, outlier_value, saturated,
)  # fmt: skip
"""Asked about each tensor that a layer writes or that reached it as it was, with its maker; the first answer counts."""

WEIGHT_RULES: Sequence[Rule] = (dead_channel, uneven_weights)
"""Asked about the layer itself."""
