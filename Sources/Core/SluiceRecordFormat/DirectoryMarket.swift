package import SluiceWire

// What a broker must know of accounts and money, as it stands in the directory.

/// An account (kind 2), by its number.
///
///     3 u8 flags (bit 0 = suspended, bit 1 = prepaid)  16 u64 account  24 u32 concurrent tasks
///     28 u32 requests per minute  32 u64 tokens per minute
package struct DirectoryAccount: Equatable, Sendable {
    package var account: UInt64
    /// None of its credentials is taken.
    package var isSuspended: Bool
    /// Its tasks are paid from leases; without one nothing is admitted.
    package var isPrepaid: Bool
    /// 0 = no limit of the account's own.
    package var concurrentTasksMax: UInt32
    /// 0 = no limit.
    package var requestsPerMinuteMax: UInt32
    /// 0 = no limit.
    package var tokensPerMinuteMax: UInt64
    /// See `DirectoryEntry.change`.
    package var change: UInt64 = 0

    package init(
        account: UInt64, isSuspended: Bool = false, isPrepaid: Bool = false,
        concurrentTasksMax: UInt32 = 0, requestsPerMinuteMax: UInt32 = 0,
        tokensPerMinuteMax: UInt64 = 0
    ) {
        self.account = account
        self.isSuspended = isSuspended
        self.isPrepaid = isPrepaid
        self.concurrentTasksMax = concurrentTasksMax
        self.requestsPerMinuteMax = requestsPerMinuteMax
        self.tokensPerMinuteMax = tokensPerMinuteMax
    }

    init(_ words: RecordWords) {
        let flags = words[0].byte(3)
        self.init(
            account: words[2], isSuspended: flags & 1 != 0, isPrepaid: flags & 2 != 0,
            concurrentTasksMax: words[3].low32, requestsPerMinuteMax: words[3].high32,
            tokensPerMinuteMax: words[4])
    }

    var body: RecordWords {
        var words = RecordWords()
        words[0] = .byte((isSuspended ? 1 : 0) | (isPrepaid ? 2 : 0), at: 3)
        words[2] = account
        words[3] = UInt64(low: concurrentTasksMax, high: requestsPerMinuteMax)
        words[4] = tokensPerMinuteMax
        return words
    }
}

/// The operator's fixed price for a model from a time on (kind 3), by name and time.
///
///     2 u8 name bytes  3 u8 flags (bit 0 = removed)  16 u32 input  20 u32 cached  24 u32 output
///     28 u32 reasoning  32 u64 effective from ms  40 name
package struct DirectoryPrice: Equatable, Sendable {
    package var model: ModelName
    /// What the consumer pays; see `PriceList` for the units.
    package var prices: PriceList
    /// Wall clock, milliseconds since 1970.
    package var effectiveFromMs: UInt64
    /// From that time on the model has no fixed price.
    package var isRemoved: Bool
    /// See `DirectoryEntry.change`.
    package var change: UInt64 = 0

    package init(
        model: ModelName, prices: PriceList, effectiveFromMs: UInt64, isRemoved: Bool = false
    ) {
        self.model = model
        self.prices = prices
        self.effectiveFromMs = effectiveFromMs
        self.isRemoved = isRemoved
    }

    /// Nil for bytes that are no model name.
    init?(_ words: RecordWords) {
        let byteCount = Int(words[0].byte(2))
        guard byteCount <= ModelName.byteCountMax else { return nil }
        let bytes = (0..<byteCount).map { words[5 + $0 >> 3].byte($0 & 7) }
        guard let name = ModelName(bytes.span) else { return nil }
        self.init(
            model: name, prices: PriceList(words[2], words[3]), effectiveFromMs: words[4],
            isRemoved: words[0].byte(3) & 1 != 0)
    }

    var body: RecordWords {
        var words = RecordWords()
        words[0] = .byte(model.byteCount, at: 2) | .byte(isRemoved ? 1 : 0, at: 3)
        words[2] = prices.firstWord
        words[3] = prices.secondWord
        words[4] = effectiveFromMs
        for index in 0..<Int(model.byteCount) {
            words[5 + index >> 3] |= .byte(model.byte(at: index), at: index & 7)
        }
        return words
    }
}

/// The platform's fee from a time on (kind 4), by that time.
///
///     16 u32 basis points  24 u64 effective from ms
package struct DirectoryFee: Equatable, Sendable {
    package static let basisPointsMax: UInt32 = 10_000

    /// Of the ask, 0…10,000.
    package var basisPoints: UInt32
    /// Wall clock, milliseconds since 1970.
    package var effectiveFromMs: UInt64
    /// See `DirectoryEntry.change`.
    package var change: UInt64 = 0

    /// A fee of 0…10,000 basis points; more is a fault of the caller.
    package init(basisPoints: UInt32, effectiveFromMs: UInt64) {
        precondition(basisPoints <= Self.basisPointsMax, "a fee is at most the whole ask")
        self.basisPoints = basisPoints
        self.effectiveFromMs = effectiveFromMs
    }

    /// Nil above 10,000 basis points.
    init?(_ words: RecordWords) {
        guard words[2].low32 <= Self.basisPointsMax else { return nil }
        self.init(basisPoints: words[2].low32, effectiveFromMs: words[3])
    }

    var body: RecordWords {
        var words = RecordWords()
        words[2] = UInt64(basisPoints)
        words[3] = effectiveFromMs
        return words
    }
}

/// What an account's wallet has given to one instance of a broker (kind 5), by account and
/// instance. Amounts are totals since the instance began.
///
///     3 u8 flags (bit 0 = dry, bit 1 = closed)  16 u64 account  24 u64 instance  32 i64 granted
///     40 i64 recalled  48 u64 expires ms  56 u32 share
package struct DirectoryLease: Equatable, Sendable {
    /// The share of an account's rate limits that stands for all of them.
    package static let shareMax: UInt32 = 65_536

    package var account: UInt64
    package var instance: UInt64
    package var granted: MicroUSD
    /// Total that the broker shall have given back as soon as it is free.
    package var recalled: MicroUSD
    /// Wall clock, milliseconds since 1970; after it nothing is admitted on the lease.
    package var expiresAtMs: UInt64
    /// The wallet has no more, and nothing can be recalled from others.
    package var isDry: Bool
    /// The lease is settled; its instance is gone.
    package var isClosed: Bool
    /// Part of the account's rate limits that the instance may use, 1…65,536 of 65,536.
    package var share: UInt32
    /// See `DirectoryEntry.change`.
    package var change: UInt64 = 0

    package init(
        account: UInt64, instance: UInt64, granted: MicroUSD, recalled: MicroUSD = 0,
        expiresAtMs: UInt64, isDry: Bool = false, isClosed: Bool = false,
        share: UInt32 = Self.shareMax
    ) {
        self.account = account
        self.instance = instance
        self.granted = granted
        self.recalled = recalled
        self.expiresAtMs = expiresAtMs
        self.isDry = isDry
        self.isClosed = isClosed
        self.share = share
    }

    /// Nil for a negative amount or a share out of range.
    init?(_ words: RecordWords) {
        let granted = Int64(bitPattern: words[4])
        let recalled = Int64(bitPattern: words[5])
        let flags = words[0].byte(3)
        guard granted >= 0, recalled >= 0, (1...Self.shareMax).contains(words[7].low32)
        else { return nil }
        self.init(
            account: words[2], instance: words[3], granted: MicroUSD(granted),
            recalled: MicroUSD(recalled), expiresAtMs: words[6], isDry: flags & 1 != 0,
            isClosed: flags & 2 != 0, share: words[7].low32)
    }

    var body: RecordWords {
        var words = RecordWords()
        words[0] = .byte((isDry ? 1 : 0) | (isClosed ? 2 : 0), at: 3)
        words[2] = account
        words[3] = instance
        words[4] = UInt64(bitPattern: granted.rawValue)
        words[5] = UInt64(bitPattern: recalled.rawValue)
        words[6] = expiresAtMs
        words[7] = UInt64(share)
        return words
    }
}
