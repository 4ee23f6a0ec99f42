/** Messages of an sdbox change their mailbox as those of any other box. */
import './use-sdbox.ts'
import '../../packages/store/src/lib/transfer.test.ts'
