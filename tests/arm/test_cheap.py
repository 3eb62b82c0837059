"""What CheapEvents changes: a second flow and table, the rules, the alerts, a query for hunting by hand."""
import json
import unittest

import engine
from files import ARM, ROOT, TEMPLATE, WIZARD, nested, strings
from sets import deployed, given
from test_workspace import ALERT_RULES, RULES, SEARCHES, TABLES

CHEAP = "Cloud_Integrated_Cheap_CL"
CHOICES = json.loads((ARM / "cheap.json").read_text())
TRANSFORM = json.loads((ROOT / "sentinel/schema/rule.json").read_text())["transformKql"]
COLUMNS = json.loads((ROOT / "sentinel/schema/table.json").read_text())["columns"]
DROPPED = "RowsDropped_Count"


def whole(choice, **more):
    """With the long texts as they are."""
    return engine.expand(TEMPLATE, given(CheapEvents=choice, DeployAnalyticsRules="ReplaceDisabled", **more))


@engine.needed
class Cheap(unittest.TestCase):
    def test_a_row_goes_to_the_table_that_the_condition_says(self):
        for choice in CHOICES:
            flows = {flow["outputStream"]: flow for flow in whole(choice["name"]).one(RULES)["properties"]["dataFlows"]
                     if "Health" not in flow["outputStream"]}
            self.assertEqual({flow["streams"][0] for flow in flows.values()}, {"Custom-Cloud_Integrated"})
            found = {stream.removeprefix("Custom-"): flow["transformKql"] for stream, flow in flows.items()}
            where = f"{TRANSFORM} | where iif({choice['cheap']}, 1, 0) == "
            # tests/kql runs these two.
            self.assertEqual(found, {"Cloud_Integrated_CL": f"{where}0", CHEAP: (
                f"{where}1 | extend authResults = tostring(authResults), "
                "AdditionalFields = tostring(AdditionalFields)")} if choice["cheap"] else {
                    "Cloud_Integrated_CL": TRANSFORM})
            for text in found.values():
                self.assertLess(len(text), 15_360)

    def test_the_choices_are_the_parameters(self):
        self.assertEqual([choice["name"] for choice in CHOICES], TEMPLATE["parameters"]["CheapEvents"]["allowedValues"])

    def test_its_table_has_the_plan_and_the_columns_without_dynamics(self):
        for plan in ("Basic", "Auxiliary"):
            # Where it is missing, and once more when it was read.
            made, *_ = [table["properties"] for table in deployed(
                CheapEvents="Mailflow", CheapPlan=plan).of_type(TABLES)
                        if table["name"].endswith(f"/{CHEAP}") and "totalRetentionInDays" not in table["properties"]]
            self.assertEqual(made["plan"], plan)
            expected = [(c["name"], "string" if c["type"] == "dynamic" else c["type"]) for c in COLUMNS]
            self.assertEqual([(c["name"], c["type"]) for c in made["schema"]["columns"]], expected)
        self.assertEqual([t["name"] for t in deployed().of_type(TABLES) if CHEAP in t["name"]], [])

    def test_auxiliary_is_refused_outside_the_public_cloud_unless_there_is_no_such_table(self):
        for cloud in engine.CLOUDS.keys() - {"AzureCloud"}:
            with self.assertRaisesRegex(engine.Refused, "public cloud only. Give CheapPlan=Basic"):
                deployed(cloud=cloud, CheapEvents="Mailflow", CheapPlan="Auxiliary")
            deployed(cloud=cloud, CheapPlan="Auxiliary")

    def written(self, there, wanted):
        """What is written to the table, which is there with one plan, and is wanted with another."""
        return engine.expand(nested("table-columns"), {
            "workspaceName": "contoso-sentinel", "tableName": CHEAP, "columns": COLUMNS, "plan": wanted,
            "table": {"plan": there, "retentionInDays": 30, "retentionInDaysAsDefault": True,
                      "totalRetentionInDays": 365, "totalRetentionInDaysAsDefault": False,
                      "schema": {"name": CHEAP, "columns": []}}}).one(TABLES)["properties"]

    def test_another_plan_is_refused_and_the_retention_stays(self):
        for there in ("Analytics", "Basic", "Auxiliary"):
            for wanted in ("Basic", "Auxiliary"):
                if there == wanted:
                    self.assertEqual(self.written(there, wanted)["totalRetentionInDays"], 365)
                    continue
                with self.assertRaisesRegex(engine.Refused, f"has the plan {there}, which is not changed. "
                                                            f"Give CheapPlan={there}, or delete the table"):
                    self.written(there, wanted)

    def test_its_name_is_not_that_of_the_events_table(self):
        with self.assertRaisesRegex(engine.Refused, "the name of the table that CheapEvents makes"):
            deployed(MimecastCITableName="cloud_integrated_cheap")

    def test_rules_that_need_its_rows_are_left_out_and_named(self):
        titles = {r["properties"]["displayName"] for r in whole("None").of_type(ALERT_RULES)}
        for choice in CHOICES:
            made = whole(choice["name"])
            rules = {r["properties"]["displayName"]: r["properties"]["query"] for r in made.of_type(ALERT_RULES)}
            self.assertEqual(titles - rules.keys(), set(choice["rulesLeftOut"]))
            self.assertEqual(made.outputs["rulesLeftOut"], choice["rulesLeftOut"])
            told = [query for query in rules.values() if "let elsewhere" in query]
            self.assertEqual(len(told), 2)
            for query in told:
                self.assertIn(f"let elsewhere = dynamic({json.dumps(choice['elsewhere'], separators=(',', ':'))});", query)
            for query in rules.values():
                self.assertNotIn(CHEAP, query)

    def test_the_alert_on_dropped_rows_is_not_made(self):
        for choice in CHOICES:
            metrics = {a["properties"]["criteria"]["allOf"][0]["metricName"] for a in deployed(
                CheapEvents=choice["name"]).of_type("Microsoft.Insights/metricAlerts")}
            self.assertEqual(metrics, {"TransformationErrors_Count"} | (set() if choice["cheap"] else {DROPPED}))

    def test_only_one_query_reads_it_which_is_no_function(self):
        made = whole("Mailflow", MimecastCITableName="Mimecast_Events")
        (query,) = [r["properties"] for r in made.of_type(SEARCHES) if CHEAP in r["properties"]["query"]]
        self.assertEqual(query["displayName"], "MimecastCIAll")
        self.assertNotIn("functionAlias", query)
        self.assertIn("\n    Mimecast_Events_CL\n", query["query"])
        for more in ({"CheapEvents": "None"}, {"CheapEvents": "Mailflow", "DeployParser": False}):
            self.assertFalse([r for r in deployed(**more).of_type(SEARCHES) if r["name"].endswith("MimecastCIAll")])


class Wizard(unittest.TestCase):
    def test_it_names_each_rule_that_is_left_out(self):
        text = " ".join(text for _, text in strings(WIZARD))
        for choice in CHOICES:
            for rule in choice["rulesLeftOut"]:
                self.assertIn(rule.removeprefix("Mimecast CI - "), text)
