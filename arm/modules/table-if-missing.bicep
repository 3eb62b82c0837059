// Makes the table unless it is there.

param workspaceName string
param tableName string
param columns array
param plan string

resource workspace 'Microsoft.OperationalInsights/workspaces@2022-10-01' existing = {
  name: workspaceName
}

@onlyIfNotExists()
resource table 'Microsoft.OperationalInsights/workspaces/tables@2023-09-01' = {
  parent: workspace
  name: tableName
  properties: union(
    {
      schema: { name: tableName, columns: columns }
    },
    empty(plan) ? {} : { plan: plan }
  )
}
