"""Where things are, and the template's JSON."""
import functools
import hashlib
import json
from pathlib import Path

TESTS = Path(__file__).resolve().parent
ROOT = TESTS.parents[1]
ARM = ROOT / "arm"
# A text that is longer says little to who reads it.
LONG = 300
DEPLOYMENTS = "Microsoft.Resources/deployments"
# As it is deployed.
TEMPLATE = json.loads((ARM / "azuredeploy.json").read_text())
WIZARD = json.loads((ARM / "createUiDefinition.json").read_text())


def strings(node, path=""):
    """Every string of a JSON document, with its path."""
    if isinstance(node, dict):
        for key, value in node.items():
            yield from strings(value, f"{path}/{key}")
    elif isinstance(node, list):
        for index, value in enumerate(node):
            yield from strings(value, f"{path}/{index}")
    elif isinstance(node, str):
        yield path, node


def is_expression(text):
    return text.startswith("[") and text.endswith("]") and not text.startswith("[[")


def own_resources(template):
    """The resources that the template makes itself, by name or number; without those that it only
    refers to."""
    found = template["resources"]
    pairs = found.items() if isinstance(found, dict) else enumerate(found)
    return {str(key): resource for key, resource in pairs if not resource.get("existing")}


def templates(template=TEMPLATE, path="root"):
    """The template and all nested in it, each with its path: `root.3` is in its fourth resource."""
    yield path, template
    for key, resource in own_resources(template).items():
        if resource["type"] == DEPLOYMENTS:
            yield from templates(resource["properties"]["template"], f"{path}.{key}")


def resources(template=TEMPLATE):
    """All resources, those of nested templates too, each with the template it stands in."""
    for _, inner in templates(template):
        for resource in own_resources(inner).values():
            yield resource, inner


def digest(text):
    return f"<{len(text)} characters, sha256 {hashlib.sha256(text.encode()).hexdigest()[:12]}>"


def short_texts(node):
    """The template with each long text as its length and hash. They go through it as they are, and
    take the engine most of its time. A text that names the table stays, since it is changed."""
    if isinstance(node, dict):
        return {k: short_texts(v) for k, v in node.items()}
    if isinstance(node, list):
        return [short_texts(v) for v in node]
    if isinstance(node, str) and len(node) > LONG and not is_expression(node) and (
            "Cloud_Integrated_CL" not in node):
        return digest(node)
    return node


def deployment(name, template=TEMPLATE):
    """The nested deployment whose name ends so. Both tables are made by the same ones: the first."""
    first, *others = [resource for resource, _ in resources(template)
                      if resource["type"] == DEPLOYMENTS and f"-{name}'" in resource["name"]]
    for other in others:
        assert other["properties"]["template"] == first["properties"]["template"], name
    return first


def nested(name, template=TEMPLATE):
    """Its template."""
    return deployment(name, template)["properties"]["template"]


@functools.cache
def parameter_values(path):
    """The values in a parameter file; a Key Vault reference stands for a secret."""
    parameters = json.loads(path.read_text())["parameters"]
    return {k: v["value"] if "value" in v else f"secret {v['reference']['secretName']}"
            for k, v in parameters.items()}
