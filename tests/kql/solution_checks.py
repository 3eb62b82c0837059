"""The folder that sentinel/solution makes, held to the checks that Azure-Sentinel's repository runs over one.

Sources: github.com/Azure/Azure-Sentinel, `.script`: dataConnectorValidator.ts and utils/schemas (a connector's
page), utils/workbookCheckers and workbooksMetadataSchema.json (workbooks), SolutionValidations (ids, domains,
support, how Microsoft Sentinel is named), contentValidator.ts; what is in `Data` and `SolutionMetadata.json` is as
in `Solutions/*`. Not run: packaging, pictures, links, and whether a connector's page asks for permissions in its
own words.
"""

import json
import re
import shutil
import subprocess
import sys
import tempfile
from pathlib import Path

import rule_limits

_DOMAINS = {
    "Application", "Cloud Provider", "Compliance", "DevOps", "Identity", "Internet of Things (IoT)", "IT Operations",
    "Migration", "Networking", "Platform", "Security - Others", "Security - Threat Intelligence",
    "Security - Threat Protection", "Security - 0-day Vulnerability", "Security - Automation (SOAR)",
    "Security - Cloud Security", "Security - Information Protection", "Security - Insider Threat",
    "Security - Network", "Security - Vulnerability Management", "Storage", "Training and Tutorials",
    "User Behavior (UEBA)",
}
_PARTS = ("Analytic Rules", "Hunting Queries", "Parsers", "Workbooks", "Data Connectors")
_PAGE = {
    "id": str, "title": str, "publisher": str, "descriptionMarkdown": str, "graphQueries": list, "sampleQueries": list,
    "dataTypes": list, "connectivityCriterias": list, "availability": dict, "permissions": dict,
    "instructionSteps": list,
}
_WORKBOOK = {
    "workbookKey": str, "logoFileName": str, "description": str, "dataTypesDependencies": list,
    "dataConnectorsDependencies": list, "previewImagesFileNames": list, "version": str, "title": str,
    "templateRelativePath": str, "subtitle": str, "provider": str,
}
_VERSION = r"\d+\.\d+\.\d+"


def check(sentinel):
    """Pairs of a name and what that repository would refuse."""
    with tempfile.TemporaryDirectory() as place:
        folder = Path(place) / "solution"
        done = subprocess.run([sys.executable, sentinel / "solution", "contoso/mimecast-sentinel", folder],
                              capture_output=True, text=True)
        yield "sentinel/solution makes a folder", [done.stderr] if done.returncode else []
        if done.returncode:
            return
        # So that what holds for these files holds for the solution's.
        yield "the solution has the files of sentinel/", list(_missing(sentinel, folder))
        yield "the solution is what Azure-Sentinel takes", _faults(folder)
        for name, break_it, words in _wrong(folder):
            copy = Path(place) / "wrong"
            shutil.copytree(folder, copy)
            break_it(copy)
            found = any(words in fault for fault in _faults(copy))
            shutil.rmtree(copy)
            yield f"a wrong solution is found out: {name}", [] if found else ["it passed"]


def _missing(sentinel, folder):
    for part, files in zip(_PARTS, ("rules/*.yaml", "hunting/*.yaml", "parser/*.yaml", "workbook/*.json",
                                    "connector/*.json")):
        for path in sorted(sentinel.glob(files)):
            copy = folder / part / path.name
            if not copy.exists() or copy.read_bytes() != path.read_bytes():
                yield f"{part}/{path.name} is missing or another"


def _faults(folder):
    return [*_solution_faults(folder), *_page_faults(folder), *_workbook_faults(folder), *_word_faults(folder)]


def _solution_faults(folder):
    [path] = (folder / "Data").glob("Solution_*.json")
    data, metadata = _read(path), _read(folder / "SolutionMetadata.json")
    there = {f"{part}/{path.name}" for part in _PARTS for path in (folder / part).iterdir()}
    listed = [one for part in _PARTS for one in data[part]]
    yield from (f"Data lists {one}, which is not there or listed twice" for one in
                sorted(set(listed) - there) + [one for one in listed if listed.count(one) > 1])
    yield from (f"Data does not list {one}" for one in sorted(there - set(listed)))
    for key in ("Name", "Author", "Logo", "Description", "BasePath"):
        if not data.get(key):
            yield f"Data has no {key}"
    if not re.fullmatch(_VERSION, data["Version"]) or f"| {data['Version']} |" not in (
            folder / "ReleaseNotes.md").read_text():
        yield f"the version {data['Version']} is not such as 1.0.0, or not in ReleaseNotes.md"
    if data["Metadata"] != "SolutionMetadata.json":
        yield "Data names no SolutionMetadata.json"
    for key in ("publisherId", "offerId"):
        # Together, with a dot, they are the solution's id.
        if not re.fullmatch(r"[a-z0-9-]+", metadata.get(key, "")):
            yield f"{key} is {metadata.get(key)!r}, not lower case without a dot"
    domains = set(metadata["categories"]["domains"])
    if not domains or domains - _DOMAINS:
        yield f"the domains are {sorted(domains)}"
    support = metadata["support"]
    if not support.get("name") or not re.fullmatch(r"https?://\S+", support.get("link", "")):
        yield "support has no name or no link"
    if not re.fullmatch(r"\d{4}-\d\d-\d\d", metadata.get("firstPublishDate", "")) or not metadata.get("providers"):
        yield "firstPublishDate or providers is missing"


def _page_faults(folder):
    for path in (folder / "Data Connectors").glob("*.json"):
        page = _read(path)
        yield from (f"{path.name} has no {key}" for key, kind in _PAGE.items() if not isinstance(page.get(key), kind))
        if re.search(r"\s", page["id"]) or page["id"] not in rule_limits.CONNECTORS:
            yield f"the connector's id {page['id']} has a blank, or no rule names it"
        yield from (f"the data type {one['name']!r} has a blank" for one in page["dataTypes"] if " " in one["name"])
        # A name with Event is taken for the table Event, and the page is not checked.
        if not page["dataTypes"][0]["name"].endswith("_CL") or "Event" in page["dataTypes"][0]["name"]:
            yield "the first data type is no table of a connector"
        permissions = page["permissions"]
        for one in permissions["resourceProvider"]:
            if not {"provider", "permissionsDisplayText", "providerDisplayName", "scope", "requiredPermissions"} <= set(one):
                yield f"the permission on {one.get('provider')} lacks a part"
        yield from ("a permission lacks its name or description" for one in permissions["customs"]
                    if not one.get("name") or not one.get("description"))


def _workbook_faults(folder):
    books = {path.name: path.read_text() for path in (folder / "Workbooks").glob("*.json")}
    entries = _read(folder / "Repository/WorkbooksMetadata.json")
    if sorted(entry["templateRelativePath"] for entry in entries) != sorted(books):
        yield "WorkbooksMetadata.json does not list the workbooks"
    if len({entry["workbookKey"] for entry in entries}) < len(entries):
        yield "two workbooks have one key"
    for entry in entries:
        key = entry["workbookKey"]
        if set(entry) != set(_WORKBOOK) or not all(isinstance(entry[k], kind) for k, kind in _WORKBOOK.items()):
            yield f"{key}: a part is missing, unknown or of another type"
        pictures = entry["previewImagesFileNames"]
        if not all(any(colour in name and name.endswith(".png") for name in pictures) for colour in ("White", "Black")):
            yield f"{key}: no picture on white, or none on black"
        if not all(entry["dataTypesDependencies"] + entry["dataConnectorsDependencies"]):
            yield f"{key}: a dependency is empty"
    for name, text in books.items():
        if json.loads(text).get("fromTemplateId") in (None, "sentinel-UserWorkbook"):
            yield f"{name}: fromTemplateId is missing or the editor's own"
        if re.search(r"subscriptions/[0-9a-fA-F]{8}(-[0-9a-fA-F]{4}){3}-[0-9a-fA-F]{12}", text):
            yield f"{name}: it names a subscription"


def _word_faults(folder):
    for path in sorted(folder.rglob("*")):
        if path.suffix in (".json", ".yaml"):
            for found in re.findall(r"(?<!Microsoft\s)(?<!-)\bSentinel\b.{0,20}", path.read_text()):
                yield f"{path.name}: {found!r} without Microsoft before it"


def _wrong(folder):
    """Faults that must be found: a name, what makes it in a folder, and words of what is said."""
    def of(pattern, change):
        def break_it(copy):
            [path] = sorted(copy.glob(pattern))[:1]
            content = _read(path)
            change(content)
            path.write_text(json.dumps(content))
        return break_it

    return [
        ("a rule that is not listed", of("Data/*.json", lambda d: d["Analytic Rules"].pop()), "does not list"),
        ("a file that is not there", of("Data/*.json", lambda d: d["Parsers"].append("Parsers/No.yaml")), "lists Parsers/No"),
        ("an unknown domain", of("SolutionMetadata.json", lambda d: d["categories"].update(domains=["Mail"])), "domains are"),
        ("an id with a dot", of("SolutionMetadata.json", lambda d: d.update(offerId="a.b")), "offerId is"),
        ("a support without a link", of("SolutionMetadata.json", lambda d: d["support"].pop("link")), "support has no"),
        ("a version without notes", of("Data/*.json", lambda d: d.update(Version="9.9.9")), "9.9.9"),
        ("a page without sample queries", of("Data Connectors/*.json", lambda d: d.pop("sampleQueries")), "sampleQueries"),
        ("a page with a blank in its id", of("Data Connectors/*.json", lambda d: d.update(id="Mimecast CI")), "has a blank"),
        ("a workbook of the editor's", of("Workbooks/*.json", lambda d: d.update(fromTemplateId="sentinel-UserWorkbook")),
         "fromTemplateId"),
        ("a workbook that is not listed", of("Repository/WorkbooksMetadata.json", lambda d: d.pop()), "does not list the"),
        ("the old name", of("SolutionMetadata.json", lambda d: d.update(providers=["Azure Sentinel"])), "without Microsoft"),
    ]


def _read(path):
    return json.loads(path.read_text())
