/**
 * A process that commits and reads as fast as it can until it is killed, for tests. Arguments: directory, name.
 *
 * Prints a line for each commit that was acknowledged, with what a reader sees then: UID, tag, UIDNEXT, HIGHESTMODSEQ. A line
 * that begins with `!` says what went back, or is not there.
 */
import { writeSync } from 'node:fs'
import { posixFs } from '@mailstead/fs/posix'
import { UidSet } from '@mailstead/uidset'
import { openIndex } from '../src/index.ts'

const [directory, name] = process.argv.slice(2) as [string, string]
const fs = await posixFs(directory)
const index = await openIndex(fs, 'store', { segmentBytes: 20_000, checkpointBytes: 60_000 })
const inbox = (await index.open('inbox'))!
let { view } = inbox

/** Looks at the newest view: it has what the one before had. */
function look(): void {
  const before = view
  view = inbox.view
  const { uidNext, highestModSeq, count } = view
  if (uidNext < before.uidNext || highestModSeq < before.highestModSeq || count < before.count)
    writeSync(
      1,
      `! ${before.uidNext} ${before.highestModSeq} ${before.count} became ${uidNext} ${highestModSeq} ${count}\n`,
    )
}

async function commitForEver(lane: number): Promise<never> {
  for (let n = 0; ; n++) {
    const tag = Number(name) * 1_000_000 + lane * 100_000 + n
    const tx = index.begin()
    const ref = tx.append('box', {})
    const row = tx.append('inbox', { columns: { ref, tag } })
    tx.increment('inbox', 'commits', 1, 1)
    await tx.commit()
    look()
    const at = view.rowOf(row.uid)
    if (at < 0 || view.extension('tag')!.number(at) !== tag)
      writeSync(1, `! UID ${row.uid} is not ${tag} but row ${at}\n`)
    writeSync(1, `${row.uid} ${tag} ${view.uidNext} ${view.highestModSeq}\n`)
    if (n % 5 === 4) {
      const more = index.begin()
      more.changeFlags('inbox', UidSet.range(Math.max(1, row.uid - 50), row.uid), { add: 1 << (n % 5) })
      await more.commit({ durability: n % 2 === 0 ? 'lazy' : 'flushed' })
      await index.refresh()
      look()
    }
  }
}

await Promise.all([commitForEver(0), commitForEver(1), commitForEver(2)])
