"""Keras and SavedModel sources: names, shapes, old files, and an untouched source."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

import edgeferry_runtime
from edgeferry_converter.quiet import quiet
from edgeferry_converter.sources import Source, SourceSpec, open_source
from edgeferry_converter.sources.keras import _code_in
from edgeferry_runtime.artifact_files import sha256_file
from edgeferry_runtime.errors import ArtifactError, ConversionError, UnknownNameError, UnsafeFileError
from edgeferry_runtime.numerics import compare_output

pytestmark = pytest.mark.slow


def test_source_of_a_keras_file(keras_source: Source, keras_cnn: Path) -> None:
    assert (keras_source.path, keras_source.format) == (keras_cnn, "keras")
    assert keras_source.framework.startswith("keras 3.")
    assert [str(t) for t in keras_source.inputs] == ["image float32[?x8x8x1]"]
    assert [str(t) for t in keras_source.outputs] == ["digit float32[?x10]"]
    assert {"tensorflow", "keras"} <= set(keras_source.tools)


def test_order_and_odd_names_are_the_models(keras_two: Path) -> None:
    source = open_source(SourceSpec(keras_two))
    assert [str(t) for t in source.inputs] == ["z image float32[?x8x8x1]", "meta.data float32[?x3]"]
    assert [str(t) for t in source.outputs] == ["scores float32[?x10]", "area float32[?x1]"]


def test_all_formats_of_one_model_agree(keras_models: Path) -> None:
    x = np.random.default_rng(1).random((2, 8, 8, 1), dtype=np.float32)
    answers = []
    for name in ("cnn.keras", "cnn.h5", "savedmodel"):
        source = open_source(SourceSpec(keras_models / name))
        (answer,) = source.run({source.inputs[0].name: x}).values()
        answers.append(answer)
    assert answers[0].shape == (2, 10)
    np.testing.assert_allclose(answers[1], answers[0], atol=1e-6)
    np.testing.assert_allclose(answers[2], answers[0], atol=1e-6)


def test_shape_pins_the_batch(keras_cnn: Path, tmp_path: Path) -> None:
    source = open_source(SourceSpec(keras_cnn, shapes={"image": (4, 8, 8, 1)}))
    assert source.outputs[0].shape == (4, 10)
    for to in source.lowers_to:
        source.lower(to, tmp_path / to)
        assert edgeferry_runtime.load(tmp_path / to).inputs[0].shape == (4, 8, 8, 1)


def test_unknown_shape_name(keras_cnn: Path) -> None:
    with pytest.raises(UnknownNameError, match="did you mean 'image'"):
        open_source(SourceSpec(keras_cnn, shapes={"imag": (1, 8, 8, 1)}))


def test_the_source_is_never_changed(keras_models: Path, tmp_path: Path) -> None:
    files = [p for p in sorted(keras_models.rglob("*")) if p.is_file()]
    before = [sha256_file(p) for p in files]
    for name in ("cnn.h5", "savedmodel"):
        open_source(SourceSpec(keras_models / name)).lower("tflite", tmp_path / "m.tflite")
    assert [p for p in sorted(keras_models.rglob("*")) if p.is_file()] == files
    assert [sha256_file(p) for p in files] == before


@pytest.fixture(scope="module")
def keras2(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A model with a TensorFlow function as a layer, as Keras 2 wrote it: old.h5, saved/, and dangerous.h5."""
    folder = tmp_path_factory.mktemp("keras2")
    with quiet():
        import tensorflow as tf
        import tf_keras

        x = tf_keras.Input((6,), name="features")
        model = tf_keras.Model(x, tf_keras.layers.Dense(3, name="scores")(tf.nn.relu(x) * 2.0))
        model.compile("adam", "mse")
        model.fit(np.ones((8, 6)), np.ones((8, 3)), verbose=0)
        model.save(folder / "old.h5")
        model.save(folder / "saved")
        dangerous = tf_keras.Model(x, tf_keras.layers.Dense(3)(tf.strings.to_number(tf.strings.as_string(x))))
        dangerous.save(folder / "dangerous.h5")
    return folder


@pytest.mark.parametrize("name", ["old.h5", "saved"])
def test_files_of_keras_2(keras2: Path, tmp_path: Path, name: str) -> None:
    source = open_source(SourceSpec(keras2 / name))
    assert source.framework.split()[0] == {"old.h5": "tf_keras", "saved": "tensorflow"}[name]
    assert [t.name for t in (*source.inputs, *source.outputs)] == ["features", "scores"]
    x = np.random.default_rng(0).standard_normal((1, 6)).astype(np.float32)
    expected = source.run({"features": x})["scores"]
    for to in source.lowers_to:
        source.lower(to, tmp_path / to)
        actual = edgeferry_runtime.load(tmp_path / to).run({"features": x})["scores"]
        assert compare_output("scores", expected, actual).snr_db > 60


def test_functions_that_may_do_more_than_compute_are_refused(keras2: Path) -> None:
    with pytest.raises(ArtifactError, match=r"the TensorFlow function strings\."):
        open_source(SourceSpec(keras2 / "dangerous.h5"))


def test_signatures_of_a_saved_model(tmp_path: Path) -> None:
    with quiet():
        import tensorflow as tf

        module = tf.Module()
        spec = tf.TensorSpec([None, 2], tf.float32, name="x")
        module.twice = tf.function(lambda x: {"y": 2 * x}, input_signature=[spec])
        module.thrice = tf.function(lambda x: {"y": 3 * x}, input_signature=[spec])
        tf.saved_model.save(module, tmp_path / "one", signatures={"twice": module.twice})
        tf.saved_model.save(module, tmp_path / "none")
        tf.saved_model.save(module, tmp_path / "two", signatures={"a": module.twice, "b": module.thrice})
    source = open_source(SourceSpec(tmp_path / "one"))
    assert source.run({"x": np.ones((1, 2), np.float32)})["y"].tolist() == [[2, 2]]
    with pytest.raises(ArtifactError, match="has no signature"):
        open_source(SourceSpec(tmp_path / "none"))
    assert list(open_source(SourceSpec(tmp_path / "two")).signatures) == ["a", "b"]
    with pytest.raises(ArtifactError, match="its signatures are a, b, and --to onnx takes one"):
        open_source(SourceSpec(tmp_path / "two", one_signature=True))


def test_graphs_that_write_files_are_refused(tmp_path: Path) -> None:
    with quiet():
        import tensorflow as tf

        @tf.function(input_signature=[tf.TensorSpec([1], tf.float32, name="x")])
        def spy(x: object) -> dict[str, object]:
            tf.io.write_file(str(tmp_path / "mark"), "seen")
            return {"y": x}

        module = tf.Module()
        module.spy = spy
        tf.saved_model.save(module, tmp_path / "spy", signatures=spy)
    with pytest.raises(UnsafeFileError, match=r"reads or writes files when it runs .WriteFile"):
        open_source(SourceSpec(tmp_path / "spy"))
    assert not (tmp_path / "mark").exists()


@pytest.mark.parametrize(
    ("function", "refused"),
    [
        ("math.add", False),
        ("reshape", False),
        ("compat.v1.gather", False),
        ("__operators__.getitem", False),
        ("compat.v1.write_file", True),
        ("io.write_file", True),
        ("py_function", True),
        ("raw_ops.WriteFile", True),
    ],
)
def test_which_functions_a_layer_may_call(function: str, refused: bool) -> None:
    layer = {"class_name": "TFOpLambda", "config": {"function": function}}
    assert bool(_code_in(layer)) is refused


def test_dicts_of_inputs_and_outputs(tmp_path: Path) -> None:
    with quiet():
        import keras

        keras.utils.set_random_seed(0)
        ins = {"b": keras.Input((2,), name="b"), "a": keras.Input((3,), name="a")}
        outs = {"y": keras.layers.Dense(1, name="y")(ins["b"]), "x": keras.layers.Dense(4, name="x")(ins["a"])}
        keras.Model(ins, outs).save(tmp_path / "dicts.keras")
    source = open_source(SourceSpec(tmp_path / "dicts.keras"))
    assert {str(t) for t in source.inputs} == {"a float32[?x3]", "b float32[?x2]"}
    assert {str(t) for t in source.outputs} == {"x float32[?x4]", "y float32[?x1]"}
    feeds = {"a": np.ones((1, 3), np.float32), "b": np.ones((1, 2), np.float32)}
    source.lower("tflite", tmp_path / "m.tflite")
    answer = edgeferry_runtime.load(tmp_path / "m.tflite").run(feeds)
    for name, expected in source.run(feeds).items():
        np.testing.assert_allclose(answer[name], expected, rtol=1e-5, atol=1e-6)


def test_sequential_models_are_named_by_their_ends(tmp_path: Path) -> None:
    with quiet():
        import keras

        layers = [keras.Input((4,), name="features"), keras.layers.Dense(2, name="scores")]
        keras.Sequential(layers).save(tmp_path / "s.keras")
    source = open_source(SourceSpec(tmp_path / "s.keras"))
    assert [t.name for t in (*source.inputs, *source.outputs)] == ["features", "scores"]


def test_operators_that_tflite_lacks_are_named(tmp_path: Path) -> None:
    with quiet():
        import keras

        x = keras.Input((8,))
        keras.Model(x, keras.ops.erfinv(x)).save(tmp_path / "erf.keras")
    source = open_source(SourceSpec(tmp_path / "erf.keras"))
    with pytest.raises(ConversionError, match=r"no operator for tf\.Erfinv \(in .*/erfinv(_\d+)?\); take --to onnx"):
        source.lower("tflite", tmp_path / "m.tflite")
    assert not (tmp_path / "m.tflite").exists()
