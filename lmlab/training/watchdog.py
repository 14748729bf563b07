"""A run that hangs says where, and ends."""

import faulthandler
import os
import sys
import threading

SECONDS = 1800  # without a sign of life; a large model's compilation, or a checkpoint to slow storage, takes minutes
BAKING = 48 * 3600  # of a corpus, by one process while the others wait
EXIT_CODE = 70


class Watchdog:
    """Context that ends the process with every thread's stack when one thing is awaited for too long."""

    def __init__(self, name="the start"):
        self._name, self._waited, self._most = name, 0.0, SECONDS
        self._done = threading.Event()
        self._thread = threading.Thread(target=self._watch, name="watchdog", daemon=True)

    def __enter__(self):
        self._thread.start()
        return self

    def __exit__(self, *error):
        self._done.set()
        self._thread.join()

    def wait_for(self, name, seconds=None):
        """A sign of life; what follows is called `name`, and takes no longer than `seconds` (None: `SECONDS`)."""
        self._name, self._waited, self._most = name, 0.0, seconds or SECONDS

    def _watch(self):
        tick = min(1.0, SECONDS / 10)
        while not self._done.wait(tick):
            self._waited += tick  # counted rather than read off a clock: a suspended process has not hung
            if self._waited > self._most:
                print(
                    f"lmlab: waited {self._most:.0f} seconds for {self._name}; what every thread is doing:",
                    file=sys.__stderr__,
                    flush=True,
                )
                faulthandler.dump_traceback(file=sys.__stderr__)
                os._exit(EXIT_CODE)
