// The workbooks, in the workspace's region.

import { workbooks } from 'workbooks-list.bicep'

param location string
param tags object
param workspaceName string

resource workspace 'Microsoft.OperationalInsights/workspaces@2022-10-01' existing = {
  name: workspaceName
}

resource workbook 'Microsoft.Insights/workbooks@2021-08-01' = [
  for book in workbooks: {
    // In one spelling: Azure itself writes ids in more than one, and guid() tells them apart.
    name: guid(toLower(workspace.id), book.id)
    location: location
    tags: tags
    kind: 'shared'
    properties: {
      category: 'sentinel'
      displayName: book.name
      serializedData: book.text
      sourceId: workspace.id
      version: '1.0'
    }
  }
]
