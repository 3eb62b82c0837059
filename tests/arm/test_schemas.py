"""What others say of the template: Microsoft's schemas of resources, and checkov."""
import importlib.util
import json
import os
import shutil
import subprocess
import sys
import tempfile
import unittest
from pathlib import Path

import arm
from files import PARAMETER_FILES, ROOT, TEMPLATE, WIZARD, resources

# Holds a resource against Microsoft's schemas, which lie beside it.
TOOL = Path(os.environ.get("ARM_SCHEMA_CHECK", ROOT / "../shared/tools/arm_schema_check.py"))

# What checkov asks for and is not done, and why.
SKIPPED_CHECKS = {
    "CKV_AZURE_13": "the app has no HTTP function, so that nobody signs in to it",
    "CKV_AZURE_17": "the same: no client connects to it",
    "CKV_AZURE_41": "when Mimecast's secret ends is not known here, and a secret past its date "
                    "would silence the connector",
    "CKV_AZURE_42": "purge protection would keep the vault's name taken for days after a removal; "
                    "the secret can be had again from Mimecast",
    "CKV_AZURE_63": "there is no HTTP traffic to log",
    "CKV_AZURE_65": "there are no HTTP errors to detail",
    "CKV_AZURE_66": "there are no HTTP requests to trace",
    "CKV_AZURE_80": "there is no .NET in it",
    "CKV_AZURE_88": "Azure Files takes a shared key, and shared keys are off",
    "CKV_AZURE_109": "Key Vault references do not resolve on Flex Consumption behind a firewall",
    "CKV_AZURE_110": "as CKV_AZURE_42",
    "CKV_AZURE_189": "as CKV_AZURE_109; access takes an Entra role",
    "CKV_AZURE_206": "checkpoints can be made anew; geo-replication would cost twice as much",
    "CKV_AZURE_212": "one instance runs the timer, another would wait for it",
    "CKV_AZURE_213": "Flex Consumption has no health check; the alert on silence stands for it",
    "CKV_AZURE_222": "deployment and portal reach the app's management site; it has no other",
    "CKV_AZURE_225": "a run that a zone's failure ends is done again by the next",
}
WITHOUT_PRIVATE_NETWORKING = {
    "CKV_AZURE_35": "the storage takes Entra identities over TLS only; EnablePrivateNetworking "
                    "closes its network too",
    "CKV_AZURE_59": "as CKV_AZURE_35; no blob is public",
}


def without_nulls(node):
    """As Azure Resource Manager sends it: null is nothing."""
    if isinstance(node, dict):
        return {k: without_nulls(v) for k, v in node.items() if v is not None}
    if isinstance(node, list):
        return [without_nulls(v) for v in node]
    return f"[reference('{node.path}')]" if isinstance(node, arm.Deployed) else node


def evaluated(path):
    """The resources that a parameter file makes, each as its provider gets it."""
    for resource in arm.Deployment(TEMPLATE, arm.parameter_values(path)).resources:
        if resource["type"] != "Microsoft.Resources/deployments":
            yield without_nulls({k: v for k, v in resource.items() if k not in ("id", "condition")})


@unittest.skipUnless(TOOL.exists(), "Microsoft's resource schemas are not here")
class Schemas(unittest.TestCase):
    @classmethod
    def setUpClass(cls):
        try:
            spec = importlib.util.spec_from_file_location("schemas", TOOL)
            cls.tool = importlib.util.module_from_spec(spec)
            spec.loader.exec_module(cls.tool)
        except ImportError as error:
            raise unittest.SkipTest(f"{error.name} is not here") from None

    def faults(self, resource):
        if resource["type"].startswith("Microsoft.SecurityInsights/"):
            return self.faults_of_sentinel(resource)
        return self.tool.faults(resource) or []

    def faults_of_sentinel(self, resource):
        """The schemas of Sentinel's resources stand among the definitions."""
        name = {"alertRules": "ScheduledAlertRule",
                "dataConnectorDefinitions": "CustomizableConnectorDefinition"}
        name = name[resource["type"].split("/")[1]]
        uri = f"{self.tool.BASE}{resource['apiVersion']}/Microsoft.SecurityInsights.json"
        validator = self.tool.Draft4Validator({"$ref": f"{uri}#/definitions/{name}"},
                                              registry=self.tool.REGISTRY)
        return [e.message[:200] for e in validator.iter_errors(
            {k: resource[k] for k in ("kind", "properties")})]

    def test_the_template_as_it_stands(self):
        for resource, _ in resources(TEMPLATE):
            self.assertEqual(self.tool.faults(resource) or [], [], resource["name"])

    def test_what_each_parameter_file_makes(self):
        checked = 0
        for path in PARAMETER_FILES:
            for resource in evaluated(path):
                checked += self.tool.faults(resource) is not None
                # Of a nested resource's name some schemas mean the whole, some the last part.
                names = {resource["name"], resource["name"].rsplit("/", 1)[-1]}
                faults = min((self.faults({**resource, "name": n}) for n in names), key=len)
                self.assertEqual(faults, [], resource["name"])
        self.assertGreater(checked, 50)

    def test_a_wrong_type_is_caught(self):
        (account,) = [r for r in evaluated(PARAMETER_FILES[0])
                      if r["type"] == "Microsoft.Storage/storageAccounts"]
        account["properties"]["allowSharedKeyAccess"] = "no"
        self.assertTrue(self.faults(account))

    def test_the_wizard(self):
        # Two controls are newer than the schema.
        known = json.loads(json.dumps(WIZARD))
        for step in known["parameters"]["steps"]:
            step["elements"] = [e for e in step["elements"]
                                if not e["type"].startswith("Microsoft.Solutions.")]
        folder = Path(self.tool.ROOT) / "0.1.2-preview"
        base = "https://schema.management.azure.com/schemas/0.1.2-preview/"
        from jsonschema import Draft4Validator
        from referencing import Registry, Resource
        from referencing.jsonschema import DRAFT4
        registry = Registry().with_resources([
            (base + path.name, Resource(contents=json.loads(path.read_text("utf-8-sig")),
                                        specification=DRAFT4)) for path in folder.glob("*.json")])
        schema = {"$ref": f"{base}CreateUIDefinition.MultiVm.json"}
        validator = Draft4Validator(schema, registry=registry)
        faults = [f"{'/'.join(map(str, e.absolute_path))}: {e.message[:300]}"
                  for e in validator.iter_errors(known)]
        self.assertEqual(faults, [])
        known["parameters"]["steps"][0]["label"] = 1
        self.assertTrue(list(validator.iter_errors(known)))


class Checkov(unittest.TestCase):
    def test_checkov_finds_nothing_but_what_is_skipped_with_a_reason(self):
        checkov = Path(sys.executable).parent / "checkov"
        if not checkov.exists() and not (checkov := shutil.which("checkov")):
            self.skipTest("checkov is not here")
        with tempfile.TemporaryDirectory() as folder:
            for path in PARAMETER_FILES:
                made = {"$schema": TEMPLATE["$schema"], "contentVersion": "1.0.0.0",
                        "resources": list(evaluated(path))}
                (Path(folder) / path.name).write_text(json.dumps(made))
            done = subprocess.run(
                [checkov, "--framework", "arm", "-d", folder, "--skip-download", "--compact",
                 "-o", "json"], capture_output=True, text=True)
        results = json.loads(done.stdout)["results"]
        self.assertGreater(len(results["passed_checks"]), 50)
        used, unexplained = set(), []
        for check in results["failed_checks"]:
            used.add(check["check_id"])
            private = "private" in check["file_path"]
            skips = {**SKIPPED_CHECKS, **({} if private else WITHOUT_PRIVATE_NETWORKING)}
            if check["check_id"] not in skips:
                unexplained.append("{check_id} {check_name}: {resource}".format(**check))
        self.assertEqual(unexplained, [])
        self.assertEqual(used, {*SKIPPED_CHECKS, *WITHOUT_PRIVATE_NETWORKING},
                         "a check that passes needs no reason")
