"""Stopping a training in an orderly way at Ctrl-C or SIGTERM."""

import os
import signal
import sys
import threading
from collections.abc import Sequence
from types import FrameType, TracebackType
from typing import Any, Self

SIGNALS = (signal.SIGINT, signal.SIGTERM)


class Stop:
    """Notes the first Ctrl-C or SIGTERM; a second one interrupts at once.

    Outside the main thread, where signals do not arrive, it notes nothing.

    Attributes:
        signal: the number of the signal that came, or None.
    """

    def __init__(self, notice: str, signals: Sequence[int] = SIGNALS) -> None:
        """``notice`` is written to standard error when one of the signals comes."""
        self.notice, self.signals = notice, signals
        self.signal: int | None = None
        self.former: dict[int, Any] = {}

    def __enter__(self) -> Self:
        if threading.current_thread() is threading.main_thread():
            self.former = {number: signal.signal(number, self._note) for number in self.signals}
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        for number, handler in self.former.items():
            signal.signal(number, handler)

    def _note(self, number: int, frame: FrameType | None) -> None:
        if self.signal is not None:
            raise KeyboardInterrupt
        self.signal = number
        if self.notice:
            # Whatever Python would write with may be in use at this very moment.
            os.write(sys.__stderr__.fileno() if sys.__stderr__ else 2, f"{self.notice}\n".encode())
