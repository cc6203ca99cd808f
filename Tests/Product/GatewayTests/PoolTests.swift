import EventLoopTasks
import Gateway
import HTTPTypes
import NIOCore
import NIOPosix
import SluiceClient
import Testing

@Suite("ClientPool", .timeLimit(.minutes(1))) struct ClientPoolTests {
    /// A pool whose broker does not exist: clients only try to connect.
    private func pool(_ change: (inout ClientPool.Limits) -> Void = { _ in }) -> ClientPool {
        var limits = ClientPool.Limits()
        change(&limits)
        return ClientPool(brokers: ["127.0.0.1:1"], trust: .systemRoots, limits: limits)
    }

    @Test("requests of one key share a client, others have their own")
    func sharing() async throws {
        let pool = pool()
        defer { pool.close() }
        let first = try await pool.lease("a")
        let second = try await pool.lease("a")
        let other = try await pool.lease("b")
        #expect(pool.count == 2)
        #expect(first.hash == second.hash && first.hash != other.hash)
        #expect(!first.hash.elementsEqual("a".utf8))
    }

    @Test("a key has a client for each loop that it is used on, and is refused on all")
    func loops() async throws {
        let pool = pool()
        defer { pool.close() }
        let executors = (0..<2).map { _ in
            EventLoopExecutor(MultiThreadedEventLoopGroup.singleton.any())
        }
        let first = try await pool.lease("a", on: executors[0])
        let second = try await pool.lease("a", on: executors[1])
        let third = try await pool.lease("a", on: executors[1])
        #expect(pool.count == 2)
        first.keyWasRefused(.unauthenticated)
        #expect(pool.count == 0)
        await #expect(throws: HTTPFault.self) { try await pool.lease("a", on: executors[1]) }
        withExtendedLifetime((first, second, third)) {}
    }

    @Test("where all clients are in use a new key is turned away, and an idle one makes room")
    func bound() async throws {
        let pool = pool { $0.clientsMax = 2 }
        defer { pool.close() }
        let first = try await pool.lease("a")
        var second: ClientLease? = try await pool.lease("b")
        await #expect(throws: HTTPFault.overloaded) { try await pool.lease("c") }
        second = nil
        let third = try await pool.lease("c")
        #expect(pool.count == 2)
        withExtendedLifetime((first, second, third)) {}
    }

    @Test("a client that nobody uses is closed, one in use is not")
    func idle() async throws {
        let pool = pool { $0.idleTime = .zero }
        defer { pool.close() }
        let used = try await pool.lease("a")
        _ = try await pool.lease("b")
        pool.closeIdle()
        #expect(pool.count == 1)
        withExtendedLifetime(used) {}
    }

    @Test("a refused key is refused again without asking, and its client is closed")
    func refusal() async throws {
        let pool = pool()
        defer { pool.close() }
        let lease = try await pool.lease("a")
        lease.keyWasRefused(.unauthenticated)
        #expect(pool.count == 0)
        let fault = await #expect(throws: HTTPFault.self) { try await pool.lease("a") }
        #expect(fault?.status == .unauthorized)
        _ = try await pool.lease("b")
    }

    @Test("a closed pool opens nothing")
    func closed() async throws {
        let pool = pool()
        pool.close()
        await #expect(throws: HTTPFault.overloaded) { try await pool.lease("a") }
        #expect(pool.count == 0)
    }
}
