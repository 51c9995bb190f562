"""``tensorflow.serving.ModelSpec``: which model and version a request means."""

from __future__ import annotations

from typing import Any

from edgeferry_runtime.serving.refusals import Kind, RefusedError
from edgeferry_runtime.serving.release import Release
from edgeferry_runtime.serving.repository import Repository
from edgeferry_runtime.serving.rpc.messages import message


def version(spec: Any) -> int | None:
    """Return the version that is asked for; None is the default one.

    Raises:
        RefusedError: NOT_FOUND if it is a label.
    """
    choice = spec.WhichOneof("version_choice")
    if choice == "version_label":
        reason, fix = "is a label, and versions have none here", "give a number, or none for the default version"
        raise RefusedError(Kind.NOT_FOUND, f"version {spec.version_label[:80]!r}", reason, fix)
    return int(spec.version.value) if choice else None


def find(repository: Repository, spec: Any) -> Release:
    """Return the release that a request means.

    Raises:
        RefusedError: What `version` and `Repository.find` raise.
    """
    return repository.find(spec.name, version(spec))


def answered(release: Release, signature: str) -> Any:
    """Return the ``ModelSpec`` of an answer."""
    made = message("tensorflow.serving.ModelSpec")(name=release.name, signature_name=signature)
    made.version.value = release.version
    return made
