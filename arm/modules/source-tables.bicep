// The tables of the sources that are on beside Mimecast, in the workspace.

import { sourceTables } from 'sources-list.bicep'

@description('How the names of its deployments begin.')
param appName string
param workspaceName string
param sources array

module table 'table.bicep' = [
  for one in filter(sourceTables, one => contains(sources, one.source)): {
    name: '${appName}-${one.stream}'
    params: {
      appName: '${appName}-${one.stream}'
      workspaceName: workspaceName
      tableName: one.table.name
      columns: one.table.columns
    }
  }
]
