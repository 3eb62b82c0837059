"""What waits for what, of which neither the engine nor a snapshot shows anything."""
import unittest

import checks
import engine
from files import TEMPLATE
from sets import FILES, given
from traced import Traced

TABLES = "Microsoft.OperationalInsights/workspaces/tables"


@engine.needed
class Order(unittest.TestCase):
    def setUp(self):
        self.all = Traced(TEMPLATE, given("everything"))

    def one(self, kind, name=""):
        (node,) = self.all.of_type(kind, name)
        return node

    def deployment(self, name):
        return self.one("Microsoft.Resources/deployments", name)

    def assert_waits(self, node, *others):
        for other in others:
            self.assertTrue(self.all.waits(node, other), f"{node.id} waits for {other.id}")

    def test_each_resource_waits_for_those_that_it_names(self):
        for name in FILES:
            self.assertEqual(checks.order(TEMPLATE, given(name)), [], name)

    def test_each_table_is_made_then_read_then_written_then_named_by_the_rule(self):
        steps = ([sorted(self.all.of_type("Microsoft.Resources/deployments", f"-table{step}"),
                         key=lambda node: node.id) for step in ("-if-missing", "-as-it-is", "-columns")])
        self.assertEqual([len(step) for step in steps], [2, 2, 2])
        for missing, as_it_is, columns in zip(*steps):
            self.assert_waits(as_it_is, missing)
            self.assert_waits(columns, as_it_is)
        self.assertEqual(len(self.all.of_type(TABLES)), 4)
        self.assert_waits(self.one("Microsoft.Insights/dataCollectionRules"),
                          *self.all.of_type(TABLES))

    def test_the_package_comes_after_the_settings_and_these_after_the_roles(self):
        settings = self.one("Microsoft.Web/sites/config")
        roles = self.all.of_type("Microsoft.Authorization/roleAssignments")
        self.assertEqual(len(roles), 5)
        self.assert_waits(settings, *roles)
        self.assert_waits(self.one("Microsoft.Web/sites/extensions"), settings)

    def test_the_app_comes_after_its_containers_its_secrets_and_its_network(self):
        app, settings = self.one("Microsoft.Web/sites"), self.one("Microsoft.Web/sites/config")
        self.assert_waits(app, *self.all.of_type(
            "Microsoft.Storage/storageAccounts/blobServices/containers"))
        for kind in ("virtualNetworks", "privateEndpoints/privateDnsZoneGroups"):
            self.assert_waits(app, *self.all.of_type(f"Microsoft.Network/{kind}"))
        self.assert_waits(settings, *self.all.of_type("Microsoft.KeyVault/vaults/secrets"))

    def test_changes_of_the_storage_account_follow_one_another(self):
        # At once, one is refused.
        self.assert_waits(self.one("Microsoft.Storage/storageAccounts/managementPolicies"),
                          self.one("Microsoft.Storage/storageAccounts/blobServices"))

    def test_the_content_comes_after_the_table_that_it_reads(self):
        for kind in ("savedSearches", "tables"):
            self.assertTrue(self.all.of_type(f"Microsoft.OperationalInsights/workspaces/{kind}"))
        for node in self.all.of_type("Microsoft.OperationalInsights/workspaces/savedSearches"):
            self.assert_waits(node, *self.all.of_type(TABLES))

    def test_the_analytic_rules_come_after_the_content_and_the_app(self):
        for name in ("rules-enabled", "rules-replaced-enabled"):
            self.assertEqual(checks.rules_too_early(TEMPLATE, given(name)), [])
            self.all = Traced(TEMPLATE, given(name))
            rules = self.all.of_type("Microsoft.SecurityInsights/alertRules")
            self.assertTrue(rules)
            for rule in rules:
                self.assert_waits(rule, self.deployment("-content"), self.deployment("-app"))

    def test_the_alerts_come_after_what_they_watch_and_whom_they_call(self):
        group = self.one("Microsoft.Insights/actionGroups")
        watched = [self.one("Microsoft.Insights/components"),
                   self.one("Microsoft.Web/sites/config")]
        for node in self.all.of_type("Microsoft.Insights/scheduledQueryRules"):
            self.assert_waits(node, group, *watched)
        for node in self.all.of_type("Microsoft.Insights/metricAlerts"):
            self.assert_waits(node, group, self.one("Microsoft.Insights/dataCollectionRules"))
