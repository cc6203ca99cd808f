internal import COpenSSL

/// The certificates of a PEM text, in order.
@safe
struct CertificateList: ~Copyable {
    /// SAFETY: each an owned reference, from `init` to `deinit`.
    private var handles: [OpaquePointer] = unsafe []

    init(pem: String) throws(TLSSetupError) {
        TLSLibrary.prepare()
        let source = try PEMReader(text: pem)
        while let certificate = unsafe PEM_read_bio_X509(source.handle, nil, nil, nil) {
            unsafe handles.append(certificate)
        }
        // The end of the text leaves an error behind.
        ERR_clear_error()
    }

    deinit {
        for index in 0..<count { unsafe X509_free(handles[index]) }
    }

    var count: Int { unsafe handles.count }
    @unsafe var first: OpaquePointer? { unsafe handles.first }
    @unsafe subscript(index: Int) -> OpaquePointer { unsafe handles[index] }
}

/// A private key.
@safe
struct PrivateKey: ~Copyable {
    /// SAFETY: an owned reference, from `init` to `deinit`.
    let handle: OpaquePointer

    /// A new P-256 key.
    init() throws(TLSSetupError) {
        TLSLibrary.prepare()
        guard let key = unsafe sluice_new_p256_key() else { throw .library }
        unsafe handle = key
    }

    /// The key of a PEM text; never asks for a pass phrase.
    init(pem: String) throws(TLSSetupError) {
        TLSLibrary.prepare()
        let source = try PEMReader(text: pem)
        let refuse:
            @convention(c) (
                UnsafeMutablePointer<CChar>?, Int32, Int32, UnsafeMutableRawPointer?
            ) -> Int32 = { _, _, _, _ in -1 }
        guard let key = unsafe PEM_read_bio_PrivateKey(source.handle, nil, refuse, nil) else {
            ERR_clear_error()
            throw .privateKeyUnreadable
        }
        unsafe handle = key
    }

    deinit {
        unsafe EVP_PKEY_free(handle)
    }

    /// The key as PKCS #8 in PEM.
    func pem() throws(TLSSetupError) -> String {
        try unsafe pemText { bio in
            unsafe PEM_write_bio_PKCS8PrivateKey(bio, handle, nil, nil, 0, nil, nil)
        }
    }
}

/// A read-only BIO over a text.
@safe
private struct PEMReader: ~Copyable {
    /// SAFETY: owned; reads `bytes`, which live as long.
    let handle: OpaquePointer
    private let bytes: UnsafeMutableBufferPointer<UInt8>

    init(text: String) throws(TLSSetupError) {
        let copy = UnsafeMutableBufferPointer<UInt8>.allocate(
            capacity: max(1, text.utf8.count))
        unsafe copy.initialize(repeating: 0)
        _ = unsafe copy.update(fromContentsOf: text.utf8)
        guard let bio = unsafe sluice_bio_over(copy.baseAddress, Int32(text.utf8.count)) else {
            unsafe copy.deallocate()
            throw .library
        }
        unsafe bytes = copy
        unsafe handle = bio
    }

    deinit {
        unsafe BIO_free(handle)
        // The text may have been a private key.
        unsafe OPENSSL_cleanse(bytes.baseAddress, bytes.count)
        unsafe bytes.deallocate()
    }
}

/// What `write` puts into a memory BIO, as text.
func pemText(_ write: (OpaquePointer) -> Int32) throws(TLSSetupError) -> String {
    guard let bio = unsafe BIO_new(BIO_s_mem()) else { throw .library }
    defer { unsafe BIO_free(bio) }
    guard unsafe write(bio) == 1 else {
        ERR_clear_error()
        throw .certificateNotMade
    }
    var start: UnsafeMutablePointer<CChar>?
    let count = unsafe sluice_bio_contents(bio, &start)
    let bytes = unsafe UnsafeRawBufferPointer(start: start, count: count)
    return unsafe String(decoding: bytes, as: UTF8.self)
}

/// The text of a file of at most 1 MiB.
func readTextFile(_ path: String) throws(TLSSetupError) -> String {
    TLSLibrary.prepare()
    defer { ERR_clear_error() }
    guard let bio = unsafe BIO_new_file(path, "r") else { throw .fileUnreadable }
    defer { unsafe BIO_free(bio) }
    var bytes = [UInt8](repeating: 0, count: 1 << 20)
    var total = 0
    while total < bytes.count {
        let count = unsafe bytes.withUnsafeMutableBytes { buffer in
            unsafe BIO_read(
                bio, buffer.baseAddress.map { unsafe $0 + total }, Int32(buffer.count - total))
        }
        if count <= 0 { break }
        total += Int(count)
    }
    let text = String(decoding: bytes[..<total], as: UTF8.self)
    unsafe bytes.withUnsafeMutableBytes { unsafe OPENSSL_cleanse($0.baseAddress, $0.count) }
    return text
}
