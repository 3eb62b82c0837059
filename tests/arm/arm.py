"""A small reader of Azure Resource Manager templates: evaluates a template's expressions for given
parameters and lists the resources that a deployment would make.

What only Azure knows, a reference() to a deployed resource, is left in the result as text.
Anything that a deployment would refuse, such as a parameter or variable that is not there or a
function that is not known, raises Fault.
"""
import copy
import functools
import hashlib
import ipaddress
import json
import operator
import re
import uuid

TOKEN = re.compile(r"\s*(?:('(?:[^']|'')*')|(-?\d+)|([A-Za-z_][A-Za-z0-9_]*)|([(),.\[\]]))")

CLOUDS = {
    "AzureCloud": ("core.windows.net", ".vault.azure.net"),
    "AzureUSGovernment": ("core.usgovcloudapi.net", ".vault.usgovcloudapi.net"),
    "AzureChinaCloud": ("core.chinacloudapi.cn", ".vault.azure.cn"),
}


# What a provider adds to what it is asked to make, where a template reads it.
ADDED = {
    "Microsoft.OperationalInsights/workspaces/tables": {
        "plan": "Analytics", "retentionInDays": 30, "retentionInDaysAsDefault": True,
        "totalRetentionInDays": 30, "totalRetentionInDaysAsDefault": True},
}


class Fault(Exception):
    """The template would not deploy."""


class Deployed:
    """What reference() gives: a value that only a deployment has, known by its path alone."""

    def __init__(self, path):
        self.path = path

    def __str__(self):
        return f"<{self.path}>"


def parse(text):
    """The expression between its brackets, as nested tuples."""
    tokens, at = [], 0
    while at < len(text):
        found = TOKEN.match(text, at)
        if not found:
            if text[at:].strip():
                raise Fault(f"cannot read {text[at:at + 30]!r}")
            break
        tokens.append(found.group().strip())
        at = found.end()
    tree, rest = parse_one(tokens)
    if rest:
        raise Fault(f"what is {' '.join(rest)!r} doing in {text!r}")
    return tree


def parse_one(tokens):
    if not tokens:
        raise Fault("an expression ends too early")
    head, rest = tokens[0], tokens[1:]
    if head.startswith("'"):
        tree = ("value", head[1:-1].replace("''", "'"))
    elif re.fullmatch(r"-?\d+", head):
        tree = ("value", int(head))
    elif rest[:1] == ["("]:
        arguments, rest = [], rest[1:]
        while rest[:1] != [")"]:
            argument, rest = parse_one(rest)
            arguments.append(argument)
            if rest[:1] == [","]:
                rest = rest[1:]
            elif rest[:1] != [")"]:
                raise Fault(f"{head}( is not closed")
        tree, rest = ("call", head, arguments), rest[1:]
    else:
        raise Fault(f"{head!r} is no function call")
    while rest[:1] in (["."], ["["]):
        if rest[0] == ".":
            tree, rest = ("at", tree, ("value", rest[1])), rest[2:]
        else:
            index, rest = parse_one(rest[1:])
            if rest[:1] != ["]"]:
                raise Fault("an index is not closed")
            tree, rest = ("at", tree, index), rest[1:]
    return tree, rest


def is_expression(text):
    return text.startswith("[") and text.endswith("]") and not text.startswith("[[")


class Scope:
    """One template, the outer one or a nested one, with the values of its parameters."""

    def __init__(self, template, given, subscription, group, cloud, there):
        self.template, self.there = template, there
        self.subscription, self.group, self.cloud = subscription, group, cloud
        self.loop = None
        self.lambdas = {}
        self.referred = set()
        self.parameters = {}
        declared = template.get("parameters", {})
        for name in given:
            if name not in declared:
                raise Fault(f"parameter {name} is not the template's")
        for name, parameter in declared.items():
            if name in given:
                self.parameters[name] = given[name]
            elif "defaultValue" in parameter:
                self.parameters[name] = self.value(parameter["defaultValue"])
            else:
                raise Fault(f"parameter {name} has no value")
            check_parameter(name, parameter, self.parameters[name])

    def value(self, node):
        """The node with all its expressions evaluated."""
        if isinstance(node, dict):
            return {self.value(k): self.value(v) for k, v in node.items()}
        if isinstance(node, list):
            return [self.value(v) for v in node]
        if not isinstance(node, str):
            return node
        if is_expression(node):
            return self.evaluate(parse(node[1:-1]))
        return node[1:] if node.startswith("[[") and node.endswith("]") else node

    def evaluate(self, tree):
        if tree[0] == "value":
            return tree[1]
        if tree[0] == "at":
            whole, key = self.evaluate(tree[1]), self.evaluate(tree[2])
            if isinstance(whole, Deployed):
                return Deployed(f"{whole.path}.{key}")
            try:
                return whole[key]
            except (KeyError, IndexError, TypeError):
                raise Fault(f"{key!r} is not in {str(whole)[:80]}") from None
        _, name, arguments = tree
        if name == "if":
            return self.evaluate(arguments[1 if self.evaluate(arguments[0]) else 2])
        if name == "lambda":
            *names, body = arguments
            return [self.evaluate(n) for n in names], body
        if not hasattr(self, f"do_{name}"):
            raise Fault(f"function {name} is not known")
        return getattr(self, f"do_{name}")(*[self.evaluate(a) for a in arguments])

    def do_parameters(self, name):
        if name not in self.parameters:
            raise Fault(f"parameter {name} is not there")
        return self.parameters[name]

    def do_variables(self, name):
        if name not in self.template.get("variables", {}):
            raise Fault(f"variable {name} is not there")
        return self.value(self.template["variables"][name])

    def do_copyIndex(self, *_):
        if self.loop is None:
            raise Fault("copyIndex() outside of a copy")
        return self.loop

    def do_resourceGroup(self):
        return {"id": group_id(self.subscription, self.group), "location": "westeurope",
                "name": self.group}

    def do_subscription(self):
        return {"id": f"/subscriptions/{self.subscription}", "subscriptionId": self.subscription,
                "tenantId": "00000000-0000-0000-0000-00000000000f"}

    def do_environment(self):
        storage, vault = CLOUDS[self.cloud]
        return {"name": self.cloud, "suffixes": {"storage": storage, "keyvaultDns": vault}}

    def do_resourceId(self, *parts):
        parts = list(parts)
        group = self.group
        at = next(i for i, part in enumerate(parts) if "/" in part)
        if at == 2:
            subscription, group = parts[:2]
        elif at == 1:
            subscription, group = self.subscription, parts[0]
        else:
            subscription = self.subscription
        return resource_id(group_id(subscription, group), parts[at], parts[at + 1:])

    def do_subscriptionResourceId(self, kind, *names):
        return resource_id(f"/subscriptions/{self.subscription}", kind, names)

    def do_reference(self, identity, version=None, full=None):
        self.referred.add(identity)
        if identity in self.there:
            return self.there[identity]
        return Deployed(f"{'resource' if full else 'properties'} of {identity}")

    def do_format(self, text, *values):
        return re.sub(r"\{(\d+)\}", lambda found: str(values[int(found[1])]), text)

    def do_guid(self, *parts):
        return str(uuid.uuid5(uuid.NAMESPACE_OID, "|".join(map(str, parts))))

    def do_uniqueString(self, *parts):
        digest = hashlib.sha256("|".join(parts).encode()).digest()
        return "".join("abcdefghijklmnopqrstuvwxyz234567"[b % 32] for b in digest[:13])

    def do_union(self, *objects):
        return {k: v for one in objects for k, v in one.items()}

    def do_createObject(self, *pairs):
        return dict(zip(pairs[::2], pairs[1::2], strict=True))

    def do_filter(self, items, function):
        return [item for item in items if self.apply(function, item)]

    def do_map(self, items, function):
        return [self.apply(function, item) for item in items]

    def apply(self, function, item):
        (name,), body = function
        before, self.lambdas = self.lambdas, {**self.lambdas, name: item}
        try:
            return self.evaluate(body)
        finally:
            self.lambdas = before

    def do_lambdaVariables(self, name):
        if name not in self.lambdas:
            raise Fault(f"lambda variable {name} is not there")
        return self.lambdas[name]

    def do_cidrSubnet(self, network, bits, index):
        return str(list(ipaddress.ip_network(network).subnets(new_prefix=bits))[index])

    do_toLower = staticmethod(str.lower)
    do_split = staticmethod(str.split)
    do_replace = staticmethod(str.replace)
    do_startsWith = staticmethod(lambda text, start: text.lower().startswith(start.lower()))
    do_endsWith = staticmethod(lambda text, end: text.lower().endswith(end.lower()))
    do_empty = staticmethod(lambda value: not value)
    do_equals = staticmethod(lambda one, other: one == other)
    do_not = staticmethod(lambda value: not value)
    do_and = staticmethod(lambda *values: all(values))
    do_or = staticmethod(lambda *values: any(values))
    do_length = staticmethod(len)
    do_contains = staticmethod(lambda whole, part: part in whole)
    do_concat = staticmethod(lambda *parts: functools.reduce(operator.add, parts))
    do_createArray = staticmethod(lambda *items: list(items))
    do_null = staticmethod(lambda: None)
    do_true = staticmethod(lambda: True)


def group_id(subscription, group):
    return f"/subscriptions/{subscription}/resourceGroups/{group}"


def resource_id(scope, kind, names):
    provider, *types = kind.split("/")
    names = list(names)
    if len(types) != len(names):
        raise Fault(f"{kind} takes {len(types)} names and got {names}")
    if not all(names):
        raise Fault(f"the id of a {kind} has an empty name")
    pairs = "/".join(f"{t}/{n}" for t, n in zip(types, names))
    return f"{scope}/providers/{provider}/{pairs}"


TYPES = {"string": str, "securestring": str, "bool": bool, "int": int, "array": list,
         "object": (dict, Deployed)}


def check_parameter(name, parameter, value):
    if isinstance(value, Deployed) and parameter["type"] == "string":
        return
    if not isinstance(value, TYPES[parameter["type"].lower()]):
        raise Fault(f"parameter {name} is no {parameter['type']}: {value!r}")
    if "allowedValues" in parameter and value not in parameter["allowedValues"]:
        raise Fault(f"parameter {name} must be one of {parameter['allowedValues']}, not {value!r}")
    if isinstance(value, str):
        if len(value) < parameter.get("minLength", 0):
            raise Fault(f"parameter {name} is too short")
        if len(value) > parameter.get("maxLength", len(value)):
            raise Fault(f"parameter {name} is too long")
    if isinstance(value, int) and "minValue" in parameter:
        if not parameter["minValue"] <= value <= parameter["maxValue"]:
            raise Fault(f"parameter {name} is out of range")


class Deployment:
    """The resources of a template and of those nested in it, in the order in which they stand.
    `there` are resources that are there before: the properties for each id."""

    def __init__(self, template, given, cloud="AzureCloud", there=None,
                 subscription="00000000-0000-0000-0000-000000000001", group="app"):
        self.resources, self.ids, self.waits, self.referrals = [], set(), [], []
        there = there or {}
        self.before = set(there)
        self.deploy(Scope(template, given, subscription, group, cloud, dict(there)))
        for waiting, awaited in self.waits:
            if awaited.lower() not in self.ids:
                raise Fault(f"{waiting} depends on {awaited}, which is not in the template")
        for referring, referred, awaited in self.referrals:
            if referred.lower() not in self.ids:
                if "/Microsoft.OperationalInsights/workspaces/" not in referred:
                    raise Fault(f"{referring} refers to {referred}, which is not in the template")
            elif referred not in awaited and referred not in there:
                raise Fault(f"{referring} refers to {referred} and does not wait for it")

    def deploy(self, scope):
        """Gives the outputs."""
        copies = {}
        resources = scope.template["resources"]
        # Language version 2.0 has them by name.
        for resource in resources.values() if isinstance(resources, dict) else resources:
            if "@options" in resource and scope.template.get("languageVersion") != "2.0":
                raise Fault("@options take languageVersion 2.0")
            copy_of = resource.get("copy")
            count = scope.value(copy_of["count"]) if copy_of else 1
            made = []
            for index in range(count):
                scope.loop = index if copy_of else None
                made.append(self.one(scope, resource))
            scope.loop = None
            if copy_of:
                copies[copy_of["name"]] = made
        self.waits = [(w, a) for w, a in self.waits if a not in copies]
        return {name: {"value": scope.value(output["value"])}
                for name, output in scope.template.get("outputs", {}).items()}

    def one(self, scope, resource):
        resource = copy.deepcopy(resource)
        resource.pop("copy", None)
        options = resource.pop("@options", {})
        nested = None
        if resource["type"] == "Microsoft.Resources/deployments":
            nested = resource["properties"].pop("template")
        made = scope.value({k: v for k, v in resource.items() if k != "properties"})
        names = made["name"].split("/")
        where = made.get("scope") or group_id(made.get("subscriptionId", scope.subscription),
                                              made.get("resourceGroup", scope.group))
        identity = resource_id(where, made["type"], names)
        self.ids.add(identity.lower())
        self.waits += [(identity, awaited) for awaited in made.get("dependsOn", [])]
        if not made.get("condition", True):
            return identity
        if "onlyIfNotExists" in options and identity in self.before:
            return identity
        scope.referred = set()
        made["properties"] = scope.value(resource.get("properties", {}))
        self.referrals += [(identity, referred, made.get("dependsOn", []))
                           for referred in scope.referred]
        made["id"] = identity
        self.resources.append(made)
        if made["type"] in ADDED:
            scope.there[identity] = {**ADDED[made["type"]], **made["properties"]}
        if nested is not None:
            given = {k: v["value"] for k, v in made["properties"]["parameters"].items()}
            inner = Scope(nested, given, made.get("subscriptionId", scope.subscription),
                          made.get("resourceGroup", scope.group), scope.cloud, scope.there)
            scope.there[identity] = {"outputs": self.deploy(inner)}
        return identity

    def of_type(self, kind):
        return [r for r in self.resources if r["type"].lower() == kind.lower()]


def parameter_values(path):
    """The values in a parameter file; a Key Vault reference stands for a secret."""
    parameters = json.loads(path.read_text())["parameters"]
    return {k: v["value"] if "value" in v else f"secret {v['reference']['secretName']}"
            for k, v in parameters.items()}
