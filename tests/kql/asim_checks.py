"""The ASIM parser, run on events. What the schema asks of columns and filters, bind.js checks."""

import json
import re

import gaps
import rows
from parser_checks import ENTITY, MAILFLOW, differences, post
from workspace import HERE, SENTINEL, Workspace

SCHEMA = json.loads((HERE / "asim.json").read_text())
_BODY = gaps.without_comments((SENTINEL / "parser/vimEmailEventMimecastCloudIntegrated.kql").read_text())
_DEFAULTS = dict(re.findall(r"(\w+):\w+=([^,]+?)(?:, |\)$)", SCHEMA["filters"]))


def _events(workspace, **given):
    lets = "".join(f"let {name} = {value};\n" for name, value in (_DEFAULTS | given).items())
    return sorted(workspace.query(lets + _BODY), key=lambda row: row["EventStartTime"])


def _workspace():
    """Delivered phishing with authentication, blocked malware, mail without a finding, and what has no values."""
    workspace = Workspace()
    blocked = {"timestamp": rows.epoch_ms(rows.moment("now-9h")), "messageId": "<m2@example.net>", "_offset": 1,
               "threatState": "BLOCKED", "threatType": "MALWARE", "subtype": "MALWARE", "tags": ["MALWARE"],
               "senderIp": "198.51.100.7", "senderEnvelope": "Bounce+1@Mail.Example.org", "direction": "OUTBOUND",
               "recipients": ["Joe@Partner.example"], "subject": "Invoice"}
    clean = {"timestamp": rows.epoch_ms(rows.moment("now-8h")), "messageId": "<m3@example.net>", "_offset": 2,
             "threatType": "NO_DETECTIONS", "subtype": "NO_DETECTIONS", "tags": [], "historicalMail": True,
             "direction": "INTERNAL"}
    without = {"type": "entities", "timestamp": rows.epoch_ms(rows.moment("now-7h")), "source": "OFFICE_365_MAIL"}
    first = {"timestamp": rows.epoch_ms(rows.moment("now-10h"))}
    for event in (ENTITY | first, MAILFLOW | first, ENTITY | blocked, ENTITY | clean, without):
        post(workspace, event)
    workspace.parse()
    return workspace


def email_events():
    """vimEmailEventMimecastCloudIntegrated gives each message of entities the values of ASIM's EmailEvent"""
    expected = [
        {"EventType": "EmailDelivery", "EventSubType": "EmailReceived", "EventResult": "Success",
         "EventResultDetails": "", "EventSeverity": "High", "DvcAction": "Delivered", "DvcOriginalAction": "DELIVERED",
         "EmailDirection": "Inbound", "EmailFromAddress": "ann@mail.example.net", "EmailFromDomain": "mail.example.net",
         "EmailMailFromAddress": "", "SrcIpAddr": "192.0.2.10", "Dst": "bob@example.com", "EmailFileCount": 2,
         "EmailToRecipients": '["bob@example.com","cid@example.com"]', "EmailSpfResult": "SoftFail",
         "EmailDkimResult": "Pass", "EmailDmarcResult": "Fail", "ThreatCategory": "Phishing",
         "RuleName": "Default {policy}", "AdditionalFields": "{}"},
        {"EventType": "EmailDelivery", "EventSubType": "EmailSent", "EventResult": "Failure",
         "EventResultDetails": "MalwareDetected", "EventSeverity": "Medium", "DvcAction": "Blocked",
         "EmailMailFromAddress": "bounce+1@mail.example.org", "EmailMailFromDomain": "mail.example.org",
         "Dst": "joe@partner.example", "EmailSpfResult": "", "ThreatCategory": "Malware"},
        {"EventType": "EmailInspection", "EventSubType": "", "EmailDirection": "Internal",
         "EventSeverity": "Informational", "ThreatCategory": ""},
        {"EventResult": "NA", "DvcAction": "NA", "EmailDirection": "Unknown", "Dst": "OFFICE_365_MAIL",
         "EmailFileCount": 0},
    ]
    workspace = _workspace()
    found = _events(workspace)
    if len(found) != len(expected):
        return [f"{len(found)} events, not {len(expected)}"]
    faults = [fault for row, columns in zip(found, expected, strict=True) for fault in differences(row, columns)]
    for row in found:
        faults += [f"{name} is {row[name]!r}, no value of the schema"
                   for name, values in SCHEMA["values"].items() if row[name] not in values]
        faults += [f"{name} is empty, which is mandatory" for name in SCHEMA["mandatory"] if row[name] in ("", None)]
    packed = json.loads(_events(workspace, pack="true")[0]["AdditionalFields"])
    return faults + differences(packed, {"MessageId": "<m1@example.net>", "Tags": ["PHISHING", "SPAM"]})


def filters():
    """each filter of vimEmailEventMimecastCloudIntegrated takes the events that it says"""
    workspace = _workspace()
    cases = {
        "starttime": ("ago(9h)", 3), "endtime": ("ago(9h)", 2), "disabled": ("true", 0),
        "ipaddr_has_any_prefix": ('dynamic(["198.51.", "203.0.113."])', 1),
        "emailfromaddress_has_any": ('dynamic(["mail.example.net"])', 3),
        "emailrecipient_has_any": ('dynamic(["x@example.com", "joe@partner.example"])', 1),
        "emailsubject_has_any": ('dynamic(["invoice"])', 1),
        "emaildirection_in": ('dynamic(["Internal", "Unknown"])', 2),
        "emaildeliverylocation_in": ('dynamic(["Inbox"])', 0), "eventresult": ('"Failure"', 1),
    }
    found = {name: len(_events(workspace, **{name: value})) for name, (value, _) in cases.items()}
    return [f"{name}: {found[name]} events, not {count}" for name, (_, count) in cases.items() if found[name] != count]


CHECKS = [email_events, filters]
