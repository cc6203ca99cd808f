internal import COpenSSL

/// What protects a session's records: an AEAD, and the digest of its key schedule (RFC 8446, B.4).
package enum RecordSuite: Sendable {
    case aes128GCM
    case aes256GCM
    case chacha20Poly1305

    static let ivBytes = 12
    static let tagBytes = 16
    /// The longest of a suite's secrets.
    static let secretBytesMax = 48
    static let keyBytesMax = 32

    /// What a session's handshake agreed on; nil for a suite that no context offers.
    ///
    /// SAFETY: `session` is an `SSL`.
    @unsafe
    init?(agreedBy session: OpaquePointer) {
        guard let cipher = unsafe SSL_get_current_cipher(session) else { return nil }
        switch unsafe SSL_CIPHER_get_protocol_id(cipher) {
        case 0x1301: self = .aes128GCM
        case 0x1302: self = .aes256GCM
        case 0x1303: self = .chacha20Poly1305
        default: return nil
        }
    }

    /// How long its traffic secrets are, and its digest's output: all that is derived is at most as
    /// long.
    package var secretBytes: Int {
        switch self {
        case .aes128GCM, .chacha20Poly1305: 32
        case .aes256GCM: 48
        }
    }

    var keyBytes: Int {
        switch self {
        case .aes128GCM: 16
        case .aes256GCM, .chacha20Poly1305: 32
        }
    }

    /// The AEAD, found once for the process; nil where OpenSSL has none.
    ///
    /// SAFETY: never freed.
    @unsafe
    var aead: UnsafePointer<sluice_aead>? {
        switch self {
        case .aes128GCM: unsafe Self.aes128
        case .aes256GCM: unsafe Self.aes256
        case .chacha20Poly1305: unsafe Self.chacha20
        }
    }

    // SAFETY: made once, never changed, never freed.
    private nonisolated(unsafe) static let aes128 = unsafe find("AES-128-GCM")
    private nonisolated(unsafe) static let aes256 = unsafe find("AES-256-GCM")
    private nonisolated(unsafe) static let chacha20 = unsafe find("ChaCha20-Poly1305")

    @unsafe
    private static func find(_ name: String) -> UnsafePointer<sluice_aead>? {
        let aead = UnsafeMutablePointer<sluice_aead>.allocate(capacity: 1)
        unsafe aead.initialize(to: sluice_aead())
        guard unsafe sluice_aead_find(aead, name) == 1 else {
            unsafe aead.deallocate()
            return nil
        }
        return unsafe UnsafePointer(aead)
    }

    /// HKDF-Expand-Label with an empty context, at most `secretBytes` of it (RFC 8446, 7.1): one
    /// block of HKDF-Expand (RFC 5869, 2.3). False where OpenSSL fails.
    ///
    /// SAFETY: `secret` has `secretBytes`; `target` has room for `count` and may be `secret`.
    @unsafe
    func expand(
        _ secret: UnsafePointer<UInt8>, label: String, into target: UnsafeMutablePointer<UInt8>,
        count: Int
    ) -> Bool {
        precondition(count <= secretBytes)
        let name = Array("tls13 \(label)".utf8)
        let message = [0, UInt8(count), UInt8(name.count)] + name + [0, 1]
        let digest = unsafe secretBytes == 48 ? EVP_sha384() : EVP_sha256()
        var block = [UInt8](repeating: 0, count: Int(EVP_MAX_MD_SIZE))
        defer { SealingKey.wipe(&block) }
        let isDone =
            unsafe HMAC(
                digest, secret, Int32(secretBytes), message, message.count, &block, nil) != nil
        guard isDone else { return false }
        for index in 0..<count { unsafe target[index] = block[index] }
        return true
    }
}
