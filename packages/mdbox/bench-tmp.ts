import { mkdtemp, rm } from 'node:fs/promises'
import { join } from 'node:path'
import { memoryTable } from '@mailstead/box/testing'
import { posixFs } from '@mailstead/fs/posix'
import { mdbox } from './src/index.ts'
const directory = await mkdtemp(join(process.argv[2] ?? '/tmp', 'mdbench-'))
const fs = await posixFs(directory)
let syncs = 0
const format = mdbox(fs, 'storage')
const table = memoryTable(format.columns)
const proc = table.process()
const box = await format.open(proc.host)
const line = 'This is a line of a message with about seventy characters in it....\r\n'
const body = Buffer.from(line.repeat(59).slice(0, 4096))
const meta = { guid: new Uint8Array(16), receivedMs: Date.now(), mailbox: 'INBOX' }
for (const conc of [1, 16, 16, 1]) {
  const N = conc === 1 ? 1000 : 6000
  const t = performance.now()
  let left = N
  await Promise.all(Array.from({ length: conc }, async () => {
    while (left-- > 0) {
      await using batch = box.begin()
      await batch.save(body, meta)
      await batch.flush()
    }
  }))
  const ms = performance.now() - t
  console.log(`save+flush conc ${conc}: ${(N / ms * 1000).toFixed(0)}/s`)
}
// saving cpu
{
  const t = performance.now()
  await using batch = box.begin()
  for (let i = 0; i < 20000; i++) await batch.save(body, meta)
  console.log(`save only: ${((performance.now() - t) * 1000 / 20000).toFixed(2)} us`)
}
const refs: number[] = []
{
  await using batch = box.begin()
  const saved = []
  for (let i = 0; i < 2000; i++) saved.push(await batch.save(body, meta))
  await batch.flush()
  const placed: {uid:number}[] = []
  await proc.commit((tx) => { for (const s of saved) placed.push(s.place(tx)) })
  refs.push(...placed.map((p) => p.uid))
}
await (await box.open(refs[0]!))[Symbol.asyncDispose]()
await (await box.open(refs[1999]!))[Symbol.asyncDispose]()
const into = Buffer.alloc(4096)
for (let round = 0; round < 5; round++) {
  let t = performance.now()
  for (let i = 0; i < 20000; i++) {
    using m = box.openSync!(refs[i % 2000]!)!
    m.readSync!(into, 0)
  }
  const sync = (performance.now() - t) * 1000 / 20000
  t = performance.now()
  for (let i = 0; i < 20000; i++) {
    await using m = await box.open(refs[i % 2000]!)
    await m.read(into, 0)
  }
  console.log(`openSync+read+dispose ${sync.toFixed(2)} us, async ${((performance.now() - t) * 1000 / 20000).toFixed(2)} us`)
}
await box[Symbol.asyncDispose]()
await rm(directory, { recursive: true })
