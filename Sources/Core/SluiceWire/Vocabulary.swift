// The closed tables that control payloads name by number.

/// Which side of the market a connection is.
package enum PeerRole: UInt8, Sendable {
    case client = 1
    case supplier = 2
}

/// What kind of secret HELLO carries.
package enum CredentialKind: UInt8, Sendable {
    case apiKey = 1
    case supplierToken = 2
    /// The certificate of the TLS session; the credential field is empty [H11].
    case clientCertificate = 3
}

/// What a task asks of a model.
public enum TaskOperation: UInt8, Sendable, CaseIterable {
    /// A conversation in, a message out.
    case chat = 1
    /// A text in, its continuation out.
    case completion = 2
    /// A text in, vectors out.
    case embedding = 3
    /// A text in, pictures out.
    case image = 4

    /// The answer is one JSON object with as many results as were asked for. Its output counts
    /// those, and SUBMIT says how many there may be [Q8].
    package var countsResults: Bool {
        switch self {
        case .chat, .completion: false
        case .embedding, .image: true
        }
    }
}

/// How body and tokens are written; see `Protocol/Payloads.md`.
package enum PayloadEncoding: UInt8, Sendable {
    /// UTF-8 in, UTF-8 deltas out.
    case text = 1
    /// The OpenAI request in; out length-prefixed events, or the JSON of embeddings and images.
    case openAI = 2
}

/// What a task prefers among eligible offers.
public enum Preference: UInt8, Sendable {
    /// Price and speed in balance.
    case balanced = 0
    /// The cheapest.
    case price = 1
    /// The earliest first token.
    case latency = 2
    /// The most tokens per second.
    case throughput = 3
}

/// What kind of owner a supplier is (requirement S44).
public enum SupplyType: UInt8, Sendable, CaseIterable {
    /// A private person's machine.
    case community = 1
    /// A company's own machines.
    case dedicated = 2
    /// A machine in a data centre, rented by the hour.
    case datacenter = 3
    /// A paid provider behind a worker.
    case provider = 4
    /// The operator's own machines.
    case platform = 5
}

/// What a supplier promises about prompts; a higher class is stricter (requirement S5).
public enum DataPolicy: UInt8, Sendable {
    /// No promise.
    case unstated = 0
    /// Content may be logged for operation, not used for training.
    case noTraining = 1
    /// Content is held in memory only.
    case noRetention = 2
}

/// How a model's weights are stored.
public enum Quantisation: UInt8, Sendable {
    /// Not stated.
    case unstated = 0
    /// 32-bit floating point.
    case fp32 = 1
    /// 16-bit floating point.
    case fp16 = 2
    /// 16-bit brain floating point.
    case bf16 = 3
    /// 8-bit floating point.
    case fp8 = 4
    /// 8-bit integers.
    case int8 = 5
    /// 6-bit integers.
    case int6 = 6
    /// 5-bit integers.
    case int5 = 7
    /// 4-bit integers.
    case int4 = 8
    /// 4-bit floating point.
    case fp4 = 9
}

/// Bits over `TaskOperation`: which operations an offer serves.
package struct OperationSet: OptionSet, Hashable, Sendable {
    package var rawValue: UInt8

    package init(rawValue: UInt8) {
        self.rawValue = rawValue
    }

    package init(_ operation: TaskOperation) {
        rawValue = 1 << (operation.rawValue - 1)
    }

    package static let known = OperationSet(rawValue: 0x0F)
}

/// Bits over `PayloadEncoding`: which encodings an offer serves.
package struct EncodingSet: OptionSet, Hashable, Sendable {
    package var rawValue: UInt8

    package init(rawValue: UInt8) {
        self.rawValue = rawValue
    }

    package init(_ encoding: PayloadEncoding) {
        rawValue = 1 << (encoding.rawValue - 1)
    }

    package static let known = EncodingSet(rawValue: 0x03)
}

/// Bits over `SupplyType`.
package struct SupplyTypeSet: OptionSet, Hashable, Sendable {
    package var rawValue: UInt8

    package init(rawValue: UInt8) {
        self.rawValue = rawValue
    }

    package init(_ type: SupplyType) {
        rawValue = 1 << (type.rawValue - 1)
    }

    package static let all = SupplyTypeSet(rawValue: 0xFF)
}
