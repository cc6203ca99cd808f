internal import COpenSSL

/// SHA-256 of `bytes` as four little-endian words: the digest's first byte is the lowest byte of
/// the first word.
package func sha256(_ bytes: Span<UInt8>) -> (UInt64, UInt64, UInt64, UInt64) {
    TLSLibrary.prepare()
    return unsafe digestWords { target in
        let source = unsafe bytes.withUnsafeBufferPointer { buffer in
            unsafe EVP_Digest(buffer.baseAddress, buffer.count, target, nil, EVP_sha256(), nil)
        }
        return source == 1
    }
}

/// HMAC-SHA256 of `bytes` under `key`, in the form of `sha256`.
package func hmacSHA256(
    key: Span<UInt8>, _ bytes: Span<UInt8>
) -> (UInt64, UInt64, UInt64, UInt64) {
    TLSLibrary.prepare()
    return unsafe digestWords { target in
        unsafe key.withUnsafeBufferPointer { secret in
            unsafe bytes.withUnsafeBufferPointer { buffer in
                // OpenSSL reads no key at all from a null pointer, even for an empty one.
                var empty: UInt8 = 0
                return unsafe withUnsafePointer(to: &empty) { nothing in
                    unsafe HMAC(
                        EVP_sha256(), secret.baseAddress ?? nothing, Int32(secret.count),
                        buffer.baseAddress ?? nothing, buffer.count, target, nil) != nil
                }
            }
        }
    }
}

/// Fills `bytes` from the system's secure random source.
package func randomBytes(_ bytes: inout MutableSpan<UInt8>) {
    TLSLibrary.prepare()
    unsafe bytes.withUnsafeMutableBufferPointer { buffer in
        guard let base = buffer.baseAddress else { return }
        let filled = unsafe RAND_bytes(base, Int32(buffer.count)) == 1
        precondition(filled)
    }
}

/// `count` secure random bytes.
package func randomBytes(_ count: Int) -> [UInt8] {
    var bytes = [UInt8](repeating: 0, count: count)
    var span = bytes.mutableSpan
    randomBytes(&span)
    return bytes
}

/// Whether two secrets of equal length are equal, in time that depends on the length alone.
package func constantTimeEqual(_ left: Span<UInt8>, _ right: Span<UInt8>) -> Bool {
    guard left.count == right.count else { return false }
    var difference: UInt8 = 0
    for index in 0..<left.count { difference |= left[index] ^ right[index] }
    return difference == 0
}

/// SHA-256 of a certificate as it is sent (DER).
@unsafe
func certificateDigest(_ certificate: OpaquePointer) -> (UInt64, UInt64, UInt64, UInt64) {
    unsafe digestWords { target in
        unsafe X509_digest(certificate, EVP_sha256(), target, nil) == 1
    }
}

private func digestWords(
    _ digest: (UnsafeMutablePointer<UInt8>) -> Bool
) -> (UInt64, UInt64, UInt64, UInt64) {
    var words: (UInt64, UInt64, UInt64, UInt64) = (0, 0, 0, 0)
    let done = unsafe withUnsafeMutableBytes(of: &words) { buffer in
        guard let base = buffer.baseAddress else { return false }
        return unsafe digest(base.assumingMemoryBound(to: UInt8.self))
    }
    precondition(done)
    return (
        UInt64(littleEndian: words.0), UInt64(littleEndian: words.1),
        UInt64(littleEndian: words.2), UInt64(littleEndian: words.3)
    )
}
