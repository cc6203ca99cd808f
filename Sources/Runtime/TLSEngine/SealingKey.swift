internal import COpenSSL

/// Why something sealed, or the key for it, cannot be had. Carries no byte of either.
package enum SealingError: Error, Equatable, Sendable {
    /// Neither file nor environment variable names a master key.
    case keyMissing
    /// The file cannot be read.
    case keyUnreadable(errno: Int32)
    /// Others than its owner may read the file (mode above 0600), or it is not ours.
    case keyExposed
    /// A key is not 64 hexadecimal digits.
    case keyMalformed
    /// Sealed under a master key that is not among those given.
    case keyUnknown
    /// Changed since it was sealed, sealed under another key, or for another purpose.
    case forged
}

extension SealingError {
    /// What is wrong and what to do, without a byte of a key.
    package var words: String {
        switch self {
        case .keyMissing:
            "there is no master key: give --master-key-file FILE or set SLUICE_MASTER_KEY; "
                + "`sluice account person make-key FILE` makes one"
        case .keyUnreadable(let number): "the master key cannot be read (errno \(number))"
        case .keyExposed:
            "others can read the master key, or it is not yours: chmod 600 it, and replace it"
        case .keyMalformed: "the master key is not 64 hexadecimal digits a line"
        case .keyUnknown:
            "this was sealed under another master key; add that one below the first line"
        case .forged: "what is stored was changed, or belongs elsewhere"
        }
    }
}

/// A key of AES-256-GCM. Its bytes lie in OpenSSL's heap, which wipes what is freed.
///
/// Each seal takes a random nonce of 96 bits, so one key must seal no more than 2^32 times: data
/// keys are per account, or per file.
@safe
package final class SealingKey: @unchecked Sendable {
    package static let byteCount = 32
    /// What sealing adds: nonce and tag.
    package static let overheadBytes = nonceBytes + tagBytes
    private static let nonceBytes = 12
    private static let tagBytes = 16

    // SAFETY: written by `init` alone, before the reference is shared; read-only afterwards.
    private let bytes: UnsafeMutablePointer<UInt8>

    /// A key of 32 bytes; another size is a fault of the caller.
    package init(_ key: Span<UInt8>) {
        precondition(key.count == Self.byteCount, "a sealing key has 32 bytes")
        TLSLibrary.prepare()
        guard let memory = unsafe CRYPTO_malloc(Self.byteCount, nil, 0) else {
            preconditionFailure("no memory for a key")
        }
        // SAFETY: `memory` has room for 32 bytes and is ours.
        unsafe bytes = memory.bindMemory(to: UInt8.self, capacity: Self.byteCount)
        for index in 0..<Self.byteCount { unsafe bytes[index] = key[index] }
    }

    deinit {
        unsafe OPENSSL_cleanse(bytes, Self.byteCount)
        unsafe CRYPTO_free(bytes, nil, 0)
    }

    /// A new random key.
    package static func random() -> SealingKey {
        var bytes = randomBytes(byteCount)
        defer { wipe(&bytes) }
        return SealingKey(bytes.span)
    }

    /// Zeroes bytes that were secret.
    package static func wipe(_ bytes: inout [UInt8]) {
        unsafe bytes.withUnsafeMutableBytes { unsafe OPENSSL_cleanse($0.baseAddress, $0.count) }
    }

    /// Encrypts and signs: nonce, ciphertext, tag. `associated` is signed and not stored; who
    /// opens must give the same, so that nothing can be moved to another place.
    package func seal(_ plaintext: [UInt8], associated: [UInt8]) -> [UInt8] {
        let nonce = randomBytes(Self.nonceBytes)
        var sealed = [UInt8](repeating: 0, count: plaintext.count + Self.tagBytes)
        guard let context = unsafe EVP_CIPHER_CTX_new() else {
            preconditionFailure("no memory for a cipher")
        }
        defer { unsafe EVP_CIPHER_CTX_free(context) }
        var count: Int32 = 0
        // SAFETY: every pointer is to an array of the size that is passed with it, alive for the
        // call; `sealed` has room for the ciphertext and the tag behind it.
        let isDone = unsafe sealed.withUnsafeMutableBufferPointer { target in
            guard let base = target.baseAddress else { return false }
            return unsafe EVP_EncryptInit_ex(context, EVP_aes_256_gcm(), nil, bytes, nonce) == 1
                && EVP_EncryptUpdate(
                    context, nil, &count, associated, Int32(associated.count)) == 1
                && EVP_EncryptUpdate(
                    context, base, &count, plaintext, Int32(plaintext.count)) == 1
                && EVP_EncryptFinal_ex(context, base + plaintext.count, &count) == 1
                && EVP_CIPHER_CTX_ctrl(
                    context, EVP_CTRL_AEAD_GET_TAG, Int32(Self.tagBytes),
                    base + plaintext.count) == 1
        }
        precondition(isDone, "AES-256-GCM is not there")
        return nonce + sealed
    }

    /// What `seal` was given. `forged` where one bit of it, the key or `associated` differs.
    package func open(
        _ sealed: [UInt8], associated: [UInt8]
    ) throws(SealingError) -> [UInt8] {
        guard sealed.count >= Self.overheadBytes, sealed.count <= Int(Int32.max) else {
            throw .forged
        }
        let nonce = Array(sealed.prefix(Self.nonceBytes))
        let body = Array(sealed.dropFirst(Self.nonceBytes).dropLast(Self.tagBytes))
        var tag = Array(sealed.suffix(Self.tagBytes))
        // One more, so that the pointer is never null.
        var plaintext = [UInt8](repeating: 0, count: body.count + 1)
        guard let context = unsafe EVP_CIPHER_CTX_new() else {
            preconditionFailure("no memory for a cipher")
        }
        defer { unsafe EVP_CIPHER_CTX_free(context) }
        var count: Int32 = 0
        // SAFETY: as in `seal`.
        let isDone = unsafe plaintext.withUnsafeMutableBufferPointer { target in
            guard let base = target.baseAddress else { return false }
            return unsafe EVP_DecryptInit_ex(context, EVP_aes_256_gcm(), nil, bytes, nonce) == 1
                && EVP_DecryptUpdate(
                    context, nil, &count, associated, Int32(associated.count)) == 1
                && EVP_DecryptUpdate(context, base, &count, body, Int32(body.count)) == 1
                && EVP_CIPHER_CTX_ctrl(
                    context, EVP_CTRL_AEAD_SET_TAG, Int32(Self.tagBytes), &tag) == 1
                && EVP_DecryptFinal_ex(context, base + body.count, &count) == 1
        }
        guard isDone else {
            Self.wipe(&plaintext)
            throw .forged
        }
        plaintext.removeLast()
        return plaintext
    }

    /// HMAC-SHA256 of a message under the key, 32 bytes. A key that makes these seals nothing.
    package func authenticationCode(of message: [UInt8]) -> [UInt8] {
        var copy = copyBytes()
        defer { Self.wipe(&copy) }
        let words = hmacSHA256(key: copy.span, message.span)
        return [words.0, words.1, words.2, words.3].flatMap { word in
            (0..<8).map { UInt8(truncatingIfNeeded: word >> UInt64($0 * 8)) }
        }
    }

    /// A copy of the key's bytes, to be sealed under another. The caller wipes it.
    fileprivate func copyBytes() -> [UInt8] {
        (0..<Self.byteCount).map { unsafe bytes[$0] }
    }

    /// Names the key without telling it: the first 8 bytes of an HMAC under it.
    fileprivate var name: [UInt8] {
        var copy = copyBytes()
        defer { Self.wipe(&copy) }
        let word = hmacSHA256(key: copy.span, Array("sluice sealing key".utf8).span).0
        return (0..<8).map { UInt8(truncatingIfNeeded: word >> UInt64($0 * 8)) }
    }
}

/// The master keys of a deployment: the first wraps, all of them unwrap, so that an old one can be
/// retired once everything was wrapped again.
///
/// A wrapped key is 69 bytes: u8 1, the 8-byte name of the master key, the sealed data key.
/// Destroying it destroys what was sealed under the data key.
package struct MasterKeys: Sendable {
    private static let wrappedVersion: UInt8 = 1
    private static let nameBytes = 8

    private let keys: [(name: [UInt8], key: SealingKey)]

    /// The current key, then earlier ones.
    package init(_ current: SealingKey, earlier: [SealingKey] = []) {
        keys = ([current] + earlier).map { ($0.name, $0) }
    }

    /// Seals a data key. `owner` is what it belongs to, as in `SealingKey.seal`.
    package func wrap(_ key: SealingKey, owner: [UInt8]) -> [UInt8] {
        var bytes = key.copyBytes()
        defer { SealingKey.wipe(&bytes) }
        return [Self.wrappedVersion] + keys[0].name + keys[0].key.seal(bytes, associated: owner)
    }

    /// The data key of `wrap`.
    package func unwrap(_ wrapped: [UInt8], owner: [UInt8]) throws(SealingError) -> SealingKey {
        guard wrapped.first == Self.wrappedVersion, wrapped.count > Self.nameBytes else {
            throw .forged
        }
        let name = Array(wrapped[1...Self.nameBytes])
        guard let master = keys.first(where: { $0.name == name })?.key else {
            throw .keyUnknown
        }
        var bytes = try master.open(
            Array(wrapped.dropFirst(1 + Self.nameBytes)), associated: owner)
        defer { SealingKey.wipe(&bytes) }
        guard bytes.count == SealingKey.byteCount else { throw .forged }
        return SealingKey(bytes.span)
    }

    /// The same data key under the current master key; nil if it is already.
    package func rewrap(_ wrapped: [UInt8], owner: [UInt8]) throws(SealingError) -> [UInt8]? {
        let key = try unwrap(wrapped, owner: owner)
        guard Array(wrapped[1...Self.nameBytes]) != keys[0].name else { return nil }
        return wrap(key, owner: owner)
    }
}
