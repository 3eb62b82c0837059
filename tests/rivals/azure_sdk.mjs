// Microsoft's `@azure/monitor-ingestion` for Node.js, used as its page shows. It reads Mimecast as
// `source.py` does, and says the same at the end.

import fs from "node:fs";
import { gunzipSync } from "node:zlib";
import { ManagedIdentityCredential } from "@azure/identity";
import { LogsIngestionClient, isAggregateLogsUploadError } from "@azure/monitor-ingestion";

const env = process.env;
const counts = { events: 0, lines_not_json: 0, files: 0, files_failed: 0, rows_given_back: 0 };
const errors = [];
const failed = (error) => errors.push(`${error.message ?? error}`.slice(0, 200));

async function answer(url, options) {
  const reply = await fetch(url, options);
  if (!reply.ok) throw new Error(`${reply.status} from ${new URL(url).pathname}`);
  return reply;
}

async function accessToken() {
  const reply = await answer(`${env.MIMECAST_BASE_URL}/oauth/token`, {
    method: "POST",
    body: new URLSearchParams({
      client_id: env.MIMECAST_CLIENT_ID,
      client_secret: env.MIMECAST_CLIENT_SECRET,
      grant_type: "client_credentials",
    }),
  });
  return (await reply.json()).access_token;
}

async function download(url) {
  const file = Buffer.from(await (await answer(url)).arrayBuffer());
  const events = [];
  for (const line of gunzipSync(file).toString("utf8").split("\n")) {
    if (!line.trim()) continue;
    try {
      events.push(JSON.parse(line));
    } catch {
      counts.lines_not_json += 1;
    }
  }
  return events;
}

const client = new LogsIngestionClient(
  env.LOGS_INGESTION_ENDPOINT,
  new ManagedIdentityCredential(),
);

async function upload(rows) {
  try {
    await client.upload(env.LOGS_INGESTION_RULE_ID, env.LOGS_INGESTION_STREAM, rows);
  } catch (e) {
    if (!isAggregateLogsUploadError(e)) throw e;
    for (const error of e.errors) {
      failed(error.cause);
      counts.rows_given_back += error.failedLogs.length;
      if (env.GIVEN_BACK) {
        const lines = error.failedLogs.map((row) => `${JSON.stringify(row)}\n`);
        fs.appendFileSync(env.GIVEN_BACK, lines.join(""));
      }
    }
  }
}

async function fileIsDone(url) {
  for (let attempt = 0; attempt < 2; attempt += 1) {
    try {
      const events = await download(url);
      await upload(events);
      counts.events += events.length;
      return true;
    } catch (error) {
      failed(error);
    }
  }
  counts.files_failed += 1;
  return false;
}

async function pull() {
  const headers = { Authorization: `Bearer ${await accessToken()}`, "Accept-Encoding": "gzip" };
  const kept = env.STATE && fs.existsSync(env.STATE);
  const tokens = kept ? JSON.parse(fs.readFileSync(env.STATE, "utf8")) : {};
  for (const stream of ["entities", "mailflow", "urlclick"]) {
    for (;;) {
      const query = new URLSearchParams({ type: stream, pageSize: "10" });
      if (tokens[stream]) query.set("nextPage", tokens[stream]);
      const url = `${env.MIMECAST_BASE_URL}/siem/v1/batch/events/ci?${query}`;
      const page = await (await answer(url, { headers })).json();
      const urls = (page.value ?? []).map((entry) => entry.url);
      if (urls.length === 0) break;
      counts.files += urls.length;
      let done = 0;
      for (const url of urls) done += await fileIsDone(url);
      if (done === 0) {
        failed(`no file of a page of ${stream} could be ingested`);
        break;
      }
      tokens[stream] = page["@nextPage"];
      if (env.STATE) fs.writeFileSync(env.STATE, JSON.stringify(tokens));
    }
  }
}

await pull().catch(failed);
console.log(JSON.stringify({ ...counts, errors: errors.length, first_error: errors[0] ?? null }));
