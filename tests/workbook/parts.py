"""The workbooks, and how to read their parts."""
import json
import re
from pathlib import Path

SENTINEL = Path(__file__).parent / "../../sentinel"
WORKBOOKS = {
    path.name: json.loads(path.read_text(encoding="utf-8"))
    for path in sorted((SENTINEL / "workbook").glob("*.json"))
}
REFERENCE = re.compile(r"\{([A-Za-z]\w*)(?::(\w+))?\}")


def walk(items, path=()):
    """Every item, with the groups it is in."""
    for item in items:
        yield item, path
        if item["type"] == 12:
            yield from walk(item["content"]["items"], (*path, item["name"]))


def exports(item):
    content = item["content"]
    names = [one["parameterName"] for one in content.get("exportedParameters", [])]
    return names + ([content["exportParameterName"]] if "exportParameterName" in content else [])


def conditions(item):
    one = [item["conditionalVisibility"]] if "conditionalVisibility" in item else []
    return one + item.get("conditionalVisibilities", [])


def texts(value):
    """Every string in a value."""
    if isinstance(value, str):
        yield value
    elif isinstance(value, (dict, list)):
        for member in value.values() if isinstance(value, dict) else value:
            yield from texts(member)


def named(book, name):
    """The item of this name, or None."""
    return next((item for item, _ in walk(book["items"]) if item["name"] == name), None)


def heading(workbook):
    """The workbook's name, which its first line is."""
    return workbook["items"][0]["content"]["json"].partition("\n")[0].removeprefix("# ")


def tab_labels(workbook):
    [tabs] = [item["content"]["links"] for item in workbook["items"] if item["type"] == 11]
    return {link["subTarget"]: link["linkLabel"] for link in tabs}


def size(workbook):
    """Its characters as compact JSON, as the template has it."""
    return len(json.dumps(workbook, ensure_ascii=False, separators=(",", ":")))
