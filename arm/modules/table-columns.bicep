// Adds the columns that the table lacks. Azure resets a retention that a request does not name, so
// that plan and retention are written back as they were read.

param workspaceName string
param tableName string
param columns array
@description('The properties of the table as it is.')
param table object

var ours = map(columns, column => column.name)
var others = filter(table.schema.columns, column => !contains(ours, column.name))
var retention = table.plan == 'Analytics'
  ? {
      plan: 'Analytics'
      retentionInDays: table.retentionInDaysAsDefault ? null : table.retentionInDays
      totalRetentionInDays: table.totalRetentionInDaysAsDefault ? null : table.totalRetentionInDays
    }
  : {
      plan: table.plan
      totalRetentionInDays: table.totalRetentionInDays
    }

resource workspace 'Microsoft.OperationalInsights/workspaces@2022-10-01' existing = {
  name: workspaceName
}

resource withColumns 'Microsoft.OperationalInsights/workspaces/tables@2023-09-01' = {
  parent: workspace
  name: tableName
  properties: union(retention, {
    schema: { name: tableName, columns: concat(columns, others) }
  })
}
