// What analysts use in the workspace, but for the analytic rules: the parser, the hunting queries,
// the workbooks and the data connector's page. It can be deployed alone, into the workspace's group.

import { connectorPage, defaultTable, functions, functionSearch, huntingQueries, huntingSearch } from 'content-list.bicep'

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

resource workspace 'Microsoft.OperationalInsights/workspaces@2022-10-01' existing = {
  name: workspaceName

  @batchSize(1)
  resource parser 'savedSearches@2020-08-01' = [
    for function in functions: if (deployParser) {
      name: function.FunctionName
      properties: functionSearch(function, tableName)
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
      properties: huntingSearch(query)
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

resource page 'Microsoft.SecurityInsights/dataConnectorDefinitions@2024-09-01' = if (deployConnectorPage) {
  name: connectorPage(tableName).id
  scope: workspace
  kind: 'Customizable'
  properties: {
    connectorUiConfig: connectorPage(tableName)
  }
}
