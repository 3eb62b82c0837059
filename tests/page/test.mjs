// Tests the status page in a real browser: `node test.mjs PROGRAM CHROMIUM [FOLDER]`. With a folder it
// puts screenshots there. Prints "ok …" or "FAIL …" for each test.
import assert from 'node:assert/strict';
import { createServer } from 'node:http';
import { mkdirSync, mkdtempSync, rmSync } from 'node:fs';
import { once } from 'node:events';
import { createRequire } from 'node:module';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { pathToFileURL } from 'node:url';
import { chromium } from 'playwright-core';
import { IMAGE, SCRIPT, first_day, hostile, month_and_trouble, wrong } from './pages.mjs';
import { gate, peer, works } from './peer.mjs';
import { saved, serve } from './program.mjs';

const [, , , CHROMIUM, SHOTS] = process.argv;
const AXE = createRequire(import.meta.url).resolve('axe-core/axe.min.js');
const PHONE = { width: 320, height: 640 };
const DESKTOP = { width: 1280, height: 800 };
const EVERY_LOOK = ['light', 'dark'].flatMap(scheme => [PHONE, DESKTOP].map(viewport => ({ scheme, viewport })));

const scratch = mkdtempSync(join(tmpdir(), 'status-page-'));
const browser = await chromium.launch({
  executablePath: CHROMIUM,
  args: ['--no-sandbox', '--disable-gpu', '--disable-quic', '--no-first-run',
    '--disable-background-networking', '--disable-component-update', '--disable-sync',
    // A name that somebody else has made to lead to this machine.
    '--host-resolver-rules=MAP rebound.example 127.0.0.1'],
});
/** What a test has started. */
const running = [];
process.on('exit', () => running.forEach(({ stop }) => stop()));
// Whatever hangs ends here.
setTimeout(() => { console.log('FAIL it takes longer than 10 minutes'); process.exit(1); }, 600_000).unref();

/** A folder in which `fill` has put what runs leave. */
function store(name, fill) {
  const folder = join(scratch, name);
  mkdirSync(folder, { recursive: true });
  fill?.(folder);
  return folder;
}

/** `serve`, whose other side answers so. */
async function served(name, { fill, answer } = {}) {
  const other = await peer(answer);
  running.push(other);
  const program = await serve(store(name, fill), other.at);
  running.push(program);
  return program.at;
}

/** A tab, and what it should not have done: requests to elsewhere, console messages, dialogs. */
async function tab({ scheme = 'light', viewport = DESKTOP, ...options } = {}) {
  const context = await browser.newContext({ colorScheme: scheme, viewport, ...options });
  context.setDefaultTimeout(20_000);
  const page = await context.newPage();
  const requests = [], odd = [];
  context.on('request', request => requests.push(`${request.method()} ${request.url()}`));
  page.on('console', message => odd.push(`console: ${message.text()}`));
  page.on('pageerror', error => odd.push(`error: ${error}`));
  page.on('dialog', dialog => { odd.push(`dialog: ${dialog.message()}`); dialog.dismiss(); });
  page.on('popup', () => odd.push('popup'));
  return { page, requests, odd };
}

/** What axe-core has against the page, a line each. */
async function violations(page) {
  await page.addScriptTag({ path: AXE });
  const { violations } = await page.evaluate(() => globalThis.axe.run());
  return violations.flatMap(({ id, nodes }) => nodes.map(node => `${id}: ${node.html} ${node.failureSummary}`));
}

/** A page as it must be in every look. axe-core is a script, which the page's policy forbids. */
async function assert_usable(name, at, act = async () => {}) {
  for (const { scheme, viewport } of EVERY_LOOK) {
    const { page } = await tab({ scheme, viewport, bypassCSP: true });
    await page.goto(at);
    await act(page);
    const look = `${name}-${scheme}-${viewport.width}`;
    if (SHOTS) await page.screenshot({ path: join(SHOTS, `${look}.png`), fullPage: true });
    const width = await page.evaluate(() => document.documentElement.scrollWidth);
    assert.ok(width <= viewport.width, `${look}: ${width} px wide`);
    assert.deepEqual(await violations(page), [], look);
    await page.context().close();
  }
}

async function press_tab_to(page, selector) {
  for (let presses = 0; presses < 40; presses++) {
    await page.keyboard.press('Tab');
    const focused = page.locator(`${selector}:focus`);
    if (await focused.count() === 1) return focused;
  }
  assert.fail(`Tab does not reach ${selector}`);
}

const outline = focused => focused.evaluate(element => {
  const { outlineStyle, outlineWidth, outlineColor } = getComputedStyle(element);
  const behind = getComputedStyle(document.body).backgroundColor;
  return outlineStyle === 'solid' && parseInt(outlineWidth) >= 2 && outlineColor !== behind;
});

const tests = {
  async 'the page asks for nothing but itself, and says nothing in the console'() {
    const at = await served('quiet', { fill: month_and_trouble });
    const file = saved(store('quiet-file', month_and_trouble), join(scratch, 'quiet.html'));
    for (const url of [`${at}/`, file]) {
      const { page, requests, odd } = await tab();
      await page.goto(url, { waitUntil: 'networkidle' });
      assert.deepEqual([requests, odd], [[`GET ${url}`], []]);
    }
  },

  async 'all five states are shown, the worst first, with the reason and what to do'() {
    const { page } = await tab();
    const states = async () => (await page.locator('section h2').allInnerTexts());
    await page.goto(saved(store('trouble', month_and_trouble), join(scratch, 'trouble.html')));
    assert.deepEqual(await states(), ['urlclick ✗ Disconnected', 'mailflow ! Degraded', 'entities ✓ Connected']);
    assert.equal(await page.title(), 'Mimecast connector: needs attention');
    const disconnected = await page.getByRole('region', { name: 'urlclick' }).innerText();
    for (const said of ['(403) ingestion-forbidden', 'What to do: give the identity the role', 'Last success\n']) {
      assert.ok(disconnected.includes(said), `${said}: ${disconnected}`);
    }
    const degraded = await page.getByRole('region', { name: 'mailflow' }).innerText();
    assert.ok(degraded.includes('4 (1 not-json, 3 row-refused)'), degraded);

    await page.goto(saved(store('first', first_day), join(scratch, 'first.html')));
    assert.deepEqual(await states(), ['mailflow ✗ Unavailable', 'urlclick ✗ Unavailable', 'entities … Connecting']);
  },

  async 'charts say their numbers in words, and each number in a table'() {
    const { page } = await tab();
    await page.goto(saved(store('charts', month_and_trouble), join(scratch, 'charts.html')));
    const entities = page.getByRole('region', { name: 'entities' });
    const chart = entities.getByRole('img', { name: 'Rows of the last 24 hours' });
    assert.match(await chart.getAttribute('aria-label'), /: [\d\u202f]+, at most 5\u202f012 in one hour$/);
    assert.equal(await entities.getByRole('img', { name: 'Rows of the last 30 days' }).count(), 1);
    const table = entities.getByRole('table').first();
    assert.equal(await table.isVisible(), false);
    await entities.getByText('By hour').click();
    const numbers = await table.locator('td').allInnerTexts();
    assert.deepEqual([numbers.length, numbers[0], numbers[1]], [24, '5\u202f012', '0']);
  },

  async 'it can be read on a phone and by a screen reader, in dark and in light'() {
    await assert_usable('trouble', `${await served('usable', { fill: month_and_trouble })}/`,
      page => page.evaluate(() => { document.querySelector('details').open = true; }));
    await assert_usable('first', saved(store('usable-first', first_day), join(scratch, 'usable.html')));
    await assert_usable('none', `${await served('usable-none')}/`);
  },

  async 'wrong data and words without an end do not break it'() {
    for (const [name, fill] of Object.entries({ hostile, wrong })) {
      await assert_usable(name, saved(store(`usable-${name}`, fill), join(scratch, `usable-${name}.html`)));
    }
  },

  async 'HTML from outside is shown as text, and does not run'() {
    const folder = store('<script>window.ran=true</script>', hostile);
    const file = saved(pathToFileURL(folder).href, join(scratch, 'hostile.html'));
    const answer = path => path.startsWith('/oauth/token')
      ? [400, { error: 'no', error_description: `token ${SCRIPT} ${IMAGE}` }] : works(path);
    const at = await served('hostile', { fill: hostile, answer });
    const { page, odd } = await tab();
    const texts = ['code', 'message', 'fix', 'held up', 'command', 'reason', 'message before', 'code before'];
    for (const url of [file, `${at}/`]) {
      await page.goto(url);
      const shown = await page.innerText('main');
      for (const place of texts) assert.ok(shown.includes(`${place} ${SCRIPT} ${IMAGE}`), place);
    }
    await page.goto(file);
    assert.match(await page.innerText('header'), /\/<script>window\.ran=true<\/script>/);

    await page.goto(`${at}/`);
    await page.getByRole('button').click();
    const failed = await page.locator('.fail').innerText();
    assert.ok(failed.includes(`token ${SCRIPT} ${IMAGE}`), failed);
    assert.deepEqual([await page.evaluate(() => window.ran), odd], [undefined, []]);
  },

  async 'the policy stands in the header and in the page, and no script runs'() {
    const at = await served('policy');
    const file = saved(store('policy-file'), join(scratch, 'policy.html'));
    const { page } = await tab();
    const header = (await page.goto(`${at}/`)).headers()['content-security-policy'];
    for (const part of ["default-src 'none'", "form-action 'self'", "base-uri 'none'", "frame-ancestors 'none'"]) {
      assert.ok(header.split('; ').includes(part), header);
    }
    assert.doesNotMatch(header, /unsafe|script-src|https?:/);
    for (const url of [`${at}/`, file]) {
      await page.goto(url);
      const meta = await page.getAttribute('meta[http-equiv=Content-Security-Policy]', 'content');
      assert.equal(`${meta}; frame-ancestors 'none'`, header);
      const directive = await page.evaluate(() => new Promise(resolve => {
        document.addEventListener('securitypolicyviolation', event => resolve(event.effectiveDirective));
        const script = document.createElement('script');
        script.textContent = 'window.ran = true';
        document.body.append(script);
      }));
      assert.deepEqual([directive, await page.evaluate(() => window.ran)], ['script-src-elem', undefined]);
    }
  },

  async 'by keyboard: Tab reaches links, the button and the numbers, and is seen; Enter tests'() {
    const at = await served('keyboard', { fill: month_and_trouble });
    for (const scheme of ['light', 'dark']) {
      const { page } = await tab({ scheme });
      await page.goto(`${at}/`);
      for (const selector of ['nav a', 'button', 'summary']) {
        assert.ok(await outline(await press_tab_to(page, selector)), `${selector} in ${scheme}`);
      }
      await page.keyboard.press('Enter');
      assert.ok(await page.locator('table').first().isVisible());
    }
    const { page } = await tab();
    await page.goto(`${at}/`);
    await press_tab_to(page, 'button');
    await page.keyboard.press('Enter');
    await page.getByRole('heading', { name: 'Connection test' }).waitFor();
  },

  async 'verdicts are shown as they come'() {
    const { opened, open } = gate();
    const answer = async path => {
      if (path.startsWith('/oauth/token')) await opened;
      return works(path);
    };
    const { page, requests, odd } = await tab({ viewport: PHONE });
    const at = `${await served('verdicts', { answer })}/?code=key`;
    await page.goto(at);
    await page.getByRole('button', { name: 'Test connection' }).click({ noWaitAfter: true });
    const lines = page.locator('.rungs li');
    await lines.filter({ hasText: 'clock' }).waitFor();
    const rungs = () => lines.locator('strong').allInnerTexts();
    // The answer is still coming: its last line waits for what is held back here.
    assert.equal((await rungs()).includes('mimecast/token'), false);
    assert.equal(await page.evaluate(() => document.readyState), 'loading');
    const before = await lines.count();
    open();
    await page.getByText(/^Done: /).waitFor();
    assert.ok(before > 0 && await lines.count() > before);
    assert.ok((await rungs()).includes('azure/stream/Custom-Cloud_Integrated'));
    // Back to the status, at the address with its key.
    await page.getByRole('link', { name: 'Show the status' }).click();
    await page.getByRole('heading', { name: 'entities' }).waitFor();
    assert.deepEqual([requests, odd], [[`GET ${at}`, `POST ${at}`, `GET ${at}`], []]);
  },

  async 'a second test within a minute is refused, and says so'() {
    const at = await served('twice');
    const { page } = await tab();
    for (const expected of [200, 429]) {
      await page.goto(`${at}/`);
      const [response] = await Promise.all([page.waitForNavigation(), page.getByRole('button').click()]);
      assert.equal(response.status(), expected);
    }
    assert.match(await page.innerText('main'), /tested a short while ago\. It can be tested again in \d+ seconds\./);
    await assert_usable('refused', `${at}/`, async page => {
      await page.getByRole('button').click();
      await page.getByText('tested a short while ago').waitFor();
    });
  },

  async 'the verdicts can be read on a phone and by a screen reader, in dark and in light'() {
    const answer = path => path.startsWith('/dataCollectionRules/')
      ? [403, { error: { code: 'OperationFailed', message: 'x'.repeat(500) } }] : works(path);
    // Each look needs a program of its own: a test a minute.
    for (const { scheme, viewport } of EVERY_LOOK) {
      const { page } = await tab({ scheme, viewport, bypassCSP: true });
      await page.goto(`${await served(`look-${scheme}-${viewport.width}`, { answer })}/`);
      await page.getByRole('button').click();
      await page.getByText(/^Done: 1 fail, /).waitFor();
      if (SHOTS) await page.screenshot({ path: join(SHOTS, `verdicts-${scheme}-${viewport.width}.png`), fullPage: true });
      assert.ok(await page.evaluate(() => document.documentElement.scrollWidth) <= viewport.width);
      assert.deepEqual(await violations(page), []);
    }
  },

  async 'another page cannot test the connection'() {
    const at = await served('foreign');
    const foreign = createServer((_, response) => response.setHeader('content-type', 'text/html')
      .end(`<form method="post" action="${at}/"><button>win</button></form>`)).listen(0, '127.0.0.1');
    await once(foreign, 'listening');
    running.push({ stop: () => { foreign.closeAllConnections(); foreign.close(); } });
    const { page } = await tab();
    await page.goto(`http://127.0.0.1:${foreign.address().port}/`);
    const [response] = await Promise.all([page.waitForNavigation(), page.getByRole('button').click()]);
    assert.equal(response.status(), 403);
    assert.match(await page.innerText('body'), /can be tested from the status page alone/);
    // Nothing was tested: this page may.
    await page.goto(`${at}/`);
    const [own] = await Promise.all([page.waitForNavigation(), page.getByRole('button').click()]);
    assert.equal(own.status(), 200);
  },

  async 'a name that leads to this machine does not show the page'() {
    const at = await served('rebound');
    const { page } = await tab();
    const rebound = await page.goto(`${at.replace('127.0.0.1', 'rebound.example')}/`);
    assert.equal(rebound.status(), 403);
    assert.equal((await page.goto(`${at.replace('127.0.0.1', 'localhost')}/`)).status(), 200);
  },

  async '/healthz says that it works'() {
    const { page } = await tab();
    const response = await page.goto(`${await served('health')}/healthz`);
    assert.deepEqual([response.status(), await response.text()], [200, 'ok\n']);
  },
};

for (const [name, test] of Object.entries(tests)) {
  try {
    await test();
    console.log(`ok   ${name}`);
  } catch (error) {
    console.log(`FAIL ${name}\n     ${error.message.replaceAll('\n', '\n     ')}`);
  }
  for (const context of browser.contexts()) await context.close();
  for (const { stop } of running.splice(0)) stop();
}
await browser.close();
rmSync(scratch, { recursive: true });
