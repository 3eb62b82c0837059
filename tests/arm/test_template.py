"""Rules that hold for the template's JSON, which is what is deployed: those of Microsoft's arm-ttk
that matter, and that it is made of its sources."""
import json
import re
import subprocess
import sys
import unittest

import checks
from files import (ARM, DEPLOYMENTS, ROOT, TEMPLATE, is_expression, own_resources, resources,
                   strings, templates)

# The oldest that serves, since not each cloud has the newest; and why it is none older, where there
# is one.
API_VERSIONS = {
    "Microsoft.Authorization/roleAssignments": "2022-04-01",
    "Microsoft.Insights/actionGroups": "2021-09-01",
    # The only one that is bound to a workspace.
    "Microsoft.Insights/components": "2020-02-02",
    # The first whose rules have an endpoint of their own.
    "Microsoft.Insights/dataCollectionRules": "2023-03-11",
    # The only stable version is of 2016 and knows no category of a data collection rule.
    "Microsoft.Insights/diagnosticSettings": "2021-05-01-preview",
    "Microsoft.Insights/metricAlerts": "2018-03-01",
    "Microsoft.Insights/scheduledQueryRules": "2021-08-01",
    "Microsoft.Insights/workbooks": "2021-08-01",
    "Microsoft.KeyVault/vaults": "2022-07-01",
    "Microsoft.KeyVault/vaults/secrets": "2022-07-01",
    "Microsoft.Network/privateDnsZones": "2020-06-01",
    "Microsoft.Network/privateDnsZones/virtualNetworkLinks": "2020-06-01",
    "Microsoft.Network/privateEndpoints": "2022-07-01",
    "Microsoft.Network/privateEndpoints/privateDnsZoneGroups": "2022-07-01",
    "Microsoft.Network/virtualNetworks": "2022-07-01",
    "Microsoft.Network/virtualNetworks/subnets": "2022-07-01",
    "Microsoft.OperationalInsights/workspaces": "2022-10-01",
    # The only stable one for years.
    "Microsoft.OperationalInsights/workspaces/savedSearches": "2020-08-01",
    # A table may have the plan Auxiliary, which is newer than 2022-10-01.
    "Microsoft.OperationalInsights/workspaces/tables": "2023-09-01",
    # Bicep's own choice.
    "Microsoft.Resources/deployments": "2025-04-01",
    # 2021-10-01 knows no techniques.
    "Microsoft.SecurityInsights/alertRules": "2022-11-01",
    # The first that are stable.
    "Microsoft.SecurityInsights/contentPackages": "2023-11-01",
    "Microsoft.SecurityInsights/contentTemplates": "2023-11-01",
    # The first that is stable.
    "Microsoft.SecurityInsights/dataConnectorDefinitions": "2024-09-01",
    "Microsoft.SecurityInsights/metadata": "2023-11-01",
    "Microsoft.Storage/storageAccounts": "2022-09-01",
    "Microsoft.Storage/storageAccounts/blobServices": "2022-09-01",
    "Microsoft.Storage/storageAccounts/blobServices/containers": "2022-09-01",
    "Microsoft.Storage/storageAccounts/managementPolicies": "2022-09-01",
    # The first with `outboundVnetRouting`, and with the runtime `custom` on Flex Consumption.
    "Microsoft.Web/serverfarms": "2024-11-01",
    "Microsoft.Web/sites": "2024-11-01",
    "Microsoft.Web/sites/basicPublishingCredentialsPolicies": "2024-11-01",
    "Microsoft.Web/sites/config": "2024-11-01",
    "Microsoft.Web/sites/extensions": "2024-11-01",
}
# What the vendor's template takes.
INCUMBENT = [
    "FunctionName", "Location", "WorkspaceName", "AzureClientID", "AzureClientSecret",
    "AzureTenantID", "AzureEntraObjectID", "MimecastBaseURL", "MimecastClientID",
    "MimecastClientSecret", "MimecastCITableName", "StartDate", "Schedule", "LogLevel",
    "AppInsightsWorkspaceResourceID",
]
OUTPUTS = ["functionAppName", "functionAppPrincipalId", "storageAccountId", "checkpointUrl",
           "keyVaultName", "table", "cheapTable", "rulesLeftOut", "dataCollectionRuleId"]
CLOUD_HOSTS = re.compile(
    r"[a-z]\.(windows\.net|azure\.(com|net|us|cn)|usgovcloudapi\.net|chinacloudapi\.cn|"
    r"microsoftonline\.(com|us)|azurewebsites\.net)")


class Template(unittest.TestCase):
    def test_it_is_what_its_sources_make(self):
        made = subprocess.run([sys.executable, ARM / "build", "--check"], capture_output=True,
                              text=True)
        if made.returncode == 3:
            self.skipTest((made.stdout + made.stderr).strip().removeprefix("SKIPPED: "))
        self.assertEqual(made.returncode, 0, made.stdout + made.stderr)

    def test_the_root_is_one_that_portal_and_checkov_read(self):
        self.assertNotIn("languageVersion", TEMPLATE)
        self.assertIsInstance(TEMPLATE["resources"], list)

    def test_nothing_in_it_changes_with_the_program_that_made_it(self):
        self.assertNotIn("_generator", json.dumps(TEMPLATE))

    def test_each_template_has_its_schema_and_version(self):
        for path, template in templates():
            self.assertIn("/2019-04-01/deploymentTemplate.json#", template["$schema"], path)
            self.assertRegex(template["contentVersion"], r"^\d+\.\d+\.\d+\.\d+$", path)

    def test_nested_templates_see_their_own_parameters_only(self):
        for resource, _ in resources():
            if resource["type"] == DEPLOYMENTS:
                properties = resource["properties"]
                self.assertEqual(properties["expressionEvaluationOptions"], {"scope": "inner"})
                self.assertEqual(properties["mode"], "Incremental", resource["name"])

    def test_deployments_have_names_that_two_apps_do_not_share(self):
        # The content's own has the outer one's name, since it is deployed alone too.
        for path, template in templates():
            for resource in own_resources(template).values():
                if resource["type"] == DEPLOYMENTS:
                    self.assertRegex(resource["name"], r"^\[format\('\{0\}-(\{1\}|[a-z-]+)', "
                                     r"((variables|parameters)\('appName'\)|deployment\(\)\.name)[,)]", path)

    def test_it_takes_the_parameters_of_the_vendors_template(self):
        self.assertLessEqual(set(INCUMBENT), set(TEMPLATE["parameters"]))

    def test_its_outputs_are_these(self):
        self.assertEqual(list(TEMPLATE["outputs"]), OUTPUTS)

    def test_each_parameter_says_what_it_is(self):
        for name, parameter in TEMPLATE["parameters"].items():
            description = parameter["metadata"]["description"]
            self.assertGreater(len(description), 20, name)
            self.assertTrue(description.endswith((".", "…")), name)

    def test_each_parameter_and_variable_is_there(self):
        # That each is used is an error of arm/bicepconfig.json.
        for path, template in templates():
            own = {k: v for k, v in template.items() if k not in ("resources", "functions")}
            own["resources"] = [
                {**r, "properties": {k: v for k, v in r["properties"].items() if k != "template"}}
                if r["type"] == DEPLOYMENTS else r for r in own_resources(template).values()]
            text = json.dumps(own)
            for kind in ("parameters", "variables"):
                used = set(re.findall(rf"\b{kind}\('([^']+)'\)", text))
                self.assertLessEqual(used, declared(template, kind), f"{path}: {kind}")

    def test_secrets_have_no_default_and_no_key_is_asked_for(self):
        for _, template in templates():
            for name, parameter in template.get("parameters", {}).items():
                if re.search(r"(?i)secret|password|key$", name):
                    self.assertEqual(parameter["type"].lower(), "securestring", name)
                    self.assertEqual(parameter.get("defaultValue", ""), "", name)
        self.assertNotRegex(json.dumps(TEMPLATE), r"list(Keys|Secrets|AccountSas|ServiceSas)\(")

    def test_no_location_and_no_address_of_a_cloud_is_written_out(self):
        for resource, _ in resources():
            location = resource.get("location", "global")
            self.assertTrue(location == "global" or location.startswith("[parameters('"), location)
        for path, text in strings(TEMPLATE):
            # Content is held to that where it comes from, and a schema is no address.
            if "$fxv#" not in path and not is_long(text):
                self.assertNotRegex(text.replace("https://schema.management.azure.com/", ""),
                                    CLOUD_HOSTS, path)

    def test_api_versions_are_the_chosen_ones(self):
        self.assertEqual(checks.versions(TEMPLATE), {k: {v} for k, v in API_VERSIONS.items()})
        versions = set(API_VERSIONS.values())
        for path, version in checks.referred_versions(TEMPLATE):
            self.assertIn(version, versions, path)

    def test_nothing_is_blank(self):
        for resource, _ in resources():
            shallow = {k: v for k, v in resource.items() if k != "properties"} if (
                resource["type"] == DEPLOYMENTS) else resource
            for path, text in strings(shallow):
                self.assertNotEqual(text.strip(), "", f"{resource['name']}{path}")

    def test_ids_come_from_resourceid(self):
        for path, text in strings(TEMPLATE):
            # With … it says to a person what an id looks like; a group's id Bicep writes itself.
            text = text.replace("'/subscriptions/{0}/resourceGroups/{1}'", "")
            if is_expression(text) and "…" not in text:
                self.assertNotRegex(text, r"'/?(subscriptions|providers)/", path)

    def test_what_a_deployment_limits(self):
        self.assertLess((ARM / "azuredeploy.json").stat().st_size, 4 * 1024 * 1024)
        for path, template in templates():
            self.assertLessEqual(len(template.get("parameters", {})), 256, path)
            self.assertLessEqual(len(template.get("variables", {})), 256, path)
            self.assertLessEqual(len(template.get("outputs", {})), 64, path)
            self.assertLess(len(own_resources(template)), 800, path)
            for resource in own_resources(template).values():
                if resource["type"] != DEPLOYMENTS:
                    self.assertLess(len(json.dumps(resource)), 1024 * 1024, resource["name"])
        self.assertEqual(checks.too_long(TEMPLATE), [])


def declared(template, kind):
    """The names of parameters or variables; some variables are made by a loop."""
    found = template.get(kind, {})
    return {*found, *(loop["name"] for loop in found.get("copy", []))}


def is_long(text):
    return not is_expression(text) and len(text) > 300


class Sources(unittest.TestCase):
    def test_each_rule_and_hunting_query_is_deployed(self):
        self.assertEqual(checks.unlisted(TEMPLATE, ROOT), [])


class Document(unittest.TestCase):
    """The pages on deployment say what is so."""

    def setUp(self):
        pages = [*(ROOT / "docs").glob("DEPLOY*.md"), ROOT / "docs/OPERATIONS.md", ROOT / "docs/UPGRADE.md"]
        self.assertGreaterEqual(len(pages), 7)
        self.text = "".join(page.read_text() for page in pages)

    def test_they_name_every_role_and_parameter_as_the_template_does(self):
        roles = [role for _, template in templates()
                 for role in template.get("variables", {}).get("roleIds", {}).values()]
        self.assertEqual(len(roles), 4)
        for role in roles:
            self.assertIn(role, self.text)
        named = set(re.findall(r"`?\b((?:Enable|Deploy|Table|Workspace|Mimecast|Quarantine|Silence|"
                               r"Alert|Package|Hosting|Azure|Entra|Directory|Start|Status|VirtualNetwork|Vault)"
                               r"[A-Z]\w+)\b", self.text))
        gone = {"WorkspaceID", "WorkspaceKey"}
        others = {"MimecastCloudIntegrated", "MimecastCI", "MimecastCIRows", "MimecastCIAll",
                  "QuarantineGrowing", "MimecastConnectorHealth_CL",
                  "MimecastOwnDomains", "MimecastVips", "MimecastSimulations",
                  "AzureWebJobs", "AzureWebJobsStorage",
                  "EntraRisk", "EntraRiskDetections_CL", "EntraRiskyUsers_CL", "DirectoryUsers_CL",
                  "DirectoryGroups_CL", "DirectoryGroupMembers_CL",
                  "EntraClientSecretName",  # another
                  "WorkspaceSubscriptionId"}  # a column of make-parameters
        self.assertEqual(named - set(TEMPLATE["parameters"]) - gone - others, set())
