"""A workspace in DuckDB: tables, the rule's transform, the parser."""

import json
import re
import tempfile
from datetime import datetime
from pathlib import Path

import duckdb_kql

import gaps
import rows

HERE = Path(__file__).parent
SENTINEL = HERE.parent.parent / "sentinel"
TABLE, HEALTH = "Cloud_Integrated_CL", "MimecastConnectorHealth_CL"
IDENTITY = ("DirectoryUsers_CL", "DirectoryGroups_CL", "DirectoryGroupMembers_CL", "EntraRiskDetections_CL",
            "EntraRiskyUsers_CL")
CHEAP = "Cloud_Integrated_Cheap_CL"
PARSER, ROWS = "MimecastCI", "MimecastCIRows"

RULE = json.loads((SENTINEL / "schema/rule.json").read_text())
[STREAM] = [stream["columns"] for stream in RULE["streamDeclarations"].values()]
_OURS = {table: {column["Name"]: column["Type"] for column in json.loads(
    (SENTINEL / f"schema/{table}.kusto.json").read_text())["Properties"]} for table in (TABLE, HEALTH, *IDENTITY)}
COLUMNS = _OURS.pop(TABLE)
# What the template's parameter CheapEvents may be.
CHOICES = {choice["name"]: choice for choice in json.loads((HERE.parents[1] / "arm/cheap.json").read_text())}
PARSER_KQL, ROWS_KQL = [(SENTINEL / f"parser/{name}.kql").read_text() for name in (PARSER, ROWS)]

_SQL_TYPES = {
    "string": "VARCHAR", "long": "BIGINT", "int": "INTEGER", "real": "DOUBLE",
    "bool": "BOOLEAN", "boolean": "BOOLEAN", "datetime": "TIMESTAMP", "dynamic": "JSON",
}


def columns_of(schema):
    """The columns in a schema such as `(a:string, b:long)`."""
    return dict(re.findall(r"(\w+):(\w+)", schema))


GENERATIONS = {name: columns_of(schema) for name, schema in json.loads(
    (HERE / "generations.json").read_text()).items()}
OTHER_TABLES = {name: columns_of(schema) for name, schema in json.loads(
    (HERE / "tables.json").read_text()).items()} | _OURS


_TRANSLATED = {}


def transforms(cheap_events):
    """The rule's transforms by table, as arm/modules/rule.bicep writes them; tests/arm holds it to that."""
    cheap = CHOICES[cheap_events]["cheap"]
    if not cheap:
        return {TABLE: RULE["transformKql"]}
    where = f"{RULE['transformKql']} | where iif({cheap}, 1, 0) == "
    text = ", ".join(f"{name} = tostring({name})" for name, kind in COLUMNS.items() if kind == "dynamic")
    return {TABLE: f"{where}0", CHEAP: f"{where}1 | extend {text}"}


class Workspace:
    """One workspace. A query sees the time rows.NOW, if nothing else is said."""

    def __init__(self, table_columns=COLUMNS, cheap_events="None"):
        self.db = duckdb_kql.connect()
        # One thread gives the same order in each run.
        self.db.execute("SET threads = 1")
        self.now(rows.NOW)
        self.views = {}
        self.create("source", {column["name"]: column["type"] for column in STREAM})
        self.create(TABLE, table_columns)
        for name, columns in OTHER_TABLES.items():
            self.create(name, columns)
        self.create(CHEAP, {name: "string" if kind == "dynamic" else kind for name, kind in COLUMNS.items()})
        self.transforms = {table: self.translate(gaps.transform(kql)) for table, kql in transforms(cheap_events).items()}
        self.table_columns = table_columns

    def create(self, name, columns):
        declared = [f'"{column}" {_SQL_TYPES[kind]}' for column, kind in columns.items()]
        self.db.execute(f'CREATE TABLE "{name}" ({", ".join(declared)}, "_ingestion_time" TIMESTAMP)')

    def now(self, moment):
        """Sets what time it is in the queries."""
        self.db.execute(f"SET VARIABLE now = TIMESTAMP '{moment}'")

    def translate(self, kql):
        """The SQL of a query."""
        # Without the views of queries, which would make another schema for each query.
        schema = {name: columns for name, columns in duckdb_kql.engine.schema(self.db).items() if "query_" not in name}
        key = kql + json.dumps(schema, sort_keys=True)
        if key not in _TRANSLATED:
            # With a time given, now() is a parameter, here our variable: the SQL is the same at any time.
            sql = duckdb_kql.to_sql(kql, schema=schema, query_now=rows.NOW)
            if unknown := sql.parameters.keys() - {"kqlnow"}:
                raise ValueError(f"the SQL has parameters {sorted(unknown)}")
            _TRANSLATED[key] = sql.replace("$kqlnow", "getvariable('now')")
        return _TRANSLATED[key]

    def run(self, sql, before=""):
        return self.db.execute(before + sql)

    def insert(self, name, entries):
        """Adds rows, a list of dicts. As in Kusto, a string is never null."""
        if not entries:
            return
        columns = dict(row[:2] for row in self.db.execute(f'DESCRIBE "{name}"').fetchall())
        unknown = {column for entry in entries for column in entry} - columns.keys()
        if unknown:
            raise ValueError(f"{name} has no columns {sorted(unknown)}")
        declared = ", ".join(f"'{column}': '{kind}'" for column, kind in columns.items())
        with tempfile.NamedTemporaryFile("w", suffix=".ndjson") as file:
            for entry in entries:
                row = {column: _value(entry.get(column), kind) for column, kind in columns.items()}
                file.write(json.dumps(row, default=datetime.isoformat) + "\n")
            file.flush()
            self.db.execute(
                f"INSERT INTO \"{name}\" FROM read_json(?, format = 'newline_delimited', "
                f"columns = {{{declared}}})", [file.name])

    def post(self, entries):
        """Takes rows as the connector posts them through the rule's transforms into the tables."""
        self.db.execute("DELETE FROM source")
        self.insert("source", entries)
        self.land()

    def land(self):
        for table, transform in self.transforms.items():
            self.run(transform, f'INSERT INTO "{table}" BY NAME ')

    def parse(self, **given):
        """Runs the parser with these arguments; what it gives is then the table of its name."""
        parser = self.translate(gaps.function_over(PARSER_KQL, ROWS_KQL, self.table_columns, given))
        self.run(parser, f'CREATE OR REPLACE TABLE "{PARSER}" AS ')

    def read_rows(self):
        """Runs the function that the parser reads; what it gives is then the table of its name."""
        rows_kql = gaps.rows_over(ROWS_KQL, self.table_columns, {})
        self.run(self.translate(rows_kql), f'CREATE OR REPLACE TABLE "{ROWS}" AS ')

    def parse_all(self):
        """Runs both functions; what they give is kept as the tables all_… of their names."""
        self.parse()
        self.read_rows()
        for name in (PARSER, ROWS):
            self.db.execute(f'ALTER TABLE "{name}" RENAME TO "all_{name}"')

    def show(self, since, until):
        """Lets queries see what has a TimeGenerated in this range."""
        for name in (PARSER, ROWS):
            self.db.execute(f'CREATE OR REPLACE VIEW "{name}" AS FROM "all_{name}" '
                            f"WHERE TimeGenerated BETWEEN TIMESTAMP '{since}' AND TIMESTAMP '{until}'")

    def rows_read(self, **given):
        """How many rows the parser compares with each other when it has these arguments."""
        before, comparing, _ = PARSER_KQL.partition("| extend Key = ")
        assert comparing
        kql = gaps.function_over(before + "| count", ROWS_KQL, self.table_columns, given)
        [[count]] = self.run(self.translate(kql)).fetchall()
        return count

    def query(self, kql, now=rows.NOW):
        sql = self.translate(gaps.on_results(kql))
        # DuckDB parses a view once, not at each run, of which a rule has a hundred.
        if sql not in self.views:
            self.views[sql] = f"query_{len(self.views)}"
            self.run(sql, f'CREATE VIEW "{self.views[sql]}" AS ')
        self.now(now)
        return _dicts(self.db.execute(f'FROM "{self.views[sql]}"'))

    def parsed(self, **given):
        """What the parser gives, in the order of events."""
        self.parse(**given)
        return self.results()

    def results(self):
        """What is in the table of the parser's name, in the order of events."""
        found = _dicts(self.db.execute(f'FROM "{PARSER}" ORDER BY "Event Time", Subject'))
        types = dict(row[:2] for row in self.db.execute(f'DESCRIBE "{PARSER}"').fetchall())
        for row in found:
            for name, kind in types.items():
                if kind == "JSON" and row[name] is not None:
                    row[name] = json.loads(row[name])
        return found


def _value(value, kind):
    """A value as JSON that DuckDB reads as this type."""
    if kind != "VARCHAR":
        return value
    if isinstance(value, (list, dict)):
        return json.dumps(value)
    return "" if value is None else str(value)


def _dicts(result):
    names = [column[0] for column in result.description]
    return [dict(zip(names, row)) for row in result.fetchall()]
