"""Runs arm/deploy with a clock that moves by its own waits alone, so that none takes time."""
import runpy
import subprocess  # before the clock is changed: the limits of calls are real
import sys
import time

from files import ARM

now, really_sleep = [0.0], time.sleep


def sleep(seconds):
    # Python's own waits for a process are shorter.
    if seconds < 1:
        really_sleep(seconds)
    else:
        now[0] += seconds


time.monotonic, time.sleep = lambda: now[0], sleep
sys.argv = [str(ARM / "deploy"), *sys.argv[1:]]
runpy.run_path(sys.argv[0], run_name="__main__")
