// The stores whose status the tests look at.
import { mkdirSync, writeFileSync } from 'node:fs';
import { join } from 'node:path';
import { ago, history, month, put, quarantine, run } from './store.mjs';

/** What would run if it were not shown as text. */
export const SCRIPT = '<script>window.ran = true</script>';
export const IMAGE = '"><img src=x onerror="window.ran = true">';

const FILE = 'https://files.example/siem/mailflow/2026/11/29/part-00017-3f2a.json.gz';
const fault = (code, message, fix, person) => ({ code, message, fix, person });

/** Connected, Degraded and Disconnected, after a month of work. */
export function month_and_trouble(folder) {
  const forbidden = fault('ingestion-forbidden',
    'Azure does not let this identity post to rule dcr-0123456789abcdef0123456789abcdef (403)',
    'give the identity the role Monitoring Metrics Publisher on that data collection rule, or wait: a new role takes up to 30 minutes',
    true);
  history(folder, [
    ...month(rows => ({
      entities: { outcome: 'caught_up', rows_delivered: rows, newest_event: ago(240) },
      mailflow: { outcome: 'caught_up', rows_delivered: 3 * rows },
      urlclick: { outcome: 'caught_up', rows_delivered: Math.floor(rows / 10) },
    })),
    run(95, { urlclick: { outcome: 'failed', error: forbidden } }),
    run(20, { mailflow: { outcome: 'caught_up', rows_delivered: 300 } }),
    run(7, {
      entities: { outcome: 'caught_up', rows_delivered: 5_012, newest_event: ago(12) },
      mailflow: {
        outcome: 'failed', rows_delivered: 90, newest_event: ago(190),
        held_up: {
          what: `file ${FILE}`, since: ago(600), tries: 41, passed_at: ago(-840),
          command: 'mimecast-sentinel skip mailflow',
        },
        error: fault('file-forbidden', `the host of ${FILE} refuses it (403)`,
          'the other files go on; `mimecast-sentinel skip mailflow` passes it at once', false),
      },
      urlclick: { outcome: 'failed', newest_event: ago(220), error: forbidden },
    }),
  ]);
  for (const line of [1, 2, 3]) quarantine(folder, 'mailflow', line, 'row-refused');
  quarantine(folder, 'mailflow', 4, 'not-json');
}

/** Connecting, Unavailable after a failure, and Unavailable without a run. */
export function first_day(folder) {
  history(folder, [
    run(7, {
      entities: { outcome: 'time_limit', rows_delivered: 312_345, newest_event: ago(6 * 24 * 60) },
      mailflow: {
        outcome: 'failed',
        error: fault('mimecast-credentials', 'Mimecast refuses the client credentials (401)',
          'check MIMECAST_CLIENT_ID and MIMECAST_CLIENT_SECRET', true),
      },
    }),
  ]);
}

/** Text from outside that is HTML, in all places that it can come to, and words without an end. */
export function hostile(folder) {
  const word = 'x'.repeat(500);
  const text = place => `${place} ${SCRIPT} ${IMAGE} ${word}`;
  const error = fault(text('code'), text('message'), text('fix'), true);
  const before = fault(text('code before'), text('message before'), text('fix before'), true);
  history(folder, [
    run(60, { mailflow: { outcome: 'failed', error: before } }),
    run(30, { mailflow: { outcome: 'caught_up', rows_delivered: 1 } }),
    run(7, {
      entities: {
        outcome: 'failed', error,
        held_up: { what: text('held up'), since: ago(600), tries: 1, passed_at: null, command: text('command') },
      },
      mailflow: { outcome: 'caught_up' },
    }),
  ]);
  quarantine(folder, 'entities', 1, text('reason'));
}

/** Objects that no run writes. */
export function wrong(folder) {
  history(folder, [
    // Later than now, longer than any day, without an outcome, and of a stream that is not there.
    run(-600, { entities: { outcome: 'caught_up', rows_delivered: 9e18, newest_event: ago(-9_000) } }),
    run(7, { entities: {}, mailflow: { outcome: 'failed' }, [SCRIPT]: { outcome: 'caught_up' } }),
  ]);
  mkdirSync(join(folder, 'runs/cloud-integrated'), { recursive: true });
  writeFileSync(join(folder, `runs/cloud-integrated/${ago(3 * 24 * 60).slice(0, 10)}.json`), SCRIPT);
  put(folder, 'checkpoints/urlclick.json', SCRIPT);
  put(folder, 'quarantine/urlclick/0/0.json', SCRIPT);
}
