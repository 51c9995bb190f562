"""Damaged, dangerous and mistaken sources: one clear error each, and nothing executed."""

from __future__ import annotations

import io
import json
import pickle
import subprocess
import sys
import zipfile
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import pytest

from edgeferry_converter.quiet import quiet
from edgeferry_converter.sources import SourceSpec, open_source
from edgeferry_converter.sources.exported_archive import check_archive
from edgeferry_converter.sources.torch_weights import read_state
from edgeferry_runtime.errors import (
    ArtifactError,
    ConversionError,
    CorruptFileError,
    EdgeferryError,
    MissingFileError,
    UnknownFormatError,
    UnknownNameError,
    UnsafeFileError,
    UsageError,
)

if TYPE_CHECKING:
    from conftest import Lowered, TorchFactory

pytestmark = pytest.mark.slow


class Bomb:
    """Pickles to a call that leaves a mark on disk."""

    def __init__(self, mark: Path) -> None:
        self.mark = mark

    def __reduce__(self) -> tuple[Callable[..., object], tuple[object, ...]]:
        return Path.touch, (self.mark,)


def truncated(path: Path, folder: Path, keep: float) -> Path:
    content = path.read_bytes()
    copy = folder / path.name
    copy.write_bytes(content[: int(len(content) * keep)])
    return copy


@pytest.mark.parametrize("keep", [0.02, 0.5, 0.99])
@pytest.mark.parametrize("name", ["cnn.keras", "cnn.h5"])
def test_truncated_keras(keras_models: Path, tmp_path: Path, name: str, keep: float) -> None:
    with pytest.raises(CorruptFileError, match="truncated"):
        open_source(SourceSpec(truncated(keras_models / name, tmp_path, keep)))


@pytest.mark.parametrize("keep", [0.02, 0.5, 0.99])
def test_truncated_exported(exported: Path, tmp_path: Path, keep: float) -> None:
    with pytest.raises(CorruptFileError, match="truncated"):
        open_source(SourceSpec(truncated(exported, tmp_path, keep)))


@pytest.mark.parametrize("keep", [0.02, 0.5, 0.99])
@pytest.mark.parametrize("to", ["tflite", "onnx"])
def test_truncated_artifact(keras_lowered: Lowered, tmp_path: Path, to: str, keep: float) -> None:
    with pytest.raises(ArtifactError, match=r"model\."):
        open_source(SourceSpec(truncated(getattr(keras_lowered, to), tmp_path, keep)))


def test_truncated_savedmodel(savedmodel: Path, tmp_path: Path) -> None:
    truncated(savedmodel / "saved_model.pb", tmp_path, 0.5)
    with pytest.raises(CorruptFileError, match=r"saved_model\.pb is truncated"):
        open_source(SourceSpec(tmp_path))


def rewritten(path: Path, copy: Path, edit: Callable[[str, bytes], bytes | None], **extra: bytes) -> Path:
    """Copy a zip archive, its entries edited; None drops one."""
    with zipfile.ZipFile(path) as old, zipfile.ZipFile(copy, "w") as new:
        for name in old.namelist():
            content = edit(name, old.read(name))
            if content is not None:
                new.writestr(name, content)
        for name, content in extra.items():
            new.writestr(name, content)
    return copy


def test_keras_config_that_is_no_json(keras_cnn: Path, tmp_path: Path) -> None:
    path = rewritten(keras_cnn, tmp_path / "a.keras", lambda n, c: b"{" if n == "config.json" else c)
    with pytest.raises(CorruptFileError, match=r"its config\.json cannot be read"):
        open_source(SourceSpec(path))


def test_keras_config_of_no_model(keras_cnn: Path, tmp_path: Path) -> None:
    path = rewritten(keras_cnn, tmp_path / "a.keras", lambda n, c: b"{}" if n == "config.json" else c)
    with pytest.raises(ArtifactError, match="Keras could not load it"):
        open_source(SourceSpec(path))


def lambda_model(path: Path) -> Path:
    with quiet():
        import keras

        model = keras.Sequential([keras.Input((4,)), keras.layers.Lambda(lambda x: x * 2)])
        model.save(path)
    return path


@pytest.mark.parametrize("suffix", [".keras", ".h5"])
def test_lambda_layers_are_code(tmp_path: Path, suffix: str) -> None:
    path = lambda_model(tmp_path / f"lambda{suffix}")
    with pytest.raises(UnsafeFileError, match="Lambda layer: loading it could execute code"):
        open_source(SourceSpec(path))


@pytest.mark.parametrize(
    ("part", "words"),
    [
        ({"class_name": "TFOpLambda", "config": {"function": "io.write_file"}}, "function io.write_file"),
        ({"class_name": "system", "module": "os", "config": "system"}, "Python module os"),
    ],
)
def test_configs_that_reach_outside_keras(keras_cnn: Path, tmp_path: Path, part: object, words: str) -> None:
    config = json.dumps({"class_name": "Functional", "config": {"layers": [part]}}).encode()
    path = rewritten(keras_cnn, tmp_path / "a.keras", lambda n, c: config if n == "config.json" else c)
    with pytest.raises(UnsafeFileError, match=words):
        open_source(SourceSpec(path))


def test_h5_of_weights_only(tmp_path: Path) -> None:
    import h5py

    with h5py.File(tmp_path / "weights.h5", "w") as file:
        file["kernel"] = np.ones(3)
    with pytest.raises(UnknownFormatError, match="holds no Keras model"):
        open_source(SourceSpec(tmp_path / "weights.h5"))


def test_exported_with_a_bomb_among_its_inputs(exported: Path, tmp_path: Path) -> None:
    with quiet():
        import torch

        bomb = io.BytesIO()
        torch.save(Bomb(tmp_path / "mark"), bomb)
    path = rewritten(exported, tmp_path / "a.pt2", lambda n, c: bomb.getvalue() if n.endswith(".pt") else c)
    with pytest.raises(UnsafeFileError, match="carries a pickle that could execute code"):
        open_source(SourceSpec(path))
    assert not (tmp_path / "mark").exists()


@pytest.mark.parametrize(
    ("entry", "content", "words"),
    [
        ("two/data/weights/model_weights_config.json", {"config": {"w": {"use_pickle": True}}}, "pickled tensors"),
        ("two/models/model.json", {"expr_str": "__import__('os').system('true')"}, "size expression"),
        ("two/models/model.json", {"target": "torch.os.system"}, "a function that is no operator"),
        ("two/models/model.json", {"target": "torch.ops.aten.relu.__globals__"}, "a function that is no operator"),
        ("two/models/model.json", {"target": "_operator.attrgetter"}, "a function that is no operator"),
        ("two/models/model.json", {"name": "x=print(1)"}, "has a name that is none"),
        ("two/models/model.json", {"forward_arg_names": ["x", "y=f()"]}, "has a name that is none"),
        ("two/models/model.json", {"in_spec": '{"context": "[a=f()]"}'}, "an input structure that is none"),
        ("two/data/constants/model_constants_config.json", {"path_name": "opaque_obj_0"}, "carries a pickled object"),
        ("two/models/model.json", {"expr_str": "lambdify('x')"}, "size expression"),
        ("two/models/model.json", {"expr_str": "Symbol.mro()"}, "size expression"),
        ("two/models/model.json", {"expr_str": "(Symbol)('s')"}, "size expression"),
    ],
)
def test_exported_that_would_execute(exported: Path, tmp_path: Path, entry: str, content: object, words: str) -> None:
    text = json.dumps(content).encode()
    path = rewritten(exported, tmp_path / "a.pt2", lambda n, c: text if n == entry else c)
    with pytest.raises(UnsafeFileError, match=words):
        open_source(SourceSpec(path))


@pytest.mark.parametrize("entry", ["m/data/aotinductor/x/a.cpp", "m/x.so"])
def test_exported_with_code(exported: Path, tmp_path: Path, entry: str) -> None:
    path = rewritten(exported, tmp_path / "a.pt2", lambda n, c: c, **{entry: b"x"})
    with pytest.raises(UnsafeFileError, match="carries"):
        check_archive(path)


def test_exported_with_two_entries_of_one_name(exported: Path, tmp_path: Path) -> None:
    path = rewritten(exported, tmp_path / "a.pt2", lambda n, c: c, **{"two/models/MODEL.json": b"{}"})
    with pytest.raises(CorruptFileError, match="several entries of one name"):
        check_archive(path)


def test_exported_that_lacks_its_program(exported: Path, tmp_path: Path) -> None:
    path = rewritten(exported, tmp_path / "a.pt2", lambda n, c: None if n.endswith("/model.json") else c)
    with pytest.raises(ArtifactError):
        open_source(SourceSpec(path))


def test_weights_that_are_a_plain_pickle(tmp_path: Path) -> None:
    path = tmp_path / "w.pt"
    path.write_bytes(pickle.dumps(Bomb(tmp_path / "mark")))
    with pytest.raises(UnsafeFileError, match="more than weights"):
        read_state(path)
    assert not (tmp_path / "mark").exists()


def test_weights_that_are_a_whole_module(tmp_path: Path) -> None:
    import torch

    torch.save(torch.nn.Linear(2, 2), tmp_path / "w.pth")
    with pytest.raises(UnsafeFileError, match=r"state_dict\(\)"):
        read_state(tmp_path / "w.pth")


@pytest.mark.parametrize("keep", [0.01, 0.5, 0.95])
@pytest.mark.parametrize("kind", ["pt", "safetensors"])
def test_truncated_weights(torch_factory: TorchFactory, tmp_path: Path, kind: str, keep: float) -> None:
    with pytest.raises((CorruptFileError, UnknownFormatError), match=r"truncated|neither"):
        read_state(truncated(getattr(torch_factory, kind), tmp_path, keep))


def test_truncated_weights_of_the_old_kind(tmp_path: Path) -> None:
    import torch

    torch.save({"w": torch.rand(100)}, tmp_path / "old.th", _use_new_zipfile_serialization=False)
    for keep in (0.3, 0.7, 0.99):
        with pytest.raises(ArtifactError, match=r"old\.th"):
            (tmp_path / "cut").mkdir(exist_ok=True)
            read_state(truncated(tmp_path / "old.th", tmp_path / "cut", keep))


@pytest.mark.parametrize(
    ("content", "error"), [("{'w': 1}", UnknownFormatError), ("", UnknownFormatError)], ids=["text", "empty"]
)
def test_weights_of_no_known_kind(tmp_path: Path, content: str, error: type[EdgeferryError]) -> None:
    (tmp_path / "w.pt").write_text(content)
    with pytest.raises(error, match="neither PyTorch nor safetensors"):
        read_state(tmp_path / "w.pt")


def factory_error(torch_factory: TorchFactory, name: str, weights: Path | None = None) -> EdgeferryError:
    with pytest.raises(EdgeferryError) as caught:
        open_source(SourceSpec(torch_factory.file, name, weights, torch_factory.shapes))
    assert "\n" not in str(caught.value)
    return caught.value


def test_factory_mistakes(torch_factory: TorchFactory, tmp_path: Path) -> None:
    unknown = factory_error(torch_factory, "Nett")
    assert isinstance(unknown, UnknownNameError)
    assert "did you mean 'Net'?" in str(unknown)
    raised = factory_error(torch_factory, "broken")
    assert isinstance(raised, ArtifactError)
    assert "ZeroDivisionError: no model today" in str(raised)
    assert "SystemExit" in str(factory_error(torch_factory, "exits"))
    assert "returned list, not an nn.Module" in str(factory_error(torch_factory, "no_module"))
    assert "its output_1_0 is int, not a tensor" in str(factory_error(torch_factory, "lists"))
    assert isinstance(factory_error(torch_factory, "Net", tmp_path / "none.pt"), MissingFileError)
    assert not (torch_factory.file.parent / "__pycache__").exists()


def test_python_file_that_does_not_parse(tmp_path: Path) -> None:
    (tmp_path / "bad.py").write_text("def make(:\n")
    with pytest.raises(ArtifactError, match=r"the factory failed .SyntaxError"):
        open_source(SourceSpec(tmp_path / "bad.py", "make"))


def test_weights_of_another_module(torch_factory: TorchFactory) -> None:
    with pytest.raises(ArtifactError, match=r"lacks net\.conv\.bias.* and 5 more and has unknown conv\.bias"):
        open_source(SourceSpec(torch_factory.file, "with_examples", torch_factory.pt))


def test_weights_of_other_shapes(torch_factory: TorchFactory, tmp_path: Path) -> None:
    import torch

    state = torch.load(torch_factory.pt, weights_only=True)
    state["dense.bias"] = torch.zeros(11)
    torch.save(state, tmp_path / "w.pt")
    with pytest.raises(ArtifactError, match=r"has other shapes for dense\.bias"):
        open_source(SourceSpec(torch_factory.file, "Net", tmp_path / "w.pt", torch_factory.shapes))


@pytest.mark.parametrize(
    ("shapes", "error", "words"),
    [
        ({}, UsageError, "shape of the input 'image' is unknown; give --shape image="),
        ({"picture": (1, 1, 8, 8)}, UnknownNameError, "valid are image"),
        ({"image": (1, 1, -1, 8)}, UsageError, "only a batch may be -1"),
        ({"image": (1, 3, 8, 8)}, ConversionError, "check --shape against the module"),
    ],
)
def test_factory_shapes(
    torch_factory: TorchFactory, shapes: dict[str, tuple[int, ...]], error: type[EdgeferryError], words: str
) -> None:
    with pytest.raises(error, match=words):
        open_source(SourceSpec(torch_factory.file, "Net", None, shapes))


def test_keras_shape_that_does_not_fit(keras_cnn: Path) -> None:
    with pytest.raises(UsageError, match=r"\[1, 9, 9, 1\] does not fit the input image"):
        open_source(SourceSpec(keras_cnn, shapes={"image": (1, 9, 9, 1)}))


def test_shapes_of_files_that_fix_them(exported: Path) -> None:
    with pytest.raises(UsageError, match="keeps the shapes of its file"):
        open_source(SourceSpec(exported, shapes={"image": (1, 1, 8, 8)}))


BLOCKED = """
import sys
sys.modules.update(dict.fromkeys({blocked!r}))
from pathlib import Path
from edgeferry_converter.sources import SourceSpec, open_source
from edgeferry_runtime.errors import MissingExtraError
try:
    source = open_source(SourceSpec.parse({text!r}))
    source.lower(source.lowers_to[0], Path({out!r}))
except MissingExtraError as error:
    print(error)
"""


def without(blocked: tuple[str, ...], text: object, out: Path) -> str:
    """Open and lower a source in a Python that lacks some packages; return what it says."""
    code = BLOCKED.format(blocked=blocked, text=str(text), out=str(out))
    return subprocess.run([sys.executable, "-c", code], check=True, capture_output=True, text=True).stdout


def test_missing_extras_name_the_install_line(keras_cnn: Path, exported: Path, tmp_path: Path) -> None:
    out = tmp_path / "model"
    assert "pip install 'edgeferry[keras]'" in without(("tensorflow",), keras_cnn, out)
    assert "pip install 'edgeferry[keras]'" in without(("keras",), keras_cnn, out)
    assert "pip install 'edgeferry[torch]'" in without(("torch",), exported, out)
    assert "needs litert_torch" in without(("litert_torch",), exported, out)
    assert not out.exists()


def test_artifacts_need_no_training_framework(keras_lowered: Lowered, tmp_path: Path) -> None:
    frameworks = ("tensorflow", "keras", "tf_keras", "torch", "litert_torch", "tf2onnx", "jax")
    for path in keras_lowered:
        out = tmp_path / path.name
        assert without(frameworks, path, out) == ""
        assert out.stat().st_size > 1000


def test_pytorch_needs_no_tensorflow(exported: Path, tmp_path: Path) -> None:
    out = tmp_path / "model.tflite"
    assert without(("tensorflow", "keras", "tf_keras", "tf2onnx"), exported, out) == ""
    assert out.stat().st_size > 1000
