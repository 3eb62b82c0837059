"""Plays the Azure CLI for test_deploy.py and test_deploy_all.py, with an Azure behind it that remembers
what was made.

What is there is in $FAKE_AZ/azure.json; each call is noted in $FAKE_AZ/calls. Where there is a folder
$FAKE_AZ/subscriptions, each subscription in it has such an azure.json of its own, and no other can be
seen. tests/azure-cli/az refuses what the real client does not have; in $FAKE_KNOWN are the calls that it
was asked about already.
"""
import json
import os
import re
import signal
import stat
import sys
import time
import zlib
from pathlib import Path

from fake_azure_facts import APP, DEPLOYMENT, GROUP, OUTPUTS, SUBSCRIPTION, VAULT, WORKSPACE

ROOT = FOLDER = Path(os.environ["FAKE_AZ"])
OWN = SUBSCRIPTION.split("/")[2]
CLIENT = Path(__file__).resolve().parents[1] / "azure-cli/az"


class Error(Exception):
    """What the client says on stderr."""


class Azure:
    def __init__(self):
        self.__dict__["file"] = FOLDER / "azure.json"
        self.__dict__["now"] = json.loads(self.file.read_text())

    def __getitem__(self, name):
        return self.now[name]

    def __setitem__(self, name, value):
        self.now[name] = value
        self.file.write_text(json.dumps(self.now))


def deployed(declared, parameters):
    """The parameters as a deployment shows them: with the defaults, without secrets."""
    shown = {}
    for name, parameter in declared.items():
        value = parameters.get(name, {}).get("value", parameter.get("defaultValue"))
        shown[name] = ({"type": "SecureString"} if parameter["type"] == "securestring"
                       else {"type": parameter["type"], "value": value})
    return shown


def signed_in_to(tenant):
    """As the client does for an upload: it goes by the default subscription."""
    settings = Path(os.environ.get("AZURE_CONFIG_DIR") or Path.home() / ".azure")
    profile = settings / "azureProfile.json"
    if profile.exists():
        found = json.loads(profile.read_text(encoding="utf-8-sig"))["subscriptions"]
        if [one["tenantId"] for one in found if one["isDefault"]] != [tenant]:
            raise Error("An error occured during deployment. Status Code: 401, Details: ")
        assert (settings / "msal_token_cache.json").read_text() == "tokens"


def answer(azure, command, given):
    """What the client prints, as a JSON value."""
    query = given.get("--query")
    if command == "account show":
        if not azure["account"]:
            raise Error("Please run 'az login' to setup account.")
        return azure["account"]
    if command == "group show":
        if not azure["group"]:
            raise Error("(ResourceGroupNotFound) Resource group 'mimecast' could not be found.")
        return {"id": GROUP}
    if command == "group create":
        azure["group"] = True
        return {"id": GROUP}
    if command == "provider list":
        return azure["providers"]
    if command == "resource list":
        return azure["workspaces"]
    if command == "deployment group create":
        file = Path(given["--parameters"][1:])
        assert stat.S_IMODE(file.stat().st_mode) == 0o600, file
        parameters = json.loads(file.read_text())["parameters"]
        (FOLDER / "given.json").write_text(json.dumps(parameters))
        # The tags of each resource are those of the last deployment.
        azure["deployment"] = deployed(azure["parameters"], parameters)
        azure["polls"], azure["tags"], azure["outcome"] = 0, {}, azure["error"]
        return None
    if command == "deployment group what-if":
        return "Resource changes: 12 to create."
    if command == "deployment group show":
        return deployment(azure)
    if command == "deployment operation group list":
        return azure["operations"].get(given["--name"], [])
    if command == "functionapp show":
        return azure["tags"] if query == "tags" else os.environ["FAKE_HOST"]
    if command == "functionapp keys list":
        return azure["key"]
    if command == "functionapp deployment source config-zip":
        assert Path(given["--src"]).is_file()
        signed_in_to(azure["account"]["tenantId"])
        azure["uploaded"] = True
        return None
    if command == "functionapp function list":
        listed = azure["uploaded"] and azure["synchronised"] >= azure["syncs"]
        return [f"{APP}/{name}" for name in (["CloudIntegrated", "Status"] if listed else ["WarmUp"])]
    if command == "tag update":
        assert given["--operation"] == "Merge", given
        azure["tags"] = {**azure["tags"], **dict([given["--tags"].split("=")])}
        return {}
    assert command == "rest", command
    return rest(azure, given["--method"], given["--url"], given.get("--body", ""))


def deployment(azure):
    if not azure["deployment"]:
        raise Error("(DeploymentNotFound) Deployment 'mimecast-sentinel' could not be found.")
    azure["polls"] += 1
    is_done = azure["polls"] > azure["deployment polls"]
    state = ("Running" if not is_done else "Failed" if azure["outcome"] else "Succeeded")
    outputs = {name: {"type": "String", "value": value} for name, value in OUTPUTS.items()}
    return {"id": DEPLOYMENT, "properties": {
        "provisioningState": state, "parameters": azure["deployment"], "templateHash": "hash",
        "error": azure["outcome"] if is_done else None,
        "outputs": outputs if state == "Succeeded" else None}}


def rest(azure, method, url, body):
    path = url.split("?")[0]
    if path.endswith("/providers/Microsoft.Authorization/permissions"):
        scope = path.removesuffix("/providers/Microsoft.Authorization/permissions")
        return {"value": [{"actions": ["*"], "notActions": azure["denied"].get(scope, [])}]}
    if path == WORKSPACE:
        return {"id": WORKSPACE, "name": "contoso-sentinel", "location": "westeurope"}
    if path == VAULT:
        return {"id": VAULT, "properties": {"enabledForTemplateDeployment": azure["gives secrets"]}}
    if path.startswith(f"{VAULT}/secrets/"):
        if path.split("/")[-1] not in azure["secrets"]:
            raise Error("Not Found({\"error\":{\"code\":\"SecretNotFound\"}})")
        return {"properties": {"attributes": {"enabled": True}}}
    if path.endswith("/onboardingStates/default"):
        return {}
    if path.endswith("/calculateTemplateHash"):
        return {"templateHash": "hash"}
    site = f"{GROUP}/providers/Microsoft.Web/sites/{APP}"
    if (method, path) == ("post", f"{site}/host/default/sync"):
        azure["synchronised"] += 1
        return None
    assert path == f"{WORKSPACE}/query", url
    return tables(azure, json.loads(body)["query"])


def tables(azure, kql):
    has_run = (FOLDER / "ticks").exists()
    if kql.startswith("MimecastConnectorHealth_CL"):
        if not azure["deployment"]:
            raise Error("BadArgumentError: Failed to resolve table or column expression")
        names = ["Stream", "TimeGenerated", "Status", "State", "Reason", "Description", "Fix",
                 "LastRow"]
        rows = azure["streams"] if has_run else []
    else:
        assert kql.startswith("Cloud_Integrated_CL "), kql
        names = ["Rows", "Newest"]
        rows = [[azure["rows"], "2026-11-29T19:55:00Z"] if has_run else [0, None]]
    return {"tables": [{"columns": [{"name": name} for name in names], "rows": rows}]}


def options(words):
    """The options by name. Of those with values, the last one counts."""
    given, name = {}, None
    for word in words:
        if word.startswith("--"):
            name = word
            given[name] = ""
        elif name:
            given[name] = word
    return given


def known(call):
    """Ends with the real client's words if it would not take the call."""
    folder = Path(os.environ["FAKE_KNOWN"])
    # The name of a temporary file is another each time.
    line = re.sub(r"@/\S*/parameters.json", "@parameters.json", json.dumps(call))
    seen = folder / f"call-{zlib.crc32(line.encode())}"
    if not seen.exists():
        # It is asked some thousand times, and this takes a while.
        import subprocess
        asked = subprocess.run([CLIENT, *call], env={**os.environ, "FAKE_AZ": str(folder)},
                               check=False, capture_output=True, text=True)
        if asked.returncode:
            sys.exit(asked.stderr)
        seen.touch()


def go_to_subscription(call):
    """Makes the Azure of the subscription that the call is about the one behind it. That subscription."""
    global FOLDER
    found = re.search(r"[0-9a-f]{8}(-[0-9a-f]{4}){3}-[0-9a-f]{12}", " ".join(call))
    FOLDER = ROOT
    if not found or not (ROOT / "subscriptions").exists():
        return OWN
    FOLDER = ROOT / "subscriptions" / found[0]
    if not FOLDER.exists():
        sys.exit(f"ERROR: Subscription '{found[0]}' not found. Check the spelling and casing and try again.")
    return found[0]


def main(call):
    with open(ROOT / "calls", "a") as calls:
        calls.write(" ".join(call) + "\n")
    subscription = go_to_subscription(call)
    call = [word.replace(subscription, OWN) for word in call]
    known(call)
    first = next(i for i, word in enumerate(call) if word.startswith("-"))
    azure, line = Azure(), " ".join(call)
    fault = next((one for one in azure["faults"]
                  if one["times"] and re.search(one["call"], line)), {})
    if fault:
        fault["times"] -= 1
        azure["faults"] = azure["faults"]
    if "says" in fault:
        sys.exit(f"ERROR: {fault['says']}")
    if "hangs" in fault:
        (FOLDER / "hangs").touch()
        for _ in range(600):
            if (FOLDER / "awake").exists():
                break
            time.sleep(0.1)
    given = options(call[first:])
    try:
        found = answer(azure, " ".join(call[:first]), given)
    except Error as error:
        sys.exit(f"ERROR: {error}")
    azure.file.write_text(json.dumps(azure.now))
    if "dies" in fault:
        os.kill(os.getppid(), signal.SIGKILL)
    if found is not None:
        text = json.dumps(found) if given.get("--output") == "json" else found
        print(text.replace(OWN, subscription))
