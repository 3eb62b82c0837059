"""One CSV of tenants makes one parameter file for each, all or none."""
import importlib.machinery
import importlib.util
import json
import os
import re
import subprocess
import sys
import tempfile
import unittest
from pathlib import Path

from files import ARM, TEMPLATE

SCRIPT = ARM / "tenants/make-parameters"
EXAMPLE = ARM / "tenants/example.csv"


def make(text):
    """What it says, its exit code and the files it makes."""
    with tempfile.TemporaryDirectory() as folder:
        source, out = Path(folder) / "tenants.csv", Path(folder) / "out"
        if text is not None:
            source.write_bytes(text if isinstance(text, bytes) else text.encode())
        done = subprocess.run([sys.executable, SCRIPT, source, out],
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

    def test_no_file_has_a_secret(self):
        for path in sorted((ARM / "tenants/example").glob("*.json")):
            given = json.loads(path.read_text())["parameters"]
            for name, value in given.items():
                secure = TEMPLATE["parameters"][name]["type"].lower() == "securestring"
                self.assertEqual(list(value), ["reference" if secure else "value"], name)
            secret = given["MimecastClientSecret"]["reference"]["secretName"]
            self.assertEqual(secret, "mimecast-client-secret")

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
            ("2026-11-15", "2999-01-01", "StartDate is not today or earlier"),
            ("0 */30 * * * *", "*/30 * * * *", "Schedule is not six fields"),
            ("0 */30 * * * *", "* * * * * *", "Schedule has only 0:00:01 between two runs"),
            ("0 */30 * * * *", "0 0 24 * * *", "its hour has '24'"),
            ("0 */30 * * * *", "0 0 */6 * * *", "SilenceAlertWindow is shorter than two"),
            ("soc@msp.example,Disabled", "soc@msp.example,On", "DeployAnalyticsRules"),
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

    def with_columns(self, **values):
        header, first, _ = self.example.splitlines()
        return "\n".join([",".join([header, *values]), ",".join([first, *values.values()])])

    def test_values_of_further_columns_are_checked(self):
        cases = [
            ("Location", "westeurope", "west-europe"),
            ("FunctionName", "Mimecast", "Mimecast-"),
            ("VirtualNetworkAddressPrefix", "10.1.0.0/24", "10.1.0.0/25"),
            ("VirtualNetworkAddressPrefix", "10.1.0.0/16", "10.1.0.1/16"),
            ("VirtualNetworkAddressPrefix", "10.1.0.0/24", "10.1.0.300/24"),
            ("VirtualNetworkAddressPrefix", "10.1.0.0/24", "fd00::/64"),
            ("PackageUri", "https://example.com/p.zip", "https://example.com/p.zip?sp=r&sig=secret"),
            ("PackageUri", "https://example.com/p.zip", "http://example.com/p.zip"),
            ("WorkspaceName", "contoso-sentinel", "a-"),
            ("EntraRiskSchedule", "0 */15 * * * *", "0 */5 * * * *"),
            ("DirectorySchedule", "0 0 */6 * * *", "0 0 * * *"),
            ("EntraRiskStartDate", "2026-11-15", "2999-01-01"),
            ("DirectoryRoundDays", "13", "14"),
            ("EnableDirectory", "true", "yes"),
        ]
        for name, right, wrong in cases:
            with self.subTest(name, wrong=wrong):
                said, code, _ = make(self.with_columns(**{name: right}))
                self.assertEqual(code, 0, said)
                self.refused(self.with_columns(**{name: wrong}), f"{name} is not ")
                self.assertNotIn("sig=secret", make(self.with_columns(**{name: wrong}))[0])

    def test_ids_are_taken_in_any_case(self):
        header, first, second = self.example.splitlines()
        small = re.sub(r"/subscriptions/\S+?,", lambda found: found[0].lower(), first)
        self.assertIn("/microsoft.keyvault/vaults/", small)
        said, code, _ = make("\n".join([header, small, second]))
        self.assertEqual(code, 0, said)
        # It is the same tenant still.
        self.refused("\n".join([header, first, small.replace("contoso,", "other,", 1)]),
                     "WorkspaceResourceId as in line 2")

    def test_purge_protection_and_tags(self):
        text = self.with_columns(VaultPurgeProtection="TRUE", Tags="owner=SOC; cost center=47=11 ;x=")
        said, code, files = make(text)
        self.assertEqual(code, 0, said)
        values = json.loads(files["contoso.parameters.json"])["parameters"]
        self.assertIs(values["VaultPurgeProtection"]["value"], True)
        self.assertEqual(values["Tags"]["value"], {"owner": "SOC", "cost center": "47=11", "x": ""})
        for wrong, words in [
            ("owner", "it has 'owner'"), ("=SOC", "it has '=SOC'"), ("a=1;", "it has ''"),
            ("a/b=1", "without any of"), ("a=1;A=2", "A is there twice"),
            (f"{'n' * 129}=1", "up to 128 characters"), (f"a={'v' * 257}", "over 256 characters"),
            (";".join(f"t{n}=1" for n in range(51)), "there are 51, more than 50"),
        ]:
            with self.subTest(wrong[:20]):
                self.refused(self.with_columns(Tags=wrong), "line 2: Tags is not tags", words)
        self.refused(self.with_columns(VaultPurgeProtection="on"),
                     "line 2: VaultPurgeProtection is not true or false")

    def test_the_default_schedule_goes_with_each_silence(self):
        for window in ("PT1H", "PT3H", "P2D"):
            said, code, _ = make(self.with_columns(SilenceAlertWindow=window))
            self.assertEqual(code, 0, said)

    def test_a_line_reaches_no_other_customers_subscription(self):
        other = "22222222-2222-4222-8222-222222222222"
        for part in ("Microsoft.OperationalInsights/workspaces/contoso-sentinel",
                     "Microsoft.KeyVault/vaults/contoso-deployment"):
            lines = self.with_columns().splitlines()
            cells = [cell.replace("11111111-1111-4111-8111-111111111111", other)
                     if cell.endswith(part) else cell for cell in lines[1].split(",")]
            self.refused("\n".join([lines[0], ",".join(cells)]),
                         "is in another subscription than SubscriptionId")
            said, code, _ = make("\n".join([lines[0] + ",WorkspaceSubscriptionId",
                                            ",".join([*cells, other])]))
            self.assertEqual(code, 0 if "workspaces" in part else 2, said)

    def test_two_lines_do_not_share_a_workspace(self):
        header, first, _ = self.example.splitlines()
        second = first.replace("contoso,", "contoso-2,", 1).replace(",mimecast,", ",second,", 1)
        self.refused("\n".join([header, first, second.replace("contoso-client", "other-client")]),
                     "line 3: WorkspaceResourceId as in line 2")

    def test_the_pauses_of_a_schedule(self):
        loader = importlib.machinery.SourceFileLoader("make_parameters", str(SCRIPT))
        script = importlib.util.module_from_spec(
            importlib.util.spec_from_loader(loader.name, loader))
        sys.dont_write_bytecode = True
        loader.exec_module(script)
        minute, hour, day = 60, 3600, 86400
        # The shortest as the tests of src/schedule.rs have them.
        for schedule, shortest, longest in [
            ("* * * * * *", 1, 1), ("0 0 */1 * * *", hour, hour),
            ("0 */10 * * * *", 10 * minute, 10 * minute), ("0 */7 * * * *", 4 * minute, 7 * minute),
            ("0 55,3 * * * *", 8 * minute, 52 * minute), ("0 2,55 0,23 */2 2 *", 53 * minute, None),
            ("0 2,55 0,23 */2 * *", 7 * minute, None), ("0 0 6 * * 1", 7 * day, 7 * day),
            ("0 0 9-17 * * Mon-Fri", hour, 64 * hour), ("0 0 17-9 * * s", hour, 160 * hour),
            ("0 0 6 1 febru *", 365 * day, 366 * day), ("0 0/20 * * * *", 20 * minute, 20 * minute),
            ("0 0 6 29 2 *", 1461 * day, 1461 * day), ("0 */0 * * * *", minute, minute),
        ]:
            with self.subTest(schedule):
                found = [pause.total_seconds() for pause in script.pauses(schedule)]
                self.assertEqual(found, [shortest, longest or found[1]])
        for schedule in ("", "@hourly", "0 */5 * * *", "0 0 0 1 1 * 2027", "0 0 0 * * 7",
                         "0 0 0 ? * 1", "0 0 0 15W * *", "60 0 0 * * *", "0 0 0 0 * *",
                         "0 0 Mon * * *", "0 0 0 * Mon *", "0 1,,2 * * * *", "0 */ * * * *",
                         "0 */-1 * * * *", "0 +5 * * * *", "0 1-2-3 * * * *", "0 1/2/3 * * * *",
                         "0 *-5 * * * *", "0 5\t* * * *", "0 0 0 31 2 *"):
            with self.subTest(schedule), self.assertRaises(ValueError):
                script.pauses(schedule)

    def test_a_file_that_is_no_csv_with_commas_in_utf_8_is_refused(self):
        self.refused(self.example.replace(",", ";"), "separated by semicolons")
        self.refused(self.example.replace("contoso", "contosö").encode("latin-1"), "not UTF-8")
        self.refused(None, "tenants.csv: it cannot be read: No such file")
        said, code, _ = make(self.example.replace("\n", "\r\n").encode("utf-8-sig"))
        self.assertEqual(code, 0, said)

    def test_an_app_registration_is_given_whole_or_not(self):
        header, first, _ = self.example.splitlines()
        self.refused(f"{header},AzureClientID\n{first},11111111-1111-4111-8111-111111111111",
                     "give all or none")
        self.refused(f"{header},AzureEntraObjectID\n{first},11111111-1111-4111-8111-111111111111",
                     "AzureEntraObjectID is given without")

    def test_an_application_of_graph_is_given_whole_and_with_a_source(self):
        whole = {"EntraClientID": "44444444-4444-4444-8444-444444444444",
                 "EntraTenantID": "55555555-5555-4555-8555-555555555555",
                 "EntraClientSecretName": "graph-client-secret"}
        said, code, files = make(self.with_columns(**whole, EnableDirectory="true"))
        self.assertEqual(code, 0, said)
        values = json.loads(files["contoso.parameters.json"])["parameters"]
        self.assertEqual(values["EntraClientSecret"]["reference"]["secretName"], "graph-client-secret")
        for left_out in whole:
            half = {k: v for k, v in whole.items() if k != left_out}
            self.refused(self.with_columns(**half, EnableDirectory="true"),
                         "of EntraClientID, EntraClientSecretName and EntraTenantID, give all or none")
        self.refused(self.with_columns(**whole, EnableDirectory="false"),
                     "EntraClientID is given without EnableEntraRisk or EnableDirectory")

    def test_all_faults_are_told_though_a_line_is_short_or_a_column_is_wrong(self):
        header, first, second = self.example.splitlines()
        wrong = second.replace("fabrikam,", "fabri/kam,", 1)
        self.refused("\n".join([header, first.rpartition(",")[0], wrong]),
                     "line 2: ", "fields, not ", "line 3: Tenant is not letters")
        self.refused("\n".join([header.replace("StartDate", "StartDay"), first, wrong]),
                     "line 1: column 'StartDay'", "line 3: Tenant is not letters")
        self.refused("\n".join([header, first, f"x,{'y' * 200_000}"]), "line 3: it is no CSV")

    def test_the_help_is_no_failure(self):
        for arguments, code in [(["--help"], 0), (["-h"], 0), ([], 2), (["one"], 2)]:
            with self.subTest(arguments):
                done = subprocess.run([sys.executable, SCRIPT, *arguments],
                                      capture_output=True, text=True)
                self.assertEqual(done.returncode, code, done.stderr)
                said, silent = (done.stderr, done.stdout) if code else (done.stdout, done.stderr)
                self.assertIn("usage: arm/tenants/make-parameters", said)
                self.assertEqual(silent, "")

    def test_a_reader_of_the_commands_that_goes_away_is_no_failure(self):
        with tempfile.TemporaryDirectory() as folder:
            reading, writing = os.pipe()
            os.close(reading)
            with open(writing, "w") as gone:
                done = subprocess.run([sys.executable, SCRIPT, EXAMPLE, folder],
                                      stdout=gone, stderr=subprocess.PIPE, text=True)
            self.assertEqual((done.returncode, done.stderr), (0, ""))
            self.assertEqual(len(list(Path(folder).iterdir())), 2)

    def test_where_one_file_cannot_be_written_none_is(self):
        with tempfile.TemporaryDirectory() as folder:
            taken = Path(folder) / "fabrikam.parameters.json"
            taken.mkdir()
            file = Path(folder) / "file"
            file.write_text("mine")
            for out in (Path(folder), file, file / "below"):
                done = subprocess.run([sys.executable, SCRIPT, EXAMPLE, out],
                                      capture_output=True, text=True)
                self.assertEqual((done.returncode, done.stdout), (1, ""), done.stderr)
                self.assertIn("it cannot be written: ", done.stderr)
                self.assertIn("Nothing was written.", done.stderr)
            self.assertEqual(sorted(Path(folder).iterdir()), [taken, file])
