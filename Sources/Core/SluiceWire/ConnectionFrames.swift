// Frames of stream 0: who the peer is, and whether it is still there.

/// First frame of a connection, from the side that dialled. Nothing else is read before WELCOME
/// was sent ([H2]).
///
///     0 u16 oldest version   2 u16 newest version   4 u8 role   5 u8 credential kind
///     6 u16 credential bytes 8 u64 body credit      16 u16 extension bytes
///     18 credential, extensions
package struct HelloFrame: Equatable, Sendable {
    package var oldestVersion = WireLimits.oldestVersion
    package var newestVersion = WireLimits.version
    package var role: PeerRole
    package var credentialKind: CredentialKind
    /// Supplier: body bytes that each ASSIGN's stream may carry before a CREDIT. 0 from a client.
    package var bodyCreditBytes: UInt64
    /// Place of the secret in the payload.
    package var credential: Range<Int>

    package init(decoding bytes: Span<UInt8>) throws(WireError) {
        var cursor = PayloadCursor()
        oldestVersion = try cursor.uint16(bytes)
        newestVersion = try cursor.uint16(bytes)
        role = try cursor.value(PeerRole.self, bytes)
        credentialKind = try cursor.value(CredentialKind.self, bytes)
        let credentialBytes = Int(try cursor.uint16(bytes))
        bodyCreditBytes = try cursor.uint64(bytes)
        let extensionBytes = Int(try cursor.uint16(bytes))
        guard oldestVersion <= newestVersion, credentialBytes <= WireLimits.credentialBytesMax,
            bodyCreditBytes <= WireLimits.creditLimitMax
        else { throw .malformedPayload(.valueOutOfRange) }
        credential = try cursor.range(credentialBytes, of: bytes)
        var extensions = try cursor.extensions(byteCount: extensionBytes, of: bytes)
        try cursor.finish(bytes)
        while let found = try extensions.next(bytes) {
            guard found.type == ExtensionType.agent else {
                try ExtensionCursor.skipUnknown(found.type)
                continue
            }
            guard found.value.count <= 64 else { throw .malformedPayload(.badExtension) }
        }
    }

    /// The whole frame, for the side that dials.
    package static func encode(
        role: PeerRole, kind: CredentialKind, credential: [UInt8], bodyCreditBytes: UInt64 = 0,
        agent: String = "", versions: ClosedRange<UInt16> = 1...1, into bytes: inout [UInt8]
    ) {
        precondition(credential.count <= WireLimits.credentialBytesMax)
        var extensions = ExtensionWriter()
        let agentBytes = Array(agent.utf8.prefix(64))
        if !agentBytes.isEmpty { extensions.add(ExtensionType.agent, agentBytes) }
        FrameHeader(
            kind: .hello, stream: .connection,
            payloadBytes: 18 + credential.count + extensions.bytes.count
        ).encode(into: &bytes)
        bytes.appendLittleEndian(versions.lowerBound)
        bytes.appendLittleEndian(versions.upperBound)
        bytes.append(role.rawValue)
        bytes.append(kind.rawValue)
        bytes.appendLittleEndian(UInt16(credential.count))
        bytes.appendLittleEndian(bodyCreditBytes)
        bytes.appendLittleEndian(UInt16(extensions.bytes.count))
        bytes += credential
        bytes += extensions.bytes
    }
}

/// Answer to HELLO: the connection may be used ([H8]).
///
///     0 u16 version  2 u16 shard  4 u16 shards  6 u16 extension bytes  8 u32 max streams
///     12 u32 max body bytes  16 u64 upload limit  24 u64 instance  32 u32 max deadline ms
///     36 u32 keep-alive ms  40 extensions
package struct WelcomeFrame: Equatable, Sendable {
    package var version: UInt16 = WireLimits.version
    package var shard: UInt16 = 0
    package var shardCount: UInt16 = 1
    /// Streams are numbered 1…maxStreams.
    package var maxStreams: UInt32
    package var maxBodyBytes: UInt32
    /// Absolute limit of body bytes sent without stream credit on this connection.
    package var uploadLimitBytes: UInt64
    package var instance: UInt64
    package var maxDeadlineMs: UInt32 = WireLimits.deadlineMsMax
    /// A peer that is silent for this long is sent a PING.
    package var keepAliveMs: UInt32
    /// Brokers of the deployment, `host:port` separated by commas; 0…1,024 bytes of `0x21…0x7E`.
    package var brokers: [UInt8] = []

    package init(
        maxStreams: UInt32, maxBodyBytes: UInt32, uploadLimitBytes: UInt64, instance: UInt64,
        keepAliveMs: UInt32
    ) {
        self.maxStreams = maxStreams
        self.maxBodyBytes = maxBodyBytes
        self.uploadLimitBytes = uploadLimitBytes
        self.instance = instance
        self.keepAliveMs = keepAliveMs
    }

    package init(decoding bytes: Span<UInt8>) throws(WireError) {
        var cursor = PayloadCursor()
        version = try cursor.uint16(bytes)
        shard = try cursor.uint16(bytes)
        shardCount = try cursor.uint16(bytes)
        let extensionBytes = Int(try cursor.uint16(bytes))
        maxStreams = try cursor.uint32(bytes)
        maxBodyBytes = try cursor.uint32(bytes)
        uploadLimitBytes = try cursor.uint64(bytes)
        instance = try cursor.uint64(bytes)
        maxDeadlineMs = try cursor.uint32(bytes)
        keepAliveMs = try cursor.uint32(bytes)
        var extensions = try cursor.extensions(byteCount: extensionBytes, of: bytes)
        try cursor.finish(bytes)
        guard maxStreams >= 1, maxStreams <= WireLimits.streamsMax, shard < shardCount,
            keepAliveMs >= 1
        else { throw .malformedPayload(.valueOutOfRange) }
        while let found = try extensions.next(bytes) {
            guard found.type == ExtensionType.brokers else {
                try ExtensionCursor.skipUnknown(found.type)
                continue
            }
            guard found.value.count <= WireLimits.brokersBytesMax else {
                throw .malformedPayload(.badExtension)
            }
            brokers = found.value.map { bytes[$0] }
            guard brokers.allSatisfy({ (0x21...0x7E).contains($0) }) else {
                throw .malformedPayload(.invalidText)
            }
        }
    }

    /// Size on the wire in bytes, header included.
    package var frameBytes: Int {
        var bytes: [UInt8] = []
        encode(into: &bytes)
        return bytes.count
    }

    package func encode(into bytes: inout [UInt8]) {
        var extensions = ExtensionWriter()
        if !brokers.isEmpty { extensions.add(ExtensionType.brokers, brokers) }
        FrameHeader(
            kind: .welcome, stream: .connection, payloadBytes: 40 + extensions.bytes.count
        ).encode(into: &bytes)
        bytes.appendLittleEndian(version)
        bytes.appendLittleEndian(shard)
        bytes.appendLittleEndian(shardCount)
        bytes.appendLittleEndian(UInt16(extensions.bytes.count))
        bytes.appendLittleEndian(maxStreams)
        bytes.appendLittleEndian(maxBodyBytes)
        bytes.appendLittleEndian(uploadLimitBytes)
        bytes.appendLittleEndian(instance)
        bytes.appendLittleEndian(maxDeadlineMs)
        bytes.appendLittleEndian(keepAliveMs)
        bytes += extensions.bytes
    }
}

/// PING and its PONG: 8 bytes of the asker's choice, returned as they are ([L1]).
package struct PingFrame: Equatable, Sendable {
    package var value: UInt64

    package init(value: UInt64) {
        self.value = value
    }

    package init(decoding bytes: Span<UInt8>) throws(WireError) {
        var cursor = PayloadCursor()
        value = try cursor.uint64(bytes)
        try cursor.finish(bytes)
    }

    package func encode(as kind: FrameKind, into bytes: inout [UInt8]) {
        FrameHeader(kind: kind, stream: .connection, payloadBytes: 8).encode(into: &bytes)
        bytes.appendLittleEndian(value)
    }
}

/// The sender will close: open nothing new; what runs goes on for `graceMs` ([G1]). Its code is
/// of connection scope ([N1]).
///
///     0 u16 code  2 u16 0  4 u32 grace ms
package struct GoAwayFrame: Equatable, Sendable {
    package var code: WireCode
    package var graceMs: UInt32

    package init(code: WireCode, graceMs: UInt32) {
        self.code = code
        self.graceMs = graceMs
    }

    package init(decoding bytes: Span<UInt8>) throws(WireError) {
        var cursor = PayloadCursor()
        code = try cursor.code(bytes)
        _ = try cursor.uint16(bytes)
        graceMs = try cursor.uint32(bytes)
        try cursor.finish(bytes)
        guard code.scope == .connection else { throw .malformedPayload(.valueOutOfRange) }
    }

    package func encode(into bytes: inout [UInt8]) {
        FrameHeader(kind: .goAway, stream: .connection, payloadBytes: 8).encode(into: &bytes)
        bytes.appendLittleEndian(code.rawValue)
        bytes.appendLittleEndian(UInt16(0))
        bytes.appendLittleEndian(graceMs)
    }
}

/// The connection is over; the last frame before the sender closes ([L4]). It names the frame that
/// was at fault by numbers alone ([L6]). Its code is of connection scope ([N1]).
///
///     0 u16 code  2 u8 kind of the frame at fault  3 u8 0  4 u32 its stream
package struct ErrorFrame: Equatable, Sendable {
    package var code: WireCode
    package var kindAtFault: UInt8
    package var streamAtFault: StreamID

    package init(code: WireCode, kindAtFault: UInt8 = 0, streamAtFault: StreamID = .connection) {
        self.code = code
        self.kindAtFault = kindAtFault
        self.streamAtFault = streamAtFault
    }

    package init(decoding bytes: Span<UInt8>) throws(WireError) {
        var cursor = PayloadCursor()
        code = try cursor.code(bytes)
        kindAtFault = try cursor.uint8(bytes)
        _ = try cursor.uint8(bytes)
        streamAtFault = StreamID(try cursor.uint32(bytes))
        try cursor.finish(bytes)
        guard code.scope == .connection else { throw .malformedPayload(.valueOutOfRange) }
    }

    package func encode(into bytes: inout [UInt8]) {
        FrameHeader(kind: .error, stream: .connection, payloadBytes: 8).encode(into: &bytes)
        bytes.appendLittleEndian(code.rawValue)
        bytes.append(kindAtFault)
        bytes.append(0)
        bytes.appendLittleEndian(streamAtFault.rawValue)
    }
}

extension PayloadCursor {
    /// A code of the closed table.
    package mutating func code(_ bytes: Span<UInt8>) throws(WireError) -> WireCode {
        guard let code = WireCode(rawValue: try uint16(bytes)) else {
            throw .malformedPayload(.valueOutOfRange)
        }
        return code
    }
}
