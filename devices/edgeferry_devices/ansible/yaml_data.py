"""YAML as data alone: no objects, no bombs, and what Ansible keeps in a vault stays a sealed word."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from edgeferry_runtime.errors import MissingExtraError, UsageError

MOST_NODES = 200_000
"""Values of a file, each alias counted as what it stands for."""


@dataclass(frozen=True)
class Sealed:
    """A value that cannot be read without a password."""


def load(text: str, where: str) -> Any:
    """Read YAML.

    Args:
        text: Its content.
        where: The file, for messages.

    Raises:
        UsageError: If it is none, needs a vault's password, or would unfold to more than `MOST_NODES` values.
        MissingExtraError: If PyYAML is not installed.
    """
    try:
        import yaml
    except ModuleNotFoundError as error:
        raise MissingExtraError(where, "devices", "yaml") from error

    class Loader(yaml.SafeLoader):  # type: ignore[misc]
        """Knows the two tags of Ansible's, on this class alone."""

    Loader.add_constructor("!vault", lambda *_: Sealed())
    Loader.add_constructor("!vault-encrypted", lambda *_: Sealed())
    Loader.add_constructor("!unsafe", lambda loader, node: loader.construct_scalar(node))
    if text.startswith("$ANSIBLE_VAULT"):
        raise UsageError(where, "is sealed in a vault", "write what is to be read of it into another file")
    loader = Loader(text)
    try:
        node = loader.get_single_node()
        _weigh(node, where)
        return loader.construct_document(node) if node else None
    except (yaml.YAMLError, ValueError, TypeError, RecursionError) as error:
        if isinstance(error, UsageError):
            raise
        said = " ".join(str(error).split())[:200]
        raise UsageError(where, f"cannot be read as YAML ({said})", "correct the file") from error
    finally:
        loader.dispose()


def _weigh(node: Any, where: str) -> None:
    """Refuse a tree whose aliases unfold to too much, or that contains itself."""
    weights: dict[int, int] = {}

    def weight(each: Any) -> int:
        if id(each) not in weights:
            weights[id(each)] = MOST_NODES  # as long as it is not known: one that contains itself is too heavy
            parts = each.value if isinstance(each.value, list) else ()
            weights[id(each)] = 1 + sum(weight(p) for part in parts for p in (part if type(part) is tuple else (part,)))
        return weights[id(each)]

    if node and weight(node) > MOST_NODES:
        raise UsageError(where, f"unfolds to more than {MOST_NODES:,} values", "write it without so many aliases")
