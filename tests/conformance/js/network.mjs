// A sandbox's network by the JavaScript SDK, with callables; prints what getInfo shows after each step.
import { Sandbox } from 'e2b'

const network = {
  rules: { 'api.example.com': [{ transform: { headers: { 'X-Key': '${e2b.secrets.key}' } } }] },
  allowOut: ({ rules }) => [...rules.keys(), '8.8.8.8'],
  denyOut: ({ allTraffic }) => [allTraffic],
  egressProxy: { address: '198.51.100.7:1080', username: 'u', password: 'p' },
}
const seen = { internet: [] }
const sandbox = await Sandbox.create({
  network: { ...network, allowPublicTraffic: false, maskRequestHost: 'localhost:${PORT}', httpsPorts: [8443] },
})
const look = async (step) => {
  const info = await sandbox.getInfo()
  seen[step] = info.network
  seen.internet.push(info.allowInternetAccess ?? null)
}
await look('created')
await sandbox.updateNetwork({ denyOut: ['9.9.9.9'], allowInternetAccess: false })
await look('changed')
await sandbox.updateNetwork(network)
await look('again')
seen.wrong = await sandbox.updateNetwork({ denyOut: ['example.com'] }).then(() => 'nothing', (error) => `${error.name}: ${error.message}`)
console.log(JSON.stringify(seen))
