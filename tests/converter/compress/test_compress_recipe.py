"""The recipe of a compression: read, written, and compared step by step."""

from __future__ import annotations

import contextlib
import math
from dataclasses import fields, replace
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from edgeferry_converter.compress import CompressRecipe, Step, Train, methods, recipe_text
from edgeferry_converter.compress.methods.channels import PruneChannels
from edgeferry_converter.compress.methods.pattern import PrunePattern
from edgeferry_converter.compress.methods.quantizing import Quantize
from edgeferry_converter.compress.methods.teaching import Distill, Match, Teach
from edgeferry_converter.compress.methods.weights import PruneWeights
from edgeferry_converter.compress.recipe import LOSSES, MIXED, OPTIMIZERS, SCHEDULES
from edgeferry_converter.recipe import FORMATS, Recipe
from edgeferry_runtime import toml
from edgeferry_runtime.errors import EdgeferryError, MissingFileError, UnknownNameError, UsageError

SHARE = st.floats(0, 1).map(lambda x: round(x, 6))
WORD = st.text("abcdefgh0123", min_size=1, max_size=6)
PATTERNS = st.lists(WORD, max_size=2).map(tuple)

TRAINS = st.builds(
    Train,
    epochs=st.integers(0, 99),
    batch_size=st.integers(1, 512),
    optimizer=st.sampled_from(sorted(OPTIMIZERS)),
    learning_rate=st.none() | st.floats(1e-6, 1),
    momentum=SHARE,
    weight_decay=SHARE,
    schedule=st.sampled_from(SCHEDULES),
    warmup=SHARE,
    clip_norm=st.none() | st.floats(0.1, 10),
    loss=st.sampled_from(LOSSES),
    label_smoothing=SHARE,
    mixed_precision=st.sampled_from(MIXED),
)
METHODS = (
    st.builds(
        PruneWeights,
        sparsity=st.none() | SHARE.map(lambda x: x * 0.99),
        scope=st.sampled_from(("global", "layer")),
        amounts=st.dictionaries(WORD, SHARE.map(lambda x: x * 0.99), max_size=2),
        layers=PATTERNS,
    )
    | st.builds(PruneChannels, macs=st.floats(0.1, 1), skip=PATTERNS)
    | st.just(PrunePattern())
    | st.just(Distill())
)
MATCHES = st.lists(st.builds(Match, WORD, WORD, st.floats(0, 9)), max_size=2, unique_by=lambda m: m.student).map(tuple)
TEACHES = st.none() | st.builds(
    Teach,
    teacher=st.sampled_from(("source", "big.keras")),
    soft=st.floats(0.1, 1),
    temperature=st.floats(1, 9),
    hints=MATCHES,
)
STEPS = st.builds(Step, METHODS, TRAINS, TEACHES, st.none() | st.floats(-5, 50))
RECIPES = st.builds(
    CompressRecipe,
    step=st.lists(STEPS, max_size=3).map(tuple),
    data=st.none() | st.sampled_from(("train.npz", "a/data.py:train")),
    evaluate=st.none() | st.just("test.npz"),
    metric=st.sampled_from(("top1", "mse", "auc")),
    seed=st.integers(0, 2**32 - 1),
    convert=st.sampled_from((None, *(Recipe(to=to) for to in FORMATS))),
)


@pytest.mark.slow
@settings(max_examples=40)
@given(RECIPES)
def test_what_is_written_is_read_again(recipe: CompressRecipe) -> None:
    """Property: a recipe survives its file, and so do the hashes by which a run goes on."""
    again = CompressRecipe.from_dict(toml.parse(recipe_text.to_toml(recipe)))
    assert again == recipe
    assert recipe_text.digests(again) == recipe_text.digests(recipe)


@pytest.mark.slow
@settings(max_examples=40)
@given(RECIPES.filter(lambda r: len(r.step) > 1), st.integers(0, 9))
def test_a_hash_is_of_a_step_and_all_before(recipe: CompressRecipe, where: int) -> None:
    """Property: a changed step changes the hashes from there on, and none before; names and gates change none."""
    at = where % len(recipe.step)
    step = recipe.step[at]
    other = replace(step, train=replace(step.train, epochs=step.train.epochs + 1))
    before, after = (recipe_text.digests(r) for r in (recipe, _with(recipe, at, other)))
    assert [a == b for a, b in zip(before, after, strict=True)] == [i < at for i in range(len(before))]
    renamed = replace(step, name="other", max_drop=7.0)
    assert recipe_text.digests(_with(recipe, at, renamed)) == before


@pytest.mark.parametrize("convert", [None, Recipe(), Recipe(to="onnx")])
def test_other_artifacts_are_other_steps_and_another_source(convert: Recipe | None) -> None:
    """Where a step trains for integers, the artifacts of all before it are float; so they are made anew."""
    plain = CompressRecipe(step=(Step(Distill()),), convert=convert)
    trained = replace(plain, step=(*plain.step, Step(Quantize())))
    other = replace(plain, convert=Recipe(samples=7))
    for changed in (trained, other):
        assert recipe_text.artifacts(changed) != recipe_text.artifacts(plain)
        assert recipe_text.digests(changed)[0] != recipe_text.digests(plain)[0]


def _with(recipe: CompressRecipe, at: int, step: Step) -> CompressRecipe:
    return replace(recipe, step=(*recipe.step[:at], step, *recipe.step[at + 1 :]))


def test_another_teacher_of_the_same_name_is_another_step(tmp_path: Path) -> None:
    teacher = tmp_path / "t.keras"
    recipe = CompressRecipe(step=(Step(Distill(), teach=Teach(str(teacher))),))
    found = []
    for content in ("a", "b", "a"):
        teacher.write_text(content)
        found.append(recipe_text.digests(recipe))
    assert found[0] == found[2] != found[1]


def test_paths_are_relative_to_the_file_and_written_so_again(tmp_path: Path) -> None:
    (tmp_path / "r.toml").write_text(
        'data = "d/train.py:load"\n[[step]]\nmethod = "distill"\n[step.teach]\nteacher="t.keras"\n'
    )
    recipe = CompressRecipe.from_toml(tmp_path / "r.toml")
    assert recipe.data == f"{tmp_path}/d/train.py:load"
    told = recipe_text.to_dict(recipe, tmp_path / "out")
    assert (told["data"], told["step"][0]["teach"]["teacher"]) == ("../d/train.py:load", "../t.keras")


def test_what_holds_for_all_steps_is_replaced_key_by_key(tmp_path: Path) -> None:
    (tmp_path / "r.toml").write_text(
        'max_drop = 2\n[train]\nepochs = 7\noptimizer = "sgd"\n[[step]]\nmethod = "distill"\n[step.train]\nepochs = 1\n'
        '[[step]]\nmethod = "prune-weights"\nmax_drop = 3\n'
    )
    first, second = CompressRecipe.from_toml(tmp_path / "r.toml").step
    assert (first.train.epochs, first.train.optimizer, first.max_drop) == (1, "sgd", 2)
    assert (second.train.epochs, second.max_drop, second.name) == (7, 3, "2-prune-weights")


@pytest.mark.parametrize(
    ("text", "kind", "said"),
    [
        ("stepp = 1", UnknownNameError, "did you mean 'step'?"),
        ("[[step]]\nmethod = 'prune-wights'", UnknownNameError, "did you mean 'prune-weights'?"),
        ("[[step]]\nmethod = 'prune-weights'\nsparsty = 1", UnknownNameError, "did you mean 'sparsity'?"),
        ("[[step]]\nmethod = 'prune-weights'\nsparsity = 1.5", UsageError, "sparsity: 1.5 is out of range"),
        ("[[step]]\nmethod = 'distill'\n[step.train]\nepoch = 1", UnknownNameError, "did you mean 'epochs'?"),
        ("[train]\noptimizer = 'adan'\n[[step]]\nmethod = 'distill'", UnknownNameError, "did you mean 'adam'?"),
        ("[train]\nepochs = -1\n[[step]]\nmethod = 'distill'", UsageError, "from 0 to"),
        ("[train]\nlearning_rate = 'high'\n[[step]]\nmethod = 'distill'", UsageError, "is out of range"),
        ("max_drop = 'none'\n[[step]]\nmethod = 'distill'", UsageError, "max_drop"),
        ("metric = 'top5'", UnknownNameError, "valid are top1"),
        ("seed = -1", UsageError, "seed"),
        ("step = 3", UsageError, "write each as [[step]]"),
        ("train = 3", UsageError, "write it as [train]"),
        ("data = 3", UsageError, "give a file, or FILE.py:FUNCTION"),
        ("[convert]\nto = 'tflit'", UnknownNameError, "did you mean 'tflite'?"),
        ("[[step]]\nmethod='distill'\nname='a'\n[[step]]\nmethod='distill'\nname='a'", UsageError, "is there twice"),
        ("[[step]]\nmethod = ['distill']", UnknownNameError, "valid are prune-weights"),
        ("[train]\noptimizer = ['adam']\n[[step]]\nmethod = 'distill'", UnknownNameError, "valid are sgd"),
        ("[train]\nlearning_rate = inf\n[[step]]\nmethod = 'distill'", UsageError, "give a number of at least 1e-12"),
        ("[train]\nepochs = -1\n[[step]]\nmethod = 'distill'", UsageError, "give a whole number from 0 to 1000000"),
        ("[[step]]\nmethod = 'distill'\nmax_drop = nan", UsageError, "max_drop: nan is out of range; give a number"),
        ("[[step]]\nmethod = 'distill'\nname = 5", UsageError, "step name: 5 is no name"),
        ('[[step]]\nmethod = "distill"\nname = "a\\nb"', UsageError, "give one line of text"),
        ("metric_output = 3", UsageError, "metric_output: 3 is no name"),
        ("[[step]]\nmethod = 'prune-channels'\nmacs = 0.5\nlayers = 3", UsageError, "layers: 3 is no list of names"),
        ("[[step]]\nmethod = 'quantize'\noverride = [3]", UsageError, "write each as [[step.override]]"),
        ("][", UsageError, "is no TOML"),
    ],
)
def test_what_does_not_fit_is_named(tmp_path: Path, text: str, kind: type[UsageError], said: str) -> None:
    (tmp_path / "r.toml").write_text(text)
    with pytest.raises(kind) as error:
        CompressRecipe.from_toml(tmp_path / "r.toml")
    assert said in str(error.value)


VALUES = st.one_of(
    *(st.integers(), st.floats(), st.booleans(), st.text(max_size=3)),
    st.recursive(
        st.integers(-1, 3) | st.text(max_size=2),
        lambda inner: st.lists(inner, max_size=2) | st.dictionaries(st.text(max_size=2), inner, max_size=2),
        max_leaves=3,
    ),
    st.sampled_from((10**400, math.inf, -math.inf)),
)


@pytest.mark.slow
@settings(max_examples=150)
@given(st.sampled_from(sorted(methods.METHODS)), st.data())
def test_a_value_of_any_type_is_read_or_refused(method: str, data: st.DataObject) -> None:
    """Property: no value in a recipe is a defect of ours."""
    options = [f.name for f in fields(methods._options(method))]
    tables: dict[str, dict[str, Any]] = {"step": {"method": method}, "train": {}, "teach": {}}
    keys = {"step": [*options, "max_drop", "name", "method"], "train": [f.name for f in fields(Train)]}
    keys["teach"] = [f.name for f in fields(Teach)]
    table = data.draw(st.sampled_from(sorted(tables)))
    tables[table][data.draw(st.sampled_from(keys[table]))] = data.draw(VALUES)
    step = {**tables["step"], "train": tables["train"], "teach": tables["teach"]}
    with contextlib.suppress(EdgeferryError):
        recipe = CompressRecipe.from_dict({"step": [step]})
        recipe_text.to_toml(recipe)


def test_one_step_may_be_let_pass_where_all_others_have_a_gate() -> None:
    steps = [{"method": "distill", "max_drop": math.inf}, {"method": "distill"}]
    assert [step.max_drop for step in CompressRecipe.from_dict({"max_drop": 1, "step": steps}).step] == [math.inf, 1]


@pytest.mark.parametrize("wrong", [{"step": "distill"}, {"step": ("distill",)}, {"convert": {"to": "onnx"}}])
def test_what_is_no_step_or_recipe_is_refused_from_python_too(wrong: dict[str, Any]) -> None:
    with pytest.raises(UsageError, match=next(iter(wrong))):
        CompressRecipe(**wrong)


def test_a_recipe_that_is_not_there_is_said(tmp_path: Path) -> None:
    with pytest.raises(MissingFileError):
        CompressRecipe.from_toml(tmp_path / "none.toml")
