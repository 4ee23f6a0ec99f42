/** A process that commits as fast as it can until it is killed, for tests. Arguments: directory, name. */
import { writeSync } from 'node:fs'
import { posixFs } from '@mailstead/fs/posix'
import { UidSet } from '@mailstead/uidset'
import { openIndex } from '../src/index.ts'

const [directory, name] = process.argv.slice(2) as [string, string]
const fs = await posixFs(directory)
const index = await openIndex(fs, 'store', { segmentBytes: 20_000, checkpointBytes: 60_000 })

async function commitForEver(lane: number): Promise<never> {
  for (let n = 0; ; n++) {
    const tag = Number(name) * 1_000_000 + lane * 100_000 + n
    const tx = index.begin()
    const ref = tx.append('box', {})
    const row = tx.append('inbox', { columns: { ref, tag } })
    await tx.commit()
    writeSync(1, `${row.uid} ${tag}\n`)
    if (n % 5 === 4) {
      const more = index.begin()
      more.changeFlags('inbox', UidSet.range(Math.max(1, row.uid - 50), row.uid), { add: 1 << (n % 5) })
      await more.commit({ durability: n % 2 === 0 ? 'lazy' : 'flushed' })
    }
  }
}

await Promise.all([commitForEver(0), commitForEver(1), commitForEver(2)])
