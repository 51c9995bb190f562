"""How tensors are shown: to people in short, to programs as JSON."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from edgeferry_runtime.commands.output import table
from edgeferry_runtime.numerics import is_distribution
from edgeferry_runtime.tensors import Array

SHORT = 8
"""How many values of an output are shown at most."""


def top_classes(values: Array, labels: Sequence[str], count: int) -> list[dict[str, Any]]:
    """Return the classes of the highest scores.

    Args:
        values: One output.
        labels: One name per class; may be empty.
        count: How many classes to return.

    Returns:
        ``index``, ``label`` (None without labels) and ``score``, best first; empty where `values` holds no scores
        over classes: as many as there are labels, or probabilities.
    """
    scores = values.reshape(-1)
    named = len(labels) == len(scores)
    if scores.dtype.kind not in "iuf" or not is_distribution(values[np.newaxis]):
        return []
    if not named and not _are_probabilities(scores):
        return []
    best = np.argsort(-scores.astype(np.float64), kind="stable")[:count]
    return [{"index": int(i), "label": labels[i] if named else None, "score": scores[i].item()} for i in best]


def _are_probabilities(scores: Array) -> bool:
    """Tell whether scores look like a softmax, whose sum quantization may have moved away from 1."""
    return scores.dtype.kind == "f" and bool(scores.min() >= 0) and 0.5 < float(scores.sum()) < 1.5


def outputs_text(outputs: Mapping[str, Array], labels: Sequence[str], count: int) -> str:
    """Show outputs to people: name, dtype and shape, then the top classes or the first values."""
    return "\n".join(_output_text(name, values, labels, count) for name, values in outputs.items())


def _output_text(name: str, values: Array, labels: Sequence[str], count: int) -> str:
    head = f"{name}  {values.dtype}[{'x'.join(map(str, values.shape))}]"
    top = top_classes(values, labels, count)
    if not top:
        return f"{head}\n  {_short(values)}"
    rows = [("class", "score", "label")]
    rows += [(str(entry["index"]), f"{entry['score']:.4g}", entry["label"] or "") for entry in top]
    return "\n".join([head, *(f"  {line}" for line in table(rows).splitlines())])


def _short(values: Array) -> str:
    flat = values.reshape(-1)
    shown = " ".join(_word(value) for value in flat[:SHORT].tolist())
    if flat.size <= SHORT:
        return shown or "(empty)"
    figures = ""
    if flat.dtype.kind in "iuf":
        figures = f"  (min {_word(flat.min().item())}, mean {flat.mean():.4g}, max {_word(flat.max().item())})"
    return f"{shown} ...{figures}"


def _word(value: Any) -> str:
    if isinstance(value, float):
        return f"{value:.5g}"
    return value.decode(errors="replace") if isinstance(value, bytes) else str(value)


def outputs_json(outputs: Mapping[str, Array], labels: Sequence[str], count: int) -> list[dict[str, Any]]:
    """Return outputs for programs; a value that is not finite, which JSON does not have, is null."""
    return [
        {
            "name": name,
            "shape": list(values.shape),
            "dtype": values.dtype.name,
            "values": _json_values(values),
            "top": top_classes(values, labels, count),
        }
        for name, values in outputs.items()
    ]


def _json_values(values: Array) -> Any:
    if values.dtype.kind == "f":
        plain = values.astype(object)
        plain[~np.isfinite(values)] = None
        return plain.tolist()
    if values.dtype.kind in "SO":
        return np.vectorize(_word, otypes=[object])(values).tolist()
    return values.tolist()
