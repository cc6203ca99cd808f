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
/// OpenSSL reaches it through a BIO of our own, which saves the copies of a memory BIO. It never
/// writes into a block that was taken: a send in flight owns its bytes.
@safe
struct CipherPipe {
    /// SAFETY: lent by `TLSSession.feed`; `inputCount` bytes are readable.
    var input: UnsafePointer<UInt8>?
    var inputCount = 0

    /// SAFETY: owned; nil when nothing waits, so that an idle session holds no output memory.
    private var output: UnsafeMutablePointer<UInt8>?
    private(set) var outputCount = 0
    private var outputCapacity: UInt32 = 0
    private let outputBytesMax: UInt32

    var keyUpdates: KeyUpdateBudget
    var keyUpdatesReceived: UInt32 = 0
    var keyUpdatesSent: UInt32 = 0
    /// A write was refused because the output is full.
    private(set) var outputRefused = false
    /// One KeyUpdate too many came; nothing is read any more.
    private(set) var keyUpdatesRefused = false

    init(limits: TLSLimits) {
        unsafe input = nil
        unsafe output = nil
        outputBytesMax = UInt32(limits.outputBytesMax)
        keyUpdates = KeyUpdateBudget(limits: limits)
    }

    mutating func takeOutput() -> CiphertextBlock? {
        guard let base = unsafe output, outputCount > 0 else { return nil }
        defer {
            unsafe output = nil
            outputCount = 0
            outputCapacity = 0
        }
        return unsafe CiphertextBlock(owning: base, count: outputCount)
    }

    mutating func discardOutput() {
        unsafe free(output)
        unsafe output = nil
        outputCount = 0
        outputCapacity = 0
    }

    /// Bytes read, 0 when none are there, -1 when reading is over.
    mutating func read(_ target: UnsafeMutableRawPointer, _ wanted: Int) -> Int {
        if keyUpdatesRefused { return -1 }
        guard let source = unsafe input, inputCount > 0 else { return 0 }
        let count = min(wanted, inputCount)
        unsafe target.copyMemory(from: source, byteCount: count)
        unsafe input = source + count
        inputCount -= count
        return count
    }

    /// All of `bytes` or nothing.
    mutating func write(_ bytes: UnsafeRawPointer, _ count: Int) -> Bool {
        guard count <= Int(outputBytesMax) - outputCount else {
            outputRefused = true
            return false
        }
        if outputCount + count > Int(outputCapacity) {
            var capacity = max(Int(outputCapacity), 1_024)
            while capacity < outputCount + count { capacity *= 4 }
            guard let grown = unsafe realloc(output, capacity) else {
                outputRefused = true
                return false
            }
            unsafe output = grown.assumingMemoryBound(to: UInt8.self)
            outputCapacity = UInt32(capacity)
        }
        guard let base = unsafe output else { return false }
        unsafe UnsafeMutableRawPointer(base + outputCount).copyMemory(
            from: bytes, byteCount: count)
        outputCount += count
        return true
    }

    mutating func receivedKeyUpdate() {
        keyUpdatesReceived &+= 1
        if !keyUpdates.received(nowMs: sluice_monotonic_ms()) { keyUpdatesRefused = true }
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
        unsafe got?.pointee = max(0, count)
        if count > 0 { return 1 }
        // Empty means "come again"; over means a broken transport.
        if count == 0 {
            unsafe sluice_bio_retry_read(bio)
        } else {
            unsafe sluice_bio_clear_retry(bio)
        }
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

/// Sees every TLS message; counts the KeyUpdates that come in and go out.
let countKeyUpdates:
    @convention(c) (
        Int32, Int32, Int32, UnsafeRawPointer?, Int, OpaquePointer?, UnsafeMutableRawPointer?
    ) -> Void = { outgoing, _, kind, bytes, count, _, argument in
        guard kind == SLUICE_MESSAGE_HANDSHAKE, count > 0,
            let bytes = unsafe bytes,
            unsafe bytes.load(as: UInt8.self) == SLUICE_MESSAGE_KEY_UPDATE,
            let pipe = unsafe argument?.assumingMemoryBound(to: CipherPipe.self)
        else { return }
        if outgoing == 0 {
            unsafe pipe.pointee.receivedKeyUpdate()
        } else {
            unsafe pipe.pointee.keyUpdatesSent &+= 1
        }
    }
