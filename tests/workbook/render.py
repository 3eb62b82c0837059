"""Writes each tab of the workbooks as a page, with what the tiles give on events.json, so that a person can
look at it without Azure. All tiles are shown, as if their clicks had been made; a chart is drawn as bars.

usage: ../kql/.venv/bin/python render.py FOLDER
       chromium --headless --window-size=1540,2000 --screenshot=PICTURE FOLDER/PAGE
"""
import datetime
import html
import re
import sys
from pathlib import Path

from execute import answer, parameters, read, workspaces
from parts import REFERENCE, WORKBOOKS, conditions, heading, tab_labels

STYLE = """<!doctype html><meta charset="utf-8"><style>
body { font: 13px Arial, sans-serif; margin: 16px; width: 1500px }
.tile { border: 1px solid #ddd; box-sizing: border-box; display: inline-block; margin: 3px; overflow: auto;
  padding: 8px; vertical-align: top }
h3 { font-size: 14px; margin: 0 0 6px }
table { border-collapse: collapse; font-size: 12px }
th, td { border-bottom: 1px solid #ddd; max-width: 260px; overflow: hidden; padding: 3px 8px; text-align: left;
  text-overflow: ellipsis; white-space: nowrap }
.number { border: 1px solid #ccc; display: inline-block; margin: 4px; padding: 8px 14px }
.number b { display: block; font-size: 26px }
</style>"""
COLOURS = {"redBright": "#ffc9c9", "orange": "#ffe0b8", "yellow": "#fff4b3", "green": "#dff6dd", "blue": "#d6e8fa",
           "gray": "#e6e6e6"}
# What a click sets beside the keys that events.json has.
CLICKED = ("Recipient", "Attachment", "Policy", "SenderDomain", "Sender", "Receiver", "OwnSender", "Country",
           "Clicker", "Site", "AuthDomain")


def text(value):
    if isinstance(value, datetime.datetime):
        value = f"{value:%Y-%m-%d %H:%M}"
    return "" if value is None else html.escape(str(value))


def bar(value, most, colour):
    return f"background: linear-gradient(to right, {colour} {100 * value / most if most else 0}%, transparent 0)"


def style_of(formatter, value, column):
    options = formatter.get("formatOptions", {})
    for one in options.get("thresholdsGrid", []):
        if one.get("thresholdValue") == value:
            return f"background: {COLOURS[one['representation']]}"
    if formatter.get("formatter") == 4 and value:
        return bar(value, max(one or 0 for one in column), "#9ec8f0" if options["palette"] == "blue" else "#f4a3a3")
    return ""


def table(names, rows, formatters):
    shown = [number for number, name in enumerate(names) if formatters.get(name, {}).get("formatter") != 5]
    head = "".join(f"<th>{text(names[number])}" for number in shown)
    columns = list(zip(*rows))
    lines = ("".join(f'<td style="{style_of(formatters.get(names[number], {}), row[number], columns[number])}">'
                     f"{text(row[number])}" for number in shown) for row in rows)
    return f"<table><tr>{head}" + "".join(f"<tr>{line}" for line in lines) + "</table>"


def tile(item, connections, values):
    content = item["content"]
    names, rows = answer(connections, content, values)
    if not rows:
        body = f"<i>{text(content['noDataMessage'])}</i>"
    elif content["visualization"] == "tiles":
        label, number = (names.index(content["tileSettings"][part]["columnMatch"]) for part in ("titleContent", "leftContent"))
        body = "".join(f'<div class="number">{text(row[label])}<b>{row[number]}</b></div>' for row in rows)
    else:
        formatters = {one["columnMatch"]: one for one in content.get("gridSettings", {}).get("formatters", [])}
        if content["visualization"] != "table":
            rows = sorted(rows, key=str)
            formatters = {name: {"formatter": 4, "formatOptions": {"palette": "blue"}} for name, value in zip(names, rows[0])
                          if isinstance(value, (int, float)) and content["visualization"] != "map"}
        body = table(names, rows, formatters)
    title = REFERENCE.sub(lambda one: values.get(one[1], f"<{one[1]}>"), content["title"])
    width = item.get("customWidth", "100")
    return f'<div class="tile" style="width: calc({width}% - 12px)"><h3>{text(title)}</h3>{body}</div>'


def page(book, tab, connections, values):
    made = STYLE
    for item in book["items"]:
        chosen = any(one.get("value") == tab for one in conditions(item)) or item["name"] == "message"
        for part in item["content"]["items"] if item["type"] == 12 and chosen else [item]:
            if part["type"] == 1:
                made += f"<div style='white-space: pre-line'>{text(part['content']['json'])}</div>"
            elif part["type"] == 3:
                made += tile(part, connections, values)
    return made


def main():
    [folder] = map(Path, sys.argv[1:])
    given = read("events.json")
    values = parameters(given) | {name: f"<{name}>" for name in CLICKED}
    connections = workspaces(given)
    for book in WORKBOOKS.values():
        for tab in tab_labels(book):
            name = re.sub(r"\W+", "-", f"{heading(book)} {tab}")
            (folder / f"{name}.html").write_text(page(book, tab, connections, values), encoding="utf-8")


if __name__ == "__main__":
    main()
