"""``ferry engines``: what this machine can execute with, and why not with the rest."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

import click

from edgeferry_runtime.commands.output import emit, json_option, table

if TYPE_CHECKING:
    from edgeferry_runtime.survey import Finding, Survey

USABLE = {True: "yes", False: "no", None: "not tried"}
FORMATS = {"tflite": "TFLite", "onnx": "ONNX"}


@click.command("engines")
@json_option
def engines(as_json: bool) -> None:
    """List the engines and delegates of this machine, and why the others cannot be used.

    Each is tried on a tiny model, in a process of its own.
    """
    from edgeferry_runtime.survey import survey

    found = survey()
    if as_json:
        emit(found.to_dict())
    else:
        click.echo(_text(found))


def _text(found: Survey) -> str:
    engines = [(f.name, f.version or "-", USABLE[f.usable], f.detail or f.reason or "") for f in found.engines]
    delegates = [(f.name, FORMATS[f.kind], USABLE[f.usable], f.detail or f.reason or "") for f in found.delegates]
    return "\n".join(
        [
            table([("engine", "version", "usable", ""), *engines]),
            "",
            table([("delegate", "files", "usable", ""), *delegates]),
            *_ways_out((*found.engines, *found.delegates)),
        ]
    )


def _ways_out(findings: Sequence[Finding]) -> list[str]:
    """Say what to do about those that cannot be used, once where it is the same."""
    names: dict[str, list[str]] = {}
    for finding in findings:
        if finding.usable is False and finding.fix:
            names.setdefault(finding.fix, []).append(_full_name(finding))
    return ["", "What to do:", *(f"  {', '.join(whose)}: {fix}" for fix, whose in names.items())] if names else []


def _full_name(finding: Finding) -> str:
    return finding.name if finding.kind == "engine" else f"{finding.name} ({FORMATS[finding.kind]})"
