"""Checks the workbooks and the data connector's page; run by ./run."""
import copy
import json
import re
import subprocess
import sys
from pathlib import Path

from page import PAGE, broken_pages, page_faults
from parts import REFERENCE, SENTINEL, WORKBOOKS, calls, conditions, exports, heading, named, size
from parts import tab_labels, texts, walk

HERE = Path(__file__).parent
# The longest text that a template's expressions handle; a workbook must be shorter.
MAX_TEXT = 131_072
# What a workbook's item may be: its type, and the version that its content has.
ITEMS = {
    1: None,
    3: "KqlItem/1.0",
    9: "KqlParameterItem/1.0",
    11: "LinkItem/1.0",
    12: "NotebookGroup/1.0",
}
VISUALIZATIONS = {"table", "tiles", "timechart", "barchart", "piechart", "map"}
TIME_RANGE, TEXT, CHOICE, RESOURCE = 4, 1, 2, 5
# A table of a connector's events, or the stream that is named like ours.
TABLE = re.compile(r"\b(?!MimecastConnectorHealth_CL\b)\w+_CL\b|Custom-Cloud_Integrated", re.IGNORECASE)
# Parameters whose values Mimecast or the connector chooses, or that are hex digits; so is each that
# ends in Key.
SAFE_AS_TEXT = {
    "Event", "Run", "Tag", "ThreatType", "ThreatState", "Subtype", "Check",
    "CheckResult", "ClickAction", "PolicyAction", "PolicyMode",
}


def form_faults(workbook):
    """The outer form: versions, types, names, size."""
    if workbook["version"] != "Notebook/1.0":
        yield "the version is not Notebook/1.0"
    if size(workbook) >= MAX_TEXT:
        yield f"{size(workbook)} characters are too long; {MAX_TEXT - 1} are possible"
    names = set()
    for item, _ in walk(workbook["items"]):
        name, content = item.get("name"), item["content"]
        if not name or name in names:
            yield f"the name {name!r} is missing or there twice"
        names.add(name)
        if item["type"] not in ITEMS:
            yield f"{name}: no item has the type {item['type']}"
        elif content.get("version") != ITEMS[item["type"]]:
            yield f"{name}: the content's version is {content.get('version')}"
        for condition in conditions(item):
            if condition["comparison"] not in ("isEqualTo", "isNotEqualTo"):
                yield f"{name}: no condition is called {condition['comparison']}"
        if item["type"] == 12 and not content.get("exportParameters"):
            yield f"{name}: what is clicked in the group is not known outside"


def tile_faults(workbook):
    """Each tile: a question, its time range, its look."""
    titles = set()
    for item, _ in walk(workbook["items"]):
        if item["type"] != 3:
            continue
        name, content = item["name"], item["content"]
        title, query = content.get("title", ""), content["query"]
        if not title.endswith("?"):
            yield f"{name}: the title is not a question: {title!r}"
        if title in titles:
            yield f"{name}: the title is there twice: {title!r}"
        titles.add(title)
        if content.get("visualization") not in VISUALIZATIONS:
            yield f"{name}: nothing shows as {content.get('visualization')}"
        if content.get("timeContextFromParameter") != "TimeRange":
            yield f"{name}: the scan is not bound to the time range"
        times = re.findall(r"where (.+?) \{TimeRange:query\}", query)
        of_logs = {"AppTraces", "DCRLogErrors", "MimecastConnectorHealth_CL", "SecurityAlert"} & set(re.findall(r"\w+", query))
        allowed = ["EventTime", "TimeGenerated"] if of_logs else ["EventTime"]
        if not times or any(time not in allowed for time in times):
            yield f"{name}: it does not filter event time by the time range"
        if calls(query) > 1:
            yield f"{name}: it calls the functions {calls(query)} times"
        if "MimecastCI" in query and "starttime = {TimeRange:start}" not in query:
            yield f"{name}: the function reads rows from before the time range"
        if "endtime" in query:
            yield f"{name}: it leaves out old events that arrived after the time range"
        if re.search(r"\bcontains\b", query):
            yield f"{name}: it searches with contains, not by words"
        located = query.find("geo_info_from_ip_address(")
        if located >= 0 and not re.search(r"(by|distinct) \['Sender IP'\][^)]*$", query[:located]):
            yield f"{name}: it locates an address more than once"
        logs = content.get("crossComponentResources") == ["{ConnectorLogs}"]
        if ("AppTraces" in query) != logs:
            yield f"{name}: AppTraces is asked in the wrong workspace"
        if ("TenantId" in query) != (content.get("crossComponentResources") == ["{Workspaces}"]):
            yield f"{name}: it does not ask the workspaces of the fleet"


def parameter_faults(workbook):
    """Each parameter used is there, each that is set is used, and none can change a query."""
    known, used, labels = {"Tab": TEXT}, set(), set()
    for item, _ in walk(workbook["items"]):
        for one in item["content"].get("parameters", []) if item["type"] == 9 else []:
            if one["name"] in known or one["id"] in labels:
                yield f"the parameter {one['name']} is there twice"
            known[one["name"]] = one["type"]
            labels.add(one["id"])
        for name in exports(item) if item["type"] == 3 else []:
            known.setdefault(name, TEXT)
    for item, _ in walk(workbook["items"]):
        own = {key: value for key, value in item["content"].items() if key != "items"}
        needs = {condition["parameterName"] for condition in conditions(item)}
        needs |= {own["timeContextFromParameter"]} if "timeContextFromParameter" in own else set()
        needs |= {name for text in texts(own) for name, _ in REFERENCE.findall(text)}
        used |= needs
        for name in sorted(needs - set(known)):
            yield f"{item['name']}: nothing sets the parameter {name}"
        if item["type"] != 3:
            continue
        shown = {condition["parameterName"] for condition in conditions(item)}
        asked = REFERENCE.findall(own["query"] + own["title"])
        for name in {name for name, _ in asked if known.get(name) == TEXT} - shown:
            yield f"{item['name']}: it is shown before {name} has a value"
        for name, form in REFERENCE.findall(own["query"]):
            safe = form == "base64" or name.endswith("Key") or name in SAFE_AS_TEXT
            if known.get(name) == TEXT and not safe:
                yield f"{item['name']}: the text of {name} goes into the query as it is"
    for name in sorted(set(known) - used):
        yield f"nothing uses the parameter {name}"


def tab_faults(workbook):
    """Each tab has a group that it shows, and the other way round."""
    linked = set(tab_labels(workbook))
    shown = {
        condition["value"]
        for item in workbook["items"]
        for condition in conditions(item)
        if condition["parameterName"] == "Tab"
    }
    for tab in sorted(linked ^ shown):
        yield f"the tab {tab} has a link or a group, not both"


def drill_faults(workbook):
    """Each tab goes on from a click to rows, and each table of messages to the message."""
    for group in workbook["items"]:
        if group["type"] != 12 or group["name"] == "message":
            continue
        tiles = [item for item in group["content"]["items"] if item["type"] == 3]
        if not any(exports(tile) for tile in tiles):
            yield f"{group['name']}: no click leads on"
        for tile in tiles:
            hands_over = {
                one["fieldName"] for one in tile["content"].get("exportedParameters", [])
            }
            ends_with_id = re.search(r"\bMessageKey = hash_sha256\(Message\)$", tile["content"]["query"])
            if ends_with_id and "MessageKey" not in hands_over:
                yield f"{tile['name']}: a click does not lead to the message"


def workbook_faults(workbook):
    kinds = (form_faults, tile_faults, parameter_faults, tab_faults, drill_faults, table_faults)
    for faults in kinds:
        yield from faults(workbook)


def table_faults(workbook):
    """The table's name is chosen at deployment: a workbook knows the parser only."""
    for text in texts(workbook):
        for name in TABLE.findall(text):
            yield f"it names the table {name}, which may have another name"


def together_faults(books):
    """The workbooks beside each other: none replaces another, one name means one tile."""
    for what, of in (("heading", heading), ("template id", lambda book: book["fromTemplateId"])):
        if len({of(book) for book in books.values()}) != len(books):
            yield f"two workbooks have the same {what}"
    queries = {}
    for name, book in books.items():
        for item in (item for item, _ in walk(book["items"]) if item["type"] == 3):
            query = queries.setdefault(item["name"], item["content"]["query"])
            if query != item["content"]["query"]:
                yield f"{name}: another workbook has another tile {item['name']}"


def today_faults(books):
    names = {item["name"] for book in books.values() for item, _ in walk(book["items"])}
    today = json.loads((HERE / "today.json").read_text(encoding="utf-8"))
    for title, name in today.items():
        if name not in names:
            yield f"{title}: there is no tile {name}"
    if len(today) != 24:
        yield f"the vendor's workbook has 24 tiles, not {len(today)}"


def broken(books):
    """Workbooks with one thing wrong at a time, and the words by which it must be found out."""

    def change(name, alter):
        """The first workbook that has an item of this name, with that item altered."""
        book = copy.deepcopy(next(book for book in books.values() if named(book, name)))
        alter(named(book, name))
        return book

    def swap(name, key, old, new):
        def alter(item):
            assert old in item["content"][key], (name, key, old)
            item["content"][key] = item["content"][key].replace(old, new)

        return change(name, alter)

    def without(title, name):
        """The workbook of this title without one of its groups."""
        book = copy.deepcopy(next(book for book in books.values() if heading(book) == title))
        book["items"].remove(named(book, name))
        return book

    yield "is not a question", swap("tags", "title", "?", "")
    yield "there twice", change("threat-types", lambda item: item.update(name="tags"))
    yield "nothing sets", swap("tag-messages", "query", "{Tag}", "{Tga}")
    yield "as it is", swap("sender-messages", "query", "{SenderKey}", "{Sender}")
    yield "does not filter", swap("tags", "query", "EventTime {TimeRange:query}", "true")
    yield "does not filter", swap("tags", "query", "where EventTime {", "where TimeGenerated {")
    yield "2 times", swap("threat-types", "query", "DeliveriesOf()\n", "DeliveriesOf()\n| where Message in ((EventsOf('entities') | project Message))\n")
    yield "before the time range", swap("tags", "query", "starttime = {TimeRange:start}, ", "")
    yield "after the time range", swap("tags", "query", "starttime =", "endtime = now(), starttime =")
    yield "not by words", swap("search-events", "query", " has Wanted", " contains Wanted")
    yield "more than once", swap("sender-map", "query", "| summarize Deliveries = count() by ['Sender IP']\n", "")
    yield "not bound", change(
        "tags", lambda item: item["content"].pop("timeContextFromParameter")
    )
    yield "before Tag has", change("tag-messages", lambda item: item.pop("conditionalVisibility"))
    yield "nothing uses", change(
        "tags", lambda item: item["content"].update(exportParameterName="Nothing")
    )
    for title in ("Mimecast Cloud Integrated", "Mimecast Cloud Integrated: people"):
        yield "nothing uses the parameter Event", without(title, "message")
    yield "wrong workspace", change(
        "health-lag", lambda item: item["content"].pop("crossComponentResources")
    )
    yield "of the fleet", change(
        "fleet-workspaces", lambda item: item["content"].pop("crossComponentResources")
    )
    yield "not both", change("tabs", lambda item: item["content"]["links"].pop())
    yield "not both", without("Mimecast Cloud Integrated: connector", "health")
    yield "does not lead", change(
        "campaign-messages", lambda item: item["content"].pop("exportedParameters")
    )
    yield "not known outside", change(
        "threats", lambda item: item["content"].pop("exportParameters")
    )
    yield "no item has the type", change("tags", lambda item: item.update(type=4))
    yield "names the table", swap(
        "health-repeats", "query", "MimecastCI(", "Cloud_Integrated_CL("
    )
    yield "names the table", swap(
        "health-tests", "query", "MimecastConnectorHealth_CL", "MimecastConnectorHealth_CL, Mimecast_CL"
    )
    yield "names the table", swap(
        "health-rule-errors", "query", "'Custom-'", "'Custom-Cloud_Integrated'"
    )
    yield "names the table", swap("overview-streams", "title", "stream", "stream of Mimecast_CL")
    for book in books.values():
        yield "Notebook/1.0", {**book, "version": "Notebook/2.0"}
        yield "too long", {**book, "more": "x" * (MAX_TEXT - size({**book, "more": ""}))}


def broken_together(books):
    """Workbooks of which two do not go together, and the words by which it must be found out."""
    one, other, *_ = books
    for key, words in (("items", "same heading"), ("fromTemplateId", "same template id")):
        yield words, {**books, other: {**books[other], key: books[one][key]}}
    changed = copy.deepcopy(books)
    named(changed["MimecastCloudIntegratedPeople.json"], "message-steps")["content"]["query"] += " "
    yield "another tile message-steps", changed


def main():
    built = subprocess.run(
        [sys.executable, SENTINEL / "workbook/build.py", "--check"],
        capture_output=True,
        text=True,
        check=False,
    )
    results = [
        ("the workbooks are what their sources make", [built.stderr] if built.returncode else []),
        *((f"the form of {name}", list(workbook_faults(book))) for name, book in WORKBOOKS.items()),
        ("the workbooks beside each other", list(together_faults(WORKBOOKS))),
        ("the workbooks have what the vendor's shows", list(today_faults(WORKBOOKS))),
        ("the connector's page", list(page_faults(PAGE))),
    ]
    for what, faults_of, wrong_ones in (
        ("workbook", workbook_faults, broken(WORKBOOKS)),
        ("set of workbooks", together_faults, broken_together(WORKBOOKS)),
        ("page", page_faults, broken_pages()),
    ):
        for words, wrong in wrong_ones:
            found = list(faults_of(wrong))
            missed = [] if any(words in fault for fault in found) else [f"found only: {found}"]
            results.append((f"a wrong {what} is found out: {words}", missed))
    for name, faults in results:
        print(f"FAIL {name}" if faults else f"ok   {name}")
        for fault in faults:
            print(f"     {fault}")
    failed = sum(1 for _, faults in results if faults)
    print(f"{len(results) - failed} passed, {failed} failed")
    return 1 if failed else 0


if __name__ == "__main__":
    sys.exit(main())
