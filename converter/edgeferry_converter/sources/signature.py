"""Names in a TFLite flatbuffer: the signature tells callers what each input and output is called."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from edgeferry_runtime.errors import ConversionError

KEY = "serving_default"


@dataclass(frozen=True)
class Signature:
    """The primary signature of a TFLite model.

    Attributes:
        inputs: Input names in the order that the file keeps.
        outputs: Output names, likewise.
    """

    inputs: tuple[str, ...]
    outputs: tuple[str, ...]


def read(model: bytes) -> Signature | None:
    """Return the first signature of a TFLite model; None where it has none."""
    tree = _parse(model)
    if not tree.signatureDefs:
        return None
    first = tree.signatureDefs[0]
    return Signature(tuple(_text(t.name) for t in first.inputs), tuple(_text(t.name) for t in first.outputs))


def rename(model: bytes, inputs: Mapping[str, str], outputs: Mapping[str, str]) -> bytes:
    """Give the first signature of a TFLite model other names, and the order of the mappings.

    The graph's own input and output lists take that order too. Tensor names stay: they must be unique.

    Args:
        model: The flatbuffer.
        inputs: By present input name the new one, for every input.
        outputs: By present output name the new one, for every output.

    Returns:
        The new flatbuffer; the same bytes for the same arguments.

    Raises:
        ConversionError: If the present names are others, or the file keeps weights outside the flatbuffer.
    """
    tree = _parse(model)
    if not tree.signatureDefs:
        raise ConversionError("TFLite model", "has no signature whose names could be changed", "report this")
    _rename(tree, tree.signatureDefs[0], Renaming(tree.signatureDefs[0].signatureKey, inputs, outputs))
    return pack(tree)


@dataclass(frozen=True)
class Renaming:
    """What a signature shall be called, and its inputs and outputs: by present name the new one, for each of them."""

    key: str
    inputs: Mapping[str, str]
    outputs: Mapping[str, str]


def rename_all(model: bytes, renamings: Mapping[str, Renaming]) -> bytes:
    """Give every signature of a TFLite model other names, and all of them the order of the mappings; see `rename`.

    Args:
        model: The flatbuffer.
        renamings: By present key what becomes of the signature, for every signature.

    Raises:
        ConversionError: As `rename` does.
    """
    tree = _parse(model)
    found = {_text(signature.signatureKey): signature for signature in tree.signatureDefs or []}
    if set(found) != set(renamings):
        raise ConversionError("TFLite model", f"has {sorted(found)}, not {sorted(renamings)}", "report this")
    for key, renaming in renamings.items():
        _rename(tree, found[key], renaming)
    tree.signatureDefs = [found[key] for key in renamings]
    return pack(tree)


def _rename(tree: Any, signature: Any, renaming: Renaming) -> None:
    graph = tree.subgraphs[signature.subgraphIndex]
    signature.signatureKey = renaming.key
    signature.inputs, graph.inputs = _reorder(signature.inputs, renaming.inputs)
    signature.outputs, graph.outputs = _reorder(signature.outputs, renaming.outputs)


def ensure(model: bytes) -> bytes:
    """Give a TFLite model without a signature one, which calls every tensor as the graph does."""
    tree = _parse(model)
    if tree.signatureDefs:
        return model
    graph = tree.subgraphs[0]
    tree.signatureDefs = [_signature(graph)]
    return pack(tree)


def primary_first(keys: Iterable[str]) -> tuple[str, ...]:
    """Return the names of signatures, each once: ``serving_default`` in front, the others in their order."""
    return tuple(sorted(dict.fromkeys(keys), key=lambda key: key != KEY))


def left_out(kept: Sequence[str], others: Sequence[str]) -> tuple[str, ...]:
    """Say in one sentence which signatures are the model and which are not; nothing where none is left out."""
    if not others:
        return ()
    words = ", ".join(map(repr, kept))
    said = f"the signature {words} is the model" if len(kept) == 1 else f"the signatures {words} are the model"
    return (f"{said}; left out: {', '.join(others)}",)


def _signature(graph: Any) -> Any:
    from ai_edge_litert import schema_py_generated as schema

    signature = schema.SignatureDefT()
    signature.signatureKey, signature.subgraphIndex = KEY, 0
    signature.inputs = [_entry(graph.tensors[i].name, i) for i in graph.inputs]
    signature.outputs = [_entry(graph.tensors[i].name, i) for i in graph.outputs]
    return signature


def _entry(name: bytes | str, index: int) -> Any:
    from ai_edge_litert import schema_py_generated as schema

    entry = schema.TensorMapT()
    entry.name, entry.tensorIndex = name, int(index)
    return entry


def _reorder(entries: list[Any], names: Mapping[str, str]) -> tuple[list[Any], list[int]]:
    index = {_text(entry.name): entry.tensorIndex for entry in entries}
    if set(index) != set(names):
        raise ConversionError("TFLite model", f"its signature has {sorted(index)}, not {sorted(names)}", "report this")
    renamed = [_entry(new, index[old]) for old, new in names.items()]
    return renamed, [entry.tensorIndex for entry in renamed]


def _text(name: bytes | str) -> str:
    return name.decode() if isinstance(name, bytes) else name


def _parse(model: bytes) -> Any:
    from ai_edge_litert import schema_py_generated as schema

    return schema.ModelT.InitFromObj(schema.Model.GetRootAs(model, 0))


def pack(tree: Any) -> bytes:
    """Serialize with every buffer aligned to 16 bytes, as the schema demands and the object API forgets."""
    import flatbuffers

    if any(buffer.offset > 1 for buffer in tree.buffers):
        raise ConversionError("TFLite model", "keeps weights outside its flatbuffer", "use a model below 2 GB")

    class Aligned(flatbuffers.Builder):  # type: ignore[misc]
        def StartVector(self, elemSize: int, numElems: int, alignment: int) -> Any:  # noqa: N802, N803
            return super().StartVector(elemSize, numElems, 16 if elemSize == 1 else alignment)

    builder = Aligned(1024)
    builder.Finish(tree.Pack(builder), b"TFL3")
    return bytes(builder.Output())
