"""The template's CheapEvents: which rows go to the cheap table, and what does without them. Each check gives what is
wrong."""

import itertools
import json
import re

import filters
import gaps
import rows
import rule_checks
from parser_checks import ARRIVAL, CLICK, ENTITY, EVENTS, MAILFLOW
from workspace import CHEAP, CHOICES, SENTINEL, STREAM, TABLE, Workspace

SPLITS = [name for name, choice in CHOICES.items() if choice["cheap"]]
# Texts of each field that the conditions read; None is absent.
TYPES = ["entities", "Entities", "mailflow", "urlclick", "something new", "", None]
THREATS = ["NO_DETECTIONS", "no_detections", "POLICIES_DISABLED", "MALWARE", "impersonation", "SPAM", "", None]
SUBTYPES = ["NO_DETECTIONS", "Malware", "PHISHING", "UNTRUSTWORTHY", "POLICIES_DISABLED", "SPAM", "", None]
TAGS = [["INTERNAL"], ["Malware"], ["X", "PHISHING"], ["UNTRUSTWORTHY"], ["POLICIES_DISABLED"], ["spam"], "SPAM", [], None]
# Of these words a row that has one as threat type, subtype or tag is in the main table.
WORDS = {"MALWARE", "PHISHING", "UNTRUSTWORTHY", "POLICIES_DISABLED"}
# Where the template writes which streams these rules are not to watch; so they need no cheap row.
PLACE = "let elsewhere = dynamic([]);"
NEEDS_NONE = {"StreamDropped", "StreamSilent"}


def _of_every_kind(cheap_events):
    """A workspace in which a row of each kind came through the rule's transforms."""
    workspace = Workspace(cheap_events=cheap_events)
    kinds = list(itertools.product(TYPES, THREATS, SUBTYPES, TAGS))
    workspace.insert("source", [
        {"EventId": str(number), "type_": kind, "threatType": threat, "subtype": subtype, "tags": tags,
         "TimeGenerated": ARRIVAL, "EventTime": ARRIVAL, "_ingestion_time": ARRIVAL}
        for number, (kind, threat, subtype, tags) in enumerate(kinds)])
    # In Kusto a missing text is an empty one, and so it is written; nobody has said that it is in a transform.
    for number, column in enumerate(["type_", "threatType", "subtype"]):
        nulls = [str(at) for at, kind in enumerate(kinds) if kind[number] is None]
        workspace.db.execute(f'UPDATE source SET "{column}" = NULL WHERE list_contains(?, EventId)', [nulls])
    workspace.land()
    return workspace, kinds


def _ids(workspace, table):
    return [row[0] for row in workspace.db.execute(f'SELECT EventId FROM "{table}"').fetchall()]


def each_row_once():
    """CheapEvents: each row is in exactly one table, whatever is null or absent"""
    faults = []
    for name in SPLITS:
        workspace, kinds = _of_every_kind(name)
        live, cheap = _ids(workspace, TABLE), _ids(workspace, CHEAP)
        if sorted(live + cheap) != sorted(str(number) for number in range(len(kinds))):
            faults.append(f"{name}: {len(live)} and {len(cheap)} of {len(kinds)} rows")
        in_sql = [_by_sql(workspace, name, mark) for mark in (0, 1)]
        if [sorted(live), sorted(cheap)] != in_sql:
            faults.append(f"{name}: {len(in_sql[0])} and {len(in_sql[1])} rows where what is null is not false")
        if not live or not cheap:
            faults.append(f"{name}: one table is empty, which is no test")
    return faults


def _by_sql(workspace, name, mark):
    """The rows that a transform's condition takes where each comparison with null is null. (duckdb-kql makes it false.)"""
    condition = CHOICES[name]["cheap"]
    for kql, sql in [(r'(\w+) =~ "(\w+)"', r"lower(\1) = lower('\2')"), (r'(\w+) !~ "(\w+)"', r"lower(\1) <> lower('\2')"),
                     (r'(\w+) has "(\w+)"', r"regexp_matches(\1, '(?i)\\b\2\\b')"), (r"isnotempty\((\w+)\)", r"\1 <> ''"),
                     (r"\biif\(", "if(")]:
        condition = re.sub(kql, sql, condition)
    found = workspace.db.execute("SELECT EventId FROM (SELECT * REPLACE (CAST(tags AS VARCHAR) AS tags) FROM source) "
                                 f"WHERE if({condition}, 1, 0) == {mark} ORDER BY 1")
    return [row[0] for row in found.fetchall()]


def what_is_cheap():
    """CheapEvents: a row is cheap by its type and, WithoutThreat, by having no verdict and no disabled policies"""
    faults = []
    for name in SPLITS:
        workspace, kinds = _of_every_kind(name)
        cheap, verdicts = set(_ids(workspace, CHEAP)), _verdicts(kinds)
        for number, (kind, threat, subtype, tags) in enumerate(kinds):
            says = {str(text).upper() for text in (threat, subtype, *(tags if isinstance(tags, list) else [tags]))}
            expected = str(kind).lower() == "mailflow" if name == "Mailflow" else (
                str(kind).lower() in ("entities", "mailflow") and not verdicts[number] and not says & WORDS)
            if (str(number) in cheap) != expected:
                faults.append(f"{name}: {kinds[number]} is {'not ' * expected}cheap, with the verdict {verdicts[number]!r}")
        streams = {str(kinds[int(number)][0]).lower() for number in cheap}
        if streams != set(CHOICES[name]["elsewhere"]):
            faults.append(f"{name}: cheap are rows of {sorted(streams)}")
    return faults[:5]


def _verdicts(kinds):
    """What the parser says of rows of these kinds, all of them in one table."""
    workspace, _ = _of_every_kind("None")
    return {int(row["EventId"]): row["Verdict"] for row in workspace.parsed()}


def all_events_by_hand():
    """MimecastCIAll gives of both tables what the parser gives if all is in one"""
    clean = {"threatType": "NO_DETECTIONS", "subtype": "NO_DETECTIONS", "tags": []}
    events = [*EVENTS, ENTITY | clean, ENTITY | clean | {"recipients": "bob@example.com", "later": {"a": 1}},
              ENTITY | clean | {"senderEnvelope": "a@Sub.example.net.", "historicalMail": True},
              ENTITY | {"accountId": None}, MAILFLOW | {"authResults": [{"type": "SPF", "result": "pass", "aligned": True}]},
              CLICK | {"timestamp": 0}]
    posted = [rows.ours(event | {"_offset": offset}, rows.moment(arrival), STREAM)
              for offset, event in enumerate(events) for arrival in ["now-5m", "now-3h"][:1 + offset % 2]]
    query = (SENTINEL / "parser/MimecastCIAll.kql").read_text()
    whole, faults = Workspace(), []
    whole.post(posted)
    for given in ({}, {"type": '"entities"'}, {"threats": 'dynamic(["PHISHING"])'}):
        expected = _sorted(whole.parsed(**given))
        # That of most cheap rows also with filters.
        for name in SPLITS[-1:] if given else SPLITS:
            split, kql = Workspace(cheap_events=name), query
            split.post(posted)
            if not _ids(split, CHEAP):
                faults.append(f"{name}: nothing is cheap, which is no test")
            for parameter, value in given.items():
                kql = re.sub(rf"(?m)^let {parameter} = .*;$", lambda _: f"let {parameter} = {value};", kql)
            split.run(split.translate(gaps.without_comments(kql)), 'CREATE OR REPLACE TABLE "MimecastCI" AS ')
            found = _sorted(split.results())
            if not expected or found != expected:
                faults.append(f"{name}, {given}: {len(found)} events, not {len(expected)}: " + "; ".join(
                    f"{key}: {one[key]!r}, not {two[key]!r}" for one, two in zip(found, expected)
                    for key in two if one.get(key) != two[key])[:400])
    return faults


def _sorted(found):
    return sorted(found, key=lambda row: row["SourceOffset"])


def _needs(query):
    """The choices by which this query would lack rows that it asks for."""
    found = set()
    for _, given in filters.calls(gaps.without_comments(query)):
        kind, threats = given.get("type", '"*"').strip('"').lower(), given.get("threats", "dynamic([])")
        if named := re.search(rf"(?m)^let {re.escape(threats)} = (dynamic\(.*?\));", query):
            threats = named[1]
        words = set(json.loads(threats.removeprefix("dynamic(").removesuffix(")")))
        if kind in ("mailflow", "*"):
            found.add("Mailflow")
        if kind != "urlclick" and not (words and words <= WORDS):
            found.add("WithoutThreat")
    return found


def rules_left_out():
    """CheapEvents: the rules that need cheap rows are those that arm/cheap.json leaves out"""
    faults = []
    needing = {name: set() for name in SPLITS}
    for file, rule, _ in rule_checks.load(SENTINEL / "rules"):
        for name in _needs(rule["query"]) if file not in NEEDS_NONE else ():
            needing[name].add(rule["name"])
    for name in SPLITS:
        left = set(CHOICES[name]["rulesLeftOut"])
        faults += [f"{name}: lacking is {rule!r}" for rule in sorted(needing[name] - left)]
        faults += [f"{name}: {rule!r} needs no cheap row" for rule in sorted(left - needing[name])]
    return faults


def silent_streams():
    """CheapEvents: no rule calls a stream silent or dropped whose rows go to the cheap table; others it does"""
    rules = []
    for file, rule, groups in rule_checks.load(SENTINEL / "rules"):
        if file not in NEEDS_NONE:
            continue
        # One that fires for one stream; it must for each.
        case = next(case for case in groups["must_fire"] if len({event["type"] for event in case["events"]}) == 1)
        for split in SPLITS:
            elsewhere = CHOICES[split]["elsewhere"]
            told = rule | {"query": rule["query"].replace(PLACE, PLACE.replace("[]", json.dumps(elsewhere)))}
            cases = {"must_fire": [], "must_not_fire": []}
            for stream in ("entities", "mailflow", "urlclick"):
                cases["must_not_fire" if stream in elsewhere else "must_fire"].append(case | {
                    "name": f"{split}, {stream}", "gives": {},
                    "events": [event | {"type": stream} for event in case["events"]]})
            rules.append((file, told, cases))
    found = [f"{name}: {fault}" for name, faults in rule_checks.run(rules) if not name.endswith("has tests")
             for fault in faults]
    return found + [f"{file} has no place for what the template fills in" for file, rule, _ in rules
                    if PLACE in rule["query"]]


CHECKS = [each_row_once, what_is_cheap, all_events_by_hand, rules_left_out, silent_streams]
