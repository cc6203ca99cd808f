internal import COpenSSL

/// What a record holds (RFC 8446, 5.1).
enum RecordContent: UInt8 {
    case alert = 21
    case handshake = 22
    case applicationData = 23
}

/// The keys of one direction of a session, and the records under them (RFC 8446, 5.2 and 5.3).
///
/// OpenSSL does the cryptography; what its own record layer does around it for each record costs
/// more than that (decision 89). Owned by one thread.
@safe
package struct RecordProtection: ~Copyable {
    static let headerBytes = 5
    /// What a record is longer than its content: header, type of the content, tag.
    package static let overheadBytes = headerBytes + 1 + RecordSuite.tagBytes
    /// As every record's header says it (RFC 8446, 5.2).
    private static let versionBytes: UInt16 = 0x0303

    private let suite: RecordSuite
    private let isSealing: Bool
    /// SAFETY: lives as long as the process.
    private let aead: UnsafePointer<sluice_aead>
    /// SAFETY: owned, from `init` to `deinit`.
    private let context: UnsafeMutableRawPointer
    /// The traffic secret, and behind it the nonce of the record at hand.
    ///
    /// SAFETY: owned, from `init` to `deinit`; in OpenSSL's heap, which wipes what is freed.
    private let secret: UnsafeMutablePointer<UInt8>
    /// The end of the IV, which each record's number is added to.
    private var ivEnd: UInt64 = 0
    /// Records under these keys so far.
    private var sequence: UInt64 = 0

    private static let nonceOffset = RecordSuite.secretBytesMax

    /// Protection under a traffic secret of the handshake; nil where OpenSSL fails.
    ///
    /// SAFETY: `trafficSecret` has the suite's `secretBytes`, which are copied.
    @unsafe
    package static func under(
        _ trafficSecret: UnsafePointer<UInt8>, _ suite: RecordSuite, isSealing: Bool
    ) -> RecordProtection? {
        TLSLibrary.prepare()
        let secretBytes = nonceOffset + RecordSuite.ivBytes
        guard let aead = unsafe suite.aead, let context = unsafe sluice_aead_make(aead) else {
            ERR_clear_error()
            return nil
        }
        guard let memory = unsafe CRYPTO_malloc(secretBytes, nil, 0) else {
            unsafe sluice_aead_release(aead, context)
            return nil
        }
        let secret = unsafe memory.bindMemory(to: UInt8.self, capacity: secretBytes)
        unsafe secret.update(from: trafficSecret, count: suite.secretBytes)
        var protection = unsafe RecordProtection(
            suite: suite, isSealing: isSealing, aead: aead, context: context, secret: secret)
        guard protection.install() else { return nil }
        return consume protection
    }

    @unsafe
    private init(
        suite: RecordSuite, isSealing: Bool, aead: UnsafePointer<sluice_aead>,
        context: UnsafeMutableRawPointer, secret: UnsafeMutablePointer<UInt8>
    ) {
        self.suite = suite
        self.isSealing = isSealing
        unsafe self.aead = aead
        unsafe self.context = context
        unsafe self.secret = secret
    }

    deinit {
        unsafe sluice_aead_release(aead, context)
        unsafe CRYPTO_free(secret, nil, 0)
    }

    /// Goes on to the next keys of this direction (RFC 8446, 7.2); false where OpenSSL fails.
    package mutating func update() -> Bool {
        unsafe suite.expand(
            secret, label: "traffic upd", into: secret, count: suite.secretBytes) && install()
    }

    /// Derives key and IV from the secret, and counts records anew (RFC 8446, 7.3).
    private mutating func install() -> Bool {
        var key = [UInt8](repeating: 0, count: suite.keyBytes)
        defer { SealingKey.wipe(&key) }
        let nonce = unsafe secret + Self.nonceOffset
        let isDone =
            unsafe suite.expand(secret, label: "key", into: &key, count: suite.keyBytes)
            && suite.expand(secret, label: "iv", into: nonce, count: RecordSuite.ivBytes)
            && sluice_aead_begin(
                aead, context, isSealing ? 1 : 0, key, suite.keyBytes, nonce,
                RecordSuite.ivBytes) == 1
        guard isDone else {
            ERR_clear_error()
            return false
        }
        ivEnd = unsafe UnsafeRawPointer(nonce + 4).loadUnaligned(as: UInt64.self)
        sequence = 0
        return true
    }

    /// The nonce of the next record: the IV with the record's number added to its end.
    private mutating func nextNonce() -> UnsafePointer<UInt8> {
        let nonce = unsafe secret + Self.nonceOffset
        unsafe UnsafeMutableRawPointer(nonce + 4).storeBytes(
            of: ivEnd ^ sequence.bigEndian, as: UInt64.self)
        sequence += 1
        return unsafe UnsafePointer(nonce)
    }

    /// Writes the record of `count` bytes of content of a type (`RecordContent`); false where
    /// OpenSSL fails.
    ///
    /// SAFETY: `target` has room for `count + overheadBytes`, apart from the content.
    @unsafe
    package mutating func seal(
        _ content: UnsafePointer<UInt8>, count: Int, type: UInt8,
        into target: UnsafeMutablePointer<UInt8>
    ) -> Bool {
        let bodyBytes = count + 1 + RecordSuite.tagBytes
        unsafe target[0] = RecordContent.applicationData.rawValue
        unsafe target[1] = UInt8(truncatingIfNeeded: Self.versionBytes >> 8)
        unsafe target[2] = UInt8(truncatingIfNeeded: Self.versionBytes)
        unsafe target[3] = UInt8(truncatingIfNeeded: bodyBytes >> 8)
        unsafe target[4] = UInt8(truncatingIfNeeded: bodyBytes)
        let body = unsafe target + Self.headerBytes
        let isDone =
            unsafe begin()
            && sluice_aead_update(aead, context, nil, target, Self.headerBytes) == 1
            && encrypt(content, count, type, into: body)
            && sluice_aead_finish_sealing(
                aead, context, body + count + 1, RecordSuite.tagBytes) == 1
        guard !isDone else { return true }
        // Short content was copied there first.
        unsafe OPENSSL_cleanse(target, count + Self.overheadBytes)
        ERR_clear_error()
        return false
    }

    /// Content and, behind it, its type. A call costs as much as copying some hundred bytes, so short
    /// content is copied and encrypted in place with its type.
    @unsafe
    private func encrypt(
        _ content: UnsafePointer<UInt8>, _ count: Int, _ type: UInt8,
        into body: UnsafeMutablePointer<UInt8>
    ) -> Bool {
        unsafe body[count] = type
        guard count > Self.copiedBytesMax else {
            unsafe body.update(from: content, count: count)
            return unsafe sluice_aead_update(aead, context, body, body, count + 1) == 1
        }
        return unsafe sluice_aead_update(aead, context, body, content, count) == 1
            && sluice_aead_update(aead, context, body + count, body + count, 1) == 1
    }

    /// The next record under the key at hand.
    private mutating func begin() -> Bool {
        unsafe sluice_aead_begin(
            aead, context, isSealing ? 1 : 0, nil, 0, nextNonce(), RecordSuite.ivBytes) == 1
    }

    private static let copiedBytesMax = 512

    /// Decrypts a record whose body, tag included, has `bodyBytes`: the first `firstBytes` of what
    /// it holds into `target`, the others into `rest`. False for a forged one: the caller wipes what
    /// was written.
    ///
    /// SAFETY: `record` has its header and `bodyBytes`; `target` has room for `firstBytes` and `rest` for
    /// the others, if there are any.
    @unsafe
    package mutating func open(
        _ record: UnsafePointer<UInt8>, bodyBytes: Int, into target: UnsafeMutablePointer<UInt8>,
        firstBytes: Int, rest: UnsafeMutablePointer<UInt8>?
    ) -> Bool {
        let body = unsafe record + Self.headerBytes
        let restBytes = bodyBytes - RecordSuite.tagBytes - firstBytes
        let tag = unsafe UnsafeMutablePointer(mutating: body + firstBytes + restBytes)
        let isDone =
            unsafe begin()
            && sluice_aead_expect(aead, context, tag, RecordSuite.tagBytes) == 1
            && sluice_aead_update(aead, context, nil, record, Self.headerBytes) == 1
            && sluice_aead_update(aead, context, target, body, firstBytes) == 1
            && (restBytes == 0
                || sluice_aead_update(aead, context, rest, body + firstBytes, restBytes) == 1)
            && sluice_aead_finish_opening(aead, context) == 1
        if !isDone { ERR_clear_error() }
        return isDone
    }
}
