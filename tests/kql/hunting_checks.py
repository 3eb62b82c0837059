"""The hunting queries, run on their test events with a time range of 14 days, as the hunting page does."""

from datetime import timedelta

import rows
from rule_checks import Case, workspace_of

_KINDS = ("must_find", "must_not_find")
_RANGE = timedelta(days=14)
_PLACES = {"{{StartTimeISO}}": rows.NOW - _RANGE, "{{EndTimeISO}}": rows.NOW}
# A hunting query is run like a rule that looks at the whole range, once. It may look further back itself.
_ONCE = {"queryFrequency": "14d", "queryPeriod": "28d", "triggerOperator": "gt", "triggerThreshold": 0}


def run(queries):
    """Every case of every query: pairs of a name and what is wrong."""
    cases = []
    for name, query, groups in queries:
        text = query["query"]
        for place, time in _PLACES.items():
            if place not in text:
                yield f"{name} takes the time range", [f"its query has no {place}"]
            text = text.replace(place, f"{time.isoformat()}Z")
        if not all(groups.get(kind) for kind in _KINDS):
            yield f"{name} has tests", [f"tests/{name}.json lacks one of {', '.join(_KINDS)}"]
        cases += [Case(name, {"query": text} | _ONCE, kind, case) for kind in _KINDS for case in groups.get(kind, [])]
    workspace = workspace_of(cases)
    for case in cases:
        faults = case.faults(workspace)
        if case.fires and not faults:
            faults = case.without_tables(workspace)
        yield case.title, faults
