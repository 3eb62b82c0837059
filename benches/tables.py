"""The tables of a document that a bench makes from named inputs: asked for, printed, written and checked."""
import argparse
import sys
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]


def ask(about, inputs):
    """The command line, and the inputs, by name, as it sets them."""
    parser = argparse.ArgumentParser(description=about, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument("--set", action="extend", nargs="+", default=[], metavar="NAME=NUMBER")
    parser.add_argument("--update", action="store_true")
    parser.add_argument("--check", action="store_true")
    asked, given = parser.parse_args(), dict(inputs)
    for name, _, number in (one.partition("=") for one in asked.set):
        if name not in given:
            sys.exit(f"there is no input {name}; they are {', '.join(given)}")
        given[name] = float(number)
    return asked, given


def answer(asked, bench, document, tables):
    """Prints the tables, by name, or puts them into the document, or ends with an error if it has others."""
    if asked.set or not (asked.check or asked.update):
        sys.exit(print("\n\n".join(tables.values())))
    path = ROOT / document
    text = expected = path.read_text()
    for name, made in tables.items():
        begin, end = f"<!-- {bench}: {name} -->\n", "<!-- end -->"
        before, found, rest = expected.partition(begin)
        if not found or end not in rest:
            sys.exit(f"FAIL {document} has no place for the table {name}")
        expected = f"{before}{begin}{made}\n{rest[rest.index(end):]}"
    if asked.update:
        path.write_text(expected)
    elif text != expected:
        sys.exit(f"FAIL {document} is not what {bench} makes: run `{bench} --update`")
    else:
        print(f"ok {document} has the tables that {bench} makes")
