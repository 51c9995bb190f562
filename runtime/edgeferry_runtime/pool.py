"""Several models of one file, for several threads."""

from __future__ import annotations

import os
import queue
from collections import deque
from collections.abc import Callable, Iterable, Iterator, Mapping
from types import TracebackType
from typing import TYPE_CHECKING, Any, TypeVar

from edgeferry_runtime.engines import open_engine, parse_delegates
from edgeferry_runtime.errors import EngineError, UsageError
from edgeferry_runtime.model import Model, load
from edgeferry_runtime.tensors import Array
from edgeferry_runtime.undo import undo_on_error

if TYPE_CHECKING:
    from edgeferry_runtime.classification import Classifier, Prediction

Result = TypeVar("Result")

WORTH_SHARING_MIB = 8
"""Of a smaller file, copies of the weights cost less than it takes to find out whether they can be shared."""


class ModelPool:
    """Models of one file that threads call at the same time; each call takes one that is free, or waits for it.

    The file is verified once, and its weights are mapped once. On ONNX Runtime all of the pool is one session. On
    LiteRT each model has an arena of its own. The copy of the weights that XNNPACK packs for its kernels is there once
    for all where `sharing` says so, and else once per model. It is shared on Linux, on the CPU, for a file of 8 MiB or
    more whose shapes are fixed, after a child process has got the interpreter's very answers in that way.

    Args:
        path: A bundle's folder, or a ``.tflite`` or ``.onnx`` file.
        size: How many calls at the same time; a good choice is the number of cores.
        delegate: Where each model executes; one thread each is what makes several worth while.
        signature: Which of an artifact's signatures to run, as for `load`.

    Attributes:
        size: How many calls at the same time.
        execution: What really executes each.
        sharing: In words, whether the models share their weights, and why not.
        inputs: Name, shape, stored dtype and quantization of each input.
        outputs: The same of each output.

    Raises:
        UsageError: If `size` is less than 1, or the model keeps state from one call to the next, which a pool would
            spread over its models.
        EdgeferryError: What `load` raises.
    """

    def __init__(
        self, path: str | os.PathLike[str], size: int, *, delegate: str = "cpu:1", signature: str | None = None
    ) -> None:
        if size < 1:
            raise UsageError("ModelPool", f"has a size of {size}", "give at least 1")
        first = load(path, delegate=delegate, signature=signature)
        if first.stateful:
            first.close()
            raise UsageError(path, "keeps state from one call to the next", "load a model for each stream of its own")
        self.size = size
        self.inputs, self.outputs = first.inputs, first.outputs
        self._models, self.sharing = _models(first, size)
        self.execution = self._models[0].execution
        self._free: queue.SimpleQueue[Model] = queue.SimpleQueue()
        for i in range(size):
            self._free.put(self._models[i % len(self._models)])

    def __call__(self, *args: Any, raw: bool = False, **named: Any) -> Array | dict[str, Array]:
        """Run once, on a model that is free; see `Model.__call__`."""
        model = self._free.get()
        try:
            return model(*args, raw=raw, **named)
        finally:
            self._free.put(model)

    def run(self, feeds: Mapping[str, Any], *, raw: bool = False) -> dict[str, Array]:
        """Run once, on a model that is free; see `Model.run`."""
        model = self._free.get()
        try:
            return model.run(feeds, raw=raw)
        finally:
            self._free.put(model)

    def map(self, samples: Iterable[Any], *, raw: bool = False) -> Iterator[Array | dict[str, Array]]:
        """Run over a stream, on all models at the same time.

        No more than twice `size` of the stream is held. Handing over to a thread costs some tens of microseconds a
        sample.

        Args:
            samples: Each what a call takes: the only input, or a mapping of arrays by input name.
            raw: Give and get stored integers instead of real values.

        Yields:
            What each call returns, in the order of the samples.

        Raises:
            DataError: If a sample does not fit.
            EngineError: If the engine fails.
        """
        return _ahead(lambda sample: self(sample, raw=raw), samples, self.size)

    def classifier(self) -> Classifier:
        """Tell how its models go from a picture to classes; see `Model.classifier`."""
        return self._models[0].classifier()

    def classify(
        self, image: str | os.PathLike[str] | bytes | Array, top: int = 5, *, classifier: Classifier | None = None
    ) -> list[Prediction]:
        """Name what a picture shows, on a model that is free; see `Model.classify`."""
        model = self._free.get()
        try:
            return model.classify(image, top, classifier=classifier)
        finally:
            self._free.put(model)

    def classify_all(
        self, images: Iterable[str | os.PathLike[str] | bytes | Array], top: int = 5
    ) -> Iterator[list[Prediction]]:
        """Name what each of a stream of pictures shows: `map` for pictures, which are decoded side by side as well.

        Args:
            images: What `Model.classify` takes, such as files of frames.
            top: How many classes to return for each.

        Yields:
            The most likely classes of each picture, best first, in the order of the pictures.

        Raises:
            EdgeferryError: What `Model.classify` raises.
        """
        return _ahead(lambda image: self.classify(image, top), images, self.size)

    def close(self) -> None:
        """Close every model, after the calls of other threads; a later call is an EngineError."""
        _close(self._models)

    def __enter__(self) -> ModelPool:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()


def _models(first: Model, size: int) -> tuple[list[Model], str]:
    """Return as many models of the first one's file as are needed, and say how they share their weights."""
    if first.concurrent:
        return [first], "one session runs all calls"
    if size == 1:
        return [first], "there is one model"
    try:
        _try_sharing(first)
    except EngineError as error:
        why = f"each model packs weights of its own: the file {error.reason}"
    else:
        return _shared(first, size), "the packed weights are there once"
    models = [first]
    with undo_on_error(lambda: _close(models)):
        while len(models) < size:
            models.append(_twin(first))
    return models, why


def _close(models: Iterable[Model]) -> None:
    for model in models:
        model.close()


def _try_sharing(first: Model) -> None:
    size_mib = first.path.stat().st_size / 2**20
    if size_mib < WORTH_SHARING_MIB:
        raise EngineError(first.path, f"has {size_mib:.1f} MiB, too little to share", "load it for each thread")
    from edgeferry_runtime.engines.litert_sharing import try_sharing

    try_sharing(first.path, first._engine)


def _shared(first: Model, size: int) -> list[Model]:
    """Put models that share their weights in the place of the first one, whose memory has to go before."""
    from edgeferry_runtime.engines.litert_shared import open_shared

    delegate = parse_delegates(first.delegate)[0]
    first.close()
    engines = open_shared(first.path, first._engine, delegate, size)
    return [Model(first.path, first.format, engine, first.manifest) for engine in engines]


def _twin(model: Model) -> Model:
    """Load the file of a model, which is known to be sound, once more."""
    delegates = parse_delegates(model.delegate)
    engine = open_engine(model.format, model.path, delegates, model.signature or None, tried=True)
    return Model(model.path, model.format, engine, model.manifest)


def _ahead(call: Callable[[Any], Result], items: Iterable[Any], size: int) -> Iterator[Result]:
    """Yield ``call(item)`` in the order of the items, from `size` threads that are at most twice that many ahead."""
    from concurrent.futures import Future, ThreadPoolExecutor

    waiting: deque[Future[Result]] = deque()
    with ThreadPoolExecutor(size) as workers:
        try:
            for item in items:
                waiting.append(workers.submit(call, item))
                if len(waiting) >= 2 * size:
                    yield waiting.popleft().result()
            while waiting:
                yield waiting.popleft().result()
        finally:
            for future in waiting:
                future.cancel()
