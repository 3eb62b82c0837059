"""The parameters at the top of the workbooks and of their tabs; used by build.py."""
import uuid

LOGS = "microsoft.operationalinsights/workspaces"
GRAPH = "microsoft.resourcegraph/resources"
MINUTE, DAY = 60_000, 86_400_000
# The ranges on offer; the default is 14 days.
RANGES = [5 * MINUTE, 15 * MINUTE, 30 * MINUTE, 60 * MINUTE, 240 * MINUTE, 720 * MINUTE] + [
    days * DAY for days in (1, 2, 3, 7, 14, 28, 30, 60, 90)
]


def parameter(name, label, kind, help_text, **more):
    return {
        "id": str(uuid.uuid5(uuid.NAMESPACE_URL, f"mimecast-sentinel/workbook/{name}")),
        "version": "KqlParameterItem/1.0",
        "name": name,
        "label": label,
        "description": help_text,
        "type": kind,
        **more,
    }


def choice_of(name, label, help_text, query, resources=None):
    """A list of values from a query, of which all or some are taken."""
    return parameter(
        name,
        label,
        2,
        help_text,
        isRequired=True,
        multiSelect=True,
        quote="'",
        delimiter=",",
        query=query,
        **({"crossComponentResources": resources} if resources else {}),
        typeSettings={
            "additionalResourceOptions": ["value::all"],
            "selectAllValue": "*",
            "showDefault": False,
        },
        timeContext={"durationMs": 0},
        timeContextFromParameter="TimeRange",
        value=["value::all"],
        defaultValue="value::all",
        queryType=0,
        resourceType=LOGS,
    )


def workspaces(name, label, help_text, query, **more):
    """Log Analytics workspaces, by a query of Azure Resource Graph."""
    return parameter(
        name,
        label,
        5,
        help_text,
        isRequired=True,
        **more,
        query=query,
        crossComponentResources=["value::all"],
        typeSettings={
            "resourceTypeFilter": {LOGS: True},
            "additionalResourceOptions": [],
            "showDefault": False,
        },
        queryType=1,
        resourceType=GRAPH,
    )


TIME_RANGE = parameter(
    "TimeRange",
    "Time range",
    4,
    "When the event happened, in UTC",
    isRequired=True,
    value={"durationMs": 14 * DAY},
    typeSettings={
        "selectableValues": [{"durationMs": ms} for ms in RANGES],
        "allowCustom": True,
    },
)
ACCOUNT = choice_of(
    "Account",
    "Mimecast account",
    "Of which accounts to show events",
    "MimecastCIRows(starttime = {TimeRange:start})\n| where coalesce(EventTime, TimeGenerated) {TimeRange:query}\n"
    "| where isnotempty(accountId)\n"
    "| distinct Account = accountId\n| order by Account asc",
)
# The workspaces that the reader may see: with Azure Lighthouse those of other directories too. One
# that a data collection rule sends reports to has HasRule 1; ids differ in case between resources.
WORKSPACES = """resources
| where type in~ ('microsoft.operationalinsights/workspaces', 'microsoft.insights/datacollectionrules')
| extend IsWorkspace = type =~ 'microsoft.operationalinsights/workspaces'
| extend Target = tolower(iff(IsWorkspace, id, tostring(properties.destinations.logAnalytics[0].workspaceResourceId)))
| extend HasRule = iff(not(IsWorkspace) and tostring(properties.streamDeclarations) has 'MimecastConnectorHealth', 1, 0)
| summarize HasRule = max(HasRule), Name = max(iff(IsWorkspace, name, '')), Group = max(iff(IsWorkspace, resourceGroup, '')), Subscription = max(iff(IsWorkspace, subscriptionId, '')), Key = max(iff(IsWorkspace, tostring(properties.customerId), '')) by Target
| where isnotempty(Name)
"""
# Those of a whole workbook, by its folder.
OF_WORKBOOK = {"fleet": [TIME_RANGE]}
OF_EVERY_OTHER = [TIME_RANGE, ACCOUNT]
# Those of a tab.
PARAMETERS = {
    "fleet": [
        workspaces(
            "Workspaces",
            "Workspaces",
            "The workspaces to ask, 100 at most",
            WORKSPACES
            + "| order by HasRule desc, Name asc\n| take 100\n"
            "| project value = Target, label = Name, selected = true, group = Group",
            multiSelect=True,
            quote="'",
            delimiter=",",
        ),
        # Their names and ids as JSON, for those that no row comes from.
        parameter(
            "Fleet",
            "Fleet",
            1,
            "The chosen workspaces",
            isHiddenWhenLocked=True,
            query=WORKSPACES
            + "| where Target in~ ({Workspaces})\n"
            "| summarize Fleet = tostring(make_list(bag_pack('key', Key, 'name', Name, 'group', Group, "
            "'subscription', Subscription, 'rule', HasRule)))",
            crossComponentResources=["value::all"],
            queryType=1,
            resourceType=GRAPH,
        ),
    ],
    "search": [
        parameter("Find", "Find", 1, "An address, a domain, a word of the subject, a link, an id"),
    ],
    "health": [
        # The workbook's own workspace.
        parameter(
            "Workspace",
            "Workspace",
            5,
            "The workspace that the events are in",
            isRequired=True,
            isHiddenWhenLocked=True,
            value="value::1",
            typeSettings={
                "resourceTypeFilter": {LOGS: True},
                "additionalResourceOptions": ["value::1"],
                "showDefault": False,
            },
        ),
        workspaces(
            "ConnectorLogs",
            "Workspace of the connector's logs",
            "The workspace behind the connector's Application Insights",
            "resources\n| where type =~ 'microsoft.operationalinsights/workspaces'\n"
            "| project value = id, label = name, selected = id =~ '{Workspace}', "
            "group = resourceGroup",
        ),
        choice_of(
            "Connector",
            "Connector",
            "The function apps of which to show runs",
            "AppTraces\n| where TimeGenerated {TimeRange:query}\n"
            "| where Message startswith '{\"timestamp\":' or Message has 'run finished'\n"
            "| distinct Connector = AppRoleName\n| order by Connector asc",
            ["{ConnectorLogs}"],
        ),
    ],
}
