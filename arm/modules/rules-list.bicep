// For each value of the template's CheapEvents, the analytic rules as Microsoft Sentinel's API takes
// them, but for `enabled`.

// All of sentinel/rules; a test holds this list to the folder.
var files = [
  loadYamlContent('../../sentinel/rules/AuthenticationFailedDelivered.yaml')
  loadYamlContent('../../sentinel/rules/BlockedUrlClick.yaml')
  loadYamlContent('../../sentinel/rules/ClickAfterDelivery.yaml')
  loadYamlContent('../../sentinel/rules/ConnectorDegradedOrSilent.yaml')
  loadYamlContent('../../sentinel/rules/InboxRuleAndInternalThreat.yaml')
  loadYamlContent('../../sentinel/rules/InternalSenderThreat.yaml')
  loadYamlContent('../../sentinel/rules/LookalikeSenderDomain.yaml')
  loadYamlContent('../../sentinel/rules/NewSenderAttachmentThenThreat.yaml')
  loadYamlContent('../../sentinel/rules/OwnDomainSpoofed.yaml')
  loadYamlContent('../../sentinel/rules/PoliciesDisabled.yaml')
  loadYamlContent('../../sentinel/rules/QuarantineGrowing.yaml')
  loadYamlContent('../../sentinel/rules/RepeatedBlockedClicks.yaml')
  loadYamlContent('../../sentinel/rules/RiskyAttachmentDelivered.yaml')
  loadYamlContent('../../sentinel/rules/RiskySignInAfterClick.yaml')
  loadYamlContent('../../sentinel/rules/SenderCampaign.yaml')
  loadYamlContent('../../sentinel/rules/StreamDropped.yaml')
  loadYamlContent('../../sentinel/rules/StreamSilent.yaml')
  loadYamlContent('../../sentinel/rules/SubjectCampaign.yaml')
  loadYamlContent('../../sentinel/rules/ThreatDelivered.yaml')
  loadYamlContent('../../sentinel/rules/ThreatFoundAfterDelivery.yaml')
  loadYamlContent('../../sentinel/rules/ThreatNotEnforced.yaml')
  loadYamlContent('../../sentinel/rules/ThreatSpike.yaml')
  loadYamlContent('../../sentinel/rules/ThreatStillInMailbox.yaml')
]

var operators = {
  gt: 'GreaterThan'
  lt: 'LessThan'
  eq: 'Equal'
  ne: 'NotEqual'
}

// A duration of a rule's file, such as 15m or 7d, as ISO 8601, in which some are written.
func iso(duration string) string =>
  startsWith(duration, 'P') ? duration : endsWith(duration, 'd') ? 'P${toUpper(duration)}' : 'PT${toUpper(duration)}'

@export()
var rules = toObject(
  loadJsonContent('../cheap.json'),
  choice => choice.name,
  choice =>
    map(filter(files, rule => !contains(choice.rulesLeftOut, rule.name)), rule => {
      id: rule.id
      version: rule.version
      requiredDataConnectors: rule.requiredDataConnectors
      properties: {
        displayName: rule.name
        description: trim(rule.description)
        severity: rule.severity
        // Two rules watch whether each stream comes; these streams come to the cheap table.
        query: replace(
          rule.query,
          'let elsewhere = dynamic([]);',
          'let elsewhere = dynamic(${string(choice.elsewhere)});'
        )
        queryFrequency: iso(rule.queryFrequency)
        queryPeriod: iso(rule.queryPeriod)
        triggerOperator: operators[rule.triggerOperator]
        triggerThreshold: rule.triggerThreshold
        suppressionEnabled: rule.suppressionEnabled
        suppressionDuration: iso(rule.suppressionDuration)
        tactics: rule.tactics
        // The rules' API takes techniques without their sub-techniques.
        techniques: union(map(rule.relevantTechniques, technique => split(technique, '.')[0]), [])
        entityMappings: rule.entityMappings
        customDetails: rule.customDetails
        alertDetailsOverride: rule.alertDetailsOverride
        eventGroupingSettings: rule.eventGroupingSettings
        incidentConfiguration: rule.incidentConfiguration
      }
    })
)

// By these Microsoft Sentinel finds the template that a rule was made of, and whether there is a newer one.
@export()
func originOf(rule object) object => {
  alertRuleTemplateName: rule.id
  templateVersion: rule.version
}
