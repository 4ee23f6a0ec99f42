/**
 * Reads a tar archive that is already in memory (POSIX ustar, with GNU long names and pax paths).
 * Returns the regular files, in order. No other kind of entry matters here.
 */
const BLOCK = 512

export interface TarFile {
  readonly name: string
  readonly bytes: Buffer
}

export function readTar(archive: Buffer): readonly TarFile[] {
  const files: TarFile[] = []
  let longName: string | undefined
  let at = 0
  while (at + BLOCK <= archive.length && archive[at] !== 0) {
    const size = Number.parseInt(field(archive, at + 124, 12), 8)
    const type = String.fromCharCode(archive[at + 156] ?? 0)
    const bytes = archive.subarray(at + BLOCK, at + BLOCK + size)
    at += BLOCK + Math.ceil(size / BLOCK) * BLOCK
    if (type === 'L') {
      longName = field(bytes, 0, bytes.length)
      continue
    }
    if (type === 'x') {
      longName = paxPath(bytes) ?? longName
      continue
    }
    const header = at - BLOCK - Math.ceil(size / BLOCK) * BLOCK
    const prefix = field(archive, header + 345, 155)
    const short = field(archive, header, 100)
    const name = longName ?? (prefix === '' ? short : `${prefix}/${short}`)
    longName = undefined
    if (type === '0' || type === '\0') files.push({ name, bytes })
  }
  return files
}

function field(bytes: Buffer, at: number, length: number): string {
  const end = bytes.indexOf(0, at)
  return bytes.toString('utf8', at, end < 0 || end > at + length ? at + length : end).trim()
}

function paxPath(bytes: Buffer): string | undefined {
  let at = 0
  while (at < bytes.length) {
    const space = bytes.indexOf(0x20, at)
    const length = Number(bytes.toString('latin1', at, space))
    if (!(length > 0)) return undefined
    const record = bytes.toString('utf8', space + 1, at + length - 1)
    if (record.startsWith('path=')) return record.slice('path='.length)
    at += length
  }
  return undefined
}
