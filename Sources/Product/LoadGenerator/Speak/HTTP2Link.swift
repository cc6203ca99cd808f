/// What both mock sides of HTTP/2 share: settings, pings and flow control of one connection.
///
/// It announces no dynamic table (so that header blocks can be read alone), keeps the connection's
/// window wide open, and gives each stream a window that its owner keeps up.
package struct HTTP2Link: Sendable {
    /// What a frame means to the owner. Places lie in what was given to `next`.
    package enum Event: Equatable {
        case headers(stream: UInt32, block: Range<Int>, ends: Bool)
        case data(stream: UInt32, bytes: Range<Int>, ends: Bool)
        case reset(stream: UInt32)
        /// More may be sent: on one stream, or on all (0).
        case windowOpened(stream: UInt32, bytes: Int)
        /// The windows of all streams changed by so much.
        case initialWindowChanged(byBytes: Int)
        /// Nothing that the owner must do.
        case none
        case malformed
    }

    private static let preface = Array("PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n".utf8)
    private static let headerTableSize: UInt32 = 0x0000_0001
    private static let enablePush: UInt32 = 0x0000_0002
    private static let maxConcurrentStreams: UInt32 = 0x0000_0003
    private static let initialWindowSize: UInt32 = 0x0000_0004
    private static let connectionWindowBytes = 1 << 30

    package let isClient: Bool
    private let streamWindowBytes: UInt32
    private var hasPreface = false
    /// The peer's SETTINGS have come.
    package private(set) var isReady = false
    /// Streams that the peer lets this side open.
    package private(set) var streamsMax = Int.max
    /// What this side may send on the connection, and on a new stream.
    package private(set) var sendWindowBytes = 65_535
    package private(set) var initialSendWindowBytes = 65_535
    /// Received and not yet given back to the peer.
    private var owedBytes = 0

    package init(isClient: Bool, streamWindowBytes: UInt32) {
        self.isClient = isClient
        self.streamWindowBytes = streamWindowBytes
    }

    package func open(_ output: inout OutputQueue) {
        var settings: [(UInt32, UInt32)] = [
            (Self.headerTableSize, 0), (Self.initialWindowSize, streamWindowBytes),
        ]
        settings.append(isClient ? (Self.enablePush, 0) : (Self.maxConcurrentStreams, 4_096))
        let isClient = isClient
        output.write { bytes in
            if isClient { bytes.append(contentsOf: Self.preface) }
            HTTP2Header(.settings, stream: 0, payloadBytes: 6 * settings.count).encode(into: &bytes)
            for (name, value) in settings {
                bytes.append(0)
                bytes.append(UInt8(name))
                bytes.appendBigEndian(value)
            }
        }
        update(stream: 0, by: Self.connectionWindowBytes - 65_535, &output)
    }

    /// Lets the peer send more.
    package func update(stream: UInt32, by bytes: Int, _ output: inout OutputQueue) {
        output.write {
            HTTP2Header(.windowUpdate, stream: stream, payloadBytes: 4).encode(into: &$0)
            $0.appendBigEndian(UInt32(bytes))
        }
    }

    package mutating func sent(_ bytes: Int) { sendWindowBytes -= bytes }

    // MARK: Receiving

    /// Takes the next frame; nil when it is not whole.
    package mutating func next(
        _ bytes: Span<UInt8>, _ offset: inout Int, _ output: inout OutputQueue
    ) -> Event? {
        if !isClient, !hasPreface {
            guard bytes.count - offset >= Self.preface.count else { return nil }
            offset += Self.preface.count
            hasPreface = true
        }
        guard bytes.count - offset >= HTTP2Header.byteCount else { return nil }
        let header = HTTP2Header(decoding: bytes, at: offset)
        let start = offset + HTTP2Header.byteCount
        let end = start + header.payloadBytes
        guard end <= bytes.count else { return nil }
        offset = end
        let payload = start..<end
        switch HTTP2Kind(rawValue: header.rawKind) {
        case .data:
            received(header.payloadBytes, &output)
            guard let content = unpadded(header, payload, bytes) else { return .malformed }
            return .data(stream: header.stream, bytes: content, ends: header.endsStream)
        case .headers:
            guard header.flags & HTTP2Header.endHeaders != 0,
                var block = unpadded(header, payload, bytes)
            else { return .malformed }
            if header.flags & HTTP2Header.hasPriority != 0 {
                guard block.count >= 5 else { return .malformed }
                block = block.lowerBound + 5..<block.upperBound
            }
            return .headers(stream: header.stream, block: block, ends: header.endsStream)
        case .reset:
            return .reset(stream: header.stream)
        case .settings:
            return settings(header, payload, bytes, &output)
        case .ping:
            return ping(header, payload, bytes, &output)
        case .windowUpdate:
            guard payload.count == 4 else { return .malformed }
            let more = Int(bytes.bigEndian32(at: start) & 0x7FFF_FFFF)
            if header.stream == 0 { sendWindowBytes += more }
            return .windowOpened(stream: header.stream, bytes: more)
        case .pushPromise, .continuation:
            return .malformed
        case .priority, .goAway, nil:
            return Event.none
        }
    }

    /// The content of a frame that may be padded.
    private func unpadded(
        _ header: HTTP2Header, _ payload: Range<Int>, _ bytes: Span<UInt8>
    ) -> Range<Int>? {
        guard header.flags & HTTP2Header.padded != 0 else { return payload }
        guard let first = payload.first, Int(bytes[first]) < payload.count else { return nil }
        return first + 1..<payload.upperBound - Int(bytes[first])
    }

    private mutating func received(_ bytes: Int, _ output: inout OutputQueue) {
        owedBytes += bytes
        guard owedBytes >= Self.connectionWindowBytes / 2 else { return }
        update(stream: 0, by: owedBytes, &output)
        owedBytes = 0
    }

    private mutating func settings(
        _ header: HTTP2Header, _ payload: Range<Int>, _ bytes: Span<UInt8>,
        _ output: inout OutputQueue
    ) -> Event {
        if header.flags & HTTP2Header.acknowledgement != 0 { return Event.none }
        guard payload.count % 6 == 0 else { return .malformed }
        var change = 0
        for place in stride(from: payload.lowerBound, to: payload.upperBound, by: 6) {
            let value = bytes.bigEndian32(at: place + 2)
            switch UInt32(bytes[place]) << 8 | UInt32(bytes[place + 1]) {
            case Self.initialWindowSize:
                change += Int(value) - initialSendWindowBytes
                initialSendWindowBytes = Int(value)
            case Self.maxConcurrentStreams:
                streamsMax = Int(value)
            default:
                break
            }
        }
        isReady = true
        output.write {
            HTTP2Header(
                .settings, flags: HTTP2Header.acknowledgement, stream: 0, payloadBytes: 0
            ).encode(into: &$0)
        }
        return .initialWindowChanged(byBytes: change)
    }

    private func ping(
        _ header: HTTP2Header, _ payload: Range<Int>, _ bytes: Span<UInt8>,
        _ output: inout OutputQueue
    ) -> Event {
        guard payload.count == 8 else { return .malformed }
        if header.flags & HTTP2Header.acknowledgement != 0 { return Event.none }
        var pong: [UInt8] = []
        HTTP2Header(.ping, flags: HTTP2Header.acknowledgement, stream: 0, payloadBytes: 8)
            .encode(into: &pong)
        for place in payload { pong.append(bytes[place]) }
        output.append(pong)
        return Event.none
    }
}

/// Messages with the five bytes of gRPC in front, put together again from frames that cut them
/// anywhere.
package struct MessageAssembler: Sendable {
    package static let prefixBytes = 5
    private var partial: [UInt8] = []

    package init() {}

    /// Takes a piece of a stream; calls `body` for each message that is now whole, with its place
    /// in the bytes that it gets.
    package mutating func take(
        _ bytes: Span<UInt8>, _ body: (Span<UInt8>, Range<Int>) -> Void
    ) {
        var offset = 0
        while !partial.isEmpty, offset < bytes.count {
            // Short of a whole prefix, one more byte; else as many as the message lacks.
            let goal =
                partial.count < Self.prefixBytes
                ? Self.prefixBytes
                : Self.prefixBytes + Int(partial.span.bigEndian32(at: 1))
            let count = min(goal - partial.count, bytes.count - offset)
            for place in offset..<offset + count { partial.append(bytes[place]) }
            offset += count
            guard partial.count >= Self.prefixBytes,
                partial.count == Self.prefixBytes + Int(partial.span.bigEndian32(at: 1))
            else { continue }
            body(partial.span, Self.prefixBytes..<partial.count)
            partial.removeAll(keepingCapacity: true)
        }
        while bytes.count - offset >= Self.prefixBytes {
            let end = offset + Self.prefixBytes + Int(bytes.bigEndian32(at: offset + 1))
            guard end <= bytes.count else { break }
            body(bytes, offset + Self.prefixBytes..<end)
            offset = end
        }
        for place in offset..<bytes.count { partial.append(bytes[place]) }
    }

    /// Nothing of a message is left over.
    package var isEmpty: Bool { partial.isEmpty }

    package mutating func removeAll() { partial.removeAll(keepingCapacity: true) }
}
