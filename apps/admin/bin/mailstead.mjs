#!/usr/bin/env node
// The `mailstead` command. Says so plainly where Node is too old to read the rest.
const major = Number(process.versions.node.split('.')[0])
if (major < 24) {
  console.error(`mailstead needs Node 24 or newer; this is ${process.versions.node}.`)
  process.exit(2)
}
// Flushes of many stores go on at once, each in a thread; libuv looks at this before its first one.
process.env.UV_THREADPOOL_SIZE ??= '16'
const { run } = await import('../dist/index.js')
process.exit(await run(process.argv.slice(2)))
