"""Runs a script of arm/ with a clock that moves by its own waits alone, so that none takes time. With
$FAKE_INSIDE it plays the Azure CLI itself, which is many times faster than a process for each call."""
import contextlib
import io
import os
import runpy
import subprocess  # before the clock is changed: the limits of calls are real
import sys
import time

from files import ARM

now, really_sleep, really_run = [0.0], time.sleep, subprocess.run


def sleep(seconds):
    # Python's own waits for a process are shorter.
    if seconds < 1:
        really_sleep(seconds)
    else:
        now[0] += seconds


def run(call, stdout=None, **how):
    if call[0] != "az":
        return really_run(call, stdout=stdout, **how)
    import fake_azure
    said, code, error = io.StringIO(), 0, ""
    try:
        with contextlib.redirect_stdout(said):
            fake_azure.main(call[1:])
    except SystemExit as end:
        code, error = 1, str(end.code)
    if stdout != subprocess.PIPE:
        stdout.write(said.getvalue())
    return subprocess.CompletedProcess(call, code, said.getvalue(), error)


time.monotonic, time.sleep = lambda: now[0], sleep
if os.environ.get("FAKE_INSIDE"):
    subprocess.run = run
# A test may have a copy of it in another place.
sys.argv = [os.environ.get("DEPLOY_COPY", str(ARM / sys.argv[1])), *sys.argv[2:]]
runpy.run_path(sys.argv[0], run_name="__main__")
