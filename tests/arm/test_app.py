"""The function app, its storage and network, and the alerts on it."""
import functools
import json
import re
import unittest

import engine
from files import ROOT, TEMPLATE, strings
from sets import FILES, clouds, deployed, given
from shown import CONTENT

OF_THE_HOST = re.compile(
    r"^(AzureWebJobsStorage__\w+|AzureWebJobs\.(Status|EntraRisk|Directory)\.Disabled|APPLICATIONINSIGHTS_\w+|FUNCTIONS_EXTENSION_VERSION|"
    r"FUNCTIONS_WORKER_RUNTIME|WEBSITE_RUN_FROM_PACKAGE)$")
PACKAGE = "https://packages.contoso.example/mimecast-sentinel.zip"
LOG_ALERTS = "Microsoft.Insights/scheduledQueryRules"
METRIC_ALERTS = "Microsoft.Insights/metricAlerts"


def sources(room=""):
    """The connector's source text, of all files: which of them has a line may change."""
    return "".join(path.read_text() for path in sorted((ROOT / "src" / room).rglob("*.rs")))


def sources_of(file):
    return (ROOT / "src" / file).read_text()


def settings(made):
    return made.one("Microsoft.Web/sites/config")["properties"]


@engine.needed
class App(unittest.TestCase):
    def test_each_setting_is_one_that_the_connector_or_the_host_reads(self):
        source = sources("settings") + sources_of("version.rs")
        known = set(re.findall(r'"([A-Z][A-Z0-9_]+)"', source))
        for file in FILES:
            for name, value in settings(deployed(file)).items():
                self.assertTrue(name in known or OF_THE_HOST.match(name), name)
                self.assertIsInstance(value, str, name)

    def test_each_functions_schedule_is_a_setting_also_of_a_source_that_is_off(self):
        for folder, schedule, changed in ((".", "0 */15 * * * *", "0 */15 * * * *"),
                                          ("functions/EntraRisk", "0 */15 * * * *", "0 5/30 * * * *"),
                                          ("functions/Directory", "0 0 * * * *", "0 30 */2 * * *")):
            (name,) = re.findall(r"%(\w+)%", (ROOT / folder / "function.json").read_text())
            self.assertEqual(settings(deployed())[name], schedule)
            self.assertEqual(settings(deployed("sources"))[name], changed)

    def test_parameters_reach_their_settings(self):
        found = settings(deployed("incumbent"))
        for name, value in {"START_DATE": "2026-11-01", "SCHEDULE": "0 0 */1 * * *",
                            "LOG_LEVEL": "Info", "MIMECAST_CLIENT_ID": "invented-client-id",
                            "MIMECAST_BASE_URL": "https://api.services.mimecast.com"}.items():
            self.assertEqual(found[name], value)
        # Where rows go is known when the rule is made.
        for name, output in (("LOGS_INGESTION_ENDPOINT", r"endpoints\.logsIngestion"),
                             ("LOGS_INGESTION_RULE_ID", "immutableId")):
            self.assertRegex(found[name],
                             rf"^\[reference\('[^']*/dataCollectionRules/.*{output}\]$")

    def test_the_status_page_is_switched_off_by_the_hosts_own_setting(self):
        for name, value in (("minimal", None), ("without-status-page", "true")):
            for cloud in engine.CLOUDS:
                found = settings(deployed(name, cloud))
                self.assertEqual(found.get("AzureWebJobs.Status.Disabled"), value)

    def test_flex_consumption_gets_no_setting_that_it_refuses(self):
        refused = {"FUNCTIONS_EXTENSION_VERSION", "FUNCTIONS_WORKER_RUNTIME",
                   "WEBSITE_RUN_FROM_PACKAGE", "WEBSITE_TIME_ZONE", "WEBSITE_CONTENTSHARE"}
        for name in FILES:
            made = deployed(name)
            if made.one("Microsoft.Web/serverfarms")["sku"]["name"] == "FC1":
                self.assertFalse(refused & set(settings(made)), name)

    def test_without_a_package_everything_but_the_program_is_deployed(self):
        self.assertEqual(TEMPLATE["parameters"]["PackageUri"]["defaultValue"], "")
        for cloud in engine.CLOUDS:
            for whole, without in (("package", "minimal"),
                                   ("elastic-premium-package", "elastic-premium")):
                self.only_the_program_is_missing(deployed(whole, cloud), deployed(without, cloud))

    def only_the_program_is_missing(self, whole, without):
        program = [r for r in whole.resources if PACKAGE in json.dumps(r)]
        rest = {r["id"] for r in without.resources}
        self.assertNotIn(PACKAGE, json.dumps(without.resources))
        (program,) = program
        if whole.one("Microsoft.Web/serverfarms")["sku"]["name"] == "FC1":
            self.assertTrue(program["id"].endswith("/extensions/onedeploy"))
            self.assertEqual({r["id"] for r in whole.resources} - rest, {program["id"]})
        else:
            self.assertEqual({r["id"] for r in whole.resources}, rest)
            self.assertEqual(settings(whole)["WEBSITE_RUN_FROM_PACKAGE"], PACKAGE)
            # "1": the program is one that is pushed to the app.
            self.assertEqual(settings(without)["WEBSITE_RUN_FROM_PACKAGE"], "1")

    def test_quarantine_is_deleted_after_its_time_and_nothing_else(self):
        made = deployed("quarantine-retention")
        policy = made.one("Microsoft.Storage/storageAccounts/managementPolicies")
        (rule,) = policy["properties"]["policy"]["rules"]
        self.assertEqual(rule["definition"]["filters"]["prefixMatch"], ["checkpoints/quarantine/"])
        self.assertEqual(rule["definition"]["actions"], {
            "baseBlob": {"delete": {"daysAfterModificationGreaterThan": 30}}})
        self.assertTrue(settings(made)["CHECKPOINT_URL"].endswith(".net/checkpoints"))
        self.assertEqual(made.outputs["checkpointUrl"], settings(made)["CHECKPOINT_URL"])

    def test_private_networking_closes_storage_and_vault(self):
        for plan in ("flex-consumption", "elastic-premium"):
            made = deployed(f"{plan}-private")
            account = made.one("Microsoft.Storage/storageAccounts")
            vault = made.one("Microsoft.KeyVault/vaults")
            for closed in (account["properties"], vault["properties"]):
                self.assertEqual(
                    (closed["publicNetworkAccess"], closed["networkAcls"]["defaultAction"]),
                    ("Disabled", "Deny"))
            leads = [r["properties"]["privateLinkServiceConnections"][0]["properties"]
                     for r in made.of_type("Microsoft.Network/privateEndpoints")]
            self.assertCountEqual(
                [(one["groupIds"], one["privateLinkServiceId"]) for one in leads],
                [(["blob"], account["id"]), (["table"], account["id"]), (["vault"], vault["id"])])
            self.all_traffic_goes_through_the_network(plan, made)
        self.assertFalse([r for r in deployed().resources if "Network" in r["type"]])

    def all_traffic_goes_through_the_network(self, plan, made):
        site = made.one("Microsoft.Web/sites")["properties"]
        network = made.one("Microsoft.Network/virtualNetworks")
        self.assertEqual(site["virtualNetworkSubnetId"], f"{network['id']}/subnets/functions")
        # Flex Consumption does by itself.
        self.assertEqual(site["outboundVnetRouting"],
                         {"allTraffic": True} if plan == "elastic-premium" else None)
        (subnet,) = [s["properties"] for s in network["properties"]["subnets"]
                     if s["name"] == "functions"]
        (delegation,) = subnet["delegations"]
        self.assertEqual(delegation["properties"]["serviceName"], {
            "flex-consumption": "Microsoft.App/environments",
            "elastic-premium": "Microsoft.Web/serverFarms"}[plan])
        zones = [zone["name"] for zone in made.of_type("Microsoft.Network/privateDnsZones")]
        self.assertCountEqual(zones, [
            "privatelink.blob.core.windows.net", "privatelink.table.core.windows.net",
            "privatelink.vaultcore.azure.net"])

    def test_each_cloud_looks_up_its_vault_in_its_own_zone(self):
        for cloud, zone in (("AzureUSGovernment", "privatelink.vaultcore.usgovcloudapi.net"),
                            ("AzureChinaCloud", "privatelink.vaultcore.azure.cn")):
            made = deployed("elastic-premium-private", cloud)
            self.assertIn(zone, [r["name"] for r in made.of_type("Microsoft.Network/privateDnsZones")])


@functools.cache
def with_long_texts():
    return engine.expand(TEMPLATE, given())


@engine.needed
class Alerts(unittest.TestCase):
    def alert(self, name):
        made = with_long_texts()
        (alert,) = [r["properties"] for r in made.of_type(LOG_ALERTS) if r["name"].endswith(name)]
        self.assertEqual(alert["scopes"], [made.one("Microsoft.Insights/components")["id"]])
        # Its tables are not there when the alert is made.
        self.assertIs(alert["skipQueryValidation"], True)
        (criterion,) = alert["criteria"]["allOf"]
        return alert, criterion

    def is_raised(self, criterion, messages):
        """Whether this query finds something in a log of these messages."""
        try:
            import duckdb_kql
        except ImportError:
            self.skipTest("duckdb-kql is not here")
        database = duckdb_kql.connect()
        database.execute("CREATE TABLE traces (message VARCHAR)")
        database.executemany("INSERT INTO traces VALUES (?)", [[m] for m in messages])
        schema = duckdb_kql.engine.schema(database)
        sql = duckdb_kql.to_sql(criterion["query"], schema=schema)
        return bool(database.execute(str(sql), sql.parameters or None).fetchall())

    @staticmethod
    def finished(outcome, **stream):
        one = {"source": "cloud-integrated", "outcome": "caught_up", "gap": None}
        summary = {"run_id": "1", "outcome": outcome, "streams": [one, {**one, **stream}]}
        return json.dumps({"timestamp": "2026-11-29T02:06:09Z", "level": "INFO",
                           "message": "run finished", "summary": json.dumps(summary)})

    def test_the_alert_on_quarantine_reads_the_connectors_own_lines(self):
        _, criterion = self.alert("-quarantine")
        source = sources()
        for text in ("rows were put in quarantine", "run finished"):
            self.assertIn(text, criterion["query"])
            self.assertIn(f'"{text}"', source)
        self.assertIn("rows_quarantined = ", source)
        nothing = [self.finished("caught_up"), self.finished("failed"),
                   json.dumps({"level": "INFO", "message": "run started"})]
        kept = json.dumps({"level": "ERROR", "message": "rows were put in quarantine",
                           "stream": "mailflow", "rows_quarantined": 3})
        gap = {"from": "2026-11-10T00:00:00Z", "to": "2026-11-12T00:00:00Z"}
        self.assertFalse(self.is_raised(criterion, nothing))
        self.assertTrue(self.is_raised(criterion, [*nothing, kept]))
        self.assertTrue(self.is_raised(criterion, [*nothing, self.finished("caught_up", gap=gap)]))

    def test_the_alert_on_silence_counts_runs_that_did_their_work(self):
        _, criterion = self.alert("-silent")
        self.assertEqual((criterion["operator"], criterion["threshold"]), ("GreaterThan", 0))
        # What a call that starts nothing leaves, and what others say.
        nothing = [
            "no run was started: the one that began 30 s ago is still in progress",
            json.dumps({"level": "INFO", "message": "run started", "due": "caught_up"}),
            json.dumps({"level": "INFO", "message": "caught_up", "why": "a run finished"}),
            *(self.finished(outcome) for outcome in ("busy", "failed", "partial")),
            # A run of another source.
            self.finished("caught_up").replace("cloud-integrated", "directory"),
        ]
        self.assertTrue(self.is_raised(criterion, nothing))
        for outcome in ("caught_up", "time_limit"):
            self.assertFalse(self.is_raised(criterion, [*nothing, self.finished(outcome)]), outcome)
        source = sources()
        self.assertIn('summary = json, "run finished"', source)

    def test_the_window_of_silence_is_the_parameters(self):
        for name, window in (("minimal", "PT3H"), ("alert-email", "PT6H")):
            (alert,) = [r["properties"] for r in deployed(name).of_type(LOG_ALERTS)
                        if r["name"].endswith("-silent")]
            self.assertEqual(alert["windowSize"], window)

    def test_metrics_are_those_of_microsofts_list(self):
        # On a metric that is not in it, such as ColumnsDroppedCount, an alert may never be raised.
        listed = {"RowsDropped_Count", "TransformationErrors_Count"}
        found = deployed().of_type(METRIC_ALERTS)
        self.assertEqual({alert["properties"]["criteria"]["allOf"][0]["metricName"]
                          for alert in found}, listed)
        for alert in found:
            self.assertEqual(alert["properties"]["scopes"],
                             [deployed().one("Microsoft.Insights/dataCollectionRules")["id"]])

    def test_an_alert_goes_to_whoever_is_named(self):
        for name, count in (("minimal", 0), ("alert-email", 1)):
            made = deployed(name)
            groups = [r["id"] for r in made.of_type("Microsoft.Insights/actionGroups")]
            self.assertEqual(len(groups), count)
            for alert in made.of_type(LOG_ALERTS):
                self.assertEqual(alert["properties"]["actions"]["actionGroups"], groups)
            for alert in made.of_type(METRIC_ALERTS):
                self.assertEqual([action["actionGroupId"]
                                  for action in alert["properties"]["actions"]], groups)


@engine.needed
class Clouds(unittest.TestCase):
    def test_other_clouds_have_their_own_addresses_and_premium(self):
        for cloud, name, suffix in (("AzureUSGovernment", "usgov", "usgovcloudapi.net"),
                                    ("AzureChinaCloud", "china", "chinacloudapi.cn")):
            made = deployed(cloud=cloud)
            found = settings(made)
            self.assertEqual(found["AZURE_CLOUD"], name)
            self.assertEqual(found["FUNCTIONS_WORKER_RUNTIME"], "custom")
            self.assertIn(suffix, found["CHECKPOINT_URL"])
            self.assertEqual(made.one("Microsoft.Web/serverfarms")["sku"]["name"], "EP1")
            self.assertIsNone(made.one("Microsoft.Web/sites")["properties"]["functionAppConfig"])
            self.assertFalse(made.of_type("Microsoft.Web/sites/extensions"))
            for file in FILES:
                for resource in deployed(file, cloud).resources if cloud in clouds(file) else []:
                    if resource["type"] not in CONTENT:
                        for place, text in strings(resource):
                            self.assertNotRegex(text, r"windows\.net|azure\.net|azure\.com", place)

    def test_no_cloud_is_left_to_be_asked_for(self):
        for name in FILES:
            for cloud in clouds(name):
                for resource in deployed(name, cloud).resources:
                    for place, text in strings(resource):
                        self.assertNotIn("environment()", text, place)

    def test_the_plan_can_be_chosen(self):
        for name, sku in (("flex-consumption", "FC1"), ("elastic-premium", "EP1")):
            for cloud in engine.CLOUDS:
                made = deployed(name, cloud)
                self.assertEqual(made.one("Microsoft.Web/serverfarms")["sku"]["name"], sku)
        self.assertEqual(deployed().one("Microsoft.Web/serverfarms")["sku"]["name"], "FC1")
