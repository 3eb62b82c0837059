"""The same faults against each way to bring events to Azure, with the same oracle. Prints a table.

    compare.py --peer PEER --ours PROGRAM --node-sdk NODE --tenzir TENZIR [FAULT …]

`run` gives the programs. A program that is not given is left out, and the table says so.
"""

import argparse
import json
import os
import pathlib
import signal
import socket
import subprocess
import sys
import tempfile
import threading
import time

HERE = pathlib.Path(__file__).parent
PATIENCE = 300

FAULTS = {
    "nothing": "none",
    "throttled": "429 with `Retry-After: 1`, every 4th post",
    "server-error": "500, every 4th post",
    "unavailable": "503, every 4th post",
    "request-timeout": "408, every 4th post",
    "reset": "connection closed before the post was taken, every 4th",
    "lost-reply": "connection closed after the post was taken, every 4th",
    "too-large": "413, every 4th post",
    "poison": "400 to a body with one of three rows",
    "token-expired": "401, once",
    "killed": "SIGKILL when half has landed; started again",
    "file-cut-short": "two of 11 files cut short at 100,000 bytes, twice each",
    "file-expired": "403 to the addresses of two of 11 files, twice each",
    "empty-page": "an empty page in the middle, `isCaughtUp: false`",
}
READING = ("file-cut-short", "file-expired", "empty-page")


class Peer:
    """The program that serves the events with a fault, and its oracle."""

    def __init__(self, program, fault, folder, ours, tls_port=0):
        line = [program, "faulty", "--fault", fault, "--folder", folder, "--tls-port", str(tls_port)]
        self.process = subprocess.Popen(
            line if ours else [*line, "--any-program"],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
        )
        self.given = json.loads(self.process.stdout.readline())

    def ask(self, line):
        self.process.stdin.write(f"{line}\n")
        self.process.stdin.flush()
        return json.loads(self.process.stdout.readline())

    def end(self):
        self.process.stdin.close()
        self.process.wait(PATIENCE)


class Run:
    """One program against one fault, in a folder of its own."""

    def __init__(self, tool, programs, fault, folder):
        self.tool, self.fault, self.folder = tool, fault, folder
        # Tenzir takes its token from Entra, which is this machine in `alone`.
        self.peer = Peer(programs.peer, fault, folder, tool == "ours", 443 if tool == "tenzir" else 0)
        given = self.peer.given
        self.given_back = os.path.join(folder, "given_back.ndjson")
        pathlib.Path(self.given_back).touch()
        self.env = {
            **{name: value for name, value in given.items() if name not in ("CA", "TLS_ENDPOINT")},
            "PATH": os.environ["PATH"],
            "HOME": folder,
            "GIVEN_BACK": self.given_back,
            "STATE": os.path.join(folder, "tokens.json"),
        }
        # The vendor's clients refuse plain http.
        if tool in ("python-sdk", "node-sdk"):
            self.env["LOGS_INGESTION_ENDPOINT"] = given["TLS_ENDPOINT"]
            self.env["REQUESTS_CA_BUNDLE"] = self.env["NODE_EXTRA_CA_CERTS"] = given["CA"]
        if tool == "ours":
            self.env["CHECKPOINT_URL"] = os.path.join(folder, "state")
        self.line = {
            "plain": lambda: [sys.executable, str(HERE / "plain.py")],
            "python-sdk": lambda: [sys.executable, str(HERE / "azure_sdk.py")],
            "node-sdk": lambda: [programs.node_sdk, str(HERE / "azure_sdk.mjs")],
            "tenzir": lambda: [programs.tenzir, self.pipeline()],
            "ours": lambda: [programs.ours, "pull", "--json"],
        }[tool]()

    def pipeline(self):
        given = self.peer.given
        quoted = {name: json.dumps(value) for name, value in given.items()}
        file = json.dumps(os.path.join(self.folder, "events.ndjson"))
        return (
            f"from_file {file} {{ read_ndjson }}\n"
            f"to_azure_log_analytics tenant_id={quoted['TENANT_ID']}, "
            f"client_id={quoted['MIMECAST_CLIENT_ID']}, "
            f"client_secret={quoted['MIMECAST_CLIENT_SECRET']}, "
            f"dce={quoted['LOGS_INGESTION_ENDPOINT']}, dcr={quoted['LOGS_INGESTION_RULE_ID']}, "
            f"stream={quoted['LOGS_INGESTION_STREAM']}, parallel=4"
        )

    def start(self):
        return subprocess.Popen(
            self.line,
            env=self.env,
            cwd=self.folder,
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
        )

    def run(self):
        process = self.start()
        if self.fault == "killed":
            half = len(pathlib.Path(self.folder, "events.ndjson").read_bytes().splitlines()) // 2
            give_up = time.monotonic() + PATIENCE
            while self.peer.ask("landed") < half and process.poll() is None:
                assert time.monotonic() < give_up, f"{self.tool} does not get to its middle"
                time.sleep(0.02)
            process.send_signal(signal.SIGKILL)
            process.communicate()
            process = self.start()
        try:
            out, err = process.communicate(timeout=PATIENCE)
        except subprocess.TimeoutExpired:
            process.kill()
            out, err = process.communicate()
            err += "\nit did not end"
        said = getattr(self, "said_by_" + self.tool.replace("-", "_"), self.said_by_driver)(
            process.returncode, out, err
        )
        outcome = self.peer.ask(self.given_back)
        self.peer.end()
        return outcome | said

    def said_by_driver(self, code, out, err):
        lines = out.strip().splitlines()
        said = json.loads(lines[-1]) if lines else {"errors": 1, "first_error": err[-200:]}
        words = []
        if said.get("lines_not_json"):
            words.append(f"{said['lines_not_json']:,} lines not JSON")
        if said["errors"]:
            first = " ".join(said["first_error"].split()).split(" for url")[0]
            words.append(f"{said['errors']:,} times “{first[:60]}” or the like")
        return {"reported": bool(said["errors"]), "words": "; ".join(words) or "success", "code": code}

    def said_by_tenzir(self, code, out, err):
        plain = [line for line in err.splitlines() if "error" in line]
        words = f"exit code {code}" + (f", “{plain[0].strip()[:60]}”" if plain else "")
        return {"reported": code != 0, "words": words if code or plain else "success", "code": code}

    def said_by_ours(self, code, out, err):
        records = pathlib.Path(self.folder, "state", "quarantine").glob("*/*/*.json")
        with open(self.given_back, "w", encoding="utf-8") as file:
            for record in records:
                original = json.loads(record.read_text(encoding="utf-8")).get("original")
                if original:
                    file.write(original + "\n")
        summary = json.loads(out) if out.strip() else {"outcome": err[-200:], "streams": []}
        kept = sum(stream["rows_quarantined"] for stream in summary["streams"])
        words = f"exit code {code}, {summary['outcome']}"
        words += f", {kept:,} rows in quarantine" if kept else ""
        again = sum(stream["ambiguous_posts"] for stream in summary["streams"])
        words += f", {again} posts whose answer said nothing" if again else ""
        failed = [stream["error"]["code"] for stream in summary["streams"] if stream["error"]]
        words += f", {failed[0]}" if failed else ""
        return {"reported": code != 0 or bool(kept), "words": words, "code": code}


def network():
    return os.readlink("/proc/self/ns/net"), os.readlink("/proc/self/ns/mnt")


def alone(outside):
    """In a network of its own, where every name is this machine. `outside` is that of the caller:
    the machine's own names must stay as they are."""
    if set(network()) & set(outside.split(",")):
        raise SystemExit("this is the machine's own network: `unshare` is what calls this")
    subprocess.run(["ip", "link", "set", "lo", "up"], check=True)
    folder = tempfile.mkdtemp()

    def instead_of(path, text):
        new = os.path.join(folder, os.path.basename(path))
        pathlib.Path(new).write_text(text, encoding="utf-8")
        subprocess.run(["mount", "--bind", new, path], check=True)

    instead_of("/etc/resolv.conf", "nameserver 127.0.0.1\n")
    instead_of("/etc/hosts", "127.0.0.1 localhost login.microsoftonline.com\n")
    names = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
    names.bind(("127.0.0.1", 53))

    def answer():
        while True:
            query, asker = names.recvfrom(512)
            end = query.index(0, 12) + 5
            is_a = query[end - 4 : end - 2] == b"\0\1"
            reply = query[:2] + b"\x81\x80" + query[4:6] + bytes([0, is_a, 0, 0, 0, 0]) + query[12:end]
            if is_a:
                reply += b"\xc0\x0c\0\1\0\1\0\0\0\x3c\0\4\x7f\0\0\1"
            names.sendto(reply, asker)

    threading.Thread(target=answer, daemon=True).start()
    return instead_of


def one(tool, programs, fault):
    with tempfile.TemporaryDirectory() as folder:
        if tool != "tenzir":
            return Run(tool, programs, fault, folder).run()
        instead_of = alone(programs.outside)
        run = Run(tool, programs, fault, folder)
        roots = pathlib.Path("/etc/ssl/certs/ca-certificates.crt")
        ca = pathlib.Path(run.peer.given["CA"]).read_text(encoding="utf-8")
        instead_of(str(roots), roots.read_text(encoding="utf-8") + ca)
        return run.run()


def one_alone(programs, fault):
    line = ["unshare", "--map-root-user", "--net", "--mount", sys.executable, __file__]
    line += ["--peer", programs.peer, "--tenzir", programs.tenzir, "--outside", ",".join(network()), fault]
    done = subprocess.run(line, stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, check=True)
    return json.loads(done.stdout)


def cell(outcome):
    """What was lost without a word, what the caller knows is missing, and what landed twice."""
    missing = outcome["missing"] - outcome["given_back"]
    lost, reported = (0, missing) if outcome["reported"] else (missing, 0)
    parts = {
        "**{:,} lost**": lost,
        "{:,} missing, reported": reported,
        "{:,} given back": outcome["given_back"],
        "{:,} twice": outcome["twice"],
        "{:,} given back that had landed": outcome["given_back_though_landed"],
    }
    return ", ".join(words.format(rows) for words, rows in parts.items() if rows) or "each once"


def main():
    parser = argparse.ArgumentParser()
    parser.add_argument("--peer", required=True)
    parser.add_argument("--ours")
    parser.add_argument("--node-sdk")
    parser.add_argument("--tenzir")
    parser.add_argument("--outside", help="the caller's network, where Tenzir has one of its own")
    parser.add_argument("faults", nargs="*", default=list(FAULTS))
    programs = parser.parse_args()
    if programs.outside:
        print(json.dumps(one("tenzir", programs, programs.faults[0])))
        return 0
    tools = {
        "ours": "mimecast-sentinel",
        "python-sdk": "azure-monitor-ingestion (Python)",
        "node-sdk": "@azure/monitor-ingestion (Node.js)",
        "tenzir": "Tenzir",
        "plain": "plain Python function",
    }
    for tool in ("ours", "node_sdk", "tenzir"):
        if not getattr(programs, tool):
            print(f"SKIPPED: {tools.pop(tool.replace('_', '-'))} is not here")
    head = "| fault | " + " | ".join(tools.values()) + " |\n|" + "---|" * (len(tools) + 1)
    print(head)
    words_of_each, largest, well = [], {}, True
    for fault in programs.faults:
        cells, words = [], []
        for tool in tools:
            if fault in READING and tool not in ("ours", "plain"):
                cells.append("–")
                words.append("–")
                continue
            outcome = one_alone(programs, fault) if tool == "tenzir" else one(tool, programs, fault)
            cells.append(cell(outcome))
            words.append(outcome["words"])
            largest[tool] = max(largest.get(tool, 0), outcome["largest_body"])
            print(json.dumps({"fault": fault, "tool": tool, **outcome}), file=sys.stderr)
            if tool == "ours":
                well &= not outcome["violations"] and outcome["missing"] == outcome["given_back"]
        print(f"| {FAULTS[fault]} | " + " | ".join(cells) + " |", flush=True)
        words_of_each.append(f"| {FAULTS[fault]} | " + " | ".join(words) + " |")
    print("\nThe largest body that each sent, in bytes before compression:")
    print(", ".join(f"{tools[tool]} {size:,}" for tool, size in largest.items()) + ".")
    print("\nWhat each reported:\n", head, *words_of_each, sep="\n")
    return 0 if well else 1


if __name__ == "__main__":
    sys.exit(main())
