"""What TensorFlow Serving's REST API does with a model: predict, classify, regress.

Source: TensorFlow Serving, "RESTful API", sections "Predict API" and "Classify and Regress API".
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import partial
from itertools import chain
from math import prod
from types import MappingProxyType
from typing import Any

import numpy as np

from edgeferry_runtime.serving.refusals import Kind, RefusedError
from edgeferry_runtime.serving.rest.json_calls import Answering, Asked
from edgeferry_runtime.serving.rest.json_tensors import binary, columns, rows, written
from edgeferry_runtime.tensors import Array

Body = Mapping[str, Any]
"""The JSON object that was sent."""

ALL = 1 << 20
"""More classes than a model has."""


def predict(asked: Asked, body: Body) -> Answering:
    """Run a model on tensors in row or in column format, and answer in the same.

    Raises:
        EdgeferryError: If the body has neither or both, or what `Asked.tensors` raises.
    """
    instances, inputs = (body.get(key) for key in ("instances", "inputs"))
    if (instances is None) is (inputs is None):
        fix = 'send "instances", a list with an item for each row, or "inputs", whole tensors'
        raise RefusedError(Kind.INVALID, "the body", "needs one of 'instances' and 'inputs'", fix)
    if instances is not None:
        return partial(_predictions, asked, asked.tensors(_from_rows(asked, instances)))
    return partial(_outputs, asked, asked.tensors(_from_columns(asked, inputs)))


async def _predictions(asked: Asked, arrays: Mapping[str, Array]) -> dict[str, Any]:
    return {"predictions": rows(await asked.run(arrays))}


async def _outputs(asked: Asked, arrays: Mapping[str, Array]) -> dict[str, Any]:
    return {"outputs": columns(await asked.run(arrays))}


def _from_columns(asked: Asked, inputs: Any) -> Mapping[str, Any]:
    if isinstance(inputs, dict) and binary(inputs) is None:
        return inputs
    return {asked.only_input("'inputs'"): inputs}


def _from_rows(asked: Asked, instances: Any) -> Mapping[str, Any]:
    if not isinstance(instances, list) or not instances:
        raise RefusedError(Kind.INVALID, "'instances'", "is no list with an item for each row", "send at least one")
    if not any(map(_is_named, instances)):
        return {asked.only_input("'instances'"): instances}
    return _transposed(instances, "instance")


def _is_named(instance: Any) -> bool:
    return isinstance(instance, dict) and binary(instance) is None


def _transposed(instances: list[Any], kind: str) -> dict[str, list[Any]]:
    """Turn objects of one value for each name into one list for each name.

    Raises:
        RefusedError: INVALID if one is no object, or has other names than the first.
    """
    first = instances[0]
    for i, instance in enumerate(instances):
        if not _is_named(instance):
            raise RefusedError(Kind.INVALID, f"{kind} {i}", "is no object of values by name", "send each as the others")
        if not isinstance(first, dict) or instance.keys() != first.keys():
            reason = f"has other names than {kind} 0"
            raise RefusedError(Kind.INVALID, f"{kind} {i}", reason, "give each a value for every input")
    return {name: [instance[name] for instance in instances] for name in first}


def classify(asked: Asked, body: Body) -> Answering:
    """Give every class of each example with its score, the best first.

    An example is numbers for each input, flat as in `tf.Example` or nested; or ``{"b64": ...}`` of a picture's file for
    the only input. Scores of numbers are what the model computes; those of a picture are probabilities.

    Raises:
        EdgeferryError: If the model has no labels, or what `Asked.tensor` raises.
    """
    examples = _examples(asked, body)
    pictures = _pictures(asked, examples)
    if pictures is not None:
        return partial(_named, asked, pictures)
    output, labels = _labelled(asked)
    return partial(_scores, asked, _features(asked, examples), output, labels)


async def _named(asked: Asked, pictures: list[bytes]) -> dict[str, Any]:
    answers = await asked.classify(pictures, ALL)
    return {"results": [[[found.label, found.score] for found in named.predictions] for named in answers]}


async def _scores(asked: Asked, features: Mapping[str, Array], output: str, labels: tuple[str, ...]) -> dict[str, Any]:
    scores = await _each(asked, features, output)
    return {"results": [_ranked(labels, output, row.ravel()) for row in scores]}


def regress(asked: Asked, body: Body) -> Answering:
    """Give the value of each example.

    Raises:
        EdgeferryError: If the model has more than one output, or one that is no single number; or what `Asked.tensor`
            raises.
    """
    examples, outputs = _examples(asked, body), asked.signature.lane.outputs
    if len(outputs) != 1 or any(size != 1 for size in outputs[0].shape[1:]):
        reason = f"gives {', '.join(map(str, outputs))}, which is not one number an example"
        raise RefusedError(Kind.INVALID, f"model {asked.release.name!r}", reason, "use :predict")
    return partial(_values, asked, _features(asked, examples), outputs[0].name)


async def _values(asked: Asked, features: Mapping[str, Array], output: str) -> dict[str, Any]:
    return {"results": written(output, (await _each(asked, features, output)).ravel())}


@dataclass(frozen=True)
class Examples:
    """What to classify or regress.

    Attributes:
        each: Values by name for each example; every name is that of an input.
        common: Those that all of them share, under other names.
    """

    each: list[dict[str, Any]]
    common: dict[str, Any]


def _examples(asked: Asked, body: Body) -> Examples:
    """Read the examples."""
    examples, context = body.get("examples"), body.get("context", {})
    if not isinstance(examples, list) or not examples:
        raise RefusedError(Kind.INVALID, "'examples'", "is no list of objects", 'send {"examples": [{NAME: VALUE}]}')
    if not isinstance(context, dict):
        raise RefusedError(Kind.INVALID, "'context'", "is no object", "send values by name, or leave it out")
    for i, example in enumerate(examples):
        if not isinstance(example, dict):
            raise RefusedError(Kind.INVALID, f"example {i}", "is no object", "send values by name")
        if example.keys() & context.keys():
            raise RefusedError(Kind.INVALID, f"example {i}", "names what 'context' has", "give each value once")
    for name in chain.from_iterable([context, *examples]):
        asked.spec(name)
    return Examples(examples, context)


async def _each(asked: Asked, features: Mapping[str, Array], output: str) -> Array:
    """Run the model; return a row of an output for each example."""
    found, count = (await asked.run(features))[output], max(map(len, features.values()), default=0)
    if found.shape[:1] != (count,):
        reason = f"has the shape {list(found.shape)} for {count} examples"
        raise RefusedError(Kind.INVALID, f"output {output}", reason, "use :predict")
    return found


def _features(asked: Asked, examples: Examples) -> Mapping[str, Array]:
    """Return each input, with a row for each example."""
    columns = _transposed(examples.each, "example")
    each = {name: [_shaped(asked, name, value) for value in values] for name, values in columns.items()}
    common = {name: _repeated(asked, name, value, len(examples.each)) for name, value in examples.common.items()}
    return asked.tensors({**each, **common})


def _repeated(asked: Asked, name: str, value: Any, count: int) -> Array:
    """Give each example the same feature, of which there is one in memory."""
    found = _shaped(asked, name, value)
    shape = (count, *found.shape)
    asked.check(asked.spec(name), shape)
    return np.broadcast_to(found, shape)


def _shaped(asked: Asked, name: str, value: Any) -> Array:
    """Give a feature its input's shape: in `tf.Example` it is flat."""
    found, spec = asked.tensor(name, value), asked.inputs[name]
    if found.ndim > 1:
        return found
    try:
        return found.reshape(spec.shape[1:])
    except ValueError as error:
        reason = f"is given {found.size} values an example"
        raise RefusedError(Kind.INVALID, f"input {name}", reason, f"it takes {spec}") from error


def _labelled(asked: Asked) -> tuple[str, tuple[str, ...]]:
    """Return the output that the labels belong to, and the labels."""
    labels, outputs = asked.release.labels, asked.signature.lane.outputs
    subject, fix = f"model {asked.release.name!r}", "use :predict"
    if not labels:
        raise RefusedError(Kind.INVALID, subject, "has no labels", fix)
    fitting = [spec.name for spec in outputs if len(spec.shape) > 1 and prod(spec.shape[1:]) == len(labels)]
    if len(fitting) != 1:
        reason = f"has {len(fitting)} outputs that its {len(labels)} labels fit: {', '.join(map(str, outputs))}"
        raise RefusedError(Kind.INVALID, subject, reason, fix)
    return fitting[0], labels


def _ranked(labels: tuple[str, ...], output: str, scores: Array) -> list[list[Any]]:
    order = np.argsort(-scores.astype(np.float64), kind="stable")
    return [[labels[i], written(output, scores[i])] for i in order]


def _pictures(asked: Asked, examples: Examples) -> list[bytes] | None:
    """Return the pictures that the examples are; None where they are something else."""
    if not asked.takes_pictures:
        return None
    (name,) = asked.inputs
    common = binary(examples.common.get(name))
    found = [binary(example[name]) if name in example else common for example in examples.each]
    pictures = [picture for picture in found if picture is not None]
    return pictures if len(pictures) == len(found) else None


Verb = Callable[[Asked, Body], Answering]
"""Reads a request."""

VERBS: Mapping[str, Verb] = MappingProxyType({"predict": predict, "classify": classify, "regress": regress})
"""What may stand behind the colon of a path."""
