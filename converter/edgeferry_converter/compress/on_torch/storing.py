"""Which tensors of a graph the TFLite artifact stores as int8, and with whose scale: the rules, as data.

They are those of ai-edge-quantizer (its ``OpQuantConstraint``) for what litert-torch makes of each ATen operator, and
were read off artifacts: activation functions and scalars are fused into the operator before them, shapes and maxima
keep the scale that they are given, and parts of a concatenation are stored with its scale.
"""

from __future__ import annotations

from collections.abc import Collection
from dataclasses import dataclass, field
from typing import Any

from edgeferry_converter.compress.grid import FIXED
from edgeferry_converter.compress.on_torch.rewriting import IN_TRAINING, argument, layer_of, operator

KERNELS = ("conv1d", "conv2d", "conv_transpose1d", "conv_transpose2d", "linear")
OWN = frozenset(
    {
        *KERNELS,
        "matmul",
        "bmm",
        "add",
        "sub",
        "mul",
        "div",
        "mean",
        "sum",
        "cat",
        "stack",
        "hardswish",
        "gelu",
        "square",
    }
    | {"sqrt", "rsqrt", "relu", "relu6", "hardtanh", "clamp", "clamp_min", "maximum", "minimum"}
)
"""Operators whose output has a range of its own."""
COMPOUND = frozenset(
    {"layer_norm", "group_norm", "instance_norm", "batch_norm", "rms_norm", "prelu", "var", "std", "addmm", "baddbmm"}
    | {"scaled_dot_product_attention"}
)
"""Operators that become several: what they give is simulated, and what is inside of them is not."""
KEEPS = frozenset(
    {"view", "reshape", "_unsafe_view", "flatten", "unflatten", "permute", "transpose", "t", "movedim", "squeeze"}
    | {"unsqueeze", "expand", "expand_as", "repeat", "slice", "select", "narrow", "split", "split_with_sizes", "chunk"}
    | {"unbind", "contiguous", "clone", "alias", "detach", "to", "max_pool1d", "max_pool2d", "adaptive_max_pool2d"}
    | {"amax", "amin", "pad", "constant_pad_nd", "pixel_shuffle", "pixel_unshuffle", "upsample_nearest2d", "flip"}
    | {"roll", "index_select", "gather", "channel_shuffle", "view_as", "reshape_as", "numpy_T", "swapaxes", "getitem"}
)
"""Operators that give values which they were given, and so lie on the same grid."""
SAME = frozenset({"avg_pool1d", "avg_pool2d", "adaptive_avg_pool1d", "adaptive_avg_pool2d", "upsample_bilinear2d"})
"""Operators that compute new values, and store them with the scale of their input."""
FUSES = ("conv1d", "conv2d", "conv_transpose1d", "conv_transpose2d", "linear", "add", "sub", "mul", "div")
"""Operators that take an activation function into themselves."""
BOUNDS = {"hardtanh": ((0, 6), (-1, 1)), "clamp": ((0, 6), (0, None), (-1, 1))}
"""The bounds that TFLite has a fused activation function for."""


@dataclass
class Stored:
    """What is stored, by node of the graph.

    Attributes:
        own: Tensors with a range of their own, and the node of the operator that each is named after.
        fixed: Tensors with the range that their operator prescribes.
        follows: Tensors with the scale of another one.
        kept: By layer, what is computed in float, and why.
    """

    own: dict[Any, Any] = field(default_factory=dict)
    fixed: dict[Any, tuple[float, float]] = field(default_factory=dict)
    follows: dict[Any, Any] = field(default_factory=dict)
    kept: dict[str, str] = field(default_factory=dict)


def stored(graph: Any, floats: Collection[str] = ()) -> Stored:
    """Find every tensor that the artifact stores as int8.

    Args:
        graph: Of an exported module.
        floats: The kernels that stay float, and their layers with them.
    """
    found = Stored()
    anchors: dict[Any, Any] = {}
    for node in graph.nodes:
        if not _is_float(node):
            continue
        if node.op == "placeholder":
            found.own[node] = node
        elif node.op in ("call_function", "call_module"):
            _place(found, anchors, node, _reason(anchors.get(node, node), floats))
    for node in list(found.own):
        if _is_part(node, found):
            del found.own[node]
    return found


def keeps(node: Any) -> bool:
    """Tell whether a node gives values that it was given."""
    dropped = node.op == "call_module" and str(node.target).endswith(IN_TRAINING) and len(node.args) == 1
    return dropped or kind(node) in KEEPS


def kind(node: Any) -> str:
    """Return what a node does, as the tables here call it."""
    if node.op == "call_module":
        return "batch_norm"
    if operator(node) in ("adaptive_avg_pool1d", "adaptive_avg_pool2d"):
        return "mean" if all(size == 1 for size in node.args[1]) else operator(node)
    return operator(node) or getattr(node.target, "__name__", "")


def _reason(anchor: Any, floats: Collection[str]) -> str:
    """Say why an operator computes in float; empty where it does not."""
    what = kind(anchor)
    if keeps(anchor) or what in OWN | SAME | COMPOUND | set(FIXED):
        chosen = what in KERNELS and str(anchor.args[1].target) in floats
        return "its weights were to stay float" if chosen else ""
    return f"ai-edge-quantizer computes {what} in float"


def _place(found: Stored, anchors: dict[Any, Any], node: Any, reason: str) -> None:
    """Say how one tensor is stored."""
    anchor, what = anchors.get(node, node), kind(node)
    after = _fused(node, anchor)
    if keeps(node):
        return
    if after is not None:
        anchors[after] = anchor
    elif reason:
        found.kept[layer_of(anchor) or anchor.name] = reason
        if any(not _reason(user, ()) for user in node.users if user.op != "output"):
            found.own[node] = anchor
    elif what in FIXED:
        found.fixed[node] = FIXED[what]
    elif what in SAME:
        _follow(found, node)
    else:
        found.own[node] = anchor
        if what in COMPOUND:
            inside = f"only what {what} gives is simulated: inside it is several operators of the artifact"
            found.kept[layer_of(node) or node.name] = inside


def _follow(found: Stored, node: Any) -> None:
    source = _source(node)
    if source in found.own or source in found.fixed or source in found.follows:
        found.follows[node] = source
    else:
        found.own[node] = node


def _fused(node: Any, anchor: Any) -> Any:
    """Return the node that becomes one operator with this one, and stores in its place; None where there is none."""
    users = [user for user in node.users if user.op != "output"]
    if len(node.users) != 1 or not users or kind(anchor) not in FUSES or _is_activation(node):
        return None
    after = users[0]
    if _is_activation(after):
        return after
    scalar = kind(after) in ("add", "sub", "mul", "div") and after.args[0] is node
    return after if scalar and kind(anchor) in KERNELS and isinstance(after.args[1], int | float) else None


def _is_activation(node: Any) -> bool:
    what = kind(node)
    if what in ("relu", "relu6"):
        return True
    if what == "clamp_min":
        return bool(node.args[1] == 0)
    names = {"hardtanh": (("min_val", -1), ("max_val", 1)), "clamp": (("min", None), ("max", None))}.get(what)
    return names is not None and tuple(argument(node, *name) for name in names) in BOUNDS[what]


def _is_part(node: Any, found: Stored) -> bool:
    """Tell whether a tensor is nothing but a part of a concatenation, and stored with its scale."""
    user = next(iter(node.users), None)
    return len(node.users) == 1 and user in found.own and kind(user) in ("cat", "stack")


def _source(node: Any) -> Any:
    """Return the tensor whose grid the input of a node lies on."""
    source = node.all_input_nodes[0]
    while keeps(source) and source.all_input_nodes:
        source = source.all_input_nodes[0]
    return source


def _is_float(node: Any) -> bool:
    value = node.meta.get("val")
    return hasattr(value, "is_floating_point") and bool(value.is_floating_point())
