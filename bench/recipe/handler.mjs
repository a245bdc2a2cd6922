// OpenMeter's published recipe for Stripe, mended so that it works, as a Node handler.
//
// For each webhook: verify it, find the Stripe subscription of its subject (there a database, here a
// map in memory), list the subscription's items, find the one whose price is configured for the
// meter, and create a usage record for each entry: quantity = value, action `set`.
//
// Mended, because as printed it bills nothing or something wrong: the body is parsed; the item list
// is asked for a hundred; each record has an idempotency key of its own; entries of one window
// (groups) are added up first, since `set` would keep only the last of them; the timestamp is a
// second before the window's end, so that a window that ends with the period is billed in it; a
// fraction is rounded, since Stripe refuses it; an error is answered 500, so that Svix sends again.
//
//   node handler.mjs CONFIG     says {"port": …}, and ends when its standard input does
import { readFileSync } from 'node:fs';
import { createServer } from 'node:http';
import Stripe from 'stripe';
import { Webhook } from 'svix';

const config = JSON.parse(readFileSync(process.argv[2], 'utf8'));
const stripe = new Stripe(config.stripeKey, {
  apiVersion: '2025-02-24.acacia',
  host: config.stripeHost,
  port: config.stripePort,
  protocol: 'http',
  telemetry: false,
});
const webhook = new Webhook(config.secret);

async function report(svixId, message) {
  const subscription = config.subscriptions[message.query.subject];
  const items = await stripe.subscriptionItems.list({ subscription, limit: 100 });
  const item = items.data.find((found) => found.price.id === config.prices[message.meter.slug]);
  if (item === undefined) throw new Error(`no item for ${message.meter.slug}`);
  const quantities = new Map();
  for (const { value, windowEnd } of message.usage) {
    const timestamp = Date.parse(windowEnd) / 1000 - 1;
    quantities.set(timestamp, (quantities.get(timestamp) ?? 0) + value);
  }
  for (const [timestamp, quantity] of quantities) {
    await stripe.subscriptionItems.createUsageRecord(
      item.id,
      { quantity: Math.round(quantity), timestamp, action: 'set' },
      { idempotencyKey: `${svixId}-${timestamp}` },
    );
  }
}

async function handle(request) {
  const chunks = [];
  for await (const chunk of request) chunks.push(chunk);
  const body = Buffer.concat(chunks).toString('utf8');
  try {
    webhook.verify(body, request.headers);
  } catch {
    return 401;
  }
  const message = JSON.parse(body);
  if (message.type !== 'report.meter') return 400;
  try {
    await report(request.headers['svix-id'], message);
    return 200;
  } catch {
    return 500;
  }
}

const server = createServer(async (request, response) => {
  response.statusCode = await handle(request);
  response.setHeader('Content-Type', 'application/json');
  response.end('{}');
});
server.listen(0, '127.0.0.1', () => console.log(JSON.stringify({ port: server.address().port })));
process.stdin.on('end', () => process.exit()).resume();
