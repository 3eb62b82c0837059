"""What Sentinel takes in a rule or hunting query, beside its KQL.

Sources: Azure/Azure-Sentinel, `.script/tests/detectionTemplateSchemaValidation` (the models that its
API checks a rule by: entities, identifiers, enums, lengths, durations); Microsoft's documentation,
"Service limits for Microsoft Sentinel" (10 entity mappings, 20 custom details, 256 bytes of an
alert's name), "Scheduled analytics rules" (suppression, grouping of alerts) and, for who makes solutions,
"Create analytics rules" and "Create hunting queries" (how a name ends and a description begins, 255
characters of a hunting query's); Azure-Sentinel's `.script/tests/NonAsciiValidationsTests` (ASCII alone).
Its `ValidConnectorIds.json` lists the ids of data connectors; one that is new is added there.
"""

import re
from datetime import timedelta

import yaml

# Of each entity type the identifiers, and the combinations of which one must be mapped.
_ENTITIES = {
    "Account": ("Name FullName NTDomain DnsDomain UPNSuffix Sid AadTenantId AadUserId PUID IsDomainJoined "
                "DisplayName ObjectGuid", ["FullName", "Sid", "Name", "AadUserId", "PUID", "ObjectGuid"]),
    "AzureResource": ("ResourceId", ["ResourceId"]),
    "CloudApplication": ("AppId Name InstanceName", ["AppId", "Name"]),
    "DNS": ("DomainName", ["DomainName"]),
    "File": ("Directory Name", ["Name"]),
    "FileHash": ("Algorithm Value", ["Algorithm Value"]),
    "Host": ("DnsDomain NTDomain HostName FullName NetBiosName AzureID OMSAgentID OSFamily OSVersion "
             "IsDomainJoined", ["FullName", "HostName", "NetBiosName", "AzureID", "OMSAgentID"]),
    "IP": ("Address", ["Address"]),
    "Mailbox": ("MailboxPrimaryAddress DisplayName Upn ExternalDirectoryObjectId RiskLevel",
                ["MailboxPrimaryAddress"]),
    "MailMessage": ("Recipient Urls Threats Sender P1Sender P1SenderDisplayName P1SenderDomain SenderIP P2Sender "
                    "P2SenderDisplayName P2SenderDomain ReceivedDate NetworkMessageId InternetMessageId Subject "
                    "AntispamDirection DeliveryAction DeliveryLocation Language ThreatDetectionMethods",
                    ["NetworkMessageId", "Recipient"]),
    "Malware": ("Name Category", ["Name"]),
    "SecurityGroup": ("DistinguishedName SID ObjectGuid", ["DistinguishedName", "SID", "ObjectGuid"]),
    "URL": ("Url", ["Url"]),
}
_TACTICS = ("Reconnaissance ResourceDevelopment InitialAccess Execution Persistence PrivilegeEscalation "
            "DefenseEvasion CredentialAccess Discovery LateralMovement Collection CommandAndControl Exfiltration "
            "Impact ImpairProcessControl InhibitResponseFunction").split()
# The techniques in use, with their tactics in ATT&CK 13. Sentinel refuses a technique that is newer
# than the ATT&CK it knows, and not all clouds are known to have moved on from 13.
_TECHNIQUES = {
    "T1027": ["DefenseEvasion"],
    "T1036": ["DefenseEvasion"],
    "T1078": ["InitialAccess", "Persistence", "PrivilegeEscalation", "DefenseEvasion"],
    "T1204": ["Execution"],
    "T1534": ["LateralMovement"],
    "T1562": ["DefenseEvasion"],
    "T1564": ["DefenseEvasion"],
    "T1566": ["InitialAccess"],
    "T1583": ["ResourceDevelopment"],
    "T1586": ["ResourceDevelopment"],
}
_ENUMS = {
    "kind": ["Scheduled"],
    "status": ["Available"],
    "severity": ["Informational", "Low", "Medium", "High"],
    "triggerOperator": ["gt", "lt", "eq", "ne"],
    "eventGroupingSettings.aggregationKind": ["SingleAlert", "AlertPerResult"],
    "suppressionEnabled": [True, False],
    "incidentConfiguration.createIncident": [True, False],
    "incidentConfiguration.groupingConfiguration.enabled": [True, False],
    "incidentConfiguration.groupingConfiguration.reopenClosedIncident": [True, False],
    "incidentConfiguration.groupingConfiguration.matchingMethod": ["AllEntities", "AnyAlert", "Selected"],
}
_FIVE_MINUTES = timedelta(minutes=5)
_DURATIONS = {
    "queryFrequency": timedelta(days=14),
    "queryPeriod": timedelta(days=14),
    "suppressionDuration": timedelta(hours=24),
    "incidentConfiguration.groupingConfiguration.lookbackDuration": timedelta(days=7),
}
_LENGTHS = {
    "name": 256,
    "description": 5000,
    "query": 10_000,
    "alertDetailsOverride.alertDisplayNameFormat": 256,
    "alertDetailsOverride.alertDescriptionFormat": 5000,
}
_MAX_HUNTING_DESCRIPTION = 255
_BEGINNINGS = ("Identifies ", "This query searches for ")
# Ours, and those of Microsoft's tables that the content reads beside them.
CONNECTORS = ("MimecastSentinelCloudIntegrated AzureActiveDirectory MicrosoftDefenderThreatIntelligence "
               "MicrosoftThreatProtection Office365 ThreatIntelligence ThreatIntelligenceTaxii").split()
_MAX_MAPPINGS, _MAX_IDENTIFIERS, _MAX_DETAILS, _MAX_DETAIL_NAME, _MAX_COLUMNS_IN_TEXT = 10, 3, 20, 20, 3
_COLUMN = r"[A-Za-z_][A-Za-z0-9_]*"


def check(sentinel):
    """Each rule, hunting query and function of the folder: pairs of a name and what Sentinel would refuse."""
    seen = {}
    for folder, faults in ("rules", rule_faults), ("hunting", hunting_faults), ("parser", parser_faults):
        for path in sorted((sentinel / folder).glob("*.yaml")):
            text = path.read_text()
            content = yaml.safe_load(text)
            found = faults(content) + text_faults(text)
            if other := seen.get(content["id"]):
                found.append(f"its id is that of {other}, too")
            seen[content["id"]] = path.name
            yield f"{folder}/{path.name} is what Sentinel takes", found


def check_the_checks(path):
    """The file's right rule passes, and each fault made in it is found."""
    written = yaml.safe_load(path.read_text())
    yield "a right rule is what Sentinel takes", rule_faults(written["right"])
    for name, fault in written["wrong"].items():
        rule = yaml.safe_load(yaml.safe_dump(written["right"]))
        for place, value in fault["set"].items():
            _put(rule, place.split("."), value)
        faults = rule_faults(rule)
        found = any(fault["found out by"] in one for one in faults)
        yield f"a wrong rule is found out: {name}", [] if found else ["it passed", *faults]
    query = {**written["right"], "description": "Identifies " + "x" * 250}
    yield "a wrong hunting query is found out: a long description", [] if hunting_faults(query) else ["it passed"]
    yield "a wrong file is found out: not ASCII", [] if text_faults("caf\u00e9") else ["it passed"]
    yield "a wrong function is found out: no title", [] if parser_faults({}) else ["it passed"]


def rule_faults(rule):
    faults = query_faults(rule)
    for place, allowed in _ENUMS.items():
        value = _at(rule, place)
        # Python takes 1 for True.
        if not any(value is one or (value == one and isinstance(value, str)) for one in allowed):
            faults.append(f"its {place} is {value!r}, not one of {allowed}")
    faults += _duration_faults(rule)
    for place, most in _LENGTHS.items():
        text = str(_at(rule, place) or "")
        if len(text.encode()) > most:
            faults.append(f"its {place} has {len(text.encode())} bytes, more than {most}")
        columns = re.findall(r"\{\{[^{}]*\}\}", text)
        if place.startswith("alertDetailsOverride") and len(columns) > _MAX_COLUMNS_IN_TEXT:
            faults.append(f"its {place} has {len(columns)} columns, more than {_MAX_COLUMNS_IN_TEXT}")
    threshold = rule.get("triggerThreshold")
    if not isinstance(threshold, int) or not 0 <= threshold <= 10_000:
        faults.append(f"its triggerThreshold is {threshold!r}, not 0 to 10000")
    return faults + _detail_faults(rule.get("customDetails", {})) + _grouping_faults(rule)


def hunting_faults(query):
    length = len(query.get("description", "").strip())
    long = [f"its description has {length} characters, more than {_MAX_HUNTING_DESCRIPTION}"]
    return query_faults(query) + (long if length > _MAX_HUNTING_DESCRIPTION else [])


def parser_faults(function):
    """What Azure-Sentinel's tool reads of a function's file."""
    faults = _id_faults(function.get("id"), _at(function, "Function.Version"))
    places = ("Function.Title", "Function.LastUpdated", "Category", "FunctionName", "FunctionAlias", "FunctionQuery")
    return faults + [f"it has no {place}" for place in places if not _at(function, place)]


def text_faults(text):
    return [f"it has {letter!r}, which is not ASCII" for letter in sorted(set(text)) if not letter.isascii()]


def _id_faults(identity, version):
    faults = []
    if not re.fullmatch(r"[0-9a-f]{8}(-[0-9a-f]{4}){3}-[0-9a-f]{12}", str(identity)):
        faults.append(f"its id is {identity!r}, no GUID")
    if not re.fullmatch(r"\d+\.\d+\.\d+", str(version)):
        faults.append(f"its version is {version!r}, not such as 1.0.0")
    return faults


def _said_faults(query):
    """Name, description, and the connectors whose tables are read."""
    faults = []
    if not query.get("name") or query["name"].endswith("."):
        faults.append("its name is missing, or ends with a full stop")
    if not query.get("description", "").startswith(_BEGINNINGS):
        faults.append(f"its description does not begin with {' or '.join(map(repr, _BEGINNINGS))}")
    connectors = query.get("requiredDataConnectors") or [{}]
    for connector in connectors:
        if connector.get("connectorId") not in CONNECTORS:
            faults.append(f"its data connector {connector.get('connectorId')} is not among those in rule_limits.py")
        if not connector.get("dataTypes"):
            faults.append(f"its data connector {connector.get('connectorId')} has no data types")
    return faults


def query_faults(query):
    """What holds for rules and hunting queries alike."""
    faults = _id_faults(query.get("id"), query.get("version")) + _said_faults(query)
    tactics = query.get("tactics", [])
    faults += [f"its tactic {tactic} is none of Sentinel's" for tactic in tactics if tactic not in _TACTICS]
    for technique in query.get("relevantTechniques", []):
        if not re.fullmatch(r"T\d{4}(\.\d{3})?", str(technique)):
            faults.append(f"its technique {technique} is not such as T1566 or T1566.001")
        elif not (known := _TECHNIQUES.get(technique[:5])):
            faults.append(f"its technique {technique} is not among those whose tactics stand in rule_limits.py")
        elif not set(known) & set(tactics):
            faults.append(f"its technique {technique} is of {', '.join(known)}, none of which it names as a tactic")
    mappings = query.get("entityMappings", [])
    if not 1 <= len(mappings) <= _MAX_MAPPINGS:
        faults.append(f"it has {len(mappings)} entity mappings, not 1 to {_MAX_MAPPINGS}")
    return faults + [fault for mapping in mappings for fault in _mapping_faults(**mapping)]


def _mapping_faults(entityType, fieldMappings):
    if entityType not in _ENTITIES:
        return [f"its entity type {entityType} is not among those in rule_limits.py"]
    identifiers, required = _ENTITIES[entityType]
    used = [field["identifier"] for field in fieldMappings]
    faults = []
    if not 1 <= len(used) <= _MAX_IDENTIFIERS:
        faults.append(f"its {entityType} has {len(used)} identifiers, not 1 to {_MAX_IDENTIFIERS}")
    for name in dict.fromkeys(used):
        if name not in identifiers.split():
            faults.append(f"its {entityType} has {name}, which is no identifier of that type")
        if used.count(name) > 1:
            faults.append(f"its {entityType} has {name} twice")
    if not any(set(combination.split()) <= set(used) for combination in required):
        faults.append(f"its {entityType} has none of {', '.join(c.replace(' ', '+') for c in required)}")
    faults += [f"its {entityType} takes the column {field['columnName']!r}, which is no column's name"
               for field in fieldMappings if not re.fullmatch(_COLUMN, str(field["columnName"]))]
    return faults


def _duration_faults(rule):
    faults, spans = [], {}
    for place, most in _DURATIONS.items():
        text = _at(rule, place)
        spans[place] = duration(text)
        if spans[place] is None or not _FIVE_MINUTES <= spans[place] <= most:
            faults.append(f"its {place} is {text!r}, not between 5 minutes and {most}")
    frequency, period = spans["queryFrequency"], spans["queryPeriod"]
    if frequency and period and period < frequency:
        faults.append("its queryPeriod is shorter than its queryFrequency")
    if frequency and period and period >= timedelta(days=2) and frequency < timedelta(hours=1):
        faults.append("its queryFrequency is under an hour, with a queryPeriod of two days or more")
    return faults


def duration(text):
    """A time span such as "1h" or "PT1H", or None."""
    found = re.fullmatch(r"(?:PT?)?(\d+)([mhdMHD])", str(text))
    unit = {"m": "minutes", "h": "hours", "d": "days"}
    # A month is P1M, a minute PT1M.
    if not found or re.fullmatch(r"P\d+[mMhH]|PT\d+[dD]", str(text)):
        return None
    return timedelta(**{unit[found[2].lower()]: int(found[1])})


def _detail_faults(details):
    faults = []
    if len(details) > _MAX_DETAILS:
        faults.append(f"it has {len(details)} custom details, more than {_MAX_DETAILS}")
    for name, column in details.items():
        if not re.fullmatch(r"[A-Za-z]\w*", name, re.ASCII) or len(name) > _MAX_DETAIL_NAME:
            faults.append(f"its custom detail {name!r} is not a letter and up to {_MAX_DETAIL_NAME - 1} letters, "
                          "digits or underscores")
        if not re.fullmatch(_COLUMN, str(column)):
            faults.append(f"its custom detail {name} takes the column {column!r}, which is no column's name")
    return faults


def _grouping_faults(rule):
    """Alerts are grouped only by what the rule has."""
    grouping = _at(rule, "incidentConfiguration.groupingConfiguration") or {}
    has = {
        "groupByEntities": [mapping["entityType"] for mapping in rule.get("entityMappings", [])],
        "groupByAlertDetails": ["DisplayName", "Severity"],
        "groupByCustomDetails": rule.get("customDetails", {}),
    }
    faults = [f"it groups by {name} ({place}), which it does not have"
              for place, known in has.items() for name in grouping.get(place, []) if name not in known]
    if grouping.get("matchingMethod") == "Selected" and not any(grouping.get(place) for place in has):
        faults.append("its matchingMethod is Selected, but it selects nothing to group by")
    return faults


def _at(value, place):
    for name in place.split("."):
        value = value.get(name) if isinstance(value, dict) else None
    return value


def _put(value, place, new):
    for name in place[:-1]:
        value = value[name]
    if new is None:
        del value[place[-1]]
    else:
        value[place[-1]] = new
