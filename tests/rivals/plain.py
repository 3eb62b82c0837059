"""A plain function: the rows of a file are cut into requests of about 1 MB and posted one after the
other, without compression. 429, 500 and 503 are tried three times; rows that are refused with a 400
are kept; anything else fails the file."""

import json
import time

import requests

import source

CHUNK_BYTES = 1_000_000
ATTEMPTS = 3
# 30 s in the Function App that Mimecast publishes; it changes no count.
PAUSE = 1

session = requests.Session()


def monitor_token():
    reply = requests.get(
        source.env("IDENTITY_ENDPOINT"),
        params={"api-version": "2019-08-01", "resource": "https://monitor.azure.com"},
        headers={"X-IDENTITY-HEADER": source.env("IDENTITY_HEADER")},
        timeout=source.TIMEOUT,
    )
    reply.raise_for_status()
    return reply.json()["access_token"]


def chunks(rows):
    chunk, size = [], 2
    for row in rows:
        text = json.dumps(row)
        if chunk and size + len(text) + 1 > CHUNK_BYTES:
            yield chunk
            chunk, size = [], 2
        chunk.append(text)
        size += len(text) + 1
    if chunk:
        yield chunk


def post(texts):
    url = (
        f"{source.env('LOGS_INGESTION_ENDPOINT')}/dataCollectionRules/"
        f"{source.env('LOGS_INGESTION_RULE_ID')}/streams/{source.env('LOGS_INGESTION_STREAM')}"
    )
    for _ in range(ATTEMPTS):
        reply = session.post(
            url,
            params={"api-version": "2023-01-01"},
            headers={"Content-Type": "application/json", "Authorization": "Bearer " + token},
            data="[" + ",".join(texts) + "]",
            timeout=source.TIMEOUT,
        )
        if reply.status_code not in (429, 500, 503):
            break
        time.sleep(PAUSE)
    if reply.status_code == 400:
        source.failed(f"400: {reply.text}")
        source.give_back([json.loads(text) for text in texts])
        return
    reply.raise_for_status()


def upload(rows):
    for texts in chunks(rows):
        post(texts)


token = monitor_token()
# As that Function App does; it also cuts at U+2028 and its kind, which may stand in a subject.
source.run(upload, str.splitlines)
