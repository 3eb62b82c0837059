"""The content as a package of Content hub: what is in it, and who waits for whom."""
import json
import unittest

import engine
from files import ROOT, TEMPLATE, nested, short_texts
from sets import deployed, given
from shown import PACKAGE
from traced import Traced

INSIGHTS = "Microsoft.SecurityInsights"
ALERT_RULES = f"{INSIGHTS}/alertRules"
SOLUTION = json.loads((ROOT / "sentinel/solution.json").read_text())
KINDS = {"AnalyticsRule", "DataConnector", "HuntingQuery", "Parser", "Workbook"}


def templates(made):
    """The templates' properties, by what they are of."""
    return {(r["properties"]["contentKind"], r["properties"]["contentId"]): r["properties"]
            for r in made.of_type(f"{INSIGHTS}/contentTemplates")}


def piece(template):
    """The resource that is made of the template."""
    return template["mainTemplate"]["resources"][0]


@engine.needed
class Package(unittest.TestCase):
    def setUp(self):
        self.made = deployed()
        self.templates = templates(self.made)

    def of_kind(self, kind):
        return {id_: template for (one, id_), template in self.templates.items() if one == kind}

    def test_the_package_names_each_template_with_its_version(self):
        package = self.made.one(f"{INSIGHTS}/contentPackages")
        self.assertEqual(package["name"], f"{SOLUTION['publisherId']}.{SOLUTION['offerId']}")
        self.assertEqual(package["properties"]["contentId"], package["name"])
        self.assertEqual(package["properties"]["displayName"], SOLUTION["name"])
        version = (ROOT / "sentinel/version.txt").read_text().partition("+")[0]
        self.assertEqual(package["properties"]["version"], version)
        self.assertEqual(
            {(c["kind"], c["contentId"], c["version"])
             for c in package["properties"]["dependencies"]["criteria"]},
            {(*key, template["version"]) for key, template in self.templates.items()})
        for template in self.templates.values():
            self.assertEqual(template["packageId"], package["name"])
            self.assertEqual(template["packageVersion"], version)
            self.assertRegex(template["version"], r"^\d+\.\d+\.\d+$")

    def test_each_piece_of_content_has_a_template(self):
        self.assertEqual({kind for kind, _ in self.templates}, KINDS)
        for kind, files in (("AnalyticsRule", "rules/*.yaml"), ("HuntingQuery", "hunting/*.yaml"),
                            ("Parser", "parser/*.yaml"), ("Workbook", "workbook/*.json"),
                            ("DataConnector", "connector/*.json")):
            self.assertEqual(len(self.of_kind(kind)), len(list((ROOT / "sentinel").glob(files))), kind)

    def test_a_template_makes_what_is_deployed(self):
        there = {r["name"].rpartition("/")[2]: r for r in self.made.resources if r["type"] not in PACKAGE}
        for (kind, _), template in self.templates.items():
            resource = piece(template)
            expected = there[resource["name"].rpartition("/")[2]]["properties"]
            given_ = resource["properties"]
            if kind == "AnalyticsRule":
                expected = {k: v for k, v in expected.items()
                            if k not in ("alertRuleTemplateName", "templateVersion")}
                given_ = {k: v for k, v in given_.items() if k not in ("status", "requiredDataConnectors")}
            self.assertEqual(given_, expected, template["displayName"])

    def test_a_template_reads_the_table_that_was_chosen(self):
        found = templates(deployed("another-table"))
        query = piece(found["Parser", "MimecastCIRows-Parser"])["properties"]["query"]
        self.assertIn(f"{given('another-table')['MimecastCITableName']}_CL", query)

    def test_a_rule_says_of_which_template_and_version_it_is(self):
        for name in ("minimal", "rules-replaced-enabled"):
            rules = {r["name"]: r["properties"] for r in deployed(name).of_type(ALERT_RULES)}
            self.assertEqual(
                {id_: (r["alertRuleTemplateName"], r["templateVersion"]) for id_, r in rules.items()},
                {id_: (id_, t["version"]) for id_, t in self.of_kind("AnalyticsRule").items()}, name)

    def test_without_the_package_no_rule_names_a_template(self):
        made = deployed("without-content-package")
        self.assertFalse({r["type"] for r in made.resources} & PACKAGE)
        for rule in made.of_type(ALERT_RULES):
            self.assertFalse({"alertRuleTemplateName", "templateVersion"} & rule["properties"].keys())
        with_, without = ({r["id"] for r in m.resources if r["type"] not in PACKAGE}
                          for m in (self.made, made))
        self.assertEqual(with_, without)

    def test_what_is_deployed_belongs_to_the_package_and_nothing_else_does(self):
        for name in ("minimal", "without-parser", "without-hunting-queries", "without-workbooks",
                     "without-connector-page"):
            made = deployed(name)
            there = {r["id"] for r in made.resources}
            parents = [r["properties"]["parentId"] for r in made.of_type(f"{INSIGHTS}/metadata")]
            self.assertLessEqual(set(parents), there, name)
            # The rules say it themselves.
            content = [r["id"] for r in made.resources
                       if r["type"].endswith(("/savedSearches", "/workbooks", "/dataConnectorDefinitions"))]
            self.assertEqual(sorted(parents), sorted(content), name)

    def test_names_are_the_same_however_the_workspace_is_spelt(self):
        workspace = self.made.one(f"{INSIGHTS}/contentPackages")["id"].partition(f"/providers/{INSIGHTS}")[0]
        names = [sorted(r["name"] for r in deployed(WorkspaceResourceId=spelling).resources
                        if r["type"] in PACKAGE) for spelling in (workspace, workspace.lower())]
        self.assertEqual(*names)
        self.assertEqual(len(names[0]), len(set(names[0])))

    def test_the_package_alone_is_that_of_the_template(self):
        alone = engine.expand(short_texts(nested("content-package")), {
            "workspaceName": "contoso-sentinel", "location": "westeurope"})
        whole = {r["id"]: r for r in self.made.resources}
        for resource in alone.resources:
            if "westeurope" not in json.dumps(resource):
                self.assertEqual(resource["properties"], whole[resource["id"]]["properties"])
        self.assertGreater(len(alone.resources), 40)


@engine.needed
class Order(unittest.TestCase):
    def test_the_package_comes_first_and_nothing_outside_waits_for_it(self):
        for name in ("rules-enabled", "rules-replaced-enabled"):
            traced = Traced(TEMPLATE, given(name))
            (package,) = traced.of_type(f"{INSIGHTS}/contentPackages")
            for kind in ("contentTemplates", "metadata"):
                found = traced.of_type(f"{INSIGHTS}/{kind}")
                self.assertTrue(found)
                for node in found:
                    self.assertTrue(traced.waits(node, package), node.id)
            others = [n for n in traced.made() if n.kind not in PACKAGE and "-content-package" not in n.id]
            self.assertTrue(any(n.kind == ALERT_RULES for n in others))
            for node in others:
                self.assertFalse(traced.waits(node, package), node.id)


if __name__ == "__main__":
    unittest.main()
