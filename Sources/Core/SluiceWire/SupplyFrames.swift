// Frames by which a supplier says what it serves: OFFER, GRANT, WITHDRAW, all on stream 0.

/// Prices per million tokens, each 0…2^32 - 1 micro-USD; of images per image.
public struct TokenPrices: Hashable, Sendable {
    /// Per million prompt tokens.
    public var input: MicroUSD
    /// Per million prompt tokens that came from a cache.
    public var cached: MicroUSD
    /// Per million answer tokens.
    public var output: MicroUSD
    /// Per million reasoning tokens.
    public var reasoning: MicroUSD

    /// Makes a price list.
    public init(
        input: MicroUSD = 0, cached: MicroUSD = 0, output: MicroUSD = 0, reasoning: MicroUSD = 0
    ) {
        self.input = input
        self.cached = cached
        self.output = output
        self.reasoning = reasoning
    }

    /// The highest price: 4,294.97 USD per million tokens.
    package static let amountMax: Int64 = (1 << 32) - 1
}

/// One model that a supplier serves, with its asking price ([S1]…[S3]).
///
///     0 u32 offer  4 u32 context tokens  8 u64 input  16 u64 cached  24 u64 output
///     32 u64 reasoning  40 u8 supply type  41 u8 data policy  42 u8 quantisation
///     43 u8 operations  44 u8 encodings  45 u8 0  46 u16 model bytes  48 u16 extension bytes
///     50 model, extensions
package struct OfferFrame: Equatable, Sendable {
    package var offer: OfferID
    package var model: ModelName
    /// Longest prompt and answer together; 0 = not stated.
    package var contextTokens: UInt32
    package var prices: TokenPrices
    package var supplyType: SupplyType
    package var dataPolicy: DataPolicy
    package var quantisation: Quantisation
    package var operations: OperationSet
    package var encodings: EncodingSet
    package var region: ShortText?

    package init(
        offer: OfferID, model: ModelName, contextTokens: UInt32 = 0,
        prices: TokenPrices = TokenPrices(), supplyType: SupplyType = .community,
        dataPolicy: DataPolicy = .unstated, quantisation: Quantisation = .unstated,
        operations: OperationSet = [OperationSet(.chat), OperationSet(.completion)],
        encodings: EncodingSet = .known, region: ShortText? = nil
    ) {
        self.offer = offer
        self.model = model
        self.contextTokens = contextTokens
        self.prices = prices
        self.supplyType = supplyType
        self.dataPolicy = dataPolicy
        self.quantisation = quantisation
        self.operations = operations
        self.encodings = encodings
        self.region = region
    }

    package init(decoding bytes: Span<UInt8>) throws(WireError) {
        var cursor = PayloadCursor()
        offer = OfferID(try cursor.uint32(bytes))
        contextTokens = try cursor.uint32(bytes)
        prices = TokenPrices(
            input: try cursor.price(bytes), cached: try cursor.price(bytes),
            output: try cursor.price(bytes), reasoning: try cursor.price(bytes))
        supplyType = try cursor.value(SupplyType.self, bytes)
        dataPolicy = try cursor.value(DataPolicy.self, bytes)
        quantisation = try cursor.value(Quantisation.self, bytes)
        operations = OperationSet(rawValue: try cursor.uint8(bytes))
        encodings = EncodingSet(rawValue: try cursor.uint8(bytes))
        _ = try cursor.uint8(bytes)
        let modelBytes = Int(try cursor.uint16(bytes))
        let extensionBytes = Int(try cursor.uint16(bytes))
        guard offer != .connection, !operations.isEmpty, !encodings.isEmpty,
            operations.isSubset(of: .known), encodings.isSubset(of: .known)
        else { throw .malformedPayload(.valueOutOfRange) }
        let name = try cursor.range(modelBytes, of: bytes)
        guard let model = ModelName(bytes.extracting(name)) else {
            throw .malformedPayload(.invalidText)
        }
        self.model = model
        var extensions = try cursor.extensions(byteCount: extensionBytes, of: bytes)
        try cursor.finish(bytes)
        while let found = try extensions.next(bytes) {
            guard found.type == ExtensionType.offerRegion else {
                try ExtensionCursor.skipUnknown(found.type)
                continue
            }
            guard let region = ShortText(bytes.extracting(found.value)) else {
                throw .malformedPayload(.invalidText)
            }
            self.region = region
        }
    }

    package func encode(into bytes: inout [UInt8]) {
        var extensions = ExtensionWriter()
        if let region { extensions.add(ExtensionType.offerRegion, region.bytes) }
        FrameHeader(
            kind: .offer, stream: .connection,
            payloadBytes: 50 + Int(model.byteCount) + extensions.bytes.count
        ).encode(into: &bytes)
        bytes.appendLittleEndian(offer.rawValue)
        bytes.appendLittleEndian(contextTokens)
        for price in [prices.input, prices.cached, prices.output, prices.reasoning] {
            bytes.appendLittleEndian(UInt64(bitPattern: price.rawValue))
        }
        bytes += [
            supplyType.rawValue, dataPolicy.rawValue, quantisation.rawValue, operations.rawValue,
            encodings.rawValue, 0,
        ]
        bytes.appendLittleEndian(UInt16(model.byteCount))
        bytes.appendLittleEndian(UInt16(extensions.bytes.count))
        bytes += model.bytes
        bytes += extensions.bytes
    }
}

/// Slots: how many streams may be open at once, absolute; per offer, or (offer 0) for the
/// connection. Both apply ([S4], [S5]). A lower number takes nothing back that runs ([S6]).
///
///     0 u32 offer  4 u32 slots
package struct GrantFrame: Equatable, Sendable {
    package var offer: OfferID
    package var slots: UInt32

    package init(offer: OfferID, slots: UInt32) {
        self.offer = offer
        self.slots = slots
    }

    package init(decoding bytes: Span<UInt8>) throws(WireError) {
        var cursor = PayloadCursor()
        offer = OfferID(try cursor.uint32(bytes))
        slots = try cursor.uint32(bytes)
        try cursor.finish(bytes)
        guard slots <= WireLimits.slotsMax else { throw .malformedPayload(.valueOutOfRange) }
    }

    package func encode(into bytes: inout [UInt8]) {
        FrameHeader(kind: .grant, stream: .connection, payloadBytes: 8).encode(into: &bytes)
        bytes.appendLittleEndian(offer.rawValue)
        bytes.appendLittleEndian(slots)
    }
}

/// The offer is gone; what runs on it goes on ([S8]).
///
///     0 u32 offer
package struct WithdrawFrame: Equatable, Sendable {
    package var offer: OfferID

    package init(offer: OfferID) {
        self.offer = offer
    }

    package init(decoding bytes: Span<UInt8>) throws(WireError) {
        var cursor = PayloadCursor()
        offer = OfferID(try cursor.uint32(bytes))
        try cursor.finish(bytes)
    }

    package func encode(into bytes: inout [UInt8]) {
        FrameHeader(kind: .withdraw, stream: .connection, payloadBytes: 4).encode(into: &bytes)
        bytes.appendLittleEndian(offer.rawValue)
    }
}

extension PayloadCursor {
    /// A price per million tokens.
    fileprivate mutating func price(_ bytes: Span<UInt8>) throws(WireError) -> MicroUSD {
        let amount = try uint64(bytes)
        guard amount <= UInt64(TokenPrices.amountMax) else {
            throw .malformedPayload(.valueOutOfRange)
        }
        return MicroUSD(Int64(amount))
    }
}
