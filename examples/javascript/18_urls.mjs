// Let others upload and download one file, by an address that is signed and works for a minute only.

import { Sandbox } from 'e2b';

const sandbox = await Sandbox.create();
try {
  const upload = await sandbox.uploadUrl('data.txt', { useSignatureExpiration: 60 });
  await fetch(upload, { method: 'POST', body: 'uploaded', headers: { 'Content-Type': 'application/octet-stream' } });
  console.log('in the sandbox:', await sandbox.files.read('data.txt'));

  const download = await sandbox.downloadUrl('data.txt', { useSignatureExpiration: 60 });
  console.log('downloaded:', await (await fetch(download)).text());

  const other = await fetch(download.replace('data.txt', 'other.txt'));
  console.log('another file by the same signature:', other.status);
} finally {
  await sandbox.kill();
}
