"""Who may do what, and where secrets are."""
import unittest

import checks
import engine
from files import TEMPLATE
from sets import FILES, SECRETS, deployed, given

ROLES = {
    "3913510d-42f4-4e42-8a64-420c390055eb": "Monitoring Metrics Publisher",
    "b7e6dc6d-f1e8-4753-8033-0f276bb0955b": "Storage Blob Data Owner",
    "0a9a7e1f-b9d0-4cc4-a60d-0319b160aaa3": "Storage Table Data Contributor",
    "4633458b-17de-408a-b874-0445c86b69e6": "Key Vault Secrets User",
}
ASSIGNMENTS = "Microsoft.Authorization/roleAssignments"
ON_THE_RULE = ("Monitoring Metrics Publisher", "Microsoft.Insights/dataCollectionRules")


def settings(made):
    return made.one("Microsoft.Web/sites/config")["properties"]


def roles(made):
    """Each role with the kind of resource it is on and who has it."""
    app = made.one("Microsoft.Web/sites")["id"]
    found = []
    for assignment in made.of_type(ASSIGNMENTS):
        properties = assignment["properties"]
        who = properties["principalId"]
        if who.startswith(f"[reference('{app}'") and who.endswith(".identity.principalId]"):
            who = "app"
        kind, _ = assignment["id"].split("/providers/")[1].rsplit("/", 1)
        found.append((ROLES[properties["roleDefinitionId"].rsplit("/", 1)[1]], kind, who))
    return sorted(found)


@engine.needed
class Roles(unittest.TestCase):
    def test_the_app_gets_these_roles_on_its_own_resources_and_no_other(self):
        expected = [
            ("Key Vault Secrets User", "Microsoft.KeyVault/vaults", "app"),
            ("Monitoring Metrics Publisher", "Microsoft.Insights/components", "app"),
            (*ON_THE_RULE, "app"),
            ("Storage Blob Data Owner", "Microsoft.Storage/storageAccounts", "app"),
            ("Storage Table Data Contributor", "Microsoft.Storage/storageAccounts", "app"),
        ]
        own = {"AzureClientID", "AzureEntraObjectID"}
        for name in FILES:
            made = deployed(name)
            if not own & given(name).keys():
                self.assertEqual(roles(made), expected, name)
                self.assertFalse([s for s in settings(made) if "CLIENT_ID" in s
                                  and s not in ("MIMECAST_CLIENT_ID", "ENTRA_CLIENT_ID")])
            # What a role is on is made here.
            ids = {r["id"] for r in made.resources}
            for assignment in made.of_type(ASSIGNMENTS):
                self.assertIn(assignment["id"].partition(f"/providers/{ASSIGNMENTS}")[0], ids)

    def test_an_app_registration_gets_the_rule_alone_and_the_app_the_rest(self):
        found = roles(deployed("incumbent"))
        self.assertEqual([(role, kind) for role, kind, who in found if who != "app"], [ON_THE_RULE])
        self.assertEqual(len(found), 5)
        found = settings(deployed("incumbent"))
        self.assertEqual(found["AZURE_CLIENT_ID"], "11111111-1111-4111-8111-111111111111")
        self.assertEqual(found["AZURE_TENANT_ID"], "22222222-2222-4222-8222-222222222222")
        self.assertTrue(found["AZURE_CLIENT_SECRET_URI"].endswith("/secrets/AzureClientSecret"))

    def test_without_its_object_id_the_role_on_the_rule_is_left_to_a_person(self):
        found = roles(deployed("app-registration-without-object-id"))
        self.assertEqual(len(found), 4)
        self.assertNotIn(ON_THE_RULE, [(role, kind) for role, kind, _ in found])
        self.assertTrue(all(who == "app" for _, _, who in found))

    def test_through_lighthouse_roles_name_the_identitys_resource(self):
        for name in ("minimal", "lighthouse"):
            made = deployed(name)
            app = made.one("Microsoft.Web/sites")["id"]
            for assignment in made.of_type(ASSIGNMENTS):
                self.assertEqual(assignment["properties"]["delegatedManagedIdentityResourceId"],
                                 app if name == "lighthouse" else None)
        # A registration is in no tenant that Lighthouse would have to ask about.
        through = deployed("everything")
        (on_the_rule,) = [r for r in through.of_type(ASSIGNMENTS)
                          if "dataCollectionRules" in r["id"]]
        self.assertIsNone(on_the_rule["properties"]["delegatedManagedIdentityResourceId"])


@engine.needed
class Secrets(unittest.TestCase):
    def test_secrets_go_through_secure_parameters_to_the_key_vault_and_nowhere_else(self):
        for name in FILES:
            values = given(name)
            known = [v for k, v in values.items() if k.endswith("Secret")]
            self.assertEqual(checks.secrets(TEMPLATE, values, known), [], name)
            kept = deployed(name).of_type("Microsoft.KeyVault/vaults/secrets")
            self.assertCountEqual([r["properties"]["value"] for r in kept], known, name)

    def test_settings_name_each_secret_in_the_vault(self):
        for cloud, (_, suffix) in engine.CLOUDS.items():
            made = deployed("incumbent", cloud)
            vault = f"https://{made.one('Microsoft.KeyVault/vaults')['name']}{suffix}"
            self.assertEqual(
                {k: v for k, v in settings(made).items() if "SECRET" in k},
                {"MIMECAST_CLIENT_SECRET_URI": f"{vault}/secrets/MimecastClientSecret",
                 "AZURE_CLIENT_SECRET_URI": f"{vault}/secrets/AzureClientSecret"})
            # The platform reads one once a day, and not behind a firewall.
            self.assertNotIn("@Microsoft.KeyVault", str(settings(made)))

    def test_outputs_have_no_secret(self):
        for name in ("minimal", "incumbent", "everything"):
            for text in map(str, deployed(name).outputs.values()):
                self.assertFalse([s for s in (*SECRETS, "Secret", "ConnectionString") if s in text])

    def test_nothing_takes_a_key_and_no_blob_is_public(self):
        for name in ("minimal", "everything"):
            made = deployed(name)
            account = made.one("Microsoft.Storage/storageAccounts")["properties"]
            self.assertFalse(account["allowSharedKeyAccess"] or account["allowBlobPublicAccess"])
            self.assertTrue(made.one("Microsoft.Insights/components")["properties"]
                            ["DisableLocalAuth"])
            policies = made.of_type("Microsoft.Web/sites/basicPublishingCredentialsPolicies")
            self.assertEqual([p["properties"]["allow"] for p in policies], [False, False])
            for container in made.of_type(
                    "Microsoft.Storage/storageAccounts/blobServices/containers"):
                self.assertEqual(container["properties"]["publicAccess"], "None")

    def test_who_reads_a_secret_is_recorded(self):
        (audit,) = [r for r in deployed("incumbent").of_type(
            "Microsoft.Insights/diagnosticSettings") if "vaults" in r["id"]]
        self.assertIn({"category": "AuditEvent", "enabled": True}, audit["properties"]["logs"])
        self.assertTrue(audit["properties"]["workspaceId"].endswith("/contoso-operations"))

    def test_the_vault_is_protected_from_purging_if_that_is_asked_for(self):
        for name, protected in (("minimal", None), ("purge-protection", True)):
            vault = deployed(name).one("Microsoft.KeyVault/vaults")["properties"]
            # `false` is refused by a vault that has it.
            self.assertEqual(vault["enablePurgeProtection"], protected)
            self.assertEqual((vault["enableSoftDelete"], vault["enableRbacAuthorization"]),
                             (True, True))
