"""A sensitivity scan of a model by itself, for ``ferry compress --scan``: nothing is trained, nothing is written."""

from __future__ import annotations

import os
from collections.abc import Callable
from contextlib import ExitStack
from dataclasses import replace

from edgeferry_converter.compress import sensitivity
from edgeferry_converter.compress.compression import open_spec, permitted
from edgeferry_converter.compress.given import Given
from edgeferry_converter.compress.opening import open_network
from edgeferry_converter.compress.recipe import CompressRecipe
from edgeferry_converter.compress.schooling import open_school
from edgeferry_converter.compress.sensitivity import Scan, Sensitivity
from edgeferry_runtime.errors import UsageError


def scan_source(
    source: str | os.PathLike[str],
    recipe: CompressRecipe,
    given: Given,
    progress: Callable[[int, int], None] | None = None,
) -> Sensitivity:
    """Find how much each layer of a model can lose.

    Args:
        source: The model.
        recipe: Names the data and the metric; its steps are not asked. Without data to judge by, all of `data` judge.
        given: What the user gave beside it.
        progress: Called with the count of judgements done, and of all.

    Raises:
        UsageError: If a function judges, which cannot be asked about some samples alone.
        EdgeferryError: As `edgeferry_converter.compress.compress` does.
    """
    if given.data is None and recipe.data is None:
        given = replace(given, data=given.evaluate)
    recipe, given = permitted(recipe, given)
    given = given if given.evaluate is not None else replace(given, evaluate=given.data)
    spec, _ = open_spec(source, recipe, given)
    with ExitStack() as stack:
        network = open_network(spec)
        judge = open_school(network, recipe, given, stack).judge
        if judge.lessons is None:
            raise UsageError("--scan", "needs labelled samples to judge by", "give --evaluate LABELLED.npz")
        score = sensitivity.judge(judge.target.output, judge.metric)
        return sensitivity.scan(network, judge.lessons, score, Scan(judge.metric, seed=recipe.seed), progress)
