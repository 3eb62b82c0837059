#!/usr/bin/env python3
"""Builds MimecastCloudIntegrated.json, the workbook, from tabs/*.md.

A file is a tab, in the order of the names; `# ` is its label, what follows it a line of text, and
each `## ` a tile: the question that is its title, and its query. The words after ```kql say how the
tile looks and what a click does:

    name=…    its name, unique in the workbook
    show=…    table (if not said), tiles, timechart, barchart, piechart or map
    tile=A:B  for tiles, the columns of the label and of the number
    width=50  its width in per cent, 100 if not said
    click=C:P a click puts column C of the row (`series` in charts) into parameter P; several by
              commas
    when=P    shown only once parameter P has a value; several by commas
    from=logs asks the workspace of the connector's logs

0-shared.md holds `let` statements, each put in front of the queries that use its name.
9-message.md is not a tab: it is at the foot of all of them.

A value that a person outside can choose (an address, a subject, a link) is never pasted into a
query: a click hands its hash over too, in the hidden column Key, and the query compares hashes.
What is typed goes in as base64.

    build.py           writes the workbook
    build.py --check   fails if the committed one is another
"""
import json
import re
import shlex
import sys
import uuid
from pathlib import Path

from look import clicks, look

HERE = Path(__file__).parent
OUT = HERE / "MimecastCloudIntegrated.json"
LOGS = "microsoft.operationalinsights/workspaces"
GRAPH = "microsoft.resourcegraph/resources"
MINUTE, DAY = 60_000, 86_400_000
# The ranges on offer; the default is 14 days.
RANGES = [5 * MINUTE, 15 * MINUTE, 30 * MINUTE, 60 * MINUTE, 240 * MINUTE, 720 * MINUTE] + [
    days * DAY for days in (1, 2, 3, 7, 14, 28, 30, 60, 90)
]

INTRODUCTION = """\
All times are UTC, and are when the event happened. Repeated deliveries of an event count once. \
Click a row, a bar, a slice or a tile to go on from it.

_A range of your own that ended in the past leaves out rows that landed after its end (a backfill, \
say): for those choose a range that reaches until now._"""


def parameter(name, label, kind, help_text, **more):
    return {
        "id": str(uuid.uuid5(uuid.NAMESPACE_URL, f"mimecast-sentinel/workbook/{name}")),
        "version": "KqlParameterItem/1.0",
        "name": name,
        "label": label,
        "description": help_text,
        "type": kind,
        **more,
    }


def choice_of(name, label, help_text, query, resources=None):
    """A list of values from a query, of which all or some are taken."""
    return parameter(
        name,
        label,
        2,
        help_text,
        isRequired=True,
        multiSelect=True,
        quote="'",
        delimiter=",",
        query=query,
        **({"crossComponentResources": resources} if resources else {}),
        typeSettings={
            "additionalResourceOptions": ["value::all"],
            "selectAllValue": "*",
            "showDefault": False,
        },
        timeContext={"durationMs": 0},
        timeContextFromParameter="TimeRange",
        value=["value::all"],
        defaultValue="value::all",
        queryType=0,
        resourceType=LOGS,
    )


PARAMETERS = {
    "": [
        parameter(
            "TimeRange",
            "Time range",
            4,
            "When the event happened, in UTC",
            isRequired=True,
            value={"durationMs": 14 * DAY},
            typeSettings={
                "selectableValues": [{"durationMs": ms} for ms in RANGES],
                "allowCustom": True,
            },
        ),
        choice_of(
            "Account",
            "Mimecast account",
            "Of which accounts to show events",
            "MimecastCloudIntegrated\n| where EventTime {TimeRange:query}\n"
            "| where isnotempty(['Account ID'])\n"
            "| distinct Account = ['Account ID']\n| order by Account asc",
        ),
    ],
    "search": [
        parameter("Find", "Find", 1, "An address, a domain, a word of the subject, a link, an id"),
    ],
    "health": [
        # The workbook's own workspace.
        parameter(
            "Workspace",
            "Workspace",
            5,
            "The workspace that the events are in",
            isRequired=True,
            isHiddenWhenLocked=True,
            value="value::1",
            typeSettings={
                "resourceTypeFilter": {LOGS: True},
                "additionalResourceOptions": ["value::1"],
                "showDefault": False,
            },
        ),
        parameter(
            "ConnectorLogs",
            "Workspace of the connector's logs",
            5,
            "The workspace behind the connector's Application Insights",
            isRequired=True,
            query="resources\n| where type =~ 'microsoft.operationalinsights/workspaces'\n"
            "| project value = id, label = name, selected = id =~ '{Workspace}', "
            "group = resourceGroup",
            crossComponentResources=["value::all"],
            typeSettings={
                "resourceTypeFilter": {LOGS: True},
                "additionalResourceOptions": [],
                "showDefault": False,
            },
            queryType=1,
            resourceType=GRAPH,
        ),
        choice_of(
            "Connector",
            "Connector",
            "The function apps of which to show runs",
            "AppTraces\n| where TimeGenerated {TimeRange:query}\n"
            "| where Message startswith '{\"timestamp\":' or Message has 'run finished'\n"
            "| distinct Connector = AppRoleName\n| order by Connector asc",
            ["{ConnectorLogs}"],
        ),
    ],
}

def sections(path):
    """A tab's label, its text, and its tiles: question, settings, query."""
    head, *tiles = re.split(r"^## ", path.read_text(encoding="utf-8"), flags=re.M)
    label, _, text = head.removeprefix("# ").partition("\n")
    found = []
    for tile in tiles:
        match = re.fullmatch(r"(.+)\n\n```kql (.+)\n((?:.+\n)+)```\n*", tile)
        if not match:
            raise SystemExit(f"{path.name}: this tile is not of the form told in build.py:\n{tile}")
        question, settings, query = match.groups()
        settings = dict(word.split("=", 1) for word in shlex.split(settings))
        unknown = set(settings) - {"name", "show", "tile", "width", "click", "when", "from"}
        if unknown:
            raise SystemExit(f"{path.name}: {question}: {', '.join(unknown)} means nothing")
        found.append((question, settings, query.rstrip("\n")))
    return label.strip(), text.strip(), found


def shared():
    """The shared `let` statements, by name, in their order."""
    text = (HERE / "tabs/0-shared.md").read_text(encoding="utf-8")
    lets = re.findall(r"^```kql\n(let (\w+) = .*?;)\n```$", text, flags=re.M | re.S)
    return {name: statement for statement, name in lets}


def whole(query, lets):
    """The query with the shared statements that it needs in front."""
    needed, text = set(), query
    for name, statement in reversed(list(lets.items())):
        if re.search(rf"\b{name}\b", text):
            needed.add(name)
            text += statement
    return "\n".join([lets[name] for name in lets if name in needed] + [query])


def visibility(when):
    conditions = [{"parameterName": p, "comparison": "isNotEqualTo"} for p in when.split(",")]
    if len(conditions) == 1:
        return {"conditionalVisibility": conditions[0]}
    return {"conditionalVisibilities": conditions}


def tile(question, settings, query, lets):
    show = settings.get("show", "table")
    content = {
        "version": "KqlItem/1.0",
        "query": whole(query, lets),
        "size": 3 if show in ("tiles", "piechart", "map") else 0,
        "title": question,
        "noDataMessage": "Nothing in this time range.",
        "timeContextFromParameter": "TimeRange",
        "showRefreshButton": True,
        "showExportToExcel": True,
        **clicks(show, settings),
        "queryType": 0,
        "resourceType": LOGS,
    }
    if settings.get("from") == "logs":
        content["crossComponentResources"] = ["{ConnectorLogs}"]
    content["visualization"] = show
    content.update(look(show, settings, query))
    item = {"type": 3, "content": content}
    if "width" in settings:
        item["customWidth"] = settings["width"]
    if "when" in settings:
        item.update(visibility(settings["when"]))
    return {**item, "name": settings["name"], "styleSettings": {"showBorder": True}}


def text_item(name, text):
    return {"type": 1, "content": {"json": text}, "name": name}


def parameter_item(name, parameters):
    content = {
        "version": "KqlParameterItem/1.0",
        "parameters": parameters,
        "style": "pills",
        "queryType": 0,
        "resourceType": LOGS,
    }
    return {"type": 9, "content": content, "name": name}


def group(name, items, condition):
    content = {
        "version": "NotebookGroup/1.0",
        "groupType": "editable",
        "items": items,
        "exportParameters": True,
    }
    return {"type": 12, "content": content, "conditionalVisibility": condition, "name": name}


def tab_links(tabs):
    links = [
        {
            "id": str(uuid.uuid5(uuid.NAMESPACE_URL, f"mimecast-sentinel/workbook/tab/{tab}")),
            "cellValue": "Tab",
            "linkTarget": "parameter",
            "linkLabel": label,
            "subTarget": tab,
            "style": "link",
        }
        for tab, label in tabs
    ]
    content = {"version": "LinkItem/1.0", "style": "tabs", "links": links}
    return {"type": 11, "content": content, "name": "tabs"}


def build():
    lets, tabs, groups = shared(), [], []
    for path in sorted((HERE / "tabs").glob("[1-9]-*.md")):
        tab = path.stem[2:]
        label, text, tiles = sections(path)
        items = [text_item(f"{tab}-text", text)] if text else []
        if tab in PARAMETERS:
            items.append(parameter_item(f"{tab}-parameters", PARAMETERS[tab]))
        items += [tile(*one, lets) for one in tiles]
        if tab == "message":
            condition = {"parameterName": "Event", "comparison": "isNotEqualTo"}
            items[0]["content"]["json"] = f"## {label}\n\n{text}"
        else:
            condition = {"parameterName": "Tab", "comparison": "isEqualTo", "value": tab}
            tabs.append((tab, label))
        groups.append(group(tab, items, condition))
    return {
        "version": "Notebook/1.0",
        "items": [
            text_item("introduction", f"# Mimecast Cloud Integrated\n\n{INTRODUCTION}"),
            parameter_item("parameters", PARAMETERS[""]),
            tab_links(tabs),
            *groups,
        ],
        "fallbackResourceIds": [],
        "fromTemplateId": "sentinel-MimecastCloudIntegrated",
        "$schema": "https://github.com/Microsoft/Application-Insights-Workbooks/blob/master/schema/"
        "workbook.json",
    }


def main():
    built = json.dumps(build(), indent=2, ensure_ascii=False) + "\n"
    if sys.argv[1:] == ["--check"]:
        if OUT.read_text(encoding="utf-8") != built:
            raise SystemExit(f"{OUT.name} is not what its sources make: run {Path(__file__).name}")
    elif sys.argv[1:]:
        raise SystemExit(__doc__)
    else:
        OUT.write_text(built, encoding="utf-8")


if __name__ == "__main__":
    main()
