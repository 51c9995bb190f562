"""The way of a compression: plan it, open what is needed, carry out the steps, write what came out."""

from __future__ import annotations

import hashlib
import os
from collections.abc import Iterator, Mapping
from contextlib import ExitStack
from dataclasses import dataclass, fields, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from edgeferry_converter.bundling import hash_source
from edgeferry_converter.comparison.sides import locate
from edgeferry_converter.compress import chain, checkpoints, functions, output, recipe_text
from edgeferry_converter.compress.given import MODEL_OPTIONS, Given, words
from edgeferry_converter.compress.history import History
from edgeferry_converter.compress.methods.quantizing import Quantize
from edgeferry_converter.compress.methods.teaching import SOURCE
from edgeferry_converter.compress.opening import OPENERS, open_network, refuse
from edgeferry_converter.compress.recipe import CompressRecipe, Step
from edgeferry_converter.compress.schooling import School, open_school
from edgeferry_converter.compress.training import Event, Watch
from edgeferry_converter.quiet import require
from edgeferry_converter.recipe import Recipe, check_keys
from edgeferry_converter.sources import SourceSpec, detect
from edgeferry_converter.sources.options import with_options
from edgeferry_runtime import toml
from edgeferry_runtime.bundle import Bundle
from edgeferry_runtime.errors import EdgeferryError, MissingFileError, UsageError

if TYPE_CHECKING:
    from edgeferry_converter.compress.chain import Outcome, Stage
    from edgeferry_converter.compress.network import Network


@dataclass(frozen=True)
class CompressPlan:
    """A compression that may begin.

    Attributes:
        spec: The model.
        format: Its format.
        output: Where what comes out is written.
        recipe: What to do.
        given: What the user gave beside it; its `data` and `evaluate` are what is trained on and judged by.
    """

    spec: SourceSpec
    format: str
    output: Path
    recipe: CompressRecipe
    given: Given


@dataclass(frozen=True)
class Compressed:
    """What a compression has come to.

    Attributes:
        path: The folder.
        model: The plain model of the best step, as its framework keeps it.
        history: What every step did.
        network: The same model, opened.
        bundle: What became of it where the recipe has [convert].
        error: Why the chain ended early: a `GateError` or a `TrainingError`; None where it did not.
    """

    path: Path
    model: Path
    history: History
    network: Network
    bundle: Bundle | None = None
    error: EdgeferryError | None = None

    def check(self) -> None:
        """Raise what ended the chain early.

        Raises:
            GateError: If a step lost more than it may.
            TrainingError: If a loss was not finite, or a target was not reached.
        """
        if self.error is not None:
            raise self.error


def compress(
    source: str | os.PathLike[str],
    output: str | os.PathLike[str],
    recipe: CompressRecipe | str | os.PathLike[str] | None = None,
    *,
    data: object = None,
    evaluate: object = None,
    progress: Watch | None = None,
    **options: Any,
) -> Compressed:
    """Prune, distill and quantize a trained model, training it along, by the steps of a recipe.

    Args:
        source: A ``.keras`` file, or ``FILE.py:FACTORY`` of PyTorch, which is executed.
        output: The folder to write; an older output there is replaced.
        recipe: The steps, or the TOML file that has them.
        data: Labelled samples to train on, in place of the recipe's: an ``.npz``, ``FILE.py:FUNCTION`` (executed), a
            function that returns samples, ``(inputs, labels)``, a dict of arrays with ``label``, or batches of those.
        evaluate: What to judge by, likewise, or a function that takes ``predict`` (arrays in, an array out) and returns
            a number, the higher the better.
        progress: Called with an `Event` at each thing done; during training often.
        **options: Fields of `CompressRecipe` that replace those of `recipe`, and ``teacher``, ``strict``, ``resume``,
            ``plot`` and the options of the model (``weights``, ``shape`` ...) as the flags of ``ferry compress``.

    Returns:
        What came out, written to `output` too. Where a step lost more than its gate allows, that is the best model
        before it, and `Compressed.error` says why; `Compressed.check` raises it.

    Raises:
        UsageError: For a value that does not fit, or code that only the recipe asks for.
        DataError: For samples or labels that do not fit; names the sample and the value.
        ArtifactError: For a model that cannot be trained.
        ConversionError: If a method cannot rewrite the model, or a framework fails.
        TrainingError: If already the first step's loss is not finite, or its target cannot be reached.
        OutputExistsError: If `output` is not ours, or an earlier run has left something and ``resume`` is not set.
    """
    steps, own = [f.name for f in fields(CompressRecipe)], [f.name for f in fields(Given) if f.name != "model"]
    check_keys("option", options, dict.fromkeys((*steps, *own, *MODEL_OPTIONS)))
    model = {key: options.pop(key) for key in MODEL_OPTIONS if key in options}
    changes = {key: options.pop(key) for key in steps if key in options}
    read = recipe if isinstance(recipe, CompressRecipe) else CompressRecipe.from_toml(recipe) if recipe else None
    given = Given(data, evaluate, model=model, **options)
    return perform(plan(source, output, replace(read or CompressRecipe(), **changes), given), progress)


def plan(
    source: str | os.PathLike[str],
    output_path: str | os.PathLike[str],
    recipe: CompressRecipe,
    given: Given | None = None,
) -> CompressPlan:
    """Check what can be known before a framework is imported.

    Raises:
        EdgeferryError: As `compress` does.
    """
    if not recipe.step:
        raise UsageError("recipe", "has no steps", "write each as [[step]] with its method")
    recipe, given = permitted(recipe, given or Given())
    output.check(Path(output_path))
    checkpoints.check_outside(Path(output_path))
    _check_plot(given.plot)
    for step in recipe.step:
        if recipe.convert and isinstance(step.method, Quantize):
            step.method.check_recipe(recipe.convert)
    spec, found = open_spec(source, recipe, given)
    for step in recipe.step:
        _check_teacher(step)
    output.check_apart(Path(output_path), _read_files(spec, recipe))
    return CompressPlan(spec, found, Path(output_path), recipe, given)


def open_spec(source: str | os.PathLike[str], recipe: CompressRecipe, given: Given) -> tuple[SourceSpec, str]:
    """Return where the model lies, with what its file does not say, and its format.

    Raises:
        UnknownFormatError: If it cannot be trained.
        EdgeferryError: If an option does not fit.
    """
    options = replace(recipe.convert or Recipe(), **given.model)
    spec = SourceSpec.parse(os.fspath(source), options.weights, options.shape)
    found = detect(spec)
    if found not in OPENERS:
        raise refuse(spec, found)
    if options.weights is not None and not options.weights.is_file():
        raise MissingFileError(options.weights, "no such weights", "check the path")
    return with_options(spec, found, options), found


def perform(plan: CompressPlan, progress: Watch | None = None) -> Compressed:
    """Carry out a plan; see `compress`."""
    from edgeferry_converter.compress.plot import plot as draw

    watch = progress or _nobody
    with ExitStack() as stack:
        store = stack.enter_context(checkpoints.opened(plan.output, resume=plan.given.resume))
        watch(Event("", "open"))
        source = open_network(plan.spec)
        school = open_school(source, plan.recipe, plan.given, stack)
        for note in school.notes:
            watch(Event("", "note", text=note))
        _take_up(plan, store, _origin(plan, source, school), watch)
        recipe = replace(plan.recipe, convert=_for_steps(plan))
        setting = chain.Setting(source, school, recipe, plan.given.strict, store, watch)
        outcome = chain.run(setting)
        watch(Event("", "write"))
        compressed = _write(plan, setting, outcome)
        if plan.given.plot:
            draw(compressed.history, plan.given.plot)
        if outcome.error is None:
            checkpoints.remove(store)
        return compressed


def _nobody(event: Event) -> None:
    """Watch nothing."""


def permitted(recipe: CompressRecipe, given: Given) -> tuple[CompressRecipe, Given]:
    """Settle what is trained on, judged by and learned from: what the user gave, else what the recipe names.

    Raises:
        UsageError: If there is nothing to train on, or only the recipe asks for code to be executed.
        MissingFileError: If there is no such file.
    """
    for key in ("data", "evaluate"):
        own, wanted = getattr(recipe, key), getattr(given, key)
        if wanted is None and own is not None:
            functions.refuse_unasked(key, own, f"--{key}")
        wanted = own if wanted is None else os.fspath(wanted) if isinstance(wanted, os.PathLike) else wanted
        _check_file(wanted)
        given = replace(given, **{key: wanted})
        in_file: dict[str, Any] = {key: wanted if isinstance(wanted, str) else None}
        recipe = replace(recipe, **in_file)
    if given.data is None:
        raise UsageError("data", "are not given", "add --data TRAIN.npz, or data = ... to the recipe")
    if recipe.convert and recipe.convert.custom_objects and "custom_objects" not in given.model:
        objects = str(recipe.convert.custom_objects)
        reason = f"names {objects}, which would be executed, and a recipe alone may not ask for that"
        raise UsageError("recipe key 'custom_objects'", reason, f"if you trust it, add --custom-objects {objects}")
    return replace(recipe, step=_taught(recipe.step, given.teacher)), given


def _taught(steps: tuple[Step, ...], teacher: str | None) -> tuple[Step, ...]:
    """Put the teacher that the user gave in place of the recipe's: those that are not the source, or else all."""
    named = {step.teach.teacher for step in steps if step.teach}
    foreign = named - {SOURCE}
    if teacher is None:
        for name in foreign:
            functions.refuse_unasked("teacher", name, "--teacher")
        return steps
    if not named:
        raise UsageError("--teacher", "no step of the recipe is taught", "add [step.teach] below a [[step]]")
    if len(foreign) > 1:
        reason = f"would stand for several teachers: {', '.join(sorted(foreign))}"
        raise UsageError("--teacher", reason, "compress with one teacher after the other")
    wanted = foreign or named
    return tuple(
        replace(s, teach=replace(s.teach, teacher=teacher)) if s.teach and s.teach.teacher in wanted else s
        for s in steps
    )


def _check_teacher(step: Step) -> None:
    """Refuse a teacher that is not there, before the steps that come before it."""
    if step.teach is None or step.teach.teacher == SOURCE:
        return
    locate(step.teach.teacher)
    if step.teach.weights is not None and not Path(step.teach.weights).is_file():
        raise MissingFileError(step.teach.weights, "no such weights", "check the path")


def _read_files(spec: SourceSpec, recipe: CompressRecipe) -> Iterator[Path]:
    """Return what is read while the output is made, and afterwards: data are told in it relative to it."""
    yield spec.path
    if spec.weights is not None:
        yield spec.weights
    told = [text for step in recipe.step if step.teach for text in (step.teach.teacher, step.teach.weights)]
    for text in (recipe.data, recipe.evaluate, *told):
        if text is not None and text != SOURCE:
            python = functions.split(text)
            yield python[0] if python else Path(text)


def _check_file(value: object) -> None:
    if isinstance(value, str):
        python = functions.split(value)
        if not (python[0] if python else Path(value)).is_file():
            raise MissingFileError(value, "no such data", "check the path")


def _check_plot(path: Path | None) -> None:
    """Refuse what cannot be drawn, before hours are spent."""
    from edgeferry_converter.compress.plot import SUFFIXES

    if path is None:
        return
    if path.suffix.lower() not in SUFFIXES:
        raise UsageError(
            f"--plot {path}", "is neither SVG nor PNG", f"give a file that ends in {' or '.join(SUFFIXES)}"
        )
    if not path.absolute().parent.is_dir():
        raise MissingFileError(path.parent, "no such folder", "create it, or give another --plot")
    require(f"--plot {path}", "plot", "matplotlib")


def _for_steps(plan: CompressPlan) -> Recipe | None:
    """Return how a step's model is converted: it brings its own weights and needs nothing that the source needs."""
    if plan.recipe.convert is None:
        return None
    custom = plan.given.model.get("custom_objects")
    plain = {key: getattr(Recipe(), key) for key in MODEL_OPTIONS}
    shape = plan.given.model.get("shape", plan.recipe.convert.shape) if plan.format != "factory" else {}
    return replace(plan.recipe.convert, **{**plain, "custom_objects": custom, "shape": shape})


def _take_up(plan: CompressPlan, store: checkpoints.Store, origin: Mapping[str, str], watch: Watch) -> None:
    """Begin, or go on from what an earlier run has left."""
    recipe = replace(plan.recipe, convert=_for_steps(plan))
    if not store.holds_work:
        store.begin(origin, recipe_text.artifacts(recipe))
        if plan.given.resume:
            watch(Event("", "note", text="there is nothing to go on from: begins at the first step"))
        return
    store.go_on(origin, recipe_text.artifacts(recipe), recipe_text.digests(recipe))
    watch(Event("", "note", text=f"goes on from {store.folder}"))


def _origin(plan: CompressPlan, source: Network, school: School) -> dict[str, str]:
    """Return, by what it is called, all that every step depends on; a factory may give other values each time."""
    judge, lessons = school.judge, school.lessons
    judged = _hash({**judge.lessons.inputs, "": judge.lessons.truth}) if judge.lessons else _judging(plan)
    return {
        "the model": " ".join([hash_source(plan.spec.path), plan.spec.factory or "", _hash(source.state())]),
        "the data": _hash({**lessons.inputs, "": lessons.truth}),
        "what it is judged by": f"{judge.metric} {judge.target.output} {judged}",
        "the seed": str(plan.recipe.seed),
    }


def _judging(plan: CompressPlan) -> str:
    given = plan.given.evaluate
    found = functions.split(given) if isinstance(given, str) else None
    return f"{hash_source(found[0])}:{found[1]}" if found else words(given)


def _hash(arrays: Mapping[str, Any]) -> str:
    digest = hashlib.sha256()
    for name, values in sorted(arrays.items()):
        digest.update(f"{name} {values.dtype} {values.shape}\n".encode())
        digest.update(values.tobytes())
    return digest.hexdigest()


def _write(plan: CompressPlan, setting: chain.Setting, outcome: Outcome) -> Compressed:
    """Write the folder, and say what is in it."""
    history = outcome.history(setting)
    names: list[str] = []
    output.write(plan.output, lambda folder: names.append(_fill(folder, plan, outcome.best, history)))
    bundle = plan.output / output.BUNDLE
    return Compressed(
        path=plan.output,
        model=plan.output / names[0],
        history=history,
        network=outcome.best.network,
        bundle=Bundle.open(bundle) if outcome.best.bundle else None,
        error=outcome.error,
    )


def _fill(folder: Path, plan: CompressPlan, best: Stage, history: History) -> str:
    """Write every file, and return the model's name."""
    model = best.network.save(folder)
    output.write_json(folder / output.HISTORY, history.to_dict())
    (folder / output.RECIPE).write_text(recipe_text.to_toml(plan.recipe, plan.output.absolute()), encoding="utf-8")
    if best.ranges is not None:
        _write_ranges(folder, plan, best)
    if best.bundle is not None:
        output.copy_bundle(best.bundle, folder)
    return model.name


def _write_ranges(folder: Path, plan: CompressPlan, best: Stage) -> None:
    """Write what training settled, and the recipe by which ``ferry convert`` keeps it."""
    from edgeferry_converter.compress import ranges_file

    assert best.ranges is not None
    ranges_file.save(best.ranges, folder / output.RANGES)
    recipe = replace(plan.recipe, convert=_for_steps(plan) or Recipe())
    convert = toml.parse((chain.as_trained(recipe, best) or Recipe()).to_toml(plan.output.absolute()))
    ranges = {"ranges": output.RANGES} if best.ranges.ranges else {}
    (folder / output.CONVERT).write_text(toml.dump({**convert, **ranges}), encoding="utf-8")
