"""A page of what was measured: `render_report` makes it, `save` keeps it.

`sides` puts together what was measured together, `scales` lays numbers onto axes; then each section of the page has
a module that turns sides into frozen data, and a template that writes them. No number is computed in a template, and
no markup is written in Python. `charts` has the sections with a chart in common use; `page` puts all together.
"""

from __future__ import annotations

from edgeferry_devices.report.page import render_report
from edgeferry_devices.report.saving import save

__all__ = ["render_report", "save"]
