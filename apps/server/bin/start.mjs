// What `npm start` runs. Says so plainly where Node is too old to read the rest.
const major = Number(process.versions.node.split('.')[0])
if (major < 24) {
  console.error(`Mailstead needs Node 24 or newer; this is ${process.versions.node}.`)
  process.exit(2)
}
// Flushes of many stores go on at once, each in a thread; libuv looks at this before its first one.
process.env.UV_THREADPOOL_SIZE ??= '16'
const { startDemo } = await import('../dist/index.js')
try {
  await startDemo(process.argv.slice(2))
  process.exit(0)
} catch (error) {
  console.error(error instanceof Error && ('code' in error || error.name === 'ConfigError') ? error.message : error)
  process.exit(error instanceof Error && error.name === 'ConfigError' ? 2 : 1)
}
