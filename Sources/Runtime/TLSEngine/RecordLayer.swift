internal import COpenSSL

/// The records of an established session, both directions (RFC 8446, 5): whatever comes after the
/// handshake, which OpenSSL leads. Decision 89 says why.
///
/// A record that lies whole in the ciphertext lent to the session is decrypted from there into the
/// caller's memory; one that is spread over pieces is gathered first. Nothing is held otherwise: an
/// idle session has no buffer. Owned by one thread.
@safe
package struct RecordLayer: ~Copyable {
    /// Records in a row that may bring no application data, KeyUpdates apart, which have a budget.
    private static let emptyRecordsMax = 32
    /// The longest body of a record (RFC 8446, 5.2), and what it may hold with its type.
    private static let bodyBytesMax = 16_384 + 256
    private static let innerBytesMax = 16_384 + 1

    private var sealing: RecordProtection
    private var opening: RecordProtection
    private let recordsPerKey: Int
    /// Content of one record that we send, at most.
    private let contentBytesMax: Int
    private var recordsSealed = 0
    private var recordsOpened = 0
    private var emptyRecords = 0
    private var messages: PostHandshakeMessages
    private var keyUpdates: KeyUpdateBudget
    private var keyUpdatesReceived: UInt32 = 0
    private var keyUpdatesSent: UInt32 = 0

    /// A KeyUpdate that goes before the next application data.
    private enum DueUpdate: UInt8 {
        case none
        /// The peer asked for it; it shall not answer in turn.
        case answer
        /// The peer shall change its keys as well.
        case request
    }
    private var dueUpdate = DueUpdate.none

    /// Why nothing is read any more.
    private var end: TLSFailure?
    /// An alert went out that ends our direction.
    private var hasSaidGoodbye = false

    /// The record whose pieces are being gathered.
    ///
    /// SAFETY: owned; `gatheredCount` bytes of it are initialised.
    private var gathered: UnsafeMutablePointer<UInt8>?
    private var gatheredCount = 0

    /// Application data that the caller had no room for.
    ///
    /// SAFETY: owned, in OpenSSL's heap, which wipes what is freed; initialised up to `restEnd`.
    private var rest: UnsafeMutablePointer<UInt8>?
    private var restStart = 0
    private var restEnd = 0

    /// The layer of an end that is a server or a client, under the keys of its handshake. The peer
    /// takes records of so much content (RFC 6066, 4), 16,384 bytes at most.
    package init(
        sealing: consuming RecordProtection, opening: consuming RecordProtection, isServer: Bool,
        contentBytesMax: Int = 16_384, limits: TLSLimits
    ) {
        self.sealing = sealing
        self.opening = opening
        recordsPerKey = limits.recordsPerKey
        self.contentBytesMax = contentBytesMax
        messages = PostHandshakeMessages(takesTickets: !isServer)
        keyUpdates = KeyUpdateBudget(limits: limits)
    }

    deinit {
        unsafe free(gathered)
        unsafe CRYPTO_free(rest, nil, 0)
    }

    /// Opened bytes that wait for the next `open`.
    package var hasRest: Bool { restStart < restEnd }

    /// KeyUpdates since the session began, or since `takeKeyUpdates`.
    var updatesReceived: Int { Int(keyUpdatesReceived) }

    /// KeyUpdates since the last call.
    package mutating func takeKeyUpdates() -> (received: UInt64, sent: UInt64) {
        defer {
            keyUpdatesReceived = 0
            keyUpdatesSent = 0
        }
        return (UInt64(keyUpdatesReceived), UInt64(keyUpdatesSent))
    }

    /// Asks for new keys in both directions with the next record sealed.
    package mutating func changeKeys() {
        recordsSealed = 0
        recordsOpened = 0
        dueUpdate = .request
    }

    // MARK: Sealing

    /// Encrypts 1...16,384 bytes at the end of the output: as one record, unless the peer takes only
    /// shorter ones. False, and nothing is sealed, when our direction is over or the output is full.
    ///
    /// SAFETY: `content` has `count` bytes.
    @unsafe
    package mutating func seal(
        _ content: UnsafePointer<UInt8>, count: Int, _ pipe: inout CipherPipe
    ) -> Bool {
        guard !hasSaidGoodbye else { return false }
        if recordsSealed >= recordsPerKey { changeKeys() }
        if dueUpdate != .none, !sealUpdate(&pipe) { return false }
        let recordCount = (count + contentBytesMax - 1) / contentBytesMax
        let outputBytes = count + recordCount * RecordProtection.overheadBytes
        guard unsafe pipe.reserveOutput(outputBytes) != nil else { return false }
        for start in stride(from: 0, to: count, by: contentBytesMax) {
            let part = min(contentBytesMax, count - start)
            guard unsafe write(content + start, count: part, as: .applicationData, &pipe) else {
                return false
            }
        }
        recordsSealed += recordCount
        return true
    }

    /// Puts close_notify at the end of the output, once.
    package mutating func sealGoodbye(_ pipe: inout CipherPipe) {
        sealAlert(isFatal: false, 0, &pipe)
    }

    private mutating func sealAlert(
        isFatal: Bool, _ description: UInt8, _ pipe: inout CipherPipe
    ) {
        guard !hasSaidGoodbye else { return }
        hasSaidGoodbye = true
        let alert = [isFatal ? 2 : 1, description]
        _ = unsafe write(alert, count: alert.count, as: .alert, &pipe)
    }

    private mutating func sealUpdate(_ pipe: inout CipherPipe) -> Bool {
        let message = [24, 0, 0, 1, dueUpdate == .request ? 1 : 0] as [UInt8]
        guard unsafe write(message, count: message.count, as: .handshake, &pipe),
            sealing.update()
        else { return false }
        dueUpdate = .none
        keyUpdatesSent &+= 1
        return true
    }

    @unsafe
    private mutating func write(
        _ content: UnsafePointer<UInt8>, count: Int, as kind: RecordContent,
        _ pipe: inout CipherPipe
    ) -> Bool {
        let recordBytes = count + RecordProtection.overheadBytes
        guard let target = unsafe pipe.reserveOutput(recordBytes),
            unsafe sealing.seal(content, count: count, type: kind.rawValue, into: target)
        else { return false }
        pipe.extendOutput(recordBytes)
        return true
    }

    // MARK: Opening

    /// Decrypts into `target`; `.done` with the bytes of at most one record.
    ///
    /// SAFETY: `target` has room for `capacity` bytes, `capacity > 0`.
    @unsafe
    package mutating func open(
        into target: UnsafeMutablePointer<UInt8>, capacity: Int, _ pipe: inout CipherPipe
    ) -> TLSProgress {
        if hasRest { return .done(unsafe takeRest(target, capacity)) }
        do {
            while end == nil {
                guard let record = unsafe try nextRecord(&pipe) else { return .needsCiphertext }
                let count = unsafe try open(record, into: target, capacity)
                releaseGathered()
                if count > 0 { return .done(count) }
            }
        } catch {
            // Whatever was decrypted of it, verified or not, is nobody's.
            unsafe OPENSSL_cleanse(target, min(capacity, Self.innerBytesMax))
            // The alert says no more than the RFC asks for: a forged record looks like a broken one.
            end = .protocolViolation
            sealAlert(isFatal: true, error.rawValue, &pipe)
        }
        pipe.dropInput()
        return .failed(end ?? .protocolViolation)
    }

    /// The next whole record, header and body; nil where more is needed.
    private mutating func nextRecord(
        _ pipe: inout CipherPipe
    ) throws(RecordFault) -> UnsafePointer<UInt8>? {
        if gatheredCount == 0, pipe.inputCount >= RecordProtection.headerBytes,
            let lent = unsafe pipe.input
        {
            let recordBytes = unsafe try recordBytes(of: lent)
            if pipe.inputCount >= recordBytes { return unsafe pipe.takeInput(recordBytes) }
        }
        guard pipe.inputCount > 0 else { return nil }
        if gatheredCount < RecordProtection.headerBytes {
            guard try gather(upTo: RecordProtection.headerBytes, &pipe) else { return nil }
        }
        guard let header = unsafe gathered else { throw .internalError }
        guard try gather(upTo: unsafe recordBytes(of: header), &pipe) else { return nil }
        return unsafe UnsafePointer(gathered)
    }

    /// How long the record of a header is. Throws for one that may not come.
    @unsafe
    private func recordBytes(of header: UnsafePointer<UInt8>) throws(RecordFault) -> Int {
        // What is not protected ended with the handshake.
        guard unsafe header[0] == RecordContent.applicationData.rawValue else {
            throw .unexpectedMessage
        }
        let bodyBytes = unsafe Int(header[3]) << 8 | Int(header[4])
        guard bodyBytes <= Self.bodyBytesMax else { throw .recordOverflow }
        guard bodyBytes > RecordSuite.tagBytes else { throw .badRecordMAC }
        return RecordProtection.headerBytes + bodyBytes
    }

    /// Goes on gathering until there are so many bytes; false where more are needed.
    private mutating func gather(
        upTo wantedBytes: Int, _ pipe: inout CipherPipe
    ) throws(RecordFault) -> Bool {
        guard let grown = unsafe realloc(gathered, wantedBytes) else { throw .internalError }
        let base = unsafe grown.assumingMemoryBound(to: UInt8.self)
        unsafe gathered = base
        let count = min(wantedBytes - gatheredCount, pipe.inputCount)
        if count > 0, let source = unsafe pipe.takeInput(count) {
            unsafe (base + gatheredCount).update(from: source, count: count)
            gatheredCount += count
        }
        return gatheredCount == wantedBytes
    }

    private mutating func releaseGathered() {
        guard gatheredCount > 0 else { return }
        unsafe free(gathered)
        unsafe gathered = nil
        gatheredCount = 0
    }

    /// Decrypts a whole record and does what it says; answers the bytes of application data that
    /// `target` got.
    @unsafe
    private mutating func open(
        _ record: UnsafePointer<UInt8>, into target: UnsafeMutablePointer<UInt8>, _ capacity: Int
    ) throws(RecordFault) -> Int {
        let bodyBytes = unsafe Int(record[3]) << 8 | Int(record[4])
        let innerBytes = bodyBytes - RecordSuite.tagBytes
        guard innerBytes <= Self.innerBytesMax else { throw .recordOverflow }
        let firstBytes = min(innerBytes, capacity)
        if innerBytes > firstBytes {
            let memory = unsafe CRYPTO_malloc(innerBytes - firstBytes, nil, 0)
            guard let memory = unsafe memory else { throw .internalError }
            unsafe rest = memory.assumingMemoryBound(to: UInt8.self)
        }
        defer { if !hasRest { releaseRest() } }
        guard
            unsafe opening.open(
                record, bodyBytes: bodyBytes, into: target, firstBytes: firstBytes, rest: rest)
        else { throw .badRecordMAC }
        let inner = unsafe Inner(first: target, firstBytes: firstBytes, rest: rest)
        let (kind, count) = try inner.content(of: innerBytes)
        recordsOpened += 1
        if recordsOpened >= recordsPerKey { changeKeys() }
        // Nothing comes between the parts of a message (RFC 8446, 5.1).
        guard kind == .handshake || !messages.isWithinMessage else { throw .unexpectedMessage }
        guard kind == .applicationData, count > 0 else {
            try received(kind, inner, count)
            return 0
        }
        emptyRecords = 0
        keyUpdates.applicationData()
        if count > firstBytes {
            restStart = 0
            restEnd = count - firstBytes
        }
        return min(count, firstBytes)
    }

    /// What a record holds, in its two parts.
    @safe
    private struct Inner {
        // SAFETY: both outlive this value, which lives within one call.
        let first: UnsafeMutablePointer<UInt8>
        let firstBytes: Int
        let rest: UnsafeMutablePointer<UInt8>?

        /// The byte at a place, 0 beyond the end.
        func byte(_ place: Int) -> UInt8 {
            if place < firstBytes { return unsafe first[place] }
            guard let rest = unsafe rest else { return 0 }
            return unsafe rest[place - firstBytes]
        }

        /// Takes padding and type off the end (RFC 8446, 5.4).
        func content(of byteCount: Int) throws(RecordFault) -> (RecordContent, count: Int) {
            var end = byteCount - 1
            while end >= 0, byte(end) == 0 { end -= 1 }
            guard end >= 0, let kind = RecordContent(rawValue: byte(end)) else {
                throw .unexpectedMessage
            }
            return (kind, end)
        }
    }

    @unsafe
    private mutating func takeRest(
        _ target: UnsafeMutablePointer<UInt8>, _ capacity: Int
    ) -> Int {
        guard let source = unsafe rest else { return 0 }
        let count = min(capacity, restEnd - restStart)
        unsafe target.update(from: source + restStart, count: count)
        restStart += count
        if !hasRest { releaseRest() }
        return count
    }

    private mutating func releaseRest() {
        guard let memory = unsafe rest else { return }
        unsafe CRYPTO_free(memory, nil, 0)
        unsafe rest = nil
        restStart = 0
        restEnd = 0
    }

    // MARK: What is no application data

    private mutating func received(
        _ kind: RecordContent, _ inner: Inner, _ count: Int
    ) throws(RecordFault) {
        switch kind {
        case .applicationData:
            try countEmpty()
        case .alert:
            guard count > 0 else { throw .unexpectedMessage }
            guard count == 2 else { throw .decodeError }
            try receivedAlert(inner.byte(1))
        case .handshake:
            guard count > 0 else { throw .unexpectedMessage }
            for place in 0..<count {
                guard let message = try messages.take(inner.byte(place)) else { continue }
                switch message {
                case .ticket:
                    try countEmpty()
                case .keyUpdate(let isRequest):
                    // What follows it is under other keys, so it ends its record.
                    guard place == count - 1 else { throw .unexpectedMessage }
                    try receivedUpdate(isRequest)
                }
            }
        }
    }

    private mutating func receivedAlert(_ description: UInt8) throws(RecordFault) {
        switch description {
        case 0: end = .closedByPeer
        // user_canceled: a close_notify follows (RFC 8446, 6.1).
        case 90: try countEmpty()
        default: end = .protocolViolation
        }
    }

    private mutating func receivedUpdate(_ isRequest: Bool) throws(RecordFault) {
        keyUpdatesReceived &+= 1
        guard keyUpdates.received(nowMs: sluice_monotonic_ms()) else {
            end = .tooManyKeyUpdates
            return
        }
        guard opening.update() else { throw .internalError }
        if isRequest, dueUpdate == .none { dueUpdate = .answer }
    }

    private mutating func countEmpty() throws(RecordFault) {
        emptyRecords += 1
        guard emptyRecords <= Self.emptyRecordsMax else { throw .unexpectedMessage }
    }
}
