"""Azure Resource Manager reads each template, and an API version knows all of its resource."""
import unittest

import checks
import engine
import sets
import types_of
from files import TEMPLATE
from sets import FILES, clouds, deployed


@engine.needed
class Types(unittest.TestCase):
    @classmethod
    def setUpClass(cls):
        sets.start()

    def test_each_nested_template_is_accepted_alone(self):
        self.assertEqual(checks.refusals(TEMPLATE), [])

    def test_resources_have_only_properties_and_types_that_their_api_version_knows(self):
        made = [r for name in FILES for cloud in clouds(name)
                for r in deployed(name, cloud).resources]
        self.assertEqual(types_of.faults(made), [])

    def test_each_exception_is_still_needed(self):
        for exception in types_of.ALLOWED:
            made = deployed("package").of_type(exception[0])
            rest = {k: v for k, v in types_of.ALLOWED.items() if k != exception}
            self.assertTrue(types_of.faults(made, rest), exception)
