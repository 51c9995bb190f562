"""Trained networks to begin with, saved as their framework keeps them."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

from compression.data import Split
from edgeferry_converter.compress import Compressed, CompressRecipe, compress
from edgeferry_converter.compress.lessons import Lessons, predict
from edgeferry_converter.compress.network import Course, Network, Objective
from edgeferry_converter.compress.opening import open_network
from edgeferry_converter.compress.recipe import Train
from edgeferry_converter.quiet import quiet
from edgeferry_converter.sources import SourceSpec
from edgeferry_runtime import load

MODELS = Path(__file__).with_name("models.py")


@dataclass(frozen=True)
class Trained:
    """A trained model on disk.

    Attributes:
        source: What ``compress`` and ``convert`` take.
        train: Labelled samples to train on.
        test: Labelled samples to judge by.
        options: What the model's file does not say, such as the weights.
    """

    source: str
    train: Path
    test: Path
    options: Mapping[str, Any] = field(default_factory=dict)

    def compress(self, output: Path, step: Mapping[str, Any], seed: int) -> Compressed:
        """Carry out a recipe of one step."""
        recipe = CompressRecipe.from_dict({"step": [step], "seed": seed})
        done = compress(self.source, output, recipe, data=self.train, evaluate=self.test, **self.options)
        done.check()
        return done


def as_table(train: Train) -> dict[str, Any]:
    """Return how a step trains, in the form that a recipe has."""
    return {"epochs": train.epochs, "batch_size": train.batch_size, "learning_rate": train.rate}


def fit(network: Network, data: Split, train: Train, seed: int) -> Network:
    """Train a network from where it is, by the loop that compression uses."""
    lessons = Lessons({network.inputs[0].name: data.train_x}, data.train_y)
    probabilities = bool(np.allclose(_answers(network, data.test_x[:8]).sum(1), 1, atol=1e-4))
    objective = Objective("cross-entropy", network.outputs[0].name, probabilities=probabilities)
    trainer = network.trainer(Course(objective, train, train.epochs * len(lessons.in_order(train.batch_size)), seed))
    for epoch in range(train.epochs):
        trainer.epoch(lessons.shuffled(train.batch_size, seed, epoch), lambda step: None)
    return network


def score(network: Network, data: Split) -> float:
    """Return the percentage of the test samples that a network names right."""
    return float(100 * np.mean(_answers(network, data.test_x).argmax(1) == data.test_y))


def artifact_score(artifact: Path, data: Split) -> float:
    """Return the percentage of the test samples that an artifact names right, in its engine."""
    with load(artifact) as model:
        right = [np.argmax(model(x[None])) == y for x, y in zip(data.test_x, data.test_y, strict=True)]
    return float(100 * np.mean(right))


def _answers(network: Network, x: np.ndarray) -> np.ndarray:
    return predict(network, {network.inputs[0].name: x}, network.outputs[0].name)


def keras_network(seed: int, build: Callable[..., Any], *arguments: Any) -> Network:
    """Build a Keras model whose first weights depend on the seed alone."""
    from edgeferry_converter.compress.on_keras.network import KerasNetwork

    with quiet():
        import keras

        keras.utils.set_random_seed(seed)
        return KerasNetwork("model", build(*arguments))


def saved(network: Network, data: Split, folder: Path) -> Trained:
    """Save a Keras network with its data."""
    folder.mkdir(exist_ok=True)
    return Trained(str(network.save(folder)), *data.save(folder, network.inputs[0].name))


def torch_trained(data: Split, train: Train, seed: int, folder: Path) -> Trained:
    """Train `models.torch_cnn`, and save its weights with its data."""
    import torch
    from safetensors.torch import save_file

    torch.manual_seed(seed)
    source, shape = f"{MODELS}:torch_cnn", {"input": (-1, 1, 28, 28)}
    network: Any = open_network(SourceSpec.parse(source, None, shape))
    fit(network, data, train, seed)
    weights = folder / "weights.safetensors"
    save_file(network.module.state_dict(), weights)
    return Trained(source, *data.save(folder, "input"), {"weights": weights, "shape": shape})
