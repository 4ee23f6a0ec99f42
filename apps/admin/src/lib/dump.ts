import { readFileSync } from 'node:fs'
import { basename } from 'node:path'
import { Command } from 'commander'
import { dumpFile } from '@mailstead/index/format'
import { dumpJournal, dumpMdboxFile, dumpSdboxIdentity, dumpTier } from '@mailstead/mdbox/format'
import { dumpLedger } from '@mailstead/store'
import { Exit } from './exit.ts'

/** Largest file that is dumped, in bytes. */
const FILE_MAX: number = 2 ** 31

/** `mailstead dump FILE`: what is in a file of a store, record by record, for people. */
export function dumpCommand(): Command {
  return new Command('dump')
    .description('print what is in a file of a store')
    .argument('<file>')
    .action((file: string) => {
      let bytes: Buffer
      try {
        bytes = readFileSync(file)
      } catch (error) {
        throw new Exit(2, `${file} cannot be read: ${(error as Error).message}`)
      }
      if (bytes.length > FILE_MAX) throw new Exit(2, `${file} is larger than ${FILE_MAX} bytes`)
      if (bytes.length === 0 && isLock(basename(file))) {
        process.stdout.write('a lock file: no content\n')
        return
      }
      const lines = dumped(bytes, file)
      if (lines === undefined) throw new Exit(1, `${file} is no file of a store, as far as its first bytes tell`)
      for (const line of lines) process.stdout.write(`${line}\n`)
    })
}

/** What is told apart by its first bytes first. Undefined: nothing of ours. */
function dumped(bytes: Buffer, file: string): Iterable<string> | undefined {
  const identity = dumpSdboxIdentity(bytes) ?? dumpTier(bytes)
  if (identity !== undefined) return [identity]
  if (isMdbox(bytes)) return dumpMdboxFile(bytes)
  return dumpLedger(bytes) ?? dumpJournal(bytes) ?? dumpFile(bytes, file)
}

/** dbox v2 files begin with `2 M`: the version and the first of the header's fields. */
function isMdbox(bytes: Buffer): boolean {
  return bytes.length > 2 && bytes[0] === 0x32 && bytes[1] === 0x20
}

/** Files that only carry a kernel lock. */
function isLock(name: string): boolean {
  return name === 'lock' || name === 'open' || name === 'checkpoint' || name.endsWith('.lock')
}
