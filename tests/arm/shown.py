"""An expanded template as its snapshot has it: short, and with nothing in it that is long and says
little. The parameter file `minimal` is shown whole, each other by how it differs from that."""
import functools
import json

import engine
from files import LONG, ROOT, digest

VERSION = (ROOT / "sentinel/version.txt").read_text().strip()

# How Content hub shows the content.
PACKAGE = {
    "Microsoft.SecurityInsights/contentPackages",
    "Microsoft.SecurityInsights/contentTemplates",
    "Microsoft.SecurityInsights/metadata",
}
# Whose texts are tested where they come from.
CONTENT = PACKAGE | {
    "Microsoft.OperationalInsights/workspaces/savedSearches",
    "Microsoft.SecurityInsights/alertRules",
    "Microsoft.SecurityInsights/dataConnectorDefinitions",
    "Microsoft.Insights/workbooks",
}
ABSENT = "(absent)"


def short(value):
    if isinstance(value, dict):
        return {k: short(v) for k, v in value.items()}
    if isinstance(value, list):
        return [short(v) for v in value]
    if isinstance(value, str):
        value = value.replace(engine.GROUP, "<group>")
        return digest(value) if len(value) > LONG else value
    return value


def columns(value):
    """The value with each column on one line."""
    if isinstance(value, dict):
        return {k: [f"{c['name']}: {c['type']}" for c in v]
                if k == "columns" and isinstance(v, list) else columns(v) for k, v in value.items()}
    return [columns(v) for v in value] if isinstance(value, list) else value


def resource(found):
    """The resource without what its key says; of content only what is short."""
    kind, name = found["type"], found["name"]
    last = f"/providers/{kind.split('/')[0]}/"
    shown = {"of": short(found["id"].rpartition(last)[0])}
    shown |= {k: v for k, v in found.items() if k not in ("id", "type", "name")}
    if kind in CONTENT:
        shown["properties"] = {
            k: digest(json.dumps(v, sort_keys=True)) if isinstance(v, (dict, list)) else v
            for k, v in shown["properties"].items()}
    return f"{kind} {name}", short(columns(shown))


def whole(expanded):
    """The resources by type and name, and the outputs."""
    shown = {}
    # The engine gives them in no order that is the same each time.
    for found in sorted(expanded.resources, key=lambda r: json.dumps([r["type"], r["name"], r])):
        key, value = resource(found)
        while key in shown:
            key += ", again"
        shown[key] = value
    shown["outputs"] = short(expanded.outputs)
    return shown


def without_cloud(shown, cloud):
    """The same without the addresses that only this cloud has, and without the release's version,
    which changes with each file of the content."""
    text = json.dumps(shown, ensure_ascii=False).replace(VERSION, "<version>")
    storage, vault = engine.CLOUDS[cloud]
    return json.loads(text.replace(storage, "<storage>").replace(vault, ".<vault>"))


def leaves(value, path=""):
    """The scalars in a value, by path; an empty list or object is one."""
    pairs = ()
    if isinstance(value, dict):
        pairs = value.items()
    elif isinstance(value, list):
        pairs = enumerate(value)
    if not pairs:
        return {path: value}
    found = {}
    for key, inner in pairs:
        found |= leaves(inner, f"{path}/{key}" if path else str(key))
    return found


def difference(before, after):
    """What is added, removed and changed from one snapshot to the next."""
    changed = {}
    for key in (k for k in after if k in before):
        old, new = leaves(before[key]), leaves(after[key])
        paths = {p: new.get(p, ABSENT) for p in {**old, **new}
                 if p not in old or p not in new or old[p] != new[p]}
        if paths:
            changed[key] = paths
    found = {"added": {k: v for k, v in after.items() if k not in before},
             "removed": [k for k in before if k not in after], "changed": changed}
    return {k: v for k, v in found.items() if v}


@functools.cache
def known(name, cloud, expand):
    return without_cloud(whole(expand(name, cloud)), cloud)


def unlike(first, other):
    """Where a difference in another cloud is not as in the first."""
    old, new = leaves(first), leaves(other)
    return {p: new.get(p, ABSENT) for p in {**old, **new}
            if p and old.get(p, ABSENT) != new.get(p, ABSENT)}


def snapshot(name, expand, clouds):
    """The text of a parameter file's snapshot. `expand` expands one in a cloud."""
    first, *others = clouds
    if name == "minimal":
        shown = {first: whole(expand(name, first))}
        shown |= {cloud: difference(shown[first], whole(expand(name, cloud))) for cloud in others}
    else:
        found = {cloud: difference(known("minimal", cloud, expand), known(name, cloud, expand))
                 for cloud in clouds}
        shown = {first: found[first]}
        shown |= {f"{cloud}, unlike {first}": unlike(found[first], found[cloud])
                  for cloud in others}
    return json.dumps(shown, indent=1, ensure_ascii=False, sort_keys=True) + "\n"
