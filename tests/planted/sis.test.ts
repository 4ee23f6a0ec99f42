/**
 * Whether the property of messages that are taken apart can fail: @mailstead/sis with one planted fault each, which the property
 * must notice. Copies live outside the repository, with a link to its dependencies.
 */
import { cpSync, mkdirSync, mkdtempSync, readFileSync, rmSync, symlinkSync, writeFileSync } from 'node:fs'
import { tmpdir } from 'node:os'
import { join } from 'node:path'
import { afterAll, describe, expect, test } from 'vitest'
import { REPOSITORY } from '../support/corpus.ts'
import { deep, say, seeded } from '../support/depth.ts'
import type { keepsEveryByte as Property } from '../../packages/sis/test/property.ts'
import { mailWith, SHAPES } from '../../packages/sis/test/shapes.ts'

/** Cases after which a fault is not noticed. */
const CASES = 10_000

interface Mutant {
  readonly fault: string
  readonly file: string
  readonly from: string
  readonly to: string
  /** Takes thousands of cases, so only a deep run plants it. */
  readonly rare?: true
}

const MUTANTS: readonly Mutant[] = [
  {
    fault: 'bits of the last character that no byte takes are forgotten, as Dovecot does',
    file: 'base64-lines.ts',
    from: 'const spare = decodeTail(tail, this.#bytes, at)\n    if (encodeTail(this.#bytes, at, tail.length, spare) !== tail)',
    to: 'decodeTail(tail, this.#bytes, at)\n    const spare = 0\n    if (Number.isNaN(at))',
  },
  {
    fault: 'what was decoded is not encoded again and compared',
    file: 'base64-lines.ts',
    from: " || this.#bytes.toString('base64', at, at + size) !== whole) return false",
    to: ') return false',
  },
  {
    fault: 'equal lines that were decoded and encoded again are not compared with what came',
    file: 'base64-lines.ts',
    from: 'if (different !== 0) return false',
    to: '',
  },
  {
    fault: 'line ends are not looked at where they are expected',
    file: 'base64-lines.ts',
    from: 'if (window[to - 1] !== LF || window[to - 2] !== CR) break',
    to: 'if (to < 0) break',
  },
  {
    fault: 'line ends are not all where they are expected',
    file: 'base64-lines.ts',
    from: 'text.length !== chars || ',
    to: '',
  },
  {
    fault: 'characters of two windows are not joined',
    file: 'base64-lines.ts',
    from: "s.pending === '' ? text : s.pending + text",
    to: 'text',
  },
  {
    fault: 'padding is not counted',
    file: 'base64-lines.ts',
    from: 'this.#list.unitEnd(tail.length, s.pads, spare)',
    to: 'this.#list.unitEnd(tail.length, 0, spare)',
  },
  {
    fault: 'what is taken back leaves its bytes inline',
    file: 'base64-lines.ts',
    from: 'this.#literalsLength = run.literals\n',
    to: '',
  },
  {
    fault: 'a window that is given up leaves its operations',
    file: 'base64-lines.ts',
    from: 'this.#list.back(mark)\n      this.#s = before',
    to: 'this.#s = before',
  },
  {
    fault: 'lines of equal length are one whatever their ends are',
    file: 'segments.ts',
    from: 'if (this.#length === length && this.#end === end && end !== NO_END) {',
    to: 'if (this.#length === length && this.#end !== NO_END && end !== NO_END) {',
  },
  {
    fault: 'the line end before a boundary line belongs to the part',
    file: 'extract.ts',
    from: 'lineEnd ? this.#beforeLineEnd(at) : at',
    to: 'at',
  },
  {
    fault: 'bytes that went ahead are kept though a boundary may follow',
    file: 'base64-lines.ts',
    from: ' || (letterFollows && BASE64_VALUE[window[end]!]! >= PAD_VALUE)',
    to: '',
    rare: true,
  },
  {
    fault: 'the scanner does not see what went ahead in vain',
    file: 'extract.ts',
    from: '    await this.#writeStep(unseen)\n',
    to: '    this.#size += unseen.length\n    await this.#part!.write(unseen)\n    this.#done += unseen.length\n',
  },
  {
    fault: 'a range begins at the wrong column',
    file: 'weave.ts',
    from: 'let column = offset % row',
    to: 'let column = offset % length',
  },
  {
    fault: 'ranges of characters begin at a quantum',
    file: 'weave.ts',
    from: 'return chars.subarray(from - first * 4, Math.min',
    to: 'return chars.subarray(0, Math.min',
  },
]

describe('a fault that is planted', () => {
  const root = mkdtempSync(join(tmpdir(), 'mailstead-sis-mutants-'))
  symlinkSync(join(REPOSITORY, 'node_modules'), join(root, 'node_modules'))
  writeFileSync(join(root, 'package.json'), '{ "type": "module" }\n')
  afterAll(() => rmSync(root, { recursive: true }))
  const source = join(REPOSITORY, 'packages', 'sis')

  /** The property of a copy, with the fault if there is one. */
  async function propertyOf(name: string, mutant?: Mutant): Promise<typeof Property> {
    const copy = join(root, name)
    mkdirSync(copy)
    for (const directory of ['src', 'test']) cpSync(join(source, directory), join(copy, directory), { recursive: true })
    if (mutant !== undefined) {
      const file = join(copy, 'src', 'lib', mutant.file)
      const text = readFileSync(file, 'utf8')
      expect(text.split(mutant.from).length, `${mutant.fault}: the place is there once`).toBe(2)
      writeFileSync(
        file,
        text.replace(mutant.from, () => mutant.to),
      )
    }
    const module = (await import(/* @vite-ignore */ join(copy, 'test', 'property.ts'))) as {
      keepsEveryByte: typeof Property
    }
    return module.keepsEveryByte
  }

  /** The case that fails, or undefined. */
  async function failingCase(property: typeof Property, cases: number): Promise<number | undefined> {
    const names = Object.keys(SHAPES)
    for (let i = 0; i < cases; i++) {
      const random = seeded(1_000_003 + i)
      const message = mailWith(SHAPES[names[i % names.length]!]!(random), random)
      const failed = await property(message, random).then(
        () => false,
        () => true,
      )
      if (failed) return i
    }
    return undefined
  }

  test('without one, a copy keeps every byte', async () => {
    expect(await failingCase(await propertyOf('none'), 200)).toBeUndefined()
  })

  for (const [i, mutant] of MUTANTS.entries())
    test.skipIf(mutant.rare === true && !deep())(`is noticed: ${mutant.fault}`, async () => {
      const found = await failingCase(await propertyOf(`mutant-${i}`, mutant), CASES)
      say(`planted: ${mutant.fault}: ${found === undefined ? 'NOT noticed' : `noticed by case ${found}`}`)
      expect(found).toBeDefined()
    })
})
