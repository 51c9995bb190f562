"""What a release is proven with, in words."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from edgeferry_runtime.commands.delegate_option import execution_lines


def proven(proof: Mapping[str, Any]) -> str:
    """Return such as ``ai_edge_litert 2.3.0 on cpu``; empty where it is not known."""
    return f"{proof['engine']['name']} {proof['engine']['version']} on {proof['delegate']}" if proof else ""


def proof_lines(proof: Mapping[str, Any]) -> list[str]:
    """Say what really executed, where more than the plain CPU was asked for."""
    from edgeferry_runtime.engines import Execution

    if not proof or proof["delegate"] == "cpu":
        return []
    return execution_lines(Execution.from_dict(proof["execution"]))
