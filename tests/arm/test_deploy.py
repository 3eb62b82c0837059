"""`arm/deploy` from nothing to rows, with an Azure CLI that is a script: each test has an Azure of its
own (fake_azure.py) and a function app that answers over TLS."""
import contextlib
import http.server
import functools
import json
import os
import pty
import re
import shutil
import signal
import ssl
import subprocess
import sys
import tempfile
import threading
import time
import unittest
import zipfile
from pathlib import Path

import fake_azure_facts as facts
from files import ARM, ROOT, TEMPLATE, TESTS, resources

SECRET = "s3cr3t/of+mimecast=="
KEY = facts.NEW["key"]
SUBSCRIPTION = facts.NEW["account"]["id"]
PACKAGE, TESTED = "mimecast-sentinel-package", "mimecast-sentinel-tested"
CHANGES = re.compile(rf"group create|config-zip|{PACKAGE}|{TESTED}|host/default/sync")
ROLE = ("fail", "azure/stream/Custom-Cloud_Integrated", "403: the role is missing",
        "give it Monitoring Metrics Publisher")
GOOD = [("ok", "mimecast/token", "it was given", ""), ("ok", ROLE[1], "204", ""),
        ("ok", "state", "written", "")]
NOT_SPREAD = [GOOD[0], ROLE, GOOD[2]]
# The role on the vault is one more.
SECRET_ROLE = ("fail", "mimecast/secret", "403 ForbiddenByRbac", "give it Key Vault Secrets User")


def page(rungs):
    """As src/health/page.rs writes a connection test."""
    items = "".join(
        f'<li class="{verdict}"><p><span class="state">{verdict}</span> <strong>{rung}</strong></p>'
        f"<p>it was tried: {answer}</p>"
        + (f"<p><strong>What to do: </strong>{fix}</p>" if fix else "") + "</li>"
        for verdict, rung, answer, fix in rungs)
    return f'<!DOCTYPE html><ul class="test">{items}</ul><p class="summary">Done.</p>'


class App(http.server.BaseHTTPRequestHandler):
    """The function app. The server has what a connection test says: pages, the last one for good."""

    def do_POST(self):
        self.rfile.read(int(self.headers["Content-Length"] or 0))
        server = self.server
        folder = server.folders.get(self.headers["x-functions-key"])
        if not folder:
            return self.reply(401, "")
        if self.path == "/admin/functions/CloudIntegrated":
            with open(folder / "ticks", "a") as ticks:
                ticks.write("tick\n")
            return self.reply(202, "")
        if self.path != "/api/Status" or self.headers["Origin"] != f"https://{server.host}":
            return self.reply(403, "")
        server.tests += 1
        rungs = server.pages.pop(0) if len(server.pages) > 1 else server.pages[0]
        if isinstance(rungs, bytes):
            self.wfile.write(rungs)
            self.close_connection = True
            return None
        return self.reply(200, page(rungs)) if rungs else self.reply(503, "")

    def do_GET(self):
        self.server.strays.append(self.path)
        self.reply(200, "")

    def reply(self, status, text):
        self.send_response(status)
        self.send_header("Content-Length", str(len(text)))
        self.end_headers()
        self.wfile.write(text.encode())

    def log_message(self, *_):
        pass


class WithAzure(unittest.TestCase):
    """A test with an Azure of its own."""
    maxDiff = None
    script = "deploy"

    @classmethod
    def setUpClass(cls):
        cls.kept = tempfile.TemporaryDirectory()
        cls.addClassCleanup(cls.kept.cleanup)
        cls.cert = Path(cls.kept.name) / "cert.pem"
        (Path(cls.kept.name) / "answers.tsv").touch()
        subprocess.run(
            ["openssl", "req", "-x509", "-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:P-256",
             "-nodes", "-days", "2", "-subj", "/CN=app", "-addext", "subjectAltName=IP:127.0.0.1",
             "-keyout", f"{cls.cert}.key", "-out", cls.cert], check=True, capture_output=True)

    def setUp(self):
        self.folder = Path(self.enterContext(tempfile.TemporaryDirectory()))
        for name in ("bin", "tmp", "home"):
            (self.folder / name).mkdir()
        az = self.folder / "bin/az"
        az.write_text(f"#!{sys.executable} -SE\nimport sys\nsys.path.insert(0, {str(TESTS)!r})\n"
                      "import fake_azure\nfake_azure.main(sys.argv[1:])\n")
        az.chmod(0o755)
        self.azure = {**facts.NEW, "parameters": TEMPLATE["parameters"]}
        self.package = self.folder / "mimecast-sentinel.zip"
        write_package(self.package)
        self.server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), App)
        context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
        context.load_cert_chain(self.cert, f"{self.cert}.key")
        self.server.socket = context.wrap_socket(self.server.socket, server_side=True)
        # Whose app it is that is called, by its key.
        self.server.folders, self.server.tests = {KEY: self.folder}, 0
        self.server.host = f"127.0.0.1:{self.server.server_port}"
        self.server.pages, self.server.strays = [GOOD], []
        threading.Thread(target=self.server.serve_forever, args=(0.02,), daemon=True).start()
        self.addCleanup(self.server.server_close)
        self.addCleanup(self.server.shutdown)
        self.environment = {
            "PATH": f"{self.folder}/bin:/usr/bin:/bin", "HOME": str(self.folder / "home"),
            "TMPDIR": str(self.folder / "tmp"), "FAKE_AZ": str(self.folder),
            "FAKE_KNOWN": self.kept.name, "FAKE_HOST": self.server.host,
            "SSL_CERT_FILE": str(self.cert), "NO_PROXY": "*", "LANG": "C.UTF-8", "MIMECAST_CLIENT_SECRET": SECRET}
        self.arguments = ["--resource-group", "mimecast", "--workspace-name", "contoso-sentinel",
                          "--location", "westeurope", "--package", str(self.package),
                          "MimecastClientID=the-client-id"]

    def start(self, *arguments, **how):
        """Starts it with the Azure there is by now."""
        (self.folder / "azure.json").write_text(json.dumps(self.azure))
        return subprocess.Popen(
            [sys.executable, "-B", TESTS / "without_waiting.py", self.script, *arguments],
            env=self.environment, text=True, **{
                "stdin": subprocess.DEVNULL, "stdout": subprocess.PIPE, "stderr": subprocess.STDOUT,
                **how})

    def run_it(self, *arguments):
        """Its exit code and what it said, and what holds after each call: no secret shows anywhere."""
        started = self.start(*(arguments or self.arguments))
        said, _ = started.communicate(timeout=120)
        self.azure = json.loads((self.folder / "azure.json").read_text())
        self.holds(said)
        return started.returncode, said

    def holds(self, said):
        self.assertNotIn("Traceback", said)
        for text in (said, "\n".join(self.calls())):
            self.assertNotIn(SECRET, text)
            self.assertNotIn(KEY, text)
        refused = Path(self.kept.name) / "refused"
        self.assertEqual(refused.read_text() if refused.exists() else "", "")
        self.assertEqual(list((self.folder / "tmp").iterdir()), [], "a file is left behind")

    def calls(self):
        path = self.folder / "calls"
        return path.read_text().splitlines() if path.exists() else []

    def changes(self):
        """The calls that change something, each by the word that names it."""
        return [found[0] for call in self.calls() if (found := CHANGES.search(call))]

    def ticks(self):
        path = self.folder / "ticks"
        return len(path.read_text().splitlines()) if path.exists() else 0

    def fault(self, call, times=1, **what):
        self.azure["faults"] = [*self.azure["faults"], {"call": call, "times": times, **what}]

    def fails(self, *words, arguments=(), changed=(), code=1):
        """It ends so, says this and has changed no more than that."""
        got, said = self.run_it(*arguments)
        self.assertEqual(got, code, said)
        for word in words:
            self.assertIn(word, said)
        self.assertEqual(self.changes(), list(changed))
        return said

    def reset(self):
        self.azure = {**facts.NEW, "parameters": TEMPLATE["parameters"]}
        for name in ("calls", "ticks", "given.json"):
            (self.folder / name).unlink(missing_ok=True)


@unittest.skipUnless(shutil.which("openssl"), "openssl is not here")
class Deploy(WithAzure):
    def test_from_nothing_to_rows(self):
        code, said = self.run_it()
        self.assertEqual(code, 0, said)
        self.assertEqual(self.changes(), [
            "group create", "group create", "config-zip", PACKAGE, "host/default/sync",
            "host/default/sync", TESTED])
        given = json.loads((self.folder / "given.json").read_text())
        self.assertEqual({name: one["value"] for name, one in given.items()}, {
            "MimecastClientID": "the-client-id", "MimecastClientSecret": SECRET,
            "WorkspaceResourceId": facts.WORKSPACE})
        self.assertEqual((self.server.tests, self.ticks()), (1, 1))
        self.assertIn("9000 rows are in Cloud_Integrated_CL; the newest event is of 2026-11-29", said)
        self.assertIn(f"Status page: https://{self.server.host}/api/Status, which asks for a key", said)
        self.assertIn("az functionapp function keys list --resource-group mimecast", said)

    def test_called_again_it_changes_nothing(self):
        self.run_it()
        before = self.changes()
        del self.environment["MIMECAST_CLIENT_SECRET"]
        code, said = self.run_it()
        self.assertEqual(code, 0, said)
        self.assertEqual(said.count("done already"), 6, said)
        self.assertEqual((self.changes(), self.ticks()), (before, 1))
        self.assertIn("9000 rows", said)

    def test_what_was_changed_is_deployed_again(self):
        self.run_it()
        count = len(self.changes())
        code, said = self.run_it(*self.arguments, "LogLevel=Debug")
        self.assertEqual(code, 0, said)
        self.assertEqual(self.changes()[count:], ["group create", "config-zip", PACKAGE, TESTED])
        code, said = self.run_it(*self.arguments, "LogLevel=Debug", "--redeploy")
        self.assertEqual(code, 0, said)
        self.assertEqual(self.changes()[count + 4:], ["group create", "config-zip", PACKAGE, TESTED])
        write_package(self.package, b"a newer program")
        code, said = self.run_it(*self.arguments, "LogLevel=Debug")
        self.assertEqual(code, 0, said)
        self.assertEqual(self.changes()[count + 8:], ["config-zip", PACKAGE, TESTED])
        self.assertEqual((self.server.tests, self.ticks()), (4, 1))

    def test_after_it_was_killed_at_any_change_it_goes_on_there(self):
        once = ["--name mimecast --location", "deployment group create", "config-zip", PACKAGE, TESTED]
        for at in [*once, "host/default/sync", "functionapp keys list"]:
            with self.subTest(at):
                self.reset()
                self.fault(at, dies=True)
                started = self.start(*self.arguments)
                started.communicate(timeout=120)
                self.assertEqual(started.returncode, -signal.SIGKILL)
                # Only a kill leaves that, in a folder that only this user can read.
                for left in (self.folder / "tmp").iterdir():
                    self.assertEqual(left.stat().st_mode & 0o777, 0o700)
                    shutil.rmtree(left)
                self.azure = json.loads((self.folder / "azure.json").read_text())
                code, said = self.run_it()
                self.assertEqual(code, 0, said)
                for change in once:
                    # Whether an upload has come to its end is known by the tag behind it alone. Until rows
                    # have landed, the connection is tested again.
                    count = 2 if at == change and change in ("config-zip", TESTED) else 1
                    self.assertEqual(sum(change in call for call in self.calls()), count, change)
                self.assertEqual(self.ticks(), 1)

    def test_after_a_call_was_refused_it_goes_on_there(self):
        for at in ["--name mimecast --location", "deployment group create", "config-zip", PACKAGE, TESTED,
                   "functionapp keys list", "appsettings . --only"]:
            with self.subTest(at):
                self.reset()
                self.fault(at, says="(InternalServerError) something broke")
                code, said = self.run_it()
                if code:
                    self.assertIn("something broke", said)
                    self.assertRegex(said, "call again|Call again")
                    code, said = self.run_it()
                self.assertEqual(code, 0, said)
                self.assertIn("9000 rows", said)

    def test_one_failed_look_does_not_end_a_wait_and_three_do(self):
        self.fault("deployment group show.*mimecast-sentinel", times=2, says="connection reset")
        self.azure["group"] = True
        # The first look is no wait.
        self.fails("connection reset", "call again")
        self.reset()
        self.fault("host/default/sync", times=1, says="(BadGateway) 502")
        code, said = self.run_it()
        self.assertEqual(code, 0, said)
        self.assertIn("502", said)

    def test_without_the_templates_hash_it_is_deployed_again(self):
        self.run_it()
        self.fault("calculateTemplateHash", times=9, says="(NotFound) there is no such call")
        code, said = self.run_it()
        self.assertEqual(code, 0, said)
        self.assertEqual(sum("deployment group create" in call for call in self.calls()), 2)

    def test_it_stops_on_ctrl_c_and_goes_on(self):
        self.fault("config-zip", hangs=True)
        # A job in the background is started with this signal ignored, and so is what it starts.
        heed = functools.partial(signal.signal, signal.SIGINT, signal.SIG_DFL)
        started = self.start(*self.arguments, start_new_session=True, preexec_fn=heed)
        until(lambda: (self.folder / "hangs").exists())
        os.killpg(started.pid, signal.SIGINT)
        said, _ = started.communicate(timeout=60)
        self.assertEqual(started.returncode, 1, said)
        self.assertIn("Stopped. What was begun in Azure goes on there; call again", said)
        self.holds(said)
        self.azure = json.loads((self.folder / "azure.json").read_text())
        code, said = self.run_it()
        self.assertEqual(code, 0, said)
        self.assertEqual(self.changes().count("config-zip"), 2)

    def test_a_closed_terminal_leaves_no_secret_behind(self):
        for heed, code in ((signal.SIG_DFL, 1), (signal.SIG_IGN, 0)):
            self.reset()
            self.fault("deployment group create", hangs=True)
            started = self.start(*self.arguments, start_new_session=True,
                                 preexec_fn=functools.partial(signal.signal, signal.SIGHUP, heed))
            until(lambda: (self.folder / "hangs").exists())
            if code:
                os.killpg(started.pid, signal.SIGHUP)
            else:
                # As under nohup, which outlives it. The client need not hang any longer.
                os.kill(started.pid, signal.SIGHUP)
                self.wake()
            said, _ = started.communicate(timeout=60)
            self.assertEqual(started.returncode, code, said)
            self.holds(said)
            (self.folder / "hangs").unlink()

    def wake(self):
        """Lets the client that hangs go on."""
        (self.folder / "awake").touch()

    def test_a_deployment_in_progress_is_waited_for(self):
        self.azure["deployment polls"] = 1000
        self.fails("still in progress after an hour", "waits for it again",
                   changed=["group create", "group create"])
        self.azure["deployment polls"] = 8
        self.azure["polls"] = 0
        code, said = self.run_it()
        self.assertEqual(code, 0, said)
        self.assertIn("a deployment is in progress", said)
        self.assertEqual(sum("deployment group create" in call for call in self.calls()), 1)

    # What is checked first

    def test_without_the_client_or_a_sign_in(self):
        self.azure["account"] = None
        self.fails("nobody is signed in", "What to do: az login")
        (self.folder / "bin/az").unlink()
        self.fails("the Azure CLI (az) is not here", "install it")

    def test_another_cloud_is_refused(self):
        self.azure["account"] = {**facts.NEW["account"], "environmentName": "AzureUSGovernment"}
        self.fails("Azure's public cloud only, not AzureUSGovernment", "deploy by hand")

    def test_the_wrong_subscription(self):
        no_location = [one for one in self.arguments if one not in ("--location", "westeurope")]
        self.fails("resource group mimecast was not found from subscription Contoso (11111111-",
                   "of tenant tenant-a", "With --location REGION it is made", "az account set",
                   arguments=no_location)
        self.azure["workspaces"] = []
        self.fails("workspace contoso-sentinel was not found from subscription Contoso",
                   "az account set --subscription")

    def test_the_wrong_tenant(self):
        self.fault(re.escape(facts.WORKSPACE) + r"\?", times=9,
                   says="Unauthorized({\"error\":{\"code\":\"InvalidAuthenticationTokenTenant\","
                        "\"message\":\"The access token is from the wrong issuer\"}})")
        self.fails("is in another tenant than the account that is signed in to subscription Contoso",
                   "az login --tenant")

    def test_each_call_is_about_the_subscription_that_is_given(self):
        code, said = self.run_it(*self.arguments, "--subscription", SUBSCRIPTION)
        self.assertEqual(code, 0, said)
        self.assertEqual([call for call in self.calls() if f"--subscription {SUBSCRIPTION}" not in call], [])

    def test_an_upload_is_signed_in_to_the_subscriptions_tenant(self):
        settings = self.folder / "home/.azure"
        (settings / "logs").mkdir(parents=True)
        (settings / "msal_token_cache.json").write_text("tokens")
        profile = json.dumps({"subscriptions": [
            {"id": "22222222-2222-4222-8222-222222222222", "tenantId": "tenant-b", "isDefault": True},
            {"id": SUBSCRIPTION, "tenantId": "tenant-a", "isDefault": False}]})
        (settings / "azureProfile.json").write_text(profile, encoding="utf-8-sig")
        code, said = self.run_it(*self.arguments, "--subscription", SUBSCRIPTION)
        self.assertEqual(code, 0, said)
        # The user's own stay as they are.
        self.assertEqual((settings / "azureProfile.json").read_text(encoding="utf-8-sig"), profile)
        self.assertEqual((settings / "msal_token_cache.json").read_text(), "tokens")

    def test_a_subscription_that_no_sign_in_sees(self):
        (self.folder / "subscriptions").mkdir()
        self.fails("none of the accounts that are signed in sees the subscription: Subscription '11111111",
                   "az login --tenant", "Lighthouse",
                   arguments=[*self.arguments, "--subscription", SUBSCRIPTION])

    def test_a_sign_in_that_has_ended(self):
        self.fault("group show", says="AADSTS70043: The refresh token has expired. Interactive authentication "
                                      "is needed. Please run: az login")
        self.fails("the sign-in to tenant tenant-a is not good any more: AADSTS70043",
                   "What to do: az login --tenant tenant-a")

    def test_two_workspaces_of_one_name(self):
        self.azure["workspaces"] = [facts.WORKSPACE, facts.WORKSPACE.replace("/soc/", "/other/")]
        self.fails("there are 2 workspaces contoso-sentinel", "give --workspace-resource-id")
        code, said = self.run_it("--workspace-resource-id", facts.WORKSPACE, *self.arguments[:2],
                                 *self.arguments[4:])
        self.assertEqual(code, 0, said)

    def test_no_sentinel_on_the_workspace(self):
        self.fault("onboardingStates", says="Not Found({\"error\":{\"code\":\"NotFound\"}})")
        self.fails("Microsoft Sentinel is not on workspace", "Microsoft Sentinel > Create")

    def test_providers_that_are_not_registered(self):
        self.azure["providers"] = ["Microsoft.Web", *facts.PROVIDERS[3:]]
        self.fails("not registered in the subscription: Microsoft.Storage, Microsoft.KeyVault",
                   "az provider register --wait --namespace Microsoft.Storage")

    def test_each_missing_right_is_named_with_its_scope_and_role(self):
        vault = f"{facts.GROUP}/providers/Microsoft.KeyVault/vaults/mimecast-x"
        subscription = facts.GROUP.split("/resourceGroups/")[0]
        gives = "Role Based Access Control Administrator"
        for scope, denied, missing, words in [
            (subscription, ["Microsoft.Authorization/*/write"],
             "Microsoft.Authorization/roleAssignments/write on the subscription", gives),
            (facts.GROUP, ["Microsoft.Authorization/*/Write"],
             "Microsoft.Authorization/roleAssignments/write on resource group mimecast", gives),
            (facts.GROUP, ["Microsoft.Web/sites/*"],
             "Microsoft.Web/sites/host/sync/action on resource group mimecast", "Contributor"),
            (vault, ["Microsoft.KeyVault/vaults/secrets/write"],
             "Microsoft.KeyVault/vaults/secrets/write on key vault mimecast-x", "Contributor"),
            (facts.WORKSPACE.split("/providers/")[0], ["Microsoft.Insights/*"],
             "Microsoft.Insights/workbooks/write on the workspace's resource group soc",
             "Microsoft Sentinel Contributor"),
            (facts.WORKSPACE, ["Microsoft.OperationalInsights/workspaces/tables/write"],
             "Microsoft.OperationalInsights/workspaces/tables/write on workspace contoso-sentinel",
             "Log Analytics Contributor"),
        ]:
            with self.subTest(missing):
                self.reset()
                self.azure["group"] = scope != subscription
                if scope == vault:
                    self.azure["deployment"], self.azure["polls"] = {}, 9
                    self.azure["deployment"] = {"MimecastClientID": {"value": "another"}}
                self.azure["denied"] = {scope: denied}
                said = self.fails(f"{missing} is missing; the role {words} on {scope} has it",
                                  "Nothing was changed")
                self.assertNotIn("deletes", said)

    def test_every_type_that_the_template_makes_has_its_right(self):
        deploy = load_deploy()
        known = {action.lower().removesuffix("/write") for actions in
                 (deploy.ON_GROUP, deploy.FOR_NETWORK, deploy.ON_WORKSPACE_GROUP, deploy.ON_WORKSPACE)
                 for action in actions}
        made = {resource["type"].lower() for resource, _ in resources()}
        # These come with what they are a part of.
        parts = {"microsoft.keyvault/vaults/providers/diagnosticsettings"}
        self.assertEqual(made - parts - known, set())
        self.assertGreater(len(made), 20)

    # What Azure answers to the deployment

    def test_a_name_that_is_taken(self):
        self.fault("deployment group create", says=json.dumps({
            "code": "InvalidTemplateDeployment", "message": "not valid; see inner errors",
            "details": [{"code": "PreflightValidationCheckFailed", "message": "Preflight failed.",
                         "details": [{"code": "StorageAccountAlreadyTaken", "target": "mimecastx",
                                      "message": "The storage account named mimecastx is taken."}]}]}))
        said = self.fails("StorageAccountAlreadyTaken: The storage account named mimecastx is taken.",
                          "another FunctionName", changed=["group create", "group create"])
        self.assertNotIn("see inner errors", said)

    def test_a_failed_deployment_says_the_inner_error_and_of_what(self):
        nested = facts.DEPLOYMENT.replace("mimecast-sentinel", "mimecastci-x-app")
        site = f"{facts.GROUP}/providers/Microsoft.Web/sites/mimecastci-x"
        self.azure["error"] = {"code": "DeploymentFailed", "message": "At least one operation failed"}
        inner = json.dumps({"error": {"code": "Conflict", "message": "Website with given name "
                                      "mimecastci-x already exists."}})
        self.azure["operations"] = {
            "mimecast-sentinel": [
                operation("Succeeded", "Microsoft.Web/serverfarms", "plan", None),
                operation("Failed", "Microsoft.Resources/deployments", nested,
                          {"error": {"code": "DeploymentFailed", "message": "At least one"}})],
            "mimecastci-x-app": [operation("Failed", "Microsoft.Web/sites", site, {
                "status": "Failed", "error": {"code": "ResourceDeploymentFailure", "message": "wrapped",
                                              "details": [{"code": "Conflict", "message": inner}]}})]}
        said = self.fails(f"{site}: Conflict: Website with given name mimecastci-x already exists.",
                          "another FunctionName", changed=["group create", "group create"])
        self.assertNotIn("At least one", said)
        # Once it is put right, the same call deploys.
        self.azure["error"] = None
        code, said = self.run_it()
        self.assertEqual(code, 0, said)
        self.assertEqual(sum("deployment group create" in call for call in self.calls()), 2)

    # The program

    def test_an_upload_waits_for_the_role_and_gives_up_in_the_end(self):
        refused = "An error occured during deployment. Status Code: 403, Details: InaccessibleStorage"
        self.fault("config-zip", times=5, says=refused)
        code, said = self.run_it()
        self.assertEqual(code, 0, said)
        self.assertEqual(self.changes().count("config-zip"), 6)
        self.assertEqual(said.count("not yet: An error occured"), 1)
        self.reset()
        self.fault("config-zip", times=-1, says=refused)
        code, said = self.run_it()
        self.assertEqual(code, 1, said)
        self.assertIn("may not write its package to its storage (403)", said)
        self.assertEqual(self.changes().count("config-zip"), 41)

    def test_an_upload_that_is_refused(self):
        # A 403 that is not about the app's storage is the caller's own, and no wait helps.
        for status in (400, 403):
            self.reset()
            self.fault("config-zip", says="An error occured during deployment. Status Code: "
                                          f"{status}, Details: x")
            self.fails("the upload of", "was refused: An error occured", f"Status Code: {status}",
                       "docs/TROUBLESHOOTING.md",
                       changed=["group create", "group create", "config-zip"])

    def test_functions_that_are_never_listed(self):
        self.azure["syncs"] = 1000
        code, said = self.run_it()
        self.assertEqual(code, 1, said)
        self.assertIn("lists no function CloudIntegrated and Status", said)
        self.assertIn("No function is listed", said)
        self.assertEqual(self.changes().count("host/default/sync"), 21)

    def test_a_package_that_is_none_is_refused_before_anything_is_asked(self):
        for make, words in [
            (lambda: self.package.unlink(), "cannot be read"),
            (lambda: self.package.write_text("x"), "cannot be read"),
            (lambda: write_package(self.package, mode=0o644), "its program may not be executed"),
            (lambda: write_package(self.package, without="host.json"), "it has no host.json"),
            (lambda: (write_package(self.package),
                      Path(f"{self.package}.sha256").write_text("0000  mimecast-sentinel.zip\n")),
             "is not the one of"),
        ]:
            with self.subTest(words):
                make()
                self.fails(words)
                self.assertEqual(self.calls(), [])

    def test_without_a_package_and_rust(self):
        self.fails("there is no Rust here", "give --package FILE",
                   arguments=[one for one in self.arguments if one not in ("--package",
                                                                           str(self.package))])

    def test_an_archive_of_a_release_has_its_package(self):
        archive = self.folder / "archive"
        shutil.copytree(ARM, archive / "arm")
        self.environment["DEPLOY_COPY"] = str(archive / "arm/deploy")
        arguments = [one for one in self.arguments if one not in ("--package", str(self.package))]
        self.fails("mimecast-sentinel.zip cannot be read", arguments=arguments)

        write_package(archive / "mimecast-sentinel.zip")
        code, said = self.run_it(*arguments)
        self.assertEqual(code, 0, said)
        [upload] = [call for call in self.calls() if "config-zip" in call]
        self.assertIn(str(archive / "mimecast-sentinel.zip"), upload)

    # Roles, the first run, rows

    def test_roles_that_spread_late(self):
        self.server.pages = [None, [SECRET_ROLE, *NOT_SPREAD], *[NOT_SPREAD] * 5, GOOD]
        code, said = self.run_it()
        self.assertEqual(code, 0, said)
        self.assertEqual((self.server.tests, self.ticks()), (8, 1))
        self.assertIn(f"not yet: mimecast/secret, {ROLE[1]}", said)
        self.assertEqual(said.count(f"not yet: {ROLE[1]}"), 5)
        self.assertIn("/api/Status: HTTP Error 503", said)

    def test_roles_that_never_spread(self):
        self.server.pages = [NOT_SPREAD]
        code, said = self.run_it()
        self.assertEqual((code, self.ticks()), (1, 0), said)
        self.assertIn(f"check: {ROLE[1]} fails: it was tried: {ROLE[2]}\n    fix: {ROLE[3]}", said)
        self.assertIn("at most 60 minutes", said)
        self.assertEqual(self.server.tests, 21)
        before = self.changes()
        self.server.pages = [GOOD]
        code, said = self.run_it()
        self.assertEqual((code, self.ticks()), (0, 1), said)
        self.assertEqual(self.changes(), [*before, TESTED])

    def test_rows_of_before_do_not_hide_a_new_secret_that_is_wrong(self):
        self.run_it()
        self.server.pages = [[("fail", "mimecast/token", "401", "correct the secret"), *GOOD[1:]]]
        code, said = self.run_it(*self.arguments, "--redeploy")
        self.assertEqual(code, 1, said)
        self.assertIn("check: mimecast/token fails", said)
        # Not once it is called again either.
        code, said = self.run_it()
        self.assertEqual(code, 1, said)
        self.server.pages = [GOOD]
        code, said = self.run_it()
        self.assertEqual(code, 0, said)

    def test_an_app_that_answers_half_or_nonsense_is_waited_for(self):
        half = b"HTTP/1.1 200 OK\r\nContent-Length: 999\r\n\r\n<li"
        self.server.pages = [half, b"nonsense\r\n\r\n", GOOD]
        code, said = self.run_it()
        self.assertEqual((code, self.server.tests), (0, 3), said)
        self.assertIn("/api/Status: IncompleteRead", said)

    def test_the_apps_key_goes_nowhere_else(self):
        other = f"https://{self.server.host}/elsewhere"
        for status in (302, 307):
            self.server.pages = [f"HTTP/1.1 {status} Found\r\nLocation: {other}\r\nContent-Length: 0\r\n\r\n"
                                 .encode()]
            said = self.run_it()[1]
            self.assertIn(f"/api/Status answered {status}", said)
            self.assertIn("a sign-in was put before it", said)
        self.assertEqual(self.server.tests, 2)
        self.assertEqual(self.server.strays, [])

    def test_an_answer_that_nobody_thought_of(self):
        self.azure["providers"] = [{}]
        said, _ = self.start(*self.arguments).communicate(timeout=120)
        self.assertIn("Traceback", said)
        self.assertIn("FAILED: an error of this command: AttributeError", said)
        self.assertIn("report it with what was printed", said)

    def test_an_app_without_a_key_yet(self):
        for key in (None, ""):
            self.reset()
            self.azure["key"] = key
            code, said = self.run_it()
            self.assertEqual(code, 1, said)
            self.assertIn("FAILED: Azure refused a call: mimecastci-x has no master key yet", said)

    def test_what_waiting_does_not_help_ends_at_once_with_its_fix(self):
        self.server.pages = [[("fail", "mimecast/token", "401 &lt;invalid&gt;",
                               "see <a href='x'>mimecast-credentials</a>"), *GOOD[1:]]]
        code, said = self.run_it()
        self.assertEqual((code, self.server.tests, self.ticks()), (1, 1, 0), said)
        self.assertIn("check: mimecast/token fails: it was tried: 401 <invalid>\n    fix: see "
                      "mimecast-credentials", said)

    def test_the_status_page_is_read_as_it_is_written(self):
        source = (ROOT / "src/health/page.rs").read_text()
        for words in ('li class=(of.verdict)', 'strong { (of.rung) }', 'strong { "What to do: " }'):
            self.assertIn(words, source)

    def test_a_first_run_that_fails(self):
        self.azure["streams"] = [["mailflow", "2999-01-01T00:00:00Z", "Failure", "Disconnected",
                                  "mimecast-forbidden", "403", "add the product", ""]]
        code, said = self.run_it()
        self.assertEqual((code, self.ticks()), (1, 1), said)
        self.assertIn("mailflow: mimecast-forbidden: 403\n    fix: add the product", said)

    def test_rows_that_never_come(self):
        self.azure["streams"] = []
        code, said = self.run_it()
        self.assertEqual(code, 1, said)
        self.assertIn("no stream has said in MimecastConnectorHealth_CL that it works, in 40 minutes",
                      said)

    def test_no_event_yet_is_no_failure(self):
        self.azure["streams"] = [[*facts.NEW["streams"][0][:-1], ""]]
        self.azure["rows"] = 0
        code, said = self.run_it()
        self.assertEqual(code, 0, said)
        self.assertIn("Everything works; Mimecast has had no event", said)

    # The secret

    def test_the_secret_from_a_file_and_from_a_prompt(self):
        del self.environment["MIMECAST_CLIENT_SECRET"]
        file = self.folder / "secret.txt"
        # As Windows' editor writes it.
        file.write_text(SECRET + "\r\n", encoding="utf-8-sig", newline="")
        code, said = self.run_it(*self.arguments, "--secret-file", str(file))
        self.assertEqual(code, 0, said)
        self.assertEqual(self.given(), SECRET)

        self.reset()
        ours, theirs = pty.openpty()
        started = self.start(*self.arguments[:-1], stdin=theirs, stdout=theirs, stderr=theirs,
                             start_new_session=True)
        os.close(theirs)
        said, answers = b"", [(b"Client id of the Mimecast application: ", b"the-client-id\n"),
                              (b"which is not shown: ", SECRET.encode() + b"\n")]
        with contextlib.suppress(OSError):
            while part := os.read(ours, 4096):
                said += part
                if answers and said.endswith(answers[0][0]):
                    os.write(ours, answers.pop(0)[1])
        os.close(ours)
        self.assertEqual(started.wait(60), 0, said)
        self.holds(said.decode())
        self.assertEqual(self.given(), SECRET)

    def test_the_secret_that_is_in_a_vault_is_left_to_azure(self):
        del self.environment["MIMECAST_CLIENT_SECRET"]
        arguments = [*self.arguments, "--secret-vault", facts.VAULT, "--secret-name",
                     "mimecast-client-secret"]
        code, said = self.run_it(*arguments)
        self.assertEqual(code, 0, said)
        given = json.loads((self.folder / "given.json").read_text())
        self.assertEqual(given["MimecastClientSecret"], {"reference": {
            "keyVault": {"id": facts.VAULT}, "secretName": "mimecast-client-secret"}})
        before = self.changes()
        code, said = self.run_it(*arguments)
        self.assertEqual((code, self.changes()), (0, before), said)
        code, said = self.run_it(*arguments, "--redeploy")
        self.assertEqual((code, self.changes()[len(before):]),
                         (0, ["group create", "config-zip", PACKAGE, TESTED]), said)
        self.assertFalse([call for call in self.calls() if "keyvault secret" in call])

    def test_a_vault_that_gives_no_secret(self):
        self.azure["group"] = True
        arguments = [*self.arguments, "--secret-vault", facts.VAULT, "--secret-name", "mimecast-client-secret"]
        self.azure["gives secrets"] = False
        self.fails("key vault contoso-deployment lets no deployment take a secret", "az keyvault update "
                   "--name contoso-deployment --enabled-for-template-deployment true", arguments=arguments)
        self.azure.update({"gives secrets": True, "secrets": []})
        self.fails("key vault contoso-deployment has no secret mimecast-client-secret",
                   "docs/DEPLOY-TENANTS.md", arguments=arguments)
        self.azure.update({"secrets": ["mimecast-client-secret"],
                           "denied": {facts.VAULT: ["Microsoft.KeyVault/vaults/deploy/*"]}})
        self.fails("Microsoft.KeyVault/vaults/deploy/action on key vault contoso-deployment is missing; the "
                   f"role Contributor on {facts.VAULT} has it", arguments=arguments)
        self.azure["denied"] = {}
        self.fault(re.escape(facts.VAULT) + r"\?", says="(ResourceNotFound) it is not there")
        self.fails(f"key vault {facts.VAULT} was not found", arguments=arguments)
        # Only the deployment itself can tell.
        self.fault(re.escape(facts.VAULT) + "/secrets", times=-1, says="(Forbidden) by a firewall")
        self.fault("deployment group create", says=json.dumps({
            "code": "KeyVaultParameterReferenceSecretRetrieveFailed", "message": "Forbidden"}))
        self.fails("KeyVaultParameterReferenceSecretRetrieveFailed", "lets a deployment take it",
                   arguments=arguments, changed=["group create"])

    def given(self):
        return json.loads((self.folder / "given.json").read_text())["MimecastClientSecret"]["value"]

    def test_no_secret_to_be_had(self):
        self.environment["MIMECAST_CLIENT_SECRET"] = ""
        self.fails("there is no client secret and no terminal", code=2)
        self.fails("cannot be read", arguments=[*self.arguments, "--secret-file", "/none"])
        file = self.folder / "secret.txt"
        for text, words in [("\n", "has no client secret in it"),
                            (f"an-id\n{SECRET}\n", "several lines"), (f"{SECRET}\0", "control characters")]:
            file.write_text(text)
            self.fails(words, arguments=[*self.arguments, "--secret-file", str(file)])

    def test_the_client_id_is_that_of_the_last_deployment(self):
        self.fails("the client id of the Mimecast application is missing", "MIMECAST_CLIENT_ID",
                   arguments=self.arguments[:-1], code=2)
        self.run_it()
        before = self.changes()
        code, said = self.run_it(*self.arguments[:-1])
        self.assertEqual((code, self.changes()), (0, before), said)
        self.environment["MIMECAST_CLIENT_ID"] = "another"
        code, said = self.run_it(*self.arguments[:-1])
        self.assertEqual(code, 0, said)
        given = json.loads((self.folder / "given.json").read_text())
        self.assertEqual(given["MimecastClientID"]["value"], "another")

    def test_a_secret_is_no_argument(self):
        for argument in (["--client-secret", SECRET], [f"--secret={SECRET}"], [SECRET],
                         [f"MimecastClientSecret={SECRET}"], [f"-p{SECRET}"],
                         [f"AzureClientSecret={SECRET}"]):
            with self.subTest(argument[0].replace(SECRET, "…")):
                said = self.fails("arm/deploy: ", arguments=[*self.arguments, *argument], code=2)
                self.assertNotIn("s3cr3t", said)
                if "ecret" in argument[0] and argument[0] != SECRET:
                    self.assertIn("MIMECAST_CLIENT_SECRET", said)
        self.assertEqual(self.calls(), [])

    # The call

    def test_what_if_changes_nothing(self):
        for exists in (True, False):
            self.azure["group"] = exists
            said = self.fails("Nothing was changed", arguments=[*self.arguments, "--what-if"], code=0)
            self.assertIn("12 to create" if exists else "would be made in westeurope", said)
        self.assertFalse((self.folder / "given.json").exists())
        self.azure["denied"] = {facts.GROUP: ["Microsoft.Web/*"]}
        self.azure["group"] = True
        self.fails("is missing; the role Contributor", arguments=[*self.arguments, "--what-if"])

    def test_what_if_says_where_it_would_begin(self):
        self.run_it()
        before = self.changes()
        code, said = self.run_it(*self.arguments, "--what-if")
        self.assertEqual((code, said.count("done already")), (0, 6), said)
        self.assertNotIn("12 to create", said)
        write_package(self.package, b"a newer program")
        code, said = self.run_it(*self.arguments, "--what-if")
        self.assertEqual(code, 0, said)
        self.assertIn("[3/6] the program: would be done", said)
        self.assertEqual(self.changes(), before)

    def test_wrong_calls(self):
        for arguments, words in [
            ([], "--resource-group is missing"),
            (["--resource-group"], "--resource-group takes a value"),
            (["--resource-group", "x"], "give --workspace-name or --workspace-resource-id"),
            ([*self.arguments, "--workspace-resource-id", "x"], "one of them only"),
            ([*self.arguments, "--secret-vault", facts.VAULT], "--secret-vault and --secret-name"),
            ([*self.arguments, "--secret-vault", facts.VAULT, "--secret-name", "x", "--secret-file", "y"],
             "give --secret-file, or --secret-vault"),
            ([*self.arguments, "--secret-vault", "mine", "--secret-name", "x"],
             "--secret-vault is not the resource id of a key vault"),
            ([*self.arguments, "--secret-vault", facts.VAULT, "--secret-name", SECRET],
             "--secret-name is not the name of a secret, not the secret"),
            ([*self.arguments, "--subscription", "Contoso"], "--subscription is not a GUID"),
            (["--resource-group", "a/../b", *self.arguments[2:]], "--resource-group is not the name of a"),
            ([*self.arguments, "--location", "west?"], "--location is not the name of a region"),
            (["--workspace-name", "a/b", *self.arguments[:2]], "--workspace-name is not the name of a"),
            (["--workspace-resource-id", f"{facts.WORKSPACE}/", *self.arguments[:2]],
             "--workspace-resource-id is not the resource id of a workspace"),
            ([*self.arguments, "--region", "x"], "there is no option --region"),
            ([*self.arguments, "Nonsense=1"], "Nonsense is no parameter"),
            ([*self.arguments, "LogLevel=Loud"], "LogLevel is not one of Debug"),
            ([*self.arguments, "Schedule=* * * * * *"], "Schedule has only 0:00:01"),
            ([*self.arguments, "StartDate=2999-01-01"], "StartDate is not today or earlier"),
            ([*self.arguments, "EntraRiskSchedule=0 */5 * * * *"], "EntraRiskSchedule is not a schedule that"),
            ([*self.arguments, "EntraClientID=x"], "EntraClientID cannot be given here: nothing here asks"),
            ([*self.arguments, "PackageUri=https://x.example/p.zip"], "give --package"),
            ([*self.arguments, "HostingPlan=ElasticPremium"], "deploy by hand"),
            ([*self.arguments, "StatusPage=false"], "switch it off afterwards"),
        ]:
            with self.subTest(words):
                # None as arguments would be the good ones.
                self.fails(words, arguments=arguments or ["--what-if"], code=2)
        self.assertEqual(self.calls(), [])

    def test_help(self):
        done = subprocess.run([ARM / "deploy", "--help"], capture_output=True, text=True, check=True)
        deploy = load_deploy()
        for option in [*deploy.OPTIONS, *deploy.SWITCHES]:
            self.assertIn(option, done.stdout)

    def test_every_command_is_one_of_the_azure_cli(self):
        text = (ARM / "deploy").read_text()
        known = {line.split("\t")[0] for line in
                 (ROOT / "tests/azure-cli/commands.tsv").read_text().splitlines()}
        used = set(re.findall(r'\baz\("([a-z -]+)"', text))
        self.assertEqual(used - known, set())
        self.assertGreater(len(used), 12)

    def test_the_table_of_commands_is_what_an_installed_client_takes(self):
        client = shutil.which("az")
        if not client:
            self.skipTest("the Azure CLI is not installed")
        beside = Path(client).resolve().parent / "python3"
        pythons = filter(shutil.which, [str(beside), "/opt/az/bin/python3", "python3"])
        python = next((one for one in pythons if subprocess.run(
            [one, "-c", "import azure.cli.core"], check=False, capture_output=True).returncode == 0), None)
        if not python:
            self.skipTest("the Python of the Azure CLI was not found")
        done = subprocess.run([python, ROOT / "tests/azure-cli/make.py", "--check"], check=False,
                              capture_output=True, text=True, env={
                                  **os.environ, "AZURE_CONFIG_DIR": str(self.folder)})
        self.assertEqual(done.returncode, 0, done.stderr)

    def test_the_outputs_it_reads_are_the_templates(self):
        used = set(re.findall(r'outputs\(\)(?:\[|\.get\()"(\w+)"', (ARM / "deploy").read_text()))
        self.assertEqual(used, set(facts.OUTPUTS))
        self.assertLessEqual(used, set(TEMPLATE["outputs"]))


def operation(state, kind, target, message):
    return {"properties": {"provisioningState": state, "statusMessage": message,
                           "targetResource": {"resourceType": kind, "id": target}}}


def write_package(path, program=b"a program", mode=0o755, without=""):
    with zipfile.ZipFile(path, "w") as package:
        for name, text in [("host.json", b"{}"), ("CloudIntegrated/function.json", b"{}"),
                           ("Status/function.json", b"{}"), ("mimecast-sentinel", program)]:
            if name != without:
                one = zipfile.ZipInfo(name)
                one.external_attr = mode << 16
                package.writestr(one, text)


def load_deploy():
    import importlib.machinery
    import importlib.util
    loader = importlib.machinery.SourceFileLoader("deploy", str(ARM / "deploy"))
    module = importlib.util.module_from_spec(
        importlib.util.spec_from_file_location("deploy", str(ARM / "deploy"), loader=loader))
    loader.exec_module(module)
    return module


def until(there):
    for _ in range(1200):
        if there():
            return
        time.sleep(0.05)
    raise AssertionError("it did not come to that in a minute")


if __name__ == "__main__":
    unittest.main()
