"""Where things are."""
import json
from pathlib import Path

TESTS = Path(__file__).resolve().parent
ROOT = TESTS.parents[1]
ARM = ROOT / "arm"
# As a person writes it, and as it is deployed.
SOURCE = json.loads((ARM / "azuredeploy.template.json").read_text())
TEMPLATE = json.loads((ARM / "azuredeploy.json").read_text())
WIZARD = json.loads((ARM / "createUiDefinition.json").read_text())
PARAMETER_FILES = sorted((TESTS / "parameters").glob("*.json"))


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


def own_resources(template):
    """Its own resources, which language version 2.0 has by name."""
    found = template["resources"]
    return list(found.values()) if isinstance(found, dict) else found


def resources(template):
    """All resources, those of nested templates too, each with the template it stands in."""
    for resource in own_resources(template):
        yield resource, template
        nested = resource["properties"].get("template") if "properties" in resource and isinstance(
            resource["properties"], dict) else None
        if isinstance(nested, dict):
            yield from resources(nested)
