"""A run that hangs says where, and ends."""

import faulthandler
import os
import sys
import threading
import time

SECONDS = 1800  # without a sign of life; a large model's compilation, or a checkpoint to slow storage, takes minutes
EXIT_CODE = 70
GRACE = 30


class Watchdog:
    """Context that ends the process with every thread's stack when one thing is awaited for longer than `SECONDS`."""

    def __init__(self):
        self._name, self._since = "the start", time.monotonic()
        self._done = threading.Event()
        self._thread = threading.Thread(target=self._watch, name="watchdog", daemon=True)

    def __enter__(self):
        self.wait_for("the start")
        self._thread.start()
        return self

    def __exit__(self, *error):
        self._done.set()
        self._thread.join()
        faulthandler.cancel_dump_traceback_later()

    def wait_for(self, name):
        """A sign of life; what follows is called `name`."""
        self._name, self._since = name, time.monotonic()
        # For a hang in compiled code that never lets go of the interpreter, in which the thread below cannot speak.
        faulthandler.dump_traceback_later(SECONDS + GRACE, exit=True, file=sys.__stderr__)

    def _watch(self):
        while not self._done.wait(min(1.0, SECONDS / 10)):
            if time.monotonic() - self._since > SECONDS:
                print(
                    f"lmlab: waited {SECONDS:.0f} seconds for {self._name}; what every thread is doing:",
                    file=sys.__stderr__,
                    flush=True,
                )
                faulthandler.dump_traceback(file=sys.__stderr__)
                os._exit(EXIT_CODE)
