// Start MCP servers in a sandbox and use their tools. An MCP client library does what `ask` does here, and more.

import { Sandbox } from 'e2b';

const sandbox = await Sandbox.create({ mcp: { time: {}, memory: {} } });
try {
  // With a domain of your own, getMcpUrl() is all. Without, the server's address and two headers say what is meant.
  const url = `${process.env.E2B_SANDBOX_URL}/mcp`;
  const address = { 'E2b-Sandbox-Id': sandbox.sandboxId, 'E2b-Sandbox-Port': '50005' };
  const headers = {
    ...address,
    Authorization: `Bearer ${await sandbox.getMcpToken()}`,
    'Content-Type': 'application/json',
    Accept: 'application/json, text/event-stream',
  };

  const ask = async (method, params, id) => {
    const body = JSON.stringify({ jsonrpc: '2.0', id, method, params });
    const answer = await fetch(url, { method: 'POST', headers, body });
    headers['Mcp-Session-Id'] ??= answer.headers.get('mcp-session-id');
    const line = (await answer.text()).split('\n').find(text => text.startsWith('data: {'));
    return line && JSON.parse(line.slice('data: '.length)).result;
  };

  const clientInfo = { name: 'example', version: '1' };
  await ask('initialize', { protocolVersion: '2025-06-18', capabilities: {}, clientInfo }, 1);
  await ask('notifications/initialized');

  const { tools } = await ask('tools/list', {}, 2);
  console.log('tools:', tools.map(tool => tool.name).sort().join(', '));

  const when = { source_timezone: 'UTC', time: '12:00', target_timezone: 'Europe/Paris' };
  const answer = await ask('tools/call', { name: 'convert_time', arguments: when }, 3);
  console.log('12:00 in Paris is', JSON.parse(answer.content[0].text).target.datetime.slice(11, 16));

  const refused = await fetch(url, { headers: address });
  console.log('without the token:', refused.status);
} finally {
  await sandbox.kill();
}
