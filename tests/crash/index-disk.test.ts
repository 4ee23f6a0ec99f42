/**
 * An index on a file system of the kernel, on a disk that loses its power: what is left after the journal was replayed holds
 * everything acknowledged, nothing by half, and goes on.
 */
import { posixFs } from '@mailstead/fs/posix'
import { type Index, openIndex } from '@mailstead/index'
import { expect } from 'vitest'
import { BlockLogDisk, blockLogUnavailable } from '../../packages/fs/test/block-log/disk.ts'
import { History, type Promised, recoveredOf } from '../../packages/index/test/crash-history.ts'
import { isDamage } from '../../packages/index/test/crash-judge.ts'
import { PATH, sessions, SMALL, SPECS } from '../../packages/index/test/crash-workload.ts'
import { depth, runSeed, say } from '../support/depth.ts'
import { testUnless } from '../support/test-unless.ts'

/** Images to be looked at, at least, and of how many of one run. */
const WANTED = { normal: 6, ci: 120, soak: 100_000 }[depth()]
const EACH = { normal: 6, ci: 60, soak: 500 }[depth()]

const lack = blockLogUnavailable()

testUnless(
  lack === undefined ? undefined : { reason: lack },
  'an index on ext4 keeps what it acknowledged, whenever the power goes',
  async () => {
    const first = runSeed()
    let images = 0
    let acknowledged = 0
    const kinds = new Map<string, number>()
    for (let seed = first; images < WANTED; seed++) {
      await using disk = await BlockLogDisk.create()
      const history = new History()
      const promises: Promised[] = []
      history.onAcknowledged = () => {
        promises.push(history.now())
        disk.mark(`${promises.length - 1}`)
      }
      {
        await using fs = await posixFs(disk.mountPoint)
        await sessions(fs, seed, history)
      }
      acknowledged += promises.length
      for await (const { directory, marks, kind, description } of disk.images({
        seed,
        subsetsPerFlush: 1,
        most: EACH,
      })) {
        const promised = promises[Number(marks.at(-1) ?? -1)]
        const where = `seed ${seed}, ${description}`
        await using fs = await posixFs(directory)
        const damages: string[] = []
        const onEvent = ({ kind, message }: { kind: string; message: string }): void => {
          if (isDamage(kind)) damages.push(`${kind}: ${message}`)
        }
        const index = await openIndex(fs, PATH, { create: true, ...SMALL, onEvent })
        const found = await recoveredOf(index, SPECS)
        // What was asked is not noted: later than what is acknowledged is what had begun.
        const allowed = {
          acknowledged: promised?.acknowledged ?? 0,
          asked: history.asked,
          modSeqs: promised?.modSeqs ?? new Map<number, number>(),
        }
        expect(history.objection(allowed, found), where).toBeUndefined()
        for await (const page of index.check())
          for (const { severity, file, message } of page) if (severity === 'damage') damages.push(`${file}: ${message}`)
        expect(damages, where).toEqual([])
        const tx = index.begin()
        tx.createTable({ ...SPECS.get('later')!, uidValidity: 1_000_000 })
        await tx.commit()
        await index.checkpoint()
        const onward = await recoveredOf(index, SPECS)
        await index[Symbol.asyncDispose]()
        const again = await openIndex(fs, PATH, { ...SMALL, onEvent })
        expect((await recoveredOf(again, SPECS)).description, where).toBe(onward.description)
        await (again as Index & { abandon(): Promise<void> }).abandon()
        expect(damages, where).toEqual([])
        kinds.set(kind, (kinds.get(kind) ?? 0) + 1)
        images++
      }
    }
    say(
      `an index on ext4: ${images} images after power cuts (${[...kinds].map(([kind, n]) => `${n} ${kind}`).join(', ')}), ` +
        `${acknowledged} acknowledged commits, seeds from ${first}`,
    )
  },
)
