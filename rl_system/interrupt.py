"""Ctrl-C and SIGTERM: the first asks a run to save and stop, the second stops it at once."""

from __future__ import annotations

import signal
import sys
from types import FrameType, TracebackType
from typing import Any

SIGNALS = (signal.SIGINT, signal.SIGTERM)


class Stopped(BaseException):
    """The user stopped the program at once; nothing more is saved.

    Not an `Exception`, so that no handler of errors takes it for one.
    """

    def __init__(self, number: int) -> None:
        super().__init__(f"stopped by {signal.Signals(number).name}")
        self.exit_code = 128 + number


class Interrupt:
    """Watches for signals while it is entered.

    Attributes:
        number: The signal that asked to stop; None while there was none.
        can_save: Set this once there is something to save; until then the first signal stops at
            once by raising `Stopped`, as a second one always does.
    """

    def __init__(self) -> None:
        self.number: int | None = None
        self.can_save = False
        self._before: dict[int, Any] = {}

    @property
    def exit_code(self) -> int:
        """The exit status by convention: 128 plus the signal's number, 0 without a signal."""
        return 0 if self.number is None else 128 + self.number

    def __enter__(self) -> Interrupt:
        self.take()
        return self

    def take(self) -> None:
        """Take the signals; again after a library has taken them, as Ray does when it starts."""
        for number in SIGNALS:
            handler = signal.signal(number, self._handle)
            self._before.setdefault(number, handler)

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        for number, handler in self._before.items():
            signal.signal(number, handler)

    def _handle(self, number: int, frame: FrameType | None) -> None:
        again = self.number is not None
        self.number = number
        if again or not self.can_save:
            raise Stopped(number)
        name = signal.Signals(number).name
        print(
            f"\n{name}: finishing this iteration, then saving. Once more stops without saving.",
            file=sys.stderr,
            flush=True,
        )
