"""Measures a bundle by a ``benchmark_model`` that the user gives, on a device where our runtime need not be."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from datetime import datetime, timezone
from typing import Any

from edgeferry_devices.device import Completed, Device, Say, silent
from edgeferry_devices.foreign import looking
from edgeferry_devices.foreign.binary import NAME, Binary
from edgeferry_devices.foreign.flags import bench_flags, delegate_flags
from edgeferry_devices.foreign.output import Delegated, Told, ignored, parse
from edgeferry_devices.foreign.placing import Blob, place
from edgeferry_devices.foreign.proof import Files, NotProvableError, prove, text_of
from edgeferry_devices.knowing.python_checks import SIGNALS
from edgeferry_runtime import __version__
from edgeferry_runtime.bundle import Bundle
from edgeferry_runtime.engines import Delegate, Execution
from edgeferry_runtime.errors import DelegationError, EngineError, UsageError
from edgeferry_runtime.flatbuffer import map_file
from edgeferry_runtime.guard import check_artifact
from edgeferry_runtime.measurement import marks
from edgeferry_runtime.measurement.marks import Mark
from edgeferry_runtime.measurement.options import BenchOptions
from edgeferry_runtime.profile import Profile
from edgeferry_runtime.tflite_file import read_tflite

SPARE_S = 600.0
"""Seconds that loading may take beside what the options allow."""
XNNPACK = "xnnpack"


class Program:
    """The binary on a device, with a bundle's artifact beside it.

    Args:
        device: The device.
        binary: What runs.
        bundle: What it runs.
        options: How, and where.
        say: Takes the progress.
    """

    def __init__(self, device: Device, binary: Binary, bundle: Bundle, options: BenchOptions, say: Say) -> None:
        artifact = bundle.manifest.files[bundle.manifest.artifact]
        self.device, self.options = device, options
        self.path = place(device, Blob(binary.path, binary.sha256, NAME, "700"), say)
        self.model = place(device, Blob(bundle.artifact, artifact, "model.tflite"), say)
        self.always = [f"--graph={self.model}", *_signature_flags(bundle, options.signature)]

    @property
    def folder(self) -> str:
        """Where it lies."""
        return self.path.rpartition("/")[0]

    def run(self, flags: Sequence[str]) -> Completed:
        """Run it with flags.

        Raises:
            EngineError: If it fails.
        """
        argv = [self.path, *self.always, *flags]
        done = self.device.exec(argv, timeout=self.options.longest_secs + SPARE_S)
        if done.exit_status:
            raise _failure(self.device.name, done)
        return done


def _failure(device: str, done: Completed) -> EngineError:
    said = (text_of(done).strip().splitlines() or ["it printed nothing"])[-1][:300]
    why = SIGNALS.get(f"signal {done.exit_status - 128}", f"ends with status {done.exit_status}: {said}")
    fix = "see what it needs; it must have been built for this device, and know every operator of the model"
    return EngineError(f"{NAME} on {device}", why, fix)


def measure(
    device: Device, bundle: Bundle, binary: Binary, options: BenchOptions | None = None, say: Say = silent
) -> Profile:
    """Prove and measure a bundle; what the program does not tell is absent from the profile.

    Args:
        device: The device; it needs a shell and ``sha256sum``.
        bundle: The bundle, of a TFLite artifact.
        binary: The program, which must have been built for the device.
        options: How to measure.
        say: Takes the progress.

    Raises:
        UsageError: If the artifact is not a TFLite one, or something is wanted that the program cannot do.
        VerificationError: If it computes something else than the source did.
        DelegationError: If the delegate that was asked for took nothing.
        EngineError: If the program fails, ignores a flag, or does not tell its figures.
        DeviceError: If the device cannot be reached, or refuses.
    """
    options = options or BenchOptions()
    flags = bench_flags(options)
    if bundle.manifest.format != "tflite":
        reason = f"is of the format {bundle.manifest.format}, and a benchmark_model runs TFLite"
        raise UsageError(f"bundle {bundle.manifest.name}", reason, "leave out --benchmark-binary")
    bundle.check()
    check_artifact(bundle.artifact)
    program = Program(device, binary, bundle, options, say)
    facts = looking.machine(device)
    proof = _prove(program, bundle, say)
    before = looking.state(device)
    say(f"{device.name}: measuring {bundle.manifest.name}")
    text = text_of(program.run(flags))
    after = looking.state(device)
    _check_flags(device.name, text)
    told = parse(NAME, text)
    _check_delegate(told, options)
    found = _marks(told, options, proof, (before, after), facts.get("cores") or 1)
    return Profile(
        artifact=_artifact(bundle, options.signature),
        engine={"name": NAME, "version": binary.sha256[:12], "delegate": options.delegate},
        device=device.name,
        machine=facts,
        init_ms=told.init_ms,
        first_inference_ms=told.first_ms,
        num_runs=told.num_runs,
        warmup_runs=told.warmup_runs,
        **_figures(told),
        **_delegation(told, options),
        state_before=before,
        state_after=after,
        binary={"sha256": binary.sha256, **proof, "warmup_ms": told.warmup_ms, "memory_bytes": dict(told.memory_bytes)},
        warnings=tuple(map(str, found)),
        marks=tuple(vars(mark) for mark in found),
        verdict=marks.verdict(found),
        timestamp=datetime.now(timezone.utc).isoformat(timespec="seconds"),
        edgeferry_version=__version__,
    )


def _signature_flags(bundle: Bundle, wanted: str | None) -> list[str]:
    """Name the signature where there are several, because the program asks for it then."""
    with map_file(bundle.artifact) as data:
        file = read_tflite(data)
    chosen = file.choose(wanted)
    return [f"--signature_to_run_for={chosen.key}"] if chosen and len(file.keys) > 1 else []


def _prove(program: Program, bundle: Bundle, say: Say) -> dict[str, Any]:
    """Return what was proven, or why nothing could be."""
    say(f"{program.device.name}: proving {bundle.manifest.name}")
    run, delegate = program.run, delegate_flags(program.options)
    files = Files(program.device, program.folder)
    signature = program.options.signature
    try:
        figures = prove(bundle, signature, files, lambda flags: run([*delegate, *flags]))
    except NotProvableError as error:
        return {"proven": False, "reason": str(error)}
    return {"proven": True, "samples": len(bundle.probe(signature)), "figures": [f.to_dict() for f in figures]}


def _check_flags(device: str, text: str) -> None:
    """Refuse figures of something else than what was asked for."""
    unknown = ignored(text)
    if unknown:
        fix = "give one that was built with it, or ask for something else"
        raise EngineError(f"{NAME} on {device}", f"does not know {', '.join(unknown)}, and went on without", fix)


def _check_delegate(told: Told, options: BenchOptions) -> None:
    if told.share == "none":
        reason = f"the delegate {options.delegate} took no node, and the CPU computed all of it"
        raise DelegationError(NAME, reason, "use another delegate, or a binary that was built with this one")


def _taken(told: Told, options: BenchOptions) -> Delegated | None:
    """Return what the delegate took that was asked for; on the CPU that is XNNPACK."""
    on_cpu = Delegate.parse(options.delegate).is_plain_cpu
    return next((found for found in told.delegated if (XNNPACK in found.name.lower()) == on_cpu), None)


def _delegation(told: Told, options: BenchOptions) -> dict[str, Any]:
    taken = _taken(told, options)
    counts: dict[str, Any] = {}
    if taken:
        counts = {"nodes_total": taken.of, "nodes_delegated": taken.nodes, "partitions": taken.partitions}
    processor = f"what {NAME} takes for {options.delegate}"
    return {**counts, "execution": Execution(options.delegate, options.delegate, processor, **counts).to_dict()}


def _marks(
    told: Told,
    options: BenchOptions,
    proof: Mapping[str, Any],
    states: tuple[Mapping[str, Any], Mapping[str, Any]],
    cores: int,
) -> tuple[Mark, ...]:
    return (
        *_of_proof(proof),
        *_of_delegate(told, options),
        *marks.of_figures(told.num_runs, told.figures["median"], told.figures["p95"], options),
        *marks.of_states(states, cores),
    )


def _of_proof(proof: Mapping[str, Any]) -> Iterator[Mark]:
    if not proof["proven"]:
        yield Mark("not proven", str(proof["reason"]))


def _of_delegate(told: Told, options: BenchOptions) -> Iterator[Mark]:
    if Delegate.parse(options.delegate).is_plain_cpu or told.share == "all":
        return
    taken = _taken(told, options)
    if taken and taken.nodes < taken.of:
        yield Mark("shared", f"{taken.name} took {taken.nodes} of {taken.of} nodes, and the CPU the others")
    elif told.share == "part":
        yield Mark("shared", f"{options.delegate} took a part of the nodes, and the CPU the others")
    elif taken is None:
        yield Mark("unknown", f"the binary does not tell which nodes {options.delegate} took")


def _figures(told: Told) -> dict[str, Any]:
    return {f"{name}_ms": value for name, value in told.figures.items()}


def _artifact(bundle: Bundle, signature: str | None) -> dict[str, Any]:
    manifest = bundle.manifest
    return {
        "name": manifest.name,
        "format": manifest.format,
        "precision": manifest.precision,
        "bundle": bundle.id,
        "size_bytes": bundle.artifact.stat().st_size,
        "sha256": manifest.files[manifest.artifact],
        "accuracy": manifest.verification.get("accuracy"),
        **({"signature": signature} if signature else {}),
    }
