"""Holds expanded resources to what Microsoft's types know of each API version: they are written as
Bicep's literals, one on a line, and Bicep says what it does not know."""
import itertools
import json

import engine
from files import LONG

# What Bicep's types lack and the service takes: the resource, a part of Bicep's words, and why it
# is right.
ALLOWED = {
    ("Microsoft.OperationalInsights/workspaces/savedSearches", 'property "etag"'):
        "without it a second deployment ends in 409; the service reads it from there",
    ("Microsoft.SecurityInsights/dataConnectorDefinitions", 'property "sampleQueries"'):
        "the portal reads it",
    ("Microsoft.Web/sites/extensions", 'property "properties"'):
        "there is a type of one extension alone, MSDeploy, and this is onedeploy",
}
# What is declared in another way, or is the template's own matter.
OTHERWISE = ("id", "type", "apiVersion", "name", "condition", "dependsOn")


def value(node):
    """The value as Bicep writes it; what only Azure knows may be of any type."""
    if isinstance(node, dict):
        return "{" + ", ".join(f"{engine.literal(k)}: {value(v)}" for k, v in node.items()) + "}"
    if isinstance(node, list):
        return "[" + ", ".join(map(value, node)) + "]"
    if isinstance(node, str) and node.startswith("[") and node.endswith("]"):
        return "any('')"
    # No type limits a text that is longer.
    if isinstance(node, str) and len(node) > LONG:
        return engine.literal(node[:LONG])
    return engine.literal(node)


def scope(resource):
    """The id of the resource that it extends; None if it extends none."""
    outer = resource["id"].rpartition(f"/providers/{resource['type'].split('/')[0]}/")[0]
    return outer if "/providers/" in outer else None


class Declared:
    """Bicep's text of resources, and which resource is on which line."""

    def __init__(self, resources):
        self.versions = {r["type"].lower(): r["apiVersion"] for r in resources}
        self.lines, self.on_line, self.existing, self.copies = [], {}, {}, {}
        for number, resource in enumerate(resources):
            line = self.resource(number, resource)
            self.on_line[len(self.lines)] = resource
            self.lines.append(line)

    def resource(self, number, resource):
        kind, version = resource["type"], resource["apiVersion"]
        outer, (outer_name, _, name) = kind.rpartition("/")[0], resource["name"].rpartition("/")
        members = {k: value(v) for k, v in resource.items() if k not in OTHERWISE}
        # Several make the same resource with other values, and no two may be in one file.
        copy = self.copies.setdefault((kind, resource["name"]), itertools.count())
        if "/" in outer:
            members["parent"] = self.there(outer, version, outer_name, next(copy))
        elif scope(resource):
            provider, *pairs = scope(resource).rpartition("/providers/")[2].split("/")
            outer = "/".join([provider, *pairs[::2]])
            members["scope"] = self.there(outer, self.versions.get(outer.lower(), version),
                                          "/".join(pairs[1::2]), next(copy))
        else:
            name = numbered(name, next(copy))
        members["name"] = engine.literal(name)
        text = ", ".join(f"{k}: {v}" for k, v in members.items())
        return f"resource r{number} '{kind}@{version}' = {{{text}}}"

    def there(self, kind, version, name, copy):
        """The symbol of a resource of that type which is there before."""
        key = kind, name, copy
        if key not in self.existing:
            self.existing[key] = f"there{len(self.lines)}"
            # No name that a resource here has.
            name = engine.literal(numbered(name, 500 + copy))
            self.lines.append(
                f"resource {self.existing[key]} '{kind}@{version}' existing = {{name: {name}}}")
        return self.existing[key]


def numbered(name, number):
    """The name as it is, or another of its length, which no other has."""
    return f"{number}-{name}"[:len(name)] if number else name


def faults(resources, allowed=ALLOWED):
    """What Bicep says of the resources, but for what is allowed. Equal ones are asked of once."""
    distinct = {json.dumps(without_texts(r)): r for r in resources}
    declared = Declared(list(distinct.values()))
    found = []
    for line, code, message in engine.remarks("\n".join(declared.lines)):
        resource = declared.on_line.get(line)
        if code.startswith("BCP") and not any(
                resource and kind == resource["type"] and words in message
                for kind, words in allowed):
            if not resource and code == "BCP081":
                continue  # Of what is only referred to no more than the name is here.
            where = f"{resource['type']}@{resource['apiVersion']} {resource['name']}" if (
                resource) else declared.lines[line]
            found.append(f"{where}: {code} {message}")
    return found


def without_texts(node):
    """The resource without what no type depends on."""
    if isinstance(node, dict):
        return {k: without_texts(v) for k, v in node.items() if k != "id"}
    if isinstance(node, list):
        return [without_texts(v) for v in node]
    return "text" if isinstance(node, str) and " " in node else node
