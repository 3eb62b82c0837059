// Adds the columns that the table lacks. Azure resets a retention that a request does not name, so
// that plan and retention are written back as they were read. A Classic table, such as the vendor's
// connector before 3.1 made, takes no columns by this API.

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

var isClassic = contains(table.schema, 'tableSubType') && table.schema.tableSubType == 'Classic'

resource withColumns 'Microsoft.OperationalInsights/workspaces/tables@2023-09-01' = {
  parent: workspace
  name: tableName
  properties: union(retention, {
    schema: {
      name: tableName
      columns: isClassic
        ? fail('The table ${tableName} is of the kind Classic, which takes no new columns. Migrate it first: docs/UPGRADE.md, step 2.')
        : concat(columns, others)
    }
  })
}
