// The function app: its log, its plan, its identity's roles, its settings, and the program.

param location string
param tags object
param name string
param flexConsumption bool
param privateNetworking bool
param storageName string
param blobUri string
param packageContainer string
param packageUri string
param vaultName string
param logsWorkspaceId string
param ruleName string
param useAppRegistration bool
param azureObjectId string
param useEntraApplication bool
param throughLighthouse bool
@description('The connector\'s settings, without secrets.')
param settings object

// An empty version has been seen as well; docs/TROUBLESHOOTING.md says how to ask for the right one.
var customRuntimeVersion = '1.0'

var roleIds = {
  'Key Vault Secrets User': '4633458b-17de-408a-b874-0445c86b69e6'
  'Monitoring Metrics Publisher': '3913510d-42f4-4e42-8a64-420c390055eb'
  'Storage Blob Data Owner': 'b7e6dc6d-f1e8-4753-8033-0f276bb0955b'
  'Storage Table Data Contributor': '0a9a7e1f-b9d0-4cc4-a60d-0319b160aaa3'
}
var cloudNames = {
  AzureCloud: 'public'
  AzureUSGovernment: 'usgov'
  AzureChinaCloud: 'china'
}
var secretsUri = 'https://${vaultName}${environment().suffixes.keyvaultDns}/secrets/'
// A role of a Lighthouse deployment names the resource that has the identity.
var delegatedIdentity = throughLighthouse ? app.id : null

resource account 'Microsoft.Storage/storageAccounts@2022-09-01' existing = {
  name: storageName
}

resource vault 'Microsoft.KeyVault/vaults@2022-07-01' existing = {
  name: vaultName

  resource mimecastSecret 'secrets' existing = {
    name: 'MimecastClientSecret'
  }

  resource azureSecret 'secrets' existing = {
    name: 'AzureClientSecret'
  }

  resource entraSecret 'secrets' existing = {
    name: 'EntraClientSecret'
  }
}

resource rule 'Microsoft.Insights/dataCollectionRules@2023-03-11' existing = {
  name: ruleName
}

resource network 'Microsoft.Network/virtualNetworks@2022-07-01' existing = {
  name: name

  resource functionsSubnet 'subnets' existing = {
    name: 'functions'
  }
}

resource insights 'Microsoft.Insights/components@2020-02-02' = {
  name: name
  location: location
  tags: tags
  kind: 'web'
  properties: {
    Application_Type: 'web'
    WorkspaceResourceId: logsWorkspaceId
    DisableLocalAuth: true
  }
}

resource plan 'Microsoft.Web/serverfarms@2024-11-01' = {
  name: name
  location: location
  tags: tags
  kind: flexConsumption ? 'functionapp' : 'elastic'
  sku: flexConsumption ? { name: 'FC1', tier: 'FlexConsumption' } : { name: 'EP1', tier: 'ElasticPremium' }
  properties: {
    reserved: true
    maximumElasticWorkerCount: flexConsumption ? null : 1
  }
}

resource app 'Microsoft.Web/sites@2024-11-01' = {
  name: name
  location: location
  tags: tags
  kind: 'functionapp,linux'
  identity: { type: 'SystemAssigned' }
  properties: {
    serverFarmId: plan.id
    httpsOnly: true
    virtualNetworkSubnetId: privateNetworking ? network::functionsSubnet.id : null
    // Flex Consumption sends all its traffic that way by itself.
    outboundVnetRouting: privateNetworking && !flexConsumption ? { allTraffic: true } : null
    functionAppConfig: flexConsumption
      ? {
          deployment: {
            storage: {
              type: 'blobContainer'
              value: '${blobUri}${packageContainer}'
              authentication: { type: 'SystemAssignedIdentity' }
            }
          }
          scaleAndConcurrency: { maximumInstanceCount: 40, instanceMemoryMB: 512 }
          runtime: { name: 'custom', version: customRuntimeVersion }
        }
      : null
    siteConfig: {
      ftpsState: 'Disabled'
      minTlsVersion: '1.2'
      scmMinTlsVersion: '1.2'
      http20Enabled: true
    }
  }

  resource noFtpPassword 'basicPublishingCredentialsPolicies' = {
    name: 'ftp'
    properties: { allow: false }
  }

  resource noScmPassword 'basicPublishingCredentialsPolicies' = {
    name: 'scm'
    properties: { allow: false }
  }
}

resource blobOwner 'Microsoft.Authorization/roleAssignments@2022-04-01' = {
  name: guid(account.id, app.id, 'Storage Blob Data Owner')
  scope: account
  properties: {
    roleDefinitionId: subscriptionResourceId(
      'Microsoft.Authorization/roleDefinitions',
      roleIds['Storage Blob Data Owner']
    )
    principalId: app.identity.principalId
    principalType: 'ServicePrincipal'
    delegatedManagedIdentityResourceId: delegatedIdentity
  }
}

resource tableContributor 'Microsoft.Authorization/roleAssignments@2022-04-01' = {
  name: guid(account.id, app.id, 'Storage Table Data Contributor')
  scope: account
  properties: {
    roleDefinitionId: subscriptionResourceId(
      'Microsoft.Authorization/roleDefinitions',
      roleIds['Storage Table Data Contributor']
    )
    principalId: app.identity.principalId
    principalType: 'ServicePrincipal'
    delegatedManagedIdentityResourceId: delegatedIdentity
  }
}

resource secretsUser 'Microsoft.Authorization/roleAssignments@2022-04-01' = {
  name: guid(vault.id, app.id, 'Key Vault Secrets User')
  scope: vault
  properties: {
    roleDefinitionId: subscriptionResourceId(
      'Microsoft.Authorization/roleDefinitions',
      roleIds['Key Vault Secrets User']
    )
    principalId: app.identity.principalId
    principalType: 'ServicePrincipal'
    delegatedManagedIdentityResourceId: delegatedIdentity
  }
}

resource logPublisher 'Microsoft.Authorization/roleAssignments@2022-04-01' = {
  name: guid(insights.id, app.id, 'Monitoring Metrics Publisher')
  scope: insights
  properties: {
    roleDefinitionId: subscriptionResourceId(
      'Microsoft.Authorization/roleDefinitions',
      roleIds['Monitoring Metrics Publisher']
    )
    principalId: app.identity.principalId
    principalType: 'ServicePrincipal'
    delegatedManagedIdentityResourceId: delegatedIdentity
  }
}

// Without the registration's object id this role is given by a person.
resource rowPublisher 'Microsoft.Authorization/roleAssignments@2022-04-01' = if (!useAppRegistration || !empty(azureObjectId)) {
  name: guid(rule.id, useAppRegistration ? azureObjectId : app.id, 'Monitoring Metrics Publisher')
  scope: rule
  properties: {
    roleDefinitionId: subscriptionResourceId(
      'Microsoft.Authorization/roleDefinitions',
      roleIds['Monitoring Metrics Publisher']
    )
    principalId: useAppRegistration ? azureObjectId : app.identity.principalId
    principalType: 'ServicePrincipal'
    delegatedManagedIdentityResourceId: useAppRegistration ? null : delegatedIdentity
  }
}

resource appSettings 'Microsoft.Web/sites/config@2024-11-01' = {
  parent: app
  name: 'appsettings'
  properties: union(
    settings,
    {
      AzureWebJobsStorage__credential: 'managedidentity'
      AzureWebJobsStorage__blobServiceUri: blobUri
      AzureWebJobsStorage__tableServiceUri: 'https://${storageName}.table.${environment().suffixes.storage}/'
      APPLICATIONINSIGHTS_AUTHENTICATION_STRING: 'Authorization=AAD'
      APPLICATIONINSIGHTS_CONNECTION_STRING: insights.properties.ConnectionString
      AZURE_CLOUD: cloudNames[environment().name]
      // No Key Vault reference: the platform reads one once a day, and on Flex Consumption not behind a
      // firewall. The program reads the newest version at each run.
      MIMECAST_CLIENT_SECRET_URI: '${secretsUri}${vault::mimecastSecret.name}'
    },
    useAppRegistration ? { AZURE_CLIENT_SECRET_URI: '${secretsUri}${vault::azureSecret.name}' } : {},
    useEntraApplication ? { ENTRA_CLIENT_SECRET_URI: '${secretsUri}${vault::entraSecret.name}' } : {},
    // Flex Consumption refuses these.
    flexConsumption
      ? {}
      : {
          FUNCTIONS_EXTENSION_VERSION: '~4'
          FUNCTIONS_WORKER_RUNTIME: 'custom'
          WEBSITE_RUN_FROM_PACKAGE: empty(packageUri) ? '1' : packageUri
        }
  )
  // The app asks for its secrets and its storage as soon as it has settings.
  dependsOn: [blobOwner, tableContributor, secretsUser, logPublisher, rowPublisher]
}

resource program 'Microsoft.Web/sites/extensions@2024-11-01' = if (flexConsumption && !empty(packageUri)) {
  parent: app
  name: 'onedeploy'
  // Bicep's types know none for this name.
  #disable-next-line BCP187
  properties: {
    packageUri: packageUri
    remoteBuild: false
  }
  dependsOn: [appSettings]
}

output principalId string = app.identity.principalId
