import JSONScanning
import Synchronization

/// Which models of an upstream are on their way into memory. While one loads, no slot is offered for
/// it and tasks that had come for it wait; a load is no failure.
///
/// Ollama loads on demand and says what is loaded (`/api/ps`); it is asked to load (an empty
/// `/api/generate`) before a task would wait inside it unseen. llama.cpp and SGLang answer 503
/// while they load and `/health` says when they are done.
package final class ModelLoads: Sendable {
    /// What happened to a model, by the upstream's own name.
    package enum Change: Equatable, Sendable {
        case loading(String)
        /// It answers now, after so long.
        case loaded(String, Duration)
        /// It was given up; the next task finds out.
        case abandoned(String)
    }

    /// How often an upstream that loads is asked, and how long a load may take.
    package struct Intervals: Sendable {
        package var poll: Duration
        package var longest: Duration

        /// Makes intervals; the usual ones by default.
        package init(poll: Duration = .milliseconds(250), longest: Duration = .seconds(900)) {
            self.poll = poll
            self.longest = longest
        }
    }

    private struct State {
        /// The server speaks Ollama's own protocol as well.
        var isOllama = false
        /// Models that load, with the time when that was seen.
        var loading: [String: ContinuousClock.Instant] = [:]
        /// When a model last answered, or was seen in memory.
        var warm: [String: ContinuousClock.Instant] = [:]
        var report: (@Sendable (Change) -> Void)?
    }

    /// Ollama unloads a model no earlier than this after its last answer, unless it is told to.
    private static let warmTime = Duration.seconds(30)
    private static let answerTime = Duration.seconds(5)

    private let client: UpstreamClient
    private let intervals: Intervals
    private let state = Mutex(State())

    /// Makes it for the upstream behind `client`, which the caller shuts down.
    package init(_ client: UpstreamClient, intervals: Intervals = Intervals()) {
        self.client = client
        self.intervals = intervals
    }

    /// Sets who is told of changes; called from any thread.
    package func onChange(_ report: @escaping @Sendable (Change) -> Void) {
        state.withLock { $0.report = report }
    }

    /// Models that load now.
    package var loading: Set<String> { state.withLock { Set($0.loading.keys) } }

    /// Finds out whether the server is one that loads on demand and says so.
    package func recognise() async {
        let isOllama = await loadedModels() != nil
        state.withLock { $0.isOllama = isOllama }
    }

    /// Whether the model is in memory; nil where the server does not tell.
    package func isInMemory(_ name: String) async -> Bool? {
        await loadedModels().map { Self.holds(name, $0) }
    }

    /// Loads models that are not in memory, where the server can be asked to.
    package func preload(_ names: [String]) async {
        guard state.withLock({ $0.isOllama }), let loaded = await loadedModels() else { return }
        for name in names where !Self.holds(name, loaded) { begin(name) }
    }

    /// Returns once the model is in memory as far as can be told: false when `limit` came first, or
    /// the Swift task was cancelled.
    package func ready(_ name: String, before limit: ContinuousClock.Instant) async -> Bool {
        if isCold(name) {
            if let loaded = await loadedModels(), !Self.holds(name, loaded) {
                begin(name)
            } else {
                answered(name)
            }
        }
        while state.withLock({ $0.loading[name] != nil }) {
            guard !Task.isCancelled, ContinuousClock.now < limit else { return false }
            try? await Task.sleep(for: intervals.poll)
        }
        return !Task.isCancelled
    }

    /// The model answered a task.
    package func answered(_ name: String) {
        state.withLock { $0.warm[name] = .now }
    }

    /// The server said that it is loading: whoever has a task for the model waits.
    package func sawLoading(_ name: String) { begin(name) }

    /// Whether the body of a 503 says that a model loads. llama.cpp: `Loading model`.
    package static func saysLoading(_ body: [UInt8]) -> Bool {
        String(decoding: body.prefix(4_096), as: UTF8.self).lowercased().contains("loading")
    }

    // MARK: Loading

    private func isCold(_ name: String) -> Bool {
        state.withLock { state in
            guard state.isOllama, state.loading[name] == nil else { return false }
            return state.warm[name].map { ContinuousClock.now - $0 > Self.warmTime } ?? true
        }
    }

    private func begin(_ name: String) {
        let (isNew, isOllama, report) = state.withLock { state in
            let isNew = state.loading[name] == nil
            if isNew { state.loading[name] = .now }
            return (isNew, state.isOllama, state.report)
        }
        guard isNew else { return }
        report?(.loading(name))
        Task {
            let isLoaded = await (isOllama ? load(name) : becomesHealthy())
            end(name, isLoaded: isLoaded)
        }
    }

    private func end(_ name: String, isLoaded: Bool) {
        let (since, report) = state.withLock { state in
            if isLoaded { state.warm[name] = .now }
            return (state.loading.removeValue(forKey: name), state.report)
        }
        guard let since else { return }
        report?(isLoaded ? .loaded(name, ContinuousClock.now - since) : .abandoned(name))
    }

    private func load(_ name: String) async -> Bool {
        let body: JSONValue = ["model": .string(name), "stream": .boolean(false)]
        let answer = await client.ask(
            "/api/generate", body: body.encoded, timeout: intervals.longest, isLong: true)
        return answer?.status == 200
    }

    private func becomesHealthy() async -> Bool {
        let limit = ContinuousClock.now + intervals.longest
        while ContinuousClock.now < limit {
            try? await Task.sleep(for: intervals.poll)
            switch await client.ask("/health", timeout: Self.answerTime)?.status {
            case 503: continue
            case 200: return true
            // It has no such page, or is gone: after a while the task itself will tell.
            default:
                try? await Task.sleep(for: intervals.poll * 4)
                return false
            }
        }
        return false
    }

    /// Names of the models in memory; nil where the server does not tell.
    private func loadedModels() async -> Set<String>? {
        guard let answer = await client.ask("/api/ps", timeout: Self.answerTime),
            answer.status == 200
        else { return nil }
        return try? Self.names(answer.body)
    }

    private static func names(_ body: [UInt8]) throws(JSONFault) -> Set<String> {
        var names: Set<String> = []
        var isList = false
        var cursor = JSONCursor(body)
        try cursor.beginObject()
        while let key = try cursor.nextKey() {
            guard key == "models", try cursor.peekKind() == .array else {
                try cursor.skipValue()
                continue
            }
            isList = true
            try cursor.beginArray()
            while try cursor.nextElement() {
                try cursor.beginObject()
                while let member = try cursor.nextKey() {
                    guard member == "name" || member == "model" else {
                        try cursor.skipValue()
                        continue
                    }
                    if let name = try cursor.stringIfAny() { names.insert(name) }
                }
            }
        }
        try cursor.expectEnd()
        guard isList else { throw .unexpectedKind }
        return names
    }

    /// Ollama names a model without a tag by its tag `latest`.
    private static func holds(_ name: String, _ loaded: Set<String>) -> Bool {
        loaded.contains(name) || loaded.contains(name + ":latest")
    }
}
