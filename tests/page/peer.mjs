// The other side on loopback: Mimecast, the managed identity and the ingestion endpoint, as far as a
// connection test asks them.
import { createServer } from 'node:http';
import { once } from 'node:events';

/** Listens on a free port. `answer` is given the path, and says the status and body; none: all works. */
export async function peer(answer = works) {
  const server = createServer(async (request, response) => {
    const [status, body] = await answer(request.url);
    response.writeHead(status, { 'content-type': 'application/json' }).end(JSON.stringify(body));
  });
  server.listen(0, '127.0.0.1');
  await once(server, 'listening');
  const stop = () => { server.closeAllConnections(); server.close(); };
  return { at: `http://127.0.0.1:${server.address().port}`, stop };
}

/** A side on which nothing is wrong. */
export function works(path) {
  if (path.startsWith('/oauth/token')) return [200, { access_token: 'token', expires_in: 1800 }];
  if (path.startsWith('/identity')) {
    const expires_on = `${Math.floor(Date.now() / 1000) + 3600}`;
    return [200, { access_token: 'token', token_type: 'Bearer', expires_on, resource: 'monitor' }];
  }
  if (path.startsWith('/siem/')) return [200, { value: [], '@nextPage': 'next', isCaughtUp: true }];
  return path.startsWith('/dataCollectionRules/') ? [204] : [404, {}];
}

/** Holds an answer back until it is let go. */
export function gate() {
  let open;
  const opened = new Promise(resolve => { open = resolve; });
  return { opened, open };
}
