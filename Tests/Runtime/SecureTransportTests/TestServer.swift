import Glibc
import Synchronization
import Testing

import ContentArena
import LinuxIO
import SecureTransport
import TLSEngine

/// What a test tells its server's thread, and what it learns from it.
final class TestLog: Sendable {
    struct Content {
        var events: [TransportEvent] = []
        var counters = TransportCounters()
        var channelCount = 0
        /// The most that one wait has brought, bytes.
        var turnBytes: UInt64 = 0
        /// Waits that ended for nothing but sends that were done.
        var waitsForSendsAlone = 0
        /// Plaintext that was read, bytes.
        var readBytes = 0
        /// Of each channel that was established: the digest of its client's certificate.
        var certificates: [[UInt64]?] = []
        var isStopping = false
        var isReading = true
        var doorbell: Doorbell?
    }

    let content = Mutex(Content())

    var events: [TransportEvent] { content.withLock { $0.events } }
    var counters: TransportCounters { content.withLock { $0.counters } }

    var closeReasons: [CloseReason] {
        events.compactMap { if case .closed(_, let reason) = $0 { reason } else { nil } }
    }

    func count(where matches: (TransportEvent) -> Bool) -> Int {
        events.count(where: matches)
    }

    /// Waits, at most 20 s, until the log is as wanted.
    func reaches(_ wanted: (Content) -> Bool) -> Bool {
        for _ in 0..<4_000 {
            if content.withLock({ wanted($0) }) { return true }
            usleep(5_000)
        }
        return false
    }

    func reaches(events count: Int, where matches: (TransportEvent) -> Bool) -> Bool {
        reaches { $0.events.count(where: matches) >= count }
    }
}

/// What the server does with what it receives.
enum TestBehaviour: Sendable {
    case echo
    /// Reads, and sends nothing: only what is received ends its waits.
    case read
    /// Sends this many bytes to every established channel, then closes it after sending.
    case sendAndClose(Int)
    /// Sends this many bytes to every established channel.
    case send(Int)
    /// Closes at once, with a send in flight, whenever something is received.
    case sendAndAbort(Int)
}

/// One certificate for all tests.
enum TestTLS {
    private static let made = Result {
        let authority = try CertificateAuthority()
        return (authority: authority, pair: try authority.issue())
    }

    /// The certificate that clients trust.
    static var trust: String {
        get throws { try made.get().authority.certificate }
    }

    static func server(
        _ limits: TLSLimits = TLSLimits(), clientAuthorities: String? = nil
    ) throws -> TLSContext {
        let pair = try made.get().pair
        return try TLSContext(
            serverCertificate: pair.certificate, privateKey: pair.privateKey,
            clientAuthorities: clientAuthorities, limits: limits)
    }

    /// Clients may seal much before they send.
    static func client() throws -> TLSContext {
        var limits = TLSLimits()
        limits.outputBytesMax = 64 << 20
        return try TLSContext(clientTrusting: trust, limits: limits)
    }
}

/// Runs a server on a thread of its own while `body` runs; afterwards the log is final.
func withServer(
    _ kind: BackendKind, _ behaviour: TestBehaviour = .echo,
    limits: TransportLimits = TransportLimits(), settings: BackendSettings = BackendSettings(),
    tls: TLSLimits = TLSLimits(), clientAuthorities: String? = nil,
    _ body: (UInt16, TestLog) throws -> Void
) throws -> TestLog {
    let log = TestLog()
    let listener = try ListeningSocket(address: "127.0.0.1", port: 0)
    let port = listener.port
    let context = try TestTLS.server(tls, clientAuthorities: clientAuthorities)
    let box = ListenerBox(listener.descriptor)
    let thread = TestThread {
        do {
            switch kind {
            case .ring:
                try serve(RingBackend.self, context, box, limits, settings, behaviour, log)
            case .epoll:
                try serve(EpollBackend.self, context, box, limits, settings, behaviour, log)
            }
        } catch {
            Issue.record(error)
        }
    }
    let result = Result { try body(port, log) }
    log.content.withLock {
        $0.isStopping = true
        $0.doorbell?.ring()
    }
    thread.join()
    try result.get()
    return log
}

/// A copy of the listening descriptor for the server's thread.
struct ListenerBox: Sendable {
    let descriptor: Int32
    init(_ descriptor: Int32) { self.descriptor = dup(descriptor) }
}

private func serve<Backend: NetworkBackend & ~Copyable>(
    _: Backend.Type, _ context: TLSContext, _ listener: ListenerBox, _ limits: TransportLimits,
    _ settings: BackendSettings, _ behaviour: TestBehaviour, _ log: TestLog
) throws {
    var server = try SecureServer<Backend>(
        context: context, listener: try ListeningSocket(adopting: listener.descriptor),
        limits: limits, settings: settings)
    var region = try ContentRegion(byteCount: 65_536)
    var waiting = [[UInt8]](repeating: [], count: limits.channelsMax)
    var closing = [Bool](repeating: false, count: limits.channelsMax)
    var unread: [ChannelID] = []
    log.content.withLock { $0.doorbell = server.doorbell }
    while true {
        let before = server.counters.bytesReceived
        var timeoutMs = unread.isEmpty ? 1_000 : 1
        switch behaviour {
        case .read: timeoutMs = -1
        // Only what happens ends a wait.
        case .send, .sendAndClose: timeoutMs = unread.isEmpty ? -1 : 1
        case .echo, .sendAndAbort: break
        }
        let count = server.wait(timeoutMs: timeoutMs)
        let turnBytes = server.counters.bytesReceived - before
        var turn: [TransportEvent] = []
        for index in 0..<count {
            let event = server.event(at: index)
            turn.append(event)
            switch event {
            case .opened(let channel):
                waiting[Int(channel.index)] = []
                closing[Int(channel.index)] = false
            case .established(let channel):
                let words = server.peerCertificateDigest(channel)
                log.content.withLock {
                    $0.certificates.append(words.map { [$0.0, $0.1, $0.2, $0.3] })
                }
                switch behaviour {
                case .echo, .read, .sendAndAbort: break
                case .send(let bytes), .sendAndClose(let bytes):
                    waiting[Int(channel.index)] = pattern(bytes)
                    if case .sendAndClose = behaviour { closing[Int(channel.index)] = true }
                    pump(&server, channel, &waiting, &closing)
                }
            case .received(let channel):
                unread.append(channel)
            case .sent(let channel):
                pump(&server, channel, &waiting, &closing)
            case .closed, .accepted, .acceptingPaused, .signal, .doorbell:
                break
            }
        }
        if log.content.withLock({ $0.isReading }) {
            for channel in unread {
                while true {
                    let result = server.read(channel, into: &region, at: 0)
                    log.content.withLock { $0.readBytes += result.plaintextBytes }
                    if case .echo = behaviour {
                        region.span.extracting(0..<result.plaintextBytes).withUnsafeBufferPointer {
                            waiting[Int(channel.index)].append(contentsOf: $0)
                        }
                    }
                    if !result.mayHaveMore { break }
                }
                pump(&server, channel, &waiting, &closing)
                if case .sendAndAbort(let bytes) = behaviour {
                    waiting[Int(channel.index)] = pattern(bytes)
                    pump(&server, channel, &waiting, &closing)
                    // The send is submitted by this turn and cannot finish: the peer does not read.
                    _ = server.wait(timeoutMs: 0)
                    server.close(channel, afterSending: false)
                }
            }
            unread = []
        }
        let isStopping = log.content.withLock {
            $0.events += turn
            $0.counters = server.counters
            $0.channelCount = server.channelCount
            $0.turnBytes = max($0.turnBytes, turnBytes)
            let isSentAlone = turn.allSatisfy { if case .sent = $0 { true } else { false } }
            if !turn.isEmpty, isSentAlone { $0.waitsForSendsAlone += 1 }
            return $0.isStopping
        }
        if isStopping { return }
    }
}

/// Seals as much as the budget allows, and closes when all is sealed and that was wanted.
private func pump<Backend: NetworkBackend & ~Copyable>(
    _ server: inout SecureServer<Backend>, _ channel: ChannelID, _ waiting: inout [[UInt8]],
    _ closing: inout [Bool]
) {
    let index = Int(channel.index)
    while !waiting[index].isEmpty {
        let count = min(16_384, server.sealBudgetBytes(channel), waiting[index].count)
        guard count > 0, server.seal(channel, Array(waiting[index][..<count]).span) else { break }
        waiting[index].removeFirst(count)
    }
    if !waiting[index].isEmpty { server.awaitSend(channel) }
    server.flush(channel)
    if waiting[index].isEmpty, closing[index] {
        closing[index] = false
        server.close(channel, afterSending: true)
    }
}

func pattern(_ count: Int, seed: Int = 0) -> [UInt8] {
    (0..<count).map { UInt8(truncatingIfNeeded: $0 &* 31 &+ $0 >> 8 &+ seed &* 17) }
}
