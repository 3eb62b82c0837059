"""The portal's wizard and the template take the same."""
import copy
import re
import unittest

from files import TEMPLATE, WIZARD, strings

OUTPUTS = WIZARD["parameters"]["outputs"]
STEPS = {step["name"]: {e["name"]: e for e in step["elements"]}
         for step in WIZARD["parameters"]["steps"]}
BASICS = {e["name"]: e for e in WIZARD["parameters"]["basics"]}


def elements():
    yield from BASICS.values()
    for step in STEPS.values():
        yield from step.values()


def source(output):
    """The element that an output takes as it is."""
    found = re.fullmatch(r"\[(?:steps\('(\w+)'\)\.(\w+)|basics\('(\w+)'\))\]", output)
    if not found:
        return None
    step, name, basic = found.groups()
    return BASICS[basic] if basic else STEPS[step][name]


def unconfirmed(elements):
    """The password boxes that are filled in once, where a slip of the hand stays unseen."""
    return [e["name"] for e in elements if e["type"] == "Microsoft.Common.PasswordBox"
            and (e.get("options", {}).get("hideConfirmation")
                 or "confirmPassword" not in e.get("label", {}))]


def allowed(element):
    return [choice["value"] for choice in element.get("constraints", {}).get("allowedValues", [])]


class Wizard(unittest.TestCase):
    def test_its_outputs_are_the_templates_parameters(self):
        self.assertEqual(set(OUTPUTS), set(TEMPLATE["parameters"]))

    def test_each_element_that_is_referred_to_is_there(self):
        for path, text in strings(WIZARD["parameters"]):
            for step, name in re.findall(r"steps\('(\w+)'\)\.(\w+)", text):
                self.assertIn(name, STEPS[step], path)
            for name in re.findall(r"basics\('(\w+)'\)", text):
                self.assertIn(name, BASICS, path)

    def test_each_element_is_asked_for_and_used(self):
        used = " ".join(text for _, text in strings(WIZARD["parameters"]))
        for step, found in STEPS.items():
            for name, element in found.items():
                if element["type"] != "Microsoft.Common.InfoBox":
                    self.assertIn(f"steps('{step}').{name}", used)
                    if element["type"] != "Microsoft.Solutions.ArmApiControl":
                        self.assertIn("toolTip", element, name)

    def test_defaults_are_the_templates_and_pass_their_own_check(self):
        for parameter, output in OUTPUTS.items():
            element = source(output)
            if not element or "defaultValue" not in element:
                continue
            default = element["defaultValue"]
            if allowed(element):
                choices = {c["label"]: c["value"] for c in element["constraints"]["allowedValues"]}
                default = choices[default]
            expected = TEMPLATE["parameters"][parameter]["defaultValue"]
            if not str(expected).startswith("["):
                self.assertEqual(default, expected, parameter)
        for element in elements():
            regex = element.get("constraints", {}).get("regex")
            if regex and "defaultValue" in element:
                self.assertRegex(element["defaultValue"], regex, element["name"])

    def test_choices_are_the_templates(self):
        for parameter, output in OUTPUTS.items():
            declared = TEMPLATE["parameters"][parameter]
            for _, name in re.findall(r"steps\('(\w+)'\)\.(\w+)", output)[-1:]:
                element = next(e for e in elements() if e["name"] == name and (
                    source(output) in (e, None)))
                if "allowedValues" in declared:
                    self.assertEqual(sorted(allowed(element)), sorted(declared["allowedValues"]))
                elif declared["type"] == "bool" and source(output):
                    self.assertEqual(sorted(allowed(element)), [False, True], parameter)

    def test_secrets_are_asked_for_in_password_boxes_and_checked(self):
        for element in elements():
            secret = "secret" in element["name"].lower()
            self.assertEqual(element["type"] == "Microsoft.Common.PasswordBox", secret)
            if secret:
                self.assertTrue(element["constraints"]["regex"])

    def test_each_password_is_asked_for_twice(self):
        self.assertEqual(unconfirmed(elements()), [])
        for fault in ({"options": {"hideConfirmation": True}}, {"label": {"password": "Secret"}}):
            box = {**copy.deepcopy(STEPS["mimecast"]["clientSecret"]), **fault}
            self.assertEqual(unconfirmed([box]), ["clientSecret"])

    def test_tags_are_those_of_the_one_type_that_the_control_offers(self):
        (resource,) = STEPS["tags"]["byResource"]["resources"]
        self.assertEqual(OUTPUTS["Tags"], "[coalesce(steps('tags').byResource, parse('{}'))]")
        self.assertEqual(TEMPLATE["parameters"]["Tags"]["type"], "object")
        self.assertIn(f"parameters('Tags')['{resource}']", TEMPLATE["variables"]["tags"])

    def test_checks_take_what_is_right_and_refuse_what_is_wrong(self):
        cases = [
            ("mimecast", "baseUrl", "https://uk-api.services.mimecast.com", True),
            ("mimecast", "baseUrl", "https://eu-api.mimecast.com", False),
            ("mimecast", "baseUrl", "https://services.mimecast.com.example.org", False),
            ("mimecast", "startDate", "", True),
            ("mimecast", "startDate", "2026-11-01", True),
            ("mimecast", "startDate", "2026-13-01", False),
            ("mimecast", "startDate", "01.11.2026", False),
            ("mimecast", "schedule", "0 */15 * * * *", True),
            ("mimecast", "schedule", "*/15 * * * *", False),
            ("hosting", "quarantineDays", "7", True),
            ("hosting", "quarantineDays", "3650", True),
            ("hosting", "quarantineDays", "6", False),
            ("hosting", "quarantineDays", "3651", False),
            ("hosting", "addressPrefix", "10.0.0.0/24", True),
            ("hosting", "addressPrefix", "10.0.0.0/25", False),
            ("hosting", "package", "https://example.com/package.zip", True),
            ("hosting", "package", "", True),
            ("hosting", "package", "http://example.com/package.zip", False),
            ("hosting", "package", "https://example.com/package.zip?sv=1&sig=abc", False),
            ("identity", "tenantId", "11111111-1111-4111-8111-111111111111", True),
            ("identity", "tenantId", "contoso.onmicrosoft.com", False),
        ]
        for step, name, text, taken in cases:
            regex = STEPS[step][name]["constraints"]["regex"]
            self.assertEqual(bool(re.fullmatch(regex, text)), taken, (name, text))
