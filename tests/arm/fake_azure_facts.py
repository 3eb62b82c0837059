"""What is in the Azure of test_deploy.py and test_deploy_all.py, by which fake_azure.py goes."""
SUBSCRIPTION = "/subscriptions/11111111-1111-4111-8111-111111111111"
WORKSPACE = (f"{SUBSCRIPTION}/resourceGroups/soc/providers/Microsoft.OperationalInsights/workspaces/"
             "contoso-sentinel")
GROUP = f"{SUBSCRIPTION}/resourceGroups/mimecast"
DEPLOYMENT = f"{GROUP}/providers/Microsoft.Resources/deployments/mimecast-sentinel"
VAULT = f"{GROUP}/providers/Microsoft.KeyVault/vaults/contoso-deployment"
APP = "mimecastci-x"
OUTPUTS = {"functionAppName": APP, "keyVaultName": "mimecast-x", "table": "Cloud_Integrated_CL",
           "cheapTable": ""}
PROVIDERS = ["Microsoft.Web", "Microsoft.Storage", "Microsoft.KeyVault", "microsoft.insights",
             "Microsoft.OperationalInsights", "Microsoft.AlertsManagement"]
# An Azure in which nothing was deployed yet. `parameters` are the template's.
NEW = {
    "account": {"id": SUBSCRIPTION.split("/")[2], "name": "Contoso", "tenantId": "tenant-a",
                "environmentName": "AzureCloud"},
    "group": False, "deployment": None, "polls": 0, "tags": {}, "uploaded": False, "synchronised": 0,
    "key": "the-master-key", "gives secrets": True, "secrets": ["mimecast-client-secret"],
    "providers": PROVIDERS, "workspaces": [WORKSPACE],
    # How often each must be done until it helps.
    "syncs": 2, "deployment polls": 3,
    # What the next deployment and the last one come to, and a scope's actions that the account may not do.
    "error": None, "outcome": None, "operations": {}, "denied": {},
    # Calls that fail: a pattern of the call, how often, what it says; or how the caller dies.
    "faults": [],
    # What the tables have, once a run was started.
    "streams": [["mailflow", "2999-01-01T00:00:00Z", "Success", "Connected", "", "it works", "",
                 "2026-11-29T20:00:00Z"]],
    "rows": 9000,
}
