package import JSONScanning
import SluiceWire

/// A model that an upstream says it serves.
package struct ListedModel: Equatable, Sendable {
    /// The upstream's own name.
    package var name: String
    /// Longest prompt and answer together; 0 = not stated.
    package var contextTokens: UInt32

    /// Makes an entry.
    package init(name: String, contextTokens: UInt32 = 0) {
        self.name = name
        self.contextTokens = contextTokens
    }

    /// Reads the answer to `GET /v1/models`. Entries without a name are skipped.
    package static func read(_ body: [UInt8]) throws(JSONFault) -> [ListedModel] {
        var models: [ListedModel] = []
        var isList = false
        var cursor = JSONCursor(body)
        try cursor.beginObject()
        while let key = try cursor.nextKey() {
            guard key == "data", try cursor.peekKind() == .array else {
                // Ollama's answer when it has no model yet.
                if key == "data", try cursor.peekKind() == .null { isList = true }
                try cursor.skipValue()
                continue
            }
            isList = true
            try cursor.beginArray()
            while try cursor.nextElement() {
                if let model = try readEntry(&cursor) { models.append(model) }
            }
        }
        try cursor.expectEnd()
        guard isList else { throw .unexpectedKind }
        return models
    }

    private static func readEntry(_ cursor: inout JSONCursor) throws(JSONFault) -> ListedModel? {
        guard try cursor.peekKind() == .object else { throw .unexpectedKind }
        var name: String?
        var contextTokens = 0
        try cursor.beginObject()
        while let key = try cursor.nextKey() {
            switch key {
            case "id": name = try cursor.stringIfAny()
            // vLLM and SGLang; paid providers.
            case "max_model_len", "context_length", "context_window":
                contextTokens = try cursor.integer(upTo: StreamEvent.tokensMax) ?? contextTokens
            default: try cursor.skipValue()
            }
        }
        return name.map { ListedModel(name: $0, contextTokens: UInt32(contextTokens)) }
    }
}

/// A model as this worker offers it.
package struct OfferedModel: Hashable, Sendable {
    /// Name of the offer.
    package var name: String
    /// What the engine calls it.
    package var engineName: String
    /// Longest prompt and answer together; 0 = not stated.
    package var contextTokens: UInt32

    /// Makes an offered model.
    package init(name: String, engineName: String, contextTokens: UInt32 = 0) {
        self.name = name
        self.engineName = engineName
        self.contextTokens = contextTokens
    }
}

/// Which models are offered, and under which names: what `--model` says.
package struct ModelSelection: Sendable {
    /// Why a `--model` cannot be used.
    package enum Fault: Error, Equatable {
        /// The offered name is not 1 to 88 bytes of `[A-Za-z0-9._:/@-]`.
        case invalidName
        /// Two of them offer the same name.
        case duplicateName
    }

    /// The models that were named; empty = every one.
    package let named: [OfferedModel]

    /// Every model under its own name.
    package static let everything = ModelSelection(named: [])

    private init(named: [OfferedModel]) {
        self.named = named
    }

    /// Reads `NAME` or `NAME=ENGINE-NAME` arguments.
    package init(_ arguments: [String]) throws(Fault) {
        var named: [OfferedModel] = []
        for argument in arguments {
            let parts = argument.split(
                separator: "=", maxSplits: 1, omittingEmptySubsequences: false)
            let name = String(parts[0])
            guard ModelName(name) != nil, parts.count == 1 || !parts[1].isEmpty else {
                throw .invalidName
            }
            guard !named.contains(where: { $0.name == name }) else { throw .duplicateName }
            named.append(OfferedModel(name: name, engineName: String(parts.last ?? parts[0])))
        }
        self.named = named
    }

    /// What to offer of a list, in a stable order, at most as many as one connection may offer;
    /// and how many entries were left out because their names cannot travel or there are too many.
    package func offered(of listed: [ListedModel]) -> (models: [OfferedModel], skippedCount: Int) {
        var models: [String: OfferedModel] = [:]
        var skipped: Set<String> = []
        for entry in listed {
            let names =
                named.isEmpty
                ? [entry.name] : named.filter { $0.engineName == entry.name }.map { $0.name }
            for name in names {
                guard ModelName(name) != nil else {
                    skipped.insert(name)
                    continue
                }
                models[name] = OfferedModel(
                    name: name, engineName: entry.name, contextTokens: entry.contextTokens)
            }
        }
        let sorted = models.values.sorted { $0.name < $1.name }
        let kept = Array(sorted.prefix(WireLimits.offersMax))
        return (kept, skipped.count + sorted.count - kept.count)
    }
}
