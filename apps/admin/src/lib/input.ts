/** Standard input: all of it, or one line typed without an echo. */
import type { ReadStream } from 'node:tty'
import { Exit } from './exit.ts'

/** Longest line or password, in bytes. */
const LINE_MAX = 4096

/** The first line of standard input; asked for without an echo where that is a terminal. */
export async function secretLine(prompt: string): Promise<string> {
  const input = process.stdin
  if (!input.isTTY) {
    let text = ''
    for await (const chunk of input) {
      text += String(chunk)
      if (text.includes('\n')) break
      if (text.length > LINE_MAX) throw new Exit(2, 'the line is too long')
    }
    return text.split(/\r?\n/, 1)[0]!
  }
  const first = await typed(input, `${prompt}: `)
  const second = await typed(input, `${prompt} again: `)
  if (first !== second) throw new Exit(1, 'the two are not the same')
  return first
}

async function typed(input: ReadStream, prompt: string): Promise<string> {
  process.stderr.write(prompt)
  input.setRawMode(true)
  input.resume()
  let text = ''
  try {
    for (;;) {
      const [chunk] = (await new Promise<Buffer[]>((resolve) =>
        input.once('data', (data: Buffer) => resolve([data])),
      )) as [Buffer]
      for (const character of chunk.toString()) {
        if (character === '\r' || character === '\n') return text
        if (character === '\u0003' || character === '\u0004') throw new Exit(1, 'given up')
        if (character === '\u007f' || character === '\b') text = text.slice(0, -1)
        else text += character
      }
    }
  } finally {
    input.setRawMode(false)
    input.pause()
    process.stderr.write('\n')
  }
}
