// The workbooks, in the workspace's region.

param location string
param tags object
param workspaceName string

// A workbook may have 131,072 characters: the most that Azure Resource Manager takes in one text.
var workbooks = [
  {
    id: 'MimecastCloudIntegrated'
    name: 'Mimecast Cloud Integrated'
    text: string(loadJsonContent('../../sentinel/workbook/MimecastCloudIntegrated.json'))
  }
  {
    id: 'MimecastCloudIntegratedPeople'
    name: 'Mimecast Cloud Integrated: people'
    text: string(loadJsonContent('../../sentinel/workbook/MimecastCloudIntegratedPeople.json'))
  }
  {
    id: 'MimecastCloudIntegratedConnector'
    name: 'Mimecast Cloud Integrated: connector'
    text: string(loadJsonContent('../../sentinel/workbook/MimecastCloudIntegratedConnector.json'))
  }
  {
    id: 'MimecastCloudIntegratedFleet'
    name: 'Mimecast Cloud Integrated: fleet'
    text: string(loadJsonContent('../../sentinel/workbook/MimecastCloudIntegratedFleet.json'))
  }
]

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
