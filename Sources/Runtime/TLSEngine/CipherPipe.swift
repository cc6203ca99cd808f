internal import COpenSSL

/// Ciphertext on its way to a socket, in one block from the C heap; freed with this value.
///
/// It holds records only, never plaintext.
@safe
package struct CiphertextBlock: ~Copyable, @unchecked Sendable {
    /// SAFETY: owned, `count` bytes are initialised, from `init` to `deinit`.
    private let base: UnsafeMutablePointer<UInt8>
    /// Bytes to send.
    package let count: Int

    init(owning base: UnsafeMutablePointer<UInt8>, count: Int) {
        unsafe self.base = base
        self.count = count
    }

    deinit {
        unsafe free(base)
    }

    /// SAFETY: valid as long as the block.
    @unsafe package var start: UnsafePointer<UInt8> { unsafe UnsafePointer(base) }

    /// The bytes, for reading.
    package var span: Span<UInt8> {
        @_lifetime(borrow self)
        get {
            let span = unsafe Span(_unsafeStart: base, count: count)
            return unsafe _overrideLifetime(span, borrowing: self)
        }
    }
}

/// What lies between a session and the network: the ciphertext lent to it, and its output. Every
/// connection has one, so its members are no larger than they must be.
///
/// During the handshake OpenSSL reaches it through a BIO of our own, then the record layer has it.
/// Nobody writes into a block that was taken: a send in flight owns its bytes.
@safe
package struct CipherPipe: ~Copyable {
    /// SAFETY: lent; `inputCount` bytes are readable.
    private(set) var input: UnsafePointer<UInt8>?
    /// Bytes of what is lent that are not used yet.
    package private(set) var inputCount = 0

    /// SAFETY: owned; nil when nothing waits, so that an idle session holds no output memory.
    private var output: UnsafeMutablePointer<UInt8>?
    private(set) var outputCount = 0
    private var outputCapacity: UInt32 = 0
    private let outputBytesMax: UInt32

    /// A write was refused because the output is full.
    private(set) var outputRefused = false

    /// The traffic secrets of the handshake, the client's first, until the record layer has them.
    ///
    /// SAFETY: owned; in OpenSSL's heap, which wipes what is freed.
    private var secrets: UnsafeMutablePointer<UInt8>?
    /// How long each of them is; 0 until it is known.
    private var secretBytes: (client: Int, server: Int) = (0, 0)

    /// Nothing lent, nothing to send.
    package init(limits: TLSLimits) {
        unsafe input = nil
        unsafe output = nil
        outputBytesMax = UInt32(limits.outputBytesMax)
        unsafe secrets = nil
    }

    deinit {
        unsafe free(output)
        unsafe CRYPTO_free(secrets, nil, 0)
    }

    /// Everything that waits to be sent, in a block of its own; nil when there is nothing.
    package mutating func takeOutput() -> CiphertextBlock? {
        guard let base = unsafe output, outputCount > 0 else { return nil }
        defer {
            unsafe output = nil
            outputCount = 0
            outputCapacity = 0
        }
        return unsafe CiphertextBlock(owning: base, count: outputCount)
    }

    /// Lends ciphertext that arrived; what was lent before must be used up.
    ///
    /// SAFETY: `bytes` stays valid until `inputCount` is 0 or nothing is lent any more.
    @unsafe
    package mutating func lend(_ bytes: UnsafePointer<UInt8>, count: Int) {
        precondition(inputCount == 0)
        unsafe input = bytes
        inputCount = count
    }

    /// Takes back what is lent.
    mutating func dropInput() {
        unsafe input = nil
        inputCount = 0
    }

    /// Bytes read, 0 when none are there.
    mutating func read(_ target: UnsafeMutableRawPointer, _ wanted: Int) -> Int {
        guard let source = unsafe input, inputCount > 0 else { return 0 }
        let count = min(wanted, inputCount)
        unsafe target.copyMemory(from: source, byteCount: count)
        unsafe input = source + count
        inputCount -= count
        return count
    }

    /// The next `count` bytes of what is lent, which are used up; nil where there are fewer.
    ///
    /// SAFETY: they stay valid as long as what was lent.
    @unsafe
    mutating func takeInput(_ count: Int) -> UnsafePointer<UInt8>? {
        guard let source = unsafe input, inputCount >= count else { return nil }
        unsafe input = source + count
        inputCount -= count
        return unsafe source
    }

    /// All of `bytes` or nothing.
    mutating func write(_ bytes: UnsafeRawPointer, _ count: Int) -> Bool {
        guard let target = unsafe reserveOutput(count) else { return false }
        unsafe UnsafeMutableRawPointer(target).copyMemory(from: bytes, byteCount: count)
        extendOutput(count)
        return true
    }

    /// Room for `count` bytes behind the output, which `extendOutput` adds to it; nil where so many
    /// may not wait.
    ///
    /// SAFETY: valid until the output is taken or room is reserved again.
    @unsafe
    mutating func reserveOutput(_ count: Int) -> UnsafeMutablePointer<UInt8>? {
        guard count <= Int(outputBytesMax) - outputCount else {
            outputRefused = true
            return nil
        }
        if outputCount + count > Int(outputCapacity) {
            var capacity = max(Int(outputCapacity), 1_024)
            while capacity < outputCount + count { capacity *= 4 }
            guard let grown = unsafe realloc(output, capacity) else {
                outputRefused = true
                return nil
            }
            unsafe output = grown.assumingMemoryBound(to: UInt8.self)
            outputCapacity = UInt32(capacity)
        }
        guard let base = unsafe output else { return nil }
        return unsafe base + outputCount
    }

    /// `count` bytes were written to the room that was reserved.
    mutating func extendOutput(_ count: Int) {
        outputCount += count
    }

    // MARK: Secrets

    /// Keeps a secret of the key log, if it is one of the two that protect application data.
    ///
    /// SAFETY: `line` ends in 0.
    @unsafe
    mutating func keepSecret(_ line: UnsafePointer<CChar>) {
        let isClient = unsafe strncmp(line, "CLIENT_TRAFFIC_SECRET_0 ", 24) == 0
        guard unsafe isClient || strncmp(line, "SERVER_TRAFFIC_SECRET_0 ", 24) == 0 else { return }
        if unsafe secrets == nil {
            let memory = unsafe CRYPTO_malloc(2 * RecordSuite.secretBytesMax, nil, 0)
            unsafe secrets = memory?.assumingMemoryBound(to: UInt8.self)
        }
        // Behind the label stand the client's random bytes and a space, then the secret.
        guard let secrets = unsafe secrets, unsafe strlen(line) > 24 + 65 else { return }
        let target = unsafe secrets + (isClient ? 0 : RecordSuite.secretBytesMax)
        let count = unsafe Self.decodeHexadecimal(line + 24 + 65, into: target)
        if isClient { secretBytes.client = count } else { secretBytes.server = count }
    }

    /// How many bytes there were, at most `secretBytesMax`; 0 for anything but digits.
    @unsafe
    private static func decodeHexadecimal(
        _ text: UnsafePointer<CChar>, into target: UnsafeMutablePointer<UInt8>
    ) -> Int {
        var count = 0
        while unsafe text[2 * count] != 0 {
            let high = hexadecimal(unsafe text[2 * count])
            let low = hexadecimal(unsafe text[2 * count + 1])
            guard count < RecordSuite.secretBytesMax, let high, let low else { return 0 }
            unsafe target[count] = high << 4 | low
            count += 1
        }
        return count
    }

    private static func hexadecimal(_ digit: CChar) -> UInt8? {
        switch UInt8(bitPattern: digit) {
        case let digit where (0x30...0x39).contains(digit): digit - 0x30
        case let digit where (0x61...0x66).contains(digit): digit - 0x61 + 10
        default: nil
        }
    }

    /// Protection under one of the secrets; nil where the handshake did not tell it.
    func protection(
        _ suite: RecordSuite, ofClient: Bool, isSealing: Bool
    ) -> RecordProtection? {
        let count = ofClient ? secretBytes.client : secretBytes.server
        guard let secrets = unsafe secrets, count == suite.secretBytes else { return nil }
        return unsafe RecordProtection.under(
            secrets + (ofClient ? 0 : RecordSuite.secretBytesMax), suite, isSealing: isSealing)
    }

    mutating func discardSecrets() {
        unsafe CRYPTO_free(secrets, nil, 0)
        unsafe secrets = nil
        secretBytes = (0, 0)
    }

    /// SAFETY: made once, never changed or freed; OpenSSL only reads it.
    nonisolated(unsafe) static let method: OpaquePointer? = {
        TLSLibrary.prepare()
        guard
            let method = unsafe BIO_meth_new(
                BIO_get_new_index() | SLUICE_BIO_TYPE, "sluice ciphertext")
        else { return nil }
        unsafe BIO_meth_set_read_ex(method, readCiphertext)
        unsafe BIO_meth_set_write_ex(method, writeCiphertext)
        unsafe BIO_meth_set_ctrl(method, controlCiphertext)
        return unsafe method
    }()
}

private func pipe(of bio: OpaquePointer?) -> UnsafeMutablePointer<CipherPipe>? {
    unsafe BIO_get_data(bio)?.assumingMemoryBound(to: CipherPipe.self)
}

private let readCiphertext:
    @convention(c) (
        OpaquePointer?, UnsafeMutablePointer<CChar>?, Int, UnsafeMutablePointer<Int>?
    ) -> Int32 = { bio, target, wanted, got in
        guard let pipe = unsafe pipe(of: bio), let target = unsafe target else { return 0 }
        let count = unsafe pipe.pointee.read(target, wanted)
        unsafe got?.pointee = count
        if count > 0 { return 1 }
        unsafe sluice_bio_retry_read(bio)
        return 0
    }

private let writeCiphertext:
    @convention(c) (OpaquePointer?, UnsafePointer<CChar>?, Int, UnsafeMutablePointer<Int>?)
        -> Int32 = { bio, bytes, count, written in
            guard let pipe = unsafe pipe(of: bio), let bytes = unsafe bytes else { return 0 }
            unsafe sluice_bio_clear_retry(bio)
            guard unsafe pipe.pointee.write(bytes, count) else { return 0 }
            unsafe written?.pointee = count
            return 1
        }

private let controlCiphertext:
    @convention(c) (OpaquePointer?, Int32, Int, UnsafeMutableRawPointer?) -> Int = {
        _, command, _, _ in
        command == BIO_CTRL_FLUSH ? 1 : 0
    }

/// OpenSSL's key log, which goes nowhere but to the session's own record layer.
let keepTrafficSecret: @convention(c) (OpaquePointer?, UnsafePointer<CChar>?) -> Void = {
    session, line in
    guard let line = unsafe line, let pipe = unsafe pipe(of: SSL_get_rbio(session)) else { return }
    unsafe pipe.pointee.keepSecret(line)
}
