"""What an expanded template does not show: in which deployment each resource is made, what it waits
for, and what each nested deployment gets and gives.

A trace is put beside each resource of a copy of the template. It is a resource of a made-up type
with those expressions as its properties, which the engine then evaluates like all others.
"""
import copy
import json
import re

import engine
from files import DEPLOYMENTS, short_texts, strings

KIND = "Tests.Trace/traces"
PLACES = ("scope", "subscriptionId", "resourceGroup")


class Node:
    """A resource of a template. `path` says where: `root.5.site` is what the template in the sixth
    resource of the root names `site`."""

    def __init__(self, path, properties):
        self.path = path
        self.within = path.rpartition(".")[0]
        self.kind, self.condition = properties["kind"], properties["condition"]
        self.existing, self.loop = properties["existing"], properties.get("loop")
        self.after, self.refers = properties["after"], properties["refers"]
        self.gets = properties.get("gets", {})
        self.id = identity(properties)


class Traced:
    """The nodes of a template that was expanded with parameters, by path."""

    def __init__(self, template, values, cloud="AzureCloud"):
        expanded = engine.expand(with_traces(short_texts(template)), values, cloud)
        found = {r["name"]: r["properties"] for r in expanded.of_type(KIND)}
        self.gives = {name.rpartition(".")[0]: properties for name, properties in found.items()
                      if name.endswith(".outputs")}
        self.nodes = {name: Node(name, properties) for name, properties in found.items()
                      if not name.endswith(".outputs")}
        self.resources = [r for r in expanded.resources if r["type"] != KIND]
        self.closures = {}

    def made(self):
        return [n for n in self.nodes.values() if n.condition and not n.existing]

    def find(self, node, word):
        """The node that another of the same template means by an id, a symbol or a loop's name;
        None if there is none."""
        # One of a loop is `zones[0]`.
        word = word.partition("[")[0].lower()
        for other in self.nodes.values():
            if other.within == node.within and word in (
                    other.id.lower(), other.path.rpartition(".")[2].lower(), other.loop):
                return other
        return None

    def ancestors(self, path):
        while path in self.nodes:
            yield path
            path = self.nodes[path].within

    def awaited(self, node):
        """The paths of all that is there before the node is made."""
        if node.path not in self.closures:
            seen, open_ones = set(), [node.path]
            while open_ones:
                for path in self.ancestors(open_ones.pop()):
                    here = self.nodes[path]
                    # A reference to a symbol is waited for, one to an id is not.
                    words = here.after + [w for w in here.refers if not w.startswith("/")]
                    for found in filter(None, (self.find(here, word) for word in words)):
                        inside = [p for p in self.nodes if f"{p}.".startswith(f"{found.path}.")]
                        open_ones += [p for p in inside if p not in seen]
                        seen.update(inside)
            self.closures[node.path] = seen
        return self.closures[node.path]

    def waits(self, node, other):
        return other.path in self.awaited(node)

    def of_type(self, kind, name=""):
        return [n for n in self.made() if n.kind == kind and n.id.endswith(name)]


def identity(properties):
    """The resource's id, from what its trace has."""
    group = properties["group"]
    if "resourceGroup" in properties or "subscriptionId" in properties:
        subscription, name = group.split("/")[2], group.split("/")[4]
        group = (f"/subscriptions/{properties.get('subscriptionId', subscription)}"
                 f"/resourceGroups/{properties.get('resourceGroup', name)}")
    provider, *kinds = properties["kind"].split("/")
    pairs = "".join(f"/{k}/{n}" for k, n in zip(kinds, properties["name"].split("/"), strict=True))
    return f"{properties.get('scope', group)}/providers/{provider}{pairs}"


def with_traces(template, path="root"):
    """A copy with a trace beside each resource and one of the outputs."""
    template = copy.deepcopy(template)
    own = template["resources"]
    traces = {}
    for key, resource in list(own.items() if isinstance(own, dict) else enumerate(own)):
        name = f"{path}.{key}"
        traces[name] = trace_of(resource, isinstance(own, dict))
        if resource["type"] == DEPLOYMENTS:
            inner = resource["properties"]
            inner["template"] = with_traces(inner["template"], name)
    outputs = {k: o["value"] for k, o in template.get("outputs", {}).items() if "value" in o}
    traces[f"{path}.outputs"] = outputs
    for name, properties in traces.items():
        made = {"type": KIND, "apiVersion": "2020-01-01", "name": name, "properties": properties}
        if isinstance(own, dict):
            own[name.replace(".", "_")] = made
        else:
            own.append(made)
    return template


def trace_of(resource, symbolic):
    traced = {
        "kind": resource["type"], "name": resource["name"], "group": "[resourceGroup().id]",
        "condition": resource.get("condition", True), "existing": resource.get("existing", False),
        "after": resource.get("dependsOn", []), "refers": list(referred(resource)),
        **{place: resource[place] for place in PLACES if place in resource},
    }
    if resource["type"] == DEPLOYMENTS:
        traced["gets"] = {k: v["value"] for k, v in resource["properties"].get(
            "parameters", {}).items()}
    if "copy" in resource:
        traced["loop"] = resource["copy"]["name"].lower()
    # The first of a loop stands for all.
    return json.loads(re.sub(r"copyIndex\([^)]*\)", "0", json.dumps(traced)))


def referred(resource):
    """What the resource's own expressions take as the first argument of reference()."""
    shallow = {**resource, "properties": {k: v for k, v in resource["properties"].items()
                                          if k != "template"}
               } if isinstance(resource.get("properties"), dict) else resource
    for _, text in strings(shallow):
        if text.startswith("["):
            for found in re.finditer(r"\breference\(", text):
                yield f"[{first_argument(text[found.end():])}]"


def first_argument(text):
    """Up to the comma or bracket that ends it."""
    depth, quoted = 0, False
    for at, sign in enumerate(text):
        if sign == "'":
            quoted = not quoted
        elif not quoted:
            if depth == 0 and sign in ",)":
                return text[:at]
            depth += (sign in "([") - (sign in ")]")
    raise ValueError(f"no end of {text!r}")
