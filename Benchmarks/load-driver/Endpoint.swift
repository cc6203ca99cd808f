import COpenSSL
import Glibc

/// How to reach the process under test.
struct Dial {
    let context: OpaquePointer
    let host: String
    let port: UInt16
}

/// TLS 1.3, AES-128-GCM first, ALPN `sluice/1`, one authority trusted.
func makeContext(authority: String) -> OpaquePointer {
    guard let context = SSL_CTX_new(TLS_client_method()) else { fatalError("no TLS context") }
    _ = SSL_CTX_ctrl(context, SSL_CTRL_SET_MIN_PROTO_VERSION, Int(TLS1_3_VERSION), nil)
    // One read of the socket may bring several records.
    _ = SSL_CTX_ctrl(context, SSL_CTRL_SET_READ_AHEAD, 1, nil)
    SSL_CTX_set_default_read_buffer_len(context, 128 * 1_024)
    SSL_CTX_set_ciphersuites(context, "TLS_AES_128_GCM_SHA256:TLS_AES_256_GCM_SHA384")
    let names: [UInt8] = [8] + Array("sluice/1".utf8)
    guard SSL_CTX_load_verify_locations(context, authority, nil) == 1,
        SSL_CTX_set_alpn_protos(context, names, UInt32(names.count)) == 0
    else { fatalError("cannot use \(authority)") }
    SSL_CTX_set_verify(context, SSL_VERIFY_PEER, nil)
    return context
}

/// One TLS connection with its buffers. Lives at a fixed address; one thread.
struct Endpoint {
    static let recordBytes = 16_384
    private static let inputCapacity = 256 * 1_024
    private static let outputCapacity = 4 * 1_024 * 1_024

    let descriptor: Int32
    private let session: OpaquePointer
    private let input: UnsafeMutableRawPointer
    private var inputStart = 0
    private var inputEnd = 0
    private let output: UnsafeMutableRawPointer
    private var outputStart = 0
    private var outputEnd = 0
    /// Length of the record that the socket had no room for.
    private var refusedBytes = 0
    /// The socket is full; wait until it is writable.
    private(set) var isBlocked = false
    private(set) var isClosed = false

    /// Connects and shakes hands, blocking.
    init(_ dial: Dial) {
        let descriptor = socket(AF_INET, Int32(SOCK_STREAM.rawValue), 0)
        self.descriptor = descriptor
        var address = sockaddr_in()
        address.sin_family = sa_family_t(AF_INET)
        address.sin_port = dial.port.bigEndian
        inet_pton(AF_INET, dial.host, &address.sin_addr)
        let connected = withUnsafePointer(to: &address) {
            $0.withMemoryRebound(to: sockaddr.self, capacity: 1) {
                connect(descriptor, $0, socklen_t(MemoryLayout<sockaddr_in>.size))
            }
        }
        guard connected == 0 else { fatalError("cannot connect to \(dial.host):\(dial.port)") }
        var on: Int32 = 1
        setsockopt(descriptor, Int32(IPPROTO_TCP), TCP_NODELAY, &on, 4)
        guard let session = SSL_new(dial.context) else { fatalError("no TLS session") }
        self.session = session
        SSL_set_fd(session, descriptor)
        guard SSL_connect(session) == 1 else { fatalError("TLS handshake failed") }
        _ = fcntl(descriptor, F_SETFL, O_NONBLOCK)
        input = .allocate(byteCount: Self.inputCapacity, alignment: 64)
        output = .allocate(byteCount: Self.outputCapacity, alignment: 64)
    }

    // MARK: Reading

    /// Reads one run of plaintext; false when nothing has arrived.
    mutating func fill() -> Bool {
        let count = SSL_read(session, input + inputEnd, Int32(Self.inputCapacity - inputEnd))
        guard count > 0 else {
            if SSL_get_error(session, count) != SSL_ERROR_WANT_READ { isClosed = true }
            return false
        }
        inputEnd += Int(count)
        return true
    }

    /// What was read and not yet used.
    var readable: (start: UnsafeRawPointer, count: Int) {
        (UnsafeRawPointer(input + inputStart), inputEnd - inputStart)
    }

    mutating func use(_ byteCount: Int) {
        inputStart += byteCount
        if inputStart == inputEnd {
            inputStart = 0
            inputEnd = 0
        } else if inputEnd > Self.inputCapacity - 2 * Self.recordBytes {
            memmove(input, input + inputStart, inputEnd - inputStart)
            inputEnd -= inputStart
            inputStart = 0
        }
    }

    // MARK: Writing

    var waitingBytes: Int { outputEnd - outputStart }

    /// Room for `byteCount` bytes at the end of the output.
    mutating func reserve(_ byteCount: Int) -> UnsafeMutableRawPointer {
        if outputStart == outputEnd, refusedBytes == 0 {
            outputStart = 0
            outputEnd = 0
        }
        precondition(outputEnd + byteCount <= Self.outputCapacity, "output is full")
        defer { outputEnd += byteCount }
        return output + outputEnd
    }

    mutating func append(_ bytes: [UInt8]) {
        bytes.withUnsafeBytes {
            reserve(bytes.count).copyMemory(
                from: $0.baseAddress ?? UnsafeRawPointer(output), byteCount: $0.count)
        }
    }

    /// Sends what waits, in full records, until the socket is full.
    mutating func flush() {
        while outputEnd > outputStart {
            let count =
                refusedBytes > 0 ? refusedBytes : min(Self.recordBytes, outputEnd - outputStart)
            let written = SSL_write(session, output + outputStart, Int32(count))
            guard written > 0 else {
                if SSL_get_error(session, written) == SSL_ERROR_WANT_WRITE {
                    refusedBytes = count
                    isBlocked = true
                } else {
                    isClosed = true
                }
                return
            }
            refusedBytes = 0
            outputStart += count
        }
    }

    mutating func writable() { isBlocked = false }
}
