"""What the engine makes of the template, for each parameter file in each cloud."""
import os
import unittest

import engine
import sets
import shown
from files import TEMPLATE, TESTS
from sets import FILES, clouds, deployed, given

FOLDER = TESTS / "snapshots"


@engine.needed
class Snapshots(unittest.TestCase):
    @classmethod
    def setUpClass(cls):
        sets.start()

    def test_each_parameter_file_expands_in_each_cloud_without_a_diagnostic(self):
        for name in FILES:
            for cloud in clouds(name):
                with self.subTest(name, cloud=cloud):
                    self.assertEqual(deployed(name, cloud).diagnostics, [])

    def test_what_each_makes_is_what_is_committed(self):
        for path in FOLDER.glob("*.json"):
            if os.environ.get("UPDATE_SNAPSHOTS") and path.stem not in FILES:
                path.unlink()
            self.assertTrue(path.stem in FILES or not path.exists(), f"{path.name}: of what file?")
        for name in FILES:
            with self.subTest(name):
                made, path = shown.snapshot(name, deployed, clouds(name)), FOLDER / f"{name}.json"
                if os.environ.get("UPDATE_SNAPSHOTS"):
                    path.write_text(made)
                self.assertTrue(path.exists(), "tests/arm/run --update writes it")
                self.assertEqual(path.read_text().splitlines(), made.splitlines(),
                                 "if this was meant: tests/arm/run --update")

    def test_the_whole_template_with_secure_parameters_expands_to_the_same(self):
        for name in ("minimal", "another-table", "everything"):
            made = engine.expand(TEMPLATE, given(name), secrets_shown=False)
            self.assertEqual(made.diagnostics, [], name)
            self.assertEqual({r["id"] for r in made.resources},
                             {r["id"] for r in deployed(name).resources}, name)


class ParameterFiles(unittest.TestCase):
    def test_each_parameter_is_given_by_one_and_each_switch_is_turned(self):
        values = [given(name) for name in FILES]
        for name, parameter in TEMPLATE["parameters"].items():
            found = {str(v[name]) for v in values if name in v}
            # Its default is a region's name, which no test can hold to anything.
            self.assertTrue(found, name)
            if parameter["type"] == "bool":
                self.assertIn(str(not parameter["defaultValue"]), found, name)
        for name in ("DeployAnalyticsRules", "HostingPlan"):
            choices = set(TEMPLATE["parameters"][name]["allowedValues"]) - {"Automatic"}
            self.assertLessEqual(choices, {v.get(name) for v in values}, name)
