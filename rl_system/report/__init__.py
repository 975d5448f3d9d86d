"""Reports of one run, or of several compared: a page that needs nothing beside it, or numbers."""

from rl_system.report.curves import write_curves
from rl_system.report.page import write_report

__all__ = ["write_curves", "write_report"]
