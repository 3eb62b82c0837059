"""That numbers agree with the lists that a click on them opens; used by execute.py."""
import re

from parts import conditions

# What a tile counts, the column that says the most first.
NUMBERS = ("Deliveries", "Clicks", "Messages", "Threats")
# A delivery may have met two policies of one action in two modes, and is in both slices.
SEVERAL = {("policy-actions", "policy-modes")}
# Numbers in tiles without a click, and the list that is always shown.
SHOWN = [("overview-counts", "Threats delivered", "overview-delivered"), ("click-counts", "Clicks", "clicks-all"),
         ("click-counts", "Clicks", "click-messages")]
ROWS = 2


def total(columns, rows):
    """What a list or chart adds up to."""
    number = next((name for name in NUMBERS if name in columns), None)
    return sum(row[columns.index(number)] for row in rows) if number else len(rows)


def clicked(content, columns, row):
    """The parameters that a click on this row sets."""
    if "exportFieldName" in content:
        return {content["exportParameterName"]: next(cell for cell in row if isinstance(cell, str))}
    return {one["parameterName"]: row[columns.index(one["fieldName"])] for one in content.get("exportedParameters", [])}


def disagreements(items, ask):
    """Each number and its list: pairs of a name and what is wrong. `ask` gives a tile's columns and rows."""
    for name, what, listed in SHOWN:
        _, rows = ask(items[name], {})
        wanted, found = dict(rows)[what], total(*ask(items[listed], {}))
        yield f"{name} and {listed}", [] if wanted == found else [f"{wanted} and {found}"]
    for name, item in items.items():
        yield from behind(items, ask, name, item, {})


def behind(items, ask, name, item, chosen):
    needs = {one["parameterName"] for one in conditions(item)}
    if not needs <= chosen.keys() or "MessageKey = hash" in item["content"]["query"]:
        return
    columns, rows = ask(item, chosen)
    number = next((columns.index(one) for one in NUMBERS if one in columns), None)
    faults = {}
    for row in rows[:ROWS]:
        sets = clicked(item["content"], columns, row)
        if not sets or number is None:
            return
        for other, target in items.items():
            query = target["content"]["query"]
            wants = {one["parameterName"] for one in conditions(target)}
            if not sets.keys() <= wants or not wants <= {**chosen, **sets}.keys():
                continue
            given = {**chosen, **sets, **{f"{key}:base64": value for key, value in sets.items()}}
            found = total(*ask(target, given))
            agrees = found >= row[number] if (name, other) in SEVERAL else found == row[number]
            faults.setdefault(other, []).extend([] if agrees else [f"{row}: the list has {found}"])
            if "MessageKey = hash" not in query:
                yield from behind(items, ask, other, target, given)
    for other, wrong in faults.items():
        yield f"{name} and {other}", wrong
    if not faults and item["content"].keys() & {"exportedParameters", "exportFieldName"}:
        yield f"{name}", [] if not rows else ["a click opens no list"]
