"""What ``ferry bench`` and ``ferry compare`` are given: a bundle, or a bare artifact."""

from __future__ import annotations

from pathlib import Path

from edgeferry_runtime.bundle import Bundle
from edgeferry_runtime.engines import parse_delegates
from edgeferry_runtime.guard import check_artifact, try_in_child


def check_target(path: Path, delegate: str = "cpu") -> Bundle | None:
    """Make sure that a target is what it says before it is measured, which happens in a process of its own.

    A bundle is compared with its hashes; its artifact was run when it was made. A bare artifact is doubtful: it
    is loaded and run once in a child process first, as `engines.open_engine` does with any delegate but the plain CPU.

    Args:
        path: A bundle's folder, or an artifact.
        delegate: Where it is to be executed.

    Returns:
        The bundle; None for a bare artifact.

    Raises:
        MissingFileError, BundleError: If there is none, or it was changed.
        ArtifactError: If the artifact is unknown or damaged.
        EngineError: If the engine refuses it or dies of it.
    """
    if path.is_dir():
        bundle = Bundle.open(path)
        bundle.check()
        return bundle
    check_artifact(path)
    places = parse_delegates(delegate)
    if len(places) > 1 or places[0].is_plain_cpu:
        try_in_child(path, delegate=delegate)
    return None
