"""`arm/tenants/deploy-all`: each tenant in a subscription of its own, all behind one Azure CLI."""
import csv
import functools
import json
import os
import re
import shutil
import signal
import unittest

import fake_azure_facts as facts
import test_deploy
from files import ARM, TEMPLATE

COLUMNS = ["Tenant", "SubscriptionId", "ResourceGroup", "SecretsVaultResourceId",
           "MimecastClientSecretName", "MimecastClientID", "WorkspaceResourceId"]
OWN = facts.NEW["account"]["id"]
BEGIN = "deployment group create"


def subscription(number):
    return f"{number:08}-1111-4111-8111-111111111111"


@unittest.skipUnless(shutil.which("openssl"), "openssl is not here")
class DeployAll(test_deploy.WithAzure):
    script = "tenants/deploy-all"

    def setUp(self):
        super().setUp()
        # Whatever it was, it is not for anybody but one tenant.
        del self.environment["MIMECAST_CLIENT_SECRET"]
        self.source, self.logs = self.folder / "tenants.csv", self.folder / "logs"
        self.arguments = [str(self.source), str(self.logs), "--package", str(self.package)]
        (self.folder / "subscriptions").mkdir()

    def tenants(self, count, **changes):
        """Writes the CSV, and an Azure for each tenant, `one`, `two` and so on; what is not as in a new
        one is in the changes, by name."""
        self.names = ["one", "two", "three", "four", "five", *map("tenant-{}".format, range(6, 101))][:count]
        with open(self.source, "w") as file:
            rows = csv.writer(file)
            rows.writerow(COLUMNS)
            for number, name in enumerate(self.names, 1):
                rows.writerow([name, subscription(number), "mimecast",
                               facts.VAULT.replace(OWN, subscription(number)), "mimecast-client-secret",
                               f"{name}-client-id", facts.WORKSPACE.replace(OWN, subscription(number))])
                self.server.folders[f"{test_deploy.KEY}-{name}"] = folder = self.of(name)
                folder.mkdir()
                self.write(name, **{**facts.NEW, "parameters": TEMPLATE["parameters"], "group": True,
                                    "key": f"{test_deploy.KEY}-{name}", **changes.get(name, {})})

    def of(self, name):
        return self.folder / "subscriptions" / subscription(self.names.index(name) + 1)

    def write(self, name, **azure):
        file = self.of(name) / "azure.json"
        before = json.loads(file.read_text()) if file.exists() else {}
        file.write_text(json.dumps({**before, **azure}))

    def begun(self, name):
        """How often that tenant's template was deployed."""
        number = subscription(self.names.index(name) + 1)
        return sum(BEGIN in call and f"--subscription {number}" in call for call in self.calls())

    def line(self, said, name):
        """The tenant's line of the table."""
        return next(line for line in said.rpartition("\ntenant ")[2].splitlines() if line.startswith(f"{name} "))

    def log(self, name):
        return (self.logs / f"{name}.log").read_text()

    def test_all_are_deployed_and_then_waited_for(self):
        self.tenants(2)
        code, said = self.run_it()
        self.assertEqual(code, 0, said)
        for name in self.names:
            self.assertRegex(self.line(said, name), r"deployed +\d+  9000 rows$")
            given = json.loads((self.of(name) / "given.json").read_text())
            self.assertEqual(given["MimecastClientID"]["value"], f"{name}-client-id")
            vault = given["MimecastClientSecret"]["reference"]["keyVault"]["id"]
            self.assertIn(self.of(name).name, vault)
            self.assertIn(f"arm/deploy --subscription {self.of(name).name} ", self.log(name))
            self.assertEqual(len((self.of(name) / "ticks").read_text().split()), 1)
        # The second is deployed before the first is waited for.
        order = [found[0] for call in self.calls() if (found := re.search(f"{BEGIN}|keys list", call))]
        self.assertEqual(order, [BEGIN, BEGIN, "keys list", "keys list"])
        calls = len([call for call in self.calls() if test_deploy.CHANGES.search(call)])
        code, said = self.run_it()
        self.assertEqual(code, 0, said)
        self.assertRegex(self.line(said, "one"), r"already +\d+  9000 rows$")
        self.assertIn("2 already", said)
        self.assertEqual(len([call for call in self.calls() if test_deploy.CHANGES.search(call)]), calls)

    def test_each_is_deployed_again_once_and_tested_again(self):
        self.tenants(2)
        self.run_it()
        code, said = self.run_it(*self.arguments, "--redeploy")
        self.assertEqual(code, 0, said)
        self.assertRegex(self.line(said, "two"), "deployed .*9000 rows")
        self.assertEqual([self.begun(name) for name in self.names], [2, 2])
        # A secret that Mimecast does not take is not hidden by the rows of before.
        self.server.pages = [[("fail", "mimecast/token", "401", "correct the secret"), *test_deploy.GOOD[1:]]]
        code, said = self.run_it(*self.arguments, "--redeploy")
        self.assertEqual(code, 1, said)
        self.assertRegex(self.line(said, "one"), "failed .*mimecast/token fails")

    def test_an_archive_has_its_own_package(self):
        self.tenants(1)
        archive = self.folder / "archive"
        for name in ("deploy", "azuredeploy.json", "tenants/deploy-all", "tenants/make-parameters"):
            (archive / "arm" / name).parent.mkdir(parents=True, exist_ok=True)
            shutil.copy(ARM / name, archive / "arm" / name)
        self.environment["DEPLOY_COPY"] = str(archive / "arm/tenants/deploy-all")
        self.fails("mimecast-sentinel.zip cannot be read", "Nothing was begun", arguments=self.arguments[:2])
        test_deploy.write_package(archive / "mimecast-sentinel.zip")
        code, said = self.run_it(*self.arguments[:2])
        self.assertEqual(code, 0, said)
        self.assertRegex(self.line(said, "one"), "deployed")

    def test_one_tenants_failure_is_its_own(self):
        self.tenants(5, two={"denied": {facts.GROUP: ["Microsoft.Web/sites/*"]}}, three={"secrets": []})
        code, said = self.run_it("--only", "four", *self.arguments)
        self.assertEqual(code, 0, said)
        self.assertNotIn("one ", said.rpartition("\ntenant ")[2])
        shutil.rmtree(self.of("five"))
        code, said = self.run_it()
        self.assertEqual(code, 3, said)
        self.assertRegex(self.line(said, "one"), "deployed .* 9000 rows")
        self.assertRegex(self.line(said, "two"), r"failed .*Microsoft.Web/sites/write on resource group "
                                                 r"mimecast is missing; the role Contributor .*and \d more")
        self.assertRegex(self.line(said, "three"), "failed .*has no secret mimecast-client-secret")
        self.assertRegex(self.line(said, "four"), "already .* 9000 rows")
        self.assertRegex(self.line(said, "five"), "failed .*none of the accounts that are signed in sees")
        self.assertRegex(said, r"what to do: have these roles given.*see \S+/two.log")
        self.assertIn("1 deployed, 3 failed, 1 already", said)
        self.assertIn("FAILED: none of the accounts", self.log("five"))
        self.assertEqual([self.begun(name) for name in self.names], [1, 0, 0, 1, 0])
        # Once it is put right, the same call goes on, and leaves the others alone.
        self.write("two", denied={})
        code, said = self.run_it("--only=two,one", *self.arguments)
        self.assertEqual(code, 0, said)
        self.assertEqual([self.begun(name) for name in self.names], [1, 1, 0, 1, 0])

    def test_an_error_of_its_own_ends_one_tenant_only(self):
        self.tenants(2, one={"providers": [{}]})
        code, said = self.run_it()
        self.assertEqual(code, 3, said)
        self.assertRegex(self.line(said, "one"), "failed .*an error of this command: AttributeError")
        self.assertIn("Traceback", self.log("one"))
        self.assertRegex(self.line(said, "two"), "deployed")

    def test_when_none_works(self):
        self.tenants(2)
        self.server.pages = [[("fail", "mimecast/token", "401", "correct the secret"),
                              *test_deploy.GOOD[1:]]]
        code, said = self.run_it()
        self.assertEqual(code, 1, said)
        self.assertRegex(self.line(said, "one"),
                         r"failed .*check: mimecast/token fails: it was tried: 401$")
        self.assertIn("fix: correct the secret", self.log("one"))

    def test_killed_in_between_it_goes_on_there(self):
        self.tenants(3, two={"faults": [{"call": "config-zip", "times": 1, "dies": True}]})
        started = self.start(*self.arguments)
        said, _ = started.communicate(timeout=120)
        self.assertEqual(started.returncode, -signal.SIGKILL, said)
        for left in (self.folder / "tmp").iterdir():
            shutil.rmtree(left)
        self.assertIn("[3/6] the program", self.log("two"))
        code, said = self.run_it()
        self.assertEqual(code, 0, said)
        self.assertEqual([self.begun(name) for name in self.names], [1, 1, 1])
        self.assertIn("3 deployed", said)

    def test_ctrl_c_ends_with_the_table_so_far(self):
        self.tenants(3, two={"faults": [{"call": "config-zip", "times": 1, "hangs": True}]})
        code, said = self.run_it("--only", "one", *self.arguments)
        self.assertEqual(code, 0, said)
        heed = functools.partial(signal.signal, signal.SIGINT, signal.SIG_DFL)
        started = self.start(*self.arguments, start_new_session=True, preexec_fn=heed)
        test_deploy.until(lambda: (self.of("two") / "hangs").exists())
        os.killpg(started.pid, signal.SIGINT)
        said, _ = started.communicate(timeout=60)
        self.assertEqual(started.returncode, 3, said)
        self.holds(said)
        self.assertIn("Stopped. What was begun in Azure goes on there; call again", said)
        self.assertRegex(self.line(said, "one"), "already .*9000 rows")
        self.assertRegex(self.line(said, "two"), "stopped")
        self.assertRegex(self.line(said, "three"), "not begun")
        code, said = self.run_it()
        self.assertEqual(code, 0, said)
        self.assertIn("1 already, 2 deployed", said)

    def test_a_dry_run_of_a_hundred_tenants(self):
        self.environment["FAKE_INSIDE"] = "yes"
        self.tenants(100, two={"denied": {facts.WORKSPACE: ["*"]}})
        shutil.rmtree(self.of("three"))
        code, said = self.run_it(*self.arguments, "--what-if")
        self.assertEqual(code, 3, said)
        self.assertRegex(self.line(said, "one"), r"would deploy +\d+  new: from 'the template' on$")
        self.assertIn("98 would deploy, 2 failed", said)
        self.assertEqual([call for call in self.calls() if test_deploy.CHANGES.search(call)], [])
        self.assertEqual(list(self.of("one").iterdir()), [self.of("one") / "azure.json"])
        self.assertIn("12 to create", self.log("tenant-100"))

    def test_a_dry_run_says_what_is_new_and_what_is_a_change(self):
        self.tenants(2)
        self.run_it("--only", "one", *self.arguments)
        self.assertRegex(self.line(self.run_it(*self.arguments, "--what-if")[1], "one"), "already .*9000")
        test_deploy.write_package(self.package, b"a newer program")
        code, said = self.run_it(*self.arguments, "--what-if")
        self.assertEqual(code, 0, said)
        self.assertRegex(self.line(said, "one"), "would deploy +0  a change: from 'the program' on")
        self.assertRegex(self.line(said, "two"), "would deploy +0  new: from 'the template' on")
        _, said = self.run_it(*self.arguments, "--what-if", "--redeploy")
        self.assertRegex(self.line(said, "one"), "a change: from 'the template' on")

    def test_all_faults_are_told_and_nothing_is_begun(self):
        self.tenants(3)
        header, *lines = self.source.read_text().splitlines()
        # Those of the CSV, then those of what this way of deploying cannot do.
        self.source.write_text("\n".join([header, lines[0], lines[0], lines[1].replace("mimecast,", ",")]))
        self.fails("tenants.csv: line 3: Tenant as in line 2", "line 4: ResourceGroup is empty",
                   "Nothing was begun", code=2)
        self.source.write_text("\n".join([
            f"{header},PackageUri,HostingPlan,StatusPage", f"{lines[0]},https://x.example/p.zip,,",
            f"{lines[1]},,ElasticPremium,", f"{lines[2]},,,false"]))
        self.fails("one: PackageUri cannot be given here: give --package", "two: HostingPlan=ElasticPremium",
                   "three: StatusPage=false", code=2)
        self.assertEqual(self.calls(), [])
        self.assertFalse(self.logs.exists())

    def test_wrong_calls(self):
        self.tenants(1)
        for arguments, words in [
            ([str(self.source)], "give the CSV and a folder for the logs"),
            ([*self.arguments, "--onyl", "one"], "there is no option --onyl"),
            ([*self.arguments, "--only"], "--only takes a value"),
            ([*self.arguments, "--only", "one,eleven"], "has no tenant 'eleven'"),
        ]:
            with self.subTest(words):
                self.fails(words, "Nothing was begun", arguments=arguments, code=2)
        self.package.unlink()
        self.fails("mimecast-sentinel.zip cannot be read", "Nothing was begun")
        self.azure["account"] = None
        self.fails("nobody is signed in", "What to do: az login", "Nothing was begun")

    def test_a_folder_that_cannot_be_written(self):
        self.tenants(1)
        self.logs.write_text("a file of that name")
        self.fails("logs cannot be made: File exists", "Nothing was begun")
        self.logs.unlink()
        (self.logs / "one.log").mkdir(parents=True)
        self.fails("one.log cannot be written: Is a directory", arguments=self.arguments)

    def test_a_workspace_by_name_is_one_of_the_same_group(self):
        self.tenants(1)
        header, line = self.source.read_text().splitlines()
        self.source.write_text(f"{header.replace('WorkspaceResourceId', 'WorkspaceName')}\n"
                               f"{line.rpartition(',')[0]},contoso-sentinel\n")
        self.run_it()
        self.assertIn("/resourceGroups/mimecast/providers/Microsoft.OperationalInsights/workspaces/"
                      "contoso-sentinel ", self.log("one"))

    def test_help(self):
        done = test_deploy.subprocess.run([ARM / self.script, "--help"], capture_output=True, text=True,
                                          check=True)
        for option in ("--only", "--package", "--redeploy", "--what-if"):
            self.assertIn(option, done.stdout)


if __name__ == "__main__":
    unittest.main()
