"""``ferry lint``: what a delegate would leave to the CPU, before any device is touched."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

import click

from edgeferry_runtime.commands.output import emit, json_option, table

if TYPE_CHECKING:
    from edgeferry_runtime.lint import Lint


@click.command("lint")
@click.argument("target", type=click.Path(path_type=Path))
@click.option("--for", "delegate", metavar="edgetpu|gpu|npu", required=True, help="The delegate whose rules are asked.")
@click.option("--require-full-delegation", is_flag=True, help="Fail with status 3 unless every node is surely taken.")
@json_option
def lint(target: Path, delegate: str, require_full_delegation: bool, as_json: bool) -> None:
    """Say which operators of a TFLite artifact a delegate would leave to the CPU, and why.

    TARGET is a bundle's folder or a .tflite file. Only the file is read: no engine and no device is touched.
    """
    from edgeferry_runtime.lint import lint

    found = lint(target, delegate)
    if as_json:
        emit(found.to_dict())
    else:
        click.echo(_text(found))
    if require_full_delegation:
        found.check()


def _text(found: Lint) -> str:
    surely = f"{found.target}: {found.nodes_taken} of {found.nodes_total} nodes surely ({found.percent:.3g} %)"
    lines = [surely + (f", {found.nodes_doubtful} doubtful" if found.nodes_doubtful else "")]
    if found.first:
        first = found.first
        lines.append(f"the first that is not surely taken: node {first.index}, {first.operator} {first.name!r}")
        rows = [(op, str(n), "no" if sure else "doubtful", reason) for op, reason, sure, n in found.groups()]
        lines += ["", table([("operator", "nodes", "taken", ""), *rows]), ""]
    return "\n".join([*lines, *found.notes, f"rules: {found.rules}"])
