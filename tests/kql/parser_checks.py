"""The parser, run on the rows of each generation of connectors. Each check gives what is wrong."""

import rows
from workspace import COLUMNS, GENERATIONS, STREAM, TABLE, Workspace

ARRIVAL = rows.moment("now-5m")

ENTITY = {
    "type": "entities", "timestamp": rows.epoch_ms(rows.moment("now-10d")), "accountId": "C0A0",
    "aggregateId": "agg_1", "processingId": "proc_1", "messageId": "<m1@example.net>",
    "subject": "Zahlung \"fällig\" [1]", "source": "OFFICE_365_MAIL", "direction": "Inbound",
    "senderIp": "192.0.2.10", "senderEnvelope": "", "senderHeader": "\"Ann, A\" <ann@Mail.Example.NET>",
    "threatState": "DELIVERED", "threatType": "PHISHING", "subtype": "PHISHING",
    "historicalMail": False, "attachments": ["a [1].pdf", "b,\"c\".zip"],
    "recipients": ["bob@example.com", "cid@example.com"], "tags": ["PHISHING", "SPAM"],
    "policiesApplied": [{"action": None, "mode": "ACTIVE", "name": "Default {policy}"}],
    "_partition": 53, "_offset": 1360816,
}
MAILFLOW = {
    "type": "mailflow", "timestamp": rows.epoch_ms(rows.moment("now-20m")), "accountId": "C0A0",
    "messageId": "<m1@example.net>", "subtype": None, "_partition": 53, "_offset": 1360817,
    "authResults": [
        {"aligned": None, "type": "spf", "result": "SoftFail"},
        {"type": "DKIM", "result": "Pass", "aligned": True},
        {"type": "DKIM", "result": "FAIL", "aligned": False},
        {"type": "DMARC", "result": "fail", "aligned": False}],
}
CLICK = {
    "type": "urlclick", "timestamp": rows.epoch_ms(rows.moment("now-15m")), "accountId": "C0A0",
    "messageId": "<m1@example.net>", "action": "BLOCK", "originalUrl": "https://example.net/a?b=c",
    "redirectUrl": "https://example.org/", "sourceIp": "192.0.2.10", "_partition": 2, "_offset": 7,
}
EVENTS = [ENTITY, MAILFLOW, CLICK]

# What each generation's rows are made of. The vendor's newer table has no columns for the rest.
VENDOR_TABLE = set(GENERATIONS["newer"])


def post(workspace, event, arrival=ARRIVAL):
    workspace.post([rows.ours(event, arrival, STREAM)])


def write(workspace, shape, event, arrival=ARRIVAL):
    """Writes a row as a vendor's connector did, without the fields its table had no column for."""
    columns = {column[0] for column in workspace.db.execute(f"DESCRIBE {TABLE}").fetchall()}
    workspace.insert(TABLE, [{k: v for k, v in shape(event, arrival).items() if k in columns}])


def differences(found, expected):
    return [f"{name}: expected {value!r}, got {found.get(name, 'no such column')!r}"
            for name, value in expected.items() if found.get(name, ...) != value]


def entity_columns():
    """What the parser must make of ENTITY, whoever delivered it."""
    return {
        "Event Time": rows.from_epoch_ms(ENTITY["timestamp"]), "Account ID": "C0A0",
        "EventTime": rows.from_epoch_ms(ENTITY["timestamp"]), "Aggregate ID": "agg_1",
        "Processing ID": "proc_1", "Message ID": "<m1@example.net>", "Subject": ENTITY["subject"],
        "Historical Mail": "false", "Sender IP": "192.0.2.10", "Sender Envelope": "",
        "Sender Header": ENTITY["senderHeader"], "Source": "OFFICE_365_MAIL", "Type": "entities",
        "Threat State": "DELIVERED", "Threat Type": "PHISHING", "Direction": "Inbound",
        "Subtype": "PHISHING", "AttachmentsList": ENTITY["attachments"],
        "RecipientsList": ENTITY["recipients"], "TagsList": ENTITY["tags"],
        "PoliciesAppliedList": ENTITY["policiesApplied"], "SenderDomain": "mail.example.net",
        "AuthResults": None, "Spf": "", "Dkim": "", "Dmarc": "", "Action": "", "OriginalUrl": "",
        "TimeGenerated": ARRIVAL, "Time Generated": ARRIVAL, "IngestionTime": ARRIVAL,
        "Copies": 1,
    }


def this_connector():
    """the parser on this connector's rows: every column, every stream"""
    workspace = Workspace()
    for event in EVENTS:
        post(workspace, event)
    found = workspace.parsed()
    if [row["Type"] for row in found] != ["entities", "mailflow", "urlclick"]:
        return [f"rows: {found}"]
    entity, mailflow, click = found
    return [
        *differences(entity, entity_columns() | {
            "Recipients": '["bob@example.com","cid@example.com"]', "Tags": '["PHISHING","SPAM"]',
            "SourcePartition": 53, "SourceOffset": 1360816, "AdditionalFields": None}),
        *differences(mailflow, {
            "AuthResults": MAILFLOW["authResults"], "Spf": "softfail", "Dkim": "pass",
            "Dmarc": "fail", "RecipientsList": [], "Subtype": "", "Historical Mail": "",
            "TimeGenerated": rows.moment("now-20m"), "SenderDomain": ""}),
        *differences(click, {
            "Action": "BLOCK", "OriginalUrl": CLICK["originalUrl"], "SourceIp": "192.0.2.10",
            "RedirectUrl": CLICK["redirectUrl"], "SourceOffset": 7, "Spf": ""}),
    ]


def older_generation():
    """the parser on the vendor's older rows (_s, _d, _b)"""
    workspace = Workspace(GENERATIONS["older"])
    write(workspace, rows.older, ENTITY)
    [found] = workspace.parsed()
    return differences(found, entity_columns() | {"SourceOffset": 1360816, "SourcePartition": 53})


def newer_generation():
    """the parser on the vendor's newer rows (plain names), whatever types their columns have"""
    faults = []
    for generation in ["newer", "newer, other types"]:
        workspace = Workspace(GENERATIONS[generation])
        write(workspace, rows.newer, ENTITY)
        [found] = workspace.parsed()
        faults += differences(found, entity_columns() | {"SourceOffset": None})
    return faults


def all_in_one_table():
    """the parser on a table that all three connectors wrote to"""
    workspace = Workspace({**GENERATIONS["older"], **GENERATIONS["newer"], **COLUMNS})
    subjects = ["from the older", "from the newer", "from this"]
    events = [ENTITY | {"subject": subject} for subject in subjects]
    write(workspace, rows.older, events[0])
    write(workspace, rows.newer, events[1])
    post(workspace, events[2])
    found = {row["Subject"]: row for row in workspace.parsed()}
    faults = [] if sorted(found) == sorted(subjects) else [f"subjects: {sorted(found)}"]
    for subject, row in found.items():
        faults += differences(row, entity_columns() | {"Subject": subject})
    return faults


def each_event_once():
    """the parser gives an event once, as of its first arrival, and counts its rows"""
    faults = []
    writers = {
        "this": (COLUMNS, lambda workspace, *row: post(workspace, *row)),
        "newer": (GENERATIONS["newer"], lambda workspace, *row: write(workspace, rows.newer, *row)),
        "older": (GENERATIONS["older"], lambda workspace, *row: write(workspace, rows.older, *row)),
    }
    for name, (columns, writer) in writers.items():
        workspace = Workspace(columns)
        for arrival in ["now-30m", "now-3h", "now-5m"]:
            writer(workspace, ENTITY, rows.moment(arrival))
        for field, value in [("subject", "another"), ("threatState", "BLOCKED"), ("recipients", [])]:
            writer(workspace, ENTITY | {field: value}, rows.moment("now-1h"))
        found = workspace.parsed()
        if len(found) != 4 or len({row["EventId"] for row in found}) != 4:
            faults.append(f"{name}: {len(found)} rows of 4 events")
        first = [row for row in found if row["Subject"] == ENTITY["subject"]
                 and row["Threat State"] == "DELIVERED" and row["RecipientsList"]]
        arrived = [row["IngestionTime"] for row in first]
        if arrived != [rows.moment("now-3h")]:
            faults.append(f"{name}: arrived {arrived}")
        copies = [row["Copies"] for row in first], sum(row["Copies"] for row in found)
        if copies != ([3], 6):
            faults.append(f"{name}: copies {copies}")
    return faults


def boundaries_do_not_blur():
    """the parser keeps older events apart whose fields run together to the same text"""
    workspace = Workspace(GENERATIONS["older"])
    write(workspace, rows.older, ENTITY | {"accountId": "ab", "aggregateId": "c"})
    write(workspace, rows.older, ENTITY | {"accountId": "a", "aggregateId": "bc"})
    write(workspace, rows.older, ENTITY | {"accountId": 'a","b', "aggregateId": "c"})
    count = len(workspace.parsed())
    return [] if count == 3 else [f"{count} rows of 3 events"]


def no_usable_time():
    """the parser gives the time of arrival, not the present, where an event has no usable time"""
    faults = []
    for time in [None, 0, 1718400000, "2026-06-15"]:
        for columns, writer in [(COLUMNS, post), (GENERATIONS["older"], None)]:
            workspace = Workspace(columns)
            event = ENTITY | {"timestamp": time}
            writer(workspace, event) if writer else write(workspace, rows.older, event)
            [found] = workspace.parsed()
            faults += differences(found, {"EventTime": ARRIVAL, "Event Time": ARRIVAL})
    return faults


def odd_values():
    """the parser on single values in place of arrays, unknown fields and odd senders"""
    workspace = Workspace()
    post(workspace, {"subject": "1", "recipients": "bob@example.com", "later": {"a": 1}, "timestamp": 1})
    post(workspace, {"subject": "2", "policiesApplied": {"name": "P"}, "senderEnvelope": "<>",
                     "senderHeader": "x@Example.COM.", "subtype": 5})
    post(workspace, {"subject": "3", "senderEnvelope": "a@sub.example.net", "senderHeader": "b@other.net",
                     "authResults": {"type": "SPF", "result": "pass"}, "tags": []})
    one, two, three = workspace.parsed()
    return [
        *differences(one, {"RecipientsList": ["bob@example.com"], "Recipients": "bob@example.com",
                           "AdditionalFields": {"later": {"a": 1}}, "Type": ""}),
        *differences(two, {"PoliciesAppliedList": [{"name": "P"}], "SenderDomain": "example.com",
                           "AdditionalFields": {"subtype": 5}, "Subtype": ""}),
        *differences(three, {"SenderDomain": "sub.example.net", "Spf": "pass", "TagsList": []}),
    ]


def reads_all(events):
    """What is wrong when the parser reads these events from every generation's table."""
    faults = []
    for name, columns in {"this": COLUMNS, **GENERATIONS}.items():
        workspace = Workspace(columns)
        for event in events + events:
            if name == "this":
                post(workspace, event)
            else:
                write(workspace, rows.older if name == "older" else rows.newer, event)
        found = workspace.parsed()
        if name == "this" and len(found) != len(events):
            faults.append(f"{len(found)} rows of {len(events)} events")
        if sum(row["Copies"] for row in found) != 2 * len(events):
            faults.append(f"{name}: not every row is some event's copy")
        times = sorted(rows.from_epoch_ms(event["timestamp"]) for event in events)
        if not {row["EventTime"] for row in found} <= set(times):
            faults.append(f"{name}: times that no event has")
    return faults


CHECKS = [this_connector, older_generation, newer_generation, all_in_one_table, each_event_once,
          boundaries_do_not_blur, no_usable_time, odd_values]
