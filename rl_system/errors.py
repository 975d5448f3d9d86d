"""What a user can put right. The command line prints these as one message, without a traceback."""

from __future__ import annotations


class UserError(Exception):
    """Something outside the program must change; the message says what and how."""


class SettingsError(UserError, ValueError):
    """A setting that does not exist, has a wrong type, or does not fit another one."""


class CheckpointError(UserError):
    """A checkpoint that is missing, damaged or made by something else; nothing was applied."""


class RunError(UserError):
    """A run that cannot start or go on here."""
