"""A run as one page that can be mailed: what its directory says, and what plugins add to it."""

from __future__ import annotations

from ebmkit.reports.page import written
from ebmkit.reports.section import Picture, Section

__all__ = ["Picture", "Section", "written"]
