"""What can end a command, and how it is told: a user's error as one message without a traceback, an
error of the program as one line that names the file with the whole of it.
"""

from __future__ import annotations

import sys


class UserError(Exception):
    """Something outside the program must change; the message says what and how."""


class SettingsError(UserError, ValueError):
    """A setting that does not exist, has a wrong type, or does not fit another one."""


class CheckpointError(UserError):
    """A checkpoint that is missing, damaged or made by something else; nothing was applied."""


class RunError(UserError):
    """A run that cannot start or go on here."""


class RunFailed(Exception):
    """An error of the program has ended a run; the message is one line: the error, and the file
    that has all of it.
    """


def cause_of(error: BaseException) -> BaseException:
    """Return the error that a task of Ray has raised, without Ray's traceback; others as they are.

    Ray may not be imported.
    """
    exceptions = sys.modules.get("ray.exceptions")
    while exceptions is not None and isinstance(error, exceptions.RayTaskError):
        if not isinstance(error.cause, BaseException):
            break
        error = error.cause
    return error


def one_line(error: BaseException) -> str:
    """Return the kind of an error and the first line of its message."""
    first = str(error).strip().partition("\n")[0]
    return f"{type(error).__name__}: {first}" if first else type(error).__name__


def is_users(error: BaseException) -> bool:
    """Return whether an error is the user's to put right: its message alone says what to do."""
    from actors.environments.backend import GraphicsUnavailable
    from actors.environments.catalog import UnknownEnvironment
    from replay.errors import ReplayError

    kinds: list[type[Exception]] = [UserError, GraphicsUnavailable, UnknownEnvironment, ReplayError]
    videos = sys.modules.get("actors.environments.videos")
    if videos is not None:
        kinds.append(videos.VideoFolderError)
    robosuite = sys.modules.get("actors.environments.robosuite")
    if robosuite is not None:
        kinds += [robosuite.RobosuiteMissing, robosuite.ProcessFailed]
    policy = sys.modules.get("rl_system.policy")
    if policy is not None:
        kinds.append(policy.CheckpointError)
    return isinstance(error, tuple(kinds))
