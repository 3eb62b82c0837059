"""The portal's wizard gives the template what it takes, whatever is chosen in it."""
import copy
import importlib.machinery
import importlib.util
import itertools
import json
import re
import sys
import unittest

import engine
from files import ARM, ROOT, TEMPLATE, WIZARD, is_expression, strings
from sets import deployed
from wizard import CONTROLS, FUNCTIONS, OUTPUTS, PARAMETERS, SHOWN, Form, Wrong, calls, forms, parsed

WORKSPACE = {"id": "/subscriptions/00000000-0000-0000-0000-000000000001/resourceGroups/soc/providers/"
                   "Microsoft.OperationalInsights/workspaces/contoso-sentinel",
             "name": "contoso-sentinel", "location": "uksouth"}
GUID = "11111111-1111-4111-8111-111111111111"
# What is typed or picked, beside a default; lists of choices are gone through as they are.
RIGHT = {
    ("basics", "functionName"): ["a", "Mimecast123"],
    ("sentinel", "workspace"): [WORKSPACE],
    ("sentinel", "tableName"): ["Mimecast_Events"],
    ("sentinel", "insightsWorkspace"): [None, {}, WORKSPACE],
    ("mimecast", "baseUrl"): ["https://uk-api.services.mimecast.com", "https://services.mimecast.com/"],
    ("mimecast", "clientId"): ["an-invented.client_id"],
    ("mimecast", "clientSecret"): ["an-invented-secret"],
    ("mimecast", "ownSchedule"): [
        "0 7/15 * * * *", "0 0 */2 * * *", "30 5 */12 * * *", "0 30 6-18/2 * * *"],
    ("mimecast", "startDate"): ["2026-11-30", "2024-02-29"],
    ("sources", "riskStart"): ["2026-11-30", "2024-02-29"],
    ("sources", "roundDays"): ["7", "1", "13"],
    ("sources", "clientId"): [GUID],
    ("sources", "clientSecret"): ["an-invented-secret"],
    ("sources", "tenantId"): [GUID],
    ("alerts", "email"): ["soc@contoso.example"],
    ("hosting", "addressPrefix"): ["10.0.0.0/8", "10.7.0.0/16", "10.7.240.0/20"],
    ("hosting", "quarantineDays"): ["7", "30", "3650"],
    ("hosting", "package"): ["https://contoso.example/package.zip"],
    ("identity", "clientId"): [GUID],
    ("identity", "clientSecret"): ["another-invented-secret"],
    ("identity", "tenantId"): [GUID],
    ("identity", "objectId"): [GUID],
    ("tags", "byResource"): [None, {}, {"Microsoft.Web/sites": {"owner": "soc"}}],
}
# What is refused, and words of the message.
NOT_GUIDS = ["my-app", "contoso.onmicrosoft.com", "{" + GUID + "}"]
WRONG = {
    ("basics", "functionName"): [
        ("", "required"), ("1a", "beginning with a letter"), ("Mimecast-CI", "letters and digits"),
        ("Mimecast1234", "1 to 11")],
    ("sentinel", "tableName"): [
        ("", "required"), ("a-b", "A letter, then"), ("a" * 43, "at most 42"),
        ("Cloud_Integrated_CL", "Leave out the _CL"),
        ("MimecastConnectorHealth", "reports its health to"),
        ("Cloud_Integrated_Cheap", "table for cheap events"),
        *((name, "table of another source") for name in (
            "EntraRiskDetections", "EntraRiskyUsers", "DirectoryUsers", "directorygroups", "DirectoryGroupMembers"))],
    ("mimecast", "baseUrl"): [
        ("", "required"), ("https://eu-api.mimecast.com", "API 1.0"),
        ("http://api.services.mimecast.com", "https://"),
        ("https://services.mimecast.com.example.org", "host under")],
    ("mimecast", "clientId"): [("", "required"), ("an id", "without spaces")],
    ("mimecast", "clientSecret"): [
        ("", "required"), ("short", "At least 8"), ("with a space", "without spaces")],
    ("mimecast", "ownSchedule"): [
        ("", "required"), ("*/15 * * * *", "Six fields"), ("0  */15 * * * *", "one space"),
        ("00:15:00", "Six fields"), ("* 0 * * * *", "The second is one number"),
        ("0,30 0 * * * *", "The second is one number"), ("0 * * * * *", "The minute is one number"),
        ("0 */5 * * * *", "10 minutes apart"), ("0 */25 * * * *", "10 minutes apart"),
        ("0 0,5 * * * *", "10 minutes apart"), ("0 60 * * * *", "from 0 to 59"),
        ("0 0 24 * * *", "The hour is"), ("0 0 */0 * * *", "The hour is"),
        ("0 0 8 * * Mon-Fri", "does not run on every day"),
        ("0 0 8 1 * *", "does not run on every day")],
    ("mimecast", "startDate"): [
        ("01.11.2026", "yyyy-mm-dd"), ("2026-13-01", "yyyy-mm-dd"), ("2026-02-30", "yyyy-mm-dd"),
        ("2026-12-01", "Today or earlier")],
    ("sources", "riskStart"): [("01.11.2026", "yyyy-mm-dd"), ("2026-12-01", "Today or earlier")],
    ("sources", "roundDays"): [("", "required"), *((text, "1 to 13") for text in ("0", "14", "a week"))],
    ("sources", "clientSecret"): [("", "required"), ("short", "At least 8")],
    **{("sources", name): [("", "required"), *((text, "A GUID") for text in NOT_GUIDS)]
       for name in ("clientId", "tenantId")},
    ("alerts", "email"): [
        ("soc", "An email address"), ("so c@contoso.example", "An email address")],
    ("hosting", "addressPrefix"): [
        ("", "required"), ("10.0.0.0", "/8 to /24"), ("10.0.0.0/25", "at least 256"),
        ("10.0.0.0/7", "/8 to /24"), ("10.0.0.256/24", "An IPv4 network"),
        ("fd00::/24", "An IPv4 network"), ("10.0.0.7/24", "first address"),
        ("10.0.7.0/16", "first address")],
    ("hosting", "quarantineDays"): [
        ("", "required"), *((text, "7 to 3650") for text in ("6", "3651", "a week"))],
    ("hosting", "package"): [
        ("http://contoso.example/package.zip", "begins with https://"),
        ("https://", "begins with https://"),
        ("https://contoso.example/package.zip?sv=1&sig=abc", "signature"),
        ("https://me:secret@contoso.example/package.zip", "no sign-in")],
    ("identity", "clientSecret"): [("", "required"), ("short", "At least 8")],
    **{("identity", name): [("", "required"), *((text, "A GUID") for text in NOT_GUIDS)]
       for name in ("clientId", "tenantId", "objectId")},
}
# Not in Microsoft's published schema, which is older than these two; they are in the documents.
NEWER = {"Microsoft.Solutions.ResourceSelector", "Microsoft.Common.TagsByResource"}
SCHEMA = "https://schema.management.azure.com/schemas/0.1.2-preview/CreateUIDefinition.MultiVm.json"
SCHEMAS = ROOT.parent / "shared/reference/arm-schemas/0.1.2-preview"


def is_asked(control):
    return CONTROLS[control]["type"] not in SHOWN


def listed(control):
    return {choice["label"]: choice["value"]
            for choice in CONTROLS[control].get("constraints", {}).get("allowedValues", [])}


def default(control):
    """The value that the control has when nobody has touched it."""
    element = CONTROLS[control]
    if listed(control):
        return listed(control)[element["defaultValue"]]
    return element.get("defaultValue", "" if "TextBox" in element["type"] else None)


def choices(control):
    """The values that it can have when its page lets one go on."""
    if listed(control):
        return list(listed(control).values())
    typed = RIGHT[control]
    if CONTROLS[control].get("defaultValue"):
        typed = [default(control), *typed]
    blank = [] if CONTROLS[control].get("constraints", {}).get("required", False) else [None, ""]
    return [*typed, *(b for b in blank if CONTROLS[control]["type"] == "Microsoft.Common.TextBox")]


def untouched(**changed):
    """The wizard with what must be given and nothing else."""
    values = {control: choices(control)[0] if default(control) in (None, "") and
              CONTROLS[control].get("constraints", {}).get("required") else default(control)
              for control in CONTROLS if is_asked(control)}
    return Form({**values, **{tuple(k.split("__")): v for k, v in changed.items()}})


def typed_in(control, value):
    """The wizard with this value, which counts though the control is hidden in the rest of it."""
    return Form(untouched(**{"__".join(control): value}).chosen, keeps_hidden=True)


def unfit(parameter, value):
    """Why the template's parameter does not take the value; None if it does."""
    kind = {"string": str, "securestring": str, "int": int, "bool": bool, "object": dict}
    if type(value) is not kind[parameter["type"].lower()]:
        return f"no {parameter['type']}"
    if value not in parameter.get("allowedValues", [value]):
        return f"none of {parameter['allowedValues']}"
    if type(value) is bool:
        return None
    size = value if type(value) is int else len(value)
    least = parameter.get("minValue", parameter.get("minLength", size))
    most = parameter.get("maxValue", parameter.get("maxLength", size))
    return None if least <= size <= most else f"not {least} to {most}"


def unconfirmed(elements):
    """The password boxes that are filled in once, where a slip of the hand stays unseen."""
    return [e["name"] for e in elements if e["type"] == "Microsoft.Common.PasswordBox"
            and (e.get("options", {}).get("hideConfirmation")
                 or "confirmPassword" not in e.get("label", {}))]


def make_parameters():
    loader = importlib.machinery.SourceFileLoader("make_parameters", str(ARM / "tenants/make-parameters"))
    script = importlib.util.module_from_spec(importlib.util.spec_from_loader(loader.name, loader))
    sys.dont_write_bytecode = True
    loader.exec_module(script)
    return script


class Outputs(unittest.TestCase):
    """Each is looked at in every combination of the controls that it depends on, which is every
    combination of all pages."""

    def test_its_outputs_are_the_templates_parameters(self):
        self.assertEqual(set(OUTPUTS), set(TEMPLATE["parameters"]))

    def test_each_combination_gives_what_the_template_takes(self):
        for name, output in OUTPUTS.items():
            seen = 0
            for form in forms(choices, output):
                value = form.value_of(output)
                self.assertIsNone(unfit(TEMPLATE["parameters"][name], value), (name, value, form.chosen))
                seen += 1
            self.assertGreater(seen, 0, name)

    def test_what_is_hidden_changes_no_output(self):
        for name, output in OUTPUTS.items():
            for form in forms(choices, output):
                values = {c: v if form.visible(c) else choices(c)[-1] for c, v in form.chosen.items()}
                self.assertEqual(form.value_of(output), Form(values).value_of(output), (name, form.chosen))

    def test_each_choice_reaches_its_parameter(self):
        for name, parameter in TEMPLATE["parameters"].items():
            given = {json.dumps(form.value_of(OUTPUTS[name])) for form in forms(choices, OUTPUTS[name])}
            if parameter["type"] == "bool":
                self.assertEqual(given, {"true", "false"}, name)
            # The window follows from the schedule, and none asks for these two.
            elif "allowedValues" in parameter:
                left_out = {'"PT1H"', '"PT2H"'} if name == "SilenceAlertWindow" else set()
                self.assertEqual(given, {json.dumps(v) for v in parameter["allowedValues"]} - left_out, name)

    def test_untouched_it_gives_the_templates_defaults(self):
        for name, output in OUTPUTS.items():
            expected = TEMPLATE["parameters"][name].get("defaultValue", "[")
            if not str(expected).startswith("[") and not name.startswith("Workspace"):
                self.assertEqual(untouched().value_of(output), expected, name)

    @engine.needed
    def test_the_template_expands_with_what_it_gives(self):
        everything = {"__".join(c): choices(c)[-1] for c in CONTROLS
                      if is_asked(c) and choices(c)[-1] not in (None, "")}
        sources = untouched(sources__risk=True, sources__directory=True, sources__reads="app")
        for form in (untouched(), untouched(**everything), sources):
            given = {name: form.value_of(output) for name, output in OUTPUTS.items()}
            self.assertEqual(deployed(**given).diagnostics, [])

    def test_secrets_are_given_to_secure_parameters_alone(self):
        secret = {f"steps('{step}').{name}" for (step, name), e in CONTROLS.items()
                  if e["type"] == "Microsoft.Common.PasswordBox"}
        for name, output in OUTPUTS.items():
            secure = TEMPLATE["parameters"][name]["type"] == "securestring"
            self.assertEqual(any(one in output for one in secret), secure, name)


class Schedule(unittest.TestCase):
    """No schedule that the wizard takes is refused by the program, or raises the alert on silence
    while all is well."""

    @classmethod
    def setUpClass(cls):
        cls.script = make_parameters()

    def faults(self, form):
        schedule, window = (form.value_of(OUTPUTS[name]) for name in ("Schedule", "SilenceAlertWindow"))
        return list(self.script.schedule_faults(schedule, window, "true"))

    def test_each_that_is_offered(self):
        labels = listed(("mimecast", "schedule"))
        self.assertEqual(len(labels), 12)
        for name in ("riskSchedule", "directorySchedule"):
            self.assertEqual(set(labels.values()) - set(listed(("sources", name)).values()), {"own"})
        windows = []
        for schedule in labels.values():
            form = untouched(mimecast__schedule=schedule, mimecast__ownSchedule="0 0 * * * *")
            self.assertEqual(self.faults(form), [], schedule)
            windows.append(form.value_of(OUTPUTS["SilenceAlertWindow"]))
        # None is longer than it must be, but for the template's default.
        self.assertEqual(windows, [*["PT3H"] * 5, "PT6H", "PT6H", "P1D", "P1D", "P1D", "P2D", "PT3H"])
        pauses = [self.script.pauses(s) for s in labels.values() if s != "own"]
        self.assertEqual([str(longest) for _, longest in pauses], [
            "0:10:00", "0:15:00", "0:20:00", "0:30:00", "1:00:00", "2:00:00", "3:00:00", "4:00:00",
            "6:00:00", "12:00:00", "1 day, 0:00:00"])

    def test_each_of_ones_own(self):
        steps = (10, 12, 15, 20, 30)
        minutes = ["0", "59", *(f"{a}/{n}" for n in steps for a in ("*", 0, 7, 40, 59))]
        hours = ["*", "*/1", *(f"*/{n}" for n in range(2, 25)), "0", "23", "6-18", "18-6", "0,12", "0,1",
                 "6-18/2", "5/7", "*/2,3"]
        taken = 0
        for minute, hour in [*((m, "*") for m in minutes), *(("30", h) for h in hours), ("7/15", "*/3")]:
            form = untouched(mimecast__schedule="own", mimecast__ownSchedule=f"5 {minute} {hour} * * *")
            self.assertEqual(form.complaints(("mimecast", "ownSchedule")), [], (minute, hour))
            self.assertEqual(self.faults(form), [], (minute, hour))
            taken += 1
        self.assertGreater(taken, 60)

    def test_what_comes_too_often_is_refused(self):
        for minute in [f"{a}/{n}" for n in range(1, 60) for a in ("*", 0, 7)]:
            schedule = f"0 {minute} * * * *"
            form = untouched(mimecast__schedule="own", mimecast__ownSchedule=schedule)
            shortest, _ = self.script.pauses(schedule)
            if shortest < self.script.LEAST_PAUSE:
                self.assertTrue(form.complaints(("mimecast", "ownSchedule")), schedule)


class Checks(unittest.TestCase):
    def test_checks_take_what_is_right_and_refuse_what_is_wrong(self):
        for control in filter(is_asked, CONTROLS):
            if listed(control) or "Selector" in CONTROLS[control]["type"]:
                continue
            for value in choices(control):
                self.assertEqual(typed_in(control, value).complaints(control), [], (control, value))
            for value, words in WRONG.get(control, []):
                first = typed_in(control, value).complaints(control)[:1]
                self.assertRegex(" ".join(first), re.escape(words), (control, value))

    def test_each_message_is_that_of_a_wrong_input(self):
        for control in filter(is_asked, CONTROLS):
            constraints = CONTROLS[control].get("constraints", {})
            messages = [v["message"] for v in constraints.get("validations", [])]
            messages += [constraints[k] for k in ("validationMessage",) if k in constraints]
            seen = [typed_in(control, value).complaints(control)[0]
                    for value, _ in WRONG.get(control, [])]
            self.assertEqual(set(messages) - set(seen), set(), control)

    def test_each_password_is_asked_for_twice(self):
        self.assertEqual(unconfirmed(CONTROLS.values()), [])
        for fault in ({"options": {"hideConfirmation": True}}, {"label": {"password": "Secret"}}):
            box = {**copy.deepcopy(CONTROLS["mimecast", "clientSecret"]), **fault}
            self.assertEqual(unconfirmed([box]), ["clientSecret"])


class Pages(unittest.TestCase):
    def test_what_is_shown_and_when_is_known_in_each_combination(self):
        for control, element in CONTROLS.items():
            texts = [text for path, text in strings(element) if is_expression(text)]
            for text in texts:
                for form in forms(choices, text):
                    self.assertIn(type(form.value_of(text)), (str, bool), (control, text))
            if isinstance(element.get("visible"), str):
                seen = {form.value_of(element["visible"]) for form in forms(choices, element["visible"])}
                self.assertEqual(seen, {True, False}, f"{control} is always there, or never")

    def test_nothing_is_asked_for_that_goes_nowhere(self):
        used = " ".join(text for _, text in strings(PARAMETERS))
        for step, name in filter(is_asked, CONTROLS):
            reference = f"basics('{name}')" if step == "basics" else f"steps('{step}').{name}"
            self.assertIn(reference, used)

    def test_only_functions_that_are_known_are_used_and_each_is(self):
        used = {call[1] for _, text in strings(PARAMETERS) if is_expression(text)
                for call in calls(parsed(text))}
        self.assertEqual(used - {"steps", "basics"}, set(FUNCTIONS))

    def test_what_is_not_there_is_found_out(self):
        for text in ("[steps('mimecast').nothing]", "[basics('nothing')]", "[steps('alerts').silence]",
                     "[unheard('a')]", "[concat('a', steps('sentinel').insightsWorkspace.id)]",
                     "[if('true', 'a', 'b')]", "[concat('a'"[:-1] + "]", "[int('')]"):
            with self.assertRaises(Wrong, msg=text):
                untouched().value_of(text)

    def test_it_warns_of_what_the_alert_waits_for(self):
        box = CONTROLS["alerts", "silence"]["options"]["text"]
        windows = {"PT3H": "for 3 hours.", "PT6H": "for 6 hours.", "P1D": "for 1 day.", "P2D": "for 2 days."}
        for schedule in choices(("mimecast", "schedule")):
            form = untouched(mimecast__schedule=schedule)
            self.assertIn(windows[form.value_of(OUTPUTS["SilenceAlertWindow"])], form.value_of(box))

    def test_tags_are_those_of_the_one_type_that_the_control_offers(self):
        (resource,) = CONTROLS["tags", "byResource"]["resources"]
        self.assertIn(f"parameters('Tags')['{resource}']", TEMPLATE["variables"]["tags"])


class Cost(unittest.TestCase):
    """The page before the last has the figures of the documents."""

    def shown(self, **changed):
        form = untouched(**changed)
        return {name: form.value_of(CONTROLS[step, name]["options"]["text"])
                for step, name in CONTROLS if step == "cost" and form.visible((step, name))}

    def table(self, heading, *files):
        """The rows under a heading, which is in one of the files."""
        for path in files:
            _, found, section = path.read_text().partition(f"\n## {heading}\n")
            if found:
                rows = section.partition("\n## ")[0].splitlines()
                return [[cell.strip(" *") for cell in row.strip("|").split("|")]
                        for row in rows if row.startswith("|")]
        self.fail(f"no {heading}")

    def test_the_fixed_sums_are_those_of_the_documents(self):
        documents = {row[0].split(",")[0]: row[-1] for row in self.table(
            "What it costs", *sorted((ROOT / "docs").glob("DEPLOY*.md")))}
        cost = {key: float(re.search(r"[\d.]+", text)[0]) for key, text in documents.items()
                if re.search(r"\d", text)}
        base = sum(cost[key] for key in ("storage account", "Key Vault", "Application Insights"))
        alerts = sum(cost[key] for key in (
            "alerts on silence and on quarantined events", "two alerts on the rule's metrics"))
        for plan, private, deploy in itertools.product(
                listed(("hosting", "plan")).values(), (True, False), (True, False)):
            shown = self.shown(hosting__plan=plan, hosting__private=private, alerts__deploy=deploy)
            expected = round(base) + private * cost["with private networking"] + deploy * round(alerts)
            if plan == "ElasticPremium":
                expected += cost["or Elastic Premium EP1"]
            self.assertIn(f"Together about {int(expected)} a month", shown["total"])
            self.assertEqual(("private" in shown, "alerts" in shown), (private, deploy))
            (line,) = (shown[name] for name in ("flex", "automatic", "premium") if name in shown)
            self.assertEqual("150" in line, plan != "FlexConsumption")
        every = self.shown(hosting__private=True)
        for name, sum_ in (("base", base), ("alerts", alerts), ("private", cost["with private networking"])):
            self.assertIn(f"about {round(sum_)}.", every[name])
        self.assertIn(documents["ingestion"].partition(" for")[0], every["ingestion"])

    def test_ingestion_by_size_is_that_of_the_documents(self):
        rows = self.table("What a month costs", ROOT / "docs/SCALE.md")
        text = self.shown()["ingestion"]
        for size in ("small", "middle", "large"):
            (_, events, *_, sum_) = next(row for row in rows if row[0] == size)
            sum_ = sum_ if "," in sum_ else str(round(float(sum_)))
            events = events.removesuffix(" million")
            self.assertRegex(text, rf"{events}( million| events a day) about {sum_}\b")

    def test_the_content_is_what_was_chosen(self):
        every = self.shown()["content"]
        for word in ("parser", "analytic rules", "hunting queries", "workbooks", "connector page", "package"):
            self.assertIn(word, every)
        self.assertIn("the tables: 0", self.shown(
            content__parser=False, content__analyticsRules="None", content__huntingQueries=False,
            content__workbook=False, content__connectorPage=False,
            content__contentPackage=False)["content"])

    def test_other_sources_are_on_it_if_one_is_on(self):
        for risk, directory in itertools.product((True, False), repeat=2):
            shown = self.shown(sources__risk=risk, sources__directory=directory)
            self.assertEqual("sources" in shown, risk or directory)

    def test_it_is_the_last_page(self):
        self.assertEqual(PARAMETERS["steps"][-1]["name"], "cost")


class OthersRules(unittest.TestCase):
    """Microsoft's own: its schema, and the checks of its arm-ttk that are not made above."""

    def test_microsofts_schema(self):
        if not SCHEMAS.exists():
            self.skipTest("Microsoft's schemas are not here")
        try:
            import jsonschema
            from referencing import Registry, Resource
            from referencing.jsonschema import DRAFT4
        except ImportError:
            self.skipTest("no jsonschema, which comes with checkov")
        registry = Registry().with_resources(
            (f"{SCHEMA.rpartition('/')[0]}/{path.name}",
             Resource.from_contents(json.loads(path.read_text()), default_specification=DRAFT4))
            for path in SCHEMAS.glob("*.json"))
        known = copy.deepcopy(WIZARD)
        for step in known["parameters"]["steps"]:
            step["elements"] = [e for e in step["elements"] if e["type"] not in NEWER]
        validator = jsonschema.Draft4Validator({"$ref": SCHEMA}, registry=registry)
        self.assertEqual([e.message[:300] for e in validator.iter_errors(known)], [])
        known["parameters"]["steps"][0]["elements"][0]["typo"] = True
        self.assertTrue(list(validator.iter_errors(known)))

    def test_schema_version_and_handler(self):
        self.assertEqual(WIZARD["$schema"], f"{SCHEMA}#")
        self.assertEqual(WIZARD["version"], "0.1.2-preview")
        self.assertEqual(WIZARD["handler"], "Microsoft.Azure.CreateUIDef")

    def test_location_is_given_as_it_is(self):
        self.assertEqual(OUTPUTS["Location"], "[location()]")

    def test_nothing_is_blank_but_a_default(self):
        def blanks(node, path=""):
            if node in ("", None, {}, []) and not path.endswith("/defaultValue"):
                yield path
            items = node.items() if isinstance(node, dict) else (
                enumerate(node) if isinstance(node, list) else ())
            for key, value in items:
                yield from blanks(value, f"{path}/{key}")
        self.assertEqual(list(blanks(WIZARD)), [])

    def test_each_control_that_can_has_a_tool_tip(self):
        for control in filter(is_asked, CONTROLS):
            self.assertTrue(CONTROLS[control]["toolTip"].strip(), control)

    def test_each_text_box_has_a_pattern_with_a_message(self):
        for control, element in CONTROLS.items():
            if element["type"] == "Microsoft.Common.TextBox":
                found = element["constraints"]
                self.assertTrue(found.get("validationMessage") if "regex" in found else
                                "regex" in found["validations"][0], control)
                for check in found.get("validations", []):
                    self.assertTrue(check["message"].endswith("."), control)

    def test_secrets_are_asked_for_in_password_boxes_and_checked(self):
        for (_, name), element in CONTROLS.items():
            secret = "secret" in name.lower()
            self.assertEqual(element["type"] == "Microsoft.Common.PasswordBox", secret)
            if secret:
                self.assertRegex(element["constraints"]["regex"], r"\{\d+")

    def test_allowed_values_are_those_of_the_template(self):
        for control in filter(listed, CONTROLS):
            self.assertIn(CONTROLS[control]["defaultValue"], listed(control))
            reference = f"[steps('{control[0]}').{control[1]}]"
            for name in [n for n, output in OUTPUTS.items() if output == reference]:
                declared = TEMPLATE["parameters"][name]
                expected = declared.get("allowedValues", [True, False])
                self.assertEqual(set(listed(control).values()), set(expected), name)
