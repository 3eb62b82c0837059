// Azure Monitor's alerts on the connector's own log and on the data collection rule.

param location string
param tags object
@description('The name of Application Insights, the data collection rule and the action group.')
param name string
param email string
param silenceWindow string
@description('Whether the rule sends some rows to another table: what a flow leaves to the other may count as dropped.')
param cheapEvents bool

var logAlerts = [
  {
    name: 'silent'
    displayName: 'Mimecast Cloud Integrated: no run has succeeded'
    description: 'No run that reads Mimecast has come to a good end for the time given in SilenceAlertWindow; a call that found another run in progress and did nothing is none. Its log says why; if it has none, see whether the function app runs and has its function.'
    severity: 1
    window: silenceWindow
    query: '''
traces
| where message has 'run finished'
| extend line = parse_json(extract(@'\{.*\}', 0, message))
| where tostring(line.message) == 'run finished'
| extend run = parse_json(tostring(line.summary))
| where tostring(run.outcome) in ('caught_up', 'time_limit')
| where tostring(run.streams[0].source) == 'cloud-integrated'
| count
| where Count == 0'''
  }
  {
    name: 'quarantine'
    displayName: 'Mimecast Cloud Integrated: events in quarantine or missing'
    description: 'The connector put events into its quarantine: they are not in the table, and are deleted after QuarantineRetentionDays. Its log says of which stream and where they are; each record says why. Or a run has a gap: events of that time may be missing for good; docs/OPERATIONS.md says what to do.'
    severity: 2
    window: 'PT2H'
    query: '''
traces
| where message has_any ('rows were put in quarantine', 'run finished')
| extend line = parse_json(extract(@'\{.*\}', 0, message))
| mv-expand stream = parse_json(tostring(line.summary)).streams
| where tolong(line.rows_quarantined) > 0 or isnotnull(todatetime(stream.gap.from))'''
  }
]
// The names of Microsoft's list of this resource's metrics.
var metricAlerts = [
  {
    name: 'rows-dropped'
    metric: 'RowsDropped_Count'
    aggregation: 'Total'
    description: 'The data collection rule drops rows, though it accepted them. DCRLogErrors in the workspace may say why.'
  }
  {
    name: 'transform-errors'
    metric: 'TransformationErrors_Count'
    aggregation: 'Count'
    description: 'The data collection rule\'s transformation fails. DCRLogErrors in the workspace may say why.'
  }
]

resource insights 'Microsoft.Insights/components@2020-02-02' existing = {
  name: name
}

resource rule 'Microsoft.Insights/dataCollectionRules@2023-03-11' existing = {
  name: name
}

resource group 'Microsoft.Insights/actionGroups@2021-09-01' = if (!empty(email)) {
  name: name
  location: 'global'
  tags: tags
  properties: {
    groupShortName: 'Mimecast'
    enabled: true
    emailReceivers: [{ name: 'email', emailAddress: email, useCommonAlertSchema: true }]
  }
}

resource onLogs 'Microsoft.Insights/scheduledQueryRules@2021-08-01' = [
  for alert in logAlerts: {
    name: '${name}-${alert.name}'
    location: location
    tags: tags
    kind: 'LogAlert'
    properties: {
      displayName: alert.displayName
      description: alert.description
      severity: alert.severity
      enabled: true
      autoMitigate: true
      evaluationFrequency: 'PT1H'
      windowSize: alert.window
      scopes: [insights.id]
      // Application Insights is minutes old and has no table yet that the query could be held to.
      skipQueryValidation: true
      criteria: {
        allOf: [
          {
            query: alert.query
            timeAggregation: 'Count'
            operator: 'GreaterThan'
            threshold: 0
            failingPeriods: { numberOfEvaluationPeriods: 1, minFailingPeriodsToAlert: 1 }
          }
        ]
      }
      actions: { actionGroups: empty(email) ? [] : [group.id] }
    }
  }
]

resource onMetrics 'Microsoft.Insights/metricAlerts@2018-03-01' = [
  for alert in filter(metricAlerts, one => !cheapEvents || one.name != 'rows-dropped'): {
    name: '${name}-${alert.name}'
    location: 'global'
    tags: tags
    properties: {
      description: alert.description
      severity: 1
      enabled: true
      autoMitigate: true
      evaluationFrequency: 'PT15M'
      windowSize: 'PT1H'
      scopes: [rule.id]
      criteria: {
        'odata.type': 'Microsoft.Azure.Monitor.SingleResourceMultipleMetricCriteria'
        allOf: [
          {
            criterionType: 'StaticThresholdCriterion'
            name: 'above-zero'
            metricNamespace: 'Microsoft.Insights/datacollectionrules'
            metricName: alert.metric
            timeAggregation: alert.aggregation
            operator: 'GreaterThan'
            threshold: 0
            skipMetricValidation: true
          }
        ]
      }
      actions: empty(email) ? [] : [{ actionGroupId: group.id }]
    }
  }
]
