"""SIGTERM and Ctrl-C as a flag that is looked at where a run can stop without losing anything."""

import signal
import threading

from lmlab.errors import Stopped

SIGNALS = (signal.SIGTERM, signal.SIGINT)


class StopSignal:
    """Context in which SIGTERM, or the first SIGINT, raises `Stopped`: at once, or at the next `check` after `defer`.

    A second SIGINT interrupts as usual. Outside the main thread, where Python takes no signals, it does nothing.
    """

    def __init__(self):
        self._received, self._deferred, self._before = False, False, {}
        self._anywhere = lambda received: received

    def __enter__(self):
        if threading.current_thread() is threading.main_thread():
            self._before = {number: signal.signal(number, self._handle) for number in SIGNALS}
        return self

    def __exit__(self, *error):
        for number, handler in self._before.items():
            signal.signal(number, signal.SIG_DFL if handler is None else handler)  # None: it was not Python's
        self._before = {}

    def _handle(self, number, frame):
        self._received = True
        if number == signal.SIGINT:
            signal.signal(number, self._before[number])
        if not self._deferred:
            raise Stopped("Stopped; the same command resumes.")

    def defer(self, anywhere):
        """From now on only `check` raises. `anywhere`: whether a signal came here -> whether one came to any process,
        the same answer in all."""
        self._deferred, self._anywhere = True, anywhere

    def check(self):
        """Raises `Stopped` if a signal has come. With several processes, all call it equally often."""
        if self._anywhere(self._received):
            raise Stopped("Stopped; the same command resumes.")
