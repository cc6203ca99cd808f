import SluiceWire

/// Every limit of one broker process, with the sums that bound its memory.
///
///     content memory = bodyArenaBytes + answerArenaBytes + reassemblyArenaBytes
///                    + shards × (landingArenaBytes + one read + one record)
///                    + shards × stagingConnections × one chunk
///                    + shards × (shards − 1) × parcelBytes
///     answerArenaBytes ≥ Σ over open tasks (reserve r in whole chunks + one chunk)
///     control memory ≤ connections × controlBytesMax
///     reassembly     ≤ reassemblyArenaBytes, 16 KiB a connection while a frame is cut
package struct BrokerLimits: Sendable {
    /// Connections of one shard, handshakes included.
    package var connections = 16_384
    /// Streams numbered 1…maxStreams on each connection.
    package var maxStreams: UInt32 = WireLimits.streamsMax
    /// Largest body of one task.
    package var maxBodyBytes: UInt32 = WireLimits.bodyBytesMaxDefault
    /// All bodies that may be reserved at once.
    package var bodyArenaBytes = 256 * 1_024 * 1_024
    /// All answer reserves at once: Σ (r + chunk).
    package var answerArenaBytes = 256 * 1_024 * 1_024
    /// Frames of which only a part has arrived, all connections together.
    package var reassemblyArenaBytes = 64 * 1_024 * 1_024
    /// First body bytes of one shard's tasks that the dispatcher has not decided about, in whole
    /// chunks: a flood of SUBMIT cannot take the arena before it is admitted.
    package var landingArenaBytes = 32 * 1_024 * 1_024
    /// When a SUBMIT that found no landing room may come again.
    package static let landingRetryMs: UInt32 = 100
    /// Connections of one shard that have staged frames at once. Staged bytes are part of their
    /// streams' reserves; each connection's last chunk is not.
    package var stagingConnections = 4_096
    /// TOKENS frames under way from one shard to one other before its sender packs what follows
    /// densely.
    package static let parcelBytes = 8 * 64 * 1_024
    /// Body bytes without stream credit that a connection may have sent and not yet seen taken.
    package var uploadAllowanceBytes: UInt64 = 1_024 * 1_024
    /// Part of the reserves above the floor that one connection may hold.
    package var extraPoolBytes: UInt32 = 1_024 * 1_024
    /// The floor of every reserve.
    package static let reserveFloorBytes: UInt32 = 4_096
    /// Unit of the content arena.
    package static let chunkBytes = 4_096

    /// Tasks that may be open at once (slots of the open-task table).
    package var openTasks = 65_536
    /// Tasks that may wait for one model, those whose body is arriving included, and the bytes
    /// of their bodies in whole chunks.
    package var queuedTasksPerModel = 4_096
    package var queuedBytesPerModel = 128 * 1_024 * 1_024
    /// The same for one account, all models together.
    package var queuedTasksPerAccount = 2_048
    package var queuedBytesPerAccount = 64 * 1_024 * 1_024
    /// Models one supplier identity may introduce.
    package var modelsPerIdentity = 256
    /// Models known to one broker.
    package var models = 4_096
    /// Offers known to one broker.
    package var offers = 65_536
    /// Models of suppliers that are counted for them, and those of one supplier: what is beyond is
    /// counted together.
    package var supplierRows = 65_536
    package static let rowsPerSupplier = 256
    /// Dispatches of one task: the first and at most two more.
    package static let dispatchesMax = 3
    /// Further dispatches of a model's tasks: at most this part of the first ones over the last
    /// 10 to 20 s, or `retryFloor` where that is more.
    package var retryPercent: UInt64 = 20
    package var retryFloor: UInt64 = 32
    /// A failing supplier is left alone for so long, twice as long each time its probe fails.
    package var breakerBackoffMs: UInt64 = 1_000
    package var breakerBackoffMaxMs: UInt64 = 30_000
    /// A supplier that sent no token for so long, and four times what the model's offers need, has
    /// failed.
    package var firstTokenMs: UInt64 = 10_000
    /// Prefixes of conversations whose supplier is remembered, 24 bytes each.
    package var affinityEntries = 65_536

    /// How long an admission waits for its account's lease, and when it may come again after that.
    package var leaseWaitMs: UInt64 = 200
    package static let leaseRetryMs: UInt64 = 1_000
    /// A lease is asked to grow no more often: what comes between waits for the next time. What was
    /// not granted is no longer asked for when nobody has waited for it for so long.
    package static let leaseWithdrawUs: UInt64 = 1_000_000
    package static let leaseAskPauseUs: UInt64 = 5_000
    /// An ask for a lease that has expired is repeated so long after the last one.
    package static let leaseRepeatUs: UInt64 = 1_000_000
    /// What nobody needed for so long goes back to the wallet.
    package static let leaseIdleUs: UInt64 = 60_000_000
    /// Between two asks for an account's reserve.
    package static let leaseReservePauseUs: UInt64 = 5_000_000
    /// A renewal that was not answered is asked for again.
    package static let leaseRenewalPauseUs: UInt64 = 60_000_000
    /// Idempotency keys of one account, and how long they are kept after their tasks have ended.
    package var idempotencyKeysPerAccount = 4_096
    package var idempotencyKeepMs: UInt64 = 600_000

    /// TLS and HELLO, each.
    package var handshakeMs: UInt64 = 5_000
    /// Until the next byte of a body that has credit [U9].
    package var uploadMs: UInt64 = 30_000
    /// Silence before a PING, and again before the connection is cut.
    package var keepAliveMs: UInt64 = 15_000
    /// Bytes queued and the socket not writable, or a task without client credit.
    package var stalledMs: UInt64 = 30_000
    /// From GO-AWAY until running tasks are ended.
    package var drainMs: UInt64 = 30_000
    /// A model without any offer for this long refuses instead of queueing.
    package var absentModelMs: UInt64 = 10_000

    /// Control bytes that may wait for one connection before it is cut.
    package var controlBytesMax = 256 * 1_024
    /// Unproductive frames [L10]: how many at once, how many more a second and with every END.
    package var unproductiveBurst: Int64 = 1_000
    package var unproductivePerSecond: Int64 = 100
    package static let unproductivePerEnd: Int64 = 16
    /// Data of one stream before the next one's turn.
    package static let quantumBytes = 16_384
    /// Bytes of a body to a supplier before the next one's turn, in quanta: most bodies whole.
    package static let bodyTurnBytes = 256 * 1_024

    package init() {}

    /// Memory for content of a broker with so many shards, in whole chunks.
    package func arenaBytes(shardCount: Int) -> Int {
        Self.chunked(
            bodyArenaBytes + answerArenaBytes + reassemblyArenaBytes
                + shardCount * (landingArenaBytes + stagingConnections * Self.chunkBytes)
                + shardCount * (shardCount - 1) * Self.parcelBytes)
    }

    /// The reserve r of a task: its floor, and what it asks above it as far as the connection's
    /// extra pool has room.
    package static func reserve(askedBytes: UInt32, extraPoolFreeBytes: UInt32) -> UInt32 {
        let asked = askedBytes == 0 ? WireLimits.windowBytesDefault : askedBytes
        precondition(asked >= WireLimits.windowBytesMin && asked <= WireLimits.windowBytesMax)
        return reserveFloorBytes + min(asked - reserveFloorBytes, extraPoolFreeBytes)
    }

    /// Arena bytes of an answer queue that never holds more than r: whole chunks, and one more
    /// because its first may be partly used up.
    package static func answerArenaBytes(reserveBytes: UInt32) -> Int {
        chunked(Int(reserveBytes)) + chunkBytes
    }

    /// Arena bytes that `byteCount` bytes occupy in whole chunks.
    package static func chunked(_ byteCount: Int) -> Int {
        (byteCount + chunkBytes - 1) / chunkBytes * chunkBytes
    }
}
