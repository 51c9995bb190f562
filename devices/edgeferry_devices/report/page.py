"""The page: one file of HTML that asks the network for nothing and runs no script."""

from __future__ import annotations

import base64
import hashlib
from collections.abc import Sequence
from importlib.resources import files
from typing import TYPE_CHECKING, Any

from edgeferry_devices.report.changes import changes
from edgeferry_devices.report.conditions import conditions
from edgeferry_devices.report.distributions import distributions
from edgeferry_devices.report.numbers import moment
from edgeferry_devices.report.operators import operators
from edgeferry_devices.report.saving import MARKER
from edgeferry_devices.report.sensors import sensors
from edgeferry_devices.report.summary import HEAD, summary
from edgeferry_devices.report.tradeoffs import against_accuracy, against_size
from edgeferry_runtime.errors import DataError, MissingExtraError

if TYPE_CHECKING:
    from jinja2 import Environment

    from edgeferry_devices.comparing import Row
    from edgeferry_devices.sides import Key

TITLE = "Latency report"
TEMPLATES = files("edgeferry_devices.report") / "templates"


def render_report(rows: Sequence[Row], title: str = TITLE) -> str:
    """Return a page of HTML about what was measured, the same one for the same rows.

    Args:
        rows: From `edgeferry_devices.comparing.rows`: the newest run of each bundle, device and delegate, compared
            with the one before; in any order.
        title: Of the page.

    Raises:
        DataError: If there are none.
        MissingExtraError: If Jinja2 is not installed.
    """
    if not rows:
        raise DataError("report", "has nothing to show", "measure first: ferry profile BUNDLE --on DEVICE")
    page = _environment().get_template("page.html.j2")
    style = (TEMPLATES / "page.css").read_text(encoding="utf-8")
    text = page.render(
        title=title,
        style=style,
        style_hash=base64.b64encode(hashlib.sha256(style.encode()).digest()).decode(),
        marker=MARKER,
        **_sections(sorted(rows, key=_place)),
    )
    return text.encode("utf-8", "replace").decode("utf-8")


def _place(row: Row) -> tuple[str, float, Key]:
    """Return what rows are sorted by: the bundle, and then the fastest first."""
    return row.side.key.bundle, row.side.median_ms, row.side.key


def _sections(rows: Sequence[Row]) -> dict[str, Any]:
    """Return what each section shows."""
    sides = [row.side for row in rows]
    return {
        "sides": sides,
        "devices": sorted({side.key.device for side in sides}),
        "bundles": sorted({side.key.bundle for side in sides}),
        "distrusted": sum(not side.trusted for side in sides),
        "begin": moment(min(side.at for side in sides)),
        "end": moment(max(side.at for side in sides)),
        "head": HEAD,
        "summary": summary(sides),
        "changes": changes(rows),
        "distributions": distributions(sides),
        "against_size": against_size(sides),
        "against_accuracy": against_accuracy(sides),
        "operators": operators(sides),
        "sensors": sensors(sides),
        "conditions": conditions(sides),
    }


def _environment() -> Environment:
    """Return Jinja2 with every value escaped, and every unknown name an error."""
    try:
        from jinja2 import Environment, FunctionLoader, StrictUndefined
    except ImportError:
        raise MissingExtraError("ferry report", "report", "Jinja2") from None

    return Environment(
        loader=FunctionLoader(lambda name: (TEMPLATES / name).read_text(encoding="utf-8")),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
