"""What checkov says of what is deployed."""
import json
import shutil
import subprocess
import sys
import tempfile
import unittest
from pathlib import Path

import engine
from files import TEMPLATE
from sets import deployed

# What checkov asks for and is not done, and why.
SKIPPED_CHECKS = {
    "CKV_AZURE_13": "the app has no HTTP function, so that nobody signs in to it",
    "CKV_AZURE_17": "the same: no client connects to it",
    "CKV_AZURE_41": "when Mimecast's secret ends is not known here, and a secret past its date "
                    "would silence the connector",
    "CKV_AZURE_63": "there is no HTTP traffic to log",
    "CKV_AZURE_65": "there are no HTTP errors to detail",
    "CKV_AZURE_66": "there are no HTTP requests to trace",
    "CKV_AZURE_80": "there is no .NET in it",
    "CKV_AZURE_88": "Azure Files takes a shared key, and shared keys are off",
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
    "CKV_AZURE_109": "the key vault takes an Entra role; EnablePrivateNetworking closes its network",
    "CKV_AZURE_189": "as CKV_AZURE_109",
}
WITHOUT_PURGE_PROTECTION = {
    "CKV_AZURE_42": "VaultPurgeProtection is off unless it is asked for: it would keep the vault's "
                    "name taken for days after a removal, and its secret can be made again",
    "CKV_AZURE_110": "as CKV_AZURE_42",
}
# What each parameter file may fail.
SETS = {
    "minimal": {**SKIPPED_CHECKS, **WITHOUT_PRIVATE_NETWORKING, **WITHOUT_PURGE_PROTECTION},
    "incumbent": {**SKIPPED_CHECKS, **WITHOUT_PRIVATE_NETWORKING, **WITHOUT_PURGE_PROTECTION},
    "elastic-premium-private": {**SKIPPED_CHECKS, **WITHOUT_PURGE_PROTECTION},
    "everything": SKIPPED_CHECKS,
}


def without_nulls(node):
    """As Azure Resource Manager sends it: null is nothing."""
    if isinstance(node, dict):
        return {k: without_nulls(v) for k, v in node.items() if v is not None}
    return [without_nulls(v) for v in node] if isinstance(node, list) else node


@engine.needed
class Checkov(unittest.TestCase):
    def test_checkov_finds_nothing_but_what_is_skipped_with_a_reason(self):
        checkov = Path(sys.executable).parent / "checkov"
        if not checkov.exists() and not (checkov := shutil.which("checkov")):
            self.skipTest("checkov is not here")
        with tempfile.TemporaryDirectory() as folder:
            for name in SETS:
                # It takes a template with nested ones of language version 2.0 and reads nothing of
                # those: it gets what they make.
                made = {"$schema": TEMPLATE["$schema"], "contentVersion": "1.0.0.0",
                        "resources": without_nulls(deployed(name).resources)}
                (Path(folder) / f"{name}.json").write_text(json.dumps(made))
            done = subprocess.run(
                [checkov, "--framework", "arm", "-d", folder, "--skip-download", "--compact",
                 "-o", "json"], capture_output=True, text=True)
        results = json.loads(done.stdout)["results"]
        self.assertGreater(len(results["passed_checks"]), 50)
        failed = [(Path(c["file_path"]).stem, c) for c in results["failed_checks"]]
        self.assertEqual(["{check_id} {check_name}: {resource}".format(**check)
                          for name, check in failed if check["check_id"] not in SETS[name]], [])
        self.assertEqual({check["check_id"] for _, check in failed}, set().union(*SETS.values()),
                         "a check that passes needs no reason")
