"""Proves that a program computes on a device what the source did: it is fed the bundle's probe, and writes outputs."""

from __future__ import annotations

import tempfile
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from math import prod
from pathlib import Path

import numpy as np

from edgeferry_devices.device import Completed, Device
from edgeferry_devices.foreign.output import ignored
from edgeferry_devices.foreign.ports import in_order
from edgeferry_runtime.bundle import Bundle
from edgeferry_runtime.codec import decoder, encoder
from edgeferry_runtime.errors import VerificationError
from edgeferry_runtime.numerics import OutputError, compare_output
from edgeferry_runtime.tensors import Array, TensorSpec

ONCE = ("--num_runs=1", "--warmup_runs=0", "--min_secs=0", "--warmup_min_secs=0")
"""One run, and none before it, which a model that keeps something between runs would remember."""
FEEDING = ("--input_layer", "--input_layer_shape", "--input_layer_value_files", "--output_filepath")
NO_FILES = "this binary writes no outputs"

Shape = tuple[int, ...]
Run = Callable[[Sequence[str]], Completed]
"""Runs the program with flags, and returns what it said; it has succeeded."""


class NotProvableError(Exception):
    """Why it cannot be known what a program computes."""


@dataclass(frozen=True)
class Files:
    """The files that a proof needs on the device.

    Attributes:
        device: The device.
        folder: Where they lie.
    """

    device: Device
    folder: str

    @property
    def output(self) -> str:
        """Where the program writes."""
        return f"{self.folder}/probe.out"

    def input(self, index: int) -> str:
        """Where it reads."""
        return f"{self.folder}/probe.in.{index}"

    def send(self, stored: Sequence[Array]) -> None:
        """Bring the inputs, and remove the outputs of the run before."""
        with tempfile.TemporaryDirectory() as folder:
            for i, values in enumerate(stored):
                local = Path(folder) / f"input {i}"
                local.write_bytes(values.tobytes())
                self.device.put(local, self.input(i))
        self.device.exec(["rm", "-f", self.output]).check(self.device.name)

    def fetch(self) -> bytes:
        """Return what was written.

        Raises:
            NotProvableError: If nothing was.
        """
        if self.device.exec(["test", "-s", self.output]).exit_status:
            raise NotProvableError(NO_FILES)
        with tempfile.TemporaryDirectory() as folder:
            local = Path(folder) / "outputs"
            self.device.get(self.output, local)
            return local.read_bytes()

    def remove(self, inputs: int) -> None:
        """Leave nothing."""
        self.device.exec(["rm", "-f", self.output, *map(self.input, range(inputs))])


def prove(bundle: Bundle, signature: str | None, files: Files, run: Run) -> list[OutputError]:
    """Feed a program every sample of the probe, and compare what it answers with the golden outputs.

    Args:
        bundle: Whose artifact the program runs.
        signature: Which of its signatures; None takes the primary one.
        files: Where the program reads and writes.
        run: Runs it.

    Returns:
        The distance of each output.

    Raises:
        NotProvableError: If the program writes no outputs, or cannot be fed these inputs.
        VerificationError: If an output differs by more than the bundle allows.
    """
    inputs, outputs = _ports(bundle, signature)
    golden = bundle.probe(signature)
    shapes = [golden.outputs[spec.name].shape[1:] for spec in outputs]
    try:
        written = [_ask(inputs, feeds, files, run) for feeds in golden.feeds()]
    finally:
        files.remove(len(inputs))
    answers = [list(_split(files.device.name, content, outputs, shapes)) for content in written]
    pairs = ((spec, np.stack([answer[i] for answer in answers])) for i, spec in enumerate(outputs))
    figures = [compare_output(spec.name, golden.outputs[spec.name], actual) for spec, actual in pairs]
    wrong = [text for figure in figures for text in bundle.manifest.tolerance.violations(figure)]
    if wrong:
        fix = "use another delegate, or a benchmark_model of another version"
        raise VerificationError(files.device.name, f"it computes something else there: {'; '.join(wrong)}", fix)
    return figures


def _ports(bundle: Bundle, signature: str | None) -> tuple[list[TensorSpec], list[TensorSpec]]:
    manifest = bundle.manifest.at(signature)
    if any(spec.dtype == "object" or not spec.shape for spec in manifest.inputs):
        raise NotProvableError("a benchmark_model cannot be fed texts or single numbers")
    if not len(bundle.probe(signature)):
        raise NotProvableError("the bundle's probe is empty")
    try:
        return in_order(bundle.artifact, signature, (manifest.inputs, manifest.outputs))
    except ValueError as error:
        raise NotProvableError(f"the bundle's names cannot be found in its graph: {error}") from error


def _ask(inputs: Sequence[TensorSpec], feeds: Mapping[str, Array], files: Files, run: Run) -> bytes:
    """Feed the program one sample, and return what it wrote."""
    stored = [encoder(spec)(feeds[spec.name]) for spec in inputs]
    files.send(stored)
    said = run([*ONCE, *_feeding(stored, files)])
    if set(FEEDING) & {flag.partition("=")[0] for flag in ignored(text_of(said))}:
        raise NotProvableError(NO_FILES)
    return files.fetch()


def _feeding(stored: Sequence[Array], files: Files) -> list[str]:
    names = [f"input{i}" for i in range(len(stored))]
    shapes = ":".join(",".join(map(str, values.shape)) for values in stored)
    places = ",".join(f"{name}:{files.input(i)}" for i, name in enumerate(names))
    values = (",".join(names), shapes, places, files.output)
    return [f"{flag}={value}" for flag, value in zip(FEEDING, values, strict=True)]


def _split(device: str, content: bytes, outputs: Sequence[TensorSpec], shapes: Sequence[Shape]) -> Iterator[Array]:
    """Cut what was written into the outputs, which have the shapes of the golden ones."""
    sizes = [np.dtype(spec.dtype).itemsize * prod(shape) for spec, shape in zip(outputs, shapes, strict=True)]
    if len(content) != sum(sizes):
        reason = f"it wrote {len(content)} bytes of outputs, and {sum(sizes)} were expected"
        raise VerificationError(device, reason, "use a benchmark_model of another version")
    start = 0
    for spec, shape, size in zip(outputs, shapes, sizes, strict=True):
        stored = np.frombuffer(content[start : start + size], spec.dtype).reshape(shape)
        real = decoder(spec)
        yield real(stored) if real else stored
        start += size


def text_of(done: Completed) -> str:
    """Return all that a program said."""
    return (done.stdout + b"\n" + done.stderr).decode(errors="replace")
