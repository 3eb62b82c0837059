// Reads the table. An output is read when all before it is done, as a parameter may not be.

param workspaceName string
param tableName string

resource workspace 'Microsoft.OperationalInsights/workspaces@2022-10-01' existing = {
  name: workspaceName

  resource table 'tables@2023-09-01' existing = {
    name: tableName
  }
}

output table object = workspace::table.properties
