"""What would be deployed, for parameter files and clouds; and that a wrong template is caught."""
import copy
import json
import os
import re
import unittest

import arm
from files import PARAMETER_FILES, ROOT, TEMPLATE, TESTS, resources, strings

SECRETS = ("an invented secret of Mimecast", "an invented secret of the app registration")
# Whose texts are tested where they come from.
CONTENT = {
    "Microsoft.OperationalInsights/workspaces/savedSearches",
    "Microsoft.SecurityInsights/alertRules",
    "Microsoft.SecurityInsights/dataConnectorDefinitions",
    "Microsoft.Insights/workbooks",
}
TABLES = "Microsoft.OperationalInsights/workspaces/tables"
ROLES = {
    "3913510d-42f4-4e42-8a64-420c390055eb": "Monitoring Metrics Publisher",
    "b7e6dc6d-f1e8-4753-8033-0f276bb0955b": "Storage Blob Data Owner",
    "0a9a7e1f-b9d0-4cc4-a60d-0319b160aaa3": "Storage Table Data Contributor",
    "4633458b-17de-408a-b874-0445c86b69e6": "Key Vault Secrets User",
}
OF_THE_HOST = re.compile(
    r"^(AzureWebJobsStorage__\w+|APPLICATIONINSIGHTS_\w+|FUNCTIONS_EXTENSION_VERSION|"
    r"FUNCTIONS_WORKER_RUNTIME|WEBSITE_RUN_FROM_PACKAGE)$")
PACKAGE = "https://packages.contoso.example/mimecast-sentinel.zip"
SUBSCRIPTION = "00000000-0000-0000-0000-000000000001"
WORKSPACE = (f"/subscriptions/{SUBSCRIPTION}/resourceGroups/app/providers/"
             "Microsoft.OperationalInsights/workspaces/contoso-sentinel")


def given(name, **more):
    return {**arm.parameter_values(TESTS / f"parameters/{name}.json"), **more}


def deployed(name="minimal", cloud="AzureCloud", there=None, **more):
    return arm.Deployment(TEMPLATE, given(name, **more), cloud, there)


def one(deployment, kind):
    (resource,) = deployment.of_type(kind)
    return resource


def settings(deployment):
    return one(deployment, "Microsoft.Web/sites/config")["properties"]


def roles(deployment):
    """Each role with the kind of resource it is on and who has it."""
    found = []
    for assignment in deployment.of_type("Microsoft.Authorization/roleAssignments"):
        properties = assignment["properties"]
        who = properties["principalId"]
        found.append((
            ROLES[properties["roleDefinitionId"].rsplit("/", 1)[1]],
            assignment["scope"].split("/providers/")[1].rsplit("/", 1)[0],
            "app" if isinstance(who, arm.Deployed) else who,
        ))
    return sorted(found)


def shown(deployment):
    """The resources as a snapshot has them: without the texts of the content."""
    for resource in deployment.resources:
        resource = {k: v for k, v in resource.items() if k not in ("condition", "dependsOn")}
        if resource["type"] in CONTENT:
            resource = {k: resource[k] for k in ("type", "apiVersion", "name", "id")}
        columns = resource.get("properties", {}).get("schema", {}).get("columns")
        if columns:
            resource["properties"]["schema"]["columns"] = [
                f"{column['name']}: {column['type']}" for column in columns]
        if resource["type"] == "Microsoft.Resources/deployments":
            for name in ("columns", "table"):
                resource["properties"]["parameters"].pop(name, None)
        for stream in resource.get("properties", {}).get("streamDeclarations", {}).values():
            stream["columns"] = [f"{c['name']}: {c['type']}" for c in stream["columns"]]
        yield resource


class Snapshots(unittest.TestCase):
    def test_the_resources_of_each_parameter_file_are_those_committed(self):
        for path in PARAMETER_FILES:
            with self.subTest(path.stem):
                made = json.dumps(list(shown(arm.Deployment(TEMPLATE, arm.parameter_values(path)))),
                                  indent=2, ensure_ascii=False, default=str) + "\n"
                snapshot = TESTS / "snapshots" / path.name
                if os.environ.get("UPDATE_SNAPSHOTS"):
                    snapshot.write_text(made)
                self.assertEqual(snapshot.read_text().splitlines(), made.splitlines(),
                                 "if this was meant: tests/arm/run --update")


class Identity(unittest.TestCase):
    def test_the_app_gets_these_roles_on_its_own_resources_and_no_other(self):
        expected = [
            ("Key Vault Secrets User", "Microsoft.KeyVault/vaults", "app"),
            ("Monitoring Metrics Publisher", "Microsoft.Insights/components", "app"),
            ("Monitoring Metrics Publisher", "Microsoft.Insights/dataCollectionRules", "app"),
            ("Storage Blob Data Owner", "Microsoft.Storage/storageAccounts", "app"),
            ("Storage Table Data Contributor", "Microsoft.Storage/storageAccounts", "app"),
        ]
        self.assertEqual(roles(deployed()), expected)
        self.assertFalse([name for name in settings(deployed()) if "CLIENT_ID" in name
                          and name != "MIMECAST_CLIENT_ID"])

    def test_an_app_registration_gets_the_rule_alone_and_the_app_the_rest(self):
        found = roles(deployed("incumbent"))
        self.assertEqual([(role, scope) for role, scope, who in found if who != "app"],
                         [("Monitoring Metrics Publisher", "Microsoft.Insights/dataCollectionRules")])
        self.assertEqual(len(found), 5)
        found = settings(deployed("incumbent"))
        self.assertEqual(found["AZURE_CLIENT_ID"], "11111111-1111-4111-8111-111111111111")
        self.assertIn("/secrets/AzureClientSecret/)", found["AZURE_CLIENT_SECRET"])

    def test_without_its_object_id_the_role_on_the_rule_is_left_to_a_person(self):
        found = roles(deployed("incumbent", AzureEntraObjectID=""))
        self.assertEqual(len(found), 4)
        self.assertTrue(all(who == "app" for _, _, who in found))

    def test_half_an_app_registration_is_refused(self):
        whole = {"AzureClientID": "an id", "AzureClientSecret": "a secret", "AzureTenantID": "a tenant"}
        for left_out in whole:
            given_half = {k: v for k, v in whole.items() if k != left_out}
            for half in (given_half, {left_out: whole[left_out]}):
                with self.subTest(half), self.assertRaisesRegex(arm.Fault, "give all or none"):
                    deployed(**half)
        with self.assertRaisesRegex(arm.Fault, "give all or none"):
            deployed(AzureEntraObjectID="an object id")
        deployed(**whole)

    def test_through_lighthouse_roles_name_the_identitys_resource(self):
        for through in (False, True):
            made = deployed(DeployedThroughLighthouse=through)
            app = one(made, "Microsoft.Web/sites")["id"]
            for assignment in made.of_type("Microsoft.Authorization/roleAssignments"):
                self.assertEqual(assignment["properties"]["delegatedManagedIdentityResourceId"],
                                 app if through else None)

    def test_secrets_go_to_the_key_vault_and_nowhere_else(self):
        for path in PARAMETER_FILES:
            made = deployed(path.stem)
            for resource in made.resources:
                if resource["type"] == "Microsoft.KeyVault/vaults/secrets":
                    self.assertIn(resource["properties"]["value"], SECRETS)
                    continue
                for place, text in strings(resource):
                    self.assertNotIn(text, SECRETS, place)
            self.assertEqual(len(made.of_type("Microsoft.KeyVault/vaults/secrets")),
                             2 if path.stem == "incumbent" else 1)

    def test_nothing_takes_a_key_and_no_blob_is_public(self):
        account = one(deployed(), "Microsoft.Storage/storageAccounts")["properties"]
        self.assertFalse(account["allowSharedKeyAccess"] or account["allowBlobPublicAccess"])
        self.assertTrue(one(deployed(), "Microsoft.Insights/components")["properties"]
                        ["DisableLocalAuth"])
        policies = deployed().of_type("Microsoft.Web/sites/basicPublishingCredentialsPolicies")
        self.assertEqual([p["properties"]["allow"] for p in policies], [False, False])


class Workspace(unittest.TestCase):
    def test_table_and_content_go_where_the_workspace_is(self):
        for resource in deployed("private-networking").resources:
            if "OperationalInsights" in resource["type"] or resource["type"] in CONTENT:
                self.assertTrue(resource["id"].startswith(
                    "/subscriptions/00000000-0000-0000-0000-000000000002/resourceGroups/soc/"),
                    resource["id"])

    def test_rows_go_to_the_sentinel_workspace_whatever_takes_the_logs(self):
        made = deployed("incumbent")
        rule = one(made, "Microsoft.Insights/dataCollectionRules")["properties"]
        self.assertEqual(rule["destinations"]["logAnalytics"][0]["workspaceResourceId"], WORKSPACE)
        self.assertTrue(one(made, "Microsoft.Insights/components")["properties"]
                        ["WorkspaceResourceId"].endswith("/workspaces/contoso-operations"))

    def test_the_rule_is_in_the_workspaces_region(self):
        rule = one(deployed("private-networking"), "Microsoft.Insights/dataCollectionRules")
        self.assertRegex(str(rule["location"]), r"^<resource of /subscriptions/.*-sentinel\.location>$")

    def test_without_a_workspace_nothing_is_deployed(self):
        with self.assertRaises(arm.Fault):
            deployed(WorkspaceName="")

    def test_stream_transform_and_table_fit_together(self):
        made = deployed("private-networking")
        rule = one(made, "Microsoft.Insights/dataCollectionRules")["properties"]
        table = made.of_type(TABLES)[-1]["properties"]["schema"]
        (flow,) = rule["dataFlows"]
        (stream,) = rule["streamDeclarations"]
        self.assertEqual([stream], flow["streams"])
        self.assertEqual(stream, settings(made)["LOGS_INGESTION_STREAM"])
        self.assertEqual(flow["outputStream"], f"Custom-{table['name']}")
        self.assertEqual([c["name"] for c in rule["streamDeclarations"][stream]["columns"]],
                         [c["name"] for c in table["columns"]])

    def test_another_tables_name_reaches_all_content_and_the_parser_reads_both(self):
        made = deployed("private-networking")
        parsers = [r for r in made.of_type("Microsoft.OperationalInsights/workspaces/savedSearches")
                   if r["properties"].get("functionAlias")]
        for resource in made.resources:
            if resource not in parsers:
                for place, text in strings(resource.get("properties", {})):
                    self.assertNotIn("Cloud_Integrated_CL", text, f"{resource['name']}{place}")
        for parser in parsers:
            query = parser["properties"]["query"]
            for table in ("Cloud_Integrated_CL", "Mimecast_Events_CL"):
                self.assertEqual(query.count(f"({table} |"), 1, table)
        for parser in deployed().of_type("Microsoft.OperationalInsights/workspaces/savedSearches"):
            self.assertNotIn("Mimecast_Events", parser["properties"]["query"])

    def test_the_workbook_is_whole_with_either_table(self):
        texts = []
        for name in ("minimal", "private-networking"):
            workbooks = deployed(name).of_type("Microsoft.Insights/workbooks")
            if not workbooks:
                self.skipTest("there is no workbook")
            (workbook,) = workbooks
            texts.append(workbook["properties"]["serializedData"])
            json.loads(texts[-1])
        self.assertEqual(texts[0].replace("Cloud_Integrated_CL", "Mimecast_Events_CL"), texts[1])

    def table(self, **properties):
        there = {f"{WORKSPACE}/tables/Cloud_Integrated_CL": {
            "schema": {"columns": [{"name": "category", "type": "string"},
                                   {"name": "subject", "type": "string"}]}, **properties}}
        # The parameter file of the vendor's template, as it is.
        return one(deployed("incumbent", there=there), TABLES)["properties"]

    def test_a_table_that_exists_keeps_plan_retention_and_columns(self):
        table = self.table(plan="Analytics", retentionInDays=180, retentionInDaysAsDefault=False,
                           totalRetentionInDays=730, totalRetentionInDaysAsDefault=False)
        self.assertEqual((table["plan"], table["retentionInDays"], table["totalRetentionInDays"]),
                         ("Analytics", 180, 730))
        names = [column["name"] for column in table["schema"]["columns"]]
        self.assertEqual((names.count("subject"), names.count("category")), (1, 1))
        self.assertLessEqual({column["name"] for column in TEMPLATE["variables"]["tableColumns"]},
                             set(names))

        table = self.table(plan="Analytics", retentionInDays=30, retentionInDaysAsDefault=True,
                           totalRetentionInDays=30, totalRetentionInDaysAsDefault=True)
        self.assertEqual((table["retentionInDays"], table["totalRetentionInDays"]), (None, None))

        table = self.table(plan="Basic", retentionInDays=30, totalRetentionInDays=365)
        self.assertNotIn("retentionInDays", table)
        self.assertEqual((table["plan"], table["totalRetentionInDays"]), ("Basic", 365))

    def test_a_new_table_takes_the_workspaces_plan_and_retention(self):
        made, again = (table["properties"] for table in deployed().of_type(TABLES))
        self.assertEqual(list(made), ["schema"])
        self.assertEqual(made["schema"], again["schema"])
        self.assertEqual((again["plan"], again["retentionInDays"], again["totalRetentionInDays"]),
                         ("Analytics", None, None))

    def test_the_table_is_made_then_read_then_written(self):
        steps = {r["name"].partition("-table")[2]: r.get("dependsOn", [])
                 for r in deployed().of_type("Microsoft.Resources/deployments")
                 if "-table" in r["name"]}
        self.assertEqual(list(steps), ["-if-missing", "-as-it-is", ""])
        self.assertTrue(steps["-as-it-is"][0].endswith("-table-if-missing"))
        self.assertTrue(steps[""][0].endswith("-table-as-it-is"))

    def test_no_request_to_a_table_that_may_exist_leaves_out_its_retention(self):
        for resource, _ in resources(TEMPLATE):
            if resource["type"] == TABLES and "@options" not in resource:
                self.assertIn("variables('retention')", resource["properties"])

    def test_content_is_deployed_as_it_is_switched(self):
        everything = {r["type"] for r in deployed().resources}
        made = deployed(DeployParser=False, DeployAnalyticsRules="None", DeployHuntingQueries=False,
                        DeployWorkbook=False, DeployConnectorPage=False, DeployAlerts=False)
        left = {r["type"] for r in made.resources}
        self.assertFalse(left & CONTENT)
        self.assertEqual(everything - left - CONTENT, {
            "Microsoft.Insights/scheduledQueryRules", "Microsoft.Insights/metricAlerts"})

    def test_a_rule_that_is_there_is_left_as_it_is_unless_it_is_to_be_replaced(self):
        def rules(choice, there=None):
            made = deployed(DeployAnalyticsRules=choice, there=there)
            return {r["id"]: r["properties"]["enabled"]
                    for r in made.of_type("Microsoft.SecurityInsights/alertRules")}
        default = TEMPLATE["parameters"]["DeployAnalyticsRules"]["defaultValue"]
        everything = rules(default)
        self.assertGreater(len(everything), 12)
        self.assertEqual(set(everything.values()), {False})
        one_there = {next(iter(everything)): {"enabled": True}}
        for choice, on in (("Enabled", True), ("Disabled", False)):
            self.assertEqual(rules(choice), dict.fromkeys(everything, on))
            self.assertEqual(rules(choice, one_there),
                             dict.fromkeys(everything.keys() - one_there, on))
        for choice, on in (("ReplaceEnabled", True), ("ReplaceDisabled", False)):
            self.assertEqual(rules(choice, one_there), dict.fromkeys(everything, on))
        self.assertEqual(rules("None"), {})

    def test_the_rules_wait_for_the_parser_that_they_read(self):
        for resource in TEMPLATE["resources"]:
            if "-rules" in resource["name"]:
                self.assertIn("{0}-content", resource["dependsOn"][0])


class App(unittest.TestCase):
    def test_each_setting_is_one_that_the_connector_or_the_host_reads(self):
        source = "".join(path.read_text() for path in (ROOT / "src/settings").glob("*.rs"))
        known = set(re.findall(r'"([A-Z][A-Z0-9_]+)"', source))
        for path in PARAMETER_FILES:
            for name, value in settings(deployed(path.stem)).items():
                self.assertTrue(name in known or OF_THE_HOST.match(name), name)
                self.assertIsNotNone(value, name)

    def test_the_functions_schedule_is_a_setting(self):
        (name,) = re.findall(r"%(\w+)%", (ROOT / "function.json").read_text())
        self.assertIn(name, settings(deployed()))

    def test_flex_consumption_gets_no_setting_that_it_refuses(self):
        refused = {"FUNCTIONS_EXTENSION_VERSION", "FUNCTIONS_WORKER_RUNTIME",
                   "WEBSITE_RUN_FROM_PACKAGE", "WEBSITE_TIME_ZONE", "WEBSITE_CONTENTSHARE"}
        self.assertFalse(refused & set(settings(deployed())))

    def test_the_package_is_deployed_after_roles_and_settings(self):
        def before(template, name):
            (resource,) = [r for r in template["resources"] if r["type"] == name]
            return resource["dependsOn"]
        self.assertIn("appRoles", before(TEMPLATE, "Microsoft.Web/sites/config"))
        self.assertIn("appsettings", before(TEMPLATE, "Microsoft.Web/sites/extensions")[0])

    def test_without_a_package_everything_but_the_program_is_deployed(self):
        self.assertEqual(TEMPLATE["parameters"]["PackageUri"]["defaultValue"], "")
        kinds = {r["type"] for r in deployed(PackageUri="").resources}
        self.assertLessEqual(CONTENT | {TABLES, "Microsoft.Insights/dataCollectionRules"}, kinds)
        for cloud in arm.CLOUDS:
            for plan in ("FlexConsumption", "ElasticPremium"):
                whole, without = (deployed(PackageUri=uri, HostingPlan=plan, cloud=cloud)
                                  for uri in (PACKAGE, ""))
                program = [r for r in whole.resources if PACKAGE in json.dumps(r, default=str)]
                rest = {r["id"]: r for r in without.resources}
                self.assertNotIn(PACKAGE, json.dumps(list(rest.values()), default=str))
                (program,) = program
                if plan == "FlexConsumption":
                    self.assertTrue(program["id"].endswith("/extensions/onedeploy"))
                    self.assertEqual({r["id"] for r in whole.resources} - set(rest), {program["id"]})
                else:
                    self.assertEqual({r["id"] for r in whole.resources}, set(rest))
                    self.assertEqual(settings(whole)["WEBSITE_RUN_FROM_PACKAGE"], PACKAGE)
                    # "1": the program is one that is pushed to the app.
                    self.assertEqual(settings(without)["WEBSITE_RUN_FROM_PACKAGE"], "1")

    def test_quarantine_is_deleted_after_its_time_and_nothing_else(self):
        policy = one(deployed(QuarantineRetentionDays=30),
                     "Microsoft.Storage/storageAccounts/managementPolicies")
        (rule,) = policy["properties"]["policy"]["rules"]
        self.assertEqual(rule["definition"]["filters"]["prefixMatch"], ["checkpoints/quarantine/"])
        self.assertEqual(rule["definition"]["actions"]["baseBlob"]["delete"],
                         {"daysAfterModificationGreaterThan": 30})
        self.assertTrue(settings(deployed())["CHECKPOINT_URL"].endswith(".net/checkpoints"))

    def test_private_networking_closes_the_storage_and_nothing_else(self):
        made = deployed("private-networking")
        account = one(made, "Microsoft.Storage/storageAccounts")["properties"]
        self.assertEqual((account["publicNetworkAccess"], account["networkAcls"]["defaultAction"]),
                         ("Disabled", "Deny"))
        self.assertEqual({r["properties"]["privateLinkServiceConnections"][0]["properties"]
                          ["groupIds"][0] for r in made.of_type("Microsoft.Network/privateEndpoints")},
                         {"blob", "table"})
        subnet = one(made, "Microsoft.Web/sites")["properties"]["virtualNetworkSubnetId"]
        self.assertTrue(subnet.endswith("/subnets/functions"))
        self.assertEqual(one(made, "Microsoft.KeyVault/vaults")["properties"]
                         ["publicNetworkAccess"], "Enabled")
        self.assertFalse([r for r in deployed().resources if "Network" in r["type"]])

    def test_the_alert_on_quarantine_reads_the_connectors_own_line(self):
        (alert,) = [r["properties"] for r in deployed().of_type(
            "Microsoft.Insights/scheduledQueryRules") if r["name"].endswith("-quarantine")]
        (criterion,) = alert["criteria"]["allOf"]
        source = (ROOT / "src/pipeline/stream.rs").read_text()
        (text,) = re.findall(r"message has '([^']+)'", criterion["query"])
        (field,) = re.findall(r"line\.(\w+)", criterion["query"])
        self.assertIn(f'"{text}"', source)
        self.assertIn(f"{field} = ", source)
        self.assertEqual(alert["scopes"], [one(deployed(), "Microsoft.Insights/components")["id"]])

    def test_the_alert_on_silence_counts_runs_that_did_their_work(self):
        try:
            import duckdb_kql
        except ImportError:
            self.skipTest("duckdb-kql is not here")
        (alert,) = [r["properties"] for r in deployed().of_type(
            "Microsoft.Insights/scheduledQueryRules") if r["name"].endswith("-silent")]
        (criterion,) = alert["criteria"]["allOf"]
        self.assertEqual(alert["scopes"], [one(deployed(), "Microsoft.Insights/components")["id"]])
        self.assertEqual((criterion["operator"], criterion["threshold"]), ("GreaterThan", 0))

        def finished(outcome):
            summary = {"run_id": "1", "outcome": outcome, "streams": [{"outcome": "caught_up"}]}
            return json.dumps({"timestamp": "2026-11-29T02:06:09Z", "level": "INFO",
                               "message": "run finished", "summary": json.dumps(summary)})

        # What a call that starts nothing leaves, and what others say.
        nothing = [
            "no run was started: the one that began 30 s ago is still in progress",
            json.dumps({"level": "INFO", "message": "run started", "due": "caught_up"}),
            json.dumps({"level": "INFO", "message": "caught_up", "why": "a run finished"}),
            *(finished(outcome) for outcome in ("busy", "failed", "partial")),
        ]

        def is_raised(messages):
            database = duckdb_kql.connect()
            database.execute("CREATE TABLE traces (message VARCHAR)")
            database.executemany("INSERT INTO traces VALUES (?)", [[m] for m in messages])
            schema = duckdb_kql.engine.schema(database)
            sql = duckdb_kql.to_sql(criterion["query"], schema=schema)
            return bool(database.execute(str(sql), sql.parameters or None).fetchall())

        self.assertTrue(is_raised(nothing))
        for outcome in ("caught_up", "time_limit"):
            self.assertFalse(is_raised([*nothing, finished(outcome)]), outcome)
        source = (ROOT / "src/cli/serve.rs").read_text()
        self.assertIn('summary = json, "run finished"', source)

    def test_an_alert_goes_to_whoever_is_named(self):
        for email in ("", "soc@contoso.example"):
            made = deployed(AlertEmail=email)
            groups = [r["id"] for r in made.of_type("Microsoft.Insights/actionGroups")]
            self.assertEqual(len(groups), 1 if email else 0)
            for alert in made.of_type("Microsoft.Insights/scheduledQueryRules"):
                self.assertEqual(alert["properties"]["actions"]["actionGroups"], groups)
            for alert in made.of_type("Microsoft.Insights/metricAlerts"):
                self.assertEqual([a["actionGroupId"] for a in alert["properties"]["actions"]], groups)


class Clouds(unittest.TestCase):
    def test_other_clouds_have_their_own_addresses_and_premium(self):
        for cloud, name, suffix in (("AzureUSGovernment", "usgov", "usgovcloudapi.net"),
                                    ("AzureChinaCloud", "china", "chinacloudapi.cn")):
            made = deployed(cloud=cloud)
            found = settings(made)
            self.assertEqual(found["AZURE_CLOUD"], name)
            self.assertEqual(found["FUNCTIONS_WORKER_RUNTIME"], "custom")
            self.assertIn(suffix, found["CHECKPOINT_URL"])
            self.assertEqual(one(made, "Microsoft.Web/serverfarms")["sku"]["name"], "EP1")
            self.assertIsNone(one(made, "Microsoft.Web/sites")["properties"]["functionAppConfig"])
            self.assertFalse(made.of_type("Microsoft.Web/sites/extensions"))
            for resource in made.resources:
                if resource["type"] not in CONTENT:
                    for place, text in strings(resource):
                        self.assertNotRegex(text, r"windows\.net|azure\.net|azure\.com", place)

    def test_the_plan_can_be_chosen(self):
        for plan, sku in (("FlexConsumption", "FC1"), ("ElasticPremium", "EP1")):
            for cloud in arm.CLOUDS:
                made = deployed(HostingPlan=plan, cloud=cloud)
                self.assertEqual(one(made, "Microsoft.Web/serverfarms")["sku"]["name"], sku)


class Evaluator(unittest.TestCase):
    """A template that would not deploy is caught."""

    def broken(self, old, new):
        text = json.dumps(TEMPLATE)
        self.assertIn(old, text)
        with self.assertRaises(arm.Fault):
            arm.Deployment(json.loads(text.replace(old, new)), given("private-networking"))

    def test_a_parameter_or_variable_or_function_that_is_not_there(self):
        self.broken("parameters('Location')", "parameters('Region')")
        self.broken("variables('planId')", "variables('plan')")
        self.broken("[uniqueString(", "[uniqueText(")

    def test_a_resource_that_is_waited_for_in_vain(self):
        self.broken('"[variables(\'planId\')]", "[resourceId(', '"[variables(\'subnet\')]", "[resourceId(')
        template = copy.deepcopy(TEMPLATE)
        template["resources"] = [r for r in template["resources"]
                                 if r["type"] != "Microsoft.Web/serverfarms"]
        with self.assertRaises(arm.Fault):
            arm.Deployment(template, given("minimal"))

    def test_a_reference_to_what_is_not_there_or_not_waited_for(self):
        self.broken("reference(variables('insightsId')", "reference(variables('endpointsSubnetId')")
        template = copy.deepcopy(TEMPLATE)
        (config,) = [r for r in template["resources"]
                     if r["type"] == "Microsoft.Web/sites/config"]
        config["dependsOn"].remove("[variables('insightsId')]")
        with self.assertRaises(arm.Fault):
            arm.Deployment(template, given("minimal"))

    def test_a_table_that_is_made_only_if_missing_by_a_language_that_cannot_say_so(self):
        self.broken('"languageVersion": "2.0", ', "")

    def test_parameters_that_are_not_the_templates_or_out_of_its_limits(self):
        for more in ({"WorkspaceID": "x"}, {"LogLevel": "Loud"}, {"FunctionName": "a" * 12},
                     {"MimecastClientID": ""}, {"QuarantineRetentionDays": 1},
                     {"EnablePrivateNetworking": "true"}):
            with self.subTest(more), self.assertRaises(arm.Fault):
                deployed(**more)
