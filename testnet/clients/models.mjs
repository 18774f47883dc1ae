// The official libraries of OpenAI and Anthropic against a node's loopback address, with
// nothing changed but the base URL and the key.
import assert from 'node:assert/strict';
import Anthropic from '@anthropic-ai/sdk';
import OpenAI from 'openai';

const { TALOS_URL, TALOS_TOKEN } = process.env;
const openai = new OpenAI({ baseURL: `${TALOS_URL}/v1`, apiKey: TALOS_TOKEN, maxRetries: 0 });
const user = (content) => [{ role: 'user', content }];

const models = await openai.models.list();
assert.deepEqual(models.data.map((m) => m.id).sort(), ['claude-echo', 'echo-1']);

const whole = await openai.chat.completions.create({ model: 'echo-1', messages: user('a b c') });
assert.equal(whole.choices[0].message.content, 'echo: a b c');
assert.equal(whole.usage.total_tokens, 7);

let text = '';
let usage;
const stream = await openai.chat.completions.create({
  model: 'echo-1', messages: user([{ type: 'text', text: 'a b c' }]), stream: true, stream_options: { include_usage: true },
  tools: [{ type: 'function', function: { name: 'f', parameters: { type: 'object' } } }],
});
for await (const chunk of stream) {
  text += chunk.choices[0]?.delta.content ?? '';
  usage = chunk.usage ?? usage;
}
assert.equal(text, 'echo: a b c');
assert.equal(usage.completion_tokens, 4);

const helper = await openai.chat.completions.stream({ model: 'echo-1', messages: user('x') }).finalChatCompletion();
assert.equal(helper.choices[0].message.content, 'echo: x');

const embedding = await openai.embeddings.create({ model: 'echo-1', input: 'a b', encoding_format: 'float' });
assert.deepEqual(embedding.data[0].embedding, [0.25, -0.5]);

const response = await openai.responses.create({ model: 'echo-1', input: 'a b' });
assert.equal(response.output_text, 'echo: a b');
const events = [];
for await (const e of await openai.responses.create({ model: 'echo-1', input: 'a b', stream: true })) events.push(e.type);
assert.equal(events.at(-1), 'response.completed');

await assert.rejects(openai.chat.completions.create({ model: 'echo-2', messages: user('x') }), (e) => e.status === 404 && e.code === 'UNKNOWN_TOOL' && /did you mean echo-1/.test(e.message));
await assert.rejects(openai.chat.completions.create({ model: 'echo-1', messages: user('x'), service_tier: 'priority' }), (e) => e.status === 403 && e.code === 'CONSTRAINT_VIOLATION');
await assert.rejects(new OpenAI({ baseURL: `${TALOS_URL}/v1`, apiKey: 'wrong', maxRetries: 0 }).models.list(), (e) => e.status === 401);

// A stream that its reader leaves.
const left = await openai.chat.completions.create({ model: 'echo-1', messages: user('count 100000'), stream: true, max_tokens: 100000 });
for await (const chunk of left) { if (chunk.choices[0]?.delta.content) break; }
left.controller.abort();

const anthropic = new Anthropic({ baseURL: TALOS_URL, apiKey: TALOS_TOKEN, maxRetries: 0 });
const message = await anthropic.messages.create({ model: 'claude-echo', max_tokens: 50, messages: user('a b') });
assert.equal(message.content[0].text, 'echo: a b');
const final = await anthropic.messages.stream({ model: 'claude-echo', max_tokens: 50, messages: user('a b') }).finalMessage();
assert.equal(final.content[0].text, 'echo: a b');
assert.equal(final.usage.output_tokens, 3);
await assert.rejects(anthropic.messages.create({ model: 'claude-ech', max_tokens: 5, messages: user('x') }), (e) => e.status === 404);
console.log('models: all as it should be');
