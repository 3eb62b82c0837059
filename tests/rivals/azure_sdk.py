"""Microsoft's `azure-monitor-ingestion` for Python, used as its page shows: one client, one list of
rows per upload, and a callback that collects the rows which failed."""

from azure.core.pipeline.policies import SansIOHTTPPolicy
from azure.identity import ManagedIdentityCredential
from azure.monitor.ingestion import LogsIngestionClient

import source

SCOPE = "https://monitor.azure.com//.default"


class PlainBearer(SansIOHTTPPolicy):
    """The client's own policy refuses plain http, which the bench uses."""

    def on_request(self, request):
        request.http_request.headers["Authorization"] = "Bearer " + credential.get_token(SCOPE).token


def on_error(error):
    source.failed(error.error)
    source.give_back(error.failed_logs)


def upload(rows):
    client.upload(
        rule_id=source.env("LOGS_INGESTION_RULE_ID"),
        stream_name=source.env("LOGS_INGESTION_STREAM"),
        logs=rows,
        on_error=on_error,
    )


credential = ManagedIdentityCredential()
endpoint = source.env("LOGS_INGESTION_ENDPOINT")
plain = {"authentication_policy": PlainBearer()} if endpoint.startswith("http:") else {}
client = LogsIngestionClient(endpoint=endpoint, credential=credential, **plain)
source.run(upload)
