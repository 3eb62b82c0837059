// What runs leave under CHECKPOINT_URL, written by hand: the run history and quarantine. All times
// are so long before now, since the program compares them with the clock.
import { createHash } from 'node:crypto';
import { mkdirSync, writeFileSync } from 'node:fs';
import { dirname, join } from 'node:path';

const MINUTE = 60_000;
const HOUR = 60 * MINUTE;

/** A time so many minutes ago. */
export const ago = minutes => new Date(Date.now() - minutes * MINUTE).toISOString();

/** Writes an object of a store. */
export function put(folder, name, value) {
  const path = join(folder, name);
  mkdirSync(dirname(path), { recursive: true });
  writeFileSync(path, `${JSON.stringify(value)}\n`);
}

/** A run that began so many minutes ago, took one minute, and did this for each stream. */
export function run(minutes, streams) {
  return {
    run_id: createHash('md5').update(`${minutes}`).digest('hex'),
    version: '0.1.0',
    started_at: ago(minutes),
    ends_by: ago(minutes - 1),
    finished_at: ago(minutes - 1),
    streams: Object.entries(streams).map(([stream, record]) => ({ stream, ...record })),
  };
}

/** Runs of every hour of the last 30 days but the last three hours, with a tenant's days and nights:
 *  `of(rows)` is what they did. */
export function month(of) {
  const runs = [];
  for (let hour = 30 * 24 - 2; hour >= 3; hour--) {
    const at = new Date(Date.now() - hour * HOUR);
    const works = at.getUTCDay() % 6 === 0 ? 0.15 : 1;
    const day = Math.max(0, Math.sin(((at.getUTCHours() - 5) / 14) * Math.PI));
    runs.push(run(hour * 60, of(Math.round(works * (40 + 2_000 * day)))));
  }
  return runs;
}

/** Writes the run history. */
export function history(folder, runs) {
  const days = {};
  for (const run of runs) (days[run.started_at.slice(0, 10)] ??= []).push(run);
  for (const [day, runs] of Object.entries(days)) {
    put(folder, `runs/cloud-integrated/${day}.json`, { runs });
  }
}

/** Puts a line into quarantine. */
export function quarantine(folder, stream, line, reason) {
  const file = 'https://files.example/one.json.gz';
  const hash = createHash('sha256').update(file).digest('hex').slice(0, 32);
  const event_id = createHash('md5').update(`${line}`).digest('hex');
  const record = { stream, file, line, event_id, reason, detail: '', delivered: false, original: '{}' };
  const name = `${String(line).padStart(10, '0')}-${event_id}.json`;
  put(folder, `quarantine/${stream}/${hash}/${name}`, record);
}
