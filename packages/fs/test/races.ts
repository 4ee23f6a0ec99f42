/** Many writers of one name at once, on any file system with conditional writes. */
import assert from 'node:assert/strict'
import type { Fs, FsStat } from '../src/lib/contract.ts'
import { FsError, type FsErrorCode } from '../src/lib/error.ts'

const WRITERS = 12
/** So many at once are enough for a small server. */
const AT_ONCE = 16

/** Small files of these names. */
export async function create(fs: Fs, paths: readonly string[]): Promise<void> {
  const left = [...paths]
  const work = async (): Promise<void> => {
    for (let path = left.pop(); path !== undefined; path = left.pop()) await fs.writeFile(path, Buffer.from(path))
  }
  await Promise.all(Array.from({ length: AT_ONCE }, work))
}

/** Exactly one creates a file, all others hear FS_EXISTS; again and again. */
export async function raceToCreate(fs: Fs, rounds: number): Promise<void> {
  for (let round = 0; round < rounds; round++)
    await race(fs, `create/${round}`, { round, refusal: 'FS_EXISTS' }, (content) =>
      fs.writeFile(`create/${round}`, content, { ifAbsent: true }),
    )
}

/** Exactly one replaces a version, all others hear FS_CONFLICT; again and again, with `sameBytes` also by what was there before. */
export async function raceToReplace(fs: Fs, rounds: number, sameBytes = false): Promise<void> {
  let { tag } = await fs.writeFile('replace', Buffer.from('first'))
  for (let round = 0; round < rounds; round++) {
    const { tag: next } = await race(
      fs,
      'replace',
      { round: sameBytes ? 0 : round, refusal: 'FS_CONFLICT' },
      (content) => fs.writeFile('replace', content, { ifMatch: tag }),
    )
    tag = next
  }
}

async function race(
  fs: Fs,
  path: string,
  { round, refusal }: { readonly round: number; readonly refusal: FsErrorCode },
  write: (content: Uint8Array) => Promise<FsStat>,
): Promise<FsStat> {
  // Two write the same bytes: even they must not both believe that they were first.
  const contents = Array.from({ length: WRITERS }, (_, i) => `${path} ${round} ${i >> 1}`)
  const results = await Promise.allSettled(contents.map((content) => write(Buffer.from(content))))
  const winners: { readonly content: string; readonly stat: FsStat }[] = []
  results.forEach((result, i) => {
    if (result.status === 'fulfilled') winners.push({ content: contents[i]!, stat: result.value })
    else assert.equal(result.reason instanceof FsError ? result.reason.code : result.reason, refusal)
  })
  assert.equal(winners.length, 1)
  const [winner] = winners
  assert.equal(Buffer.from(await fs.readFile(path)).toString(), winner!.content)
  assert.equal((await fs.stat(path))!.tag, winner!.stat.tag)
  return winner!.stat
}
