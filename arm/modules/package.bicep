// The content as a package of Content hub, with a template and a version of each piece: Microsoft Sentinel
// offers a newer template to a rule that was made of an older one. Nothing else waits for it.

import { connectorPage, defaultTable, functions, functionSearch, huntingQueries, huntingSearch } from 'content-list.bicep'
import { metadata, packageOf, solution, templateName, templateOf } from 'package-list.bicep'
import { rules } from 'rules-list.bicep'
import { workbooks } from 'workbooks-list.bicep'

@description('Name of the workspace, in the resource group that is deployed to.')
param workspaceName string
@description('The workspace\'s region.')
param location string
@description('The whole name of the table that the parser reads, with its _CL.')
param tableName string = 'Cloud_Integrated_CL'
@description('The template\'s CheapEvents: rules that need the events of the cheap table are left out.')
param cheapEvents string = 'None'
@description('What else is deployed, which then belongs to the package.')
param deployParser bool = true
param deployHuntingQueries bool = true
param deployWorkbook bool = true
param deployConnectorPage bool = true

resource workspace 'Microsoft.OperationalInsights/workspaces@2022-10-01' existing = {
  name: workspaceName
}

var searches = 'Microsoft.OperationalInsights/workspaces/savedSearches'
var page = connectorPage(tableName)

var ofRules = map(rules[cheapEvents], rule => {
  kind: 'AnalyticsRule'
  id: rule.id
  version: rule.version
  name: rule.properties.displayName
  there: false
  madeId: resourceId('Microsoft.SecurityInsights/AlertRuleTemplates', rule.id)
  made: {
    type: 'Microsoft.SecurityInsights/AlertRuleTemplates'
    apiVersion: '2022-11-01'
    name: rule.id
    kind: 'Scheduled'
    properties: union(rule.properties, {
      enabled: false
      status: 'Available'
      requiredDataConnectors: json(replace(string(rule.requiredDataConnectors), defaultTable, tableName))
    })
  }
})
var ofHuntingQueries = map(huntingQueries, query => {
  kind: 'HuntingQuery'
  id: query.id
  version: query.version
  name: query.name
  there: deployHuntingQueries
  madeId: resourceId(searches, workspaceName, query.id)
  made: {
    type: searches
    apiVersion: '2020-08-01'
    name: '${workspaceName}/${query.id}'
    properties: huntingSearch(query)
  }
})
var ofFunctions = map(functions, function => {
  kind: 'Parser'
  id: '${function.FunctionName}-Parser'
  version: function.Function.Version
  name: function.Function.Title
  there: deployParser
  madeId: resourceId(searches, workspaceName, function.FunctionName)
  made: {
    type: searches
    apiVersion: '2020-08-01'
    name: '${workspaceName}/${function.FunctionName}'
    properties: functionSearch(function, tableName)
  }
})
var ofWorkbooks = map(workbooks, book => {
  kind: 'Workbook'
  id: '${book.id}-Workbook'
  version: solution.version
  name: book.name
  there: deployWorkbook
  madeId: resourceId('Microsoft.Insights/workbooks', guid(toLower(workspace.id), book.id))
  made: {
    type: 'Microsoft.Insights/workbooks'
    apiVersion: '2021-08-01'
    name: guid(toLower(workspace.id), book.id)
    location: location
    kind: 'shared'
    properties: {
      category: 'sentinel'
      displayName: book.name
      serializedData: book.text
      sourceId: workspace.id
      version: '1.0'
    }
  }
})
var ofPage = [
  {
    kind: 'DataConnector'
    id: page.id
    version: solution.version
    name: page.title
    there: deployConnectorPage
    madeId: extensionResourceId(workspace.id, 'Microsoft.SecurityInsights/dataConnectorDefinitions', page.id)
    made: {
      type: 'Microsoft.OperationalInsights/workspaces/providers/dataConnectorDefinitions'
      apiVersion: '2024-09-01'
      name: '${workspaceName}/Microsoft.SecurityInsights/${page.id}'
      kind: 'Customizable'
      properties: { connectorUiConfig: page }
    }
  }
]
var pieces = concat(ofRules, ofHuntingQueries, ofFunctions, ofWorkbooks, ofPage)

resource package 'Microsoft.SecurityInsights/contentPackages@2023-11-01' = {
  name: solution.id
  scope: workspace
  properties: packageOf(pieces)
}

resource template 'Microsoft.SecurityInsights/contentTemplates@2023-11-01' = [
  for piece in pieces: {
    name: templateName(piece, workspace.id)
    scope: workspace
    properties: templateOf(piece, workspaceName)
    dependsOn: [package]
  }
]

resource belonging 'Microsoft.SecurityInsights/metadata@2023-11-01' = [
  for piece in filter(pieces, piece => piece.there): {
    name: metadata(piece).name
    scope: workspace
    properties: metadata(piece).properties
    dependsOn: [package]
  }
]
