/**
 * Mistakes that one could make in the protocol of a repair, each made between it and its disk. Every one must be caught: by what
 * power cuts leave, by what the second repair then makes of it, or by somebody else who commits meanwhile. (That the list and
 * snapshots among objects are replaced only if they are what was read is not here: once the log is begun anew nobody commits, and
 * what an old checkpoint writes says nothing that is not true of the repaired index too. Nor that the control file is written
 * in place: what a power cut leaves of it is damage, which the next repair ends.)
 */
import type { Mutation } from './crash-workload.ts'
import { replacesInPlace, segmentsOf, wrap, writesLater } from './crash-mutations.ts'
import { path } from './damaged-store.ts'

const isOwn = (name: string): boolean => !name.includes('/repair-')
const isLog = (name: string): boolean => name.endsWith('.log') && isOwn(name)
const isSnapshot = (name: string): boolean => name.endsWith('.snap') && isOwn(name)
const isList = (name: string): boolean => name.endsWith('tables/directory') && isOwn(name)
const isControl = (name: string): boolean => name.endsWith('/control') && isOwn(name)
const LOG = `${path}/log`

export const repairMutations: readonly Mutation[] = [
  {
    name: 'what is replaced is not copied before',
    soon: true,
    ...writesLater(
      (name) => !isOwn(name),
      () => false,
    ),
  },
  {
    name: 'the copies are not flushed before anything is replaced',
    soon: true,
    lies: () => (operation, name) => operation === 'writeFile' && !isOwn(name),
  },
  {
    name: 'a snapshot is not flushed before the list names it',
    soon: true,
    lies: () => (operation, name) => operation === 'writeFile' && isSnapshot(name),
  },
  { name: 'the snapshots are written after the list', ...writesLater(isSnapshot, (_, name) => isList(name)) },
  { name: 'a snapshot is written in place', soon: true, ...replacesInPlace(isSnapshot) },
  {
    name: 'the new segment is not flushed before the list names it',
    soon: true,
    lies: () => (operation, name) => operation === 'writeFile' && isLog(name),
  },
  { name: 'the list is written before the new segment', ...writesLater(isLog, (_, name) => isList(name)) },
  {
    name: 'the list is not flushed before segments go',
    soon: true,
    lies: () => (operation, name) => operation === 'writeFile' && isList(name),
  },
  {
    name: 'segments go before the list is there that needs them no longer',
    ...wrap(() => ({
      writeFile: async (fs, name, data, options) => {
        if (isList(name))
          for (const one of (await segmentsOf(fs, LOG)).slice(0, -1)) {
            await fs.remove(`${LOG}/${one}`)
            await fs.syncDirectory(LOG)
          }
        return fs.writeFile(name, data, options)
      },
    })),
  },
  {
    name: 'the control file says that the log is closed before the list is there',
    soon: true,
    ...writesLater(isList, (_, name) => isControl(name)),
  },
  {
    name: 'segments stay',
    soon: true,
    ...wrap(() => ({ remove: async (fs, name) => (isLog(name) ? undefined : fs.remove(name)) })),
  },
  // ---- objects
  {
    name: 'among objects, the log is begun anew over what somebody committed',
    soon: true,
    medium: 'objects',
    ...wrap(() => ({
      writeFile: (fs, name, data, options) => fs.writeFile(name, data, isLog(name) ? {} : options),
    })),
  },
  {
    name: 'among objects, the new segment is not durable when the list names it',
    soon: true,
    medium: 'objects',
    lies: () => (operation, name) => operation === 'writeFile' && isLog(name),
  },
  {
    name: 'among objects, the segments go before the list is there that needs them no longer',
    medium: 'objects',
    ...wrap(() => ({
      writeFile: async (fs, name, data, options) => {
        if (isList(name)) for (const one of (await segmentsOf(fs, LOG)).slice(0, -1)) await fs.remove(`${LOG}/${one}`)
        return fs.writeFile(name, data, options)
      },
    })),
  },
]
