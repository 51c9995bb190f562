"""Facts and findings as text."""

from __future__ import annotations

import textwrap
from collections.abc import Mapping, Sequence
from typing import Any

from edgeferry_devices.doctor import Diagnosis
from edgeferry_devices.facts import Facts

WIDTH = 100
FIRST = ("board", "soc", "cpu", "cores", "features", "memory_bytes", "os", "kernel", "arch", "userland_bits")
HIDDEN = ("near", "folder", "ours", "holds", "home", "imports", "system", "soc_vendor", "uptime_s")
"""What is for programs and for the doctor."""


def facts_text(facts: Facts) -> str:
    """Lay out facts as a page of aligned lines."""
    runtime = facts.runtime or "not installed yet: ferry device setup brings it, or the first push"
    head = {"device": facts.device, "address": facts.address, "root": facts.root, "runtime": runtime}
    all_told = {**facts.machine, **facts.state, **facts.folder, **facts.accelerators}
    told = {**head, **{key: all_told[key] for key in FIRST if key in all_told}, **all_told}
    imports = facts.machine.get("imports", {})
    lines = {_name(key): _text(key, value, imports) for key, value in told.items() if key not in HIDDEN}
    width = max(len(key) for key in lines)
    return "\n".join(_line(key.ljust(width), value) for key, value in lines.items())


def diagnosis_text(diagnosis: Diagnosis) -> str:
    """Lay out findings, one paragraph each, with what to do below."""
    facts = diagnosis.facts
    board = facts.machine.get("board")
    lines = [f"{facts.device} ({facts.address}){f': {board}' if board else ''}"]
    width = max((len(finding.check) for finding in diagnosis.findings), default=0)
    for finding in diagnosis.findings:
        lines.append(_line(f"{finding.verdict.ljust(7)}  {finding.check.ljust(width)}", finding.reason))
        if finding.fix:
            lines.append(_line(" " * (9 + width), f"-> {finding.fix}"))
    return "\n".join(lines)


def _line(head: str, text: str) -> str:
    return textwrap.fill(
        text,
        WIDTH,
        initial_indent=f"{head}  ",
        subsequent_indent=" " * (len(head) + 2),
        break_long_words=False,
        break_on_hyphens=False,
    )


def _name(key: str) -> str:
    return key.removesuffix("_bytes").removesuffix("_s").replace("_", " ")


def _text(key: str, value: Any, imports: Mapping[str, str]) -> str:
    if key == "engines":
        return ", ".join(_engine(name, version, imports) for name, version in value.items()) or "none"
    if isinstance(value, Mapping):
        return ", ".join(f"{name} {what}" for name, what in value.items()) or "none"
    if isinstance(value, Sequence) and not isinstance(value, str):
        return ", ".join(map(_item, value)) or "none"
    if key.endswith("_bytes") and isinstance(value, int):
        return f"{value / 2**30:.1f} GiB"
    return str(value)


def _engine(name: str, version: str, imports: Mapping[str, str]) -> str:
    return f"{name} {version} (cannot be imported: {imports[name]})" if imports.get(name) else f"{name} {version}"


def _item(value: Any) -> str:
    if not isinstance(value, Mapping):
        return str(value)
    return f"{value['kind']} {value.get('path') or value.get('id')}{'' if value['usable'] else ' (no permission)'}"
