"""From a picture to named classes, as a model's metadata says how."""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from edgeferry_runtime.bundle import LABELS
from edgeferry_runtime.classification.scores import Scores, read_scores
from edgeferry_runtime.classification.told import Told, read_told
from edgeferry_runtime.errors import DataError, UsageError
from edgeferry_runtime.guard import check_artifact
from edgeferry_runtime.labels import read_labels
from edgeferry_runtime.preprocess import Preprocess, read_image
from edgeferry_runtime.tensors import Array, TensorSpec

if TYPE_CHECKING:
    from edgeferry_runtime.model import Model

HAND_OVER = "give it: model.classify(image, classifier=model.classifier(preprocess=..., labels=..., logits=...))"

MOST_PIXELS = 2**27
"""What a picture is resized to at most; metadata that says more is a bomb."""


@dataclass(frozen=True)
class Prediction:
    """One class of an answer.

    Attributes:
        label: Its name.
        score: Its probability, 0 to 1.
        index: Its number, from 0.
    """

    label: str
    score: float
    index: int


@dataclass(frozen=True)
class Classifier:
    """All that must be known to go from a picture to classes; make one with `Model.classifier`.

    Attributes:
        path: The artifact.
        picture: The input that is a picture, with a batch of one.
        output: The output that holds the scores.
        preprocess: How pixels become the input; its `resize` is the input's own size where no other was said.
        labels: One name per class.
        scores: Whether the output's values are probabilities or logits, and how that was decided.
    """

    path: Path
    picture: TensorSpec
    output: TensorSpec
    preprocess: Preprocess
    labels: tuple[str, ...]
    scores: Scores

    def feeds(self, image: str | os.PathLike[str] | bytes | Array) -> dict[str, Array]:
        """Return what the model is fed for a picture.

        Raises:
            MissingFileError, MissingExtraError, DataError: What `read_image` raises.
        """
        shown = Path(image) if isinstance(image, (str, os.PathLike)) else image
        return {self.picture.name: whole(read_image(shown, self.preprocess), self.picture)}

    def best(self, outputs: Mapping[str, Array], top: int) -> list[Prediction]:
        """Name the best classes of the model's answer; of equal ones, the lower number comes first.

        Raises:
            UsageError: If `top` is less than 1.
            DataError: If there are not as many scores as labels.
        """
        if top < 1:
            raise UsageError("top", f"is {top}", "ask for at least one class")
        answer = outputs[self.output.name]
        if answer.size != len(self.labels):
            shape = "x".join(map(str, answer.shape))
            raise DataError(self.path, f"gives [{shape}] scores for {len(self.labels)} labels", HAND_OVER)
        scores = answer.astype(np.float64).ravel()
        if self.scores.logits:
            powers = np.exp(scores - scores.max())
            scores = powers / powers.sum()
        order = np.argsort(-scores, kind="stable")[:top]
        return [Prediction(self.labels[i], float(scores[i]), int(i)) for i in order]


def make_classifier(
    model: Model,
    preprocess: Preprocess | None = None,
    labels: Sequence[str] | None = None,
    logits: bool | None = None,
) -> Classifier:
    """Gather what must be known; see `Model.classifier`."""
    told = read_told(model.path, model.format, model.inputs)
    manifest = model.manifest
    known = preprocess or (manifest.preprocess if manifest else None) or told.preprocess
    if known is None:
        raise DataError(model.path, told.doubt, f"convert with a recipe that has [preprocess], or {HAND_OVER}")
    names = tuple(labels or _bundled(model) or told.labels)
    if not names:
        fix = f"convert with a recipe that has labels, or {HAND_OVER}"
        raise DataError(model.path, "does not say what its classes are called", fix)
    picture = _picture(model, known, told)
    output = _output(model, names, told)
    scores = _scores(model, output, logits)
    return Classifier(model.path, picture, output, sized(model.path, known, picture), names, scores)


def told_preprocess(path: Path, inputs: Sequence[TensorSpec]) -> Preprocess | None:
    """Tell how a picture becomes the input of a bare artifact, where its own metadata says so.

    Args:
        path: A verified artifact.
        inputs: The model's inputs.

    Returns:
        It resizes pictures to what the input is; None where the metadata does not tell.

    Raises:
        DataError: If the metadata tells another size than the input has.
    """
    told = read_told(path, check_artifact(path), inputs)
    picture = next((spec for spec in inputs if spec.name == told.picture), None)
    return sized(path, told.preprocess, picture) if told.preprocess and picture else None


def sized(path: Path, preprocess: Preprocess, picture: TensorSpec) -> Preprocess:
    """Make pictures as large as the input is.

    Raises:
        DataError: If they are told to be of another size.
    """
    size = picture.shape[1:3] if preprocess.layout == "NHWC" else picture.shape[2:]
    height, width = preprocess.resize or size
    if any(given not in (wanted, -1) for given, wanted in zip(size, (height, width), strict=True)) or (
        height * width > MOST_PIXELS
    ):
        reason = f"is told to resize pictures to {height}x{width}, and takes {picture}"
        raise DataError(path, reason, "give another: model.classifier(preprocess=...)")
    return replace(preprocess, resize=(height, width)) if min(height, width) > 0 else preprocess


def _bundled(model: Model) -> tuple[str, ...]:
    """Return the labels of a model's bundle."""
    if model.manifest is None or LABELS not in model.manifest.files:
        return ()
    return read_labels(model.path.parent / LABELS)


def _picture(model: Model, preprocess: Preprocess, told: Told) -> TensorSpec:
    """Return the only input that such a picture fits."""
    channels, axis = (1 if preprocess.color == "gray" else 3), (3 if preprocess.layout == "NHWC" else 1)
    fitting = [spec for spec in model.inputs if len(spec.shape) == 4 and spec.shape[axis] == channels]
    named = [spec for spec in fitting if spec.name == told.picture]
    if len(model.inputs) != 1 or len(named or fitting) != 1 or (named or fitting)[0].shape[0] not in (1, -1):
        wanted = f"one picture ({preprocess.layout}, {preprocess.color}, a batch of one)"
        reason = f"takes {', '.join(map(str, model.inputs))}, which is not {wanted}"
        raise DataError(model.path, reason, "call the model itself, or model.classifier(preprocess=...)")
    return (named or fitting)[0]


def _output(model: Model, labels: Sequence[str], told: Told) -> TensorSpec:
    """Return the output that the labels belong to."""
    named = [spec for spec in model.outputs if spec.name == told.output]
    fitting = [spec for spec in model.outputs if spec.shape[-1:] in ((len(labels),), (-1,))]
    found = [spec for spec in named if spec in fitting] or fitting
    if len(found) != 1:
        reason = f"has {len(found)} outputs that {len(labels)} labels fit: {', '.join(map(str, model.outputs))}"
        raise DataError(model.path, reason, f"call the model itself, or {HAND_OVER}")
    return found[0]


def _scores(model: Model, output: TensorSpec, logits: bool | None) -> Scores:
    if logits is not None:
        return Scores(logits, f"its scores are {'logits' if logits else 'probabilities'}: the caller says so")
    found = read_scores(model.path, model.format, output.name)
    if found is None:
        reason = (
            f"does not tell whether {output.name} holds probabilities or logits: no softmax nor linear layer ends it"
        )
        raise DataError(
            model.path, reason, "say it: model.classify(image, classifier=model.classifier(logits=...)), True or False"
        )
    return found


def whole(values: Array, spec: TensorSpec) -> Array:
    """Give an input of plain integers the whole numbers that it takes.

    Raises:
        DataError: If they are none.
    """
    if spec.quantization or np.dtype(spec.dtype).kind not in "iu":
        return values
    whole = values.astype(spec.dtype)
    if not np.array_equal(whole, values):
        reason = f"takes {spec.dtype}, and preprocessing makes other values than whole numbers of that dtype"
        raise DataError(spec.name, reason, "give another: model.classifier(preprocess=...)")
    return whole
