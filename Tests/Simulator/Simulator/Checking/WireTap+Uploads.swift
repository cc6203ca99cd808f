import SluiceSession
import SluiceWire

/// The free parts of the bodies on one client connection ([U1]…[U3]).
struct UploadBook {
    /// What WELCOME allowed; 0 before it.
    var allowanceBytes: UInt64 = 0
    /// Absolute: what was allowed and what came since WELCOME.
    var limitBytes: UInt64 = 0
    var usedBytes: UInt64 = 0

    init() {}

    init(allowanceBytes: UInt64) {
        self.allowanceBytes = allowanceBytes
        limitBytes = allowanceBytes
    }

    /// What may still be sent.
    var leftBytes: UInt64 { limitBytes - min(limitBytes, usedBytes) }
}

/// [I3]: credit is conserved. What was granted on a client's connection is what it used, what it
/// may still use, and what was not given back yet.
extension WireTap {
    /// So many bytes of a body came, on a slot that may be idle by now [U7].
    func uploaded(_ connection: UInt32, _ number: UInt32, _ byteCount: UInt64) {
        guard let stream = lines[connection]?.streams[number] else { return }
        let freeBytes = min(stream.bodyBytes, UInt64(WireLimits.freeBodyBytesMax))
        let from = min(stream.uploadedBytes, freeBytes)
        let to = min(stream.uploadedBytes + byteCount, freeBytes)
        lines[connection]?.streams[number]?.uploadedBytes += byteCount
        lines[connection]?.upload.usedBytes += to - from
    }

    /// CREDIT on stream 0.
    func uploadGranted(_ connection: UInt32, _ frame: ReceivedFrame) {
        guard let credit = try? CreditFrame(decoding: frame.payload.span),
            let line = lines[connection]
        else { return oracle.fail("CREDIT is malformed") }
        oracle.check(
            credit.limitBytes > line.upload.limitBytes, "[C3] CREDIT that raises no upload limit")
        lines[connection]?.upload.limitBytes = credit.limitBytes
        // Who sends bodies against the rules confuses these books, not the broker.
        guard line.isHonest else { return }
        let leftBytes = lines[connection]?.upload.leftBytes ?? 0
        oracle.check(
            leftBytes <= line.upload.allowanceBytes,
            "[I3] \(leftBytes) upload bytes on \(connection), \(line.upload.allowanceBytes) promised"
        )
        oracle.count("upload credit returned")
    }

    /// Nothing is on its way to or from this connection: with no stream open, all that was used is
    /// given back, but for what is too little to be told ([U3]).
    package func checkUploads(isIdle: (UInt32) -> Bool) {
        for connection in lines.keys.sorted() {
            guard let line = lines[connection], line.role == .client, line.isHonest, !line.isOver,
                !line.isGarbled, line.upload.allowanceBytes > 0, line.upload.usedBytes > 0,
                !line.streams.values.contains(where: \.isOpen), isIdle(connection)
            else { continue }
            oracle.check(
                line.upload.leftBytes * 2 >= line.upload.allowanceBytes,
                "[I3] \(line.upload.leftBytes) of \(line.upload.allowanceBytes) upload bytes are "
                    + "left on \(connection) with nothing open")
        }
    }
}
