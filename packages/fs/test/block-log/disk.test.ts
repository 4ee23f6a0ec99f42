import { existsSync, readdirSync, readFileSync, writeFileSync } from 'node:fs'
import { dirname, join } from 'node:path'
import { setTimeout as sleep } from 'node:timers/promises'
import { spawn } from 'node:child_process'
import { expect, test } from 'vitest'
import { describeUnless } from '../unless.ts'
import { BlockLogDisk, blockLogUnavailable } from './disk.ts'
import { Volume } from './volume.ts'

const mounts = (directory: string): string[] =>
  readFileSync('/proc/mounts', 'utf8')
    .split('\n')
    .filter((line) => line.includes(directory))
const loops = (directory: string): string[] =>
  readdirSync('/sys/block').filter((name) => {
    const file = `/sys/block/${name}/loop/backing_file`
    return existsSync(file) && readFileSync(file, 'utf8').startsWith(directory)
  })

/** Everything of a disk is gone; loop devices are freed a moment after they are unmounted. */
async function expectGone(directory: string): Promise<void> {
  expect(mounts(directory)).toEqual([])
  expect(existsSync(directory)).toBe(false)
  while (loops(directory).length > 0) await sleep(5)
}

describeUnless(blockLogUnavailable(), 'a disk that logs', () => {
  test('shows what was flushed when it was marked, in every image of a later moment', async () => {
    await using disk = await BlockLogDisk.create()
    for (let i = 0; i < 3; i++) {
      writeFileSync(join(disk.mountPoint, `${i}`), `content ${i}`, { flush: true })
      disk.mark(`${i}`)
    }
    const seen: number[] = []
    for await (const { directory, marks, description } of disk.images({ seed: 1, subsetsPerFlush: 1 })) {
      expect(marks).toEqual(['0', '1', '2'].slice(0, marks.length))
      for (const label of marks)
        expect(readFileSync(join(directory, label), 'utf8'), description).toBe(`content ${label}`)
      // An image may be changed: nobody sees it but who got it.
      writeFileSync(join(directory, '0'), 'changed')
      seen.push(marks.length)
      // What follows is written while the disk is unmounted.
      if (marks.length === 3) break
    }
    expect(new Set(seen)).toEqual(new Set([0, 1, 2, 3]))
    expect(seen).toEqual(seen.toSorted((a, b) => a - b))
  })

  test('is gone when it was disposed, whatever failed meanwhile', async () => {
    let directory = ''
    const failing = async (): Promise<void> => {
      await using disk = await BlockLogDisk.create()
      directory = dirname(disk.mountPoint)
      writeFileSync(join(disk.mountPoint, 'file'), 'content', { flush: true })
      expect(mounts(directory).length).toBe(2)
      for await (const image of disk.images({ seed: 1 })) throw new Error(`looked into ${image.directory}`)
    }
    await expect(failing()).rejects.toThrow('looked into')
    await expectGone(directory)
    await expect(BlockLogDisk.create({ mountOptions: ['no-such-option'] })).rejects.toThrow('mount')
    expect(mounts(`/mailstead-disk-${process.pid}-`)).toEqual([])
  })

  for (const [how, gone] of [
    ['exits', true],
    ['is killed', false],
  ] as const)
    test(`is gone when its process ${how} without disposing it${gone ? '' : ', once another disk is made'}`, async () => {
      const program = `
        import { BlockLogDisk } from ${JSON.stringify(new URL('disk.ts', import.meta.url).href)}
        const disk = await BlockLogDisk.create()
        console.log(disk.mountPoint)
        ${how === 'exits' ? 'process.exit(1)' : "process.kill(process.pid, 'SIGKILL')"}`
      const child = spawn(process.execPath, ['--input-type=module', '-e', program], {
        stdio: ['ignore', 'pipe', 'inherit'],
      })
      const chunks: Buffer[] = []
      child.stdout.on('data', (chunk: Buffer) => chunks.push(chunk))
      // Not 'close': what the child started may hold its output open for as long as it lives.
      await new Promise((resolve) => child.on('exit', resolve))
      const directory = dirname(Buffer.concat(chunks).toString().trim())
      expect(directory).toContain('mailstead-disk-')
      if (!gone) {
        expect(mounts(directory).length).toBe(2)
        await using _ = await Volume.create()
      }
      await expectGone(directory)
    })
})
