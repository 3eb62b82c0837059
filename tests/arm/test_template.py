"""Rules that hold for the template as it is written: those of Microsoft's arm-ttk that matter, and
that it is made of its sources."""
import json
import re
import subprocess
import sys
import unittest

import arm
from files import ARM, ROOT, SOURCE, TEMPLATE, own_resources, resources, strings

# Stable versions, in all clouds for a while; a newer one is not needed.
API_VERSIONS = {
    "Microsoft.Authorization/roleAssignments": "2022-04-01",
    "Microsoft.Insights/actionGroups": "2023-01-01",
    "Microsoft.Insights/components": "2020-02-02",
    # The first whose rules have an endpoint of their own.
    "Microsoft.Insights/dataCollectionRules": "2023-03-11",
    # The only stable version is of 2016 and knows no category of a data collection rule.
    "Microsoft.Insights/diagnosticSettings": "2021-05-01-preview",
    "Microsoft.Insights/metricAlerts": "2018-03-01",
    "Microsoft.Insights/scheduledQueryRules": "2023-12-01",
    "Microsoft.Insights/workbooks": "2023-06-01",
    "Microsoft.KeyVault/vaults": "2023-07-01",
    "Microsoft.KeyVault/vaults/secrets": "2023-07-01",
    "Microsoft.Network/privateDnsZones": "2020-06-01",
    "Microsoft.Network/privateDnsZones/virtualNetworkLinks": "2020-06-01",
    "Microsoft.Network/privateEndpoints": "2024-05-01",
    "Microsoft.Network/privateEndpoints/privateDnsZoneGroups": "2024-05-01",
    "Microsoft.Network/virtualNetworks": "2024-05-01",
    "Microsoft.OperationalInsights/workspaces/savedSearches": "2025-07-01",
    "Microsoft.OperationalInsights/workspaces/tables": "2025-07-01",
    # Newer than what a template takes that makes a resource only if it is missing.
    "Microsoft.Resources/deployments": "2025-04-01",
    "Microsoft.SecurityInsights/alertRules": "2025-09-01",
    "Microsoft.SecurityInsights/dataConnectorDefinitions": "2025-09-01",
    "Microsoft.Storage/storageAccounts": "2023-05-01",
    "Microsoft.Storage/storageAccounts/blobServices": "2023-05-01",
    "Microsoft.Storage/storageAccounts/blobServices/containers": "2023-05-01",
    "Microsoft.Storage/storageAccounts/managementPolicies": "2023-05-01",
    # The first that knows the runtime `custom` on Flex Consumption.
    "Microsoft.Web/serverfarms": "2024-11-01",
    "Microsoft.Web/sites": "2024-11-01",
    "Microsoft.Web/sites/basicPublishingCredentialsPolicies": "2024-11-01",
    "Microsoft.Web/sites/config": "2024-11-01",
    "Microsoft.Web/sites/extensions": "2024-11-01",
}
# What stands beside a resource's properties, of all that Azure Resource Manager knows there. It
# refuses any other, also where the resource's own API has it, such as `etag`.
MEMBERS = {"@options", "apiVersion", "condition", "copy", "dependsOn", "identity", "kind", "location",
           "name", "properties", "resourceGroup", "scope", "sku", "subscriptionId", "type"}
# What today's template takes.
INCUMBENT = [
    "FunctionName", "Location", "WorkspaceName", "AzureClientID", "AzureClientSecret",
    "AzureTenantID", "AzureEntraObjectID", "MimecastBaseURL", "MimecastClientID",
    "MimecastClientSecret", "MimecastCITableName", "StartDate", "Schedule", "LogLevel",
    "AppInsightsWorkspaceResourceID",
]
CLOUD_HOSTS = re.compile(
    r"[a-z]\.(windows\.net|azure\.(com|net|us|cn)|usgovcloudapi\.net|chinacloudapi\.cn|"
    r"microsoftonline\.(com|us)|azurewebsites\.net)")


def templates():
    """The template and those nested in it."""
    found = [TEMPLATE]
    for _, template in resources(TEMPLATE):
        if template not in found:
            found.append(template)
    return found


class Template(unittest.TestCase):
    def test_it_is_what_its_sources_make(self):
        try:
            import yaml  # noqa: F401
        except ImportError:
            self.skipTest("PyYAML is not here")
        if not (ROOT / "sentinel").exists():
            self.skipTest("sentinel/ is not here")
        made = subprocess.run([sys.executable, ARM / "build", "--check"], capture_output=True)
        self.assertEqual(made.returncode, 0, made.stderr.decode())

    def test_each_template_has_its_schema_and_version(self):
        for template in templates():
            self.assertIn("/2019-04-01/deploymentTemplate.json#", template["$schema"])
            self.assertRegex(template["contentVersion"], r"^\d+\.\d+\.\d+\.\d+$")

    def test_it_takes_the_parameters_of_todays_template(self):
        self.assertLessEqual(set(INCUMBENT), set(TEMPLATE["parameters"]))

    def test_each_parameter_says_what_it_is(self):
        for name, parameter in TEMPLATE["parameters"].items():
            description = parameter["metadata"]["description"]
            self.assertGreater(len(description), 20, name)
            self.assertTrue(description.endswith((".", "…")), name)

    def test_each_parameter_and_variable_is_there_and_used(self):
        for template in templates():
            own = {k: v for k, v in template.items() if k != "resources"}
            own["resources"] = [
                {**r, "properties": {k: v for k, v in r["properties"].items() if k != "template"}}
                if r["type"] == "Microsoft.Resources/deployments" else r
                for r in own_resources(template)]
            text = json.dumps(own)
            for kind in ("parameters", "variables"):
                used = set(re.findall(rf"\b{kind}\('(\w+)'\)", text))
                self.assertEqual(used, set(template.get(kind, {})), kind)

    def test_secrets_have_no_default_and_come_out_nowhere(self):
        for name, parameter in TEMPLATE["parameters"].items():
            if re.search(r"(?i)secret|password|key$", name):
                self.assertEqual(parameter["type"], "securestring", name)
                self.assertEqual(parameter.get("defaultValue", ""), "", name)
        self.assertNotRegex(json.dumps(TEMPLATE), r"list(Keys|Secrets|AccountSas|ServiceSas)\(")
        for template in templates():
            for _, text in strings(template.get("outputs", {})):
                self.assertNotIn("Secret'", text)

    def test_no_location_and_no_address_of_a_cloud_is_written_out(self):
        for resource, _ in resources(TEMPLATE):
            location = resource.get("location", "global")
            self.assertTrue(location == "global" or location.startswith("[parameters('"), location)
        for path, text in strings({k: v for k, v in SOURCE.items() if k != "$schema"}):
            if not path.endswith("$schema"):
                self.assertNotRegex(text, CLOUD_HOSTS, path)

    def test_api_versions_are_the_chosen_ones(self):
        used = {(r["type"], r["apiVersion"]) for r, _ in resources(TEMPLATE)}
        self.assertLessEqual(used, set(API_VERSIONS.items()))
        # A resource that is referred to by a version is referred to by a chosen one.
        versions = set(API_VERSIONS.values())
        for path, text in strings(TEMPLATE):
            for version in re.findall(r"reference\([^']*(?:'[^']*'[^']*)*?'(20\d\d-\d\d-\d\d)'", text):
                self.assertIn(version, versions, path)

    def test_resources_have_no_member_that_azure_resource_manager_refuses(self):
        for resource, _ in resources(TEMPLATE):
            self.assertLessEqual(set(resource), MEMBERS, resource["name"])

    def test_nothing_is_blank(self):
        for resource, _ in resources(SOURCE):
            for path, text in strings(resource):
                self.assertNotEqual(text.strip(), "", f"{resource['name']}{path}")

    def test_ids_come_from_resourceid(self):
        for path, text in strings(SOURCE):
            if arm.is_expression(text):
                self.assertNotRegex(text, r"'/?(subscriptions|providers)/", path)
        for resource, _ in resources(TEMPLATE):
            for awaited in resource.get("dependsOn", []):
                self.assertRegex(awaited, r"^(\[(resourceId|variables)\(.*\]|\w+)$")

    def test_what_a_deployment_limits(self):
        self.assertLess((ARM / "azuredeploy.json").stat().st_size, 4 * 1024 * 1024)
        for template in templates():
            self.assertLessEqual(len(template.get("parameters", {})), 256)
            self.assertLessEqual(len(template.get("variables", {})), 256)
            self.assertLess(len(template["resources"]), 800)
            for path, text in strings(template.get("variables", {})):
                self.assertLess(len(text), 131_072, path)
            for resource in own_resources(template):
                if resource["type"] != "Microsoft.Resources/deployments":
                    self.assertLess(len(json.dumps(resource)), 1024 * 1024, resource["name"])
        for path, text in strings(TEMPLATE):
            if arm.is_expression(text):
                self.assertLess(len(text), 24_576, path)


class Document(unittest.TestCase):
    """docs/DEPLOY.md says what is so."""

    def setUp(self):
        self.text = (ROOT / "docs/DEPLOY.md").read_text()

    def test_it_names_every_role_and_parameter_as_the_template_does(self):
        for role in TEMPLATE["variables"]["roleIds"].values():
            self.assertIn(role, self.text)
        named = set(re.findall(r"`?\b((?:Enable|Deploy|Table|Workspace|Mimecast|Quarantine|Silence|"
                               r"Alert|Package|Hosting|Azure|Start|VirtualNetwork)[A-Z]\w+)\b",
                               self.text))
        gone = {"WorkspaceID", "WorkspaceKey"}
        others = {"MimecastCloudIntegrated", "AzureWebJobsStorage",
                  "WorkspaceSubscriptionId"}  # a column of make-parameters
        self.assertEqual(named - set(TEMPLATE["parameters"]) - gone - others, set())

    def test_its_sections_are_there(self):
        headings = re.findall(r"^## (.*)$", self.text, re.MULTILINE)
        anchors = {re.sub(r"[^a-z0-9 -]", "", h.lower()).replace(" ", "-") for h in headings}
        self.assertEqual(set(re.findall(r"\]\(#([^)]*)\)", self.text)) - anchors, set())
