/**
 * One case on our side in a process of its own, for strace: `node box-child.ts ROW DIRECTORY quick|whole mdbox|sdbox`, with a directory in
 * which a user was filled. Prints when the work began and ended, and on how many messages.
 */
import { boxCases, counted, QUICK_SIZES, SIZES } from './box-cases.ts'
import { OurBoxes } from './box-sides.ts'

const [row, directory, sizes, word] = process.argv.slice(2)
const kind = word === 'sdbox' ? 'sdbox' : 'mdbox'
const found = boxCases(sizes === 'quick' ? QUICK_SIZES : SIZES, kind).find((one) => one.row === row)
if (found === undefined) throw new Error(`no such case: ${row}`)
process.stdout.write(JSON.stringify(await counted(found, new OurBoxes(directory!, kind))))
