/** The `mailstead` command as its sources are, whatever was built. */
import { run } from '../../apps/admin/src/index.ts'

process.exit(await run(process.argv.slice(2)))
