"""Makes commands.tsv: what the real Azure CLI takes, for each command that the documents and arm/deploy
use.

    python3 -m venv /tmp/azure-cli
    /tmp/azure-cli/bin/pip install azure-cli==2.91.0
    /tmp/azure-cli/bin/python tests/azure-cli/make.py

It asks the client's own parsers, without Azure. To be run again when a document or arm/deploy gets a
command that its tests do not find here, or for a newer client. With --check it writes nothing, and ends
with 1 if the client lacks a row of what is committed; it may have more.
"""
import re
import sys
from pathlib import Path

from azure.cli.core import __version__, get_default_cli
from azure.cli.core.commands.events import EVENT_INVOKER_POST_LOAD_ARGUMENTS
from azure.cli.core.file_util import create_invoker_and_load_cmds_and_args

HERE = Path(__file__).resolve().parent
ROOT = HERE.parents[1]
DOCUMENTS = [ROOT / "README.md", *sorted((ROOT / "docs").glob("*.md"))]
# The program's own call, as the user of `az login`.
OURS = ["account get-access-token"]
HEAD = f"""\
# What azure-cli {__version__} takes; made by make.py. Columns: the command (`*` for every one), an
# option's spellings, how many values it takes (as Python's argparse has it), whether it must be given,
# and its values if they are listed; `-` is none.
"""


def parsers_of(cli):
    """Each command's own parser."""
    groups = cli.invocation.parser.subparsers
    return {" ".join((*words, word)): parser for words, group in groups.items()
            for word, parser in group.choices.items() if (*words, word) not in groups}


def used(commands):
    """The commands that the documents and arm/deploy name."""
    deploy = (ROOT / "arm/deploy").read_text(encoding="utf-8")
    found = {*OURS, *re.findall(r'\baz\("([a-z -]+)"', deploy)}
    for path in DOCUMENTS:
        # A line may break within a command.
        document = " ".join(path.read_text(encoding="utf-8").split())
        for text in re.findall(r"\baz ((?:[a-z][a-z0-9-]* ?)+)", document):
            words = text.split()
            whole = [" ".join(words[:n]) for n in range(len(words), 0, -1)]
            found |= set([one for one in whole if one in commands][:1])
    return sorted(found)


def row(action, needed_without_ids):
    """An option as commands.tsv has it, without its command."""
    values = "1" if action.nargs is None else str(action.nargs)
    need = ("required" if action.required
            else "unless --ids" if action.dest in needed_without_ids else "-")
    return "\t".join([" ".join(action.option_strings), values, need,
                      " ".join(map(str, action.choices or ["-"]))])


def main():
    cli, needed = get_default_cli(), {}

    def remember(_, commands_loader, **__):
        # Before the client makes them optional where there is --ids.
        for name, command in commands_loader.command_table.items():
            needed[name] = {argument for argument, one in command.arguments.items()
                            if one.type.settings.get("required")
                            and one.type.settings.get("id_part")}

    cli.register_event(EVENT_INVOKER_POST_LOAD_ARGUMENTS, remember)
    create_invoker_and_load_cmds_and_args(cli)
    parsers, rows = parsers_of(cli), {}
    for command in used(parsers):
        rows[command] = {row(action, needed[command]) for action in parsers[command]._actions
                         if action.option_strings and type(action).__name__ != "IgnoreAction"}
    everywhere = set.intersection(*rows.values())
    lines = [f"*\t{one}" for one in sorted(everywhere)]
    for command, own in rows.items():
        lines += [f"{command}\t{one}" for one in sorted(own - everywhere)] or [f"{command}\t-\t0\t-\t-"]
    if "--check" in sys.argv[1:]:
        committed = (HERE / "commands.tsv").read_text(encoding="utf-8").splitlines()
        lacking = [line for line in committed if not line.startswith("#") and line not in lines]
        sys.exit("\n".join([f"azure-cli {__version__} lacks:", *lacking]) if lacking else 0)
    (HERE / "commands.tsv").write_text(HEAD + "\n".join(lines) + "\n", encoding="utf-8")
    print(f"{len(rows)} commands: {', '.join(rows)}")


if __name__ == "__main__":
    main()
