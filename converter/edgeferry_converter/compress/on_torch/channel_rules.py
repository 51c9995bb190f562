"""What each of PyTorch's operators does with channels: one small rule for each kind."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from typing import Any

from edgeferry_converter.compress.on_torch.attention_rules import attention, matmul
from edgeferry_converter.compress.on_torch.layer_rules import (
    added_product,
    batch_norm,
    convolution,
    embedding,
    linear,
    prelu,
    transposed,
)
from edgeferry_converter.compress.on_torch.moving_rules import (
    concatenate,
    cut,
    gate,
    index,
    move,
    pad,
    resample,
    select,
    stack,
    view,
)
from edgeferry_converter.compress.on_torch.numbering import collapse, varying
from edgeferry_converter.compress.on_torch.tracer import Tracer, arguments, operator, shape_of

Rule = Callable[[Tracer, Any], None]


def follow(tracer: Tracer, node: Any) -> None:
    """Number the channels of what a node makes."""
    import torch

    name = operator(node)
    _fold(tracer, node)
    if name == "getitem":
        parts = tracer.values.get(node.args[0])
        tracer.values[node] = parts[node.args[1]] if isinstance(parts, list) else None
    elif torch.Tag.pointwise in getattr(node.target, "tags", ()) or name in ELEMENTWISE:
        elementwise(tracer, node)
    else:
        RULES.get(name, unknown)(tracer, node)
    if tracer.values.get(node) is None:
        blamed = [tracer.blamed[given] for given in node.all_input_nodes if given in tracer.blamed]
        if blamed:
            tracer.blamed.setdefault(node, blamed[0])


def _fold(tracer: Tracer, node: Any) -> None:
    """Compute what depends on whole numbers of the code alone, such as indices into a table."""
    import torch

    known = {given: tracer.known(given) for given in node.all_input_nodes}
    if known and all(tensor is not None and not tensor.is_floating_point() for tensor in known.values()):
        args, kwargs = torch.fx.node.map_arg((node.args, node.kwargs), known.__getitem__)
        found = node.target(*args, **kwargs)
        if isinstance(found, torch.Tensor):
            tracer.constants[node] = found


def unknown(tracer: Tracer, node: Any) -> None:
    """Freeze what goes into an operator without a rule."""
    name = operator(node)
    reason = f"what {name} does with channels is not known"
    tracked = [numbers for numbers in map(tracer.of, node.all_input_nodes) if numbers is not None]
    for numbers in tracked:
        tracer.freeze(numbers, reason)
    if tracked:
        tracer.blamed[node] = reason


def passed(tracer: Tracer, node: Any) -> None:
    """Leave the channels as they are."""
    tracer.values[node] = tracer.of(node.args[0])


def elementwise(tracer: Tracer, node: Any) -> None:
    """Make channels one where tensors meet, element by element."""
    shape = shape_of(node)
    tensors = [given for given in node.all_input_nodes if "val" in given.meta and hasattr(given.meta["val"], "shape")]
    numbered = sorted(
        (found for found in map(tracer.of, tensors) if found is not None), key=lambda n: -collapse(n).numel()
    )
    if not numbered:
        tracer.values[node] = None
        return
    main = numbered[0].expand(shape)
    for other in numbered[1:]:
        _meet(tracer, main, other)
    main = collapse(tracer.roots(main)).expand(shape)
    for given in tensors:
        if tracer.of(given) is None:
            _meet_fixed(tracer, main, (1,) * (len(shape) - len(shape_of(given))) + shape_of(given), operator(node))
    tracer.values[node] = main


def _meet(tracer: Tracer, main: Any, other: Any) -> None:
    import torch

    small, large = collapse(other), collapse(main)
    if small.numel() == 1 and large.numel() > 1:
        tracer.freeze(small, "it is broadcast over other channels")
        return
    pairs = torch.stack([part.flatten() for part in torch.broadcast_tensors(large, small)])
    tracer.graph.unite(*torch.unique(pairs, dim=1).numpy())


def _meet_fixed(tracer: Tracer, main: Any, shape: tuple[int, ...], name: str) -> None:
    if any(shape[axis] > 1 for axis in varying(main)):
        free = lambda: all(shape[axis] == 1 for axis in varying(tracer.roots(main)))  # noqa: E731
        tracer.check(main, free, f"{name} meets a value of fixed size")


def along_dimension(tracer: Tracer, node: Any) -> None:
    """Pass what is computed along an axis without channels, such as softmax."""
    numbers, given = tracer.of(node.args[0]), arguments(node)
    if numbers is not None:
        _check_same(tracer, numbers, [given["dim"] % numbers.ndim], f"{operator(node)} runs over its channels")
    tracer.values[node] = numbers


def _check_same(tracer: Tracer, numbers: Any, axes: Iterable[int], reason: str) -> None:
    """Freeze channels unless each is alone on some axes, or one with all others there, such as within a head."""
    wanted = set(axes)
    if wanted & set(varying(numbers)):
        tracer.check(numbers, lambda: not wanted & set(varying(tracer.roots(numbers))), reason)


def reduction(tracer: Tracer, node: Any) -> None:
    """Shrink axes, such as the mean over space."""
    numbers, given = tracer.of(node.args[0]), arguments(node)
    if numbers is None:
        tracer.values[node] = None
        return
    dims = given.get("dim")
    listed = [dims] if isinstance(dims, int) else dims or range(numbers.ndim)
    axes = sorted({axis % numbers.ndim for axis in listed}, reverse=True)
    _check_same(tracer, numbers, axes, f"{operator(node)} runs over its channels")
    for axis in axes:
        numbers = numbers.narrow(axis, 0, 1) if given.get("keepdim") else numbers.select(axis, 0)
    tracer.values[node] = [numbers, None] if isinstance(node.meta["val"], tuple | list) else numbers


def normalization(tracer: Tracer, node: Any) -> None:
    """Freeze channels of which normalization takes the statistics together; pass others."""
    numbers, given = tracer.of(node.args[0]), arguments(node)
    if numbers is None:
        tracer.values[node] = None
        return
    sizes = given.get("normalized_shape")
    axes = range(numbers.ndim - len(sizes), numbers.ndim) if sizes is not None else range(1, numbers.ndim)
    _check_same(tracer, numbers, axes, f"{operator(node)} takes statistics of its channels together")
    tracer.values[node] = numbers


def _table(names: str, rule: Rule) -> dict[str, Rule]:
    return dict.fromkeys(names.split(), rule)


ELEMENTWISE = frozenset(
    ["hardswish", "hardswish_", "rsub", "where", "divide", "multiply", "subtract", "negative", "absolute"]
) | frozenset(["masked_fill", "masked_fill_", "log_sigmoid", "floor_divide", "special_expit"])
"""Operators that work element by element, though PyTorch does not tag them so."""

RULES: Mapping[str, Rule] = {
    **_table("conv1d conv2d conv3d convolution", convolution),
    **_table("conv_transpose1d conv_transpose2d conv_transpose3d", transposed),
    **_table("linear", linear),
    **_table("addmm", added_product),
    **_table("matmul mm bmm", matmul),
    **_table("scaled_dot_product_attention", attention),
    **_table("batch_norm _native_batch_norm_legit_no_training", batch_norm),
    **_table("layer_norm group_norm instance_norm rms_norm", normalization),
    **_table("embedding", embedding),
    **_table("prelu", prelu),
    **_table(
        "contiguous clone detach alias to _to_copy type_as dropout dropout_ alpha_dropout feature_dropout", passed
    ),
    **_table("feature_alpha_dropout lift_fresh_copy float double half", passed),
    **_table("zeros_like ones_like full_like fill", passed),
    **_table("view reshape _unsafe_view flatten unflatten squeeze unsqueeze view_as reshape_as ravel", view),
    **_table("permute transpose t numpy_T mT movedim moveaxis swapaxes swapdims expand expand_as repeat tile", move),
    **_table("flip pixel_shuffle pixel_unshuffle channel_shuffle repeat_interleave", move),
    **_table("slice narrow roll index_select", index),
    **_table("index", index),
    **_table("select", select),
    **_table("chunk split split_with_sizes tensor_split unbind unsafe_chunk unsafe_split", cut),
    **_table("cat concat concatenate", concatenate),
    **_table("stack", stack),
    **_table("glu", gate),
    **_table("pad constant_pad_nd reflection_pad1d reflection_pad2d replication_pad1d replication_pad2d", pad),
    **_table("max_pool1d max_pool2d max_pool3d avg_pool1d avg_pool2d avg_pool3d", resample),
    **_table("adaptive_avg_pool1d adaptive_avg_pool2d adaptive_avg_pool3d", resample),
    **_table("adaptive_max_pool1d adaptive_max_pool2d adaptive_max_pool3d max_pool2d_with_indices", resample),
    **_table(
        "upsample_nearest1d upsample_nearest2d upsample_nearest3d upsample_bilinear2d upsample_linear1d", resample
    ),
    **_table("upsample_bicubic2d _upsample_nearest_exact1d _upsample_nearest_exact2d", resample),
    **_table("softmax _softmax log_softmax _log_softmax cumsum logcumsumexp cumprod", along_dimension),
    **_table("mean sum amax amin var std norm linalg_vector_norm prod all any max min logsumexp", reduction),
}
"""By operator, what it does with channels; those that work element by element need no entry."""
