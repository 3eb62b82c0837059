"""What duckdb-kql 1.1.2 lacks of the KQL in sentinel/, and what the tests do instead.

This is the whole list. The KQL under sentinel/ stays as it is; only the tests' copy changes.
"""

import re

from duckdb_kql.translate import functions

# Functions it does not have, in DuckDB's SQL: name, number of arguments, SQL.
FUNCTIONS = [
    # The tests' tables have the time of arrival as a column.
    ("ingestion_time", 0, '"_ingestion_time"'),
    ("unixtime_milliseconds_todatetime", 1, "make_timestamp(CAST({0} AS BIGINT) * 1000)"),
]

for _name, _arity, _sql in FUNCTIONS:
    functions.SCALAR_FUNCTIONS[_name] = functions.FunctionSpec(_name, "template", _sql, (_arity,))

# No column_ifexists(): it needs a table's columns when the query is translated.
_COLUMN_IFEXISTS = re.compile(r'column_ifexists\("(\w+)", ((?:[^()]|\([^()]*\))*)\)')

# The parser's leg without columns, which is for a workspace without the table: with
# column_ifexists() written out, `rows` fits one table only.
_EMPTY_LEG = "(datatable(TimeGenerated:datetime)[] | invoke rows()),"


def parser_over(parser, columns):
    """The parser's KQL for a table with these columns."""
    if parser.count(_EMPTY_LEG) != 1:
        raise ValueError(f"the parser has no leg {_EMPTY_LEG!r}; bring gaps.py up to date")
    known = {*columns, "IngestionTime"}
    kql = parser.replace(_EMPTY_LEG, "")
    return _COLUMN_IFEXISTS.sub(
        lambda call: f'["{call[1]}"]' if call[1] in known else call[2], kql)


# Known differences that the tests must not lean on:
# - strcat() of a bool gives True, not true (the parser puts its only one in lower case);
# - parse_json() of a text that is not JSON gives null, not the text.
