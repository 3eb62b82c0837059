"""What EnableEntraRisk and EnableDirectory change: tables, streams, settings, and which functions run."""
import json
import re
import unittest

import engine
from files import ROOT, TEMPLATE, nested
from sets import deployed, given
from test_app import settings
from test_workspace import RULES, TABLES
from traced import Traced

SCHEMAS = ROOT / "sentinel/schema"
# As the program has it; docs/TABLE.md has the columns.
OF = {"entra-risk": {"EntraRiskDetections", "EntraRiskyUsers"},
      "directory": {"DirectoryUsers", "DirectoryGroups", "DirectoryGroupMembers"}}
SWITCHES = {"entra-risk": "EnableEntraRisk", "directory": "EnableDirectory"}
ALL = set().union(*OF.values())
APPLICATION = {"EntraClientID": "an id", "EntraClientSecret": "a secret", "EntraTenantID": "a tenant"}


def made_with(*sources, cloud="AzureCloud", **more):
    return deployed(cloud=cloud, **{SWITCHES[source]: True for source in sources}, **more)


def disabled(made):
    return {found[1] for name in settings(made) if (found := re.match(r"AzureWebJobs\.(\w+)\.Disabled$", name))}


def schema(table, kind):
    return json.loads((SCHEMAS / f"{table}_CL.{kind}.json").read_text())


@engine.needed
class Sources(unittest.TestCase):
    def test_by_default_nothing_is_made_and_their_timers_are_off(self):
        made = deployed()
        self.assertEqual(settings(made)["SOURCES"], "cloud-integrated")
        self.assertEqual(disabled(made), {"EntraRisk", "Directory"})
        self.assertEqual({n for n in settings(made) if n.startswith(("ENTRA_", "DIRECTORY_"))},
                         {"ENTRA_RISK_SCHEDULE", "DIRECTORY_SCHEDULE"})
        self.assertEqual(self.tables(made), set())
        self.assertEqual(len(made.one(RULES)["properties"]["dataFlows"]), 2)

    def test_each_source_alone_and_both(self):
        for sources in (("entra-risk",), ("directory",), ("entra-risk", "directory")):
            made = made_with(*sources)
            self.assertEqual(settings(made)["SOURCES"], ",".join(["cloud-integrated", *sources]))
            self.assertEqual(disabled(made), {name for source, name in (
                ("entra-risk", "EntraRisk"), ("directory", "Directory")) if source not in sources})
            expected = set().union(*(OF[source] for source in sources))
            self.assertEqual(self.tables(made), expected)
            self.rows_of_each_go_to_its_table(made, expected)
            # Nothing else is made.
            more = {r["id"] for r in made.resources} - {r["id"] for r in deployed().resources}
            self.assertEqual({identity.rpartition("/")[2] for identity in more}, {f"{t}_CL" for t in expected})

    def tables(self, made):
        return {name for table in made.of_type(TABLES)
                if (name := table["name"].rpartition("/")[2].removesuffix("_CL")) in ALL}

    def rows_of_each_go_to_its_table(self, made, names):
        rule = made.one(RULES)["properties"]
        flows = {flow["outputStream"]: flow for flow in rule["dataFlows"]}
        for name in names:
            table, own = schema(name, "table"), schema(name, "rule")
            # Where it is missing, and once more as it was read.
            new, _ = sorted((t["properties"] for t in made.of_type(TABLES) if t["name"].endswith(f"/{name}_CL")),
                            key=lambda properties: isinstance(properties, str))
            self.assertEqual(new, {"schema": {"name": f"{name}_CL", "columns": table["columns"]}})
            stream = f"Custom-{name}"
            self.assertEqual(flows[f"Custom-{name}_CL"], {
                "streams": [stream], "destinations": ["workspace"], "outputStream": f"Custom-{name}_CL",
                "transformKql": own["transformKql"]})
            self.assertEqual({stream: rule["streamDeclarations"][stream]}, own["streamDeclarations"])

    def test_the_rule_is_made_after_their_tables(self):
        traced = Traced(TEMPLATE, given("sources"))
        (rule,) = traced.of_type(RULES)
        # One of the loop stands for all; it is made if it is missing, and written.
        tables = [table for table in traced.of_type(TABLES)
                  if table.id.rpartition("/")[2].removesuffix("_CL") in ALL]
        self.assertEqual(len(tables), 2)
        for table in tables:
            self.assertTrue(traced.waits(rule, table), table.path)

    def test_with_cheap_events_the_rule_keeps_azures_limits(self):
        for cheap in TEMPLATE["parameters"]["CheapEvents"]["allowedValues"]:
            rule = made_with(*OF, CheapEvents=cheap).one(RULES)["properties"]
            self.assertEqual(len(rule["streamDeclarations"]), 2 + len(ALL))
            self.assertEqual(len(rule["dataFlows"]), 2 + len(ALL) + (cheap != "None"))
            # Microsoft's: streams and flows of a rule, the length of a transform.
            self.assertLessEqual(max(len(rule["streamDeclarations"]), len(rule["dataFlows"])), 10)
            for flow in rule["dataFlows"]:
                self.assertLess(len(flow["transformKql"]), 15_360)
                self.assertEqual(len(flow["streams"]), 1)

    def test_the_directory_is_in_each_cloud_and_risk_not_in_china(self):
        for cloud in engine.CLOUDS:
            self.assertEqual(self.tables(made_with("directory", cloud=cloud)), OF["directory"])
            if cloud != "AzureChinaCloud":
                self.assertEqual(self.tables(made_with("entra-risk", cloud=cloud)), OF["entra-risk"])
        with self.assertRaisesRegex(engine.Refused, "Azure in China has no such API"):
            made_with("entra-risk", cloud="AzureChinaCloud")

    def test_what_is_given_reaches_the_program(self):
        found = settings(deployed("sources"))
        for name, value in {"ENTRA_RISK_START_DATE": "2026-11-01", "DIRECTORY_ROUND_DAYS": "3",
                            "ENTRA_CLIENT_ID": "44444444-4444-4444-8444-444444444444",
                            "ENTRA_TENANT_ID": "55555555-5555-4555-8555-555555555555"}.items():
            self.assertEqual(found[name], value)
        self.assertTrue(found["ENTRA_CLIENT_SECRET_URI"].endswith("/secrets/EntraClientSecret"))
        # Without them the program asks as the app.
        self.assertFalse({"ENTRA_CLIENT_ID", "ENTRA_TENANT_ID", "ENTRA_CLIENT_SECRET_URI"}
                         & set(settings(made_with(*OF))))

    def test_half_an_application_is_refused_and_one_that_nothing_uses(self):
        for left_out in APPLICATION:
            half = {k: v for k, v in APPLICATION.items() if k != left_out}
            for given in (half, {left_out: APPLICATION[left_out]}):
                with self.assertRaisesRegex(engine.Refused, "EntraTenantID: give all or none"):
                    made_with("directory", **given)
        with self.assertRaisesRegex(engine.Refused, "with EnableEntraRisk or EnableDirectory only"):
            deployed(**APPLICATION)
        made_with("directory", **APPLICATION)

    def test_the_events_table_is_none_of_theirs(self):
        listed = {name.lower() for name in ALL}
        self.assertEqual(set(TEMPLATE["variables"]["tablesOfSources"]), listed)
        for name in ALL:
            with self.assertRaisesRegex(engine.Refused, "the name of the table of another source"):
                deployed(MimecastCITableName=name)

    def test_the_page_has_the_rights_that_the_program_asks_for(self):
        page = (ROOT / "docs/DEPLOY-DETAILS.md").read_text()
        rights = re.findall(r'"([A-Za-z]+\.Read\.All)", "([0-9a-f-]{36})"', (
            ROOT / "src/sources/graph/probe.rs").read_text())
        self.assertEqual(len(rights), 6)
        for name, identity in rights:
            self.assertIn(name, page)
            self.assertIn(identity, page)

    def test_each_table_of_the_program_is_one_of_them(self):
        ours = {path.name.removesuffix("_CL.rule.json") for path in SCHEMAS.glob("*_CL.rule.json")}
        self.assertEqual(ours - {"MimecastConnectorHealth"}, ALL)
        text = json.dumps(nested("source-tables"))
        for name in ALL:
            self.assertIn(f'"{name}_CL"', text)
