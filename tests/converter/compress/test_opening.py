"""Opening trained models for training."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from edgeferry_converter.compress.opening import open_network
from edgeferry_converter.quiet import quiet
from edgeferry_converter.sources import SourceSpec
from edgeferry_runtime.errors import ArtifactError, UnknownFormatError

pytestmark = pytest.mark.slow


def test_keras_files_open_with_their_names(keras_cnn: Path, keras_h5: Path) -> None:
    for path in (keras_cnn, keras_h5):
        network = open_network(SourceSpec.parse(str(path)))
        assert [spec.name for spec in (*network.inputs, *network.outputs)] == ["image", "digit"]
        assert [weight.kind for weight in network.weights()] == ["convolution", "depthwise", "dense", "dense"]


def test_a_factory_opens_with_its_weights(torch_factory) -> None:
    spec = SourceSpec.parse(torch_factory.text, torch_factory.pt, torch_factory.shapes)
    network = open_network(spec)
    import torch

    stored = torch.load(torch_factory.pt, weights_only=True)
    np.testing.assert_array_equal(network.read("conv.weight"), stored["conv.weight"].numpy())


def test_what_runs_but_does_not_train_is_refused(savedmodel: Path) -> None:
    with pytest.raises(UnknownFormatError, match="keeps what runs but not what trains"):
        open_network(SourceSpec.parse(str(savedmodel)))


def test_a_file_that_only_keras_2_reads_is_refused_with_the_way_out(tmp_path: Path) -> None:
    with quiet():
        import tensorflow as tf
        import tf_keras

        x = tf_keras.Input((6,), name="features")
        tf_keras.Model(x, tf_keras.layers.Dense(3)(tf.nn.relu(x) * 2.0)).save(tmp_path / "old.h5", save_format="h5")
    with pytest.raises(ArtifactError, match="can be read by Keras 2 alone, which Keras 3 cannot train; load it"):
        open_network(SourceSpec.parse(str(tmp_path / "old.h5")))
