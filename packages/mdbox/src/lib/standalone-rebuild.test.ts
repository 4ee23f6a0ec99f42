import { randomBytes } from 'node:crypto'
import type { Fs } from '@mailstead/fs'
import { faultPlan, faultyFs } from '@mailstead/fs/faults'
import { memoryFs } from '@mailstead/fs/memory'
import { repairIndex } from '@mailstead/index'
import { describe, expect, test } from 'vitest'
import { type Mdbox, openMdbox } from './standalone.ts'
import { type MdboxRebuilt, rebuildMdbox } from './standalone-rebuild.ts'
import { ownColumns } from './standalone-table.ts'

const ROTATE_BYTES = 4000
const options = { rotateBytes: ROTATE_BYTES }

/** Bodies by GUID. */
type Mail = ReadonlyMap<string, string>

async function saved(box: Mdbox, count: number, what: string): Promise<Map<number, string>> {
  await using batch = box.begin()
  const guids: string[] = []
  for (let number = 0; number < count; number++) {
    const guid = randomBytes(16)
    guids.push(guid.toString('hex'))
    await batch.save(Buffer.from(`${what} ${number} `.repeat(20)), { guid, receivedMs: 1_700_000_000_000 })
  }
  return new Map((await batch.commit()).map((ref, at) => [ref, guids[at]!]))
}

async function text(box: Mdbox, ref: number): Promise<string> {
  await using message = await box.open(ref)
  return Buffer.from(message.whole!).toString()
}

async function mailOf(fs: Fs): Promise<Mail> {
  await using box = await openMdbox(fs, 'storage', options)
  const bodies: string[] = []
  for (const ref of box.refs) bodies.push(await text(box, ref))
  return new Map(bodies.sort().map((body) => [body, body]))
}

async function rebuilt(fs: Fs): Promise<readonly MdboxRebuilt[]> {
  return (await Array.fromAsync(rebuildMdbox(fs, 'storage', options))).flat()
}

async function lose(fs: Fs, directory: string): Promise<void> {
  const files: string[] = []
  for await (const page of fs.list(directory))
    for (const { name, kind } of page)
      if (kind === 'directory') await lose(fs, `${directory}/${name}`)
      else files.push(`${directory}/${name}`)
  for (const file of files) await fs.remove(file)
}

/** Some messages; some of them removed, and purged. */
async function made(fs: Fs): Promise<{ readonly refs: ReadonlyMap<number, string>; readonly mail: Mail }> {
  const refs = new Map<number, string>()
  {
    await using box = await openMdbox(fs, 'storage', { ...options, create: true })
    for (let round = 0; round < 3; round++)
      for (const [ref, guid] of await saved(box, 20, `message ${round}`)) refs.set(ref, guid)
    const removed = [...refs.keys()].filter((ref) => ref % 3 === 0)
    await box.remove(removed)
    for (const ref of removed) refs.delete(ref)
    await box.purge()
  }
  return { refs, mail: await mailOf(fs) }
}

describe('a box alone whose index is lost', () => {
  test('is rebuilt from its messages: all that were not removed, under references that are told', async () => {
    await using fs = memoryFs()
    const { refs, mail } = await made(fs)
    await lose(fs, 'storage/index')
    await expect(openMdbox(fs, 'storage', options)).rejects.toMatchObject({ code: 'BOX_DAMAGED' })
    const records = await rebuilt(fs)
    expect(await mailOf(fs)).toEqual(mail)
    const back = records.filter(({ kind }) => kind === 'back')
    expect(new Set(back.map(({ guid }) => Buffer.from(guid!).toString('hex')))).toEqual(new Set(refs.values()))
    await using box = await openMdbox(fs, 'storage', options)
    expect([...box.refs]).toEqual(back.map(({ ref }) => ref))
    expect((await Array.fromAsync(box.check())).flat().filter(({ severity }) => severity === 'damage')).toEqual([])
    await saved(box, 5, 'afterwards')
    expect(box.refs).toHaveLength(back.length + 5)
  })

  test('a second rebuild changes nothing, and one of what is whole neither', async () => {
    await using fs = memoryFs()
    const { mail } = await made(fs)
    expect(await rebuilt(fs)).toEqual([])
    await lose(fs, 'storage/index')
    await rebuilt(fs)
    expect(await rebuilt(fs)).toEqual([])
    expect(await mailOf(fs)).toEqual(mail)
  })

  test('what the journal calls removed stays away, and its space is given back', async () => {
    await using fs = memoryFs()
    await made(fs)
    let kept: Mail
    {
      await using box = await openMdbox(fs, 'storage', options)
      const refs = [...box.refs]
      await box.remove(refs.slice(0, 10))
      // It writes the journal first, and then empties one file.
      await box.purge({ copyMaxBytes: 1 })
    }
    kept = await mailOf(fs)
    await lose(fs, 'storage/index')
    await rebuilt(fs)
    expect(await mailOf(fs)).toEqual(kept)
    {
      await using box = await openMdbox(fs, 'storage', options)
      await box.purge()
    }
    expect(await mailOf(fs)).toEqual(kept)
  })

  test('damaged bytes are told with file and offset, and a row whose bytes are gone stays', async () => {
    await using fs = memoryFs()
    const { mail } = await made(fs)
    const names: string[] = []
    for await (const page of fs.list('storage')) for (const entry of page) names.push(entry.name)
    const name = names.filter((one) => one.startsWith('m.')).sort()[0]!
    const whole = await fs.readFile(`storage/${name}`)
    const bytes = Buffer.from(whole)
    bytes[200]! ^= 1
    await fs.writeFile(`storage/${name}`, bytes)
    const first = await rebuilt(fs)
    expect(first.map(({ kind }) => kind).sort()).toEqual(['damaged', 'missing'])
    expect(first.find(({ kind }) => kind === 'damaged')).toMatchObject({ file: name })
    {
      await using box = await openMdbox(fs, 'storage', options)
      expect(box.refs).toHaveLength(mail.size)
    }
    await fs.writeFile(`storage/${name}`, whole)
    expect(await rebuilt(fs)).toEqual([])
    expect(await mailOf(fs)).toEqual(mail)
  })

  test('one that was cut short at any write is made again with the same end, and nobody opens it before', async () => {
    for (let failing = 1; ; failing++) {
      await using fs = memoryFs()
      const { mail } = await made(fs)
      await lose(fs, 'storage/index')
      const plan = faultPlan({ writing: true, nth: failing, times: Number.POSITIVE_INFINITY, fault: 'EIO' })
      const failingFs = faultyFs(fs, plan)
      let failed = false
      try {
        for await (const _ of rebuildMdbox(failingFs, 'storage', options));
      } catch {
        failed = true
      }
      const opened = await openMdbox(fs, 'storage', options).catch((error: Error) => error)
      if (opened instanceof Error) expect(opened).toMatchObject({ code: 'BOX_DAMAGED' })
      else {
        expect(opened.refs).toHaveLength(mail.size)
        await opened[Symbol.asyncDispose]()
      }
      await rebuilt(fs)
      expect(await mailOf(fs)).toEqual(mail)
      if (!failed) break
    }
  })

  test('a table that a repair of the index alone lost is filled again', async () => {
    await using fs = memoryFs()
    const { mail } = await made(fs)
    await lose(fs, 'storage/index/tables')
    await lose(fs, 'storage/index/log')
    const anew = (): ReturnType<typeof ownColumns> => ownColumns()
    for await (const _ of repairIndex(fs, 'storage/index', { anew }));
    await rebuilt(fs)
    expect(await mailOf(fs)).toEqual(mail)
    expect(await rebuilt(fs)).toEqual([])
  })

  test('messages in a second tier come back where they are, and without the tier nothing is rebuilt', async () => {
    await using fs = memoryFs()
    await using alt = memoryFs()
    const tiers = { ...options, alt: { fs: alt, path: 'second' } }
    let refs: readonly number[]
    {
      await using box = await openMdbox(fs, 'storage', { ...tiers, create: true })
      refs = [...(await saved(box, 30, 'message')).keys()]
      await box.altmove(Uint32Array.from(refs.slice(0, 12)), { to: 'alt' })
      await box.purge()
    }
    await lose(fs, 'storage/index')
    await expect(rebuilt(fs)).rejects.toMatchObject({ code: 'FS_UNAVAILABLE' })
    const records = (await Array.fromAsync(rebuildMdbox(fs, 'storage', tiers))).flat()
    expect(records.filter(({ kind }) => kind === 'back')).toHaveLength(30)
    await using box = await openMdbox(fs, 'storage', tiers)
    const bodies: string[] = []
    for (const ref of box.refs) bodies.push(await text(box, ref))
    expect(new Set(bodies).size).toBe(30)
  })

  test('there is nothing to rebuild where there is nothing', async () => {
    await using fs = memoryFs()
    await expect(rebuilt(fs)).rejects.toMatchObject({ code: 'BOX_NOT_FOUND' })
    await expect(openMdbox(fs, 'storage')).rejects.toMatchObject({ code: 'BOX_NOT_FOUND' })
  })
})
