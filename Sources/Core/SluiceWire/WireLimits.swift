/// Every limit that both sides of a connection know, in one place. The specification lists the
/// same numbers; a test holds their relations.
@usableFromInline
package enum WireLimits {
    /// The version this code speaks.
    package static let version: UInt16 = 1
    /// The oldest version it also speaks.
    package static let oldestVersion: UInt16 = 1
    /// The protocol's name in TLS ALPN.
    package static let applicationProtocol = "sluice/1"

    /// A frame with its header fits one TLS record.
    @inlinable package static var frameBytesMax: Int { 16_384 }
    /// Largest payload.
    @inlinable package static var payloadBytesMax: Int { 16_372 }

    /// Streams a connection may have open at once, unless the welcome says fewer.
    package static let streamsMax: UInt32 = 1_024
    /// Body bytes of one task that may travel without credit on the stream.
    package static let freeBodyBytesMax: UInt32 = 16_384
    /// Largest body of one task by default (16 MiB).
    package static let bodyBytesMaxDefault: UInt32 = 16 * 1_024 * 1_024
    /// Smallest BODY payload except a task's last one.
    package static let bodyFrameBytesMin = 1_024
    /// Smallest and largest reserve r of a task's answer, in bytes.
    package static let windowBytesMin: UInt32 = 4_096
    package static let windowBytesMax: UInt32 = 65_536
    /// The reserve where a SUBMIT asks for none.
    package static let windowBytesDefault: UInt32 = 16_384
    /// A sender with data never waits for more credit than this before it sends.
    @inlinable package static var usefulCreditBytes: UInt64 { 2_048 }
    /// Largest absolute credit limit that may be named.
    package static let creditLimitMax: UInt64 = 1 << 62

    /// Longest and default deadline.
    package static let deadlineMsMax: UInt32 = 600_000
    /// Longest secret in HELLO.
    package static let credentialBytesMax = 512
    /// Longest run of extensions in one control payload.
    package static let extensionBytesMax = 4_096
    /// Longest list of brokers in WELCOME.
    package static let brokersBytesMax = 1_024
    /// Affinity keys of one task.
    package static let affinityKeysMax = 8
    /// Offers of one supplier connection.
    package static let offersMax = 256
    /// Largest number of slots one GRANT may name.
    package static let slotsMax: UInt32 = 65_536
    /// Numbers in one row of a report ([S15]).
    package static let reportCountsMax = 256
    /// A supplier's questions how it stands are answered no more often ([S17]).
    package static let reportPauseMs: UInt64 = 1_000

    /// A supplier answers CANCEL with END within this time.
    package static let cancelGraceMs: UInt64 = 2_000
    /// The TLS handshake is complete within this time, in total ([H1]).
    package static let handshakeMs: UInt64 = 5_000
    /// HELLO arrives within this time after it ([H1]).
    package static let helloMs: UInt64 = 5_000
    /// A reader that takes nothing for this long is cut ([E13]).
    package static let stalledReaderMs: UInt64 = 30_000
    /// A body that makes no progress for this long, though there is credit, is refused ([U9]).
    package static let stalledUploadMs: UInt64 = 30_000

    /// Unproductive frames that a connection may send before it is closed ([L10]).
    package static let unproductiveFramesMax: UInt32 = 1_000
    /// What a connection regains of that allowance each second.
    package static let unproductiveFramesPerSecond: UInt32 = 100
    /// What it regains with every END.
    package static let unproductiveFramesPerEnd: UInt32 = 16

    /// Connection's share of reserves above the floor of each slot ([C7]).
    package static let reservePoolBytes: UInt32 = 1_048_576
}
