"""How the workbook's tiles look, and what a click on them does; used by build.py."""
import re

HIDDEN = {"formatter": 5}
BAR = {"formatter": 4, "formatOptions": {"palette": "blue", "min": 0}}
RED_BAR = {"formatter": 4, "formatOptions": {"palette": "redBright", "min": 0}}


def colours(*thresholds):
    """A cell's colour by its text."""
    grid = [
        {"operator": "==", "thresholdValue": value, "representation": colour, "text": "{0}{1}"}
        for value, colour in thresholds
    ]
    grid.append({"operator": "Default", "representation": None, "text": "{0}{1}"})
    return {
        "formatter": 18,
        "formatOptions": {"thresholdsOptions": "colors", "thresholdsGrid": grid},
    }


# Delivered mail is most of all mail: what is bad about it, its verdict says.
STATE = colours(
    ("BLOCKED", "green"),
    ("QUARANTINED", "green"),
)
OUTCOME = colours(
    ("caught_up", "green"),
    ("time_limit", "yellow"),
    ("busy", "orange"),
    ("partial", "orange"),
    ("failed", "redBright"),
)
HEALTH = colours(
    ("Connected", "green"),
    ("Connecting", "blue"),
    ("Degraded", "orange"),
    ("Disconnected", "redBright"),
    ("Unavailable", "redBright"),
    ("Silent", "redBright"),
    ("Never reported", "redBright"),
    ("No connector", "gray"),
)
# Of connection tests, and of messages.
VERDICT = colours(
    ("ok", "green"),
    ("warn", "yellow"),
    ("fail", "redBright"),
    ("inconclusive", "orange"),
    ("skipped", "gray"),
    ("MALWARE", "redBright"),
    ("PHISHING", "redBright"),
    ("UNTRUSTWORTHY", "orange"),
    ("SPAM", "yellow"),
)
CHECK = colours(("pass", "green"), ("fail", "redBright"), ("none", "gray"))
# How columns of these names look, in every table.
COLUMNS = {
    "MessageKey": HIDDEN,
    "Key": HIDDEN,
    "RunId": HIDDEN,
    "Deliveries": BAR,
    "Messages": BAR,
    "Clicks": BAR,
    "Threats delivered": RED_BAR,
    "Failed and delivered": RED_BAR,
    "State": STATE,
    "Threat State": STATE,
    "Outcome": OUTCOME,
    "Health": HEALTH,
    "Verdict": VERDICT,
    "Spf": CHECK,
    "Dkim": CHECK,
    "Dmarc": CHECK,
    "Result": CHECK,
}


def pairs(text):
    return [pair.split(":") for pair in text.split(",")]


def look(show, settings, query):
    """What depends on how the tile is shown."""
    if show == "table":
        names = [name for name in COLUMNS if re.search(rf"\b{name}\b", query)]
        formatters = [{"columnMatch": name, **COLUMNS[name]} for name in names]
        return {"gridSettings": {"formatters": formatters, "rowLimit": 10_000, "filter": True}}
    if show == "tiles":
        [[label, number]] = pairs(settings["tile"])
        big = {"columnMatch": number, "formatter": 12, "formatOptions": {"palette": "auto"}}
        whole_number = {"unit": 17, "options": {"style": "decimal", "maximumFractionDigits": 0}}
        return {
            "tileSettings": {
                "titleContent": {"columnMatch": label, "formatter": 1},
                "leftContent": {**big, "numberFormat": whole_number},
                "showBorder": True,
            }
        }
    if show == "map":
        return {
            "mapSettings": {
                "locInfo": "LatLong",
                "latitude": "Latitude",
                "longitude": "Longitude",
                "sizeSettings": "Deliveries",
                "sizeAggregation": "Sum",
                "labelSettings": "Place",
                "legendMetric": "Deliveries",
                "legendAggregation": "Sum",
                "itemColorSettings": {
                    "nodeColorField": "Deliveries",
                    "colorAggregation": "Sum",
                    "type": "heatmap",
                    "heatmapPalette": "greenRed",
                },
            }
        }
    if show == "piechart":
        return {"chartSettings": {"showMetrics": False, "showLegend": True}}
    return {"chartSettings": {"showLegend": True}}


def clicks(show, settings):
    """Which parameters a click sets."""
    if "click" not in settings:
        return {}
    exports = pairs(settings["click"])
    if show in ("barchart", "piechart"):
        [[field, name]] = exports
        return {"exportFieldName": field, "exportParameterName": name}
    return {
        "exportedParameters": [
            {"fieldName": field, "parameterName": name, "parameterType": 1}
            for field, name in exports
        ]
    }
