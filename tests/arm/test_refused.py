"""Parameters that do not fit are refused in words that say which."""
import unittest

import engine
from sets import deployed

WORKSPACES = f"{engine.GROUP}/providers/Microsoft.OperationalInsights/workspaces"
REGISTRATION = {"AzureClientID": "an id", "AzureClientSecret": "a secret",
                "AzureTenantID": "a tenant"}


@engine.needed
class Refused(unittest.TestCase):
    def refused(self, words, **more):
        with self.subTest(more), self.assertRaisesRegex(engine.Refused, words):
            deployed(**more)

    def test_half_an_app_registration(self):
        for left_out in REGISTRATION:
            half = {k: v for k, v in REGISTRATION.items() if k != left_out}
            for given in (half, {left_out: REGISTRATION[left_out]}):
                self.refused("AzureClientID, AzureClientSecret and AzureTenantID: give all or none",
                             **given)
        self.refused("give all or none, and AzureEntraObjectID only with them",
                     AzureEntraObjectID="an object id")
        deployed(**REGISTRATION)

    def test_no_workspace(self):
        self.refused("Give WorkspaceName, .*, or WorkspaceResourceId", WorkspaceName="")
        self.refused("Give WorkspaceName, .*, or WorkspaceResourceId", WorkspaceName=None)

    def test_an_id_that_is_no_workspaces(self):
        wrong = ["contoso-sentinel", WORKSPACES, f"{WORKSPACES}/a/tables/b", f"/x{WORKSPACES}/a",
                 f"{engine.GROUP}/providers/Microsoft.Storage/storageAccounts/a",
                 f"{WORKSPACES}/", f"{WORKSPACES}/a/", f"{WORKSPACES}/a"[1:],
                 "/a/b/c/d/providers/Microsoft.OperationalInsights/workspaces/x",
                 f"{WORKSPACES}/a".replace("/app/", "//")]
        for text in wrong:
            self.refused("WorkspaceResourceId is not the resource id of a workspace",
                         WorkspaceResourceId=text)
            self.refused("AppInsightsWorkspaceResourceID is not the resource id of a workspace",
                         AppInsightsWorkspaceResourceID=text)
        # Azure itself writes these ids in more than one way.
        deployed(WorkspaceResourceId=f"{WORKSPACES.lower()}/a")

    def test_parameters_that_are_not_the_templates_or_out_of_its_limits(self):
        for more, words in [
            ({"WorkspaceID": "x"}, '"WorkspaceID" is assigned .* without being declared'),
            ({"LogLevel": "Loud"}, "'Loud'"),
            ({"FunctionName": "a" * 12}, "too long"),
            ({"MimecastClientID": ""}, "too short"),
            ({"MimecastClientID": None}, '"MimecastClientID"'),
            ({"QuarantineRetentionDays": 1}, "too small"),
            ({"EnablePrivateNetworking": "true"}, 'type "bool"'),
            ({"Tags": "owner"}, 'type "object"'),
        ]:
            self.refused(words, **more)
