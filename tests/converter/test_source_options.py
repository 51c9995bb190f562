"""What ``ferry verify`` tells a source besides its path: the same as ``ferry convert``."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path
from typing import Any, NamedTuple

import click
import pytest

from edgeferry_converter.commands.convert import convert
from edgeferry_converter.commands.source_options import OPTIONS, read_tables
from edgeferry_converter.commands.verify import verify as command
from edgeferry_converter.comparison import Options, verify
from edgeferry_converter.quiet import quiet
from edgeferry_converter.recipe import Recipe
from edgeferry_runtime.errors import EdgeferryError, UnknownNameError, UsageError

MODELS = Path(__file__).parent / "models"

LAYERS = '''
import keras


@keras.saving.register_keras_serializable(package="tests")
class Twice(keras.layers.Layer):
    """Doubles."""

    def call(self, inputs):
        return inputs * 2
'''


def test_both_commands_have_the_same_options() -> None:
    def plain(one: click.Command) -> dict[str, dict[str, Any]]:
        return {p.name or "": p.to_info_dict() for p in one.params}

    @click.command()
    def empty() -> None:
        """Do nothing."""

    for option in OPTIONS:
        option(empty)
    shared = plain(empty).keys() - {"help"}
    assert {"weights", "weights_key", "custom_objects", "submodule", "constant", "shape"} == shared
    assert {key: plain(convert)[key] for key in shared} == {key: plain(command)[key] for key in shared}


def test_tables_are_read_by_input_name() -> None:
    flags = {"shape": ("a=1,2", "b=3"), "constant": ("sr=16000",), "seed": 1}
    assert read_tables(flags) == {"shape": {"a": (1, 2), "b": (3,)}, "constant": {"sr": 16000}}
    assert flags == {"seed": 1}


def test_a_recipe_keeps_constants_and_refuses_what_is_no_number(tmp_path: Path) -> None:
    recipe = Recipe(constant={"sr": 16000, "gain": 0.5, "loud": True}, submodule="part")
    (tmp_path / "r.toml").write_text(recipe.to_toml())
    assert Recipe.from_file(tmp_path / "r.toml") == recipe
    for value in ("fast", None, float("nan"), [1]):
        with pytest.raises(UsageError, match="--constant sr"):
            Recipe(constant={"sr": value})  # type: ignore[dict-item]
    with pytest.raises(UsageError, match="--submodule"):
        Recipe(submodule="")


@pytest.mark.parametrize(
    ("options", "words"),
    [
        (
            Options(weights_key="ema"),
            r"--weights-key: is for FILE\.py:FACTORY with --weights, and these are onnx and tflite",
        ),
        (Options(custom_objects=Path("a.py:B")), "--custom-objects: is for Keras files"),
        (Options(submodule="part"), "--submodule: is for TorchScript"),
    ],
)
def test_an_option_that_neither_side_has_use_for_is_refused(options: Options, words: str) -> None:
    with pytest.raises(UsageError, match=words):
        verify(str(MODELS / "digits.onnx"), str(MODELS / "digits.tflite"), options)


def test_a_constant_of_no_input_is_refused() -> None:
    with pytest.raises(UnknownNameError, match="--constant: unknown name 'rate'"):
        verify(str(MODELS / "digits.onnx"), str(MODELS / "digits.tflite"), Options(constant={"rate": 3}))


@pytest.mark.slow
def test_weights_below_a_key(torch_factory: NamedTuple, torch_lowered: NamedTuple, tmp_path: Path) -> None:
    with quiet():
        import torch

        state = torch.load(torch_factory.pt, weights_only=True)  # type: ignore[attr-defined]
        other = {name: tensor * 2 for name, tensor in state.items()}
        torch.save({"now": other, "best": {"model": state}}, tmp_path / "checkpoint.pt")
    shape, artifact = torch_factory.shapes, str(torch_lowered[1])  # type: ignore[attr-defined]
    options = Options(weights=tmp_path / "checkpoint.pt", weights_key="best.model", shape=shape, samples=4)
    assert verify(torch_factory.text, artifact, options).errors[0].snr_db > 60  # type: ignore[attr-defined]
    unnamed = Options(weights=tmp_path / "checkpoint.pt", shape=shape, samples=4)
    with pytest.raises(EdgeferryError, match="--weights-key"):
        verify(torch_factory.text, artifact, unnamed)  # type: ignore[attr-defined]


@pytest.mark.slow
def test_python_classes_of_a_keras_file(tmp_path: Path) -> None:
    (tmp_path / "layers.py").write_text(LAYERS)
    code = "import layers, keras; i = keras.Input((4,)); keras.Model(i, layers.Twice()(i)).save('m.keras')"
    subprocess.run([sys.executable, "-c", code], cwd=tmp_path, check=True, capture_output=True)
    arguments = ["verify", "m.keras", "m.keras", "--custom-objects", "layers.py:Twice", "--min-snr", "60"]
    done = subprocess.run(
        [sys.executable, "-m", "edgeferry_runtime", *arguments],
        cwd=tmp_path,
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    assert "passed" in done.stdout


@pytest.mark.slow
@pytest.mark.zoo
def test_two_forms_of_the_speech_detector_agree(zoo: Path, tmp_path: Path) -> None:
    from edgeferry_converter import convert as make

    folder = next((zoo / "silero-vad").rglob("silero_vad.jit")).parent
    shape = {"input": (1, 576), "state": (2, 1, 128)}
    held = {"sr": 16000}
    bundle = make(folder / "silero_vad.onnx", tmp_path / "b", to="onnx", constant=held, shape=shape, samples=4)
    part = Options(submodule="_model", shape={"x": (1, 576), "state": (2, 1, 128)})
    for source, options in (("silero_vad.jit", part), ("silero_vad_16k_op15.onnx", Options(constant=held))):
        found = verify(str(folder / source), str(bundle.path), options)
        assert all(error.snr_db > 60 for error in found.errors)
