"""Structured pruning: channels and attention heads are removed, and the smaller network is trained on."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from itertools import islice
from typing import TYPE_CHECKING, Any

import numpy as np

from edgeferry_converter.compress.methods import Context, Plain, Work, check_number
from edgeferry_converter.compress.structure import ranking, selection
from edgeferry_converter.compress.structure.graph import CHANNEL, HEAD, MODEL_INPUT, MODEL_OUTPUT
from edgeferry_converter.compress.structure.selection import AMOUNTS, CHANNELS, MACS, PARAMETERS, Choice, Wish
from edgeferry_converter.compress.structure.units import Units, cut
from edgeferry_runtime.errors import ConversionError, UnknownNameError, UsageError

if TYPE_CHECKING:
    from edgeferry_converter.compress.network import Arrays, Network

KINDS = (CHANNEL, HEAD)


@dataclass(frozen=True)
class PruneChannels:
    """Remove whole channels and heads: smaller kernels, and no masks.

    What is added, multiplied or concatenated goes together, so that the smaller model computes what the model computes
    without those channels (Fang et al. 2023, "DepGraph"). One of `macs`, `parameters`, `channels` and `amounts` says
    how much goes.

    Attributes:
        macs: The share of the multiply-accumulates that remains, such as 0.5.
        parameters: The share of the stored values that remains.
        channels: The share of the channels that remains, of those that may go.
        amounts: By pattern of layers, the share of their channels that goes; the last that matches holds.
        criterion: What matters least goes first: ``l1``, ``l2``, ``batch-norm`` or ``taylor``; see `ranking.rank`.
        scope: ``global`` compares channels of all layers, ``uniform`` takes the same share of every layer.
        least: The share of its channels that stays in every layer, never less than one channel.
        multiple_of: What remaining numbers of channels are a multiple of; without it 16, and less in small layers.
        layers: Patterns of the layers that may become smaller.
        skip: Patterns of layers that may not.
        units: ``channels``, ``heads`` or both.
        batches: How many batches ``taylor`` takes gradients of.
    """

    macs: float | None = None
    parameters: float | None = None
    channels: float | None = None
    amounts: Mapping[str, float] = field(default_factory=dict)
    criterion: str = ranking.TAYLOR
    scope: str = selection.GLOBAL
    least: float = 0.1
    multiple_of: int | None = None
    layers: Sequence[str] = ("*",)
    skip: Sequence[str] = ()
    units: Sequence[str] = KINDS
    batches: int = 16

    def __post_init__(self) -> None:
        given = [key for key in (MACS, PARAMETERS, CHANNELS, AMOUNTS) if getattr(self, key) not in (None, {})]
        if len(given) != 1:
            reason = f"says {' and '.join(given) or 'no target'}"
            raise UsageError("step prune-channels", reason, "give one of macs, parameters, channels and amounts")
        if given[0] != AMOUNTS:
            check_number(given[0], getattr(self, given[0]), 0.001, 1)
        self._check_amounts()
        check_number("least", self.least, 0, 1)
        check_number("batches", self.batches, 1, 1_000_000, whole=True)
        if self.multiple_of is not None:
            check_number("multiple_of", self.multiple_of, 1, 1024, whole=True)
        self._check_names()

    def _check_amounts(self) -> None:
        if not isinstance(self.amounts, Mapping):
            raise UsageError("amounts", f"{self.amounts!r} is no table", "give layer patterns with shares")
        for pattern, share in self.amounts.items():
            check_number(f"amounts.{pattern}", share, 0, 1)

    def _check_names(self) -> None:
        for key in ("layers", "skip", "units"):
            names = getattr(self, key)
            if not isinstance(names, list | tuple) or not all(isinstance(name, str) for name in names):
                raise UsageError(key, f"{names!r} is no list of names", "write it as ['name', 'other*']")
        for key, names, valid in (
            ("criterion", (self.criterion,), ranking.CRITERIA),
            ("scope", (self.scope,), selection.SCOPES),
            ("units", self.units, KINDS),
        ):
            for name in names:
                if name not in valid:
                    raise UnknownNameError(key, str(name), valid)

    @property
    def wish(self) -> Wish:
        """What the options ask of `selection.choose`."""
        target = next(key for key in (MACS, PARAMETERS, CHANNELS, AMOUNTS) if getattr(self, key) not in (None, {}))
        return Wish(
            target,
            1.0 if target == AMOUNTS else getattr(self, target),
            amounts=self.amounts,
            scope=self.scope,
            least=self.least,
            multiple_of=self.multiple_of,
            layers=tuple(self.layers),
            skip=tuple(self.skip),
            kinds=tuple(self.units),
        )

    def begin(self, network: Network, context: Context) -> Work:
        """Remove what matters least; what comes after is plain training of the smaller network.

        Raises:
            ConversionError: If a layer cannot be pruned and the step is strict, or the smaller model does not run.
            TrainingError: If the target cannot be reached; says how far it gets.
            UsageError: If multiply-accumulates are asked for that cannot be counted.
            UnknownNameError: If a pattern matches no layer.
        """
        graph, state = network.channels(), network.state()
        stored = {name: values for name, values in state.items() if name not in graph.repeated}
        units = Units(graph, {name: values.size for name, values in stored.items() if values.dtype.kind == "f"})
        unknown = {**graph.kept, **_frozen(units)}
        if context.strict and unknown:
            layer, reason = next(iter(unknown.items()))
            raise ConversionError(network.name, f"its layer {layer!r} cannot be pruned ({reason})", "leave out strict")
        uncounted = [cost.layer for cost in graph.costs if not cost.macs]
        if self.macs is not None and (uncounted or not graph.costs):
            reason = f"has multiply-accumulates that cannot be counted, in {', '.join(uncounted) or 'no layer'}"
            raise UsageError(network.name, reason, "fix the size of its inputs, or give parameters or channels")
        importance = ranking.rank(units, self.criterion, state, self._gradients(network, context, units))
        choice = selection.choose(units, importance, self.wish, network.name)
        kept = {**graph.kept, **choice.kept}
        for layer, reason in unknown.items():
            context.warn(f"{layer} is left alone: {reason}")
        smaller = network.resized(cut(units, state, choice.removed))
        return Plain(smaller, {**_facts(units, choice), "criterion": self.criterion, "kept": kept})

    def _gradients(self, network: Network, context: Context, units: Units) -> list[Arrays]:
        if self.criterion != ranking.TAYLOR:
            return []
        names = sorted({use.parameter for use in ranking.makers(units, self.criterion)})
        batches = context.lessons.shuffled(context.course.train.batch_size, context.seed, 0)
        return [network.gradients([batch], context.course.objective, names) for batch in islice(batches, self.batches)]


def _frozen(units: Units) -> dict[str, str]:
    """Return by layer why its channels must stay, but for those at the model's borders."""
    found: dict[str, str] = {}
    for pool in units.pools:
        if pool.frozen and pool.frozen not in (MODEL_INPUT, MODEL_OUTPUT):
            found |= dict.fromkeys(pool.layers, pool.frozen)
    return found


def _facts(units: Units, choice: Choice) -> dict[str, Any]:
    """Return what became of the model, in figures; multiply-accumulates only where those of all layers are known."""
    facts: dict[str, Any] = {}
    counted = {MACS: units.macs()} if all(cost.macs for cost in units.graph.costs) else {}
    for key, ledger in {**counted, PARAMETERS: units.parameters()}.items():
        ledger.remove(choice.removed)
        facts |= {f"{key}_before": round(ledger.before), f"{key}_after": round(ledger.total)}
    gone = np.array(sorted(choice.removed), dtype=np.int64)
    sizes = {name: (len(ids), int((~np.isin(ids, gone)).sum())) for name, ids in units.layers.items()}
    return {**facts, "layers": {name: {"before": a, "after": b} for name, (a, b) in sizes.items()}}
