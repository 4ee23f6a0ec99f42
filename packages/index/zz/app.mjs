import { FLAG_SEEN, openIndex, repairIndex } from '@mailstead/index'
import { posixFs } from '@mailstead/fs/posix'
import { UidSet } from '@mailstead/uidset'
import { spawn } from 'node:child_process'
import { randomBytes } from 'node:crypto'
import { mkdtempSync, writeFileSync, readFileSync } from 'node:fs'
const dir = process.argv[2] ?? mkdtempSync('/tmp/r4/new/x')
const fs = await posixFs(dir)
if (process.argv[2]) {
  const index = await openIndex(fs, 'index')
  for (let i = 0; i < 5; i++) {
    const tx = index.begin()
    const guid = randomBytes(16)
    const row = tx.append('inbox', { columns: { guid } })
    await tx.commit()
    const inbox = await index.open('inbox')
    inbox.cacheWrite([{ uid: row.uid, guid, fields: [['subject', Buffer.from('hi ' + i)]] }])
    await inbox[Symbol.asyncDispose]()
  }
  await index[Symbol.asyncDispose]()
  await fs[Symbol.asyncDispose]()
} else {
  const index = await openIndex(fs, 'index', { create: true })
  const tx = index.begin()
  tx.createTable({ id: 'inbox', uidValidity: 1, columns: [{ name: 'guid', bytes: 16 }] })
  await tx.commit()
  const inbox = await index.open('inbox')
  const all = Promise.withResolvers()
  const w = inbox.watch(() => { console.log('saw', inbox.view.count); if (inbox.view.count === 5) all.resolve() })
  const child = spawn(process.execPath, ['--conditions=@mailstead/source', import.meta.filename, dir], { stdio: 'inherit' })
  await all.promise
  await new Promise((r) => child.on('exit', r))
  const subject = inbox.view.cache('subject')
  console.log('cache', subject)
  for (let row = 0; row < inbox.view.count; row++) console.log(inbox.view.uid(row), String(subject.get?.(row)))
  w[Symbol.dispose]()
  for await (const page of index.check()) console.log('check', page)
  await inbox[Symbol.asyncDispose]()
  await index[Symbol.asyncDispose]()
  const p = dir + '/index/tables/directory'
  try { writeFileSync(p, 'x') } catch (e) { console.log(e) }
  for await (const rs of repairIndex(fs, 'index')) for (const r of rs) console.log(r.kind, r.file, r.field, r.message)
  const again = await openIndex(fs, 'index')
  console.log(again.info('inbox'))
  for await (const page of again.check()) console.log('check', page)
  await again[Symbol.asyncDispose]()
  await fs[Symbol.asyncDispose]()
}
