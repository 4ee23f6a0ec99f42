/** Trees of files, as backups and accidents treat them. */
import type { Fs } from '@mailstead/fs'

/** Paths of all files below `path` ('': all there are), sorted. */
export async function filesBelow(fs: Fs, path = ''): Promise<string[]> {
  const files: string[] = []
  for await (const page of fs.list(path))
    for (const { name, kind } of page) {
      const below = path === '' ? name : `${path}/${name}`
      if (kind === 'directory') files.push(...(await filesBelow(fs, below)))
      else files.push(below)
    }
  return files.sort()
}

/** Each file by itself, as it is: no links. */
export async function copyTree(from: Fs, to: Fs, path = ''): Promise<void> {
  for (const file of await filesBelow(from, path)) await to.writeFile(file, await from.readFile(file))
}

/** All files; directories stay. */
export async function removeTree(fs: Fs, path: string): Promise<void> {
  for (const file of await filesBelow(fs, path)) await fs.remove(file)
}

/** The bytes of every file, in base64, by path. */
export async function contentsBelow(fs: Fs, path = ''): Promise<Record<string, string>> {
  const contents: Record<string, string> = {}
  for (const file of await filesBelow(fs, path))
    contents[file] = Buffer.from(await fs.readFile(file)).toString('base64')
  return contents
}

/** How many bytes they have together. */
export async function bytesBelow(fs: Fs, path = ''): Promise<number> {
  let bytes = 0
  for (const file of await filesBelow(fs, path)) bytes += (await fs.stat(file))!.size
  return bytes
}
