import SluiceRecordFormat
import SluiceWire

/// What a task asks of an offer, or what a set of tasks asks at the least: joined field by field
/// so that an offer which cannot serve the whole cannot serve any of them [Q9][D2].
struct Demand {
    /// Bits of `OperationSet`, `EncodingSet` and `SupplyTypeSet`.
    var operations: UInt8 = 0
    var encodings: UInt8 = 0
    var supplyTypes: UInt8 = 0
    /// The least strict policy that will do.
    var dataPolicy = UInt8.max
    /// Prompt and answer together; `.max` only where no stated context is enough.
    var contextTokens = UInt32.max
    /// Micro-USD per million tokens.
    var inputCeiling: UInt64 = 0
    var outputCeiling: UInt64 = 0
    /// Bits of `RegionBits`.
    var regions: UInt64 = 0
    /// The latest first token, microseconds of the dispatcher's clock.
    var deadlineUs: UInt64 = 0

    /// Asks nothing because it is nobody's.
    init() {}

    init(_ terms: TaskTerms, _ filters: OfferFilters, deadlineUs: UInt64) {
        operations = OperationSet(terms.operation).rawValue
        encodings = EncodingSet(terms.encoding).rawValue
        supplyTypes = filters.supplyTypes.rawValue
        dataPolicy = filters.dataPolicy.rawValue
        let tokens = UInt64(terms.maxInputTokens) + UInt64(terms.maxOutputTokens)
        contextTokens = UInt32(clamping: tokens)
        inputCeiling = filters.inputCeiling
        outputCeiling = filters.outputCeiling
        regions = RegionBits.wanted(filters.region)
        self.deadlineUs = deadlineUs
    }

    /// The same of offers at these prices at most, as the client pays them.
    func limited(to prices: PriceList) -> Demand {
        var limited = self
        limited.inputCeiling = min(inputCeiling, UInt64(prices.dearest.input))
        limited.outputCeiling = min(outputCeiling, UInt64(prices.dearest.output))
        return limited
    }

    func joined(_ other: Demand) -> Demand {
        var both = self
        both.operations |= other.operations
        both.encodings |= other.encodings
        both.supplyTypes |= other.supplyTypes
        both.dataPolicy = min(dataPolicy, other.dataPolicy)
        both.contextTokens = min(contextTokens, other.contextTokens)
        both.inputCeiling = max(inputCeiling, other.inputCeiling)
        both.outputCeiling = max(outputCeiling, other.outputCeiling)
        both.regions |= other.regions
        both.deadlineUs = max(deadlineUs, other.deadlineUs)
        return both
    }
}

/// Regions as bits of a word: one of 63 for a name, the last for an offer that names none. Two
/// names may share a bit, so a match of bits is confirmed by comparing the names.
enum RegionBits {
    static let none = UInt64(1) << 63

    /// The bit of an offer's region.
    static func stated(_ region: ShortText?) -> UInt64 {
        guard let region else { return none }
        let mixed = (region.low ^ region.high &* 0x9E37_79B9_7F4A_7C15) &* 0xBF58_476D_1CE4_E5B9
        return UInt64(1) << ((mixed >> 32) % 63)
    }

    /// The bits that a task takes: any without a wish.
    static func wanted(_ region: ShortText?) -> UInt64 {
        region == nil ? .max : stated(region)
    }
}
