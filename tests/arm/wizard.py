"""The portal's wizard, filled in without the portal: its controls, and its expressions evaluated.

Strict where Microsoft's pages leave open what the portal does: a value that is not there is taken by
coalesce() and equals() alone, both branches of an if() are evaluated, and a hidden control has either
no value or the one that was chosen before it was hidden.
"""
import itertools
import json
import re

from files import WIZARD, is_expression

PARAMETERS = WIZARD["parameters"]
OUTPUTS = PARAMETERS["outputs"]
# Each control by its page and its name; the first page has none of its own.
CONTROLS = {("basics", e["name"]): e for e in PARAMETERS["basics"]}
CONTROLS |= {(step["name"], e["name"]): e for step in PARAMETERS["steps"] for e in step["elements"]}
# They show something and have no value.
SHOWN = ("Microsoft.Common.InfoBox", "Microsoft.Common.TextBlock")
TODAY = "2026-11-30T12:00:00.000Z"
TOKEN = re.compile(r"\s*('(?:[^']|'')*'|\d+|\w+|[(),.])")


class Wrong(Exception):
    """An expression that the portal may not evaluate."""


def parsed(text):
    """The tree of an expression: ("text", value), ("call", name, arguments), ("of", tree, property)."""
    tokens, at = [], 0
    body = text[1:-1].rstrip()
    while at < len(body):
        found = TOKEN.match(body, at)
        if not found:
            raise Wrong(f"{body[at:]!r} in {text}")
        tokens.append(found[1])
        at = found.end()

    def take(expected=None):
        if not tokens or expected and tokens[0] != expected:
            raise Wrong(f"no {expected or 'more'} at {tokens[:5]} in {text}")
        return tokens.pop(0)

    def one():
        word = take()
        if word.startswith("'"):
            tree = ("text", word[1:-1].replace("''", "'"))
        elif word.isdigit():
            tree = ("text", int(word))
        else:
            take("(")
            arguments = []
            while tokens and tokens[0] != ")":
                arguments.append(one())
                if tokens and tokens[0] != ")":
                    take(",")
            take(")")
            tree = ("call", word, arguments)
        while tokens and tokens[0] == ".":
            take(".")
            tree = ("of", tree, take())
        return tree

    tree = one()
    if tokens:
        raise Wrong(f"{tokens} is left over in {text}")
    return tree


def calls(tree):
    """Each call in a tree."""
    if tree[0] == "call":
        yield tree
        for argument in tree[2]:
            yield from calls(argument)
    elif tree[0] == "of":
        yield from calls(tree[1])


def references(tree):
    """The controls that a tree names."""
    if tree[0] == "of" and tree[1][:2] == ("call", "steps"):
        yield tree[1][2][0][1], tree[2]
    elif tree[:2] == ("call", "basics"):
        yield "basics", tree[2][0][1]
    elif tree[0] == "of":
        yield from references(tree[1])
    elif tree[0] == "call":
        for argument in tree[2]:
            yield from references(argument)


def typed(kind, function):
    """The function of arguments that are all of this type."""
    def checked(*arguments):
        if any(type(argument) is not kind for argument in arguments):
            raise Wrong(f"{arguments} are not all {kind.__name__}")
        return function(*arguments)
    return checked


def conditional(condition, one, other):
    if type(condition) is not bool:
        raise Wrong(f"if() of {condition!r}")
    return one if condition else other


def first_given(*values):
    return next((value for value in values if value is not None), None)


def shown(value):
    if type(value) is not int:
        raise Wrong(f"string() of {value!r}")
    return str(value)


def whole_number(text):
    if type(text) is not str or not text.isdecimal():
        raise Wrong(f"int() of {text!r}")
    return int(text)


# Those that the wizard uses, as Microsoft's pages on CreateUiDefinition have them.
FUNCTIONS = {
    "add": typed(int, lambda a, b: a + b),
    "and": typed(bool, lambda a, b: a and b),
    "coalesce": first_given,
    "concat": typed(str, lambda *parts: "".join(parts)),
    "contains": typed(str, lambda text, part: part in text),
    "endsWith": typed(str, lambda text, end: text.endswith(end)),
    "equals": lambda a, b: type(a) is type(b) and a == b,
    "if": conditional,
    "int": whole_number,
    "last": lambda items: items[-1],
    "lessOrEquals": typed(str, lambda a, b: a <= b),
    "location": lambda: "westeurope",
    "not": typed(bool, lambda value: not value),
    "or": typed(bool, lambda a, b: a or b),
    "parse": typed(str, json.loads),
    "split": typed(str, lambda text, at: text.split(at)),
    "string": shown,
    "take": lambda items, number: items[:number],
    "toLower": typed(str, str.lower),
    "utcNow": lambda: TODAY,
}


class Form:
    """The wizard as somebody has filled it in: the value of each control that matters. One that is
    hidden has no value, or the chosen one if the portal keeps it."""

    def __init__(self, chosen, keeps_hidden=False):
        self.chosen, self.keeps_hidden = chosen, keeps_hidden

    def visible(self, control):
        condition = CONTROLS[control].get("visible", True)
        found = self.value_of(condition) if isinstance(condition, str) else condition
        if type(found) is not bool:
            raise Wrong(f"{control} is visible if {found!r}")
        return found

    def value_of(self, text):
        """What an expression gives; a text that is none gives itself."""
        return self.evaluated(parsed(text)) if is_expression(text) else text

    def control(self, name):
        if name not in CONTROLS or CONTROLS[name]["type"] in SHOWN:
            raise Wrong(f"there is no control {name}")
        return self.chosen[name] if self.keeps_hidden or self.visible(name) else None

    def evaluated(self, tree):
        if tree[0] == "text":
            return tree[1]
        if tree[0] == "of" and tree[1][:2] == ("call", "steps") or tree[:2] == ("call", "basics"):
            return self.control(next(references(tree)))
        if tree[0] == "of":
            whole = self.evaluated(tree[1])
            return (whole or {}).get(tree[2])
        if tree[1] not in FUNCTIONS:
            raise Wrong(f"{tree[1]}() is not known here")
        return FUNCTIONS[tree[1]](*map(self.evaluated, tree[2]))

    def complaints(self, control):
        """The messages that the control shows of its value."""
        found, value = CONTROLS[control].get("constraints", {}), self.chosen[control]
        if value in (None, ""):
            if found.get("required"):
                return ["required"]
            value = ""
        checks = found.get("validations", [])
        if "regex" in found:
            checks = [{"regex": found["regex"], "message": found["validationMessage"]}]
        return [check["message"] for check in checks if not (
            re.search(check["regex"], value, re.ASCII) if "regex" in check
            else self.value_of(check["isValid"]))]


def concerned(*texts):
    """The controls that these expressions depend on, those too that their visibility does."""
    found, left = set(), [reference for text in texts if is_expression(text)
                          for reference in references(parsed(text))]
    while left:
        control = left.pop()
        if control not in found:
            found.add(control)
            condition = CONTROLS.get(control, {}).get("visible")
            left += references(parsed(condition)) if isinstance(condition, str) else []
    return sorted(found)


def forms(choices, *texts):
    """The wizard filled in in each way that makes a difference to these expressions, hidden controls
    with and without a value."""
    controls = concerned(*texts)
    for values in itertools.product(*(choices(control) for control in controls)):
        for keeps_hidden in (False, True):
            yield Form(dict(zip(controls, values)), keeps_hidden)
