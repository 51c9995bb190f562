"""The recipe: one set of names in the dataclass, the file and the flags."""

from __future__ import annotations

import string
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from edgeferry_converter.overrides import Override
from edgeferry_converter.quantize.rounding import ROUNDINGS
from edgeferry_converter.quantize.support import ACTIVATIONS, BLOCK_SIZES, IO_DTYPES
from edgeferry_converter.recipe import FORMATS, PRECISIONS, Recipe
from edgeferry_runtime import toml
from edgeferry_runtime.errors import MissingFileError, UnknownNameError, UsageError
from edgeferry_runtime.numerics import TOLERANCES, Tolerance
from edgeferry_runtime.preprocess import Preprocess

FINITE = st.floats(allow_nan=False, allow_infinity=False, width=32)
TEXT = st.text(st.characters(blacklist_categories=("Cs",)), min_size=1, max_size=20)
PATHS = st.none() | st.text(string.ascii_letters + " äß'\"\\._-", min_size=1, max_size=20).filter(
    lambda t: t.strip(".")
).map(Path)


OVERRIDES = st.builds(Override, st.sampled_from(PRECISIONS), TEXT, st.none() | TEXT)


@st.composite
def recipes(draw: st.DrawFn) -> Recipe:
    return Recipe(
        to=draw(st.sampled_from(FORMATS)),
        quantize=draw(st.sampled_from(PRECISIONS)),
        block_size=draw(st.sampled_from(BLOCK_SIZES)),
        override=draw(st.lists(OVERRIDES, max_size=2).map(tuple)),
        aeq_recipe=draw(PATHS),
        io_dtype=draw(st.sampled_from(IO_DTYPES)),
        activations=draw(st.sampled_from(ACTIVATIONS)),
        calibrate=draw(PATHS),
        ranges=draw(PATHS),
        rounding=draw(st.sampled_from(ROUNDINGS)),
        weights=draw(PATHS),
        probe=draw(PATHS),
        labels=draw(PATHS),
        name=draw(st.none() | st.text(string.ascii_letters + string.digits + "_", min_size=1)),
        samples=draw(st.integers(1, 1000)),
        seed=draw(st.integers(0, 2**32 - 1)),
        preprocess=draw(
            st.none()
            | st.builds(
                Preprocess,
                resize=st.none() | st.tuples(st.integers(1, 999), st.integers(1, 999)),
                scale=FINITE,
                mean=st.tuples(FINITE) | st.tuples(FINITE, FINITE, FINITE),
                layout=st.sampled_from(("NHWC", "NCHW")),
            )
        ),
        tolerance=draw(st.builds(Tolerance, max_abs=st.none() | FINITE.map(abs), min_top1=st.none() | st.floats(0, 1))),
        shape=draw(st.dictionaries(TEXT, st.lists(st.integers(1, 9), max_size=4).map(tuple), max_size=3)),
    )


@pytest.mark.slow
@given(recipes())
def test_a_recipe_survives_its_own_toml(tmp_path_factory: pytest.TempPathFactory, recipe: Recipe) -> None:
    file = tmp_path_factory.mktemp("recipe") / "r.toml"
    file.write_text(recipe.to_toml(file.parent), encoding="utf-8")
    read = Recipe.from_toml(file)
    assert read.to_toml(file.parent) == recipe.to_toml(file.parent)
    for key in ("to", "quantize", "io_dtype", "name", "samples", "seed", "preprocess", "tolerance", "shape"):
        assert getattr(read, key) == getattr(recipe, key)
    for key in ("block_size", "activations", "rounding", "override"):
        assert getattr(read, key) == getattr(recipe, key)


def test_the_empty_recipe_is_the_empty_file() -> None:
    assert Recipe().to_toml().strip() == ""


def test_paths_in_a_recipe_are_relative_to_its_file(tmp_path: Path) -> None:
    folder = tmp_path / "deep"
    folder.mkdir()
    (folder / "r.toml").write_text('calibrate = "data/c.npz"\nprobe = "/abs/p.npz"\n')
    recipe = Recipe.from_toml(folder / "r.toml")
    assert recipe.calibrate == folder / "data/c.npz"
    assert recipe.probe == Path("/abs/p.npz")
    assert 'calibrate = "deep/data/c.npz"' in recipe.to_toml(tmp_path)


def test_all_tables_are_read(tmp_path: Path) -> None:
    (tmp_path / "r.toml").write_text(
        'quantize = "int8"\n[preprocess]\nresize = [32, 32]\nmean = 0.5\nlayout = "NCHW"\n'
        "[tolerance]\nmin_top1 = 0.9\n[shape]\nimage = [1, 3, 32, 32]\n"
    )
    recipe = Recipe.from_toml(tmp_path / "r.toml")
    assert recipe.preprocess == Preprocess(resize=(32, 32), mean=(0.5,), layout="NCHW")
    assert recipe.shape == {"image": (1, 3, 32, 32)}
    assert recipe.limits == Tolerance(
        min_cosine=TOLERANCES["int8"].min_cosine, min_snr_db=TOLERANCES["int8"].min_snr_db, min_top1=0.9
    )


@pytest.mark.parametrize(
    ("values", "nearest"),
    [({"to": "tflit"}, "tflite"), ({"quantize": "int9"}, "int8"), ({"io_dtype": "float23"}, "float32")],
)
def test_an_unknown_value_lists_the_valid_ones(values: dict[str, str], nearest: str) -> None:
    with pytest.raises(UnknownNameError, match=f"did you mean '{nearest}'"):
        Recipe(**values)  # type: ignore[arg-type]


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ('quantise = "int8"', "did you mean 'quantize'"),
        ("[tolerance]\nmax_abz = 1", "did you mean 'max_abs'"),
        ("[preprocess]\nscal = 1", "did you mean 'scale'"),
        ("preprocess = 3", "is no table"),
        ("tolerance = 3", "is no table"),
        ("[preprocess]\nmean = true", "is no number"),
        ("[preprocess]\nmean = 'abc'", "is no number"),
        ("[preprocess]\nresize = 3", "wrong value"),
        ("[preprocess]\nlayout = 'NWHC'", "did you mean 'N"),
        ("[tolerance]\nmax_abs = 'a'", "is no number"),
        ("[tolerance]\nmax_abs = -1", "from 0 to inf"),
        ("[tolerance]\nmin_cosine = 2", "from -1 to 1"),
        ("[tolerance]\nmin_top1 = 80", "from 0 to 1"),
        ("samples = 0", "whole number from 1"),
        ("samples = true", "whole number from 1"),
        ("seed = -1", "whole number from 0"),
        ("calibrate = 3", "is no path"),
        ("name = '../up'", "no plain name"),
        ("name = ''", "no plain name"),
        ("[shape]\nx = [1, 0]", "is no shape"),
        ("[shape]\nx = 'a'", "is no shape"),
        ("block_size = 48", "valid are 0, 32, 64"),
        ("block_size = true", "valid are 0, 32, 64"),
        ("activations = 'int16'", "valid are int8, uint8"),
        ("[quantize]\nprecison = 'int8'", "did you mean 'precision'"),
        ("[quantize]\noverride = 3", r"write it as \[\[quantize.override\]\]"),
        ("[[quantize.override]]\nlayer = 'x'", "says no precision"),
        ("[[quantize.override]]\nprecision = 'int9'\nlayer = 'x'", "did you mean 'int8'"),
        ("to = [", "is no TOML"),
    ],
)
def test_a_wrong_recipe_is_refused_with_the_way_out(tmp_path: Path, text: str, said: str) -> None:
    (tmp_path / "r.toml").write_text(text)
    with pytest.raises(UsageError, match=said):
        Recipe.from_toml(tmp_path / "r.toml")


def test_overrides_are_a_table_below_quantize(tmp_path: Path) -> None:
    (tmp_path / "r.toml").write_text(
        '[quantize]\nprecision = "int8"\n[[quantize.override]]\nlayer = "*dense*"\nprecision = "none"\n'
        '[[quantize.override]]\noperator = "SOFTMAX"\nprecision = "int16x8"\n'
    )
    recipe = Recipe.from_toml(tmp_path / "r.toml")
    assert recipe.quantize == "int8"
    assert recipe.override == (Override("none", "*dense*"), Override("int16x8", operator="SOFTMAX"))


def test_the_tolerance_is_that_of_the_coarsest_precision() -> None:
    recipe = Recipe(quantize="dynamic", override=(Override("dynamic-int4", "x"), Override("none", "y")))
    assert recipe.limits == TOLERANCES["dynamic-int4"]


def test_a_missing_recipe_is_said() -> None:
    with pytest.raises(MissingFileError, match="no such recipe"):
        Recipe.from_toml("nowhere.toml")


def test_a_recipe_that_is_no_text_is_refused(tmp_path: Path) -> None:
    (tmp_path / "r.toml").write_bytes(b"\xff\xfe\x00")
    with pytest.raises(UsageError, match="is no TOML"):
        Recipe.from_toml(tmp_path / "r.toml")


def test_strings_become_paths() -> None:
    assert Recipe(calibrate="a/b.npz").calibrate == Path("a/b.npz")  # type: ignore[arg-type]


@pytest.mark.parametrize(("value", "names"), [("a", ("a",)), (["a", "b"], ("a", "b")), (None, ()), ((), ())])
def test_signatures_are_one_name_or_several(value: object, names: tuple[str, ...]) -> None:
    recipe = Recipe.from_dict({"signature": value})
    assert recipe.signature == names
    assert Recipe.from_dict(toml.parse(recipe.to_toml())) == recipe


@pytest.mark.parametrize("value", [["a", "a"], [None], 3, "", ["a", ""]])
def test_signatures_that_are_no_names(value: object) -> None:
    with pytest.raises(UsageError, match="--signature"):
        Recipe.from_dict({"signature": value})
