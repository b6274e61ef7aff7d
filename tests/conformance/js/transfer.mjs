// Streams a file of `size` bytes, a repeated block, up to a sandbox and down again by the unmodified JavaScript SDK; prints the seconds that each took.
// The bytes that come down are compared with those that went up. Arguments: the sandbox's id, the path, the size.
import { randomBytes } from 'node:crypto'
import { Sandbox } from 'e2b'

const [sandboxId, path, total] = process.argv.slice(2)
const size = Number(total)
const block = randomBytes(1 << 20)
const sandbox = await Sandbox.connect(sandboxId)

let left = size
const noise = new ReadableStream({
  type: 'bytes',
  pull(controller) {
    const data = Uint8Array.prototype.slice.call(block, 0, Math.min(left, block.length))
    left -= data.length
    if (data.length > 0) controller.enqueue(data)
    if (left === 0) controller.close()
  },
})
const seconds = async (action) => {
  const began = performance.now()
  await action()
  return (performance.now() - began) / 1000
}
const check = (chunk, from) => {
  for (let done = 0; done < chunk.length; ) {
    const at = (from + done) % block.length
    const piece = chunk.subarray(done, done + block.length - at)
    if (Buffer.compare(piece, block.subarray(at, at + piece.length)) !== 0) throw new Error(`the bytes after ${from + done} are others`)
    done += piece.length
  }
  return from + chunk.length
}

const upload = await seconds(() => sandbox.files.write(path, noise))
const download = await seconds(async () => {
  let came = 0
  for await (const chunk of await sandbox.files.read(path, { format: 'stream' })) came = check(chunk, came)
  if (came !== size) throw new Error(`${came} of ${size} bytes came`)
})
console.log(JSON.stringify({ upload, download }))
