// The analytic rules that are missing; one that is there is left as it is.

import { originOf, rules } from 'rules-list.bicep'

@description('Name of the workspace, in the resource group that is deployed to.')
param workspaceName string
@description('Whether the rules that this writes are switched on.')
param enabled bool = false
@description('The template\'s CheapEvents: rules that need the events of the cheap table are left out.')
param cheapEvents string = 'None'
@description('Whether a rule says of which of the package\'s templates and versions it is, so that Microsoft Sentinel offers its updates.')
param ofPackage bool = true

resource workspace 'Microsoft.OperationalInsights/workspaces@2022-10-01' existing = {
  name: workspaceName
}

@onlyIfNotExists()
resource scheduled 'Microsoft.SecurityInsights/alertRules@2022-11-01' = [
  for rule in rules[cheapEvents]: {
    name: rule.id
    scope: workspace
    kind: 'Scheduled'
    properties: union(rule.properties, { enabled: enabled }, ofPackage ? originOf(rule) : {})
  }
]
