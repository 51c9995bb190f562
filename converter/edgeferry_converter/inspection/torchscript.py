"""What TorchScript tells about itself: its inlined graph, which only PyTorch's own reader can give.

The file is loaded as a source is, after the same check of its code. A graph says which weights an operator takes, but
not the shapes in between.
"""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

from edgeferry_converter.inspection.graph import Graph, Node, Value
from edgeferry_converter.inspection.layers import layers
from edgeferry_converter.inspection.report import Inspection
from edgeferry_converter.inspection.torch_macs import is_own, macs
from edgeferry_converter.quiet import foreign
from edgeferry_converter.sources.torchscript import TRACE, load_script
from edgeferry_runtime.errors import ArtifactError
from edgeferry_runtime.tensors import TensorSpec

BLOCKS = frozenset({"prim::If", "prim::Loop"})
BUILDERS = frozenset({"prim::ListConstruct", "prim::TupleConstruct", "prim::DictConstruct"})


def inspect_torchscript(path: Path) -> Inspection:
    """Read one file.

    Raises:
        UnsafeFileError: If its code could reach files, the network or compiled classes.
        CorruptFileError: If it is damaged.
        ArtifactError: If this PyTorch cannot load it.
        MissingExtraError: If PyTorch is not installed.
    """
    script = load_script(path)
    with foreign(path, "its graph cannot be read", TRACE, ArtifactError):
        found = _Reader(script)
        graph = found.graph
        listed = tuple(layers(graph, macs, set()))
        return Inspection(
            path=path,
            format="torchscript",
            size=path.stat().st_size,
            inputs=tuple(found.inputs),
            outputs=tuple(graph.values[key].spec for key in graph.outputs),
            layers=listed,
            custom=tuple(sorted({layer.operator for layer in listed if not is_own(layer.operator)})),
            metadata={"class": str(script.original_name)},
            notes=tuple(_notes(found)),
        )


class _Reader:
    """Walks a graph, and finds the tensors that its attributes are."""

    def __init__(self, script: Any) -> None:
        whole = script.inlined_graph
        me, *inputs = whole.inputs()
        self.blocks = False
        self.inputs = [TensorSpec(_key(value).rpartition(".")[0] or _key(value), (), _kind(value)) for value in inputs]
        self._known: dict[str, tuple[str, Any]] = {_key(me): ("", script)}
        self._lists: dict[str, tuple[str, ...]] = {}
        self._values = {_key(value): Value(_key(value), None, "") for value in inputs}
        self._nodes: list[Node] = []
        self._read(whole)
        outputs = tuple(self._leaves("", next(whole.outputs())))
        self._values |= {name: Value(name, None, "") for name in outputs}
        self.graph = Graph(self._values, tuple(self._nodes), tuple(map(_key, inputs)), outputs)

    def _read(self, block: Any) -> None:
        for node in block.nodes():
            kind = node.kind()
            if kind == "prim::GetAttr":
                self._attribute(node)
            elif kind in ("prim::Constant", "prim::SetAttr"):
                self._constant(node)
            elif kind in BUILDERS:
                self._lists[_key(node.output())] = tuple(map(_key, node.inputs()))
            elif kind.startswith("prim::") and kind not in BLOCKS:
                self._handed_on(node)
            else:
                self._operation(node)

    def _handed_on(self, node: Any) -> None:
        """Take what changes no tensor for the tensors that it is given, where it is known which."""
        outputs = list(map(_key, node.outputs()))
        given = [key for value in node.inputs() for key in self._lists.get(_key(value), (_key(value),))]
        if len(outputs) == len(given):
            self._lists |= {key: (same,) for key, same in zip(outputs, given, strict=True)}
        else:
            self._values |= {key: Value(key, None, "") for key in outputs}

    def _operation(self, node: Any) -> None:
        for inner in self._taken(node):
            self._read(inner)
        outputs = tuple(_key(value) for value in node.outputs() if "Tensor" in str(value.type()))
        self._values |= {key: Value(key, None, "") for key in outputs}
        if outputs:
            inputs = tuple(key for value in node.inputs() for key in self._flat(_key(value)) if key in self._values)
            weight = next((self._values[key].name for key in inputs if self._values[key].stored is not None), "")
            name = weight.rpartition(".")[0] or outputs[0]
            self._nodes.append(Node(node.kind().replace("::", "."), name, inputs, outputs))

    def _taken(self, node: Any) -> list[Any]:
        """Return the blocks of a node; of a branch by a flag that is known, only the one that is taken."""
        blocks = list(node.blocks())
        _, flag = self._known.get(_key(next(node.inputs())), ("", None)) if node.kind() == "prim::If" else ("", None)
        if isinstance(flag, bool):
            return [blocks[0 if flag else 1]]
        self.blocks = self.blocks or bool(blocks)
        return blocks

    def _attribute(self, node: Any) -> None:
        path, owner = self._known[_key(node.input())]
        name = f"{path}.{node.s('name')}" if path else node.s("name")
        self._learn(_key(node.output()), name, getattr(owner, node.s("name")))

    def _constant(self, node: Any) -> None:
        if node.outputsSize():
            self._learn(_key(node.output()), _key(node.output()), node.output().toIValue())

    def _learn(self, key: str, name: str, content: Any) -> None:
        import torch

        self._known[key] = (name, content)
        if isinstance(content, torch.Tensor):
            dtype = str(content.dtype).removeprefix("torch.")
            where = f"{content.data_ptr():x}" if content.numel() else name
            self._values[key] = Value(name, tuple(content.shape), dtype, stored=content.nbytes, buffer=where)
        elif isinstance(content, list | tuple) and any(isinstance(part, torch.Tensor) for part in content):
            self._lists[key] = tuple(f"{key}.{i}" for i in range(len(content)))
            for i, part in enumerate(content):
                self._learn(f"{key}.{i}", f"{name}.{i}", part)

    def _leaves(self, name: str, value: Any) -> Iterator[str]:
        """Name the outputs as the source does: by keys, or else ``output_0``, ``output_1`` and so on."""
        kind, parts = value.node().kind(), list(value.node().inputs())
        if kind in ("prim::TupleConstruct", "prim::ListConstruct"):
            for i, part in enumerate(parts):
                yield from self._leaves(f"{name or 'output'}_{i}", part)
        elif kind == "prim::DictConstruct":
            for key, part in zip(parts[::2], parts[1::2], strict=True):
                known = str(self._known.get(_key(key), ("", "?"))[1])
                yield from self._leaves(f"{name}_{known}" if name else known, part)
        else:
            yield name or "output_0"

    def _flat(self, key: str) -> Iterator[str]:
        """Yield the tensors of a list, or the value itself."""
        if key not in self._lists:
            yield key
        for part in self._lists.get(key, ()):
            yield from self._flat(part)


def _key(value: Any) -> str:
    return str(value.debugName())


def _kind(value: Any) -> str:
    """Return the type of an input that is no tensor; a tensor's is not told."""
    said = str(value.type())
    return "" if said == "Tensor" else said


def _notes(found: _Reader) -> Iterator[str]:
    yield "TorchScript tells no shapes, so that MACs are unknown: convert it and inspect the bundle"
    if found.blocks:
        yield "it has loops or branches; each body counts once"
