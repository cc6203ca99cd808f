import Glibc
import Testing

import ContentArena
import LinuxIO
import SecureTransport
import TLSEngine

/// What a shard does with threads, signals and descriptors.
@Suite(.serialized) struct ShardTests {
    /// One shard accepts and hands the bare connection to another, before TLS.
    @Test(arguments: backends) func anAcceptedConnectionIsServedByAnotherServer(
        _ kind: BackendKind
    ) throws {
        switch kind {
        case .ring: try handOver(RingBackend.self)
        case .epoll: try handOver(EpollBackend.self)
        }
    }

    private func handOver<Backend: NetworkBackend & ~Copyable>(_: Backend.Type) throws {
        var limits = TransportLimits()
        limits.channelsMax = 4
        limits.handsOverAccepted = true
        let listener = try ListeningSocket(address: "127.0.0.1", port: 0)
        let port = listener.port
        let context = try TestTLS.server()
        var front = try SecureServer<Backend>(context: context, listener: listener, limits: limits)
        var back = try SecureServer<Backend>(context: context, listener: nil, limits: limits)
        let client = Unchecked(try TestClient(port: port, context: TestTLS.client()))
        let thread = ResultThread {
            try client.value.handshake()
            return true
        }
        var established = 0
        for _ in 0..<2_000 where established == 0 {
            for index in 0..<front.wait(timeoutMs: 1) {
                if case .accepted(let stream) = front.event(at: index) {
                    #expect(back.adopt(stream) == ChannelID(index: 0, generation: 0))
                }
            }
            for index in 0..<back.wait(timeoutMs: 5) {
                if case .established = back.event(at: index) { established += 1 }
            }
        }
        #expect(established == 1)
        #expect(thread.value)
        #expect(front.channelCount == 0)
        #expect(back.channelCount == 1)
        #expect(back.handshakingCount == 0)
    }

    @Test(arguments: backends) func aClosedListenerLeavesItsConnections(_ kind: BackendKind) throws
    {
        switch kind {
        case .ring: try stopAccepting(RingBackend.self)
        case .epoll: try stopAccepting(EpollBackend.self)
        }
    }

    private func stopAccepting<Backend: NetworkBackend & ~Copyable>(_: Backend.Type) throws {
        let listener = try ListeningSocket(address: "127.0.0.1", port: 0)
        let port = listener.port
        var server = try SecureServer<Backend>(context: TestTLS.server(), listener: listener)
        let client = Unchecked(try TestClient(port: port, context: TestTLS.client()))
        let thread = ResultThread {
            try client.value.handshake()
            return true
        }
        var isEstablished = false
        for _ in 0..<2_000 where !isEstablished {
            for index in 0..<server.wait(timeoutMs: 5) {
                if case .established = server.event(at: index) { isEstablished = true }
            }
        }
        #expect(thread.value)
        server.stopAccepting()
        #expect(server.isAccepting == false)
        // A process that is being spawned elsewhere may hold a copy for a moment.
        var isRefused = false
        for _ in 0..<2_000 where !isRefused {
            _ = server.wait(timeoutMs: 1)
            isRefused = !canConnect(port: port)
        }
        #expect(isRefused)
        #expect(server.channelCount == 1)
        try client.value.send([7])
        var region = try ContentRegion(byteCount: 64)
        var received: [UInt8] = []
        for _ in 0..<2_000 where received.isEmpty {
            for index in 0..<server.wait(timeoutMs: 5) {
                guard case .received(let channel) = server.event(at: index) else { continue }
                let result = server.read(channel, into: &region, at: 0)
                for offset in 0..<result.plaintextBytes { received.append(region.span[offset]) }
            }
        }
        #expect(received == [7])
    }

    @Test(arguments: backends) func theDoorbellEndsAWaitOfAnotherThread(
        _ kind: BackendKind
    ) throws {
        switch kind {
        case .ring: try ring(RingBackend.self)
        case .epoll: try ring(EpollBackend.self)
        }
    }

    private func ring<Backend: NetworkBackend & ~Copyable>(_: Backend.Type) throws {
        var server = try SecureServer<Backend>(context: TestTLS.server(), listener: nil)
        for gatherUs in [0, 500, 0] {
            let bell = server.doorbell
            let thread = TestThread {
                usleep(20_000)
                bell.ring()
            }
            var count = 0
            while count == 0 { count = server.wait(timeoutMs: -1, gatherUs: gatherUs) }
            #expect(count == 1)
            #expect(server.event(at: 0) == .doorbell)
            thread.join()
            #expect(server.wait(timeoutMs: 0) == 0)
        }
    }

    /// In a process of its own, whose other threads do not block the signal: it is sent to one.
    @Test func sigtermIsAnEvent() async {
        await #expect(processExitsWith: .exitCode(7)) {
            let stop = try SignalDescriptor()
            var server = try SecureServer<RingBackend>(
                context: TestTLS.server(), listener: nil, stop: stop)
            pthread_kill(pthread_self(), SIGTERM)
            let count = server.wait(timeoutMs: 10_000)
            if count == 1, server.event(at: 0) == .signal(SIGTERM) { exit(7) }
        }
    }

    @Test func descriptorsThatRunOutPauseAcceptingOnTheRing() async {
        await #expect(processExitsWith: .exitCode(7)) { try exhaustDescriptors(.ring) }
    }

    @Test func descriptorsThatRunOutPauseAcceptingOnEpoll() async {
        await #expect(processExitsWith: .exitCode(7)) { try exhaustDescriptors(.epoll) }
    }

    private func canConnect(port: UInt16) -> Bool {
        let descriptor = socket(AF_INET, Int32(SOCK_STREAM.rawValue), 0)
        defer { close(descriptor) }
        return TestClient.tryConnect(descriptor, port: port)
    }
}

/// Exits with 7 if a server that has no descriptors left says so and serves again later.
private func exhaustDescriptors(_ kind: BackendKind) throws {
    // Before the server starts: the kernel notes the limit when an accept is armed.
    var limit = rlimit()
    getrlimit(__rlimit_resource_t(RLIMIT_NOFILE.rawValue), &limit)
    limit.rlim_cur = 256
    setrlimit(__rlimit_resource_t(RLIMIT_NOFILE.rawValue), &limit)
    _ = try withServer(kind) { port, log in
        let context = try TestTLS.client()
        let first = try TestClient(port: port, context: context)
        try first.handshake()
        // Both ends are in this process: made now, connected when no descriptor is left.
        let late = socket(AF_INET, Int32(SOCK_STREAM.rawValue), 0)
        var taken: [Int32] = []
        while true {
            let descriptor = dup(0)
            if descriptor < 0 { break }
            taken.append(descriptor)
        }
        guard TestClient.tryConnect(late, port: port) else { return }
        guard log.reaches(events: 1, where: { $0 == .acceptingPaused }) else { return }
        // Streams go on meanwhile.
        try first.send([1, 2, 3])
        guard try first.receive(exactly: 3) == [1, 2, 3] else { return }
        for descriptor in taken { close(descriptor) }
        guard
            log.reaches(
                events: 2, where: { if case .opened = $0 { true } else { false } })
        else { return }
        let client = try TestClient(port: port, context: context)
        try client.handshake()
        try client.send([4])
        guard try client.receive(exactly: 1) == [4] else { return }
        exit(7)
    }
}
