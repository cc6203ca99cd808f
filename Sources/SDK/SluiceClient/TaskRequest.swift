import SluiceSession
public import SluiceWire

/// What a task asks: of which model, with which payload, under which terms.
public struct TaskRequest: Sendable {
    /// The body of a task; it fixes how the answer comes back.
    public enum Payload: Hashable, Sendable {
        /// A prompt as text; the answer comes as text.
        case text(String)
        /// An OpenAI request in JSON, untouched; the answer comes as OpenAI events, or for
        /// embeddings and images as one JSON object.
        case openAI([UInt8])
    }

    /// What is asked of the model.
    public var operation: TaskOperation
    /// The model's name: 1 to 88 of `A-Z a-z 0-9 . _ : / @ -`.
    public var model: String
    /// The prompt or request.
    public var payload: Payload
    /// Everything else that a task may say.
    public var options: SubmitOptions

    /// Makes a request.
    public init(
        _ operation: TaskOperation, model: String, payload: Payload,
        options: SubmitOptions = SubmitOptions()
    ) {
        self.operation = operation
        self.model = model
        self.payload = payload
        self.options = options
    }

    /// A chat with one prompt.
    public static func chat(
        _ model: String, _ prompt: String, _ configure: (inout SubmitOptions) -> Void = { _ in }
    ) -> TaskRequest {
        text(.chat, model, prompt, configure)
    }

    /// A text to continue.
    public static func completion(
        _ model: String, _ prompt: String, _ configure: (inout SubmitOptions) -> Void = { _ in }
    ) -> TaskRequest {
        text(.completion, model, prompt, configure)
    }

    /// Embeddings: `request` is the JSON of `POST /v1/embeddings`, and `count` is how many inputs
    /// it has, which is what the task can cost at most.
    public static func embeddings(
        _ model: String, request: [UInt8], count: UInt32,
        _ configure: (inout SubmitOptions) -> Void = { _ in }
    ) -> TaskRequest {
        counted(.embedding, model, request, count, configure)
    }

    /// Images: `request` is the JSON of `POST /v1/images/generations`, and `count` is its `n`,
    /// which is what the task can cost at most. They come as `b64_json`.
    public static func images(
        _ model: String, request: [UInt8], count: UInt32,
        _ configure: (inout SubmitOptions) -> Void = { _ in }
    ) -> TaskRequest {
        counted(.image, model, request, count, configure)
    }

    private static func counted(
        _ operation: TaskOperation, _ model: String, _ request: [UInt8], _ count: UInt32,
        _ configure: (inout SubmitOptions) -> Void
    ) -> TaskRequest {
        var options = SubmitOptions()
        configure(&options)
        options.maxOutputTokens = count
        return TaskRequest(operation, model: model, payload: .openAI(request), options: options)
    }

    private static func text(
        _ operation: TaskOperation, _ model: String, _ prompt: String,
        _ configure: (inout SubmitOptions) -> Void
    ) -> TaskRequest {
        var options = SubmitOptions()
        configure(&options)
        return TaskRequest(operation, model: model, payload: .text(prompt), options: options)
    }
}

/// The terms of one task. What is left alone is the broker's or the SDK's default.
public struct SubmitOptions: Hashable, Sendable {
    /// From the call to the last byte, waiting for a connection included; at most, and by default,
    /// 600 s.
    public var deadline: Duration?
    /// Most that the task may cost. Only for accounts that prepay: from any other the task is refused
    /// as `unsupported`.
    public var budget: MicroUSD?
    /// Longest prompt that is paid for; without it the broker derives a bound from the body.
    public var maxInputTokens: UInt32?
    /// Longest answer, reasoning included; of embeddings and images how many, which they must say.
    public var maxOutputTokens: UInt32?
    /// Most reasoning within the answer.
    public var maxReasoningTokens: UInt32?
    /// 0…255, higher first among the tasks of one account.
    public var priority: UInt8 = 128
    /// What to prefer among eligible offers.
    public var preference: Preference = .balanced
    /// Highest price per million input tokens.
    public var inputPriceCeiling: MicroUSD?
    /// Highest price per million output tokens.
    public var outputPriceCeiling: MicroUSD?
    /// Only suppliers of this region: 1 to 16 printable ASCII characters.
    public var region: String?
    /// Only suppliers that promise at least this about prompts.
    public var dataPolicy: DataPolicy = .unstated
    /// Only suppliers of these kinds; nil = all.
    public var supplyTypes: Set<SupplyType>?
    /// Answer bytes that may be on their way or unread at once, at least 4,096; 65,536 by default.
    public var windowBytes: UInt32?
    /// A duplicate within 10 minutes is answered with the first task's state, and never charged:
    /// 1 to 64 bytes.
    public var idempotencyKey: String?
    /// Up to 8 digests (HMACs of conversation prefixes, say) of 16 bytes: a task goes by
    /// preference to a supplier that had a task with one of them.
    public var affinityKeys: [[UInt8]] = []
    /// The caller's trace, for spans.
    public var trace: Trace?
    /// Most copies of the task that may run at once, to cut the slowest tail; 1 = no hedging. More
    /// are refused as `unsupported` by brokers of version 1.
    public var hedgeCopies: UInt8 = 1

    /// A W3C trace context without its state.
    public struct Trace: Hashable, Sendable {
        /// First and second half of the trace id.
        public var traceID: (high: UInt64, low: UInt64) {
            get { (high, low) }
            set { (high, low) = newValue }
        }
        /// The caller's span.
        public var parentSpan: UInt64
        private var high: UInt64
        private var low: UInt64

        /// Makes a trace context.
        public init(traceID: (high: UInt64, low: UInt64), parentSpan: UInt64) {
            (high, low) = traceID
            self.parentSpan = parentSpan
        }
    }

    /// All defaults.
    public init() {}
}

extension TaskRequest {
    static let windowBytesDefault: UInt32 = 65_536

    var encoding: PayloadEncoding {
        switch payload {
        case .text: .text
        case .openAI: .openAI
        }
    }

    /// The request as a session takes it, or nil where a field is out of range.
    func submission(nowMs: UInt64) -> Submission? {
        guard let name = ModelName(model) else { return nil }
        let body =
            switch payload {
            case .text(let text): Array(text.utf8)
            case .openAI(let bytes): bytes
            }
        guard UInt64(body.count) <= UInt64(UInt32.max) else { return nil }
        var terms = TaskTerms(
            operation: operation, encoding: encoding, bodyBytes: UInt32(body.count))
        terms.priority = options.priority
        terms.preference = options.preference
        terms.maxInputTokens = options.maxInputTokens ?? 0
        terms.maxOutputTokens = options.maxOutputTokens ?? 0
        terms.maxReasoningTokens = options.maxReasoningTokens ?? 0
        let windowBytes = max(
            options.windowBytes ?? Self.windowBytesDefault, WireLimits.windowBytesMin)
        var submission = Submission(
            terms: terms, model: name, body: body, windowBytes: UInt64(windowBytes))
        if options.windowBytes != nil {
            submission.reserveBytes = min(windowBytes, WireLimits.windowBytesMax)
        }
        let deadlineMs = options.deadline?.wholeMilliseconds ?? UInt64(WireLimits.deadlineMsMax)
        submission.expiresMs = nowMs + min(deadlineMs, UInt64(WireLimits.deadlineMsMax))
        submission.hedgeCopies = max(1, options.hedgeCopies)
        if let trace = options.trace {
            submission.trace = TraceContext(
                traceHigh: trace.traceID.high, traceLow: trace.traceID.low,
                span: trace.parentSpan)
        }
        guard applyKeys(to: &submission), applyFilters(to: &submission) else { return nil }
        return submission
    }

    private func applyKeys(to submission: inout Submission) -> Bool {
        if let key = options.idempotencyKey {
            submission.idempotencyKey = Array(key.utf8)
            guard (1...64).contains(submission.idempotencyKey.count) else { return false }
        }
        guard options.affinityKeys.count <= WireLimits.affinityKeysMax,
            options.affinityKeys.allSatisfy({ $0.count == 16 })
        else { return false }
        submission.affinityKeys = Array(options.affinityKeys.joined())
        if let budget = options.budget {
            guard budget.rawValue > 0, budget.rawValue <= 1 << 62 else { return false }
            submission.budget = budget
        }
        return true
    }

    private func applyFilters(to submission: inout Submission) -> Bool {
        if let ceiling = options.inputPriceCeiling {
            guard ceiling.rawValue >= 0 else { return false }
            submission.filters.inputCeiling = UInt64(ceiling.rawValue)
        }
        if let ceiling = options.outputPriceCeiling {
            guard ceiling.rawValue >= 0 else { return false }
            submission.filters.outputCeiling = UInt64(ceiling.rawValue)
        }
        if let region = options.region {
            guard let text = ShortText(region) else { return false }
            submission.filters.region = text
        }
        submission.filters.dataPolicy = options.dataPolicy
        if let types = options.supplyTypes {
            guard !types.isEmpty else { return false }
            submission.filters.supplyTypes = types.reduce(into: []) {
                $0.insert(SupplyTypeSet($1))
            }
        }
        return true
    }
}

extension Duration {
    /// Rounded up, 0 for a negative duration.
    var wholeMilliseconds: UInt64 {
        guard self > .zero else { return 0 }
        let (seconds, attoseconds) = components
        let milliseconds = UInt64(attoseconds + 999_999_999_999_999) / 1_000_000_000_000_000
        let (product, overflow) = UInt64(seconds).multipliedReportingOverflow(by: 1_000)
        return overflow ? .max / 2 : min(product, .max / 2) + milliseconds
    }
}
