"""Checks the data connector's page; used by check.py."""
import copy
import json
import re

from parts import SENTINEL, WORKBOOKS, heading, tab_labels, texts

PAGE = json.loads(
    (SENTINEL / "connector/MimecastCloudIntegrated.json").read_text(encoding="utf-8")
)


def page_faults(page):
    """The page's parts and their fields, as Sentinel's gallery wants them."""
    wanted = {
        "graphQueries": {"metricName", "legend", "baseQuery"},
        "sampleQueries": {"description", "query"},
        "dataTypes": {"name", "lastDataReceivedQuery"},
        "connectivityCriterias": {"type", "value"},
        "instructionSteps": {"title", "description"},
    }
    for key in ("id", "title", "publisher", "descriptionMarkdown"):
        if not isinstance(page.get(key), str) or not page[key]:
            yield f"{key} is missing"
    for key, fields in wanted.items():
        if not page.get(key):
            yield f"{key} is missing"
        for one in page.get(key, []):
            if not fields <= set(one):
                yield f"{key}: a part lacks {', '.join(sorted(fields - set(one)))}"
    if set(page.get("availability", {})) != {"status", "isPreview"}:
        yield "availability has not status and isPreview alone"
    if page.get("id") == "MimecastCIAPI":
        yield "the id is that of the vendor's page, which this would replace"
    for one in page["permissions"]["resourceProvider"]:
        if one["requiredPermissions"].get("delete") or "sharedKeys" in one["provider"]:
            yield f"{one['provider']}: more is asked for than is needed"
    for one in page["permissions"]["customs"]:
        if not {"name", "description"} <= set(one):
            yield "a permission lacks its name or description"
    said = " ".join(texts(page["permissions"]))
    if re.search(r"\b[Oo]wner\b", re.sub(r"Storage Blob Data Owner|Owner is not needed", "", said)):
        yield "the page asks for an owner"
    yield from place_faults(page)


def place_faults(page):
    """Workbooks and tabs that the page sends its reader to."""
    tabs = {heading(book): tab_labels(book).values() for book in WORKBOOKS.values()}
    steps = " ".join(step["description"] for step in page["instructionSteps"])
    places = re.findall(r"workbook \*\*(.+?)\*\*(?:: its tab \*(.+?)\*)?", steps)
    if not places:
        yield "it sends nobody to a workbook"
    for workbook, tab in places:
        if workbook not in tabs:
            yield f"there is no workbook {workbook}"
        elif tab and tab not in tabs[workbook]:
            yield f"{workbook} has no tab {tab}"


def broken_pages():
    """The page with one thing wrong at a time, and the words by which it must be found out."""
    for old, new, words in (
        ("**Mimecast Cloud Integrated: connector**", "**Mimecast**", "no workbook Mimecast"),
        ("Integrated: connector**", "Integrated**", "has no tab Connector health"),
        ("workbook **", "book **", "sends nobody"),
    ):
        page = copy.deepcopy(PAGE)
        for step in page["instructionSteps"]:
            step["description"] = step["description"].replace(old, new)
        yield words, page
