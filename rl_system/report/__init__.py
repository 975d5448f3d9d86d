"""The HTML report of one run, or of several compared: one file that needs nothing beside it."""

from rl_system.report.page import write_report

__all__ = ["write_report"]
