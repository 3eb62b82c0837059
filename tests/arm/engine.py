"""Azure Resource Manager's own template engine, which Bicep's command line carries and which needs
no network. It is found as BICEP= or as `bicep` on the PATH, and runs as the server that
`bicep jsonrpc` is, once for each of two threads: a program of its own for each of some hundred
questions would take minutes more.

What only Azure knows, such as reference() to a deployed resource, stays an expression in what it
gives. A template says by environment() which cloud it is in; a cloud's values are put in its place.
"""
import atexit
import functools
import itertools
import json
import os
import re
import shutil
import subprocess
import tempfile
import threading
import unittest
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

BICEP = shutil.which(os.environ.get("BICEP") or "bicep")
NOT_HERE = ("no bicep, which has the engine that expands templates, is on the PATH or where BICEP says "
            "(az bicep install)")
# What a test class says that expands templates.
needed = unittest.skipUnless(BICEP, NOT_HERE)

SUBSCRIPTION = "00000000-0000-0000-0000-000000000001"
TENANT = "00000000-0000-0000-0000-00000000000f"
GROUP = f"/subscriptions/{SUBSCRIPTION}/resourceGroups/app"
CLOUDS = {
    "AzureCloud": ("core.windows.net", ".vault.azure.net"),
    "AzureUSGovernment": ("core.usgovcloudapi.net", ".vault.usgovcloudapi.net"),
    "AzureChinaCloud": ("core.chinacloudapi.cn", ".vault.azure.cn"),
}


class Refused(Exception):
    """The engine refuses the template or the parameters, in these words."""


class Expanded:
    """What a deployment would make: its resources and its outputs."""

    def __init__(self, snapshot):
        self.resources = snapshot["predictedResources"]
        self.diagnostics = snapshot["diagnostics"]
        self.outputs = snapshot["outputs"]

    def of_type(self, kind):
        return [r for r in self.resources if r["type"].lower() == kind.lower()]

    def one(self, kind):
        (resource,) = self.of_type(kind)
        return resource


class Server:
    """`bicep jsonrpc`: requests and answers by turns, each after a header with its length."""

    def __init__(self):
        # In two minutes .NET gains less by compiling again what is used often than that costs.
        self.process = subprocess.Popen(
            [BICEP, "jsonrpc", "--stdio"], stdin=subprocess.PIPE, stdout=subprocess.PIPE,
            env={**os.environ, "DOTNET_TieredCompilation": "0"})
        self.numbers = itertools.count(1)
        self.folder = tempfile.TemporaryDirectory()
        atexit.register(self.end)

    def end(self):
        self.process.stdin.close()
        self.process.wait()
        self.folder.cleanup()

    def call(self, method, **params):
        """The answer's result and its error, of which one is None."""
        body = json.dumps({"jsonrpc": "2.0", "id": next(self.numbers), "method": f"bicep/{method}",
                           "params": params}).encode()
        self.process.stdin.write(b"Content-Length: %d\r\n\r\n%s" % (len(body), body))
        self.process.stdin.flush()
        length = None
        while header := self.process.stdout.readline().strip():
            name, _, value = header.partition(b":")
            if name.lower() == b"content-length":
                length = int(value)
        if length is None:
            raise RuntimeError(f"{BICEP} ended during {method}")
        answer = json.loads(self.process.stdout.read(length))
        return answer.get("result"), answer.get("error")

    def write(self, name, text):
        """A file of a name that no other has, since the server may remember files."""
        path = Path(self.folder.name) / f"{next(self.numbers)}-{name}"
        path.write_text(text)
        return path


here = threading.local()
threads = ThreadPoolExecutor(max_workers=2)


def server():
    if not hasattr(here, "server"):
        here.server = Server()
    return here.server


def literal(value):
    """The JSON value as Bicep writes it, on one line."""
    if isinstance(value, dict):
        return "{" + ", ".join(f"{literal(k)}: {literal(v)}" for k, v in value.items()) + "}"
    if isinstance(value, list):
        return "[" + ", ".join(map(literal, value)) + "]"
    if isinstance(value, str):
        text = value.replace("\\", "\\\\").replace("'", "\\'").replace("${", "\\${")
        return "'" + re.sub(r"[\x00-\x1f]", lambda c: f"\\u{{{ord(c[0]):x}}}", text) + "'"
    return json.dumps(value)


def in_cloud(text, cloud):
    """The template's text with the cloud's values in the place of environment()."""
    storage, vault = CLOUDS[cloud]
    return text.replace("environment()", (
        f"createObject('name', '{cloud}', 'suffixes', "
        f"createObject('storage', '{storage}', 'keyvaultDns', '{vault}'))"))


def with_secrets_shown(text):
    """The template's text without secure parameters, which the engine would leave unresolved."""
    return text.replace('"securestring"', '"string"').replace('"secureObject"', '"object"')


def parameter_file(text, assignments):
    """A parameter file beside the template, with these assignments in it."""
    template = server().write("template.json", text)
    lines = [f"using './{template.name}'", *(f"param {k} = {v}" for k, v in assignments.items())]
    return server().write("values.bicepparam", "\n".join(lines))


def diagnostics(method, path):
    """What Bicep says of a file: for each remark its line, from 0, its code and its message."""
    result, error = server().call(method, path=str(path), parameterOverrides={})
    if error:
        raise Refused(error["message"])
    return [(d["range"]["start"]["line"], d["code"], d["message"]) for d in result["diagnostics"]]


def snapshot(text, values):
    path = parameter_file(text, {k: literal(v) for k, v in json.loads(values).items()})
    result, error = server().call("getSnapshot", path=str(path), metadata={
        "tenantId": TENANT, "subscriptionId": SUBSCRIPTION, "resourceGroup": "app",
        "location": "westeurope", "deploymentName": "mimecast"})
    if error:
        # Of parameters that do not fit it says no more than that they do not. Remarks on style are no
        # reason.
        said = [message for _, code, message in diagnostics("compileParams", path)
                if code.startswith("BCP")]
        raise Refused("; ".join(said) or error["message"])
    return json.loads(result["snapshot"])


@functools.cache
def started(text, values):
    return threads.submit(snapshot, text, values)


def start(template, values, cloud="AzureCloud", secrets_shown=True):
    """Has the engine begin with what `expand` will ask for."""
    if not BICEP:
        raise unittest.SkipTest(NOT_HERE)
    text = in_cloud(template if isinstance(template, str) else json.dumps(template), cloud)
    return started(with_secrets_shown(text) if secrets_shown else text, json.dumps(values))


def expand(template, values, cloud="AzureCloud", secrets_shown=True):
    """What a deployment of the template with these parameters makes in the cloud."""
    return Expanded(start(template, values, cloud, secrets_shown).result())


DUMMIES = {"string": "'x'", "securestring": "'x'", "int": "1", "bool": "true", "array": "[]",
           "object": "{}", "secureobject": "{}"}


def dummy(template, parameter):
    """A value of the parameter's type, as Bicep writes it."""
    while "$ref" in parameter:
        parameter = template["definitions"][parameter["$ref"].rpartition("/")[2]]
    if "allowedValues" in parameter:
        return literal(parameter["allowedValues"][0])
    return DUMMIES[parameter["type"].lower()]


def refusal(template):
    """Why Azure Resource Manager refuses to read the template, which it reads more strictly alone
    than within another; None if it does not."""
    path = threads.submit(parameter_file, json.dumps(template), {
        name: dummy(template, parameter)
        for name, parameter in template.get("parameters", {}).items()
        if "defaultValue" not in parameter and not parameter.get("nullable")}).result()
    said = threads.submit(diagnostics, "compileParams", path).result()
    return next((message for _, code, message in said if code == "BCP188"), None)


def remarks(text):
    """What Bicep says of a Bicep file of this text, as `diagnostics` gives it."""
    return threads.submit(lambda: diagnostics(
        "compile", server().write("main.bicep", text))).result()
