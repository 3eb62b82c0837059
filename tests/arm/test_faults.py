"""Each kind of fault that the template has had, made again in a copy, is found."""
import copy
import json
import shutil
import subprocess
import sys
import tempfile
import unittest
from pathlib import Path

import checks
import engine
import types_of
from files import ROOT, TEMPLATE, deployment, nested, own_resources, short_texts
from sets import SECRETS, given


def resource(template, kind):
    """The only resource of that type in a template."""
    (found,) = [r for r in own_resources(template).values() if r["type"] == kind]
    return found


@engine.needed
class Faults(unittest.TestCase):
    def setUp(self):
        self.template = copy.deepcopy(TEMPLATE)

    def nested(self, name):
        return nested(name, self.template)

    def types(self, name="minimal"):
        return types_of.faults(engine.expand(short_texts(self.template), given(name)).resources)

    def found(self, faults, *words):
        self.assertTrue(faults)
        for word in words:
            self.assertIn(word, " ".join(faults))

    def test_a_member_beside_properties(self):
        for name, path in (("content", "root.9"), ("storage", "root.0"),
                           ("table-columns", "root.2.2")):
            self.template = copy.deepcopy(TEMPLATE)
            next(iter(own_resources(self.nested(name)).values()))["etag"] = "*"
            self.found(checks.refusals(self.template), f"{path}: ")
        self.template["resources"][0]["etag"] = "*"
        self.found(checks.refusals(self.template), "root: ")

    def test_a_property_that_the_api_version_does_not_know(self):
        site = resource(self.nested("app"), "Microsoft.Web/sites")
        site["properties"]["vnetRouteAllEnabled"] = True
        self.found(self.types(), "BCP037", "vnetRouteAllEnabled")

    def test_a_property_that_is_missing(self):
        del resource(self.nested("storage"), "Microsoft.KeyVault/vaults")["properties"]["tenantId"]
        self.found(self.types(), "BCP035", "tenantId")

    def test_a_value_of_the_wrong_type(self):
        account = resource(self.nested("storage"), "Microsoft.Storage/storageAccounts")
        account["properties"]["allowSharedKeyAccess"] = "no"
        self.found(self.types(), "BCP036", "allowSharedKeyAccess")

    def test_an_api_version_that_is_not_there(self):
        resource(self.nested("app"), "Microsoft.Insights/components")["apiVersion"] = "2020-02-03"
        self.found(self.types(), "BCP081", "Microsoft.Insights/components@2020-02-03")

    def test_a_text_that_is_too_long(self):
        variables = self.nested("content")["variables"]
        (rows,) = [value for value in variables.values()
                   if isinstance(value, dict) and value.get("FunctionName") == "MimecastCIRows"]
        rows["FunctionQuery"] += "/" * checks.TEXT
        # As it is a text may be longer; one that an expression makes may not.
        with self.assertRaisesRegex(engine.Refused, "131072"):
            engine.expand(self.template, given("another-table"))
        self.found(checks.too_long(self.template))

    def test_a_workbook_that_is_too_long(self):
        variables = self.nested("workbooks")["variables"]
        name = next(k for k, v in variables.items() if checks.LOADED.fullmatch(k) and isinstance(
            v, dict) and "items" in v)
        variables[name]["items"].append({"content": "x" * checks.TEXT})
        self.found(checks.too_long(self.template), '{"version"')

    def test_rules_that_do_not_wait_for_the_function_that_they_read(self):
        for name, choice in (("rules-if-missing", "rules-enabled"),
                             ("rules-replaced", "rules-replaced-enabled")):
            for left_out in ("-content'", "-app'"):
                self.template = copy.deepcopy(TEMPLATE)
                found = deployment(name, self.template)
                found["dependsOn"] = [w for w in found["dependsOn"] if left_out not in w]
                self.found(checks.rules_too_early(self.template, given(choice)),
                           "does not wait for")

    def test_a_secret_that_goes_through_a_plain_parameter(self):
        self.nested("storage")["parameters"]["mimecastClientSecret"]["type"] = "string"
        self.found(checks.secrets(self.template, given("incumbent"), SECRETS),
                   "mimecastClientSecret gets a secret and is not secure")

    def test_a_secret_among_the_settings_or_outputs(self):
        settings = deployment("app", self.template)["properties"]["parameters"]
        settings["name"]["value"] = "[parameters('MimecastClientSecret')]"
        faults = checks.secrets(self.template, given("incumbent"), SECRETS)
        self.found(faults, "parameter name gets a secret", "Microsoft.Web/sites")
        self.template = copy.deepcopy(TEMPLATE)
        self.nested("storage")["outputs"] = {"secret": {
            "type": "string", "value": "[format('{0}!', parameters('azureClientSecret'))]"}}
        self.found(checks.secrets(self.template, given("incumbent"), SECRETS),
                   "output/secret has a secret")

    def test_a_reference_to_what_is_not_waited_for(self):
        app = deployment("app", self.template)
        app["dependsOn"] = [w for w in app["dependsOn"] if "-rule'" not in w]
        self.found(checks.order(self.template, given()), "-rule and does not wait for it")

    def test_a_resource_that_names_what_is_made_beside_it(self):
        resource(self.nested("app"), "Microsoft.Web/sites")["dependsOn"] = []
        self.found(checks.order(self.template, given()), "Microsoft.Web/serverfarms")
        self.template = copy.deepcopy(TEMPLATE)
        deployment("alerts", self.template)["dependsOn"] = []
        self.found(checks.order(self.template, given()), "scheduledQueryRules",
                   "Microsoft.Insights/components")

    def test_a_resource_that_is_waited_for_in_vain(self):
        app = self.nested("app")
        app["resources"].remove(resource(app, "Microsoft.Web/serverfarms"))
        self.found(checks.order(self.template, given()), "which is not in its template")

    def test_a_resource_that_is_there_twice(self):
        app = self.nested("app")
        app["resources"].append(resource(app, "Microsoft.Insights/components"))
        self.found(checks.order(self.template, given()), "more than once")

    def test_a_parameter_variable_or_function_that_is_not_there(self):
        text = json.dumps(TEMPLATE)
        for old, new in (("parameters('Location')", "parameters('Region')"),
                         ("variables('vaultName')", "variables('vault')"),
                         ("[uniqueString(", "[uniqueText(")):
            self.assertIn(old, text)
            with self.assertRaises(engine.Refused):
                engine.expand(text.replace(old, new), given())

    def test_a_table_that_is_made_only_if_missing_by_a_language_that_cannot_say_so(self):
        del self.nested("table-if-missing")["languageVersion"]
        with self.assertRaisesRegex(engine.Refused, "language version"):
            engine.expand(self.template, given())


@engine.needed
class FaultsInSources(unittest.TestCase):
    """Those that are made before the template is: arm/ and sentinel/ are copied and built."""

    def setUp(self):
        folder = tempfile.TemporaryDirectory()
        self.addCleanup(folder.cleanup)
        self.root = Path(folder.name)
        for name in ("arm", "sentinel"):
            shutil.copytree(ROOT / name, self.root / name)
        # Has the version.
        shutil.copy(ROOT / "Cargo.toml", self.root)

    def change(self, name, old, new):
        path = self.root / name
        text = path.read_text()
        self.assertIn(old, text)
        path.write_text(text.replace(old, new, 1))

    def build(self, *arguments):
        done = subprocess.run([sys.executable, self.root / "arm/build", *arguments],
                              capture_output=True, text=True)
        if done.returncode == 3:
            self.skipTest((done.stdout + done.stderr).strip().removeprefix("SKIPPED: "))
        return done

    def built(self):
        done = self.build()
        self.assertEqual(done.returncode, 0, done.stderr)
        return json.loads((self.root / "arm/azuredeploy.json").read_text())

    def test_a_word_in_a_rule_that_is_none(self):
        # Of a severity Bicep's types take any text: tests/kql holds the files to Sentinel's words.
        self.change("sentinel/rules/ThreatDelivered.yaml", "triggerOperator: gt",
                    "triggerOperator: gtt")
        with self.assertRaisesRegex(engine.Refused, "'gtt' doesn't exist"):
            engine.expand(self.built(), given())

    def test_a_rule_that_no_list_names(self):
        for name in ("rules/ThreatDelivered", "hunting/WhoClicks", "parser/MimecastCI"):
            path = self.root / f"sentinel/{name}.yaml"
            path.with_stem("Another").write_text(path.read_text().replace("id: ", "id: 0", 1))
        self.assertEqual(checks.unlisted(self.built(), self.root), ["Another.yaml"] * 3)

    def test_a_change_of_a_source_without_a_build(self):
        self.change("arm/modules/app.bicep", "minTlsVersion: '1.2'", "minTlsVersion: '1.3'")
        self.assertEqual(self.build("--check").returncode, 1)
        shutil.copy(ROOT / "arm/modules/app.bicep", self.root / "arm/modules/app.bicep")
        self.change("sentinel/parser/MimecastCI.kql", "\n", "\n// another line\n")
        self.assertEqual(self.build("--check").returncode, 1)

    def test_what_bicep_only_warns_of(self):
        self.change("arm/modules/app.bicep", "param location string",
                    "param location string\nparam x int = 1")
        done = self.build()
        self.assertEqual(done.returncode, 1)
        self.assertIn("no-unused-params", done.stderr)
