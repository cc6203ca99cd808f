/// Why TLS could not be set up.
package enum TLSSetupError: Error, Equatable, Sendable {
    /// OpenSSL refused a setting or has no memory.
    case library
    /// The certificate text holds no certificate.
    case certificateUnreadable
    /// The key text holds no private key.
    case privateKeyUnreadable
    /// The key does not belong to the certificate.
    case keyMismatch
    /// The file or text of trusted certificates cannot be read or holds none.
    case trustUnreadable
    /// A certificate could not be made.
    case certificateNotMade
    /// A file could not be read.
    case fileUnreadable
}

/// Why a session ended.
package enum TLSFailure: Error, Equatable, Sendable {
    /// The peer said that it is done (close_notify).
    case closedByPeer
    /// The handshake failed: no common version, cipher or protocol, or a bad certificate.
    case handshake
    /// A record was malformed, forged or out of place, or the peer sent an alert.
    case protocolViolation
    /// The peer sent more KeyUpdates than `KeyUpdateBudget` allows.
    case tooManyKeyUpdates
    /// More handshake answers are waiting to be sent than a session may hold.
    case outputOverflow
}

/// The numbers a session is held to.
package struct TLSLimits: Sendable {
    /// KeyUpdates that may follow one another without application data, and the depth of the
    /// budget that `keyUpdatesPerSecond` refills.
    package var keyUpdatesInARow = 32
    /// KeyUpdates that may be received a second on average.
    package var keyUpdatesPerSecond = 10
    /// Records in either direction after which this side changes the keys. AES-GCM allows
    /// 2^24.5 full records under one key (RFC 8446, 5.5).
    package var recordsPerKey = 1 << 22
    /// Bytes of the certificates that a client may send in its handshake: three with RSA keys of
    /// 4,096 bits. Whoever reaches the port can send so many.
    package var peerCertificateBytesMax = 8_192
    /// Certificates between a client's and its authority's.
    package var peerCertificateDepthMax = 3
    /// Ciphertext that may wait for a send; a session that needs more fails. It bounds what a peer
    /// that floods and does not read makes us keep.
    package var outputBytesMax = 256 * 1_024

    package init() {}
}

/// Counts KeyUpdates as they are received. Pure: the time is an argument.
package struct KeyUpdateBudget: Sendable {
    private let limits: TLSLimits
    private var inARow: Int32 = 0
    /// Thousandths of a KeyUpdate that may still come, 0...1,000 * keyUpdatesInARow.
    private var milliCredits: Int32
    private var lastMs: UInt64?

    package init(limits: TLSLimits) {
        self.limits = limits
        milliCredits = Int32(limits.keyUpdatesInARow * 1_000)
    }

    /// One KeyUpdate at `nowMs`; false when it is one too many.
    package mutating func received(nowMs: UInt64) -> Bool {
        let full = limits.keyUpdatesInARow * 1_000
        if let lastMs, nowMs > lastMs {
            let elapsedMs = Int(min(nowMs - lastMs, 60_000))
            let credits = Int(milliCredits) + elapsedMs * limits.keyUpdatesPerSecond
            milliCredits = Int32(min(full, credits))
        }
        lastMs = max(nowMs, lastMs ?? 0)
        inARow += 1
        milliCredits -= 1_000
        return Int(inARow) <= limits.keyUpdatesInARow && milliCredits >= 0
    }

    /// Application data came in between.
    package mutating func applicationData() {
        inARow = 0
    }
}
