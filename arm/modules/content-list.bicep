// The functions, the hunting queries and the data connector's page, as the services take them.

// The table as the files in sentinel/ name it.
@export()
var defaultTable = 'Cloud_Integrated_CL'

// Another table is read beside the default one, which has the rows of the time before.
var read = '(Cloud_Integrated_CL | extend IngestionTime = ingestion_time() | invoke rows())'

// All of sentinel/parser, each after those that it calls.
@export()
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
  loadYamlContent('../../sentinel/parser/IdentityUsers.yaml')
  loadYamlContent('../../sentinel/parser/IdentityAddresses.yaml')
  loadYamlContent('../../sentinel/parser/IdentityGroupMembers.yaml')
  loadYamlContent('../../sentinel/parser/IdentityRisk.yaml')
  loadYamlContent('../../sentinel/parser/IdentityRiskOpen.yaml')
  loadYamlContent('../../sentinel/parser/IdentityRiskyUsers.yaml')
]

// All of sentinel/hunting; a test holds this list to the folder.
@export()
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

var pageFile = loadJsonContent('../../sentinel/connector/MimecastCloudIntegrated.json')

func readBoth(tableName string) string =>
  endsWith(toLower(tableName), '_cl')
    ? '${read}, ${replace(read, defaultTable, tableName)}'
    : fail('tableName is the whole name of the table, with its _CL.')

@export()
func functionSearch(function object, tableName string) object =>
  union(
    {
      // It takes the place of one that is there. Bicep's types lack it; without it, or beside
      // `properties`, the service refuses a second deployment.
      etag: '*'
      category: 'Microsoft Sentinel Parser'
      displayName: function.FunctionName
      functionAlias: function.FunctionAlias
      query: tableName == defaultTable
        ? function.FunctionQuery
        : replace(function.FunctionQuery, read, readBoth(tableName))
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

@export()
func huntingSearch(query object) object => {
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

@export()
func connectorPage(tableName string) object => page(json(replace(string(pageFile), defaultTable, tableName)))

func page(file object) object => {
  id: file.id
  title: file.title
  publisher: file.publisher
  descriptionMarkdown: file.descriptionMarkdown
  graphQueries: file.graphQueries
  // Bicep's types lack it; the portal reads it.
  sampleQueries: file.sampleQueries
  dataTypes: file.dataTypes
  // The name that the older kind of definition, and with it the file, has for it.
  connectivityCriteria: file.connectivityCriterias
  availability: file.availability
  permissions: file.permissions
  instructionSteps: file.instructionSteps
}
