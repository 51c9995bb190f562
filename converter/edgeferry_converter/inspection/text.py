"""An inspection as text of at most 100 columns."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from textwrap import fill

from edgeferry_converter.inspection.report import Inspection, Layer, Operator
from edgeferry_runtime.commands.output import table
from edgeferry_runtime.tensors import Quantization, TensorSpec

WIDTH = 100
FEW = 12
"""So many layers are shown all; of larger models, as many of the largest."""


def render(found: Inspection, *, every: bool = False) -> str:
    """Describe a model on about one screen.

    Args:
        found: What the inspection found.
        every: Show every layer instead of the largest.
    """
    blocks = [_heading(found), _borders(found), _operators(found.operators), _layers(found, every=every)]
    blocks.append("\n".join(_remarks(found)))
    return "\n\n".join(block for block in blocks if block)


def count(number: int | None) -> str:
    """Write a count in thousands, millions or billions."""
    return "?" if number is None else _scaled(number, ("", " k", " M", " G", " T"))


def size(number: int | None) -> str:
    """Write bytes in kB, MB or GB of 1000."""
    return "?" if number is None else _scaled(number, (" B", " kB", " MB", " GB", " TB"))


def _scaled(number: float, units: Sequence[str]) -> str:
    for unit in units[:-1]:
        if number < 999.5:
            return f"{number:.3g}{unit}"
        number /= 1000
    return f"{number:.3g}{units[-1]}"


def _heading(found: Inspection) -> str:
    figures = [f"{found.path.name}: {found.format}, {size(found.size)}"]
    if found.layers:
        figures += [f"{count(found.parameters)} parameters", f"{count(found.macs)} MACs"]
    if found.arena_bytes is not None:
        figures.append(f"tensor arena about {size(found.arena_bytes)} (an estimate)")
    return fill(", ".join(figures), WIDTH)


def _borders(found: Inspection) -> str:
    rows = [("", "name", "dtype", "shape", "range of values")]
    rows += [(side, *_border(spec)) for side, specs in _sides(found) for spec in specs]
    return table(rows)


def _sides(found: Inspection) -> tuple[tuple[str, tuple[TensorSpec, ...]], ...]:
    return ("input", found.inputs), ("output", found.outputs)


def _border(spec: TensorSpec) -> tuple[str, str, str, str]:
    return (
        shorten(spec.name, 32),
        spec.dtype or "?",
        _shape(spec.shape if spec.dtype else None),
        _scale(spec.quantization),
    )


def _shape(shape: tuple[int, ...] | None) -> str:
    return "?" if shape is None else f"[{', '.join('?' if d < 0 else str(d) for d in shape)}]"


def _scale(found: Quantization | None) -> str:
    if found is None:
        return ""
    if len(found.scale) > 1:
        return f"{len(found.scale)} scales along axis {found.axis}"
    return f"scale {found.scale[0]:.6g}, zero point {found.zero_point[0]}"


def shorten(name: str, width: int) -> str:
    """Keep the end of a long name, which tells more than its beginning."""
    return name if len(name) <= width else f"…{name[1 - width :]}"


def _operators(operators: Sequence[Operator]) -> str:
    if not operators:
        return ""
    rows = [("operator", "count", "parameters", "weights", "MACs", "precision")]
    rows += [
        (shorten(o.name, 28), str(o.count), count(o.parameters), size(o.weight_bytes), count(o.macs), _precisions(o))
        for o in operators
    ]
    return table(rows)


def _precisions(operator: Operator) -> str:
    kinds = operator.precisions
    said = ", ".join(kinds) if len(kinds) == 1 else ", ".join(f"{n} {kind}" for kind, n in kinds.items())
    return said if len(said) <= 32 else f"{said[:31]}…"


def _layers(found: Inspection, *, every: bool) -> str:
    shown = found.layers if every or len(found.layers) <= FEW else found.largest[:FEW]
    if not shown:
        return ""
    title = "layer" if len(shown) == len(found.layers) else f"largest layers of {len(found.layers)}"
    rows = [(title, "operator", "shape", "precision", "weights", "MACs"), *map(_layer, shown)]
    return table(rows)


def _layer(layer: Layer) -> tuple[str, ...]:
    name, operator = shorten(layer.name.rpartition(";")[2] or layer.name, 22), shorten(layer.operator, 17)
    return (
        name,
        operator,
        shorten(_shape(layer.shape), 17),
        layer.precision,
        size(layer.weight_bytes),
        count(layer.macs),
    )


def _remarks(found: Inspection) -> Iterator[str]:
    if found.transposes:
        named = ", ".join(shorten(name, 30) for name in found.transposes[:3])
        yield f"stray transposes: {len(found.transposes)}, such as {named}"[:WIDTH]
    for what, names in (("custom operators", found.custom), ("Flex operators", found.flex)):
        if names:
            yield fill(f"{what}: {', '.join(names)}", WIDTH)
    for key, value in found.metadata.items():
        text = " ".join(str(value).split())
        yield f"{key}: {text}"[:WIDTH]
    for note in found.notes:
        yield fill(f"note: {note}", WIDTH)
