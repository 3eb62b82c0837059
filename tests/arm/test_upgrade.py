"""docs/UPGRADE.md: from the vendor's connector to this one, in a group and a workspace where the
vendor's is."""
import json
import re
import unittest

import engine
from files import ARM, ROOT, TEMPLATE, TESTS, nested, parameter_values
from sets import deployed, given

VENDOR = TESTS / "vendor"
PAGE = (ROOT / "docs/UPGRADE.md").read_text()
TEXT = " ".join(PAGE.split())
TABLE = "Cloud_Integrated_CL"
FUNCTION = "MimecastCloudIntegrated"
# What is typed besides: the workspace's name, and the day of the switch.
WORKSPACE, SWITCH = "contoso-sentinel", "2026-11-30"


def rows(heading):
    """The rows of the table under a heading of the page, each with its cells."""
    section = PAGE.partition(f"\n## {heading}\n")[2].partition("\n## ")[0]
    found = [[cell.strip() for cell in re.split(r"(?<!\\)\|", line.strip("|"))]
             for line in section.splitlines() if line.startswith("|")]
    return found[2:]


def names(cell):
    return re.findall(r"`([^`]+)`", cell)


def edited(values):
    """The vendor's parameters after the edits that the page says."""
    edits = {name: here for cell, _, here in rows("Parameters") for name in names(cell)}
    values = dict(values)
    for name in list(values):
        if edits[name].startswith("take out"):
            del values[name]
            if "give" in edits[name]:
                values[names(edits[name])[0]] = WORKSPACE
        else:
            assert edits[name].startswith("the same"), (name, edits[name])
    return {**values, "StartDate": SWITCH}


def vendors(function_name):
    """The ids of what the vendor's templates have left there."""
    template = (VENDOR / "resources.json").read_text()
    made = engine.expand(template, {"FunctionName": function_name, "WorkspaceName": WORKSPACE})
    assert len(made.resources) == len(json.loads(template)["resources"])
    return {resource["id"].lower() for resource in made.resources}


def ours(made):
    return {resource["id"].lower() for resource in made.resources}


@engine.needed
class Parameters(unittest.TestCase):
    def test_a_parameter_file_of_3_0_is_taken_after_the_edits_of_the_page(self):
        values = parameter_values(VENDOR / "parameters-3.0.json")
        with self.assertRaisesRegex(engine.Refused, "WorkspaceID"):
            engine.expand(TEMPLATE, values)
        self.assertEqual(edited(values), given("upgraded-3.0"))

    def test_a_parameter_file_of_3_1_is_taken_as_it_is(self):
        values = given("incumbent")
        self.assertEqual(edited(values), {**values, "StartDate": SWITCH})
        self.assertEqual(deployed("incumbent").diagnostics, [])

    def test_one_of_3_1_without_what_is_better_left_out_needs_no_secret_of_an_app(self):
        left_out = [name for cell, _, here in rows("Parameters") if "better left out" in here
                    for name in names(cell)]
        self.assertEqual(len(left_out), 5)
        values = {k: v for k, v in edited(given("incumbent")).items() if k not in left_out}
        self.assertEqual(values, given("upgraded-3.1"))
        settings = deployed("upgraded-3.1").one("Microsoft.Web/sites/config")["properties"]
        self.assertEqual([name for name in settings if name.startswith("AZURE_")], ["AZURE_CLOUD"])
        self.assertEqual((settings["START_DATE"], settings["SCHEDULE"]), (SWITCH, values["Schedule"]))

    def test_the_page_names_each_parameter_of_theirs_and_none_else(self):
        listed = {(version, name) for cell, versions, _ in rows("Parameters")
                  for name in names(cell) for version in versions.split(", ")}
        theirs = {("3.0", name) for name in parameter_values(VENDOR / "parameters-3.0.json")}
        theirs |= {("3.1", name) for name in given("incumbent")}
        self.assertEqual(listed, theirs)


@engine.needed
class Resources(unittest.TestCase):
    def test_nothing_of_the_vendors_is_written_but_what_the_page_says(self):
        for name in ("upgraded-3.0", "upgraded-3.1", "incumbent"):
            both = {identity.rpartition("/")[2] for identity in
                    ours(deployed(name)) & vendors(given(name)["FunctionName"])}
            self.assertEqual(both, {TABLE.lower(), FUNCTION.lower()}, name)
        self.assertRegex(TEXT, rf"the table `{TABLE}` \| keeps rows, plan, retention and columns, and gets")
        self.assertRegex(TEXT, rf"the function `{FUNCTION}` \| replaced by ours")

    def test_no_name_of_ours_is_one_of_theirs_whatever_prefix_each_has(self):
        workspaces = "/microsoft.operationalinsights/workspaces/"
        for prefix in ("MimecastCI", "Mimecast", "mimecastci-"):
            theirs = {i for i in vendors(prefix) if workspaces not in i}
            for other in ("MimecastCI", "Mimecast", "mimecastci-"):
                made = {i for i in ours(deployed(FunctionName=other)) if workspaces not in i}
                # Nor is anything put into what is theirs.
                under = [i for i in made for t in theirs if f"{i}/".startswith(f"{t}/")]
                self.assertEqual(under, [], (prefix, other))

    def test_the_vendors_function_stays_if_that_is_said(self):
        both = ours(deployed("upgraded-3.1", DeployParser=False)) & vendors("MimecastCI")
        self.assertEqual({i.rpartition("/")[2] for i in both}, {TABLE.lower()})

    def columns(self, kind, names_and_types):
        """What is written to a table of this kind with these columns."""
        columns = [{"name": name, "type": kind_} for name, kind_ in names_and_types]
        return engine.expand(nested("table-columns"), {
            "workspaceName": WORKSPACE, "tableName": TABLE,
            "columns": json.loads((ROOT / "sentinel/schema/table.json").read_text())["columns"],
            "table": {"plan": "Analytics", "retentionInDays": 180, "retentionInDaysAsDefault": False,
                      "totalRetentionInDays": 730, "totalRetentionInDaysAsDefault": False,
                      "schema": {"name": TABLE, "tableSubType": kind, "columns": columns}},
        }).one("Microsoft.OperationalInsights/workspaces/tables")["properties"]

    def test_a_table_of_theirs_keeps_what_it_has_and_gets_what_it_lacks(self):
        for of in (0, 1):
            theirs = [name for row in rows("Columns") for name in names(row[of]) if name != "sourcePartition"]
            written = self.columns("DataCollectionRuleBased", [(name, "string") for name in theirs])
            found = [column["name"] for column in written["schema"]["columns"]]
            self.assertLessEqual({*theirs, "EventId", "AdditionalFields"}, set(found))
            self.assertEqual(len(found), len(set(found)))
            self.assertEqual((written["plan"], written["retentionInDays"], written["totalRetentionInDays"]),
                             ("Analytics", 180, 730))

    def test_a_classic_table_is_refused_in_the_words_of_the_page(self):
        with self.assertRaises(engine.Refused) as refused:
            self.columns("Classic", [("subject_s", "string")])
        words = f"The table {TABLE} is of the kind Classic, which takes no new columns"
        self.assertIn(f"{words}. Migrate it first: docs/UPGRADE.md, step 2.", str(refused.exception))
        self.assertIn(f"*{words}*", TEXT)
        azures = "Changing Classic table Cloud_Integrated_CL schema by using DataCollectionRuleBased"
        self.assertIn(azures, TEXT)
        # Step 2 is the one that migrates, also for who deploys by one command.
        step = PAGE.partition("\n2. **See of what kind the table is**")[2].partition("\n3. ")[0]
        self.assertIn("az monitor log-analytics workspace table migrate", step)
        (pattern,) = re.findall(r'r"(.*)", "migrate the table: docs/UPGRADE.md, step 2"',
                                (ARM / "deploy").read_text())
        for said in (words, azures):
            self.assertRegex(said, pattern)


class Page(unittest.TestCase):
    def test_its_columns_are_those_of_the_table_the_parser_and_the_function(self):
        columns = {c["name"] for c in json.loads(
            (ROOT / "sentinel/schema/table.json").read_text())["columns"]}
        parser = (ROOT / "sentinel/parser/MimecastCIRows.kql").read_text()
        function = re.findall(r"^\| `([^`]+)`", (ROOT / "sentinel/parser/README.md").read_text(), re.M)
        listed = [[names(cell)[0] for cell in row] for row in rows("Columns")]
        for classic, column, shown in listed:
            self.assertIn(column, columns)
            self.assertIn(f'"{classic}"', parser)
            self.assertIn(shown, function)
        # Every name that the parser reads of the older ones.
        older = set(re.findall(r'column_ifexists\("(\w+_[sdb])"', parser))
        never = {"authResults_s", "action_s", "originalUrl_s", "redirectUrl_s", "sourceIp_s"}
        self.assertEqual({classic for classic, _, _ in listed}, older - never)
        alone = TEXT.partition("Here alone are ")[2].partition(".")[0]
        both = {column for _, column, _ in listed} | {"TimeGenerated"}
        self.assertEqual(set(names(alone)), columns - both)

    def test_its_settings_are_the_programs_and_its_parameters_the_templates(self):
        settings = (ROOT / "docs/SETTINGS.md").read_text()
        for _, parameter, setting in rows("App settings"):
            for name in names(setting):
                self.assertIn(f"`{name}`", settings)
            for name in names(parameter):
                self.assertIn(name, TEMPLATE["parameters"])

    def test_the_steps_are_two_screens(self):
        steps = PAGE.partition("\n## The steps\n")[2].partition("\n## Go back\n")[0]
        self.assertLessEqual(len(steps.splitlines()), 80)
