#!/usr/bin/env node
// The `mailstead` command. Says so plainly where Node is too old to read the rest.
const major = Number(process.versions.node.split('.')[0])
if (major < 24) {
  console.error(`mailstead needs Node 24 or newer; this is ${process.versions.node}.`)
  process.exit(2)
}
const { run } = await import('../dist/index.js')
process.exit(await run(process.argv.slice(2)))
