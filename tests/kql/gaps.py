"""What duckdb-kql 1.1.2 lacks of the KQL in sentinel/, and what the tests do instead.

This is the whole list; execute.py prints REWRITTEN. The KQL under sentinel/ stays as it is; only the tests' copy
changes. So of what is rewritten the tests do not show what Kusto does: bind.js has Microsoft's parser check the KQL
as it stands, which is syntax, names and types, and no run.
"""

import json
import re
from pathlib import Path

from duckdb_kql import ir, translate
from duckdb_kql.translate import functions

# What of the KQL the tests do not run as it stands.
REWRITTEN = []


def _rewritten(kql, by):
    """What rewrites this KQL."""
    REWRITTEN.append(kql)
    return by


# Functions it does not have, in DuckDB's SQL: name, number of arguments, SQL.
FUNCTIONS = [
    # The tests' tables have the time of arrival as a column.
    ("ingestion_time", 0, '"_ingestion_time"'),
    ("unixtime_milliseconds_todatetime", 1, "make_timestamp(CAST({0} AS BIGINT) * 1000)"),
    ("has_any_ipv4_prefix", 2, "len(list_filter(CAST({1} AS VARCHAR[]), lambda prefix: starts_with({0}, prefix))) > 0"),
    ("bag_keys", 1, "to_json(json_keys({0}))"),
    # It has one that escapes quotes.
    ("base64_decode_tostring", 1, "decode(from_base64({0}))"),
]

for _name, _arity, _sql in FUNCTIONS:
    _rewritten(f"{_name}()", _sql)
    functions.SCALAR_FUNCTIONS[_name] = functions.FunctionSpec(_name, "template", _sql, (_arity,))

# Where a query takes a value as text, the SQL says at each place how a value of each type is written: most of all SQL,
# and DuckDB takes longer to read a query than to run it. So a value that is text by the function that gives it is taken
# as it is, and a time span, whose text takes the most SQL and which no query here takes as text, is an error.
_TEXTS = translate._STRING_RETURNING | {"extract", "replace_regex"}
_text_of = translate.render_kql_tostring


def _short_text_of(node):
    if (isinstance(node, ir.Literal) and node.kind == "string"
            or isinstance(node, ir.FunctionCall) and node.name in _TEXTS):
        return f"coalesce({translate.render_expr(node)}, '')"
    return _text_of(node)


translate.render_kql_tostring = _short_text_of
translate._kql_timespan_text = lambda span: f"error('a time span as text: ' || {span})"

# No column_ifexists(): it needs a table's columns when the query is translated.
_COLUMN_IFEXISTS = _rewritten("column_ifexists()", re.compile(
    r'column_ifexists\("(\w+)", ((?:[^()]|\([^()]*\))*)\)'))

# The functions' leg without columns, which is for a workspace without the table: with
# column_ifexists() written out, `rows` fits one table only.
_EMPTY_LEG = _rewritten(
    "the leg of MimecastCIRows for a workspace without the table",
    "(datatable(TimeGenerated:datetime)[] | invoke rows()),")

# No hint on summarize; it changes no result.
_HINT = _rewritten("hint.shufflekey of summarize", re.compile(r"\bhint\.shufflekey=\w+ "))

# For the rule's transform the time is each row's arrival.
_ARRIVAL = _rewritten(
    "now() and ago() in the transform", {"ago(46h)": "(_ingestion_time - 46h)", "now()": "_ingestion_time"})


def transform(kql):
    """The rule's transform."""
    for time, arrival in _ARRIVAL.items():
        kql = kql.replace(time, arrival)
    return kql


# What each parameter of the functions is if a call does not say. Their values stand in the functions' texts.
DEFAULTS = _rewritten("the functions' parameters", {
    "starttime": "datetime(null)", "endtime": "datetime(null)", "type": '"*"',
    "arrivedafter": "datetime(null)", "threats": "dynamic([])", "senders": "dynamic([])",
    "disabled": "false",
})


def arguments(call):
    """Of the text between a call's brackets: each parameter's value."""
    parts, depth = [""], 0
    for sign in call:
        depth += (sign in "([") - (sign in ")]")
        if sign == "," and depth == 0:
            parts.append("")
        else:
            parts[-1] += sign
    given = dict(re.split(r"\s*=\s*", part.strip(), maxsplit=1) for part in parts if part.strip())
    if unknown := given.keys() - DEFAULTS.keys():
        raise ValueError(f"the functions have no parameters {sorted(unknown)}")
    return given


def replace_calls(kql, name, replacement):
    """The KQL with each call of the function replaced by what `replacement` makes of its arguments."""
    done = ""
    while found := re.search(rf"\b{name}\(", kql):
        end, depth = found.end(), 1
        while depth:
            depth += {"(": 1, ")": -1}.get(kql[end], 0)
            end += 1
        done += kql[:found.start()] + replacement(arguments(kql[found.end():end - 1]))
        kql = kql[end:]
    return done + kql


def without_comments(kql):
    return re.sub(r"(?m)^\s*//.*", "", kql)


def _rows(rows_kql, columns, given, number):
    """MimecastCIRows with these arguments, as `let` statements of which the last is `rows_of_<number>`.

    duckdb-kql takes no named arguments, and no function with `let` in its body.
    """
    if rows_kql.count(_EMPTY_LEG) != 1:
        raise ValueError(f"MimecastCIRows has no leg {_EMPTY_LEG!r}; bring gaps.py up to date")
    known = {*columns, "IngestionTime"}
    kql = _COLUMN_IFEXISTS.sub(
        lambda call: f'["{call[1]}"]' if call[1] in known else call[2], rows_kql.replace(_EMPTY_LEG, ""))
    for parameter, default in DEFAULTS.items():
        kql = re.sub(rf"\b{parameter}\b(?!\()", lambda _: given.get(parameter, default), kql)
    kql = re.sub(r"\b(rows|domain)\b", rf"\1_{number}", re.sub(r"//.*", "", kql))
    head, _, result = kql.rpartition(";")
    return f"{head};\nlet rows_of_{number} = {result.strip()};\n"


def rows_over(rows_kql, columns, given):
    """The KQL of a call of MimecastCIRows for a table with these columns."""
    return _rows(rows_kql, columns, given, 0) + "rows_of_0"


def function_over(ci_kql, rows_kql, columns, given):
    """The KQL of a call of MimecastCI for a table with these columns."""
    lets = []

    def call(inner):
        inner = {name: given.get(value, DEFAULTS[value]) for name, value in inner.items()}
        lets.append(_rows(rows_kql, columns, inner, len(lets)))
        return f"rows_of_{len(lets) - 1}"

    kql = replace_calls(_HINT.sub("", without_comments(ci_kql)), "MimecastCIRows", call)
    values = {name: given.get(name, default) for name, default in DEFAULTS.items()}
    return "".join(f"let {name} = {value};\n" for name, value in values.items()) + "".join(lets) + kql


# The rules and hunting queries run on what the functions gave without filters, kept as tables of
# their names: each filter is then a condition on the result, which parser_checks.py shows to give
# the same events. {0} is the value of the parameter.
_CONDITIONS = _rewritten("in rules and hunting queries, calls of MimecastCI and MimecastCIRows with their filters", {
    "MimecastCI": {
        "starttime": "isnull({0}) or TimeGenerated >= {0}",
        "endtime": "isnull({0}) or TimeGenerated <= {0}",
        "type": "{0} == '*' or Type =~ {0}",
        "arrivedafter": "isnull({0}) or isempty(['Message ID']) or ['Message ID'] in "
                        "((MimecastCIRows | where IngestionTime > {0} | project messageId))",
        "threats": "array_length({0}) == 0 or ['Threat Type'] in~ ({0}) or Subtype in~ ({0}) or Tags has_any ({0})",
        "senders": "array_length({0}) == 0 or ['Sender Envelope'] in~ ({0}) "
                   "or isempty(['Sender Envelope']) and ['Sender Header'] in~ ({0})",
        "disabled": "not({0})",
    },
    "MimecastCIRows": {
        "starttime": "isnull({0}) or TimeGenerated >= {0}",
        "endtime": "isnull({0}) or TimeGenerated <= {0}",
        "type": "type_ =~ {0}",
        "arrivedafter": "IngestionTime > {0}",
        "disabled": "not({0})",
    },
})


# What MimecastCIByRecipient adds to MimecastCI.
_BY_RECIPIENT = (' | mv-expand Recipient = iff(array_length(RecipientsList) > 0, RecipientsList, dynamic([""]))'
                 " to typeof(string) | extend Recipient = tolower(Recipient)")


# These are written out in the query, each before those that it calls.
_OWN = _rewritten("calls of all other functions", {
    name: (Path(__file__).parents[2] / f"sentinel/parser/{name}.kql").read_text() for name in (
        "MimecastSimulations", "MimecastVips", "MimecastOwnDomains", "MimecastFreeMail", "IdentityAddresses",
        "IdentityUsers", "IdentityGroupMembers", "IdentityRiskOpen", "IdentityRisk", "IdentityRiskyUsers")})
# The one table of which IdentityUsers asks what columns it has.
_OF_IDENTITY_INFO = re.findall(
    r"(\w+):", json.loads((Path(__file__).parent / "tables.json").read_text())["IdentityInfo"])

_WATCHLIST = _rewritten("_GetWatchlist()", re.compile(r'_GetWatchlist\("(\w+)"\)'))


def _inlined(kql, name, body):
    """The KQL with the body of a function, of which the `let`s stand before the statement that calls it."""
    while call := re.search(rf"\b{name}\((\w*)\)", kql):
        statement = kql.rfind(";\n", 0, call.start()) + 1
        own = re.sub(r"\buntil\b", call[1] or "datetime(null)", without_comments(body))
        for let in re.findall(r"(?m)^let (\w+) =", own):
            own = re.sub(rf"\b{let}\b", f"{name}_{let}", own)
        lets, separator, result = own.rpartition(";")
        kql = (kql[:statement] + "\n" + lets + separator + kql[statement:call.start()] + result.strip()
               + kql[call.end():])
    return kql


def written_out(kql):
    """A query in which the functions that call MimecastCI and MimecastCIRows, and the watchlists, are written out."""
    kql = without_comments(kql)
    for name, body in _OWN.items():
        kql = _inlined(kql, name, body)
    kql = _COLUMN_IFEXISTS.sub(lambda call: call[1] if call[1] in _OF_IDENTITY_INFO else call[2], kql)
    kql = _WATCHLIST.sub(r'Watchlist | where WatchlistAlias == "\1"', kql)
    return replace_calls(kql, "MimecastCIByRecipient", lambda given: "MimecastCI(" + ", ".join(
        f"{name} = {value}" for name, value in given.items()) + ")" + _BY_RECIPIENT)


def on_results(kql):
    """A query whose calls of the functions read tables of their names."""
    kql = written_out(kql)
    kql = re.sub(r"\bMimecastCloudIntegrated\b", "MimecastCI()", kql)
    for name, conditions in _CONDITIONS.items():
        def table(given, name=name, conditions=conditions):
            return name + "".join(f" | where {conditions[one].format(value)}" for one, value in given.items())
        kql = replace_calls(kql, name, table)
    return kql


# Known differences that the tests must not lean on:
# - strcat() of a bool gives True, not true (the parser puts its only one in lower case);
# - parse_json() of a text that is not JSON gives null, not the text.
