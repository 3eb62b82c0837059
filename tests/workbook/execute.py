"""Runs the workbooks' tiles on events.json in DuckDB; run by ./run.

The tables are made with the columns that the KQL harness knows, and filled with what the parser
would give. expected.json has each tile's answer; `execute.py --write` writes it anew, for a person
to read before it is committed. All tiles are run again on the same events with links in all that
outsiders write: no cell may have one that can be followed.
"""
import base64
import copy
import datetime
import functools
import hashlib
import json
import re
import sys
from pathlib import Path

import duckdb_kql
from duckdb_kql.translate import functions

sys.path.append(str(Path(__file__).parents[1] / "kql"))
import gaps
from agree import disagreements
from parts import REFERENCE, WORKBOOKS, inlined, walk

HERE = Path(__file__).parent
EXPECTED = HERE / "expected.json"
HEALTH = "MimecastConnectorHealth_CL"
NOW = "datetime(2026-01-10T04:00:00)"
TYPES = {
    "string": "VARCHAR",
    "datetime": "TIMESTAMP",
    "dynamic": "JSON",
    "long": "BIGINT",
    "int": "INTEGER",
    "real": "DOUBLE",
    "bool": "BOOLEAN",
    "boolean": "BOOLEAN",
}
# Each event is in the table as often as it was delivered.
ROWS = """CREATE VIEW "MimecastCIRows" AS SELECT "Type" AS type_, "Account ID" AS "accountId", "EventId",
    "EventTime", "TimeGenerated", "IngestionTime", "Direction" AS direction, "Message ID" AS "messageId",
    "Recipients" AS recipients FROM "MimecastCI", range("Copies")"""
# What duckdb-kql lacks, and what stands in for it here.
REWRITTEN = {"count_distinctif(": "dcountif(", "count_distinct(": "dcount(", "now()": NOW}
# Where addresses are, for the tests: country, city, latitude and longitude by the first byte.
GEO = """CASE split_part({0}, '.', 1)
    WHEN '192' THEN json_object('country', 'Utopia', 'city', 'Amaurot', 'latitude', 1.5, 'longitude', -2.5)
    WHEN '198' THEN json_object('country', 'Laputa', 'city', '', 'latitude', 3.5, 'longitude', 4.5)
    ELSE json_object() END"""
functions.SCALAR_FUNCTIONS["geo_info_from_ip_address"] = functions.FunctionSpec(
    "geo_info_from_ip_address", "template", GEO, (1,))
# What outsiders write into each text of theirs, and what makes a text a link.
LINKS = " HtTpS://evil.example/a HTTP://evil.example/b ftp://evil.example/c"
LINK = re.compile(r"(?i)https?:|://")
WRITTEN_OUTSIDE = {"Subject", "Sender Envelope", "Sender Header", "SenderDomain", "Message ID",
                   "OriginalUrl", "RedirectUrl", "RecipientsList", "AttachmentsList"}


def read(path):
    return json.loads((HERE / path).read_text(encoding="utf-8"))


def every_column():
    """What pack_all(true) would give, for the function's own columns."""
    names = [name for name, _ in schemas()["MimecastCI"]]
    return f"bag_pack({', '.join(f'{json.dumps(name)}, [{json.dumps(name)}]' for name in names)})"


def schemas():
    readme = (HERE / "../../sentinel/parser/README.md").read_text(encoding="utf-8")
    others = read("../kql/tables.json")
    health = read(f"../../sentinel/schema/{HEALTH}.kusto.json")["Properties"]
    return {
        # Every table has its workspace's id.
        HEALTH: [(column["Name"], column["Type"]) for column in health] + [("TenantId", "string")],
        "MimecastCI": re.findall(r"^\| `([^`]+)` \| (\w+) \|", readme, flags=re.M),
        **{name: re.findall(r"(\w+):(\w+)", columns) for name, columns in others.items()},
    }


def parsed(event, columns):
    """An event as the parser gives it."""
    at = datetime.datetime.fromisoformat(event["at"])
    row = {name: [] if kind == "dynamic" else None for name, kind in columns}
    row |= {name: "" for name, kind in columns if kind == "string"}
    row |= {"TimeGenerated": at, "Account ID": "C1", "AdditionalFields": {}, "Copies": 1, **event}
    row |= {"EventTime": at, "Event Time": at, "Time Generated": row["TimeGenerated"]}
    row["IngestionTime"] = at + datetime.timedelta(minutes=7)
    said = [row["Threat Type"], row["Subtype"], *row["TagsList"]]
    row["Verdict"] = next((one for one in ("MALWARE", "PHISHING", "UNTRUSTWORTHY", "SPAM") if one in said), "")
    row |= {f"{check}Aligned": any((one["type"].upper(), one["result"], one["aligned"]) == (check.upper(), "pass", True)
                                   for one in row["AuthResults"]) for check in ("Spf", "Dkim")}
    row["DmarcAligned"] = row["Dmarc"] == "pass" or row["SpfAligned"] or row["DkimAligned"]
    texts = {name: name + "List" for name in ("Attachments", "Recipients", "Tags")}
    texts["Policies Applied"] = "PoliciesAppliedList"
    return row | {text: json.dumps(row[array]) for text, array in texts.items()}


def trace(run):
    line = {"timestamp": run["finished_at"], "level": "INFO", "message": "run finished", "summary": json.dumps(run)}
    return {
        "TimeGenerated": run["finished_at"].removesuffix("Z"),
        "AppRoleName": "fn",
        "SeverityLevel": 1,
        "Message": json.dumps(line),
    }


def workspace(given):
    """The tables, filled."""
    columns = schemas()
    events = [parsed(event, columns["MimecastCI"]) for event in given["events"]]
    # The host may log a line twice.
    runs = [trace(run) for run in given["runs"] + given["runs"][:1]]
    filled = {
        "MimecastCI": events,
        "AppTraces": runs + given["traces"],
        "DCRLogErrors": given["ruleErrors"],
        "Watchlist": given["watchlist"],
        HEALTH: given["health"],
        "SecurityAlert": given.get("alerts", []),
        "SecurityIncident": given.get("incidents", []),
    }
    connection = duckdb_kql.connect()
    # One thread gives the same order in each run.
    connection.execute("SET threads = 1")
    for table, rows in filled.items():
        own = [f'"{name}" {TYPES[kind]}' for name, kind in columns[table]]
        connection.sql(f'CREATE TABLE "{table}" ({", ".join(own)})')
        for row in rows:
            values = [row.get(name) for name, _ in columns[table]]
            values = [json.dumps(one) if isinstance(one, (list, dict)) else one for one in values]
            places = ", ".join("?" * len(values))
            connection.execute(f'INSERT INTO "{table}" VALUES ({places})', values)
    connection.execute(ROWS)
    names = ("id", "name", "type", "resourceGroup", "subscriptionId")
    declared = ", ".join(f'"{name}" VARCHAR' for name in names)
    connection.execute(f"CREATE TABLE resources ({declared}, properties JSON)")
    for row in given["resources"]:
        values = [json.dumps(one) if isinstance(one, dict) else one for one in row]
        connection.execute("INSERT INTO resources VALUES (?, ?, ?, ?, ?, ?)", values)
    return connection


def workspaces(given):
    """The workbook's own workspace, and those of the fleet together."""
    return workspace(given), workspace(given | given["fleet"])


def parameters(given):
    def hashed(text):
        return hashlib.sha256(text.encode()).hexdigest()

    return (
        given["parameters"]
        | {name: hashed(text) for name, text in given["hashed"].items()}
        | {f"{name}:base64": base64.b64encode(text.encode()).decode()
           for name, text in (given["base64"] | {"Fleet": json.dumps(given["fleet"]["workspaces"])}).items()}
    )


def answer(connections, content, values):
    """The names of the columns that a tile shows, and its rows."""
    query = REFERENCE.sub(
        lambda match: values[":".join(part for part in match.groups() if part)], content["query"]
    )
    for lacking, stand_in in {**REWRITTEN, "pack_all(true)": every_column()}.items():
        query = query.replace(lacking, stand_in)
    return ran(connections[content.get("crossComponentResources") == ["{Workspaces}"]], query)


@functools.cache
def ran(connection, query):
    result = duckdb_kql.kql(connection, gaps.on_results(inlined(query)))
    return result.columns, result.fetchall()


def as_text(rows):
    """The rows as text, sorted: rows of equal rank have no order."""
    return sorted(" | ".join("" if one is None else str(one) for one in row) for row in rows)


def linked(given):
    """The same events and logs, with links in all that outsiders write."""
    given = copy.deepcopy(given)
    for event in given["events"]:
        for column in WRITTEN_OUTSIDE & set(event):
            texts = event[column]
            event[column] = ([text + LINKS for text in texts] if isinstance(texts, list)
                             else texts and texts.replace("https", "HttPs") + LINKS)
        event["AdditionalFields"] = {"note": LINKS, "more": [LINKS]}
    for run in given["runs"]:
        for error in (stream["error"] for stream in run["streams"] if stream["error"]):
            error |= {"message": error["message"] + LINKS, "fix": error["fix"] + LINKS}
    for alert in given["fleet"]["alerts"]:
        alert["AlertName"] += LINKS
    for report in given["health"] + given["fleet"]["health"]:
        properties = report["ExtendedProperties"]
        report["Description"] += LINKS
        properties["Fix"] = properties["Fix"] and properties["Fix"] + LINKS
    for line in given["traces"] + given["ruleErrors"]:
        text = line["Message"]
        line["Message"] = text.replace('broke"', f'broke{LINKS}"').replace("not", f"{LINKS} not")
    given["base64"]["Find"] = LINKS.split()[0]
    return given


def link_faults(tiles, given, answers):
    """Cells with a link, and tiles that had nothing to show."""
    given = linked(given)
    connections, values = workspaces(given), parameters(given)
    # What is behind a click takes its keys from the tile that was clicked, as it shows them.
    for click in (True, False):
        for name, content in tiles.items():
            if click and "exportedParameters" not in content:
                continue
            columns, rows = answer(connections, content, values)
            for one in content.get("exportedParameters", []) if click and rows else []:
                if one["parameterName"].endswith("Key") or one["parameterName"] == "Event":
                    values[one["parameterName"]] = rows[0][columns.index(one["fieldName"])]
            if click:
                continue
            cells = {str(cell) for row in rows for cell in row if LINK.search(str(cell))}
            yield name, [f"{cell!r} can be followed" for cell in sorted(cells)] or (
                ["it shows nothing"] if answers[name] and not rows else [])


def every_tile():
    """Each workbook's tiles. One name is one tile, in however many workbooks (check.py)."""
    found = {}
    for book in WORKBOOKS.values():
        found |= {item["name"]: item for item, _ in walk(book["items"]) if item["type"] == 3}
    return found.values()


def asked(connections, values):
    """What gives a tile's columns and rows with these parameters, as a click sets them."""
    def ask(item, given):
        given = {name: base64.b64encode(value.encode()).decode() if name.endswith(":base64") else value
                 for name, value in given.items()}
        return answer(connections, item["content"], values | given)
    return ask


def lists():
    """The parameters of the fleet that Azure Resource Graph is asked for, as if they were tiles."""
    [fleet] = [item for book in WORKBOOKS.values() for item, _ in walk(book["items"]) if item["name"] == "fleet-parameters"]
    return {f"parameter {one['name']}": one for one in fleet["content"]["parameters"]}


def main():
    given = read("events.json")
    tiles = {item["name"]: item["content"] for item in every_tile()}
    connections, values = workspaces(given), parameters(given)
    answers = {name: as_text(answer(connections, content, values)[1])
               for name, content in (tiles | lists()).items()}
    if sys.argv[1:] == ["--write"]:
        text = json.dumps(answers, indent=2, ensure_ascii=False) + "\n"
        EXPECTED.write_text(text, encoding="utf-8")
        return 0
    expected = read(EXPECTED.name)
    failed = 0
    for name in {**expected, **answers}:
        same = answers.get(name) == expected.get(name)
        failed += not same
        print(f"{'ok  ' if same else 'FAIL'} the tile {name} gives what is expected")
        if not same:
            print(f"     expected: {expected.get(name)}\n     given:    {answers.get(name)}")
    lines = answer(connections, tiles["fleet-workspaces"], values)[1]
    order = [line[0] for line in lines]
    worst_first = order == ["fabrikam", "tailspin", "wingtip", "contoso", "other-logs"]
    failed += not worst_first
    print("ok   the worst workspace is first" if worst_first else f"FAIL the worst workspace is first: {order}")
    for name, faults in link_faults(tiles, given, answers):
        failed += bool(faults)
        print(f"FAIL the tile {name} shows no link" if faults else f"ok   the tile {name} shows no link")
        for fault in faults:
            print(f"     {fault}")
    for name, faults in disagreements({item["name"]: item for item in every_tile()}, asked(connections, values)):
        failed += bool(faults)
        print(f"FAIL the numbers of {name} agree" if faults else f"ok   the numbers of {name} agree")
        for fault in faults:
            print(f"     {fault}")
    print(f"{len({**expected, **answers}) + len(tiles) - failed} passed, {failed} failed")
    return 1 if failed else 0


if __name__ == "__main__":
    sys.exit(main())
