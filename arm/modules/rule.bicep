// The data collection rule, which takes the rows and writes the tables, in the workspace's region. Azure
// takes at most 10 streams and 10 flows of a rule.

import { sourceTables } from 'sources-list.bicep'

param location string
param tags object
param name string
param workspaceId string
param streamName string
param tableName string
param healthStreamName string
param healthTableName string
@description('Which rows go to the cheap table, as a condition of KQL after the transform; blank is none.')
param cheap string
param cheapTableName string
@description('The sources that are on.')
param sources array

var schema = loadJsonContent('../../sentinel/schema/rule.json')
// Each row is in exactly one table: what the condition says of one is neither true nor false if it is
// null, and iif() takes that for false.
var mark = 'where iif(${cheap}, 1, 0) =='
// As strings in the cheap table; see main.bicep.
var asText = join(
  map(
    filter(loadJsonContent('../../sentinel/schema/table.json').columns, column => column.type == 'dynamic'),
    column => '${column.name} = tostring(${column.name})'
  ),
  ', '
)
var others = filter(sourceTables, one => contains(sources, one.source))
var healthSchema = loadJsonContent('../../sentinel/schema/MimecastConnectorHealth_CL.rule.json')

resource rule 'Microsoft.Insights/dataCollectionRules@2023-03-11' = {
  name: name
  location: location
  tags: tags
  kind: 'Direct'
  properties: {
    description: 'Takes Mimecast Cloud Integrated events, the rows of other sources that are on, and how the connector is, from mimecast-sentinel.'
    streamDeclarations: reduce(
      map(others, one => one.rule.streamDeclarations),
      {
        '${streamName}': { columns: schema.streamDeclarations['Custom-Cloud_Integrated'].columns }
        '${healthStreamName}': { columns: healthSchema.streamDeclarations['Custom-MimecastConnectorHealth'].columns }
      },
      (all, own) => union(all, own)
    )
    destinations: {
      logAnalytics: [{ name: 'workspace', workspaceResourceId: workspaceId }]
    }
    dataFlows: concat(
      [
        {
          streams: [streamName]
          destinations: ['workspace']
          transformKql: empty(cheap) ? schema.transformKql : '${schema.transformKql} | ${mark} 0'
          outputStream: 'Custom-${tableName}'
        }
        {
          streams: [healthStreamName]
          destinations: ['workspace']
          transformKql: healthSchema.transformKql
          outputStream: 'Custom-${healthTableName}'
        }
      ],
      empty(cheap)
        ? []
        : [
            {
              streams: [streamName]
              destinations: ['workspace']
              transformKql: '${schema.transformKql} | ${mark} 1 | extend ${asText}'
              outputStream: 'Custom-${cheapTableName}'
            }
          ],
      map(others, one => {
        streams: objectKeys(one.rule.streamDeclarations)
        destinations: ['workspace']
        transformKql: one.rule.transformKql
        outputStream: 'Custom-${one.table.name}'
      })
    )
  }
}

// An accepted post says nothing of what the rule then could not do; this does.
resource errors 'Microsoft.Insights/diagnosticSettings@2021-05-01-preview' = {
  name: 'ingestion-errors'
  scope: rule
  properties: {
    workspaceId: workspaceId
    logs: [{ category: 'LogErrors', enabled: true }]
  }
}

output immutableId string = rule.properties.immutableId
output endpoint string = rule.properties.endpoints.logsIngestion
