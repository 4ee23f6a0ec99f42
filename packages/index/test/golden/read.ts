/** What a golden store is compared by: everything an index says of it, and the dump of every file. */
import { readdirSync, readFileSync } from 'node:fs'
import { join, relative } from 'node:path'
import { fileURLToPath } from 'node:url'
import { toHex } from '@mailstead/bytes'
import { type Fs, readRoot } from '@mailstead/fs'
import { dumpFile } from '../../src/format.ts'
import { openIndex } from '../../src/index.ts'
import { type Image, imageFs } from '../image-fs.ts'
import { everything } from '../sealed-store.ts'

/** The files of a golden store, by path. */
export function goldenImage(folder: URL): Map<string, Uint8Array> {
  const image = new Map<string, Uint8Array>()
  const store = fileURLToPath(new URL('store/', folder))
  for (const entry of readdirSync(store, { recursive: true, withFileTypes: true })) {
    if (!entry.isFile()) continue
    const file = join(entry.parentPath, entry.name)
    image.set(relative(store, file).replaceAll('\\', '/'), new Uint8Array(readFileSync(file)))
  }
  return image
}

/** As JSON: the root marker, and of each table its counters, its rows and what its cache has. */
export async function expectationOf(image: Image, supports: Partial<Fs['supports']> = {}): Promise<string> {
  const fs = imageFs(image, supports)
  const { role, uuid } = (await readRoot(fs))!
  await using index = await openIndex(fs, 'index', { readOnly: true })
  const tables = [...(await everything(index))].map(([id, { info, rows, cached }]) => ({
    id,
    info: JSON.parse(info) as unknown,
    rows: rows.split('\n'),
    cached: Object.fromEntries(cached),
  }))
  const changes = index.changesSince(0) ?? index.changesSince(1)
  return `${JSON.stringify({ root: { role, uuid: toHex(uuid) }, uuid: toHex(index.uuid), changes: changes ?? null, tables }, undefined, 1)}\n`
}

/** The dump of every file, in order of their names. */
export function dumpOf(image: Image): string {
  return [...image]
    .toSorted(([a], [b]) => (a < b ? -1 : 1))
    .map(([path, bytes]) => `== ${path}\n${[...dumpFile(bytes, path)!].join('\n')}\n`)
    .join('')
}
