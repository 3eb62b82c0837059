"""docs/DETECTION.md, held to the rules and hunting queries: each has a line there that says what its file says."""

import yaml

_EVERY = {"15m": "every 15 min", "1h": "hourly", "6h": "every 6 h", "1d": "once a day"}


def check(sentinel):
    page = (sentinel.parent / "docs/DETECTION.md").read_text()
    for folder in "rules", "hunting":
        for path in sorted((sentinel / folder).glob("*.yaml")):
            begin = f"| [{path.stem}](../sentinel/{folder}/{path.name})"
            lines = [line.split(" | ") for line in page.splitlines() if line.startswith(begin)]
            faults = [] if len(lines) == 1 else [f"it has {len(lines)} lines that begin {begin!r}"]
            for cell, *_ in lines if folder == "rules" else []:
                faults += _faults(cell, yaml.safe_load(path.read_text()))
            yield f"docs/DETECTION.md has {path.stem}", faults


def _faults(cell, rule):
    """What the line's first cell says wrong of the rule."""
    faults = [f"its first cell does not say {word}" for word in (rule["severity"], _EVERY[rule["queryFrequency"]])
              if word not in cell]
    if ("no incident" in cell) == rule["incidentConfiguration"]["createIncident"]:
        faults.append("its first cell says something else about incidents than the rule")
    return faults
