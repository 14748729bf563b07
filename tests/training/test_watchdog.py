"""A hang ends with its name and every thread's stack."""

import subprocess
import sys

HANG = """
import threading, time
from lmlab.training import watchdog

def awaited():
    time.sleep(60)

watchdog.SECONDS = {seconds}
with watchdog.Watchdog() as watch:
    threading.Thread(target=awaited, daemon=True).start()
    for step in range(3):
        watch.wait_for(f"step {{step}}")
        time.sleep(0.3)
    {hang}
time.sleep(1)
"""


def run(hang, seconds=1.0):
    code = HANG.format(hang=hang, seconds=seconds)
    return subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=50)


def test_a_hang_ends_with_its_name_and_every_stack():
    done = run("watch.wait_for('the barrier at the end'); time.sleep(50)")
    assert done.returncode == 70
    assert "waited 1 seconds for the barrier at the end" in done.stderr
    assert "in awaited" in done.stderr and 'File "<string>", line 14 in <module>' in done.stderr


def test_signs_of_life_and_the_end_keep_it_quiet():
    done = run("pass", seconds=0.6)
    assert (done.returncode, done.stderr) == (0, "")
