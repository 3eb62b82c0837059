// Adds the columns that the table lacks. Azure resets a retention that a request does not name, so
// that plan and retention are written back as they were read. A Classic table, such as the vendor's
// connector before 3.1 made, takes no columns by this API.

param workspaceName string
param tableName string
param columns array
@description('The properties of the table as it is.')
param table object
@description('The plan that it must have; blank is any.')
param plan string = ''

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
var hasPlan = empty(plan) || plan == table.plan

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
        : !hasPlan
            ? fail('The table ${tableName} has the plan ${table.plan}, which is not changed. Give CheapPlan=${table.plan}, or delete the table, with its rows, and deploy again: docs/DEPLOY-DETAILS.md, Cheap events.')
            : concat(columns, others)
    }
  })
}
