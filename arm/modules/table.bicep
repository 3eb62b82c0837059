// A table, in the workspace: made if it is missing, else given the columns that it lacks.

@description('How the names of its deployments begin.')
param appName string
param workspaceName string
param tableName string
param columns array
@description('The plan, which a table keeps. Blank leaves it as it is, or to the workspace.')
param plan string = ''

module ifMissing 'table-if-missing.bicep' = {
  name: '${appName}-table-if-missing'
  params: {
    workspaceName: workspaceName
    tableName: tableName
    columns: columns
    plan: plan
  }
}

module asItIs 'table-as-it-is.bicep' = {
  name: '${appName}-table-as-it-is'
  params: {
    workspaceName: workspaceName
    tableName: tableName
  }
  dependsOn: [ifMissing]
}

module complete 'table-columns.bicep' = {
  name: '${appName}-table-columns'
  params: {
    workspaceName: workspaceName
    tableName: tableName
    columns: columns
    table: asItIs.outputs.table
    plan: plan
  }
}
