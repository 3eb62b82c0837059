"""What rules and hunting queries let the functions filter, so that they do not read all of the table."""

import yaml

import gaps

# What each call of MimecastCI must give. MimecastCIRows compares no copies, and may be asked for all.
LEAST = {"rules": {"type"}, "hunting": {"starttime", "endtime"}}


def check(sentinel):
    """Each rule and hunting query: pairs of a name and the calls that lack a filter."""
    for folder, least in LEAST.items():
        for path in sorted((sentinel / folder).glob("*.yaml")):
            query = yaml.safe_load(path.read_text())["query"]
            yield f"{folder}/{path.name} filters before copies are compared", faults(query, least)


def faults(query, least):
    found = [f"it calls MimecastCI without {', '.join(sorted(least - given.keys()))}"
             for name, given in calls(query) if name != "MimecastCIRows" and least - given.keys()]
    return found + (["it calls MimecastCloudIntegrated, which filters nothing"]
                    if "MimecastCloudIntegrated" in query else [])


def calls(query):
    """The calls of the functions: pairs of a name and the arguments."""
    found = []
    for name in ("MimecastCI", "MimecastCIByRecipient", "MimecastCIRows"):
        gaps.replace_calls(query, name, lambda given, name=name: found.append((name, given)) or "")
    return found
