import Glibc
import Synchronization
import Testing

import LinuxIO
import SecureTransport
import TLSEngine

let backends: [BackendKind] = [.ring, .epoll]

@Suite(.serialized) struct SecureServerTests {
    @Test(arguments: backends) func bytesOfEverySizeComeBack(_ kind: BackendKind) throws {
        let log = try withServer(kind) { port, _ in
            let client = try TestClient(port: port, context: TestTLS.client())
            try client.handshake()
            for size in [1, 2, 12, 100, 4_096, 16_383, 16_384, 16_385, 65_536, 300_000] {
                let bytes = pattern(size, seed: size)
                let ciphertext = client.sealed(bytes)
                let sender = Unchecked(client)
                let thread = TestThread { try? sender.value.write(ciphertext) }
                #expect(try client.receive(exactly: size) == bytes)
                thread.join()
            }
            try client.sayGoodbye()
            #expect(client.receiveEnd() == .closedByPeer)
        }
        #expect(log.closeReasons == [.closedByPeer] || log.closeReasons.isEmpty)
        #expect(log.counters.handshakes == 1)
    }

    @Test(arguments: backends) func recordsCutAtEveryByteAreRead(_ kind: BackendKind) throws {
        _ = try withServer(kind) { port, _ in
            let client = try TestClient(port: port, context: TestTLS.client())
            try client.handshake()
            var expected: [UInt8] = []
            var ciphertext: [UInt8] = []
            for index in 1...12 {
                let bytes = pattern(index * 7, seed: index)
                expected += bytes
                ciphertext += client.sealed(bytes)
            }
            for byte in ciphertext { try client.write([byte]) }
            #expect(try client.receive(exactly: expected.count) == expected)
        }
    }

    @Test(arguments: backends) func manyChannelsAtOnceNeverMix(_ kind: BackendKind) throws {
        let log = try withServer(kind) { port, _ in
            let context = try TestTLS.client()
            try concurrently(64) { index in
                let client = try TestClient(port: port, context: context)
                try client.handshake()
                for round in 0..<10 {
                    let bytes = pattern(1_000 + index * 37 + round, seed: index &* 1_000 &+ round)
                    try client.send(bytes, recordBytes: 700)
                    let echoed = try client.receive(exactly: bytes.count)
                    if echoed != bytes { throw TestClient.Ended(failure: .protocolViolation) }
                }
                try client.sayGoodbye()
                client.close()
            }
        }
        #expect(log.counters.handshakes == 64)
        #expect(log.counters.handshakeFailures == 0)
        #expect(log.count { if case .opened = $0 { true } else { false } } == 64)
        #expect(log.count { if case .established = $0 { true } else { false } } == 64)
    }

    @Test(arguments: backends) func aConnectionWithoutALPNIsRefused(_ kind: BackendKind) throws {
        let log = try withServer(kind) { port, log in
            for protocols in [[], ["h2"], ["sluice/2", "sluice/11"]] {
                let context = try TLSContext(
                    clientTrusting: TestTLS.trust, applicationProtocols: protocols)
                let client = try TestClient(port: port, context: context)
                #expect(throws: TestClient.Ended.self) { try client.handshake() }
                client.close()
            }
            #expect(log.reaches { $0.channelCount == 0 && $0.counters.handshakeFailures == 3 })
        }
        #expect(log.counters.handshakes == 0)
        #expect(log.closeReasons == [.handshakeFailed, .handshakeFailed, .handshakeFailed])
    }

    @Test(arguments: backends) func whatIsNotTLSIsRefused(_ kind: BackendKind) throws {
        let log = try withServer(kind) { port, log in
            let client = try TestClient(port: port, context: TestTLS.client())
            try client.write(Array("GET / HTTP/1.1\r\nHost: localhost\r\n\r\n".utf8))
            _ = client.receiveEnd()
            client.close()
            #expect(log.reaches(events: 1) { if case .closed = $0 { true } else { false } })
        }
        #expect(log.closeReasons == [.handshakeFailed])
    }

    @Test(arguments: backends) func aForgedRecordEndsTheChannel(_ kind: BackendKind) throws {
        let log = try withServer(kind) { port, log in
            let client = try TestClient(port: port, context: TestTLS.client())
            try client.handshake()
            var ciphertext = client.sealed(pattern(100))
            ciphertext[50] ^= 1
            try client.write(ciphertext)
            #expect(client.receiveEnd() == .protocolViolation)
            client.close()
            #expect(log.reaches(events: 1) { if case .closed = $0 { true } else { false } })
        }
        #expect(log.closeReasons == [.protocolViolation])
    }

    @Test(arguments: backends) func aFloodOfKeyUpdatesIsCut(_ kind: BackendKind) throws {
        let log = try withServer(kind) { port, log in
            let client = try TestClient(port: port, context: TestTLS.client())
            try client.handshake()
            // Each record after a KeyUpdate is one byte of data, so that only the rate is too high.
            for _ in 0..<40 {
                client.requestKeyUpdate()
                do { try client.send([1]) } catch { break }
            }
            _ = client.receiveEnd()
            client.close()
            #expect(log.reaches(events: 1) { if case .closed = $0 { true } else { false } })
        }
        #expect(log.closeReasons == [.tooManyKeyUpdates])
        #expect(log.counters.keyUpdatesRefused == 1)
        // The allowance, and the one too many; one answer, before data, is for all that asked.
        #expect(log.counters.keyUpdatesReceived > 30)
        #expect(log.counters.keyUpdatesSent < log.counters.keyUpdatesReceived)
    }

    @Test(arguments: backends) func aSendThatNobodyAwaitsEndsNoWait(_ kind: BackendKind) throws {
        for sendsEndWaits in [true, false] {
            var limits = TransportLimits()
            limits.sendsEndWaits = sendsEndWaits
            let log = try withServer(kind, limits: limits) { port, log in
                let client = try TestClient(port: port, context: TestTLS.client())
                try client.handshake()
                for round in 0..<20 {
                    let bytes = pattern(50, seed: round)
                    try client.send(bytes)
                    #expect(try client.receive(exactly: 50) == bytes)
                    // The server sleeps again.
                    usleep(2_000)
                }
                client.close()
                #expect(log.reaches(events: 1) { if case .closed = $0 { true } else { false } })
            }
            #expect(log.count { if case .sent = $0 { true } else { false } } >= 20, "all are told")
            #expect((log.content.withLock { $0.waitsForSendsAlone } == 0) == !sendsEndWaits)
        }
    }

    @Test(arguments: backends) func anAwaitedSendEndsTheWait(_ kind: BackendKind) throws {
        var limits = TransportLimits()
        limits.sendsEndWaits = false
        // Many times what may be sealed at once: without an end of the sends it would never go on.
        let log = try withServer(kind, .sendAndClose(2_000_000), limits: limits) { port, log in
            let client = try TestClient(port: port, context: TestTLS.client())
            try client.handshake()
            #expect(try client.receive(exactly: 2_000_000) == pattern(2_000_000))
            #expect(client.receiveEnd() == .closedByPeer)
            client.close()
            #expect(log.reaches(events: 1) { if case .closed = $0 { true } else { false } })
        }
        #expect(log.closeReasons == [.local])
    }

    @Test(arguments: backends) func keysAreChangedByThisSide(_ kind: BackendKind) throws {
        var tls = TLSLimits()
        tls.recordsPerKey = 8
        let log = try withServer(kind, tls: tls) { port, log in
            let client = try TestClient(port: port, context: TestTLS.client())
            try client.handshake()
            for round in 0..<40 {
                let bytes = pattern(50, seed: round)
                try client.send(bytes)
                #expect(try client.receive(exactly: 50) == bytes)
            }
            #expect(client.keyUpdatesReceived >= 4)
            client.close()
            #expect(log.reaches(events: 1) { if case .closed = $0 { true } else { false } })
        }
        #expect(log.counters.keyUpdatesSent >= 4)
        // This side asked, so the client changed its keys too.
        #expect(log.counters.keyUpdatesReceived >= 4)
    }

    @Test(arguments: backends) func aResetIsSeen(_ kind: BackendKind) throws {
        let log = try withServer(kind) { port, log in
            let client = try TestClient(port: port, context: TestTLS.client())
            try client.handshake()
            try client.send(pattern(10))
            _ = try client.receive(exactly: 10)
            client.reset()
            #expect(log.reaches(events: 1) { if case .closed = $0 { true } else { false } })
        }
        #expect(log.closeReasons == [.connectionLost])
    }

    @Test(arguments: backends) func anEndWithoutGoodbyeIsTruncationAfterItsBytes(
        _ kind: BackendKind
    ) throws {
        let log = try withServer(kind) { port, log in
            let client = try TestClient(port: port, context: TestTLS.client())
            try client.handshake()
            try client.send(pattern(50_000))
            client.finishSending()
            #expect(log.reaches(events: 1) { if case .closed = $0 { true } else { false } })
        }
        #expect(log.closeReasons == [.truncated])
    }

    @Test(arguments: backends) func whatIsSealedArrivesBeforeTheGoodbye(_ kind: BackendKind) throws
    {
        for size in [1, 60_000, 2_000_000] {
            let log = try withServer(kind, .sendAndClose(size)) { port, log in
                let client = try TestClient(port: port, context: TestTLS.client())
                try client.handshake()
                // Unread bytes on the server's side: its close must not turn into a reset.
                try client.send(pattern(5_000))
                #expect(try client.receive(exactly: size) == pattern(size))
                #expect(client.receiveEnd() == .closedByPeer)
                client.close()
                #expect(log.reaches(events: 1) { if case .closed = $0 { true } else { false } })
            }
            #expect(log.closeReasons == [.local])
        }
    }

    @Test(arguments: backends) func closeWithASendInFlightFreesTheChannel(
        _ kind: BackendKind
    ) throws {
        var limits = TransportLimits()
        limits.channelsMax = 2
        limits.sealedBytesMax = 2 << 20
        var tls = TLSLimits()
        tls.outputBytesMax = 11 << 20
        let log = try withServer(kind, .sendAndAbort(1 << 20), limits: limits, tls: tls) {
            port, log in
            for round in 1...6 {
                let client = try TestClient(
                    port: port, context: TestTLS.client(), receiveBufferBytes: 4_096)
                try client.handshake()
                try client.send([1])
                #expect(
                    log.reaches(events: round) { if case .closed = $0 { true } else { false } })
                client.close()
            }
        }
        #expect(log.closeReasons == [CloseReason](repeating: .local, count: 6))
    }

    @Test(arguments: backends) func aSlowReaderHoldsNoMoreThanItsLimit(_ kind: BackendKind) throws {
        let size = 700_000
        _ = try withServer(kind, .send(size)) { port, _ in
            let client = try TestClient(
                port: port, context: TestTLS.client(), receiveBufferBytes: 4_096)
            try client.handshake()
            usleep(300_000)
            #expect(try client.receive(exactly: size) == pattern(size))
        }
    }

    /// More is received than there are buffers while nobody reads; then everything is read.
    @Test(arguments: backends) func receiveBuffersRunOutAndComeBack(_ kind: BackendKind) throws {
        var settings = BackendSettings()
        settings.bufferCount = 16
        settings.bufferBytes = 2_048
        let size = 150_000
        let log = try withServer(kind, settings: settings) { port, log in
            let context = try TestTLS.client()
            let clients = try (0..<6).map { _ in
                let client = try TestClient(port: port, context: context)
                try client.handshake()
                return Unchecked(client)
            }
            log.content.withLock { $0.isReading = false }
            let writers = clients.enumerated().map { index, client in
                let ciphertext = client.value.sealed(pattern(size, seed: index))
                return TestThread { try? client.value.write(ciphertext) }
            }
            #expect(log.reaches { $0.counters.backend.bufferShortages > 0 })
            log.content.withLock { $0.isReading = true }
            let readers = clients.enumerated().map { index, client in
                ResultThread {
                    try client.value.receive(exactly: size) == pattern(size, seed: index)
                }
            }
            for reader in readers { #expect(reader.value) }
            for writer in writers { writer.join() }
        }
        #expect(log.counters.backend.bufferShortages > 0)
    }

    /// Far more comes and goes at once than both queues of a ring hold: entries are submitted to
    /// make room, and completions wait in the kernel.
    @Test func queuesOfARingThatAreTooShortLoseNothing() throws {
        var settings = BackendSettings()
        settings.ringEntries = 2
        let size = 60_000
        let log = try withServer(.ring, settings: settings) { port, _ in
            let context = try TestTLS.client()
            try concurrently(24) { index in
                let client = try TestClient(port: port, context: context)
                try client.handshake()
                let bytes = pattern(size, seed: index)
                let ciphertext = client.sealed(bytes)
                let sender = Unchecked(client)
                let writer = TestThread {
                    for start in stride(from: 0, to: ciphertext.count, by: 500) {
                        let end = min(start + 500, ciphertext.count)
                        try? sender.value.write(Array(ciphertext[start..<end]))
                    }
                }
                let echoed = try client.receive(exactly: size)
                writer.join()
                if echoed != bytes { throw TestClient.Ended(failure: .protocolViolation) }
                try client.sayGoodbye()
                client.close()
            }
        }
        #expect(log.counters.backend.overflows > 0)
        #expect(log.counters.handshakes == 24 && log.counters.handshakeFailures == 0)
    }

    /// What eight channels send at once comes in many turns, each channel's bytes in order.
    @Test(arguments: backends) func aTurnBringsNoMoreThanItsShare(_ kind: BackendKind) throws {
        var settings = BackendSettings()
        settings.bufferBytes = 2_048
        var limits = TransportLimits()
        limits.turnBytesMin = 5_000
        limits.turnBytesPerChannel = 1_000
        let log = try withServer(kind, limits: limits, settings: settings) { port, log in
            let context = try TestTLS.client()
            try concurrently(8) { index in
                let client = try TestClient(port: port, context: context)
                try client.handshake()
                let bytes = pattern(400_000, seed: index)
                let ciphertext = client.sealed(bytes)
                let sender = Unchecked(client)
                let thread = TestThread { try? sender.value.write(ciphertext) }
                if try client.receive(exactly: bytes.count) != bytes {
                    throw TestClient.Ended(failure: .protocolViolation)
                }
                thread.join()
                client.close()
            }
            #expect(log.reaches { $0.channelCount == 0 })
        }
        // The last buffer of a turn may cross its limit.
        let most = log.content.withLock { $0.turnBytes }
        #expect(most > 1_000 && most <= 8_000 + 2_048)
        #expect(log.counters.bytesReceived > 3_200_000)
    }

    /// A wait never sleeps beside received data: not after the last of it that it had put off, and
    /// not while a receive that ended for want of buffers is still to be armed again.
    @Test(arguments: backends) func aWaitDoesNotSleepBesideReceivedData(_ kind: BackendKind) throws
    {
        var settings = BackendSettings()
        settings.bufferBytes = 2_048
        settings.bufferCount = 8
        var limits = TransportLimits()
        // Whole buffers, so that the end of a receive is what is left for the next turn.
        limits.turnBytesMin = 4_096
        limits.turnBytesPerChannel = 0
        let byteCount = 2_000_000
        let log = try withServer(kind, .read, limits: limits, settings: settings) { port, log in
            let context = try TestTLS.client()
            for senders in [1, 3] {
                let before = log.counters.bytesReceived
                try concurrently(senders) { index in
                    let client = try TestClient(port: port, context: context)
                    try client.handshake()
                    try client.write(client.sealed(pattern(byteCount, seed: index)))
                    #expect(
                        log.reaches { $0.counters.bytesReceived - before > senders * byteCount })
                    client.close()
                }
                #expect(log.reaches { $0.channelCount == 0 })
            }
        }
        #expect(log.counters.bytesReceived > 4 * byteCount)
    }

    /// What a peer sent before it was lost is handed over, though each answer to it fails: the
    /// server reads in shares, and its first answer fails when most is not yet received.
    @Test(arguments: backends) func aFailedSendLosesNothingThatWasReceived(
        _ kind: BackendKind
    ) throws {
        var settings = BackendSettings()
        settings.bufferBytes = 2_048
        settings.bufferCount = 64
        var limits = TransportLimits()
        limits.turnBytesMin = 4_096
        limits.turnBytesPerChannel = 0
        limits.heldBuffersMax = 8
        // No more than a socket's first window takes: a reset drops what its sender still has.
        let byteCount = 60_000
        let log = try withServer(kind, limits: limits, settings: settings) { port, log in
            let client = try TestClient(port: port, context: TestTLS.client())
            try client.handshake()
            log.content.withLock { $0.isReading = false }
            try client.write(client.sealed(pattern(byteCount)))
            #expect(log.reaches(events: 1) { if case .received = $0 { true } else { false } })
            client.reset()
            log.content.withLock { $0.isReading = true }
            #expect(log.reaches { $0.channelCount == 0 })
        }
        #expect(log.content.withLock { $0.readBytes } == byteCount)
        #expect(log.closeReasons == [.connectionLost])
    }

    /// The same where all was received when the connection was lost, and nothing is being sent.
    @Test(arguments: backends) func aResetLosesNothingThatWasReceived(_ kind: BackendKind) throws {
        let byteCount = 50_000
        let log = try withServer(kind, .read) { port, log in
            let client = try TestClient(port: port, context: TestTLS.client())
            try client.handshake()
            log.content.withLock { $0.isReading = false }
            let ciphertext = client.sealed(pattern(byteCount))
            let before = log.counters.bytesReceived
            try client.write(ciphertext)
            #expect(log.reaches { $0.counters.bytesReceived - before >= ciphertext.count })
            client.reset()
            usleep(50_000)
            log.content.withLock { $0.isReading = true }
            // Only something that is received ends the server's waits.
            let other = try TestClient(port: port, context: TestTLS.client())
            try other.handshake()
            #expect(log.reaches { $0.channelCount <= 1 })
        }
        #expect(log.content.withLock { $0.readBytes } == byteCount)
        #expect(log.closeReasons.first == .connectionLost)
    }

    /// One channel that nobody reads cannot take the buffers of the others.
    @Test(arguments: backends) func oneUnreadChannelLeavesBuffersToOthers(
        _ kind: BackendKind
    ) throws {
        var limits = TransportLimits()
        limits.heldBuffersMax = 8
        _ = try withServer(kind, limits: limits) { port, log in
            let context = try TestTLS.client()
            let size = 1_000_000
            let loud = Unchecked(try TestClient(port: port, context: context))
            try loud.value.handshake()
            log.content.withLock { $0.isReading = false }
            let ciphertext = loud.value.sealed(pattern(size))
            let writer = TestThread { try? loud.value.write(ciphertext) }
            #expect(log.reaches(events: 1) { if case .received = $0 { true } else { false } })
            let other = try TestClient(port: port, context: context)
            try other.handshake()
            #expect(log.counters.backend.bufferShortages == 0)
            log.content.withLock { $0.isReading = true }
            #expect(try loud.value.receive(exactly: size) == pattern(size))
            writer.join()
        }
    }

    @Test(arguments: backends) func oneMoreThanTheChannelsIsRefused(_ kind: BackendKind) throws {
        var limits = TransportLimits()
        limits.channelsMax = 2
        let log = try withServer(kind, limits: limits) { port, log in
            let context = try TestTLS.client()
            let first = try TestClient(port: port, context: context)
            try first.handshake()
            let second = try TestClient(port: port, context: context)
            try second.handshake()
            let third = try TestClient(port: port, context: context)
            #expect(throws: TestClient.Ended.self) { try third.handshake() }
            first.close()
            #expect(log.reaches { $0.channelCount == 1 })
            let fourth = try TestClient(port: port, context: context)
            try fourth.handshake()
            try fourth.send([9])
            #expect(try fourth.receive(exactly: 1) == [9])
        }
        #expect(log.counters.refused == 1)
    }
}

/// Hands a value to another thread while this one leaves it alone.
struct Unchecked<Value>: @unchecked Sendable {
    let value: Value
    init(_ value: Value) { self.value = value }
}

/// A thread with an answer.
final class ResultThread: @unchecked Sendable {
    private var answer = false
    private var thread: TestThread?

    init(_ body: @escaping @Sendable () throws -> Bool) {
        thread = TestThread { [self] in answer = (try? body()) ?? false }
    }

    var value: Bool {
        thread?.join()
        thread = nil
        return answer
    }
}
