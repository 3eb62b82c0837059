"""The parser, run on the rows of each generation of connectors. Each check gives what is wrong."""

import gaps
import rows
from workspace import COLUMNS, GENERATIONS, SENTINEL, STREAM, TABLE, Workspace

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
    events = [ENTITY | {"subject": subject, "_offset": offset} for offset, subject in enumerate(subjects)]
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
        others = [("subject", "another"), ("threatState", "BLOCKED"), ("recipients", [])]
        for offset, (field, value) in enumerate(others):
            writer(workspace, ENTITY | {field: value, "_offset": offset}, rows.moment("now-1h"))
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


def one_event_of_two_connectors():
    """the parser gives an event of this connector and of the vendor's older one once, by its offset"""
    workspace = Workspace({**GENERATIONS["older"], **COLUMNS})
    write(workspace, rows.older, ENTITY, rows.moment("now-3h"))
    post(workspace, ENTITY, rows.moment("now-1h"))
    others = [{"_offset": 1}, {"_partition": 1}, {"accountId": "C0A1"}, {"type": "mailflow"}]
    for other in others:
        post(workspace, ENTITY | other)
    # Without an offset, and without an account: their EventIds keep them apart.
    for lacking in ("_offset", "accountId"):
        for subject in ("one", "two"):
            post(workspace, {k: v for k, v in ENTITY.items() if k != lacking} | {"subject": subject})
    found = workspace.parsed()
    [both] = [row for row in found if row["Copies"] > 1] or [{}]
    faults = differences(both, {"Copies": 2, "IngestionTime": rows.moment("now-3h")})
    return faults + ([] if len(found) == 9 else [f"{len(found)} rows of 9 events"])


def _of_all_kinds():
    """A table with events that each filter takes and leaves, from all connectors, some of them twice."""
    workspace = Workspace({**GENERATIONS["older"], **GENERATIONS["newer"], **COLUMNS})
    clean = {"threatType": "NO_DETECTIONS", "subtype": "NO_DETECTIONS", "tags": []}
    events = [
        ENTITY, MAILFLOW, CLICK, ENTITY | clean, ENTITY | clean | {"tags": ["Phishing"]}, ENTITY | {"type": "Entities"},
        ENTITY | clean | {"subtype": "phishing"}, ENTITY | {"threatType": "SPAM", "subtype": "SPAM", "tags": ["SPAM"]},
        ENTITY | {"messageId": "<m2@example.net>"}, ENTITY | {"messageId": ""},
        CLICK | {"messageId": "<m3@example.net>"},
        ENTITY | {"senderEnvelope": "bill@example.NET", "senderHeader": "x@example.net"},
        ENTITY | {"senderEnvelope": "x@example.net", "senderHeader": "bill@example.net"},
        ENTITY | {"senderEnvelope": "", "senderHeader": "bill@example.net"}]
    writers = [lambda *row: post(workspace, *row), lambda *row: write(workspace, rows.older, *row),
               lambda *row: write(workspace, rows.newer, *row)]
    for number, event in enumerate(events):
        for kind, writer in enumerate(writers):
            own = event | {"_offset": 10 * number + kind, "subject": f"{number} {kind}"}
            arrived = rows.moment("now-1h") if (number + kind) % 3 == 0 else rows.moment("now-30h")
            writer(own | {"timestamp": rows.epoch_ms(arrived)}, arrived)
            if number % 2:
                writer(own | {"timestamp": rows.epoch_ms(arrived)}, rows.moment("now-20m"))
    return workspace


def _time(text):
    return f"datetime({rows.moment(text).isoformat()})"


# A value of each filter, and which events of the function without filters it is to take.
FILTERS = {
    "starttime": (_time("now-2h"), lambda row: row["TimeGenerated"] >= rows.moment("now-2h")),
    "endtime": (_time("now-2h"), lambda row: row["TimeGenerated"] <= rows.moment("now-2h")),
    "type": ('"entities"', lambda row: row["Type"].lower() == "entities"),
    "threats": ('dynamic(["PHISHING"])', lambda row: "PHISHING" in {
        text.upper() for text in (row["Threat Type"], row["Subtype"], *row["TagsList"])}),
    "senders": ('dynamic(["Bill@Example.net"])', lambda row: "bill@example.net" == (
        row["Sender Envelope"] or row["Sender Header"]).lower()),
    "disabled": ("true", lambda row: False),
}


def each_filter_takes_what_it_says():
    """a filter of the parser gives the events that the same condition on its result gives"""
    workspace, faults = _of_all_kinds(), []
    every = workspace.parsed()
    cases = {name: {name: value} for name, (value, _) in FILTERS.items()}
    cases["type and threats"] = {name: FILTERS[name][0] for name in ("type", "threats")}
    for name, given in cases.items():
        expected = [row for row in every if all(FILTERS[one][1](row) for one in given)]
        if not len(every) > len(expected) >= (name != "disabled"):
            faults.append(f"{name}: {len(expected)} of {len(every)} events are no test")
        found = workspace.parsed(**given)
        if name in ("starttime", "endtime"):
            # Of the vendor's rows each copy has the time of its own arrival: a later copy may be in
            # the range alone, as in a query's time range.
            wrong = [row["Subject"] for row in found if not FILTERS[name][1](row)]
            lacking = {row["Subject"] for row in expected} - {row["Subject"] for row in found}
            faults += [f"{name}: outside are {wrong}, lacking {lacking}"] if wrong or lacking else []
        elif found != expected:
            faults.append(f"{name}: {len(found)} events, not {len(expected)}")
    return faults


def arrived_after():
    """the parser's arrivedafter gives whole messages, so that no second copy passes for the first"""
    workspace, since = Workspace(), rows.moment("now-1h")
    for offset, (message, arrivals) in enumerate([
            ("<old@example.net>", ["now-5h"]), ("<new@example.net>", ["now-10m"]),
            ("<again@example.net>", ["now-5h", "now-10m"]), ("<joined@example.net>", ["now-5h"]),
            ("", ["now-5h", "now-10m"])]):
        for arrival in arrivals:
            post(workspace, ENTITY | {"messageId": message, "_offset": offset}, rows.moment(arrival))
    post(workspace, MAILFLOW | {"messageId": "<joined@example.net>"}, rows.moment("now-10m"))
    given = {"arrivedafter": _time("now-1h")}
    every, found = workspace.parsed(), workspace.parsed(**given)
    expected = [row for row in every if row["Message ID"] != "<old@example.net>"]
    faults = [] if found == expected else [f"it gives {found}"]
    # With a type: the delivery of long ago whose result has just come.
    found = workspace.parsed(**given, type='"entities"')
    if "<joined@example.net>" not in {row["Message ID"] for row in found} or any(
            row["Type"] != "entities" for row in found):
        faults.append(f"with a type it gives {found}")
    new = [row["Message ID"] for row in workspace.parsed(**given, type='"entities"') if row["IngestionTime"] > since]
    return faults + ([] if new == ["<new@example.net>"] else [f"new are {new}"])


def filters_reach_the_table():
    """each filter of the parser acts before copies are compared"""
    workspace, faults = _of_all_kinds(), []
    every = workspace.rows_read()
    for name, value in {**{name: value for name, (value, _) in FILTERS.items()},
                        "arrivedafter": _time("now-1h")}.items():
        read = workspace.rows_read(**{name: value})
        copies = sum(row["Copies"] for row in workspace.parsed(**{name: value}))
        if not read == copies < every:
            faults.append(f"{name}: {read} of {every} rows are read for {copies}")
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


def verdicts():
    """the parser's verdict is the gravest of threat type, subtype and tags"""
    said = [
        ("MALWARE", ["PHISHING"], "MALWARE"), ("phishing", [], "PHISHING"), ("NO_DETECTIONS", ["SPAM", "Malware"], "MALWARE"),
        ("POLICIES_DISABLED", ["UNTRUSTWORTHY", "SPAM"], "UNTRUSTWORTHY"), ("IMPERSONATION", ["SPAM"], "IMPERSONATION"),
        ("NO_DETECTIONS", ["SPAM"], "SPAM"), ("POLICIES_DISABLED", None, ""), ("NO_DETECTIONS", [], ""), (None, None, ""),
        ("SPAM", ["PHISHING"], "PHISHING")]
    return _told([ENTITY | {"threatType": kind, "subtype": kind, "tags": tags} for kind, tags, _ in said],
                 [{"Verdict": verdict} for *_, verdict in said])


def alignment():
    """the parser says which of SPF, DKIM and DMARC passed for the sender's own domain"""
    def results(*entries):
        return [{"type": kind, "result": result, "aligned": aligned} for kind, result, aligned in entries]

    neither = {"SpfAligned": False, "DkimAligned": False, "DmarcAligned": False}
    said = [
        (results(("SPF", "pass", True), ("DKIM", "pass", False), ("DMARC", "fail", None)),
         {"SpfAligned": True, "DkimAligned": False, "DmarcAligned": True, "Dmarc": "fail"}),
        (results(("SPF", "pass", False), ("DKIM", "none", False), ("DMARC", "pass", None)),
         neither | {"DmarcAligned": True}),
        (results(("SPF", "fail", True), ("DKIM", "fail", True), ("DMARC", "fail", None)), neither),
        (results(("SPF", "permerror", True), ("DKIM", None, True), ("DMARC", None, True)), neither),
        # Of several signatures one is enough, whichever it is.
        (results(("DKIM", "fail", True), ("DKIM", "PASS", False), ("dkim", "Pass", True)),
         {"Dkim": "fail", "SpfAligned": False, "DkimAligned": True, "DmarcAligned": True}),
        ([{"aligned": True, "result": "pass", "type": "SPF"}], {"SpfAligned": True, "DkimAligned": False}),
        ([{"result": "pass", "type": "SPF"}], neither | {"Spf": "pass"}), (None, neither), ([], neither)]
    return _told([MAILFLOW | {"authResults": entries} for entries, _ in said], [columns for _, columns in said])


def _told(events, expected):
    """What is wrong with these columns of these events, posted by this connector."""
    workspace = Workspace()
    for number, event in enumerate(events):
        post(workspace, event | {"_offset": number})
    found = sorted(workspace.parsed(), key=lambda row: row["SourceOffset"])
    if len(found) != len(events):
        return [f"{len(found)} rows of {len(events)} events"]
    return [f"{number}: {fault}" for number, (row, columns) in enumerate(zip(found, expected, strict=True))
            for fault in differences(row, columns)]


def by_recipient():
    """MimecastCIByRecipient gives an event once for each recipient, or once if it has none, with the filters of MimecastCI"""
    workspace = Workspace()
    post(workspace, ENTITY | {"recipients": ["Bob@Example.com", "ann@example.com"]})
    for number, recipients in enumerate(([], None)):
        post(workspace, ENTITY | {"recipients": recipients, "_offset": number})
    workspace.parse()
    workspace.read_rows()
    body = gaps.without_comments((SENTINEL / "parser/MimecastCIByRecipient.kql").read_text())
    faults = []
    for kind, expected in ("entities", ["", "", "ann@example.com", "bob@example.com"]), ("urlclick", []):
        given = gaps.DEFAULTS | {"type": f'"{kind}"'}
        lets = "".join(f"let {name} = {value};\n" for name, value in given.items())
        found = sorted(row["Recipient"] for row in workspace.query(lets + body))
        faults += [] if found == expected else [f"of {kind}: {found}"]
    return faults


def own_domains():
    """the organisation's domains are those of the watchlist, else those that enough inbound mail is addressed to"""
    def mail(count, *recipients, **fields):
        return [ENTITY | fields | {"recipients": recipients, "messageId": f"<{number} {recipients}>"}
                for number in range(count)]

    workspace = Workspace()
    # Of 1021 inbound messages 1 % are 11.
    events = [*mail(990, "Bob@Own.Example"), *mail(11, "ann@second.example", "x@gmail.com"),
              *mail(10, "ann@own.example", "joe@partner.example"), *mail(10, "a@gmail.com"),
              *mail(30, "joe@customer.example", direction="OUTBOUND"), *mail(1, "ann@repeated.example") * 30]
    # A day of so many is enough, whatever came before.
    before = mail(500, "ann@before.example")
    workspace.post([rows.ours(event | {"_offset": number}, arrival, STREAM) for number, (event, arrival) in enumerate(
        [*((event, rows.NOW) for event in events), *((event, rows.moment("now-3d")) for event in before)])])
    workspace.read_rows()
    faults = []

    def expect(query, *expected):
        found = sorted(row["Value"] for row in workspace.query(query))
        faults.extend([] if found == sorted(expected) else [f"{query}: {found}"])

    own = "let until = now();\nMimecastOwnDomains(until) | project Value = Domain"
    expect(own, "own.example", "second.example")
    # In the day before there was nothing.
    expect("let until = ago(1h);\nMimecastOwnDomains(until) | project Value = Domain", "before.example")
    workspace.insert("Watchlist", [{"WatchlistAlias": alias, "SearchKey": key} for alias, key in [
        ("MimecastVips", " Boss@Own.Example "), ("MimecastVips", ""), ("MimecastSimulations", "@Phish.Example"),
        ("MimecastSimulations", "192.0.2.7"), ("MimecastOwnDomains", "")]])
    expect(own, "own.example", "second.example")
    workspace.insert("Watchlist", [{"WatchlistAlias": "MimecastOwnDomains", "SearchKey": "Listed.Example."}])
    expect(own, "listed.example")
    expect("MimecastVips() | project Value = Address", "boss@own.example")
    expect("MimecastSimulations()", "phish.example", "192.0.2.7")
    return faults


def late_rows():
    """the rule's transform leaves the event's time for 46 hours, and then takes that of arrival"""
    workspace = Workspace()
    times = [("now-45h", "now-45h"), ("now-47h", "now"), ("now-60d", "now")]
    for number, (time, _) in enumerate(times):
        row = rows.ours(ENTITY | {"timestamp": rows.epoch_ms(rows.moment(time)), "_offset": number}, rows.NOW, STREAM)
        workspace.post([row | {"TimeGenerated": rows.moment(time)}])
    found = {row["SourceOffset"]: row["TimeGenerated"] for row in workspace.parsed()}
    return [f"{time}: {found.get(number)}" for number, (time, generated) in enumerate(times)
            if found.get(number) != rows.moment(generated)]


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
          one_event_of_two_connectors, each_filter_takes_what_it_says, arrived_after, filters_reach_the_table,
          boundaries_do_not_blur, no_usable_time, odd_values, verdicts, alignment, by_recipient, own_domains,
          late_rows]
