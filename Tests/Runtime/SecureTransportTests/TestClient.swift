import Glibc
import Synchronization

import TLSEngine

/// A real TLS client over a blocking socket, for one thread at a time.
final class TestClient {
    struct Ended: Error, Equatable {
        let failure: TLSFailure?
    }

    let descriptor: Int32
    private var session: TLSSession
    private let input = UnsafeMutablePointer<UInt8>.allocate(capacity: 65_536)
    private let opened = UnsafeMutablePointer<UInt8>.allocate(capacity: 16_384)

    init(port: UInt16, context: TLSContext, receiveBufferBytes: Int32 = 0) throws {
        descriptor = Self.connect(port: port, receiveBufferBytes: receiveBufferBytes)
        session = try TLSSession(context: context, serverName: "localhost")
    }

    deinit {
        if isOpen { Glibc.close(descriptor) }
        input.deallocate()
        opened.deallocate()
    }

    private var isOpen = true

    /// A connected blocking TCP socket; it gives up waiting after 20 s.
    static func connect(port: UInt16, receiveBufferBytes: Int32 = 0) -> Int32 {
        let descriptor = socket(AF_INET, Int32(SOCK_STREAM.rawValue), 0)
        precondition(descriptor >= 0)
        var timeout = timeval(tv_sec: 20, tv_usec: 0)
        setsockopt(
            descriptor, SOL_SOCKET, SO_RCVTIMEO, &timeout, socklen_t(MemoryLayout<timeval>.size))
        setsockopt(
            descriptor, SOL_SOCKET, SO_SNDTIMEO, &timeout, socklen_t(MemoryLayout<timeval>.size))
        if receiveBufferBytes > 0 {
            var size = receiveBufferBytes
            setsockopt(descriptor, SOL_SOCKET, SO_RCVBUF, &size, 4)
        }
        let isConnected = tryConnect(descriptor, port: port)
        precondition(isConnected)
        return descriptor
    }

    static func tryConnect(_ descriptor: Int32, port: UInt16) -> Bool {
        var address = sockaddr_in()
        address.sin_family = sa_family_t(AF_INET)
        address.sin_port = port.bigEndian
        address.sin_addr.s_addr = UInt32(0x7F00_0001).bigEndian
        let code = withUnsafePointer(to: &address) {
            $0.withMemoryRebound(to: sockaddr.self, capacity: 1) {
                Glibc.connect(descriptor, $0, socklen_t(MemoryLayout<sockaddr_in>.size))
            }
        }
        return code == 0
    }

    func handshake() throws {
        while true {
            let progress = session.handshake()
            try flush()
            switch progress {
            case .done: return
            case .needsCiphertext: try fill()
            case .failed(let failure): throw Ended(failure: failure)
            }
        }
    }

    /// Sends `bytes` in records of at most `recordBytes`.
    func send(_ bytes: [UInt8], recordBytes: Int = 16_384) throws {
        var offset = 0
        while offset < bytes.count {
            let end = min(bytes.count, offset + recordBytes)
            guard session.seal(bytes[offset..<end].span) else { throw Ended(failure: nil) }
            offset = end
            if session.outputBytes > 100_000 { try flush() }
        }
        try flush()
    }

    /// Ciphertext of `bytes`, to be sent by `write`, which another thread may do: a session
    /// itself must not be used by two at once.
    func sealed(_ bytes: [UInt8]) -> [UInt8] {
        var offset = 0
        while offset < bytes.count {
            let end = min(bytes.count, offset + 16_384)
            let record = Array(bytes[offset..<end])
            let isSealed = session.seal(record.span)
            precondition(isSealed)
            offset = end
        }
        guard let block = session.takeOutput() else { return [] }
        return Array(UnsafeBufferPointer(start: block.start, count: block.count))
    }

    /// What comes next, at least one byte.
    func receive() throws -> [UInt8] {
        while true {
            switch session.open(into: opened, capacity: 16_384) {
            case .done(let count):
                try flush()
                return Array(UnsafeBufferPointer(start: opened, count: count))
            case .needsCiphertext: try fill()
            case .failed(let failure): throw Ended(failure: failure)
            }
        }
    }

    func receive(exactly count: Int) throws -> [UInt8] {
        var bytes: [UInt8] = []
        while bytes.count < count { bytes += try receive() }
        return bytes
    }

    /// Reads until the connection ends, and answers why: nil is an end without a goodbye.
    func receiveEnd() -> TLSFailure? {
        while true {
            do {
                _ = try receive()
            } catch {
                return (error as? Ended)?.failure
            }
        }
    }

    func requestKeyUpdate() {
        session.changeKeys()
    }

    var keyUpdatesReceived: Int { session.keyUpdatesReceived }

    func sayGoodbye() throws {
        session.sealGoodbye()
        try flush()
    }

    func finishSending() {
        shutdown(descriptor, Int32(SHUT_WR))
    }

    func close() {
        isOpen = false
        Glibc.close(descriptor)
    }

    /// Closes with a reset.
    func reset() {
        var linger = Glibc.linger(l_onoff: 1, l_linger: 0)
        setsockopt(
            descriptor, SOL_SOCKET, SO_LINGER, &linger,
            socklen_t(MemoryLayout<Glibc.linger>.size))
        close()
    }

    func write(_ bytes: [UInt8]) throws {
        var offset = 0
        while offset < bytes.count {
            let count = bytes[offset...].withUnsafeBytes {
                Glibc.send(descriptor, $0.baseAddress, $0.count, Int32(MSG_NOSIGNAL))
            }
            if count < 0, errno == EINTR { continue }
            guard count > 0 else { throw Ended(failure: nil) }
            offset += count
        }
    }

    private func flush() throws {
        guard let block = session.takeOutput() else { return }
        try write(Array(UnsafeBufferPointer(start: block.start, count: block.count)))
    }

    private func fill() throws {
        // The session has used all that was lent before, or it would not need more.
        var count = recv(descriptor, input, 65_536, 0)
        while count < 0, errno == EINTR { count = recv(descriptor, input, 65_536, 0) }
        guard count > 0 else { throw Ended(failure: nil) }
        session.feed(input, count: count)
    }
}

/// Runs `body` on a thread of its own; `join` waits for it.
struct TestThread {
    private var thread = pthread_t()

    private final class Body {
        let run: () -> Void
        init(_ run: @escaping () -> Void) { self.run = run }
    }

    init(_ run: @escaping @Sendable () -> Void) {
        let body = Unmanaged.passRetained(Body(run))
        let code = pthread_create(
            &thread, nil,
            { argument in
                guard let argument else { return nil }
                Unmanaged<Body>.fromOpaque(argument).takeRetainedValue().run()
                return nil
            }, body.toOpaque())
        precondition(code == 0)
    }

    func join() {
        pthread_join(thread, nil)
    }
}

/// Runs `body` for 0..<count, each on its own thread, and waits for all; the first error wins.
func concurrently(_ count: Int, _ body: @escaping @Sendable (Int) throws -> Void) throws {
    let failure = Mutex<(any Error)?>(nil)
    let failures = SharedBox(failure)
    let threads = (0..<count).map { index in
        TestThread {
            do {
                try body(index)
            } catch {
                failures.set(error)
            }
        }
    }
    for thread in threads { thread.join() }
    if let error = failures.value { throw error }
}

final class SharedBox: Sendable {
    private let content: Mutex<(any Error)?>
    init(_ content: consuming Mutex<(any Error)?>) { self.content = content }
    func set(_ error: any Error) { content.withLock { if $0 == nil { $0 = error } } }
    var value: (any Error)? { content.withLock { $0 } }
}
