"""What is made in the workspace: table, rule and content."""
import re
import unittest

import engine
from files import (
    TEMPLATE, nested, own_resources, resources, short_texts, strings, templates)
from sets import FILES, deployed, given
from shown import CONTENT, PACKAGE

RULES = "Microsoft.Insights/dataCollectionRules"
ALERT_RULES = "Microsoft.SecurityInsights/alertRules"
SEARCHES = "Microsoft.OperationalInsights/workspaces/savedSearches"
TABLES = "Microsoft.OperationalInsights/workspaces/tables"
WORKSPACE = f"{engine.GROUP}/providers/Microsoft.OperationalInsights/workspaces/contoso-sentinel"
HEALTH = "MimecastConnectorHealth_CL"
ELSEWHERE = "/subscriptions/00000000-0000-0000-0000-000000000002/resourceGroups/soc/"


def new_table(made, name):
    """What the table of this name is made of, where it is missing."""
    (found,) = [table["properties"] for table in made.of_type(TABLES)
                if table["name"].endswith(f"/{name}") and isinstance(table["properties"], dict)]
    return found


@engine.needed
class Placement(unittest.TestCase):
    def test_table_and_content_go_where_the_workspace_is(self):
        for name in ("workspace-elsewhere", "everything"):
            kinds = set()
            for resource in deployed(name).resources:
                if "OperationalInsights" in resource["type"] or resource["type"] in CONTENT:
                    kinds.add(resource["type"])
                    self.assertTrue(resource["id"].startswith(ELSEWHERE), resource["id"])
                else:
                    self.assertTrue(resource["id"].startswith(engine.GROUP), resource["id"])
            self.assertEqual(kinds, CONTENT | {TABLES})

    def test_rows_go_to_the_sentinel_workspace_whatever_takes_the_logs(self):
        made = deployed("incumbent")
        rule = made.one(RULES)["properties"]
        self.assertEqual(rule["destinations"]["logAnalytics"][0]["workspaceResourceId"], WORKSPACE)
        self.assertTrue(made.one("Microsoft.Insights/components")["properties"]
                        ["WorkspaceResourceId"].endswith("/workspaces/contoso-operations"))

    def test_the_rule_is_in_the_workspaces_region(self):
        for name in ("minimal", "everything"):
            self.assertRegex(deployed(name).one(RULES)["location"],
                             r"^\[reference\('/subscriptions/[^']*/contoso-sentinel', "
                             r"'[\d-]+', '[Ff]ull'\)\.location\]$")

    def test_streams_transforms_and_tables_fit_together(self):
        for name in ("minimal", "everything"):
            made = deployed(name)
            rule = made.one(RULES)["properties"]
            settings = made.one("Microsoft.Web/sites/config")["properties"]
            streams = {settings["LOGS_INGESTION_STREAM"]: made.outputs["table"],
                       settings["HEALTH_STREAM"]: HEALTH}
            self.assertEqual(streams.keys(), rule["streamDeclarations"].keys())
            self.assertEqual({flow["streams"][0]: flow["outputStream"] for flow in rule["dataFlows"]},
                             {stream: f"Custom-{table}" for stream, table in streams.items()})
            for stream, table in streams.items():
                self.assertEqual([c["name"] for c in rule["streamDeclarations"][stream]["columns"]],
                                 [c["name"] for c in new_table(made, table)["schema"]["columns"]])

    def test_what_the_rule_drops_is_recorded_in_the_workspace(self):
        (errors,) = [r for r in deployed().of_type("Microsoft.Insights/diagnosticSettings")
                     if RULES in r["id"]]
        self.assertEqual(errors["properties"], {"workspaceId": WORKSPACE, "logs": [
            {"category": "LogErrors", "enabled": True}]})


@engine.needed
class Table(unittest.TestCase):
    """What the last of the table's three steps writes, for a table as the second has read it."""

    def table(self, **properties):
        there = {"schema": {"columns": [{"name": "category", "type": "string"},
                                        {"name": "subject", "type": "string"}]}, **properties}
        made = engine.expand(nested("table-columns"), {
            "workspaceName": "contoso-sentinel", "tableName": "Cloud_Integrated_CL",
            "columns": [{"name": "TimeGenerated", "type": "dateTime"},
                        {"name": "subject", "type": "string"}], "table": there})
        return made.one(TABLES)["properties"]

    def test_a_table_that_exists_keeps_plan_retention_and_columns(self):
        table = self.table(plan="Analytics", retentionInDays=180, retentionInDaysAsDefault=False,
                           totalRetentionInDays=730, totalRetentionInDaysAsDefault=False)
        self.assertEqual((table["plan"], table["retentionInDays"], table["totalRetentionInDays"]),
                         ("Analytics", 180, 730))
        self.assertEqual([column["name"] for column in table["schema"]["columns"]],
                         ["TimeGenerated", "subject", "category"])

        table = self.table(plan="Analytics", retentionInDays=30, retentionInDaysAsDefault=True,
                           totalRetentionInDays=30, totalRetentionInDaysAsDefault=True)
        self.assertEqual((table["retentionInDays"], table["totalRetentionInDays"]), (None, None))

        for plan in ("Basic", "Auxiliary"):
            table = self.table(plan=plan, retentionInDays=30, totalRetentionInDays=365)
            self.assertNotIn("retentionInDays", table)
            self.assertEqual((table["plan"], table["totalRetentionInDays"]), (plan, 365))

    def test_a_new_table_takes_the_workspaces_plan_and_retention(self):
        for name, column in (("Cloud_Integrated_CL", "EventId"), (HEALTH, "ExtendedProperties")):
            made = new_table(deployed(), name)
            self.assertEqual(list(made), ["schema"])
            self.assertIn(column, [one["name"] for one in made["schema"]["columns"]])
            # Of the table that was read: only a deployment has it.
            (again,) = [table["properties"] for table in deployed().of_type(TABLES)
                        if table["name"].endswith(name) and isinstance(table["properties"], str)]
            self.assertRegex(again, rf"reference\('[^']*/tables/{name}'")

    def test_no_request_to_a_table_that_may_exist_leaves_out_its_retention(self):
        for resource, _ in resources():
            if resource["type"] == TABLES and "@options" not in resource:
                self.assertIn("variables('retention')", resource["properties"])

    def test_the_table_is_made_only_if_it_is_missing(self):
        (made,) = own_resources(nested("table-if-missing")).values()
        self.assertEqual(made["@options"], {"onlyIfNotExists": []})
        # By an older language it would be made anew each time.
        self.assertEqual(nested("table-if-missing")["languageVersion"], "2.0")


@engine.needed
class Content(unittest.TestCase):
    def test_another_tables_name_reaches_all_content_and_the_parser_reads_both(self):
        for name in ("another-table", "everything"):
            made = deployed(name)
            parsers = [r for r in made.of_type(SEARCHES) if r["properties"].get("functionAlias")]
            # A template of the package has such a query too.
            queries = [r["properties"]["query"] for r in parsers]
            for resource in made.resources:
                for place, text in strings(resource.get("properties", {})):
                    if text not in queries:
                        self.assertNotIn("Cloud_Integrated_CL", text, f"{resource['name']}{place}")
            (parser,) = [r for r in parsers if "Cloud_Integrated_CL" in r["properties"]["query"]]
            for table in ("Cloud_Integrated_CL", "Mimecast_Events_CL"):
                self.assertEqual(parser["properties"]["query"].count(f"({table} |"), 1, table)
        for parser in deployed().of_type(SEARCHES):
            self.assertNotIn("Mimecast_Events", parser["properties"]["query"])

    def test_the_functions_are_deployed_with_their_parameters(self):
        declared = {r["properties"]["functionAlias"]: r["properties"].get("functionParameters")
                    for r in deployed().of_type(SEARCHES) if "functionAlias" in r["properties"]}
        filters = ("starttime:datetime=datetime(null),endtime:datetime=datetime(null),type:string='*',"
                   "arrivedafter:datetime=datetime(null),threats:dynamic=dynamic([]),"
                   "senders:dynamic=dynamic([]),disabled:bool=false")
        self.assertEqual(declared, {
            "MimecastCI": filters, "MimecastCIRows": filters, "MimecastCIByRecipient": filters,
            "MimecastCloudIntegrated": None, "MimecastOwnDomains": "until:datetime=datetime(null)",
            "MimecastFreeMail": None, "MimecastVips": None, "MimecastSimulations": None,
            "IdentityUsers": None, "IdentityAddresses": None, "IdentityGroupMembers": None,
            "IdentityRisk": None, "IdentityRiskOpen": None, "IdentityRiskyUsers": None,
            "ASimEmailEventMimecastCloudIntegrated": "pack:bool=false,disabled:bool=false",
            "vimEmailEventMimecastCloudIntegrated":
                "starttime:datetime=datetime(null),endtime:datetime=datetime(null),"
                "ipaddr_has_any_prefix:dynamic=dynamic([]),emailfromaddress_has_any:dynamic=dynamic([]),"
                "emailrecipient_has_any:dynamic=dynamic([]),emailsubject_has_any:dynamic=dynamic([]),"
                "emaildirection_in:dynamic=dynamic([]),emaildeliverylocation_in:dynamic=dynamic([]),"
                "eventresult:string='*',pack:bool=false,disabled:bool=false"})

    def test_workbooks_are_the_same_with_either_table(self):
        texts = [[r["properties"]["serializedData"]
                  for r in deployed(name).of_type("Microsoft.Insights/workbooks")]
                 for name in ("minimal", "another-table")]
        self.assertTrue(texts[0])
        self.assertEqual(texts[0], texts[1])
        for text in texts[0]:
            self.assertLess(len(text), 131_072)

    def test_a_second_deployment_takes_the_place_of_saved_searches(self):
        # Without it the service answers 409; beside `properties` it refuses the template.
        for resource in deployed().of_type(SEARCHES):
            self.assertEqual(resource["properties"]["etag"], "*")

    def test_content_is_deployed_as_it_is_switched(self):
        everything = {r["type"] for r in deployed().resources}
        left = {r["type"] for r in deployed("no-content").resources}
        self.assertFalse(left & CONTENT)
        self.assertEqual(everything - left - CONTENT, {
            "Microsoft.Insights/scheduledQueryRules", "Microsoft.Insights/metricAlerts"})

    def test_each_switch_takes_away_its_own(self):
        def kinds(name):
            return sorted((r["type"], "functionAlias" in r["properties"])
                          for r in deployed(name).resources if r["type"] in CONTENT - PACKAGE)
        for name, kind, is_function in [
            ("without-parser", SEARCHES, True), ("without-hunting-queries", SEARCHES, False),
            ("without-workbooks", "Microsoft.Insights/workbooks", False),
            ("without-connector-page", "Microsoft.SecurityInsights/dataConnectorDefinitions",
             False),
            ("rules-none", ALERT_RULES, False),
        ]:
            self.assertEqual(kinds(name), [k for k in kinds("minimal") if k != (kind, is_function)])

    def rules(self, name):
        return {r["id"]: r["properties"]["enabled"] for r in deployed(name).of_type(ALERT_RULES)}

    def test_a_rule_that_is_there_is_left_as_it_is_unless_it_is_to_be_replaced(self):
        everything = self.rules("minimal")
        self.assertGreater(len(everything), 12)
        for name, on in (("minimal", False), ("rules-disabled", False), ("rules-enabled", True),
                         ("rules-replaced-disabled", False), ("rules-replaced-enabled", True)):
            self.assertEqual(self.rules(name), dict.fromkeys(everything, on), name)
        for deployment, options in (("rules-if-missing", {"onlyIfNotExists": []}),
                                    ("rules-replaced", None)):
            (rule,) = [r for r in own_resources(nested(deployment)).values()
                       if r["type"] == ALERT_RULES]
            self.assertEqual(rule.get("@options"), options)
        for expected, names in {
            "rules-if-missing": ("minimal", "rules-disabled", "rules-enabled"),
            "rules-replaced": ("rules-replaced-disabled", "rules-replaced-enabled"),
            None: ("rules-none",),
        }.items():
            for name in names:
                self.assertEqual(self.rules_deployment(name), expected, name)

    def rules_deployment(self, name):
        """Which of the two deployments makes rules with this parameter file."""
        template = {**TEMPLATE, "resources": [r for r in TEMPLATE["resources"]
                                              if "-rules-" in r["name"]]}
        outputs = {str(i): {"type": "bool", "value": r["condition"]}
                   for i, r in enumerate(template["resources"])}
        made = engine.expand({**template, "outputs": outputs}, given(name)).outputs
        (found,) = [re.search(r"-(rules-[a-z-]+)'", r["name"])[1]
                    for i, r in enumerate(template["resources"]) if made[str(i)]] or [None]
        return found


@engine.needed
class Alone(unittest.TestCase):
    """The modules that docs/DEPLOY-DETAILS.md has deployed by themselves, with their own defaults."""

    def made(self, name, **more):
        expanded = engine.expand(short_texts(nested(name)), {"workspaceName": "contoso-sentinel", **more})
        return {r["id"]: r for r in expanded.resources}

    def of_the_template(self, choice="minimal"):
        return {r["id"]: r for r in deployed(choice).resources}

    def test_the_content_alone_is_that_of_the_template(self):
        alone, whole = self.made("content"), self.of_the_template()
        self.assertGreater(len(alone), 15)
        for identity, resource in alone.items():
            self.assertEqual(resource["properties"], whole[identity]["properties"], identity)

    def test_another_tables_parser_is_that_of_the_template(self):
        name = "MimecastCIRows"
        alone = self.made("content", tableName="Mimecast_Events_CL")
        (parser,) = [r for r in alone.values() if r["type"] == SEARCHES
                     and r["properties"].get("functionAlias") == name]
        (whole,) = [r for r in deployed("another-table").of_type(SEARCHES)
                    if r["properties"].get("functionAlias") == name]
        self.assertIn("Mimecast_Events_CL", parser["properties"]["query"])
        self.assertEqual(parser["properties"], whole["properties"])

    def test_the_rules_alone_are_those_of_the_template_switched_off(self):
        for name, choice in (("rules-if-missing", "rules-disabled"),
                             ("rules-replaced", "rules-replaced-disabled")):
            alone, whole = self.made(name), self.of_the_template(choice)
            self.assertGreater(len(alone), 15)
            for identity, resource in alone.items():
                self.assertFalse(resource["properties"]["enabled"])
                self.assertEqual(resource["properties"], whole[identity]["properties"], identity)

    def test_a_workbook_has_one_name_however_its_workspace_is_spelt(self):
        books = "Microsoft.Insights/workbooks"
        names = [sorted(r["name"] for r in deployed(WorkspaceResourceId=spelling).of_type(books))
                 for spelling in (WORKSPACE, WORKSPACE.lower(), WORKSPACE.upper().replace(
                     "/SUBSCRIPTIONS/", "/subscriptions/"))]
        self.assertEqual(len(names[0]), 4)
        self.assertEqual(names[0], names[1])
        self.assertEqual(names[0], names[2])


class Network(unittest.TestCase):
    def test_a_network_that_is_there_keeps_its_subnets(self):
        found = [(r, t) for _, t in templates() for r in own_resources(t).values()
                 if r["type"] == "Microsoft.Network/virtualNetworks"]
        ((network, template),) = found
        self.assertEqual(network["@options"], {"onlyIfNotExists": []})
        self.assertEqual(template["languageVersion"], "2.0")


@engine.needed
class Tags(unittest.TestCase):
    # What takes no tags in the API versions that are used here.
    WITHOUT = re.compile(
        r"/(roleAssignments|diagnosticSettings|tables|savedSearches|alertRules|containers|"
        r"blobServices|managementPolicies|config|extensions|basicPublishingCredentialsPolicies|"
        r"privateDnsZoneGroups|dataConnectorDefinitions|contentPackages|contentTemplates|metadata)$")

    def test_each_resource_that_takes_tags_has_those_given(self):
        for name in ("tags", "everything"):
            for resource in deployed(name).resources:
                if not self.WITHOUT.search(resource["type"]):
                    self.assertEqual(resource["tags"], given(name)["Tags"], resource["id"])
        for name in FILES.keys() - {"tags", "everything"}:
            for resource in deployed(name).resources:
                self.assertEqual(resource.get("tags", {}), {}, resource["id"])
