"""Parameters that do not fit are refused in words that say which."""
import unittest

import engine
from files import nested
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
                 f"{WORKSPACES}/", f"{WORKSPACES}/a/", f"{WORKSPACES}/a"[1:], f"{WORKSPACES}/a ",
                 "/a/b/c/d/providers/Microsoft.OperationalInsights/workspaces/x",
                 f"{WORKSPACES}/a".replace("/app/", "//")]
        for text in wrong:
            self.refused(r"WorkspaceResourceId \(or WorkspaceName\) is not a workspace's",
                         WorkspaceResourceId=text)
            self.refused("AppInsightsWorkspaceResourceID is not a workspace's",
                         AppInsightsWorkspaceResourceID=text)
        # Azure itself writes these ids in more than one way.
        deployed(WorkspaceResourceId=f"{WORKSPACES.lower()}/a")

    def test_names_that_azure_would_refuse_when_half_is_made(self):
        for name in ("a/b", "ws ", "  "):
            self.refused("WorkspaceName", WorkspaceName=name)
        for name in ("Müller", "a_b", "a b", "-abc", "-", "1a", "a/b", "it's"):
            self.refused("FunctionName has a letter first", FunctionName=name)
        for name in ("a-b", "a b", "1a", "_a", "a.b", 'a"b', "tä"):
            self.refused("MimecastCITableName has a letter first", MimecastCITableName=name)
        for name in ("Cloud_Integrated_CL", "x_cl"):
            self.refused("without the _CL", MimecastCITableName=name)
        self.refused("MimecastCITableName is the name of the table that the connector reports its",
                     MimecastCITableName="mimecastConnectorHealth")

    def test_a_network_that_cannot_be_divided(self):
        for prefix in ("10.0.0.0/25", "10.0.0.0/32", "10.0.0.0", "", "fd00::/64", "10.0.0/24", "x/24"):
            self.refused("VirtualNetworkAddressPrefix is an IPv4 network of /8 to /24",
                         VirtualNetworkAddressPrefix=prefix, EnablePrivateNetworking=True)
        self.refused("VirtualNetworkAddressPrefix does not begin at",
                     VirtualNetworkAddressPrefix="10.0.0.7/24", EnablePrivateNetworking=True)
        deployed(VirtualNetworkAddressPrefix="10.0.0.0/16", EnablePrivateNetworking=True)

    def test_a_module_alone_takes_the_tables_whole_name(self):
        with self.assertRaisesRegex(engine.Refused, "tableName is the whole name"):
            engine.expand(nested("content"), {"workspaceName": "ws", "tableName": "Mimecast_Events"})

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
