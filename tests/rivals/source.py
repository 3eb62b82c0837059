"""Reads Mimecast the way the Function Apps of today do: page by page, each file as a whole in memory,
`json.loads` per line. The addresses are in the environment, under the names that the product gives
them."""

import gzip
import json
import os

import requests

STREAMS = ["entities", "mailflow", "urlclick"]
ATTEMPTS = 2
TIMEOUT = 120

session = requests.Session()
counts = {"events": 0, "lines_not_json": 0, "files": 0, "files_failed": 0, "rows_given_back": 0}
errors = []


def env(name):
    return os.environ[name]


def failed(what):
    """What the function writes to its log as an error."""
    errors.append(str(what)[:200])


def access_token():
    reply = session.post(
        env("MIMECAST_BASE_URL") + "/oauth/token",
        data={
            "client_id": env("MIMECAST_CLIENT_ID"),
            "client_secret": env("MIMECAST_CLIENT_SECRET"),
            "grant_type": "client_credentials",
        },
        timeout=TIMEOUT,
    )
    reply.raise_for_status()
    return reply.json()["access_token"]


def download(url, lines):
    """All events of a file; `lines` splits its text."""
    reply = requests.get(url, timeout=TIMEOUT)
    reply.raise_for_status()
    events = []
    for line in lines(gzip.decompress(reply.content).decode("utf-8", errors="replace")):
        if not line.strip():
            continue
        try:
            events.append(json.loads(line))
        except ValueError:
            counts["lines_not_json"] += 1
            keep([line])
    return events


def file_is_done(url, upload, lines):
    """Downloads a file and has it uploaded, in two attempts."""
    for _ in range(ATTEMPTS):
        try:
            events = download(url, lines)
            upload(events)
            counts["events"] += len(events)
            return True
        except Exception as error:
            failed(error)
    counts["files_failed"] += 1
    return False


class Checkpoint:
    """The page token of each stream, in the file that STATE names, if it is set."""

    def __init__(self):
        self.path = os.environ.get("STATE")
        self.tokens = {}
        if self.path and os.path.exists(self.path):
            with open(self.path, encoding="utf-8") as file:
                self.tokens = json.load(file)

    def save(self, stream, token):
        self.tokens[stream] = token
        if self.path:
            with open(self.path, "w", encoding="utf-8") as file:
                json.dump(self.tokens, file)


def pull(upload, lines):
    """Gives all events of all files to `upload`, file by file. As in the Function App that Mimecast
    publishes, a page is passed when one of its files at least is done, and an empty page is the end."""
    headers = {"Authorization": "Bearer " + access_token()}
    checkpoint = Checkpoint()
    for stream in STREAMS:
        params = {"type": stream, "pageSize": 10}
        while True:
            if checkpoint.tokens.get(stream):
                params["nextPage"] = checkpoint.tokens[stream]
            reply = session.get(
                env("MIMECAST_BASE_URL") + "/siem/v1/batch/events/ci",
                params=params,
                headers=headers,
                timeout=TIMEOUT,
            )
            reply.raise_for_status()
            page = reply.json()
            urls = [entry["url"] for entry in page.get("value") or []]
            if not urls:
                break
            counts["files"] += len(urls)
            if not any([file_is_done(url, upload, lines) for url in urls]):
                failed(f"no file of a page of {stream} could be ingested")
                break
            checkpoint.save(stream, page.get("@nextPage"))


def keep(lines):
    """Keeps what could not be delivered, in the file that GIVEN_BACK names, if it is set."""
    if path := os.environ.get("GIVEN_BACK"):
        with open(path, "a", encoding="utf-8") as file:
            file.writelines(line + "\n" for line in lines)


def give_back(rows):
    counts["rows_given_back"] += len(rows)
    keep(json.dumps(row) for row in rows)


def run(upload, lines=lambda text: text.split("\n")):
    """Pulls, and prints what the function would say at its end."""
    try:
        pull(upload, lines)
    except Exception as error:
        failed(error)
    print(json.dumps(counts | {"errors": len(errors), "first_error": (errors or [None])[0]}))
