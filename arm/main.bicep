// The template: each module is a room of what is deployed. Azure Resource Manager reads the JSON that
// arm/build makes of it.
//
// This file has no import, no type or function of its own, no `type?` and no @onlyIfNotExists: each
// makes the root a template of language version 2.0, which the portal's wizard has failed to read
// and checkov passes unread. Modules may have them.

metadata description = 'mimecast-sentinel: Mimecast Cloud Integrated events in Microsoft Sentinel. Made by arm/build of arm/main.bicep, arm/modules and sentinel/; change those.'

@description('How the names of what is deployed begin: a letter, then letters, digits and hyphens. A part that is unique to the resource group is added.')
@minLength(1)
@maxLength(11)
param FunctionName string = 'MimecastCI'

@description('Region of the function app and what belongs to it. The data collection rule goes to the workspace\'s own region, whatever is given here.')
param Location string = resourceGroup().location

@description('Name of the Microsoft Sentinel workspace, if it is in the resource group that is deployed to. For one elsewhere give WorkspaceResourceId, which goes before this.')
@maxLength(63)
param WorkspaceName string = ''

@description('Resource id of the Microsoft Sentinel workspace, in any resource group or subscription of the tenant: /subscriptions/…/resourceGroups/…/providers/Microsoft.OperationalInsights/workspaces/…')
param WorkspaceResourceId string = ''

@description('Where Mimecast\'s API 2.0 is: https and a host under services.mimecast.com.')
@minLength(8)
param MimecastBaseURL string = 'https://api.services.mimecast.com'

@description('Client id of the API 2.0 application in the Mimecast console.')
@minLength(1)
param MimecastClientID string

@description('Its client secret. It is put into the key vault that is deployed.')
@minLength(1)
@secure()
param MimecastClientSecret string

@description('Name of the table without the _CL that Azure adds: a letter, then letters, digits and underscores.')
@minLength(1)
@maxLength(42)
param MimecastCITableName string = 'Cloud_Integrated'

@description('Events that no rule needs live go to a second, cheaper table, Cloud_Integrated_Cheap_CL. Mailflow: the results of authentication. WithoutThreat: these and each message without a threat, tag of one or disabled policies. Rules that need such events are not deployed; the output rulesLeftOut names them. docs/DEPLOY-DETAILS.md says what else changes.')
@allowed(['None', 'Mailflow', 'WithoutThreat'])
param CheapEvents string = 'None'

@description('The plan of that table, which is not changed later. Auxiliary costs least, is the slowest to query, and is in Azure\'s public cloud only.')
@allowed(['Basic', 'Auxiliary'])
param CheapPlan string = 'Basic'

@description('First day to read, in UTC, as yyyy-mm-dd. Blank is 60 days ago. Mimecast keeps less, so that the first run begins at the oldest day it accepts.')
@maxLength(10)
param StartDate string = ''

@description('When to pull, in UTC: second, minute, hour, day, month and weekday, with at least 10 minutes between two runs. The default is every 15 minutes.')
@minLength(11)
param Schedule string = '0 */15 * * * *'

@description('Whether Microsoft Entra ID Protection\'s risk detections and risky users are read too, into two more tables. It takes rights of Microsoft Graph, which somebody of the tenant grants (docs/DEPLOY-DETAILS.md, Identity and directory), and is not in Azure in China.')
param EnableEntraRisk bool = false

@description('When to read risk, in UTC, written like Schedule. The default is every 15 minutes.')
@minLength(11)
param EntraRiskSchedule string = '0 */15 * * * *'

@description('First day of the risk detections to read, in UTC, as yyyy-mm-dd; Microsoft keeps 7 to 90 days by licence. Blank is from the first run on.')
@maxLength(10)
param EntraRiskStartDate string = ''

@description('Whether the users, groups and members of groups of Microsoft Entra\'s directory are read too, into three more tables. It takes rights of Microsoft Graph, which somebody of the tenant grants (docs/DEPLOY-DETAILS.md, Identity and directory).')
param EnableDirectory bool = false

@description('When to read the directory, in UTC, written like Schedule. The default is every hour.')
@minLength(11)
param DirectorySchedule string = '0 0 * * * *'

@description('After how many days the whole directory is read again; in between, what has changed.')
@minValue(1)
@maxValue(13)
param DirectoryRoundDays int = 7

@description('Blank, with the next two, to read Microsoft Graph as the app\'s managed identity, which needs no secret. Else the client id of an application of the tenant whose risk and directory are read; id, secret and tenant are given together, or the deployment is refused.')
param EntraClientID string = ''

@description('Blank for the managed identity, else that application\'s secret. It is put into the key vault that is deployed.')
@secure()
param EntraClientSecret string = ''

@description('Blank for the managed identity, else the tenant whose risk and directory are read.')
param EntraTenantID string = ''

@description('How much the connector logs in Application Insights. It never logs an event\'s content.')
@allowed(['Debug', 'Info', 'Error', 'Warning'])
param LogLevel string = 'Info'

@description('Resource id of the workspace that the connector\'s own logs go to. Blank is the Microsoft Sentinel workspace.')
param AppInsightsWorkspaceResourceID string = ''

@description('Blank, with the next three, to use the app\'s managed identity, which needs no secret. Else the client id of an app registration; id, secret and tenant are given together, or the deployment is refused.')
param AzureClientID string = ''

@description('Blank for the managed identity, else that app registration\'s secret. It is put into the key vault that is deployed.')
@secure()
param AzureClientSecret string = ''

@description('Blank for the managed identity, else that app registration\'s tenant.')
param AzureTenantID string = ''

@description('Blank for the managed identity, else the object id of that app registration\'s service principal (Enterprise applications), which gets the role on the data collection rule. Left blank beside a secret, the role is yours to give.')
param AzureEntraObjectID string = ''

@description('URL of the connector\'s deployment package, read without a sign-in. Nothing checks what it answers with: whoever controls that address supplies the program that gets Mimecast\'s secret. Give no URL with a signature (SAS): it would stay readable in the deployment\'s history. Blank deploys everything but the program, to push a package of your own.')
param PackageUri string = ''

@description('Automatic is FlexConsumption in Azure\'s public cloud and ElasticPremium in the others, which lacked it in 2026. FlexConsumption is billed by use; ElasticPremium (EP1) costs a fixed sum each month.')
@allowed(['Automatic', 'FlexConsumption', 'ElasticPremium'])
param HostingPlan string = 'Automatic'

@description('Whether the app gets a virtual network of its own, from which alone its storage and its key vault are reached. The ingestion endpoint stays public over TLS; docs/DEPLOY-DETAILS.md says why.')
param EnablePrivateNetworking bool = false

@description('Addresses of that virtual network, a /24 or larger. Used with EnablePrivateNetworking only, and only while that network is not there.')
param VirtualNetworkAddressPrefix string = '10.214.0.0/24'

@description('After how many days quarantined events, which hold personal data, are deleted.')
@minValue(7)
@maxValue(3650)
param QuarantineRetentionDays int = 90

@description('Whether the key vault is protected from being purged, as some policies demand. It cannot be switched off again: a deleted vault then keeps its name for 7 days and is recovered, not made anew.')
param VaultPurgeProtection bool = false

@description('Who gets an email when the connector is silent, puts events in quarantine, or rows are dropped. Blank shows the alerts in Azure Monitor only.')
param AlertEmail string = ''

@description('For how long no run may succeed before an alert is raised. Give at least two of the schedule\'s longest pauses: PT3H suits a schedule of every hour or faster, not one of every 6 hours.')
@allowed(['PT1H', 'PT2H', 'PT3H', 'PT6H', 'P1D', 'P2D'])
param SilenceAlertWindow string = 'PT3H'

@description('Whether to deploy the alerts on silence, on quarantined events and on dropped rows.')
param DeployAlerts bool = true

@description('Whether to deploy the functions MimecastCI, MimecastCIByRecipient and MimecastCIRows, which all other content reads from, those that say what is the organisation\'s own, and MimecastCloudIntegrated, for queries written for the vendor\'s. One of these names, such as the vendor\'s, is replaced.')
param DeployParser bool = true

@description('Enabled and Disabled deploy the analytic rules that are missing, on or off (to be switched on one by one in Microsoft Sentinel), and leave a rule that is there as it is. ReplaceEnabled and ReplaceDisabled also set each rule that is there to this version\'s text, thresholds and switch, whatever was changed in it. None deploys no rule.')
@allowed(['Enabled', 'Disabled', 'ReplaceEnabled', 'ReplaceDisabled', 'None'])
param DeployAnalyticsRules string = 'Disabled'

@description('Whether to deploy the hunting queries.')
param DeployHuntingQueries bool = true

@description('Whether to deploy the workbooks.')
param DeployWorkbook bool = true

@description('Whether to deploy the page among Microsoft Sentinel\'s data connectors.')
param DeployConnectorPage bool = true

@description('Whether to show the content in Microsoft Sentinel\'s Content hub as a package, with a template and a version of each piece, so that newer rules are offered as updates. Leave it out once the package was deleted there, or it comes back.')
param DeployContentPackage bool = true

@description('Whether the function Status answers: a page that shows how each stream is, to whoever has its address with its key.')
param StatusPage bool = true

@description('Whether a service provider deploys this into a customer\'s subscription through Azure Lighthouse. Roles are then given the way Lighthouse needs it.')
param DeployedThroughLighthouse bool = false

@description('Tags for each resource that takes some, as an object of names and values. Each deployment sets these and no others.')
param Tags object = {}

// There are no patterns in this language: uriComponent changes what is no letter, digit or sign of these.
var letters = 'abcdefghijklmnopqrstuvwxyz'
var signs = ['.', '~', '!', '*', '(', ')', '\'']

// An existing deployment is found again by these names: they do not change.
var unique = uniqueString(resourceGroup().id, toLower(FunctionName))
var appName = contains(letters, toLower(substring(FunctionName, 0, 1))) && uriComponent(FunctionName) == FunctionName && empty(filter(
    concat(signs, ['_']),
    sign => contains(FunctionName, sign)
  ))
  ? toLower('${FunctionName}-${unique}')
  : fail('FunctionName has a letter first, then letters, digits and hyphens.')
var storageName = 'mimecast${unique}'
var vaultName = 'mimecast-${unique}'

var givenWorkspaceId = !empty(WorkspaceResourceId)
  ? WorkspaceResourceId
  : !empty(WorkspaceName)
      ? '${resourceGroup().id}/providers/Microsoft.OperationalInsights/workspaces/${WorkspaceName}'
      : fail('Give WorkspaceName, for a workspace in this resource group, or WorkspaceResourceId, for one elsewhere.')
var givenLogsWorkspaceId = empty(AppInsightsWorkspaceResourceID) ? givenWorkspaceId : AppInsightsWorkspaceResourceID
// An id is that of a workspace if it is the same when it is put together again. The blanks keep an
// index from being out of bounds.
var blanks = split('////////', '/')
var workspaceShape = '/subscriptions/{0}/resourceGroups/{1}/providers/Microsoft.OperationalInsights/workspaces/{2}'
var isWorkspace = map(
  [givenWorkspaceId, givenLogsWorkspaceId],
  id =>
    toLower(id) == toLower(format(
      workspaceShape,
      concat(split(id, '/'), blanks)[2],
      concat(split(id, '/'), blanks)[4],
      concat(split(id, '/'), blanks)[8]
    )) && !contains('${id}/', '//') && uriComponent(last(split(id, '/'))) == last(split(id, '/'))
)
var workspaceId = isWorkspace[0]
  ? givenWorkspaceId
  : fail('WorkspaceResourceId (or WorkspaceName) is not a workspace\'s: ${format(workspaceShape, '…', '…', '…')}')
var logsWorkspaceId = isWorkspace[1]
  ? givenLogsWorkspaceId
  : fail('AppInsightsWorkspaceResourceID is not a workspace\'s: ${format(workspaceShape, '…', '…', '…')}')
var workspaceSubscription = split(workspaceId, '/')[2]
var workspaceGroup = split(workspaceId, '/')[4]

// Id, secret and tenant of an app registration are given together; without them there is none.
var given = [!empty(AzureClientID), !empty(AzureClientSecret), !empty(AzureTenantID)]
var useAppRegistration = !contains(given, false)
  ? true
  : !contains(given, true) && empty(AzureEntraObjectID)
      ? false
      : fail('AzureClientID, AzureClientSecret and AzureTenantID: give all or none, and AzureEntraObjectID only with them.')

var sources = concat(
  ['cloud-integrated'],
  !EnableEntraRisk
    ? []
    : environment().name == 'AzureChinaCloud'
        ? fail('EnableEntraRisk: Azure in China has no such API. Give EnableEntraRisk=false.')
        : ['entra-risk'],
  EnableDirectory ? ['directory'] : []
)
var givenOfEntra = [!empty(EntraClientID), !empty(EntraClientSecret), !empty(EntraTenantID)]
var useEntraApplication = !contains(givenOfEntra, false)
  ? EnableEntraRisk || EnableDirectory
      ? true
      : fail('EntraClientID, EntraClientSecret and EntraTenantID are used with EnableEntraRisk or EnableDirectory only.')
  : !contains(givenOfEntra, true)
      ? false
      : fail('EntraClientID, EntraClientSecret and EntraTenantID: give all or none.')

// Flex Consumption is in Azure's public cloud only.
var flexConsumption = HostingPlan == 'FlexConsumption' || (HostingPlan == 'Automatic' && environment().name == 'AzureCloud')

var addressParts = concat(split(VirtualNetworkAddressPrefix, '/'), [''])
var addressPrefix = length(split(addressParts[0], '.')) == 4 && contains(
    map(range(8, 17), bits => string(bits)),
    addressParts[1]
  )
  ? cidrSubnet(VirtualNetworkAddressPrefix, 26, 0) == '${addressParts[0]}/26'
      ? VirtualNetworkAddressPrefix
      : fail('VirtualNetworkAddressPrefix does not begin at its network\'s first address.')
  : fail('VirtualNetworkAddressPrefix is an IPv4 network of /8 to /24, such as 10.214.0.0/24.')

// The wizard's control gives them by type of resource. (`.?` and tryGet, which it becomes, are not
// known to be in every cloud.)
var tags = contains(Tags, 'Microsoft.Web/sites') ? Tags['Microsoft.Web/sites'] : Tags

// In lower case and without their _CL; a test holds them to modules/sources-list.bicep.
var tablesOfSources = [
  'entrariskdetections'
  'entrariskyusers'
  'directoryusers'
  'directorygroups'
  'directorygroupmembers'
]
var tableName = contains(letters, toLower(substring(MimecastCITableName, 0, 1))) && uriComponent(MimecastCITableName) == MimecastCITableName && empty(filter(
    concat(signs, ['-']),
    sign => contains(MimecastCITableName, sign)
  ))
  ? endsWith(toLower(MimecastCITableName), '_cl')
      ? fail('MimecastCITableName is given without the _CL that Azure adds.')
      : toLower('${MimecastCITableName}_CL') == toLower(healthTableName)
          ? fail('MimecastCITableName is the name of the table that the connector reports its health to; give another.')
          : toLower('${MimecastCITableName}_CL') == toLower(cheapTableName)
              ? fail('MimecastCITableName is the name of the table that CheapEvents makes; give another.')
              : contains(tablesOfSources, toLower(MimecastCITableName))
                  ? fail('MimecastCITableName is the name of the table of another source; give another.')
                  : '${MimecastCITableName}_CL'
  : fail('MimecastCITableName has a letter first, then letters, digits and underscores.')
var streamName = 'Custom-${MimecastCITableName}'
var healthTableName = 'MimecastConnectorHealth_CL'
var healthStreamName = 'Custom-MimecastConnectorHealth'

var cheapTableName = 'Cloud_Integrated_Cheap_CL'
var cheapTableIfAny = CheapEvents == 'None' ? '' : cheapTableName
var cheap = filter(loadJsonContent('cheap.json'), choice => choice.name == CheapEvents)[0]
var cheapPlan = CheapEvents != 'None' && CheapPlan == 'Auxiliary' && environment().name != 'AzureCloud'
  ? fail('CheapPlan Auxiliary is in Azure\'s public cloud only. Give CheapPlan=Basic.')
  : CheapPlan
var columns = loadJsonContent('../sentinel/schema/table.json').columns

var blobUri = 'https://${storageName}.blob.${environment().suffixes.storage}/'
var packageContainer = 'app-package'
var checkpointContainer = 'checkpoints'

resource workspace 'Microsoft.OperationalInsights/workspaces@2022-10-01' existing = {
  name: split(workspaceId, '/')[8]
  scope: resourceGroup(workspaceSubscription, workspaceGroup)
}

module storage 'modules/storage.bicep' = {
  name: '${appName}-storage'
  params: {
    location: Location
    tags: tags
    storageName: storageName
    containers: [packageContainer, checkpointContainer]
    quarantinePrefix: '${checkpointContainer}/quarantine/'
    quarantineRetentionDays: QuarantineRetentionDays
    closeNetwork: EnablePrivateNetworking
    vaultName: vaultName
    purgeProtection: VaultPurgeProtection
    mimecastClientSecret: MimecastClientSecret
    useAppRegistration: useAppRegistration
    azureClientSecret: AzureClientSecret
    useEntraApplication: useEntraApplication
    entraClientSecret: EntraClientSecret
    logsWorkspaceId: logsWorkspaceId
  }
}

module network 'modules/network.bicep' = if (EnablePrivateNetworking) {
  name: '${appName}-network'
  params: {
    location: Location
    tags: tags
    name: appName
    addressPrefix: addressPrefix
    flexConsumption: flexConsumption
    storageName: storageName
    vaultName: vaultName
  }
  dependsOn: [storage]
}

module table 'modules/table.bicep' = {
  name: '${appName}-table'
  scope: resourceGroup(workspaceSubscription, workspaceGroup)
  params: {
    appName: appName
    workspaceName: workspace.name
    tableName: tableName
    columns: columns
  }
}

module cheapTable 'modules/table.bicep' = if (CheapEvents != 'None') {
  name: '${appName}-cheap'
  scope: resourceGroup(workspaceSubscription, workspaceGroup)
  params: {
    appName: '${appName}-cheap'
    workspaceName: workspace.name
    tableName: cheapTableName
    // An Auxiliary table has no dynamic columns; the rule makes text of them.
    columns: map(columns, column => column.type == 'dynamic' ? union(column, { type: 'string' }) : column)
    plan: cheapPlan
  }
}

module healthTable 'modules/table.bicep' = {
  name: '${appName}-health'
  scope: resourceGroup(workspaceSubscription, workspaceGroup)
  params: {
    appName: '${appName}-health'
    workspaceName: workspace.name
    tableName: healthTableName
    columns: loadJsonContent('../sentinel/schema/MimecastConnectorHealth_CL.table.json').columns
  }
}

module sourceTables 'modules/source-tables.bicep' = if (EnableEntraRisk || EnableDirectory) {
  name: '${appName}-source-tables'
  scope: resourceGroup(workspaceSubscription, workspaceGroup)
  params: {
    appName: appName
    workspaceName: workspace.name
    sources: sources
  }
}

module rule 'modules/rule.bicep' = {
  name: '${appName}-rule'
  params: {
    location: workspace.location
    tags: tags
    name: appName
    workspaceId: workspaceId
    streamName: streamName
    tableName: tableName
    healthStreamName: healthStreamName
    healthTableName: healthTableName
    cheap: cheap.cheap
    cheapTableName: cheapTableName
    sources: sources
  }
  dependsOn: [table, healthTable, cheapTable, sourceTables]
}

module app 'modules/app.bicep' = {
  name: '${appName}-app'
  params: {
    location: Location
    tags: tags
    name: appName
    flexConsumption: flexConsumption
    privateNetworking: EnablePrivateNetworking
    storageName: storageName
    blobUri: blobUri
    packageContainer: packageContainer
    packageUri: PackageUri
    vaultName: vaultName
    logsWorkspaceId: logsWorkspaceId
    ruleName: appName
    useAppRegistration: useAppRegistration
    azureObjectId: AzureEntraObjectID
    useEntraApplication: useEntraApplication
    throughLighthouse: DeployedThroughLighthouse
    settings: union(
      {
        SOURCES: join(sources, ',')
        MIMECAST_BASE_URL: MimecastBaseURL
        MIMECAST_CLIENT_ID: MimecastClientID
        SCHEDULE: Schedule
        // The host looks these up for a source that is off too.
        ENTRA_RISK_SCHEDULE: EntraRiskSchedule
        DIRECTORY_SCHEDULE: DirectorySchedule
        START_DATE: StartDate
        LOG_LEVEL: LogLevel
        LOGS_INGESTION_ENDPOINT: rule.outputs.endpoint
        LOGS_INGESTION_RULE_ID: rule.outputs.immutableId
        LOGS_INGESTION_STREAM: streamName
        HEALTH_STREAM: healthStreamName
        CHECKPOINT_URL: '${blobUri}${checkpointContainer}'
        // The program compares it with its own.
        TEMPLATE_VERSION: trim(loadTextContent('../sentinel/version.txt'))
      },
      useAppRegistration ? { AZURE_CLIENT_ID: AzureClientID, AZURE_TENANT_ID: AzureTenantID } : {},
      useEntraApplication ? { ENTRA_CLIENT_ID: EntraClientID, ENTRA_TENANT_ID: EntraTenantID } : {},
      // The host's own way of not running a function of the package: a timer of a source that is off would
      // start an instance all day.
      EnableEntraRisk ? { ENTRA_RISK_START_DATE: EntraRiskStartDate } : { 'AzureWebJobs.EntraRisk.Disabled': 'true' },
      EnableDirectory ? { DIRECTORY_ROUND_DAYS: string(DirectoryRoundDays) } : { 'AzureWebJobs.Directory.Disabled': 'true' },
      StatusPage ? {} : { 'AzureWebJobs.Status.Disabled': 'true' }
    )
  }
  dependsOn: [storage, network]
}

module alerts 'modules/alerts.bicep' = if (DeployAlerts) {
  name: '${appName}-alerts'
  params: {
    location: Location
    tags: tags
    name: appName
    email: AlertEmail
    silenceWindow: SilenceAlertWindow
    cheapEvents: CheapEvents != 'None'
  }
  dependsOn: [app]
}

module content 'modules/content.bicep' = {
  name: '${appName}-content'
  scope: resourceGroup(workspaceSubscription, workspaceGroup)
  params: {
    tags: tags
    workspaceName: workspace.name
    tableName: tableName
    cheapTableName: cheapTableIfAny
    deployParser: DeployParser
    deployHuntingQueries: DeployHuntingQueries
    deployWorkbook: DeployWorkbook
    deployConnectorPage: DeployConnectorPage
  }
  dependsOn: [table, healthTable, cheapTable]
}

// A workspace that takes no packages gets all else: nothing waits for this.
module package 'modules/package.bicep' = if (DeployContentPackage) {
  name: '${appName}-content-package'
  scope: resourceGroup(workspaceSubscription, workspaceGroup)
  params: {
    workspaceName: workspace.name
    location: workspace.location
    tableName: tableName
    cheapEvents: CheapEvents
    deployParser: DeployParser
    deployHuntingQueries: DeployHuntingQueries
    deployWorkbook: DeployWorkbook
    deployConnectorPage: DeployConnectorPage
  }
  dependsOn: [content]
}

// Microsoft Sentinel checks a rule's query when it is made, and has refused rules whose function was
// seconds old: the app, which takes minutes, comes between.
module rulesIfMissing 'modules/rules-if-missing.bicep' = if (contains(['Enabled', 'Disabled'], DeployAnalyticsRules)) {
  name: '${appName}-rules-if-missing'
  scope: resourceGroup(workspaceSubscription, workspaceGroup)
  params: {
    workspaceName: workspace.name
    enabled: DeployAnalyticsRules == 'Enabled'
    cheapEvents: CheapEvents
    ofPackage: DeployContentPackage
  }
  dependsOn: [content, app]
}

module rulesReplaced 'modules/rules.bicep' = if (startsWith(DeployAnalyticsRules, 'Replace')) {
  name: '${appName}-rules-replaced'
  scope: resourceGroup(workspaceSubscription, workspaceGroup)
  params: {
    workspaceName: workspace.name
    enabled: DeployAnalyticsRules == 'ReplaceEnabled'
    cheapEvents: CheapEvents
    ofPackage: DeployContentPackage
  }
  dependsOn: [content, app]
}

output functionAppName string = appName
output functionAppPrincipalId string = app.outputs.principalId
output storageAccountId string = resourceId('Microsoft.Storage/storageAccounts', storageName)
output checkpointUrl string = '${blobUri}${checkpointContainer}'
output keyVaultName string = vaultName
output table string = tableName
output cheapTable string = cheapTableIfAny
output rulesLeftOut array = cheap.rulesLeftOut
output dataCollectionRuleId string = resourceId('Microsoft.Insights/dataCollectionRules', appName)
