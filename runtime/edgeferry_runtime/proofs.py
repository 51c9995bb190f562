"""What each release was proven with: kept beside the releases, and replaced only by a proof that has passed too."""

from __future__ import annotations

import json
import uuid
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from datetime import datetime, timezone
from pathlib import Path
from typing import Any

from edgeferry_runtime import machine
from edgeferry_runtime.store import Store, check_name, sync, writing

FOLDER = "proofs"
DEFAULT = "cpu"
KEPT = ("delegate", "engine", "execution", "at")


@dataclass(frozen=True)
class Terms:
    """What a release has to be proven with before it counts.

    Attributes:
        delegate: Where it executes; None for what it was proven with before, or else ``cpu``.
        full: Whether the delegate has to take every node.
        any_proof: Whether every proof will do for a release that is current already.
    """

    delegate: str | None = None
    full: bool = False
    any_proof: bool = False

    def to_dict(self) -> dict[str, Any]:
        """Return the JSON form."""
        return asdict(self)

    def unmet(self, proof: Mapping[str, Any]) -> str:
        """Say why a proof is not enough; empty where it is."""
        if self.any_proof:
            return ""
        if not proof:
            return "what it was proven with is not known"
        if self.delegate not in (None, proof["delegate"]):
            return f"it was proven on {proof['delegate']}"
        if self.full and not proof["execution"].get("full"):
            return f"not every node was on {proof['delegate']}"
        name, version = proof["engine"]["name"], proof["engine"]["version"]
        return "" if machine.has_engine(name, version) else f"{name} {version}, which proved it, is there no more"


def now() -> str:
    """Return the time by the device's clock, which may be wrong."""
    return datetime.now(timezone.utc).isoformat(timespec="seconds")


def keep(store: Store, name: str, release: str, proof: Mapping[str, Any]) -> None:
    """Write down what a release was proven with, in one step: where, by what, how it executed, and when."""
    path = _path(store, name, release)
    proof = {key: proof[key] for key in KEPT}
    with writing(store.root):
        path.parent.mkdir(exist_ok=True)
        fresh = path.with_name(f".{path.name}.{uuid.uuid4().hex[:8]}")
        fresh.write_text(json.dumps(proof, indent=2, ensure_ascii=False) + "\n", encoding="utf-8")
        sync(fresh)
        fresh.replace(path)
        sync(path.parent)


def read(store: Store, name: str, release: str) -> dict[str, Any]:
    """Return what a release was proven with; empty where that is not known."""
    try:
        proof = json.loads(_path(store, name, release).read_text(encoding="utf-8"))
        texts = (proof["delegate"], proof["engine"]["name"], proof["engine"]["version"], proof["at"])
        sound = all(isinstance(text, str) for text in texts) and isinstance(proof["execution"], dict)
    except (OSError, ValueError, KeyError, TypeError):
        return {}
    return dict(proof) if sound else {}


def orphans(store: Store, name: str) -> list[Path]:
    """Return the proofs of releases that are gone, and what was half written."""
    folder = store.root / "bundles" / check_name(name)
    return [path for path in folder.glob(f"{FOLDER}/*") if not (folder / "releases" / path.stem).is_dir()]


def tidy(store: Store, name: str) -> None:
    """Remove the proofs of releases that are gone."""
    for path in orphans(store, name):
        path.unlink(missing_ok=True)


def _path(store: Store, name: str, release: str) -> Path:
    return store.root / "bundles" / check_name(name) / FOLDER / f"{release}.json"
