"""Pictures in, names of classes out, on both engines: what is told is done, what is not told is said."""

from __future__ import annotations

import io
import json
import sys
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest

from edgeferry_runtime import ModelPool, load
from edgeferry_runtime.classification import Prediction
from edgeferry_runtime.errors import DataError, MissingExtraError, MissingFileError, UsageError
from edgeferry_runtime.preprocess import Preprocess

BOTH = pytest.mark.parametrize("suffix", ["tflite", "onnx"])
LABELS = ("red", "green", "blue")
PLAIN = Preprocess()
RED = np.zeros((2, 2, 3), np.uint8) + np.uint8([200, 30, 30])
Make = Callable[..., Path]


@pytest.fixture
def picture_model(tiny, tmp_path: Path) -> Make:
    """A model that answers with the mean of each channel, described as the converter does it."""
    described = pytest.importorskip("edgeferry_converter.metadata")

    def make(suffix: str, labels=LABELS, preprocess: Preprocess | None = PLAIN, ending: str = "") -> Path:
        pytest.importorskip("onnx" if suffix == "onnx" else "ai_edge_litert.schema_py_generated")
        path = tmp_path / f"colors.{suffix}"
        path.write_bytes(getattr(tiny, f"{suffix}_colors")(ending))
        described.describe(path, described.Description("colors", "", labels, preprocess))
        return path

    return make


@BOTH
def test_the_metadata_of_the_converter_is_enough(picture_model: Make, suffix: str) -> None:
    with load(picture_model(suffix, ending="softmax")) as model:
        best = model.classify(RED)
        assert [p.label for p in best] == ["red", "green", "blue"]
        assert [p.index for p in best] == [0, 1, 2]
        assert best[0].score == pytest.approx(1)
        assert sum(p.score for p in best) == pytest.approx(1)
        assert best[1].score == best[2].score
        assert model.classify(RED, top=1) == best[:1]
        assert "probabilities" in model.classifier().scores.because


@BOTH
def test_a_pool_names_a_stream_of_pictures(picture_model: Make, suffix: str) -> None:
    turned = [np.roll(RED, i, 2) for i in range(9)]
    with ModelPool(picture_model(suffix, ending="softmax"), 2) as pool:
        assert [best[0].index for best in pool.classify_all(turned, top=1)] == [0, 1, 2] * 3
        assert pool.classify(RED, 1)[0].label == "red"
        with pytest.raises(DataError, match="holds no pixels"):
            list(pool.classify_all([RED, RED.astype(np.float32)]))


@BOTH
def test_preprocessing_is_done_and_logits_become_probabilities(picture_model: Make, suffix: str) -> None:
    scaled = Preprocess(scale=1 / 255, mean=(0.5,), std=(0.5,))
    with load(picture_model(suffix, preprocess=scaled, ending="linear")) as model:
        assert "logits" in model.classifier().scores.because
        logits = np.array([200, 30, 30]) / 127.5 - 1
        wanted = np.exp(logits) / np.exp(logits).sum()
        np.testing.assert_allclose([p.score for p in model.classify(RED)], wanted, rtol=1e-5)


@BOTH
def test_a_picture_may_be_a_file_its_bytes_or_pixels_of_any_size(picture_model: Make, suffix: str, tmp_path) -> None:
    image = pytest.importorskip("PIL.Image")
    with load(picture_model(suffix, ending="softmax")) as model:
        large = np.repeat(np.repeat(RED, 9, 0), 5, 1)
        path = tmp_path / "red.png"
        image.fromarray(large).save(path)
        stream = io.BytesIO()
        image.fromarray(large).save(stream, "PNG")
        wanted = model.classify(RED)
        for shown in (path, str(path), stream.getvalue(), large):
            assert model.classify(shown) == wanted
        with pytest.raises(MissingFileError):
            model.classify(tmp_path / "none.png")
        with pytest.raises(DataError, match="holds no pixels"):
            model.classify(RED.astype(np.float32))
        with pytest.raises(UsageError, match="top"):
            model.classify(RED, top=0)


@BOTH
def test_without_pillow_only_pixels_that_fit_go_in(picture_model: Make, suffix: str, monkeypatch) -> None:
    with load(picture_model(suffix, ending="softmax")) as model:
        monkeypatch.setitem(sys.modules, "PIL", None)
        assert model.classify(RED)[0].label == "red"
        with pytest.raises(MissingExtraError, match=r"edgeferry\[images\]"):
            model.classify("cat.jpg")


@BOTH
def test_what_is_not_told_is_said_with_the_way_out(picture_model: Make, suffix: str) -> None:
    said = r"colors\.\w+: does not say how a picture becomes its input.*classifier="
    with load(picture_model(suffix, preprocess=None)) as model, pytest.raises(DataError, match=said):
        model.classify(RED)
    with load(picture_model(suffix, labels=())) as model:
        with pytest.raises(DataError, match="does not say what its classes are called"):
            model.classify(RED)
        with pytest.raises(DataError, match="0 outputs that 2 labels fit"):
            model.classifier(labels=["a", "b"])
    with load(picture_model(suffix)) as model:
        with pytest.raises(DataError, match="does not tell whether y holds probabilities or logits"):
            model.classify(RED)
        told = model.classifier(logits=False, labels=["a", "b", "c"])
        assert "the caller says so" in told.scores.because
        assert model.classify(RED, 1, classifier=told) == [Prediction("a", 200.0, 0)]
        with pytest.raises(DataError, match="is not one picture"):
            model.classifier(preprocess=Preprocess(layout="NCHW"))


@BOTH
def test_a_model_without_a_picture(artifacts, suffix: str) -> None:
    with load(artifacts[f"double.{suffix}"]) as model:
        with pytest.raises(DataError, match="does not say how a picture"):
            model.classify(RED)
        with pytest.raises(DataError, match=r"takes x float32\[1x4\], which is not one picture"):
            model.classifier(preprocess=PLAIN, labels=list("abcd"), logits=True)


@BOTH
def test_a_bundle_knows_by_its_manifest(make_bundle, tiny, tmp_path: Path, suffix: str) -> None:
    path = tmp_path / f"colors.{suffix}"
    path.write_bytes(getattr(tiny, f"{suffix}_colors")("softmax"))
    with make_bundle(path, labels=LABELS, preprocess=Preprocess(color="bgr")).load() as model:
        assert model.classify(RED)[0] == Prediction("blue", pytest.approx(1), 2)


def test_the_words_of_other_tools_in_onnx(tiny, tmp_path: Path) -> None:
    def classify(**props: str) -> list[Prediction]:
        path = tmp_path / "model.onnx"
        told = {key.replace("_", ".", 1): value for key, value in props.items()}
        path.write_bytes(tiny.onnx_colors("softmax", told))
        with load(path) as loaded:
            return loaded.classify(RED, top=1)

    names = "{0: 'rot', 1: 'grün', 2: 'blau'}"
    pixels = {"Image_BitmapPixelFormat": "Bgr8", "Image_NominalPixelRange": "NominalRange_0_255"}
    assert classify(names=names, **pixels)[0].label == "blau"
    pixels["Image_NominalPixelRange"] = "Normalized_0_1"
    assert classify(names=names, **pixels)[0].score == pytest.approx(0.4934, abs=1e-3)
    for bad in ("{0: 'a'", "{0: 'a', 2: 'b'}", "{0: __import__('os')}", "{}", "{0, 1}", "{[]: 1}"):
        with pytest.raises(DataError, match="classes are called"):
            classify(names=bad, **pixels)
    for bad in ('{"resize": 3}', '{"layout": "x"}', "{", "[]"):
        with pytest.raises(DataError, match="cannot be read"):
            classify(names=names, preprocessing=bad)
    with pytest.raises(DataError, match="does not say how a picture"):
        classify(names=names, **{**pixels, "Image_NominalPixelRange": "NominalRange_16_235"})
    with pytest.raises(DataError, match="not one picture"):
        classify(names=names, preprocessing=json.dumps(Preprocess(color="gray").to_dict()))


@BOTH
def test_metadata_that_contradicts_the_input_is_said(picture_model: Make, suffix: str) -> None:
    with load(picture_model(suffix, preprocess=Preprocess(resize=(2**31, 2**31)), ending="softmax")) as model:
        with pytest.raises(DataError, match=r"resize pictures to 2147483648x2147483648, and takes x"):
            model.classify(RED)
        small = model.classifier(preprocess=Preprocess(resize=(2, 2)))
        assert model.classify(np.repeat(RED, 3, 0), 1, classifier=small)[0].label == "red"


def test_equal_scores_keep_the_order_of_the_classes(picture_model: Make) -> None:
    with load(picture_model("onnx", ending="softmax")) as model:
        gray = np.full((2, 2, 3), 9, np.uint8)
        assert [p.index for p in model.classify(gray)] == [0, 1, 2]


@pytest.mark.zoo
@pytest.mark.parametrize("name", ["mobilenet_v1_0.25_128_quant", "mobilenet_v2_1.0_224_quant"])
def test_models_of_others_name_the_cat(zoo: Path, name: str) -> None:
    pytest.importorskip("PIL.Image")
    with load(zoo / "coral" / f"{name}.tflite") as model:
        best = model.classify(zoo / "coral" / "cat.bmp", top=5)
        assert len(best) == 5
        (cat,) = (p for p in best if p.index == 286)
        assert cat.label == "Egyptian cat"
        assert cat.score == best[0].score
        assert model.classifier().preprocess.resize == model.inputs[0].shape[1:3]


@pytest.mark.slow
@BOTH
def test_the_command_reads_the_metadata_of_a_bare_artifact(ferry, picture_model: Make, suffix: str, tmp_path) -> None:
    picture = tmp_path / "red.png"
    pytest.importorskip("PIL.Image").fromarray(np.tile(RED, (4, 5, 1))).save(picture)
    code, out, err = ferry("run", picture_model(suffix, ending="softmax"), "--input", picture, "--top", 1)
    assert (code, err) == (0, "")
    assert out.splitlines()[-1].split() == ["0", "1", "red"]
    code, _, err = ferry("run", picture_model(suffix, preprocess=None), "--input", f"x={picture}")
    assert code == 1
    assert "nothing says how pictures become this model's input" in err


@pytest.mark.zoo
def test_the_command_names_a_picture_by_what_another_wrote_into_the_file(ferry, zoo: Path) -> None:
    model, picture = zoo / "coral" / "mobilenet_v2_1.0_224_quant.tflite", zoo / "coral" / "cat.bmp"
    code, out, _ = ferry("run", model, "--input", picture, "--top", 2)
    assert code == 0
    assert "Egyptian cat" in out
    code, out, _ = ferry("run", model, "--input", picture, "--top", 1, "--raw")
    assert code == 0
    assert out.startswith("MobilenetV2/Predictions/Softmax  uint8[1x1001]")
