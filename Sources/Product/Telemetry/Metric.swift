import SluiceRecordFormat

/// One number of the statistics page as Prometheus names it. Every name is part of the contract
/// with dashboards and alert rules; `Protocol/Metrics.md` lists them.
struct Metric {
    enum Kind: String { case counter, gauge }

    let name: String
    let help: String
    let kind: Kind
    let counter: Counter
    /// The page counts microseconds, the metric says seconds.
    let isMicroseconds: Bool
    /// Every shard has its own; else shard 0's block holds the dispatcher's number for all.
    let isPerShard: Bool

    private init(
        _ kind: Kind, _ name: String, _ counter: Counter, _ help: String,
        isMicroseconds: Bool = false,
        isPerShard: Bool
    ) {
        self.name = "sluice_" + name
        self.help = help
        self.kind = kind
        self.counter = counter
        self.isMicroseconds = isMicroseconds
        self.isPerShard = isPerShard
    }

    private static func shard(
        _ kind: Kind, _ name: String, _ counter: Counter, _ help: String,
        isMicroseconds: Bool = false
    ) -> Metric {
        Metric(kind, name, counter, help, isMicroseconds: isMicroseconds, isPerShard: true)
    }

    private static func broker(
        _ kind: Kind, _ name: String, _ counter: Counter, _ help: String,
        isMicroseconds: Bool = false
    ) -> Metric {
        Metric(kind, name, counter, help, isMicroseconds: isMicroseconds, isPerShard: false)
    }

    static let all = tasks + supply + money + journal + memory + connections + relayed + loop

    private static let tasks = [
        broker(.counter, "tasks_accepted_total", .tasksAccepted, "Tasks accepted."),
        broker(.counter, "tasks_ended_total", .tasksEnded, "Tasks that have their final record."),
        broker(.counter, "tasks_completed_total", .tasksCompleted, "Tasks that were answered."),
        broker(
            .counter, "deadlines_passed_total", .deadlinesPassed,
            "Tasks that ended because their deadline had passed."),
        broker(.counter, "tasks_refused_total", .tasksRefused, "Tasks refused before acceptance."),
        broker(.gauge, "tasks_open", .tasksOpen, "Tasks accepted and not ended."),
        broker(.gauge, "tasks_queued", .tasksQueued, "Tasks that wait for a supplier."),
        broker(
            .counter, "tasks_dispatched_total", .tasksDispatched, "Tasks handed to a supplier."),
        broker(
            .counter, "tasks_dispatched_again_total", .tasksDispatchedAgain,
            "Tasks handed to a further supplier after one was lost or declined."),
        broker(
            .counter, "tasks_matched_at_once_total", .tasksMatchedAtOnce,
            "Tasks that found a free slot at once."),
        broker(
            .counter, "affinity_hits_total", .affinityHits,
            "Tasks that went where their prefix had been read."),
        broker(
            .counter, "retries_refused_total", .retriesRefused,
            "Tasks that ended because the retry budget was spent."),
        broker(
            .counter, "queue_seconds_total", .queueUsTotal,
            "Time from acceptance to the first dispatch, all tasks together.", isMicroseconds: true),
    ]

    private static let supply = [
        broker(.gauge, "suppliers_connected", .suppliersConnected, "Supplier connections."),
        broker(.gauge, "offers_open", .offersOpen, "Models on offer, counted per supplier."),
        broker(.gauge, "slots_granted", .slotsGranted, "Slots that suppliers have granted."),
        broker(.gauge, "slots_in_use", .slotsInUse, "Slots with a task in them."),
        broker(.gauge, "breakers_open", .breakersOpen, "Suppliers left out for their failures."),
        shard(
            .counter, "slots_quarantined_total", .slotsQuarantined,
            "Slots not used again before their supplier's END came."),
        shard(.counter, "cancels_sent_total", .cancelsSent, "CANCEL frames to suppliers."),
    ]

    private static let money = [
        broker(
            .counter, "holds_refused_total", .holdsRefused,
            "Prepaid tasks refused for want of money."),
        broker(
            .counter, "lease_waits_total", .leaseWaits,
            "Prepaid tasks that waited for their account's lease."),
        broker(.counter, "lease_asks_total", .leaseAsks, "Times that a lease was asked to grow."),
        broker(
            .counter, "limit_refusals_total", .limitRefusals,
            "Tasks refused by the limits of an account or key."),
        broker(
            .counter, "duplicates_answered_total", .duplicatesAnswered,
            "Tasks answered with an earlier one of their idempotency key."),
    ]

    private static let journal = [
        broker(
            .counter, "journal_records_total", .journalRecords, "Records written to the ring."),
        broker(
            .gauge, "journal_records_free", .journalRecordsFree,
            "Records that the ring can take before the sidecar must have read."),
        broker(
            .counter, "journal_full_refusals_total", .journalFullRefusals,
            "Tasks refused because the sidecar was too far behind."),
        broker(
            .counter, "refusals_unwritten_total", .refusalsCounted,
            "Refusals that were counted and have no record of their own."),
    ]

    private static let memory = [
        broker(
            .gauge, "body_memory_bytes", .bodyBytesInUse,
            "Content memory promised to request bodies of open tasks."),
        broker(
            .gauge, "answer_memory_bytes", .reserveBytesInUse,
            "Content memory promised to answers of open tasks."),
        broker(
            .gauge, "content_memory_bytes", .arenaBytesInUse,
            "Content memory that holds content or is kept ready for it."),
        broker(
            .gauge, "content_memory_bytes_max", .arenaBytesMax,
            "The most that content_memory_bytes has been."),
        broker(
            .gauge, "certificate_expires_timestamp_seconds", .certificateExpiresUs,
            "When the certificate that new connections are served with ends.",
            isMicroseconds: true),
    ]

    private static let connections = [
        shard(
            .counter, "connections_accepted_total", .connectionsAccepted,
            "Connections accepted."),
        shard(.gauge, "connections_open", .connectionsOpen, "Connections open."),
        shard(
            .counter, "connections_cut_total", .connectionsCut,
            "Connections that the broker ended for their peer's fault."),
        shard(.counter, "handshakes_total", .handshakesCompleted, "TLS handshakes completed."),
        shard(
            .counter, "handshakes_failed_total", .handshakesFailed, "TLS handshakes that failed."),
        shard(
            .counter, "key_updates_received_total", .keyUpdatesReceived,
            "TLS KeyUpdates from peers, counted with a delay."),
        shard(
            .counter, "key_updates_sent_total", .keyUpdatesSent,
            "TLS KeyUpdates to peers, counted with a delay."),
        shard(
            .counter, "protocol_errors_total", .protocolErrors,
            "Frames that broke the protocol."),
        shard(
            .counter, "readers_stalled_total", .readersStalled,
            "Connections whose reader stood still."),
        shard(
            .counter, "credit_stalls_total", .creditStalls,
            "Times that an answer had to wait for its client's credit."),
    ]

    private static let relayed = [
        shard(.counter, "tokens_relayed_total", .tokensRelayed, "Tokens delivered to clients."),
        shard(.counter, "frames_relayed_total", .framesRelayed, "TOKENS frames delivered."),
        shard(
            .counter, "answer_bytes_total", .bytesRelayed, "Bytes of answers delivered."),
        shard(
            .counter, "late_frames_total", .lateFramesIgnored,
            "Frames of tasks that had ended."),
        shard(
            .counter, "wire_received_bytes_total", .wireBytesReceived,
            "Bytes received, TLS included."),
        shard(
            .counter, "wire_sent_bytes_total", .wireBytesSent, "Bytes sent, TLS included."),
    ]

    private static let loop = [
        shard(.counter, "loop_turns_total", .loopTurns, "Turns of the shard's loop."),
        shard(
            .counter, "loop_busy_seconds_total", .loopBusyUs,
            "Processor time of the shard's thread, the kernel's for it included.",
            isMicroseconds: true),
        shard(
            .gauge, "loop_last_turn_timestamp_seconds", .lastTurnUs,
            "When the shard's loop last reported.", isMicroseconds: true),
    ]
}

/// A histogram of the statistics page as Prometheus names it, in seconds.
struct HistogramMetric {
    let name: String
    let help: String
    let histogram: Histogram
    /// Upper bounds in microseconds: powers of two, which are bounds of the page's buckets too.
    let boundsUs: [UInt64]

    static let all = [
        HistogramMetric(
            name: "sluice_first_token_seconds", help: "From acceptance to the first token.",
            histogram: .ttftUs, boundsUs: (10...26).map { 1 << $0 }),
        HistogramMetric(
            name: "sluice_task_duration_seconds", help: "From acceptance to the end.",
            histogram: .durationUs, boundsUs: (10...30).map { 1 << $0 }),
        HistogramMetric(
            name: "sluice_task_queue_seconds", help: "From acceptance to the first dispatch.",
            histogram: .queueUs, boundsUs: (4...26).map { 1 << $0 }),
        HistogramMetric(
            name: "sluice_token_gap_seconds",
            help: "Between two deliveries of tokens of one answer.",
            histogram: .tokenGapUs, boundsUs: (8...26).map { 1 << $0 }),
        HistogramMetric(
            name: "sluice_loop_turn_seconds", help: "Work of one turn of a shard's loop.",
            histogram: .turnUs, boundsUs: (2...18).map { 1 << $0 }),
    ]
}
