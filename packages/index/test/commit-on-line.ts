/** A process that appends a row to `inbox` for each line that it reads, and says so when it is durable. Argument: the directory. */
import { createInterface } from 'node:readline'
import { posixFs } from '@mailstead/fs/posix'
import { openIndex } from '../src/index.ts'

await using fs = await posixFs(process.argv[2]!)
await using index = await openIndex(fs, 'store')
process.stdout.write('ready\n')
for await (const _ of createInterface({ input: process.stdin })) {
  await using tx = index.begin()
  const row = tx.append('inbox', {})
  await tx.commit()
  process.stdout.write(`${row.uid}\n`)
}
