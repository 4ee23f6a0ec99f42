/** The power goes at any moment of a move, a removal or a replacement, in both tiers at once. */
import { expect, test } from 'vitest'
import { type CrashableFs, crashableFs } from '../../faults.ts'
import { type Fs, FsError } from '../../index.ts'
import { tiered } from '../../wrappers.ts'

const depth = process.env['MAILSTEAD_DEPTH']
const seedsPerMoment = depth === 'soak' ? 500 : depth === 'ci' ? 60 : 12

const bytes = (text: string): Uint8Array => Buffer.from(text)

/** What a name may hold: any of these contents; undefined is absence. */
type Allowed = ReadonlyMap<string, readonly (string | undefined)[]>
interface Moment {
  readonly primary: CrashableFs
  readonly alternate: CrashableFs
  readonly allowed: Allowed
  readonly during: string
}

async function contentOf(fs: Fs, path: string): Promise<string | undefined> {
  try {
    return Buffer.from(await fs.readFile(path)).toString()
  } catch (error) {
    if (error instanceof FsError && error.code === 'FS_NOT_FOUND') return undefined
    throw error
  }
}

/** Runs a fixed story; `lies` breaks the disks, to show that this test can fail. */
async function wrongStates(lies = false): Promise<{ wrong: string[]; states: number }> {
  const moments: Moment[] = []
  let allowed: Allowed = new Map()
  let during = ''
  const look = (): void => {
    for (let seed = 1; seed <= seedsPerMoment; seed++)
      moments.push({ primary: primary.crash(seed), alternate: alternate.crash(seed * 7), allowed, during })
  }
  const options = { onChange: look, ...(lies && { lies: () => true }) }
  const primary: CrashableFs = crashableFs(options)
  const alternate: CrashableFs = crashableFs(options)
  const fs = tiered(primary, alternate)
  const now = new Map<string, string | undefined>()
  /** One operation, made durable. Until then any name that it changes may be as before or as after. */
  const step = async (
    name: string,
    run: () => Promise<unknown>,
    after: Record<string, string | undefined> = {},
  ): Promise<void> => {
    during = name
    allowed = new Map([...now].map(([path, was]) => [path, path in after ? [was, after[path]] : [was]]))
    for (const path of Object.keys(after))
      if (!now.has(path)) allowed = new Map([...allowed, [path, [undefined, after[path]]]])
    await run()
    for (const directory of ['d', 'e']) await fs.syncDirectory(directory)
    for (const [path, content] of Object.entries(after)) now.set(path, content)
    during = `after ${name}`
    allowed = new Map([...now].map(([path, was]) => [path, [was]]))
    look()
  }
  await fs.makeDirectory('d')
  await fs.makeDirectory('e')
  await step('write a', () => fs.writeFile('d/a', bytes('A')), { 'd/a': 'A' })
  await step('demote a', () => fs.demote('d/a'))
  await step('promote a', () => fs.promote('d/a'))
  await step('demote a again', () => fs.demote('d/a'))
  await step('replace a', () => fs.writeFile('d/a', bytes('A2')), { 'd/a': 'A2' })
  await step('demote the new a', () => fs.demote('d/a'))
  await step('remove a', () => fs.remove('d/a'), { 'd/a': undefined })
  await step('write b', () => fs.writeFile('d/b', bytes('B')), { 'd/b': 'B' })
  await step('write c', () => fs.writeFile('e/c', bytes('C')), { 'e/c': 'C' })
  await step('demote b', () => fs.demote('d/b'))
  await step('rename c over b', () => fs.rename('e/c', 'd/b'), { 'e/c': undefined, 'd/b': 'C' })
  await step('rename b', () => fs.rename('d/b', 'e/x'), { 'd/b': undefined, 'e/x': 'C' })
  await step('demote x', () => fs.demote('e/x'))
  await step('rename what is demoted', () => fs.rename('e/x', 'd/y'), { 'e/x': undefined, 'd/y': 'C' })
  await step('demote y', () => fs.demote('d/y'))
  await step('replace y', () => fs.writeFile('d/y', bytes('Y')), { 'd/y': 'Y' })
  await step('remove y', () => fs.remove('d/y'), { 'd/y': undefined })
  await step('write z', () => fs.writeFile('d/z', bytes('Z')), { 'd/z': 'Z' })
  await step('demote z', () => fs.demote('d/z'))
  await step('write w', () => fs.writeFile('e/w', bytes('W')), { 'e/w': 'W' })
  await step('rename w over z', () => fs.rename('e/w', 'd/z'), { 'e/w': undefined, 'd/z': 'W' })
  // Its older copy is still in the alternate.
  await step('remove z', () => fs.remove('d/z'), { 'd/z': undefined })
  const wrong: string[] = []
  for (const moment of moments) {
    const crashed = tiered(moment.primary, moment.alternate)
    for (const [path, contents] of moment.allowed) {
      const found = await contentOf(crashed, path)
      if (!contents.includes(found)) wrong.push(`${moment.during}: ${path} is ${found}, not ${contents.join(' or ')}`)
    }
  }
  return { wrong: [...new Set(wrong)], states: moments.length }
}

test('a power cut at any moment leaves every file whole in one tier or in both, and brings nothing back', async () => {
  const { wrong, states } = await wrongStates()
  console.log(`tiered: ${states} states after a power cut`)
  expect(wrong).toEqual([])
})
test('and on disks that flush nothing this finds what is lost', async () => {
  expect((await wrongStates(true)).wrong.length).toBeGreaterThan(0)
})
