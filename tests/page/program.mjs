// The real binary, with nothing in its environment but what it is given.
import { spawn, spawnSync } from 'node:child_process';
import { createInterface } from 'node:readline';

const [, , PROGRAM] = process.argv;

/** The page that `status --html` writes of this folder, as a file. */
export function saved(folder, file) {
  const { status, stderr } = spawnSync(PROGRAM, ['status', '--html', file], {
    env: { CHECKPOINT_URL: folder }, encoding: 'utf8',
  });
  // 1 and 3: streams that need attention.
  if (![0, 1, 3].includes(status)) throw new Error(`status ended with ${status}: ${stderr}`);
  return `file://${file}`;
}

/** Starts `serve` with the page on a free port. It runs in half a year, so that no run comes between. */
export async function serve(folder, other) {
  const month = ((new Date().getUTCMonth() + 6) % 12) + 1;
  const env = {
    LISTEN: '127.0.0.1:0', CHECKPOINT_URL: folder, SCHEDULE: `0 0 0 1 ${month} *`,
    MIMECAST_BASE_URL: other, MIMECAST_CLIENT_ID: 'AbC123', MIMECAST_CLIENT_SECRET: 'secret',
    LOGS_INGESTION_ENDPOINT: other, LOGS_INGESTION_RULE_ID: `dcr-${'0123456789abcdef'.repeat(2)}`,
    IDENTITY_ENDPOINT: `${other}/identity`, IDENTITY_HEADER: 'header',
  };
  const child = spawn(PROGRAM, ['serve'], { env, stdio: ['ignore', 'pipe', 'pipe'] });
  let errors = '';
  child.stderr.on('data', text => { errors += text; });
  for await (const line of createInterface({ input: child.stdout })) {
    const at = /the status page is at (http:\S+)\/,/.exec(line)?.[1];
    if (at) {
      child.stdout.resume();
      return { at, stop: () => child.kill() };
    }
  }
  throw new Error(`serve ended before it listened: ${errors}`);
}
