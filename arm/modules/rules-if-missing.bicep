// The analytic rules that are missing; one that is there is left as it is.

import { rules } from 'rules-list.bicep'

param workspaceName string
param enabled bool = false

resource workspace 'Microsoft.OperationalInsights/workspaces@2022-10-01' existing = {
  name: workspaceName
}

@onlyIfNotExists()
resource scheduled 'Microsoft.SecurityInsights/alertRules@2022-11-01' = [
  for rule in rules: {
    name: rule.id
    scope: workspace
    kind: 'Scheduled'
    properties: union(rule.properties, { enabled: enabled })
  }
]
