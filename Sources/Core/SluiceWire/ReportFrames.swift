// Frames by which a supplier learns how it stands: ASK and REPORT, both on stream 0 and both
// `ignorable`, so that a side that does not know them passes them over ([V2], [V3]).

/// A supplier's question how it stands ([S14]).
///
///     0 u32 question  4 u32 0
package struct AskFrame: Equatable, Sendable {
    /// Chosen by the supplier; the answer repeats it.
    package var question: UInt32

    package init(question: UInt32) {
        self.question = question
    }

    package init(decoding bytes: Span<UInt8>) throws(WireError) {
        var cursor = PayloadCursor()
        question = try cursor.uint32(bytes)
        _ = try cursor.uint32(bytes)
        try cursor.finish(bytes)
    }

    package func encode(into bytes: inout [UInt8]) {
        FrameHeader(kind: .ask, stream: .connection, payloadBytes: 8, flags: .ignorable)
            .encode(into: &bytes)
        bytes.appendLittleEndian(question)
        bytes.appendLittleEndian(UInt32(0))
    }
}

/// What a row of a report counts; the numbers of section 7. A receiver passes over others.
package enum ReportNumber: UInt16, CaseIterable, Sendable {
    /// The broker's wall clock, and since when it counts; both ms since 1970.
    case clock = 1
    case since = 2
    case connections = 3
    case offers = 4
    case slotsGranted = 5
    case slotsInUse = 6
    /// Tasks of the model that wait for a slot, whoever's.
    case waiting = 7
    case dispatched = 8
    case completed = 9
    case declined = 10
    case failed = 11
    case otherEnds = 12
    case inputTokens = 13
    case outputTokens = 14
    /// Micro-USD, and the same since midnight UTC.
    case earned = 15
    case earnedToday = 16
    /// 0 closed, 1 open, 2 half-open, and ms until an open one lets a task try.
    case breaker = 17
    case breakerOpenMs = 18
    /// Microseconds, as the broker saw them lately.
    case firstToken = 19
    case eachToken = 20

    // Matches that were lost, by reason.
    case lostExcluded = 32
    case lostCapability = 33
    case lostDataPolicy = 34
    case lostRegion = 35
    case lostSupplyType = 36
    case lostPriceCeiling = 37
    case lostContext = 38
    case lostBreakerOpen = 39
    case lostNoFreeSlot = 40
    case lostDeadline = 41
    case lostAffinity = 42
    case lostSlowerOrDearer = 43
    case lostOperatorPrice = 44
}

/// One row of the answer to ASK: how the supplier stands as a whole (no model, the first row), or
/// with one model ([S15], [S16]).
///
///     0 u32 question  4 u16 rows left  6 u16 model bytes  8 u16 counts  10 u16 0
///     12 model, counts: each u16 number, u64 value, in rising order of number
package struct ReportFrame: Equatable, Sendable {
    /// One number of a row.
    package struct Count: Equatable, Sendable {
        /// Of `ReportNumber`, or one that this version does not know.
        package var number: UInt16
        package var value: UInt64

        package init(number: UInt16, value: UInt64) {
            self.number = number
            self.value = value
        }
    }

    /// Bytes of a payload before model and counts.
    package static let fixedBytes = 12
    private static let countBytes = 10

    package var question: UInt32
    /// REPORTs of the same answer that follow.
    package var rowsLeft: UInt16
    /// Nil = the supplier as a whole.
    package var model: ModelName?
    package private(set) var counts: [Count] = []

    package init(question: UInt32, rowsLeft: UInt16, model: ModelName? = nil) {
        self.question = question
        self.rowsLeft = rowsLeft
        self.model = model
    }

    /// Adds a number; they come in rising order, at most `WireLimits.reportCountsMax`.
    package mutating func add(_ number: ReportNumber, _ value: UInt64) {
        add(Count(number: number.rawValue, value: value))
    }

    /// The same with a number of any version.
    package mutating func add(_ count: Count) {
        precondition(counts.last.map { $0.number < count.number } ?? true, "counts out of order")
        precondition(counts.count < WireLimits.reportCountsMax)
        counts.append(count)
    }

    package init(decoding bytes: Span<UInt8>) throws(WireError) {
        var cursor = PayloadCursor()
        question = try cursor.uint32(bytes)
        rowsLeft = try cursor.uint16(bytes)
        let modelBytes = Int(try cursor.uint16(bytes))
        let countsLeft = Int(try cursor.uint16(bytes))
        _ = try cursor.uint16(bytes)
        let name = try cursor.range(modelBytes, of: bytes)
        if modelBytes > 0 {
            guard let model = ModelName(bytes.extracting(name)) else {
                throw .malformedPayload(.invalidText)
            }
            self.model = model
        }
        guard countsLeft <= WireLimits.reportCountsMax else {
            throw .malformedPayload(.valueOutOfRange)
        }
        counts.reserveCapacity(countsLeft)
        for _ in 0..<countsLeft {
            let number = try cursor.uint16(bytes)
            let value = try cursor.uint64(bytes)
            guard counts.last.map({ $0.number < number }) ?? true else {
                throw .malformedPayload(.valueOutOfRange)
            }
            counts.append(Count(number: number, value: value))
        }
        try cursor.finish(bytes)
    }

    package func encode(into bytes: inout [UInt8]) {
        let modelBytes = model.map { Int($0.byteCount) } ?? 0
        FrameHeader(
            kind: .report, stream: .connection,
            payloadBytes: Self.fixedBytes + modelBytes + counts.count * Self.countBytes,
            flags: .ignorable
        ).encode(into: &bytes)
        bytes.appendLittleEndian(question)
        bytes.appendLittleEndian(rowsLeft)
        bytes.appendLittleEndian(UInt16(modelBytes))
        bytes.appendLittleEndian(UInt16(counts.count))
        bytes.appendLittleEndian(UInt16(0))
        if let model { bytes += model.bytes }
        for count in counts {
            bytes.appendLittleEndian(count.number)
            bytes.appendLittleEndian(count.value)
        }
    }
}
