"""From an event as Mimecast's API gives it to a row, as each generation of connectors wrote it."""

import hashlib
import json
from datetime import UTC, datetime, timedelta

# All tests happen at this moment, at which a window of each length ends.
NOW = datetime(2026, 6, 15, 0, 0, tzinfo=UTC).replace(tzinfo=None)

# Fields whose column has another name (src/table/cloud_integrated.rs); all others keep theirs.
RENAMED = {"type": "type_", "_partition": "sourcePartition", "_offset": "sourceOffset"}

# The rule's transform puts the time of ingestion in the place of an older TimeGenerated.
MAX_AGE = timedelta(hours=46)

_JSON_TYPES = {"string": str, "long": int, "boolean": bool}
_UNITS = {"s": "seconds", "m": "minutes", "h": "hours", "d": "days"}


def span(text):
    """A time span such as "10m"."""
    return timedelta(**{_UNITS[text[-1]]: int(text[:-1])})


def moment(text):
    """A time such as "now" or "now-10m"."""
    return NOW - (span(text[4:]) if text != "now" else timedelta())


def epoch_ms(time):
    return int((time - datetime(1970, 1, 1)) / timedelta(milliseconds=1))


def from_epoch_ms(ms):
    return datetime(1970, 1, 1) + timedelta(milliseconds=ms)


def occurrences(written):
    """The events that a test's file means by one entry: pairs of event and time of arrival.

    Besides the API's fields an entry may have `_ingested` (when it arrived; without it, at its own
    time), `_repeat` (how many events like it there are) and `_every` (how much older each is than
    the one before).
    """
    event = dict(written)
    ingested, repeat = event.pop("_ingested", None), event.pop("_repeat", 1)
    every = span(event.pop("_every", "0s"))
    for number in range(repeat):
        one, older = dict(event), number * every
        if number:
            one["_offset"] = one.get("_offset", 0) + number * 1_000_000
        time = event.get("timestamp")
        if isinstance(time, str) and time.startswith("now"):
            one["timestamp"] = epoch_ms(moment(time) - older)
        arrival = ingested or (time if isinstance(time, str) else "now")
        yield one, moment(arrival) - older


def ours(event, arrival, stream_columns):
    """What this connector posts, and what Azure does to TimeGenerated."""
    types = {column["name"]: column["type"] for column in stream_columns}
    line = json.dumps(event, ensure_ascii=False, separators=(",", ":"))
    row = {"EventId": hashlib.sha256(line.encode()).hexdigest()[:32]}
    rest = {}
    for field, value in event.items():
        column = RENAMED.get(field, field)
        kind = types.get(column)
        if column != field and field not in RENAMED or kind is None:
            rest[field] = value
        elif value is None:
            continue
        elif kind == "dynamic" or type(value) is _JSON_TYPES[kind]:
            row[column] = value
        else:
            rest[field] = value
    if rest:
        row["AdditionalFields"] = rest
    time = row.get("timestamp")
    if time is not None and 946_684_800_000 <= time < 4_102_444_800_000:
        row["EventTime"] = from_epoch_ms(time)
    time = row.get("EventTime", arrival)
    row["TimeGenerated"] = time if arrival - time <= MAX_AGE else arrival
    return row | {"_ingestion_time": arrival}


def newer(event, arrival):
    """What the vendor's newer connector wrote: plain names, no time but that of arrival."""
    row = {RENAMED.get(field, field): value for field, value in event.items()
           if not field.startswith("_") and value is not None}
    return row | {"TimeGenerated": arrival, "_ingestion_time": arrival}


def older(event, arrival):
    """What the vendor's older connector wrote: names that end in the value's type."""
    def suffix(value):
        if isinstance(value, bool):
            return "_b"
        return "_d" if isinstance(value, (int, float)) else "_s"

    row = {field + suffix(value): value for field, value in event.items() if value is not None}
    return row | {"TimeGenerated": arrival, "_ingestion_time": arrival}
