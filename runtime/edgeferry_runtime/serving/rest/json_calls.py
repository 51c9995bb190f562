"""A request in JSON, on its way to a model and back: what TensorFlow Serving's and TorchServe's calls share."""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property, partial
from typing import Any

import numpy as np

from edgeferry_runtime.errors import EdgeferryError
from edgeferry_runtime.serving.aside import steps
from edgeferry_runtime.serving.refusals import Kind, RefusedError, refuse
from edgeferry_runtime.serving.release import Release
from edgeferry_runtime.serving.rest.json_tensors import read_json, tensor
from edgeferry_runtime.serving.service import Call, Named, Service
from edgeferry_runtime.serving.signatures import Signature
from edgeferry_runtime.tensors import Array, TensorSpec


@dataclass(frozen=True)
class Asked:
    """A model that a client asks, found.

    Attributes:
        service: What runs it.
        version: Which version, as the client named it; None for the default one.
        release: The release of it that answers.
        signature: Which of its signatures, and whether in stored integers.
    """

    service: Service
    version: str | None
    release: Release
    signature: Signature

    @cached_property
    def inputs(self) -> Mapping[str, TensorSpec]:
        """The inputs by name."""
        return {spec.name: spec for spec in self.signature.lane.inputs}

    def is_current(self) -> bool:
        """Tell whether it is still what answers.

        Raises:
            RefusedError: NOT_FOUND if nothing does any more.
        """
        return self.service.repository.find(self.release.name, self.version) is self.release

    @property
    def takes_pictures(self) -> bool:
        """Whether bytes in a request can only be meant as a picture: it takes one input, and that is no text."""
        primary = self.signature.lane is self.release.primary
        return primary and [spec.dtype == "object" for spec in self.inputs.values()] == [False]

    def only_input(self, subject: str) -> str:
        """Return the name of the only input.

        Args:
            subject: What names no inputs.

        Raises:
            RefusedError: INVALID if there are several.
        """
        if len(self.inputs) == 1:
            return next(iter(self.inputs))
        listed = ", ".join(self.inputs)
        reason = "names no inputs, and the model has several"
        raise RefusedError(Kind.INVALID, subject, reason, f"name them: {listed}")

    def tensor(self, name: str, value: Any) -> Array:
        """Make an array of an input's JSON.

        Raises:
            DataError: If it does not fit.
            RefusedError: INVALID if there is no such input, TOO_LARGE if it is too large.
        """
        spec = self.spec(name)
        found = tensor(spec, value, self.signature.stored)
        self.check(spec, found.shape)
        return found

    def tensors(self, feeds: Mapping[str, Any]) -> Mapping[str, Array]:
        """Make arrays of JSON by input name.

        Raises:
            DataError, RefusedError: As `tensor`.
        """
        return {name: self.tensor(name, value) for name, value in feeds.items()}

    def spec(self, name: str) -> TensorSpec:
        """Return an input.

        Raises:
            RefusedError: INVALID if there is none of this name.
        """
        if name not in self.inputs:
            listed = ", ".join(self.inputs)
            raise RefusedError(Kind.INVALID, f"input {name[:80]!r}", "is none of the model's", f"there are: {listed}")
        return self.inputs[name]

    def check(self, spec: TensorSpec, shape: tuple[int, ...]) -> None:
        """Refuse an input of a shape that is too large, as `Service.check_tensor`."""
        self.service.check_tensor(spec.name, shape, np.dtype(spec.dtype))

    async def run(self, arrays: Mapping[str, Array]) -> Mapping[str, Array]:
        """Run the model.

        Args:
            arrays: What `tensors` made.

        Returns:
            Every output.

        Raises:
            EdgeferryError: What `Service.infer` raises.
        """
        signature, release = self.signature, self.release
        call = Call(release.name, arrays, release.version, signature.key, signature.outputs())
        return (await self.service.infer(call)).outputs

    async def classify(self, pictures: Sequence[bytes], top: int) -> list[Named]:
        """Name what pictures show.

        Raises:
            RefusedError: What `Service.classify_all` raises, as a client may read it.
        """
        name = self.release.name
        try:
            return await self.service.classify_all(name, pictures, top, self.version)
        except EdgeferryError as error:
            raise refuse(error, f"model {name!r}") from error


Answering = Callable[[], Awaitable[Any]]
"""What is left to do once a request is read; it returns what `json_answer` writes."""


async def understand(
    service: Service, body: bytes, find: Callable[[Any], Asked], read: Callable[[Asked, Any], Answering]
) -> Answering:
    """Read a request in JSON; a large one in a thread.

    Args:
        service: What is going to answer.
        body: JSON.
        find: Finds the model that the request means.
        read: Makes arrays or pictures of it. Where the model is replaced meanwhile, it is called again.

    Returns:
        What `read` returned, for the release that answers at this moment.

    Raises:
        EdgeferryError: What `read_json`, `find` and `read` raise.
    """
    async with steps(service, len(body)) as do:
        value = await do(partial(read_json, body))
        while True:
            asked = find(value)
            answering: Answering = await do(partial(read, asked, value))
            if asked.is_current():
                return answering
