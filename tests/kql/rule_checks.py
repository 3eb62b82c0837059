"""The rules, run on their test events."""

import hashlib
import json
import operator
import re

import yaml

import rows
from workspace import OTHER_TABLES, PARSER, STREAM, Workspace

_TRIGGERS = {"gt": operator.gt, "lt": operator.lt, "eq": operator.eq, "ne": operator.ne}
LEAST = {"must_fire": 1, "must_not_fire": 2}


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
    workspace = Workspace()
    cases = []
    for name, rule, groups in rules:
        for kind, least in LEAST.items():
            group = groups.get(kind, [])
            if len(group) < least:
                yield f"{name} has tests", [f"tests/{name}.json has {len(group)} {kind}, not {least}"]
            cases += [Case(name, rule, kind, case) for case in group]

    # The parser reads the events of all cases at once; their EventIds tell them apart.
    workspace.post([row for number, case in enumerate(cases) for row in case.posted(number)])
    workspace.parse()
    workspace.db.execute(f'ALTER TABLE "{PARSER}" RENAME TO parsed')
    workspace.db.execute(f'CREATE TABLE "{PARSER}" AS FROM parsed LIMIT 0')
    for case in cases:
        yield case.title, case.faults(workspace)


class Case:
    """One list of events and whether the rule must fire on it."""

    def __init__(self, name, rule, kind, case):
        self.rule, self.kind, self.case = rule, kind, case
        self.title = f"{name} {kind.replace('_', ' ')}: {case['name']}"
        self.since = rows.NOW - rows.span(rule["queryPeriod"])
        self.ids = []

    def posted(self, number):
        """The rows of the events that the rule's period reaches."""
        found = []
        for written in self.case.get("events", []):
            for event, arrival in rows.occurrences(written):
                row = rows.ours(event, arrival, STREAM)
                row["EventId"] = hashlib.sha256(f"{number} {row['EventId']}".encode()).hexdigest()[:32]
                if row["TimeGenerated"] >= self.since:
                    found.append(row)
        self.ids = [row["EventId"] for row in found]
        return found

    def faults(self, workspace):
        for table in OTHER_TABLES:
            workspace.db.execute(f'DELETE FROM "{table}"')
            workspace.insert(table, list(self.others(table)))
        workspace.db.execute(f'DELETE FROM "{PARSER}"')
        workspace.db.execute(
            f'INSERT INTO "{PARSER}" FROM parsed WHERE list_contains(?, EventId)', [self.ids])
        try:
            found = workspace.query(self.rule["query"])
        except Exception as error:  # whatever DuckDB or duckdb-kql cannot do
            return [f"cannot be run: {type(error).__name__}: {error}"[:600]]
        trigger = _TRIGGERS[self.rule["triggerOperator"]]
        fires = trigger(len(found), self.rule["triggerThreshold"])
        if fires == (self.kind == "must_fire"):
            return []
        return [f"it gave {len(found)} rows", *(str(row)[:300] for row in found[:3])]

    def others(self, table):
        """The case's rows of a table that is not the connector's."""
        for written in self.case.get("tables", {}).get(table, []):
            row = {name: rows.moment(value) if re.fullmatch(r"now(-\d+[smhd])?", str(value)) else value
                   for name, value in written.items()}
            if row["TimeGenerated"] >= self.since:
                yield {"_ingestion_time": row["TimeGenerated"]} | row
