import SluiceSession
public import SluiceWire

/// One model that a supplier serves: how much of it, at which price, under which promises.
public struct Offer: Hashable, Sendable {
    /// How a task's payload may be written.
    public enum Encoding: Hashable, Sendable, CaseIterable {
        /// Text in, text out.
        case text
        /// OpenAI JSON in, OpenAI events out.
        case openAI
    }

    /// The model's name: 1 to 88 of `A-Z a-z 0-9 . _ : / @ -`.
    public var model: String
    /// Tasks that may run at once, 0…65,536, over all brokers together.
    public var slots: Int
    /// Asking price per million prompt tokens.
    public var inputPrice: MicroUSD
    /// Asking price per million answer tokens or embeddings; per image.
    public var outputPrice: MicroUSD
    /// Asking price per million prompt tokens that came from a cache; nil = as other input.
    public var cachedPrice: MicroUSD?
    /// Asking price per million reasoning tokens; nil = as other output.
    public var reasoningPrice: MicroUSD?
    /// Longest prompt and answer together; 0 = not stated.
    public var contextTokens: Int
    /// Whose machine it is.
    public var supplyType: SupplyType
    /// What is promised about prompts.
    public var dataPolicy: DataPolicy
    /// How the weights are stored.
    public var quantisation: Quantisation
    /// What may be asked of the model.
    public var operations: Set<TaskOperation>
    /// How payloads may be written.
    public var encodings: Set<Encoding>
    /// Where the machine is: 1 to 16 printable ASCII characters.
    public var region: String?

    /// Makes an offer.
    public init(
        model: String, slots: Int, inputPrice: MicroUSD = 0, outputPrice: MicroUSD = 0,
        cachedPrice: MicroUSD? = nil, reasoningPrice: MicroUSD? = nil, contextTokens: Int = 0,
        supplyType: SupplyType = .community, dataPolicy: DataPolicy = .unstated,
        quantisation: Quantisation = .unstated,
        operations: Set<TaskOperation> = [.chat, .completion],
        encodings: Set<Encoding> = Set(Encoding.allCases), region: String? = nil
    ) {
        self.model = model
        self.slots = slots
        self.inputPrice = inputPrice
        self.outputPrice = outputPrice
        self.cachedPrice = cachedPrice
        self.reasoningPrice = reasoningPrice
        self.contextTokens = contextTokens
        self.supplyType = supplyType
        self.dataPolicy = dataPolicy
        self.quantisation = quantisation
        self.operations = operations
        self.encodings = encodings
        self.region = region
    }

    /// The offer as it travels, or nil where a field is out of range.
    func frame(_ id: OfferID) -> OfferFrame? {
        guard let name = ModelName(model), (0...Int(WireLimits.slotsMax)).contains(slots),
            let contextTokens = UInt32(exactly: contextTokens), !operations.isEmpty,
            !encodings.isEmpty
        else { return nil }
        let prices = TokenPrices(
            input: inputPrice, cached: cachedPrice ?? inputPrice, output: outputPrice,
            reasoning: reasoningPrice ?? outputPrice)
        let allowed = 0...TokenPrices.amountMax
        for price in [prices.input, prices.cached, prices.output, prices.reasoning] {
            guard allowed.contains(price.rawValue) else { return nil }
        }
        var place: ShortText?
        if let region {
            guard let text = ShortText(region) else { return nil }
            place = text
        }
        return OfferFrame(
            offer: id, model: name, contextTokens: contextTokens, prices: prices,
            supplyType: supplyType, dataPolicy: dataPolicy, quantisation: quantisation,
            operations: operations.reduce(into: []) { $0.insert(OperationSet($1)) },
            encodings: encodings.reduce(into: []) {
                $0.insert(EncodingSet($1 == .text ? .text : .openAI))
            }, region: place)
    }

    /// True when the broker sees the same offer, slots apart.
    func isSame(as other: Offer) -> Bool {
        var other = other
        other.slots = slots
        return self == other
    }
}
