/** Stores whose messages are in an sdbox do what a plain model does. */
import './use-sdbox.ts'
import '../../packages/store/src/lib/model.test.ts'
