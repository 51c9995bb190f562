"""The bundle: a folder that carries an artifact together with the proof that it is right.

Its files::

    manifest.json   what is here, with the SHA-256 of every other file; its "id" is the hash of the rest
    model.tflite or model.onnx
    model.onnx.data the weights of an ONNX artifact that one file cannot hold
    probe.npz       golden inputs and outputs of the source; probe-1.npz ... those of its further signatures
    recipe.toml     how the artifact was made
    labels.txt      one class name a line, where there are labels
"""

from __future__ import annotations

import hashlib
import json
import os
from collections.abc import Callable, Iterator, Mapping
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from edgeferry_runtime.artifact_files import companions, sha256_file
from edgeferry_runtime.errors import BundleError, MissingFileError, OutputExistsError, UnknownNameError
from edgeferry_runtime.numerics import Tolerance
from edgeferry_runtime.preprocess import Preprocess
from edgeferry_runtime.scratch import LOCK, scratch
from edgeferry_runtime.tensors import Array, TensorSpec
from edgeferry_runtime.whole import swap_folder

if TYPE_CHECKING:
    from edgeferry_runtime.model import Model

SCHEMA = 1
MANIFEST = "manifest.json"
PROBE = "probe.npz"
RECIPE = "recipe.toml"
LABELS = "labels.txt"
MARKER = "edgeferry-bundle"
LARGEST_MANIFEST = 1 << 24
"""Bytes; more is no manifest."""


@dataclass(frozen=True)
class Probe:
    """Golden inputs and outputs of a source.

    Attributes:
        inputs: By input name, an array of [samples, *input shape]; ``inputs[name][i]`` is what the model is fed.
        outputs: By output name, an array of [samples, *output shape]: what the source answered.
    """

    inputs: Mapping[str, Array]
    outputs: Mapping[str, Array]

    def __len__(self) -> int:
        return len(next(iter(self.inputs.values()))) if self.inputs else 0

    def feeds(self) -> Iterator[dict[str, Array]]:
        """Yield what the model is fed, sample by sample."""
        for i in range(len(self)):
            yield {name: values[i] for name, values in self.inputs.items()}

    def save(self, path: Path) -> None:
        """Write an uncompressed ``.npz`` whose keys are ``input/NAME`` and ``output/NAME``."""
        import numpy as np

        arrays = {f"input/{k}": v for k, v in self.inputs.items()} | {f"output/{k}": v for k, v in self.outputs.items()}
        np.savez(path, **arrays)  # type: ignore[arg-type]

    @classmethod
    def load(cls, path: Path) -> Probe:
        """Read what `save` wrote, without unpickling.

        Raises:
            BundleError: If the file is damaged.
        """
        from edgeferry_runtime.arrays import ArrayFileError, load_arrays

        try:
            found = load_arrays(path)
        except (OSError, ArrayFileError) as error:
            raise BundleError(path, f"cannot be read ({error})", "convert the source again") from error
        split: dict[str, dict[str, Array]] = {"input": {}, "output": {}}
        for key, values in found.items():
            kind, _, name = key.partition("/")
            split.setdefault(kind, {})[name] = values
        return cls(split["input"], split["output"])


@dataclass(frozen=True)
class SignatureSpec:
    """One of several signatures of an artifact.

    Attributes:
        inputs: Its inputs, in order.
        outputs: Its outputs, in order.
        probe: The file with its golden inputs and outputs.
    """

    inputs: tuple[TensorSpec, ...]
    outputs: tuple[TensorSpec, ...]
    probe: str = PROBE

    def to_dict(self) -> dict[str, Any]:
        """Return the JSON form."""
        sides = {"inputs": self.inputs, "outputs": self.outputs}
        return {**{side: [t.to_dict() for t in specs] for side, specs in sides.items()}, "probe": self.probe}

    @classmethod
    def from_dict(cls, data: Mapping[str, Any]) -> SignatureSpec:
        """Read the JSON form."""
        inputs, outputs = (tuple(TensorSpec.from_dict(t) for t in data[side]) for side in ("inputs", "outputs"))
        return cls(inputs, outputs, data["probe"])


@dataclass(frozen=True)
class Manifest:
    """What a bundle holds.

    Attributes:
        name: The model's name; on a device the bundle lives below it.
        artifact: The artifact's file name.
        format: ``tflite`` or ``onnx``.
        precision: ``none``, ``fp16``, ``dynamic`` or ``int8``.
        inputs: The artifact's inputs, in order.
        outputs: The artifact's outputs, in order.
        source: Where it came from: name, format, framework, SHA-256.
        tolerance: What a comparison with the probe must reach, here and on every device.
        verification: What was compared at conversion, and the figures of each output.
        files: SHA-256 of each file but the manifest.
        tools: Versions of all that took part.
        preprocess: How pictures become inputs, where that is known.
        signatures: By name, the primary one first, whose inputs and outputs are those of the manifest; empty where
            the artifact has one or none.
    """

    name: str
    artifact: str
    format: str
    precision: str
    inputs: tuple[TensorSpec, ...]
    outputs: tuple[TensorSpec, ...]
    source: Mapping[str, Any]
    tolerance: Tolerance = field(default_factory=Tolerance)
    verification: Mapping[str, Any] = field(default_factory=dict)
    files: Mapping[str, str] = field(default_factory=dict)
    tools: Mapping[str, str] = field(default_factory=dict)
    preprocess: Preprocess | None = None
    signatures: Mapping[str, SignatureSpec] = field(default_factory=dict)

    def at(self, signature: str | None) -> Manifest:
        """Return the manifest with the inputs and outputs of one signature; None takes the primary one.

        Raises:
            UnknownNameError: If it tells of several signatures, and not of this one.
        """
        if signature is None or not self.signatures:
            return self
        if signature not in self.signatures:
            raise UnknownNameError("--signature", signature, self.signatures)
        found = self.signatures[signature]
        return replace(self, inputs=found.inputs, outputs=found.outputs)

    def to_dict(self) -> dict[str, Any]:
        """Return the JSON form, with the id that its content has."""
        data: dict[str, Any] = {
            "format": MARKER,
            "schema": SCHEMA,
            "name": self.name,
            "artifact": {"file": self.artifact, "format": self.format, "precision": self.precision},
            "inputs": [t.to_dict() for t in self.inputs],
            "outputs": [t.to_dict() for t in self.outputs],
            "source": dict(self.source),
            "tolerance": asdict(self.tolerance),
            "verification": dict(self.verification),
            "preprocess": self.preprocess.to_dict() if self.preprocess else None,
            "tools": dict(self.tools),
            "files": dict(sorted(self.files.items())),
        }
        if self.signatures:
            data["signatures"] = {key: found.to_dict() for key, found in self.signatures.items()}
        return {"id": content_id(data), **data}

    @classmethod
    def from_dict(cls, data: dict[str, Any]) -> Manifest:
        """Read the JSON form.

        Raises:
            KeyError, TypeError, ValueError: If it is not one.
        """
        _check_types(data)
        return cls(
            name=data["name"],
            artifact=data["artifact"]["file"],
            format=data["artifact"]["format"],
            precision=data["artifact"]["precision"],
            inputs=tuple(TensorSpec.from_dict(t) for t in data["inputs"]),
            outputs=tuple(TensorSpec.from_dict(t) for t in data["outputs"]),
            source=data["source"],
            tolerance=Tolerance(**data["tolerance"]),
            verification=data["verification"],
            files=data["files"],
            tools=data["tools"],
            preprocess=Preprocess.from_dict(data["preprocess"]) if data["preprocess"] else None,
            signatures={key: SignatureSpec.from_dict(one) for key, one in data.get("signatures", {}).items()},
        )


def _check_types(data: Mapping[str, Any]) -> None:
    """Refuse values that no manifest has, so that nobody meets them later."""
    artifact, files = data["artifact"], data["files"]
    for key in ("source", "verification", "tools", "files", "artifact", "tolerance"):
        if not isinstance(data[key], dict):
            raise TypeError(f"{key} is no object")
    if not all(isinstance(text, str) for text in (data["name"], *artifact.values(), *files.values())):
        raise TypeError("a name or hash is no text")
    signatures = data.get("signatures", {}).values()
    if not all(one["inputs"] and one["outputs"] for one in (data, *signatures)):
        raise ValueError("it has no inputs or no outputs")
    if not all(one["probe"] in files for one in signatures):
        raise ValueError("a signature's probe is none of its files")


def content_id(manifest: Mapping[str, Any]) -> str:
    """Return the hash of a manifest's content (which holds the hash of every file) as 64 hex digits."""
    content = {k: v for k, v in manifest.items() if k != "id"}
    text = json.dumps(content, sort_keys=True, separators=(",", ":"), ensure_ascii=False)
    return hashlib.sha256(text.encode()).hexdigest()


@dataclass(frozen=True)
class Bundle:
    """A bundle on disk.

    Attributes:
        path: Its folder.
        manifest: What it holds.
        id: The hash of its content, 64 hex digits.
    """

    path: Path
    manifest: Manifest
    id: str

    @classmethod
    def open(cls, path: str | os.PathLike[str]) -> Bundle:
        """Read a bundle's manifest and check that every file it names is there and stays inside the folder.

        Raises:
            MissingFileError: If there is no such folder.
            BundleError: If the folder is no bundle, or is damaged.
        """
        folder = Path(path)
        again = "convert the source again"
        if not folder.exists():
            raise MissingFileError(folder, "no such bundle", "check the path, or make one with: ferry convert")
        if not (folder / MANIFEST).is_file():
            raise BundleError(folder, f"is no bundle: it has no {MANIFEST}", "make one with: ferry convert")
        try:
            data = _read_manifest(folder)
            if data.get("format") != MARKER:
                raise BundleError(folder, f"its {MANIFEST} is not an Edgeferry one", "make one with: ferry convert")
            if data.get("schema") != SCHEMA:
                raise BundleError(folder, f"has schema {data.get('schema')}; this version reads {SCHEMA}", again)
            manifest = Manifest.from_dict(data)
        except (ValueError, KeyError, TypeError, AttributeError, RecursionError, OSError) as error:
            if isinstance(error, BundleError):
                raise
            raise BundleError(folder, f"its {MANIFEST} is damaged ({type(error).__name__}: {error})", again) from error
        for name in (manifest.artifact, *manifest.files):
            if name != Path(name).name or name in ("", ".", ".."):
                raise BundleError(folder, f"names a file outside its folder: {name[:255]!r}", "do not use this bundle")
            if not _is_file(folder / name):
                raise BundleError(folder, f"lacks the file {name[:255]!r}", again)
        if manifest.artifact not in manifest.files:
            raise BundleError(folder, f"its {MANIFEST} has no hash of {manifest.artifact}", again)
        return cls(folder, manifest, str(data.get("id")))

    @property
    def artifact(self) -> Path:
        """The artifact's path."""
        return self.path / self.manifest.artifact

    @property
    def labels(self) -> tuple[str, ...]:
        """One name per class; empty where the bundle has none."""
        from edgeferry_runtime.labels import read_labels

        return read_labels(self.path / LABELS) if LABELS in self.manifest.files else ()

    def probe(self, signature: str | None = None) -> Probe:
        """Read the golden inputs and outputs of one signature; None takes the primary one.

        Raises:
            UnknownNameError: If the bundle tells of several signatures, and not of this one.
        """
        self.manifest.at(signature)
        found = self.manifest.signatures.get(signature or "")
        return Probe.load(self.path / (found.probe if found else PROBE))

    def check(self) -> None:
        """Compare the id and every file's SHA-256 with the manifest.

        Raises:
            BundleError: If anything differs.
        """
        if self.id != content_id(self.manifest.to_dict()):
            raise BundleError(self.path, f"its id does not match its {MANIFEST}", "convert the source again")
        for name, digest in self.manifest.files.items():
            if sha256_file(self.path / name) != digest:
                raise BundleError(
                    self.path, f"{name} was changed after the bundle was made", "convert the source again"
                )
        self.check_weights()

    def check_weights(self) -> None:
        """Refuse an artifact that keeps weights in a file which the manifest has no hash of.

        Raises:
            BundleError: Naming that file.
        """
        known = {self.path / name for name in self.manifest.files}
        for file in companions(self.artifact):
            if file not in known:
                reason = f"keeps weights in {file.name}, which its {MANIFEST} has no hash of"
                raise BundleError(self.path, reason, "convert the source again")

    def load(self, **options: Any) -> Model:
        """Load the artifact into its engine; the options are those of `edgeferry_runtime.load`."""
        from edgeferry_runtime.model import load

        return load(self.path, **options)


def _is_file(path: Path) -> bool:
    """Tell whether there is such a file; no file has a name that is too long."""
    try:
        return path.is_file()
    except (OSError, ValueError):
        return False


def _read_manifest(folder: Path) -> Any:
    """Return what the JSON of a manifest says.

    Raises:
        ValueError, RecursionError, OSError: If it is none.
    """
    with (folder / MANIFEST).open("rb") as stream:
        content = stream.read(LARGEST_MANIFEST + 1)
    if len(content) > LARGEST_MANIFEST:
        raise ValueError(f"it has more than {LARGEST_MANIFEST >> 20} MiB")
    data = json.loads(content.decode())
    json.dumps(data, ensure_ascii=False).encode()  # no lone surrogates, which nobody can print
    return data


def is_bundle(path: Path) -> bool:
    """Tell whether a folder carries our marker."""
    try:
        data = _read_manifest(path)
    except (OSError, ValueError, RecursionError):
        return False
    return isinstance(data, dict) and data.get("format") == MARKER


def check_output(path: Path) -> None:
    """Refuse an output path that holds something that is not ours.

    Raises:
        OutputExistsError: If the path exists and is neither a bundle nor an empty folder.
        MissingFileError: If its parent folder does not exist or cannot be written.
    """
    if not path.absolute().parent.is_dir():
        raise MissingFileError(path.parent, "no such folder", "create it, or give another -o")
    if not os.access(path.absolute().parent, os.W_OK | os.X_OK):
        raise MissingFileError(path.parent, "cannot be written", "give another -o, or change its permissions")
    if path.is_dir() and not path.is_symlink() and (is_bundle(path) or not any(path.iterdir())):
        return
    if path.exists() or path.is_symlink():
        raise OutputExistsError(path, "exists and is not a bundle", "give another -o, or remove it yourself")


def write_bundle(path: Path, manifest: Manifest, fill: Callable[[Path], None]) -> Bundle:
    """Write a bundle so that it is there whole or not at all.

    Args:
        path: The bundle's folder; an older bundle there is replaced.
        manifest: What it holds, `files` still empty.
        fill: Writes every file but the manifest into the temporary folder that it is given.

    Returns:
        The bundle, at `path`.

    Raises:
        OutputExistsError: If `path` exists and is not ours.
    """
    check_output(path)
    path = path.absolute()
    with scratch(f".{path.name}.", ".part", path.parent) as parts:
        parts.chmod(0o755)
        fill(parts)
        files = {f.name: sha256_file(f) for f in sorted(parts.iterdir()) if f.name != LOCK}
        data = replace(manifest, files=files).to_dict()
        (parts / MANIFEST).write_text(json.dumps(data, indent=2, ensure_ascii=False) + "\n", encoding="utf-8")
        (parts / LOCK).unlink()
        swap_folder(parts, path)
    return Bundle.open(path)
