"""One CSV of tenants makes one parameter file for each, all or none."""
import subprocess
import sys
import tempfile
import unittest
from pathlib import Path

import arm
from files import ARM, TEMPLATE

EXAMPLE = ARM / "tenants/example.csv"


def make(text):
    """What it says, its exit code and the files it makes."""
    with tempfile.TemporaryDirectory() as folder:
        source, out = Path(folder) / "tenants.csv", Path(folder) / "out"
        source.write_text(text)
        done = subprocess.run([sys.executable, ARM / "tenants/make-parameters", source, out],
                              capture_output=True, text=True)
        files = {p.name: p.read_text() for p in sorted(out.glob("*"))} if out.exists() else {}
        return done.stdout + done.stderr, done.returncode, files


class Tenants(unittest.TestCase):
    def setUp(self):
        self.example = EXAMPLE.read_text()

    def refused(self, text, *words):
        said, code, files = make(text)
        self.assertEqual((code, files), (2, {}), said)
        for word in words:
            self.assertIn(word, said)
        self.assertIn("Nothing was written", said)

    def test_the_example_makes_the_committed_files(self):
        said, code, files = make(self.example)
        self.assertEqual(code, 0, said)
        self.assertEqual(files, {p.name: p.read_text()
                                 for p in (ARM / "tenants/example").glob("*.json")})
        self.assertEqual(said.count("az deployment group create"), 2)

    def test_each_file_deploys_and_has_no_secret(self):
        for path in (ARM / "tenants/example").glob("*.json"):
            values = arm.parameter_values(path)
            self.assertEqual(values["MimecastClientSecret"], "secret mimecast-client-secret")
            arm.Deployment(TEMPLATE, values)

    def test_duplicates_are_refused(self):
        header, first, second = self.example.splitlines()
        self.refused("\n".join([header, first, first]), "line 3: Tenant as in line 2",
                     "line 3: MimecastClientID as in line 2",
                     "line 3: SubscriptionId and ResourceGroup and FunctionName as in line 2")
        self.refused("\n".join([header, first, second.replace("fabrikam,", "CONTOSO,", 1)]),
                     "line 3: Tenant as in line 2")
        self.refused("\n".join(["Tenant," + header, "x," + first]), "column Tenant is there twice")

    def test_missing_values_are_refused(self):
        self.refused(self.example.replace("contoso-client-id", ""), "line 2: MimecastClientID is empty")
        self.refused(self.example.replace("mimecast-client-secret", ""),
                     "line 2: MimecastClientSecretName is empty", "line 3:")
        self.refused(self.example.replace(",WorkspaceResourceId,", ",WorkspaceName,", 1)
                     .replace("/providers/Microsoft.OperationalInsights/workspaces/", "!"), "line 2")
        self.refused(self.example.replace("MimecastClientID", "FunctionName"),
                     "column MimecastClientID is missing")
        self.refused(self.example.splitlines()[0], "there is no tenant")
        self.refused("", "column Tenant is missing")

    def test_a_secret_is_refused(self):
        self.refused(self.example.replace("MimecastClientSecretName", "MimecastClientSecret"),
                     "column MimecastClientSecret would hold secrets")
        said, _, _ = make(self.example.replace("mimecast-client-secret", "s3cr3t/with+signs="))
        self.assertIn("MimecastClientSecretName is not the name of a secret", said)
        self.assertNotIn("s3cr3t", said)

    def test_what_the_template_or_the_connector_would_refuse_is_refused(self):
        for old, new, words in [
            ("uk-api.services.mimecast.com", "uk-api.mimecast.com", "MimecastBaseURL"),
            ("2026-11-15", "2026-02-30", "StartDate"),
            ("2026-11-15", "20261115", "StartDate"),
            ("0 */30 * * * *", "*/30 * * * *", "Schedule"),
            (",Enabled,", ",Yes,", "DeployAnalyticsRules is not one of"),
            ("Enabled,true", "Enabled,maybe", "DeployedThroughLighthouse is not true or false"),
            ("StartDate", "StartDay", "StartDay' is no parameter"),
            ("contoso,1111", "con/toso,1111", "Tenant is not letters"),
            ("DeployedThroughLighthouse", "MimecastCITableName", "MimecastCITableName"),
        ]:
            with self.subTest(new):
                changed = self.example.replace(old, new)
                if new == "MimecastCITableName":
                    changed = changed.replace("Enabled,true", "Enabled,Events_CL")
                self.refused(changed, words)

    def test_an_app_registration_is_given_whole_or_not(self):
        header, first, _ = self.example.splitlines()
        self.refused(f"{header},AzureClientID\n{first},11111111-1111-4111-8111-111111111111",
                     "give all or none")
