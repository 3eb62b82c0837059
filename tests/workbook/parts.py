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

# A `let` function that gives a table, its parameters and its body; one ends before the next begins.
TABULAR = re.compile(r"let (\w+Of) = \(([^{]*)\) \{\n(.*?)\n\};\n?", re.DOTALL)


def inlined(query):
    """The query with the bodies of its own tabular functions where they are called: DuckDB has none."""
    while functions := TABULAR.findall(query):
        # The last one: what it calls stands before it.
        name, parameters, body = functions[-1]
        query = re.sub(rf"let {name} = .*?\n\}};\n?", "", query, flags=re.DOTALL)
        known = [one.partition(":")[0].strip() for one in parameters.split(", ")]
        given = [one.partition("=")[2].strip() for one in parameters.split(", ")]

        def called(call):
            values = re.findall(r"'[^']*'|dynamic\([^)]*\)|\w+", call[1])
            text = body
            for parameter, value in zip(known, values + given[len(values):], strict=True):
                text = re.sub(rf"\b{parameter}\b", lambda _: value, text)
            return text

        query = re.sub(rf"\b{name}\(((?:[^()]|\([^()]*\))*)\)", called, query)
    return query


def calls(query):
    """How often a query has the events' functions run: a `let` that is used twice runs twice."""
    statements = re.split(r";\s*\n", inlined(query))

    def runs(number):
        found = re.match(r"let (\w+) =\s*(materialize\()?", statements[number])
        if not found:
            return 1
        times = sum(runs(other) * len(re.findall(rf"\b{found[1]}\b", statements[other]))
                    for other in range(number + 1, len(statements)))
        return min(times, 1) if found[2] else times

    return sum(runs(number) * len(re.findall(r"\bMimecastC(?:I|IRows|IByRecipient)\(|\bMimecastCloudIntegrated\b", one))
               for number, one in enumerate(statements))


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
