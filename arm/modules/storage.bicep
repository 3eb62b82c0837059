// The storage account (package, checkpoints, quarantine) and the key vault with the secrets.

param location string
param tags object
param storageName string
param containers array
@description('Blobs whose name begins with this are deleted after quarantineRetentionDays.')
param quarantinePrefix string
param quarantineRetentionDays int
@description('Whether account and vault are reached by private endpoints only.')
param closeNetwork bool
param vaultName string
param purgeProtection bool
@secure()
param mimecastClientSecret string
param useAppRegistration bool
@secure()
param azureClientSecret string
param useEntraApplication bool
@secure()
param entraClientSecret string
param logsWorkspaceId string

resource account 'Microsoft.Storage/storageAccounts@2022-09-01' = {
  name: storageName
  location: location
  tags: tags
  kind: 'StorageV2'
  sku: { name: 'Standard_LRS' }
  properties: {
    accessTier: 'Hot'
    allowBlobPublicAccess: false
    allowCrossTenantReplication: false
    allowSharedKeyAccess: false
    defaultToOAuthAuthentication: true
    minimumTlsVersion: 'TLS1_2'
    supportsHttpsTrafficOnly: true
    publicNetworkAccess: closeNetwork ? 'Disabled' : 'Enabled'
    networkAcls: {
      bypass: 'AzureServices'
      defaultAction: closeNetwork ? 'Deny' : 'Allow'
    }
  }

  resource blobs 'blobServices' = {
    name: 'default'
    properties: {
      deleteRetentionPolicy: { enabled: true, days: 7 }
      containerDeleteRetentionPolicy: { enabled: true, days: 7 }
    }

    resource container 'containers' = [
      for name in containers: {
        name: name
        properties: { publicAccess: 'None' }
      }
    ]
  }

  resource lifecycle 'managementPolicies' = {
    name: 'default'
    properties: {
      policy: {
        rules: [
          {
            name: 'delete-old-quarantine'
            enabled: true
            type: 'Lifecycle'
            definition: {
              filters: { blobTypes: ['blockBlob'], prefixMatch: [quarantinePrefix] }
              actions: {
                baseBlob: { delete: { daysAfterModificationGreaterThan: quarantineRetentionDays } }
              }
            }
          }
        ]
      }
    }
    // Both write the account; at once, one is refused.
    dependsOn: [blobs]
  }
}

resource vault 'Microsoft.KeyVault/vaults@2022-07-01' = {
  name: vaultName
  location: location
  tags: tags
  properties: {
    tenantId: subscription().tenantId
    sku: { family: 'A', name: 'standard' }
    enableRbacAuthorization: true
    enableSoftDelete: true
    softDeleteRetentionInDays: 7
    // The service refuses `false`.
    enablePurgeProtection: purgeProtection ? true : null
    publicNetworkAccess: closeNetwork ? 'Disabled' : 'Enabled'
    // The secrets of this deployment are written through Resource Manager, which needs no way in.
    networkAcls: {
      bypass: 'AzureServices'
      defaultAction: closeNetwork ? 'Deny' : 'Allow'
    }
  }

  resource mimecastSecret 'secrets' = {
    name: 'MimecastClientSecret'
    tags: tags
    properties: {
      contentType: 'Client secret of the Mimecast API 2.0 application'
      value: mimecastClientSecret
    }
  }

  resource azureSecret 'secrets' = if (useAppRegistration) {
    name: 'AzureClientSecret'
    tags: tags
    properties: {
      contentType: 'Client secret of the Entra app registration'
      value: azureClientSecret
    }
  }

  resource entraSecret 'secrets' = if (useEntraApplication) {
    name: 'EntraClientSecret'
    tags: tags
    properties: {
      contentType: 'Client secret of the application that reads Microsoft Graph'
      value: entraClientSecret
    }
  }
}

resource vaultAudit 'Microsoft.Insights/diagnosticSettings@2021-05-01-preview' = {
  name: 'audit'
  scope: vault
  properties: {
    workspaceId: logsWorkspaceId
    logs: [{ category: 'AuditEvent', enabled: true }]
  }
}
