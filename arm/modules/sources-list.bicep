// The tables of the sources beside Mimecast. Each is filled by a stream of the data collection rule that
// has its name.

@export()
var sourceTables = [
  {
    source: 'entra-risk'
    // How the program calls it.
    stream: 'risk-detections'
    table: loadJsonContent('../../sentinel/schema/EntraRiskDetections_CL.table.json')
    rule: loadJsonContent('../../sentinel/schema/EntraRiskDetections_CL.rule.json')
  }
  {
    source: 'entra-risk'
    stream: 'risky-users'
    table: loadJsonContent('../../sentinel/schema/EntraRiskyUsers_CL.table.json')
    rule: loadJsonContent('../../sentinel/schema/EntraRiskyUsers_CL.rule.json')
  }
  {
    source: 'directory'
    stream: 'users'
    table: loadJsonContent('../../sentinel/schema/DirectoryUsers_CL.table.json')
    rule: loadJsonContent('../../sentinel/schema/DirectoryUsers_CL.rule.json')
  }
  {
    source: 'directory'
    stream: 'groups'
    table: loadJsonContent('../../sentinel/schema/DirectoryGroups_CL.table.json')
    rule: loadJsonContent('../../sentinel/schema/DirectoryGroups_CL.rule.json')
  }
  {
    source: 'directory'
    stream: 'group-members'
    table: loadJsonContent('../../sentinel/schema/DirectoryGroupMembers_CL.table.json')
    rule: loadJsonContent('../../sentinel/schema/DirectoryGroupMembers_CL.rule.json')
  }
]
