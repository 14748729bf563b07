"""A run that hangs says where, and ends."""

import faulthandler
import os
import sys
import threading

SECONDS = 1800  # without a sign of life; a large model's compilation, or a checkpoint to slow storage, takes minutes
EXIT_CODE = 70


class Watchdog:
    """Context that ends the process with every thread's stack when one thing is awaited for longer than `SECONDS`."""

    def __init__(self):
        self._name, self._waited = "the start", 0.0
        self._done = threading.Event()
        self._thread = threading.Thread(target=self._watch, name="watchdog", daemon=True)

    def __enter__(self):
        self._thread.start()
        return self

    def __exit__(self, *error):
        self._done.set()
        self._thread.join()

    def wait_for(self, name):
        """A sign of life; what follows is called `name`."""
        self._name, self._waited = name, 0.0

    def _watch(self):
        tick = min(1.0, SECONDS / 10)
        while not self._done.wait(tick):
            self._waited += tick  # counted rather than read off a clock: a suspended process has not hung
            if self._waited > SECONDS:
                print(
                    f"lmlab: waited {SECONDS:.0f} seconds for {self._name}; what every thread is doing:",
                    file=sys.__stderr__,
                    flush=True,
                )
                faulthandler.dump_traceback(file=sys.__stderr__)
                os._exit(EXIT_CODE)
