#!/usr/bin/env python3
"""Builds the workbooks, each a JSON file beside this one, from tabs/.

A folder in tabs/ is a workbook; TITLES has its name, which its file's name is made of. There are
several since Azure's templates handle texts of at most 131,072 characters (counted in compact
JSON). No workbook names the events' table, whose name is chosen at deployment.

A file in the folder is a tab, in the order of the names; `# ` is its label, what follows it a line
of text, and each `## ` a tile: the question that is its title, and its query. The words after
```kql say how the tile looks and what a click does:

    name=…    its name, unique in all workbooks
    show=…    table (if not said), tiles, timechart, barchart, piechart or map
    tile=A:B  for tiles, the columns of the label and of the number
    width=50  its width in per cent, 100 if not said
    click=C:P a click puts column C of the row (`series` in charts) into parameter P; several by
              commas
    when=P    shown only once parameter P has a value; several by commas
    from=…    asks other workspaces: that of the connector's logs, or those of the fleet
    empty=…   what is shown where there are no rows

tabs/0-shared.md holds `let` statements, each put in front of the queries that use its name.
tabs/9-message.md is at the foot of all tabs of a workbook in which a click chooses a message, by
setting the parameter Event. A click reaches tiles of its own workbook only.

A value that a person outside can choose (an address, a subject, a link) is never pasted into a
query: a click hands its hash over too, in the hidden column Key, and the query compares hashes.
What is typed goes in as base64.

    build.py           writes the workbooks
    build.py --check   fails if one that is committed differs
"""
import json
import re
import shlex
import sys
import uuid
from pathlib import Path

from look import clicks, look
from parameters import LOGS, OF_EVERY_OTHER, OF_WORKBOOK, PARAMETERS

HERE = Path(__file__).parent
TABS = HERE / "tabs"
TITLES = {
    "threats": "Mimecast Cloud Integrated",
    "people": "Mimecast Cloud Integrated: people",
    "connector": "Mimecast Cloud Integrated: connector",
    "fleet": "Mimecast Cloud Integrated: fleet",
}

# What `from` means.
ELSEWHERE = {"logs": "{ConnectorLogs}", "fleet": "{Workspaces}"}

INTRODUCTION = """\
All times are UTC; an event's is when it happened. An event that came twice counts once. \
Click a row, a bar, a slice or a tile to go on from it.

_A range of your own with an end in the past leaves out events that arrived after that end, such as a \
backfill's: choose a range until now to see them._"""


def sections(path):
    """A tab's label, its text, and its tiles: question, settings, query."""
    head, *tiles = re.split(r"^## ", path.read_text(encoding="utf-8"), flags=re.M)
    label, _, text = head.removeprefix("# ").partition("\n")
    found = []
    for tile in tiles:
        match = re.fullmatch(r"(.+)\n\n```kql (.+)\n((?:.+\n)+)```\n*", tile)
        if not match:
            raise SystemExit(f"{path.name}: build.py describes no tile of this form:\n{tile}")
        question, settings, query = match.groups()
        settings = dict(word.split("=", 1) for word in shlex.split(settings))
        unknown = set(settings) - {"name", "show", "tile", "width", "click", "when", "from", "empty"}
        if unknown:
            raise SystemExit(f"{path.name}: {question}: {', '.join(unknown)} means nothing")
        found.append((question, settings, query.rstrip("\n")))
    return label.strip(), text.strip(), found


def shared():
    """The shared `let` statements, by name, in their order."""
    text = (TABS / "0-shared.md").read_text(encoding="utf-8")
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
        "noDataMessage": settings.get("empty", "Nothing in this time range."),
        "timeContextFromParameter": "TimeRange",
        "showRefreshButton": True,
        "showExportToExcel": True,
        **clicks(show, settings),
        "queryType": 0,
        "resourceType": LOGS,
    }
    if "from" in settings:
        content["crossComponentResources"] = [ELSEWHERE[settings["from"]]]
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


def tab_group(path, lets, condition, heading=False):
    """The group of a file's tiles, shown under this condition."""
    tab = path.stem[2:]
    label, text, tiles = sections(path)
    text = f"## {label}\n\n{text}" if heading else text
    items = [text_item(f"{tab}-text", text)] if text else []
    if tab in PARAMETERS:
        items.append(parameter_item(f"{tab}-parameters", PARAMETERS[tab]))
    return group(tab, items + [tile(*one, lets) for one in tiles], condition)


def files(folder):
    """The files of a workbook's tabs, in their order."""
    return sorted((TABS / folder).glob("*.md"))


def introduction(folder):
    others = [
        f"**{title}** ({', '.join(sections(path)[0] for path in files(other))})"
        for other, title in TITLES.items()
        if other != folder
    ]
    text = INTRODUCTION if folder != "fleet" else "All times are UTC."
    return f"# {TITLES[folder]}\n\n{text}\n\nSee also the workbooks {', '.join(others)}."


def build(folder):
    lets, tabs, groups = shared(), [], []
    for path in files(folder):
        tab = path.stem[2:]
        tabs.append((tab, sections(path)[0]))
        condition = {"parameterName": "Tab", "comparison": "isEqualTo", "value": tab}
        groups.append(tab_group(path, lets, condition))
    if any(click.endswith(":Event") for path in files(folder) for click in clicks_of(path)):
        condition = {"parameterName": "Event", "comparison": "isNotEqualTo"}
        groups.append(tab_group(TABS / "9-message.md", lets, condition, heading=True))
    return {
        "version": "Notebook/1.0",
        "items": [
            text_item("introduction", introduction(folder)),
            parameter_item("parameters", OF_WORKBOOK.get(folder, OF_EVERY_OTHER)),
            tab_links(tabs),
            *groups,
        ],
        "fallbackResourceIds": [],
        "fromTemplateId": f"sentinel-{file_name(folder)}",
        "$schema": "https://github.com/Microsoft/Application-Insights-Workbooks/blob/master/schema/"
        "workbook.json",
    }


def clicks_of(path):
    """What the clicks on a file's tiles do, as `column:parameter`."""
    return [
        click
        for _, settings, _ in sections(path)[2]
        for click in settings.get("click", "").split(",")
    ]


def file_name(folder):
    return re.sub(r"\W", "", TITLES[folder].title())


def main():
    if sys.argv[1:] not in ([], ["--check"]):
        raise SystemExit(__doc__)
    stray = {path.name for path in TABS.iterdir()} ^ {*TITLES, "0-shared.md", "9-message.md"}
    if stray:
        raise SystemExit(f"tabs/ and TITLES disagree about {', '.join(sorted(stray))}")
    made = {
        f"{file_name(folder)}.json": json.dumps(build(folder), indent=2, ensure_ascii=False) + "\n"
        for folder in TITLES
    }
    if sys.argv[1:]:
        committed = {path.name: path.read_text(encoding="utf-8") for path in HERE.glob("*.json")}
        for name in sorted({*made, *committed}):
            if made.get(name) != committed.get(name):
                raise SystemExit(f"{name} is not what its sources make: run {Path(__file__).name}")
        return
    for name, text in made.items():
        (HERE / name).write_text(text, encoding="utf-8")


if __name__ == "__main__":
    main()
