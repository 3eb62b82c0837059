"""What is held of the template and of changed copies of it: each gives its faults in words."""
import json
import re

import engine
from files import DEPLOYMENTS, is_expression, strings, templates
from traced import Traced

TEXT, EXPRESSION = 131_072, 24_576
# How Bicep names a variable that has a file's content: the second, where another file exports it.
LOADED = re.compile(r"\$fxv#\d+|_\d+\._\d+")
SECURE = {"securestring", "secureobject"}


def refusals(template):
    """Of the template and of each nested in it, alone: ARM reads a nested one as strictly as the
    outer one, and the engine does only when it is asked of it alone."""
    found = ((path, engine.refusal(inner)) for path, inner in templates(template))
    return [f"{path}: {words}" for path, words in found if words]


def order(template, values, cloud="AzureCloud"):
    """Each resource is made after those that it names: Azure makes all at once that wait for
    nothing. The engine looks at none of this."""
    traced = Traced(template, values, cloud)
    found = []
    for node in traced.made():
        found += [f"{node.path} waits for {word}, which is not in its template"
                  for word in node.after if not traced.find(node, word)]
        twice = [n for n in traced.made() if n.within == node.within and n.id == node.id]
        if len(twice) > 1:
            found.append(f"{node.path}: {node.id} is more than once in its template")
        for word in node.refers:
            symbol = None if word.startswith("/") else traced.find(node, word)
            found += unmet(traced, node, symbol.id if symbol else word)
        for outer in outer_ids(node.id):
            found += unmet(traced, node, outer)
    for resource in traced.resources:
        nodes = [n for n in traced.made() if n.id == resource["id"]]
        for _, text in strings(resource):
            found += [fault for node in nodes for fault in unmet(traced, node, text)]
    return sorted(set(found))


def outer_ids(identity):
    """The ids of what a resource is a child or an extension of."""
    parts = identity.split("/")
    return ["/".join(parts[:end]) for end in range(9, len(parts) - 1, 2)]


def unmet(traced, node, identity):
    """A fault if what has this id is made by the template and not waited for."""
    named = [n for n in traced.made() if n.id.lower() == identity.lower()
             and n.path != node.path and n.id != node.id]
    if named and not any(traced.waits(node, other) for other in named):
        yield f"{node.path} ({node.id}) names {identity} and does not wait for it"


def secrets(template, values, known):
    """Secrets, given as these known texts, are in secure parameters and in the key vault alone."""
    traced = Traced(template, values)
    found = []

    def holding(node):
        return [path for path, text in strings(node) if any(secret in text for secret in known)]

    inner = dict(templates(template))
    for node in traced.made():
        if node.kind == DEPLOYMENTS:
            declared = inner[node.path]["parameters"]
            found += [f"{node.path}: parameter {name} gets a secret and is not secure"
                      for name, value in node.gets.items()
                      if holding(value) and declared[name]["type"].lower() not in SECURE]
    for path, outputs in traced.gives.items():
        found += [f"{path}: output{place} has a secret" for place in holding(outputs)]
    for resource in traced.resources:
        if resource["type"] != "Microsoft.KeyVault/vaults/secrets":
            found += [f"{resource['id']}{place} has a secret" for place in holding(resource)]
    return found


def versions(template):
    """The API versions of each type, also of what is only referred to."""
    found = {}
    for _, inner in templates(template):
        existing = inner["resources"]
        for resource in existing.values() if isinstance(existing, dict) else existing:
            found.setdefault(resource["type"], set()).add(resource["apiVersion"])
    return found


def referred_versions(template):
    """The API versions that expressions name."""
    for path, text in strings(template):
        if is_expression(text) and "reference(" in text:
            for version in re.findall(r"'(20\d\d-\d\d-\d\d(?:-preview)?)'", text):
                yield path, version


def rules_too_early(template, values):
    """Microsoft Sentinel has refused rules whose function was seconds old: the content comes before
    them, and the app, which takes minutes."""
    traced = Traced(template, values)
    before = [n for n in traced.made() if n.kind.endswith(("/savedSearches", "/sites/config"))]
    return [f"{rule.id} does not wait for {other.id}"
            for rule in traced.of_type("Microsoft.SecurityInsights/alertRules")
            for other in before if not traced.waits(rule, other)]


def too_long(template):
    """Texts that Azure Resource Manager takes no longer. A JSON file that Bicep loads becomes a
    text only when it is deployed, so that its length as compact text counts."""
    found = []
    for path, text in strings(template):
        if len(text) > (EXPRESSION if is_expression(text) else TEXT):
            found.append(f"{path} has {len(text)} characters")
    for path, inner in templates(template):
        for name, value in inner.get("variables", {}).items():
            text = json.dumps(value, ensure_ascii=False, separators=(",", ":"))
            if LOADED.fullmatch(name) and len(text) > TEXT:
                found.append(f"{path}: {text[:60]}… has {len(text)} characters")
    return found


def unlisted(template, root):
    """The files of sentinel/ whose resource is not in the template."""
    text = json.dumps(template)
    paths = [p for folder in ("rules", "hunting", "parser")
             for p in sorted((root / "sentinel" / folder).glob("*.yaml"))]
    return [path.name for path in paths
            if re.search(r"^id: *(\S+)", path.read_text(), re.MULTILINE)[1] not in text]
