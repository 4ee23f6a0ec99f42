/**
 * One of several processes at work on a store of attachments: puts, releases and sweeps in a drawn order, and says on its output what it began
 * and what was acknowledged. `node worker.ts <root> <seed> <steps>`
 */
import { randomBytes } from 'node:crypto'
import { writeSync } from 'node:fs'
import { posixFs } from '@mailstead/fs/posix'
import { openSis, SisError } from '../src/index.ts'

const [root, seed, steps] = process.argv.slice(2) as [string, string, string]
let state = Number(seed)
const below = (limit: number): number => {
  state = (Math.imul(state, 1_103_515_245) + 12_345) >>> 0
  return (state >>> 8) % limit
}
const say = (line: string): void => void writeSync(1, `${line}\n`)

await using fs = await posixFs(root)
await using sis = await openSis(fs, 'a', { create: true, graceMs: 20 })
const held: Uint8Array[] = []
for (let n = 0; n < Number(steps); n++) {
  const what = below(10)
  try {
    if (what < 5) {
      const content = below(4)
      const { ref } = await sis.put(Buffer.alloc(2000 + content, `content ${content} `))
      say(`put ${content} ${Buffer.from(ref).toString('hex')}`)
      held.push(ref)
    } else if (what < 8 && held.length > 0) {
      const [ref] = held.splice(below(held.length), 1)
      say(`release ${Buffer.from(ref!).toString('hex')}`)
      await sis.release(ref!)
    } else {
      await sis.sweep()
      say('swept')
    }
  } catch (error) {
    // Who was slower than the grace period is told, and nothing was promised.
    if (!(error instanceof SisError && error.code === 'SIS_STALE')) throw error
    say(`stale ${randomBytes(1).toString('hex')}`)
  }
}
