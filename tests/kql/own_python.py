"""The Python that tests/kql/run sets up, for programs elsewhere that use what is in this folder."""

import os
import sys
from pathlib import Path

_PYTHON = Path(__file__).parent / ".venv/bin/python"


def go_on_there():
    """Starts the program again in it, unless it runs in it already."""
    if not _PYTHON.exists():
        sys.exit("DuckDB is not set up; run tests/kql/run first")
    if Path(sys.prefix) != _PYTHON.parents[1]:
        os.execv(_PYTHON, [_PYTHON, *sys.argv])
