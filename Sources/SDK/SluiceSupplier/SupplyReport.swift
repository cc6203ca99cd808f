import SluiceSession
public import SluiceWire

/// How a supplier stands at one broker, or at several together: what was done, earned and lost
/// since the broker began to count. What is owed is said by the operator's ledger, not by this.
public struct SupplyReport: Sendable {
    /// Why a match was lost to another supplier. Closed; the order is that of the protocol.
    public enum Loss: UInt16, CaseIterable, Sendable {
        /// The task had been with this supplier before.
        case excluded = 32
        /// Operation or encoding not offered.
        case capability
        /// The client wants a stricter promise about prompts.
        case dataPolicy
        /// The client wants another region.
        case region
        /// The client wants another kind of owner.
        case supplyType
        /// Dearer than the client's ceiling.
        case priceCeiling
        /// The prompt and its answer do not fit the context that was offered.
        case context
        /// The supplier had failed too often lately.
        case breakerOpen
        /// All slots were in use, or none was granted.
        case noFreeSlot
        /// The first token was expected after the task's deadline.
        case deadline
        /// Another supplier has read the conversation's beginning.
        case affinity
        /// Another was earlier or cheaper, as the task preferred, or equal and drawn.
        case slowerOrDearer
        /// It asks more than the operator's price for the model.
        case operatorPrice
    }

    /// What a breaker lets through.
    public enum Breaker: Sendable {
        /// Tasks come.
        case closed
        /// No tasks come until one may try again, after this time.
        case open(for: Duration)
        /// One task may try.
        case halfOpen
    }

    /// Numbers of the supplier as a whole, or of one of its models.
    public struct Standing: Sendable {
        private var counts: [UInt16: UInt64] = [:]

        init(_ counts: [ReportFrame.Count]) {
            for count in counts { self.counts[count.number] = count.value }
        }

        func value(_ number: ReportNumber) -> UInt64 { counts[number.rawValue] ?? 0 }

        func known(_ number: ReportNumber) -> UInt64? { counts[number.rawValue] }

        /// Offers that stand.
        public var offers: UInt64 { value(.offers) }
        /// Slots that these offers grant.
        public var slotsGranted: UInt64 { value(.slotsGranted) }
        /// Slots with a task.
        public var slotsInUse: UInt64 { value(.slotsInUse) }
        /// Tasks of the model that wait for a slot, at any supplier.
        public var waiting: UInt64 { value(.waiting) }
        /// Tasks that came.
        public var dispatched: UInt64 { value(.dispatched) }
        /// Tasks that ended as they should.
        public var completed: UInt64 { value(.completed) }
        /// Tasks that were given back, not started.
        public var declined: UInt64 { value(.declined) }
        /// Tasks that failed here; the supplier's standing suffers from them.
        public var failed: UInt64 { value(.failed) }
        /// Tasks that were cancelled, refused by the engine, or the like.
        public var otherEnds: UInt64 { value(.otherEnds) }
        /// Prompt tokens billed.
        public var inputTokens: UInt64 { value(.inputTokens) }
        /// Answer tokens billed.
        public var outputTokens: UInt64 { value(.outputTokens) }
        /// Earned since the broker counts.
        public var earned: MicroUSD { MicroUSD(Int64(clamping: value(.earned))) }
        /// Of this since midnight UTC.
        public var earnedToday: MicroUSD { MicroUSD(Int64(clamping: value(.earnedToday))) }
        /// Time to the first token, as the broker saw it lately.
        public var firstToken: Duration? { known(.firstToken).map(Self.microseconds) }
        /// Time for each further token, as the broker saw it lately.
        public var eachToken: Duration? { known(.eachToken).map(Self.microseconds) }

        /// Matches that were lost for this reason; an estimate where many suppliers compete.
        public func lost(_ reason: Loss) -> UInt64 { counts[reason.rawValue] ?? 0 }

        /// All matches that were lost.
        public var lost: UInt64 {
            Loss.allCases.reduce(0) { $0.addingReportingOverflow(lost($1)).partialValue }
        }

        private static func microseconds(_ value: UInt64) -> Duration {
            .microseconds(Int64(clamping: value))
        }
    }

    /// The supplier as a whole.
    public let total: Standing
    /// Its models, by name.
    public let models: [(model: String, standing: Standing)]

    /// The broker's clock when it answered, ms since 1970.
    public var brokerClockMs: UInt64 { total.value(.clock) }
    /// Since when the broker counts, ms since 1970.
    public var sinceMs: UInt64 { total.value(.since) }
    /// Connections of this supplier at the broker, the one that asked included.
    public var connections: UInt64 { total.value(.connections) }

    /// What the supplier's breaker lets through.
    public var breaker: Breaker {
        switch total.value(.breaker) {
        case 0: .closed
        case 1: .open(for: .milliseconds(Int64(clamping: total.value(.breakerOpenMs))))
        default: .halfOpen
        }
    }

    /// Joins the rows of one answer; nil while some are missing.
    package init?(_ rows: [ReportFrame]) {
        guard let first = rows.first, first.model == nil, rows.last?.rowsLeft == 0,
            Int(first.rowsLeft) == rows.count - 1
        else { return nil }
        total = Standing(first.counts)
        models = rows.dropFirst().map { ($0.model?.description ?? "", Standing($0.counts)) }
    }
}

/// Why a supplier was not told how it stands. Closed.
public enum ReportError: Error, Equatable, Sendable {
    /// No connection came about.
    case transport(TransportError)
    /// The broker refused the connection with this code, `unauthenticated` among them.
    case refused(WireCode)
    /// The broker took the connection and did not answer: it is of a version that cannot tell.
    case notTold
}
