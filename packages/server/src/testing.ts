export { type TestServer, testServer, type TestServerOptions } from './lib/test-server.ts'
