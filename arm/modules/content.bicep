// What analysts use in the workspace, but for the analytic rules: the parser, the hunting queries,
// the workbooks and the data connector's page. It can be deployed alone, into the workspace's group.

@description('Name of the workspace, in the resource group that is deployed to.')
param workspaceName string
@description('Tags for the workbooks. Each deployment sets these and no others.')
param tags object = {}
@description('The whole name of the table that the parser reads, with its _CL.')
param tableName string = 'Cloud_Integrated_CL'
@description('Whether to deploy the functions of sentinel/parser, such as MimecastCI and MimecastCloudIntegrated. One of these names, such as the vendor\'s, is replaced.')
param deployParser bool = true
@description('The whole name of the table for cheap events, with its _CL, if there is one. The query that reads it too is deployed with the functions.')
param cheapTableName string = ''
param deployHuntingQueries bool = true
param deployWorkbook bool = true
param deployConnectorPage bool = true

// The table as the files in sentinel/ name it.
var defaultTable = 'Cloud_Integrated_CL'

// Another table is read beside the default one, which has the rows of the time before.
var read = '(Cloud_Integrated_CL | extend IngestionTime = ingestion_time() | invoke rows())'
var readBoth = endsWith(toLower(tableName), '_cl')
  ? '${read}, ${replace(read, defaultTable, tableName)}'
  : fail('tableName is the whole name of the table, with its _CL.')

// All of sentinel/parser, each after those that it calls.
var functions = [
  loadYamlContent('../../sentinel/parser/MimecastCIRows.yaml')
  loadYamlContent('../../sentinel/parser/MimecastCI.yaml')
  loadYamlContent('../../sentinel/parser/MimecastCIByRecipient.yaml')
  loadYamlContent('../../sentinel/parser/MimecastCloudIntegrated.yaml')
  loadYamlContent('../../sentinel/parser/MimecastFreeMail.yaml')
  loadYamlContent('../../sentinel/parser/MimecastOwnDomains.yaml')
  loadYamlContent('../../sentinel/parser/MimecastVips.yaml')
  loadYamlContent('../../sentinel/parser/MimecastSimulations.yaml')
  loadYamlContent('../../sentinel/parser/vimEmailEventMimecastCloudIntegrated.yaml')
  loadYamlContent('../../sentinel/parser/ASimEmailEventMimecastCloudIntegrated.yaml')
]

// All of sentinel/hunting; a test holds this list to the folder.
var huntingQueries = [
  loadYamlContent('../../sentinel/hunting/AttachmentsOnDevices.yaml')
  loadYamlContent('../../sentinel/hunting/ClicksSeenByDefender.yaml')
  loadYamlContent('../../sentinel/hunting/FirstSeenSenderDomain.yaml')
  loadYamlContent('../../sentinel/hunting/FromDiffersFromEnvelope.yaml')
  loadYamlContent('../../sentinel/hunting/InternalMassMail.yaml')
  loadYamlContent('../../sentinel/hunting/LinkLeadsElsewhere.yaml')
  loadYamlContent('../../sentinel/hunting/PaymentAndCredentialLures.yaml')
  loadYamlContent('../../sentinel/hunting/PoliciesThatLetThrough.yaml')
  loadYamlContent('../../sentinel/hunting/SenderChangedNetwork.yaml')
  loadYamlContent('../../sentinel/hunting/SmugglingAttachments.yaml')
  loadYamlContent('../../sentinel/hunting/ThreatIntelligenceMatches.yaml')
  loadYamlContent('../../sentinel/hunting/ThreatsInHistoricalMail.yaml')
  loadYamlContent('../../sentinel/hunting/WhatMimecastSays.yaml')
  loadYamlContent('../../sentinel/hunting/WhoClicks.yaml')
  loadYamlContent('../../sentinel/hunting/WhoFailsDmarc.yaml')
]

var page = json(replace(
  string(loadJsonContent('../../sentinel/connector/MimecastCloudIntegrated.json')),
  defaultTable,
  tableName
))

resource workspace 'Microsoft.OperationalInsights/workspaces@2022-10-01' existing = {
  name: workspaceName

  @batchSize(1)
  resource parser 'savedSearches@2020-08-01' = [
    for function in functions: if (deployParser) {
      name: function.FunctionName
      properties: union(
        {
          // It takes the place of one that is there. Bicep's types lack it; without it, or beside
          // `properties`, the service refuses a second deployment.
          etag: '*'
          category: 'Microsoft Sentinel Parser'
          displayName: function.FunctionName
          functionAlias: function.FunctionAlias
          query: tableName == defaultTable ? function.FunctionQuery : replace(function.FunctionQuery, read, readBoth)
          version: 2
        },
        contains(function, 'FunctionParams')
          ? {
              functionParameters: join(
                map(function.FunctionParams, one => '${one.Name}:${one.Type}=${one.Default}'),
                ','
              )
            }
          : {}
      )
    }
  ]

  // No function: a query of a Basic or Auxiliary table may call none.
  resource everything 'savedSearches@2020-08-01' = if (deployParser && !empty(cheapTableName)) {
    name: 'MimecastCIAll'
    properties: {
      #disable-next-line BCP037
      etag: '*'
      category: 'Mimecast Cloud Integrated'
      displayName: 'MimecastCIAll'
      query: replace(loadTextContent('../../sentinel/parser/MimecastCIAll.kql'), defaultTable, tableName)
      version: 2
    }
  }

  resource hunting 'savedSearches@2020-08-01' = [
    for query in huntingQueries: if (deployHuntingQueries) {
      name: query.id
      properties: {
        #disable-next-line BCP037
        etag: '*'
        category: 'Hunting Queries'
        displayName: query.name
        query: query.query
        version: 2
        tags: [
          { name: 'description', value: trim(query.description) }
          { name: 'tactics', value: join(query.tactics, ',') }
          { name: 'techniques', value: join(query.relevantTechniques, ',') }
        ]
      }
    }
  ]
}

module workbooks 'workbooks.bicep' = if (deployWorkbook) {
  name: '${deployment().name}-workbooks'
  params: {
    // The workspace's region, which may be another than its group's.
    location: workspace.location
    tags: tags
    workspaceName: workspaceName
  }
}

resource connectorPage 'Microsoft.SecurityInsights/dataConnectorDefinitions@2024-09-01' = if (deployConnectorPage) {
  name: page.id
  scope: workspace
  kind: 'Customizable'
  properties: {
    connectorUiConfig: {
      id: page.id
      title: page.title
      publisher: page.publisher
      descriptionMarkdown: page.descriptionMarkdown
      graphQueries: page.graphQueries
      // Bicep's types lack it; the portal reads it.
      #disable-next-line BCP037
      sampleQueries: page.sampleQueries
      dataTypes: page.dataTypes
      // The name that the older kind of definition, and with it the file, has for it.
      connectivityCriteria: page.connectivityCriterias
      availability: page.availability
      permissions: page.permissions
      instructionSteps: page.instructionSteps
    }
  }
}
