"""Runs the parser and the rules on made-up events. Prints "ok …" or "FAIL …" for each check."""

import json
import sys
import traceback
from pathlib import Path

import filters
import parser_checks
import rule_checks
import rule_limits
from workspace import HERE, SENTINEL

RECORDS = HERE.parents[1].parent / "shared/fixtures/mimecast/ci-events.ndjson"


def report(name, faults):
    print(f"ok   {name}" if not faults else "\n     ".join([f"FAIL {name}", *faults]), flush=True)


def main():
    for check in parser_checks.CHECKS:
        report(check.__doc__, faults_of(check))
    if RECORDS.exists():
        events = [json.loads(line) for line in RECORDS.read_text().splitlines()]
        report("the parser reads real records", faults_of(parser_checks.reads_all, events))
    else:
        print("SKIPPED: the parser on real records; they are not here")

    rules = rule_checks.load(SENTINEL / "rules")
    if not rules:
        print("SKIPPED: sentinel/rules has no rules yet")
    for name, faults in rule_checks.run(rules):
        report(name, faults)

    for name, faults in filters.check(SENTINEL):
        report(name, faults)
    wrong = ["MimecastCI()", 'MimecastCI(type = "entities") | union MimecastCloudIntegrated']
    passed = [query for query in wrong if not filters.faults(query, {"type"})]
    report("a query without a filter is found out", [f"{query} passed" for query in passed])

    for name, faults in rule_limits.check(SENTINEL):
        report(name, faults)
    for name, faults in rule_limits.check_the_checks(HERE / "wrong/rules.yaml"):
        report(name, faults)

    # The same way finds out a rule that is right and one whose tests expect the wrong thing.
    for name, faults in rule_checks.run(rule_checks.load(HERE / "example")):
        if name.startswith("Wrong"):
            found_out = any(fault.startswith(("it gave", "fires in", "its ", "tests/")) for fault in faults)
            faults = [] if found_out else ["it passed", *faults]
            name = f"a wrong test is found out: {name}"
        report(name, faults)


def faults_of(check, *arguments):
    """What the check says is wrong. One that cannot be run is wrong too."""
    try:
        return check(*arguments)
    except Exception as error:
        return [f"{type(error).__name__}: {error}".splitlines()[0], traceback.format_exc(limit=-1)]


if __name__ == "__main__":
    sys.exit(main())
