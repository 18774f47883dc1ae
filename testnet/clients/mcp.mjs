// The official MCP client of TypeScript, over HTTP and over standard streams, uses the
// official file server (which runs on another node) and one of Go.
import assert from 'node:assert/strict';
import { Client } from '@modelcontextprotocol/sdk/client/index.js';
import { StdioClientTransport } from '@modelcontextprotocol/sdk/client/stdio.js';
import { StreamableHTTPClientTransport } from '@modelcontextprotocol/sdk/client/streamableHttp.js';

const { TALOS_URL, TALOS_TOKEN, TALOS_BINARY, TALOS_HOME, GATEWAY, FILE } = process.env;
const http = (server) => new StreamableHTTPClientTransport(new URL(`${TALOS_URL}/mcp/${GATEWAY}/${server}`), { requestInit: { headers: { Authorization: `Bearer ${TALOS_TOKEN}` } } });
const stdio = (server) => new StdioClientTransport({ command: TALOS_BINARY, args: ['mcp', 'connect', '--home', TALOS_HOME, `${GATEWAY}/${server}`] });

for (const [name, transport] of Object.entries({ http, stdio })) {
  const files = new Client({ name: 'test', version: '1' });
  await files.connect(transport('files'));
  const { tools } = await files.listTools();
  assert.deepEqual(tools.map((t) => t.name).sort(), ['list_directory', 'read_text_file'], `${name}: the tools`);
  const read = await files.callTool({ name: 'read_text_file', arguments: { path: FILE } });
  assert.equal(read.content[0].text, 'hello from the other node\n', `${name}: a file`);
  const outside = await files.callTool({ name: 'read_text_file', arguments: { path: '/etc/passwd' } });
  assert.equal(outside.isError, true, `${name}: a file that the server does not serve`);
  await assert.rejects(files.callTool({ name: 'write_file', arguments: { path: FILE, content: 'x' } }), /talos cap request|SCOPE_MISMATCH/, `${name}: a tool that is not granted`);
  await files.close();

  const notes = new Client({ name: 'test', version: '1' });
  await notes.connect(transport('notes'));
  let steps = 0;
  const counted = await notes.callTool({ name: 'count', arguments: { n: 3 } }, undefined, { onprogress: () => { steps += 1; } });
  assert.equal(counted.content[0].text, '3');
  // Over standard streams the notes and the answer come in one piece, and this client then
  // no longer knows of the call when it looks at the notes.
  if (name === 'http') assert.equal(steps, 3, `${name}: progress`);
  assert.equal((await notes.readResource({ uri: 'note://readme' })).contents[0].text, 'read me');
  await notes.close();
}
console.log('mcp: all as it should be');
