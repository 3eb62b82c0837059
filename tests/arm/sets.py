"""The parameter files that the template is expanded with, in each cloud that takes them."""
import functools

import engine
from files import ARM, TEMPLATE, TESTS, parameter_values, short_texts

SECRETS = ("an invented secret of Mimecast", "an invented secret of the app registration",
           "an invented secret of the application of Graph")
# By name; those of the tenants' example too.
FILES = {
    **{path.stem: path for path in sorted((TESTS / "parameters").glob("*.json"))},
    **{f"tenant-{path.name.partition('.')[0]}": path
       for path in sorted((ARM / "tenants/example").glob("*.json"))},
}
# What is deployed, but for long texts; a test expands the whole of it.
SHORT = short_texts(TEMPLATE)


def given(name="minimal", **more):
    """The values of a parameter file, some of them replaced; one that is None is not given."""
    values = {**parameter_values(FILES[name]), **more}
    return {k: v for k, v in values.items() if v is not None}


def clouds(name):
    """Those that take the parameter file: Azure in China has no API of risk."""
    refused = {"AzureChinaCloud"} if given(name).get("EnableEntraRisk") else set()
    return [cloud for cloud in engine.CLOUDS if cloud not in refused]


@functools.cache
def expanded(name, cloud):
    return engine.expand(SHORT, given(name), cloud)


def deployed(name="minimal", cloud="AzureCloud", **more):
    """What a deployment with that parameter file makes."""
    if more:
        return engine.expand(SHORT, given(name, **more), cloud)
    return expanded(name, cloud)


def start():
    """Has the engine begin with all of them."""
    for name in FILES:
        for cloud in clouds(name):
            engine.start(SHORT, given(name), cloud)
