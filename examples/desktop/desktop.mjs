// See and use a desktop: open an editor, write into it, and take a picture of the screen.
//
//     cloister template build desktop     # once, by who runs the server
//     npm install @e2b/desktop
import { writeFile } from 'node:fs/promises'
import { Sandbox } from '@e2b/desktop'

const desktop = await Sandbox.create({ timeoutMs: 300_000 })
try {
  const { width, height } = await desktop.getScreenSize()
  console.log(`screen: ${width} x ${height}`)
  await desktop.launch('org.xfce.mousepad')
  while ((await desktop.commands.run('xdotool search --onlyvisible --class mousepad || true')).stdout === '') {
    await desktop.wait(500)
  }
  const window = (await desktop.getApplicationWindows('mousepad')).at(-1)
  console.log('window:', await desktop.getWindowTitle(window))
  await desktop.leftClick(width / 2, height / 2)
  await desktop.write('Hello from inside')
  const picture = await desktop.screenshot()
  await writeFile('screen.png', picture)
  console.log(`saved: screen.png, ${picture.length} bytes`)
} finally {
  await desktop.kill()
}
