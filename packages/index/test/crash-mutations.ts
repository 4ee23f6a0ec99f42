/**
 * Mistakes that one could make in the protocol of the index, each made between it and its disk. Every one must be caught by
 * looking at what power cuts leave; what cannot be caught is no part of the protocol.
 */
import type { Fs, FsSource, FsStat, FsWriteOptions } from '@mailstead/fs'
import { failNth, faultyFs } from '@mailstead/fs/faults'
import { ByteWriter } from '@mailstead/bytes'
import { readControlSlot } from '../src/lib/control.ts'
import { FRAME_END, writeFrame } from '../src/lib/frame.ts'
import { segmentOfName } from '../src/lib/segment.ts'
import { readTableList, type TableList, writeTableList } from '../src/lib/table-list.ts'
import type { Mutation } from './crash-workload.ts'
import { type Intercept, intercepted } from './intercept.ts'

const isLog = (path: string): boolean => path.endsWith('.log')
const isSnapshot = (path: string): boolean => path.endsWith('.snap')
const isList = (path: string): boolean => path.endsWith('tables/directory')
const isOldList = (path: string): boolean => path.endsWith('directory.old')
const isControl = (path: string): boolean => path.endsWith('/control')

export const wrap = (by: () => Intercept): Pick<Mutation, 'wrap'> => ({ wrap: (fs) => intercepted(fs, by()) })

async function bytesOf(data: FsSource): Promise<Uint8Array> {
  if (data instanceof Uint8Array) return data
  return Buffer.concat(await Array.fromAsync(data))
}

/** Writes a file where it is, without a moment in which the old one is whole. */
async function inPlace(fs: Fs, path: string, data: FsSource, options: FsWriteOptions | undefined): Promise<FsStat> {
  const bytes = await bytesOf(data)
  if (!fs.supports.overwrite) {
    await fs.writeFile(path, bytes.subarray(0, bytes.length >> 1), options)
    return fs.writeFile(path, bytes)
  }
  await using file = await fs.open(path, 'write')
  await file.truncate(0)
  await file.write(bytes, 0)
  await file.sync()
  await fs.syncDirectory(path.slice(0, path.lastIndexOf('/')))
  return await file.stat()
}

export const replacesInPlace = (is: (path: string) => boolean): Pick<Mutation, 'wrap'> =>
  wrap(() => ({
    writeFile: (fs, path, data, options) =>
      is(path) ? inPlace(fs, path, data, options) : fs.writeFile(path, data, options),
  }))

/** A file that is written only when something else is done: when `until` says so of the path of the next change. */
export function writesLater(
  is: (path: string) => boolean,
  until: (operation: string, path: string) => boolean,
): Pick<Mutation, 'wrap'> {
  return wrap(() => {
    const waiting: (() => Promise<unknown>)[] = []
    const flush = async (operation: string, path: string): Promise<void> => {
      if (until(operation, path)) for (const one of waiting.splice(0)) await one()
    }
    return {
      writeFile: async (fs, path, data, options): Promise<FsStat> => {
        if (is(path)) {
          const bytes = await bytesOf(data)
          waiting.push(() => fs.writeFile(path, bytes, options))
          return { kind: 'file', size: bytes.length, modifiedMs: 0, tag: '' }
        }
        const stat = await fs.writeFile(path, data, options)
        await flush('writeFile', path)
        return stat
      },
      remove: async (fs, path) => {
        await fs.remove(path)
        await flush('remove', path)
      },
    }
  })
}

/** Whether the newest slot that was written says so. */
function controlSays(state: 'open' | 'sealed'): Pick<Mutation, 'wrap'> {
  return wrap(() => {
    let last: string | undefined
    return {
      write: (file, data, position) => {
        if (isControl(file.path)) last = slotIn(data)
        return file.write(data, position)
      },
      sync: (file) => (isControl(file.path) && last === state ? Promise.resolve() : file.sync()),
    }
  })
}

function slotIn(data: Uint8Array): 'open' | 'sealed' | undefined {
  const both = new Uint8Array(2 * data.length)
  both.set(data, 0)
  both.set(data, data.length)
  return (readControlSlot(both, 0) ?? readControlSlot(both, data.length))?.state
}

const END_LENGTH = ((): number => {
  const out = new ByteWriter()
  const frame = { unflushed: 1, bits: FRAME_END, parts: 0, before: 0, tables: [], payload: [] }
  writeFrame(out, { salt: new Uint8Array(8), number: 1 }, frame)
  return out.finish().length
})()

const length = (parts: readonly Uint8Array[]): number => parts.reduce((sum, part) => sum + part.length, 0)

export async function segmentsOf(fs: Fs, directory: string): Promise<string[]> {
  const names: string[] = []
  for await (const page of fs.list(directory)) for (const { name } of page) names.push(name)
  return names.filter(isLog).sort()
}

const LOG = 'store/log'

/** Both lists of tables, each time one is written, with a mistake in them. */
function lists(mistake: (list: TableList, isOld: boolean) => void): Pick<Mutation, 'wrap'> {
  return wrap(() => ({
    writeFile: async (fs, path, data, options) => {
      const list = isList(path) || isOldList(path) ? readTableList(await bytesOf(data)) : undefined
      if (list === undefined) return fs.writeFile(path, data, options)
      mistake(list, isOldList(path))
      return fs.writeFile(path, writeTableList(list), options)
    },
  }))
}

export const mutations: readonly Mutation[] = [
  // ---- commits
  { name: 'a group is not flushed', soon: true, lies: () => (operation, path) => operation === 'sync' && isLog(path) },
  {
    name: 'a group counts as flushed when its flush has only been asked for',
    ...wrap(() => {
      const late = new Set<string>()
      return {
        sync: async (file) => {
          if (isLog(file.path) && !late.has(file.path)) late.add(file.path)
          else await file.sync()
        },
        append: (path, parts) => {
          late.delete(path)
          return parts
        },
      }
    }),
  },
  {
    name: 'every third flush of the log is left out',
    ...wrap(() => {
      let n = 0
      return { sync: (file) => (isLog(file.path) && ++n % 3 === 0 ? Promise.resolve() : file.sync()) }
    }),
  },
  {
    name: 'the flush after lazy changes, which records how far they may go, is left out',
    lies: (scene) => (operation, path) => operation === 'sync' && isLog(path) && scene.phase === 'lazy',
  },
  {
    name: 'a short append counts as a whole one',
    ...wrap(() => {
      let n = 0
      return {
        append: (path, parts) => {
          if (!isLog(path) || ++n % 5 !== 0) return parts
          const all = Buffer.concat(parts)
          return [all.subarray(0, all.length >> 1)]
        },
      }
    }),
  },
  {
    name: 'the frames of a group are written in another order',
    ...wrap(() => ({
      append: (path, parts) => {
        const all = Buffer.concat(parts)
        if (!isLog(path) || all.length < 300) return parts
        const half = all.length >> 1
        return [all.subarray(half), all.subarray(0, half)]
      },
    })),
  },
  {
    name: 'a flush that failed is tried again, and counts when that succeeds',
    failing: (fs) => faultyFs(fs, failNth({ operation: 'sync', path: /\.log$/, nth: 4, fault: 'EIO' })),
    ...wrap(() => ({
      sync: async (file, fs) => {
        try {
          await file.sync()
        } catch {
          await using another = await fs.open(file.path, 'write')
          await another.sync()
        }
      },
    })),
  },
  {
    name: 'the commit lock excludes nobody',
    concurrent: true,
    ...wrap(() => ({ lock: (_fs, path, lock) => (path.endsWith('/lock') ? unlocked(lock) : lock) })),
  },
  // ---- segments
  {
    name: 'the end of a segment is not flushed before the next one is made',
    ...wrap(() => {
      let ends = false
      return {
        append: (path, parts) => {
          if (isLog(path)) ends = length(parts) === END_LENGTH
          return parts
        },
        sync: (file) => (isLog(file.path) && ends ? Promise.resolve() : file.sync()),
      }
    }),
  },
  {
    name: 'a segment gets no end',
    soon: true,
    ...wrap(() => ({
      append: (path, parts) => (isLog(path) && length(parts) === END_LENGTH ? [] : parts),
    })),
  },
  {
    name: 'the name of a new segment is not flushed',
    lies: () => (operation, path) => operation === 'writeFile' && isLog(path),
  },
  { name: 'a new segment is written in place', ...replacesInPlace(isLog) },
  {
    name: 'segments go without a flush between them',
    lies: () => (operation, path) => operation === 'syncDirectory' && path === LOG,
    ...wrap(() => ({})),
  },
  {
    name: 'the newest of several segments goes first',
    ...wrap(() => ({
      remove: async (fs, path) => {
        if (!isLog(path)) return fs.remove(path)
        const names = await segmentsOf(fs, LOG)
        // Another than was asked for, as if the list had been read backwards.
        const at = Math.max(0, names.length - 2)
        return fs.remove(`${LOG}/${names[at]!}`)
      },
    })),
  },
  {
    name: 'a segment more than is allowed goes',
    ...wrap(() => ({
      remove: async (fs, path) => {
        await fs.remove(path)
        if (!isLog(path)) return
        await fs.syncDirectory(LOG)
        const [next, ...others] = await segmentsOf(fs, LOG)
        if (others.length > 0) await fs.remove(`${LOG}/${next!}`)
      },
    })),
  },
  {
    name: 'segments go before the list is there that needs them no longer',
    ...wrap(() => ({
      writeFile: async (fs, path, data, options) => {
        if (isList(path))
          for (const name of (await segmentsOf(fs, LOG)).slice(0, -1)) {
            await fs.remove(`${LOG}/${name}`)
            await fs.syncDirectory(LOG)
          }
        return fs.writeFile(path, data, options)
      },
    })),
  },
  {
    name: 'a torn tail is not cut off',
    soon: true,
    ...wrap(() => ({ truncate: (file, size) => (isLog(file.path) ? Promise.resolve() : file.truncate(size)) })),
  },
  {
    name: 'a torn tail is cut off together with the frame before it',
    ...wrap(() => ({
      truncate: (file, size) => file.truncate(isLog(file.path) ? Math.max(0, size - 60) : size),
    })),
  },
  // ---- control
  { name: 'what says that the log is open is not flushed before the first append', ...controlSays('open') },
  {
    name: 'what says that the log is open is not written',
    ...wrap(() => ({
      write: (file, data, position) =>
        isControl(file.path) && slotIn(data) === 'open' ? Promise.resolve() : file.write(data, position),
    })),
  },
  {
    name: 'the log is sealed before it is flushed',
    lies: (scene) => (operation, path) => operation === 'sync' && isLog(path) && scene.phase === 'closing',
  },
  {
    name: 'the log is sealed in one slot only',
    soon: true,
    ...wrap(() => {
      let sealed = false
      return {
        write: (file, data, position) => {
          if (!isControl(file.path)) return file.write(data, position)
          const again = sealed
          sealed = slotIn(data) === 'sealed'
          return sealed && again ? Promise.resolve() : file.write(data, position)
        },
      }
    }),
  },
  {
    name: 'the newer slot of the control file is written over',
    ...wrap(() => ({
      write: (file, data, position) => file.write(data, isControl(file.path) ? 512 - position : position),
    })),
  },
  {
    name: 'the control file is emptied and written anew',
    ...wrap(() => ({
      write: async (file, data, position) => {
        if (!isControl(file.path)) return file.write(data, position)
        const all = new Uint8Array(1024)
        await file.read(all, 0)
        all.set(data, position)
        await file.truncate(0)
        await file.write(all, 0)
      },
    })),
  },
  {
    name: 'the log is sealed while somebody else has it open',
    ...wrap(() => ({ lock: (_fs, path, lock) => (path.endsWith('/open') ? unlocked(lock) : lock) })),
  },
  // ---- checkpoints
  {
    name: 'what is appended to a snapshot is not flushed before the list names it',
    lies: () => (operation, path) => operation === 'sync' && isSnapshot(path),
  },
  {
    name: 'a new snapshot is not flushed before the list names it',
    lies: () => (operation, path) => operation === 'writeFile' && isSnapshot(path),
  },
  { name: 'a snapshot is written anew in place', ...replacesInPlace(isSnapshot) },
  {
    name: 'the snapshots are written after the list',
    soon: true,
    ...writesLater(isSnapshot, (_, path) => isList(path)),
  },
  {
    name: 'what an unfinished checkpoint left at the end of a snapshot stays there',
    ...wrap(() => ({ truncate: (file, size) => (isSnapshot(file.path) ? Promise.resolve() : file.truncate(size)) })),
  },
  {
    name: 'a snapshot is cut off where the list still names it',
    ...wrap(() => ({
      append: (_path, parts) => parts,
      sync: async (file) => {
        if (isSnapshot(file.path)) {
          const { size } = await file.stat()
          const all = new Uint8Array(size)
          await file.read(all, 0)
          await file.truncate(0)
          await file.write(all, 0)
        }
        return file.sync()
      },
    })),
  },
  {
    name: 'the list of tables is not flushed before segments go',
    lies: () => (operation, path) => operation === 'writeFile' && isList(path),
  },
  { name: 'the list of tables is written in place', ...replacesInPlace(isList) },
  {
    name: 'the list before the last is not kept',
    soon: true,
    ...wrap(() => ({
      writeFile: async (fs, path, data, options) =>
        isOldList(path) ? nothing(data) : fs.writeFile(path, data, options),
    })),
  },
  {
    name: 'the list before the last is the last one',
    ...wrap(() => ({
      writeFile: async (fs, path, data, options) => {
        const stat = await fs.writeFile(path, data, options)
        if (isList(path)) await fs.writeFile(`${path}.old`, new Uint8Array(10))
        return stat
      },
    })),
  },
  {
    name: 'directories are not flushed when they are made',
    lies: () => (operation) => operation === 'makeDirectory',
  },
  // ---- what a list tells of the log
  {
    name: 'lists do not tell how long nothing touched a table after its snapshot',
    soon: true,
    ...lists(({ next, logBytes, tables }, isOld) => {
      // What a checkpoint writes is what it was: by that the log is dropped.
      if (!isOld && logBytes === 0) return
      for (const table of tables) {
        table.frame = isOld ? Math.max(table.frame, next - 1) : table.frame
        if (table.frame <= (table.snapshot?.frame ?? 0)) continue
        table.lacksFrom = (table.snapshot?.frame ?? 0) + 1
        table.frames = []
      }
    }),
  },
  {
    name: 'a list leaves out the first frame after a snapshot',
    ...lists(({ tables }) => {
      for (const table of tables) table.frames = table.frames.slice(3)
    }),
  },
  {
    name: 'a list leaves out the last frame after a snapshot',
    medium: 'objects',
    ...lists(({ tables }) => {
      for (const table of tables) table.frames = table.frames.slice(0, -3)
    }),
  },
  {
    name: 'a list forgets of the frames that the one before told of',
    ...wrap(() => {
      let next = 0
      return {
        writeFile: async (fs, path, data, options) => {
          const list = isList(path) ? readTableList(await bytesOf(data)) : undefined
          if (list === undefined) return fs.writeFile(path, data, options)
          const before = next
          next = list.next
          for (const table of list.tables) {
            let from = 0
            while (from < table.frames.length && table.frames[from]! < before) from += 3
            table.frames = table.frames.slice(from)
          }
          return fs.writeFile(path, writeTableList(list), options)
        },
      }
    }),
  },
  {
    name: 'segments before the position of the list before go, those of frames after snapshots too',
    ...wrap(() => {
      let needed = 0
      return {
        writeFile: async (fs, path, data, options) => {
          if (isOldList(path)) needed = readTableList(await bytesOf(data))?.segment ?? 0
          const stat = await fs.writeFile(path, data, options)
          if (isList(path) && needed > 0) {
            for (const name of await segmentsOf(fs, LOG)) {
              if (segmentOfName(name) >= needed) break
              await fs.remove(`${LOG}/${name}`)
              await fs.syncDirectory(LOG)
            }
            needed = 0
          }
          return stat
        },
      }
    }),
  },
  {
    name: 'the list before the last checkpoint gives way to one without snapshots',
    ...wrap(() => ({
      writeFile: async (fs, path, data, options) => {
        if (!isList(path) || (await fs.stat(path)) === undefined) return fs.writeFile(path, data, options)
        const before = await fs.readFile(path)
        // As if the log were kept for this one alone from now on.
        const stat = await fs.writeFile(path, data, options)
        const list = readTableList(await bytesOf(data))
        if (list === undefined || list.logBytes === 0) return stat
        await fs.writeFile(`${path}.old`, before)
        for (const name of await segmentsOf(fs, LOG)) {
          if (segmentOfName(name) >= list.segment) break
          await fs.remove(`${LOG}/${name}`)
          await fs.syncDirectory(LOG)
        }
        return stat
      },
    })),
  },
  // ---- objects
  {
    name: 'an object of the log is not durable when it is acknowledged',
    soon: true,
    medium: 'objects',
    lies: () => (operation, path) => operation === 'writeFile' && isLog(path),
  },
  { name: 'an object of the log is not created at once', medium: 'objects', ...replacesInPlace(isLog) },
  {
    name: 'an object of the log is created after it was acknowledged',
    medium: 'objects',
    ...writesLater(isLog, (_operation, path) => !isLog(path)),
  },
  {
    name: 'an object of the log replaces one that is there',
    medium: 'objects',
    concurrent: true,
    ...wrap(() => ({
      writeFile: (fs, path, data, options) => fs.writeFile(path, data, isLog(path) ? {} : options),
    })),
  },
  {
    name: 'the objects go before the list is there that needs them no longer',
    medium: 'objects',
    ...wrap(() => ({
      writeFile: async (fs, path, data, options) => {
        if (isList(path)) for (const name of (await segmentsOf(fs, LOG)).slice(0, -1)) await fs.remove(`${LOG}/${name}`)
        return fs.writeFile(path, data, options)
      },
    })),
  },
  { name: 'a snapshot among objects is written in place', medium: 'objects', ...replacesInPlace(isSnapshot) },
]

async function nothing(data: FsSource): Promise<FsStat> {
  const { length: size } = await bytesOf(data)
  return { kind: 'file', size, modifiedMs: 0, tag: '' }
}

type Lock = Awaited<ReturnType<Fs['lock']>>

/** Everybody has it. */
function unlocked(lock: Lock): Lock {
  let held: Lock['held']
  return {
    get held() {
      return held
    },
    tryAcquire: (mode = 'exclusive') => {
      held = mode
      return true
    },
    acquire: async (options) => {
      held = options?.mode ?? 'exclusive'
    },
    release: () => {
      held = undefined
    },
    [Symbol.asyncDispose]: () => lock[Symbol.asyncDispose](),
  }
}
