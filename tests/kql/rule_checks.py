"""The rules, run on their test events."""

import hashlib
import json
import operator
import re
from datetime import timedelta

import yaml

import rows
from workspace import OTHER_TABLES, PARSER, ROWS, STREAM, Workspace

_TRIGGERS = {"gt": operator.gt, "lt": operator.lt, "eq": operator.eq, "ne": operator.ne}
LEAST = {"must_fire": 1, "must_not_fire": 2}
# Rules that report a state, and so fire in more than one run; all others fire in exactly one.
STATES = {
    "ConnectorDegradedOrSilent": "it fires in three runs, so that a skipped one loses no failure",
    "StreamSilent": "it fires in three runs, so that a skipped one loses no silence",
}


def load(folder):
    """Each rule of a folder with its test cases: `(name, rule, cases)`."""
    found = []
    for path in sorted(folder.glob("*.yaml")):
        tests = folder / "tests" / f"{path.stem}.json"
        cases = json.loads(tests.read_text()) if tests.exists() else {}
        found.append((path.stem, yaml.safe_load(path.read_text()), cases))
    return found


def run(rules):
    """Every case of every rule: pairs of a name and what is wrong."""
    cases = []
    for name, rule, groups in rules:
        yield f"{name} has the window of its frequency", window_faults(rule)
        for kind, least in LEAST.items():
            group = groups.get(kind, [])
            if len(group) < least:
                yield f"{name} has tests", [f"tests/{name}.json has {len(group)} {kind}, not {least}"]
            cases += [Case(name, rule, kind, case) for case in group]

    workspace = workspace_of(cases)
    fired_again = set()
    for case in cases:
        faults = case.faults(workspace)
        if case.fires and not faults:
            faults = case.same_window(workspace) + case.without_tables(workspace)
            again = case.other_windows(workspace)
            if case.name not in STATES:
                faults += again
            elif again:
                fired_again.add(case.name)
        yield case.title, faults
    for name in STATES.keys() & {name for name, _, _ in rules}:
        yield f"{name} reports a state", [] if name in fired_again else [f"no case shows that {STATES[name]}"]


def workspace_of(cases):
    """A workspace with the events of all cases, of which each run sees those of its case."""
    workspace = Workspace()
    # The parser reads the events of all cases at once; their EventIds distinguish them.
    workspace.post([row for number, case in enumerate(cases) for row in case.posted(number)])
    workspace.parse_all()
    for name in (PARSER, ROWS):
        workspace.db.execute(f'CREATE TABLE "{name}" AS FROM "all_{name}" LIMIT 0')
    return workspace


# What arrived in one window is reported by each run of the time in which that window is the last
# that is over: a late run, and one that is tried again, gives the same.
_WINDOW = """let window = {frequency};
let settle = {settle};
let until = bin(now() - settle, window);
let since = until - window;
"""


def _given(rule, name):
    found = re.search(rf"^let {name} = (\w+);", rule["query"], re.M)
    return found and found[1]


def window_faults(rule):
    """Each row must be new in one run, and the period must hold it then, however old its event is."""
    frequency, period = (rows.span(rule[key]) for key in ("queryFrequency", "queryPeriod"))
    faults = []
    settle = _given(rule, "settle")
    if _given(rule, "window") and _WINDOW.format(frequency=rule["queryFrequency"], settle=settle) not in rule["query"]:
        faults.append(f"its window is not that of a rule that runs every {rule['queryFrequency']}")
    kept = sum(filter(None, [rows.span(settle or "0s"), rows.span(_given(rule, "grace") or "0s")]), 2 * frequency)
    if PARSER in rule["query"] and period < kept + rows.MAX_AGE:
        faults.append(f"its period of {rule['queryPeriod']} leaves out late rows")
    return faults


class Case:
    """One list of events and whether the rule must fire on it."""

    def __init__(self, name, rule, kind, case):
        self.name, self.rule, self.fires, self.case = name, rule, not kind.startswith("must_not"), case
        self.title = f"{name} {kind.replace('_', ' ')}: {case['name']}"
        self.frequency, self.period = (rows.span(rule[key]) for key in ("queryFrequency", "queryPeriod"))
        self.settle = rows.span(_given(rule, "settle") or "0s")
        self.ids = []

    def posted(self, number):
        """The rows of the events that the rule's period reaches in any of the runs."""
        found = []
        for written in self.case.get("events", []):
            for event, arrival in rows.occurrences(written):
                row = rows.ours(event, arrival, STREAM)
                row["EventId"] = hashlib.sha256(f"{number} {row['EventId']}".encode()).hexdigest()[:32]
                # Another case's event is another event, though it has the same offset.
                row["accountId"] = f"{row.get('accountId', '')} {number}"
                if row["TimeGenerated"] >= rows.NOW - self.frequency - self.period:
                    found.append(row)
        self.ids = [row["EventId"] for row in found]
        return found

    def faults(self, workspace):
        try:
            fires, self.found = self.run(workspace, rows.NOW + self.settle)
        except Exception as error:  # whatever DuckDB or duckdb-kql cannot do
            return [f"cannot be run: {type(error).__name__}: {error}"[:600]]
        if fires != self.fires:
            return [f"it gave {len(self.found)} rows", *(str(row)[:300] for row in self.found[:3])]
        if (count := self.case.get("rows", len(self.found))) != len(self.found):
            return [f"it gave {len(self.found)} rows, not {count}", *(str(row)[:300] for row in self.found)]
        gives = self.case.get("gives", {}).items()
        return [f"{name} is {row[name]}, not {value}"
                for row in self.found for name, value in gives if row[name] != value]

    def same_window(self, workspace):
        """The runs at an odd time and as late as can be that do not give what the first one gave."""
        if not self.settle:
            return []
        later = {"at an odd time": self.frequency * 0.37, "late": self.frequency - timedelta(seconds=1)}
        found = {name: self.run(workspace, rows.NOW + self.settle + late)[1] for name, late in later.items()}
        return [f"gives another result {name}: {result[:1]}, not {self.found[:1]}"[:600]
                for name, result in found.items() if _sorted(result) != _sorted(self.found)]

    def other_windows(self, workspace):
        """The runs of the window before and after in which the rule fires too."""
        first = rows.NOW + self.settle
        before = timedelta(seconds=1) if self.settle else self.frequency
        runs = {"before": first - before, "after": first + self.frequency}
        found = {name: self.run(workspace, now) for name, now in runs.items()}
        return [f"fires in the run {name} too: {result[:1]}"[:400] for name, (fires, result) in found.items() if fires]

    def without_tables(self, workspace):
        """What is wrong where the workspace lacks the other tables that the query reads by isfuzzy."""
        legs = " ".join(re.findall(r"(?s)union isfuzzy=true.*?;", self.rule["query"]))
        absent = [table for table in OTHER_TABLES if re.search(rf"\b{table}\b", legs)]
        if not absent:
            return []
        for table in absent:
            workspace.db.execute(f'ALTER TABLE "{table}" RENAME TO "absent_{table}"')
        try:
            found = workspace.query(self.rule["query"], rows.NOW + self.settle)
        except Exception as error:
            return [f"without {', '.join(absent)}: {type(error).__name__}: {error}"[:400]]
        finally:
            for table in absent:
                workspace.db.execute(f'ALTER TABLE "absent_{table}" RENAME TO "{table}"')
        return [f"gives {len(found)} rows without {', '.join(absent)}"] if found else []

    def run(self, workspace, now):
        """Whether the rule fires in the run at this time, and what its query gives."""
        since = now - self.period
        for table in OTHER_TABLES:
            workspace.db.execute(f'DELETE FROM "{table}"')
            workspace.insert(table, [row for row in self.others(table) if row["TimeGenerated"] >= since])
        for name in (PARSER, ROWS):
            workspace.db.execute(f'DELETE FROM "{name}"')
            workspace.db.execute(
                f'INSERT INTO "{name}" FROM "all_{name}" WHERE list_contains(?, EventId) AND TimeGenerated >= ?',
                [self.ids, since])
        found = workspace.query(self.rule["query"], now)
        return _TRIGGERS[self.rule["triggerOperator"]](len(found), self.rule["triggerThreshold"]), found

    def others(self, table):
        """The case's rows of a table that is not of events; `_ingested`, `_repeat` and `_every` are
        as in an event."""
        for written in self.case.get("tables", {}).get(table, []):
            row = {name: rows.moment(value) if re.fullmatch(r"now(-\d+[smhd])?", str(value)) else value
                   for name, value in written.items()}
            arrival, every = row.pop("_ingested", row["TimeGenerated"]), rows.span(row.pop("_every", "0s"))
            for number in range(row.pop("_repeat", 1)):
                older = number * every
                yield row | {"TimeGenerated": row["TimeGenerated"] - older, "_ingestion_time": arrival - older}


def _sorted(result):
    return sorted(repr(row) for row in result)
