import Foundation
import JSONScanning
package import SluiceWire
import Synchronization

/// Everything that a worker ever says. A closed list of numbers, codes, task ids and model names:
/// there is no case that could hold a prompt or an answer.
package enum WorkerEvent: Equatable, Sendable {
    /// A connection to a broker stands.
    case connected(broker: String)
    /// A connection to a broker was lost; the worker connects again.
    case disconnected(broker: String, reason: String)
    /// These models are offered now, and nothing else; names that cannot travel were skipped.
    case offered(models: [String], skippedCount: Int)
    /// The upstream serves nothing: nothing is offered until it does.
    case upstreamLost(UpstreamMonitor.Loss)
    /// The upstream loads a model: it has no slots until then.
    case loading(engineName: String)
    /// It answers now, after so long.
    case loaded(engineName: String, ms: Int)
    /// The load was given up; the model has its slots back, and its next task finds out.
    case loadAbandoned(engineName: String)
    /// The engine was measured with answers of a few words: nil where none came.
    case measured(model: String, slots: Int, firstTokenMs: Int?, tokensPerSecond: Int?)
    /// Real answers were slower or faster than measured: so many slots from now on.
    case slots(Int)
    /// The task completed.
    case ended(task: TaskID, model: String, reason: FinishReason, usage: Usage)
    /// The task did not complete.
    case failed(task: TaskID, model: String, code: WireCode, usage: Usage)
    /// The task was cancelled; `upstreamClosed` says whether a request was open at the upstream
    /// and its connection was closed (nil for an engine that has no upstream).
    case cancelled(task: TaskID, model: String, tokens: Int, upstreamClosed: Bool?)
    /// The task did not stop within a second of being cancelled.
    case overdue(task: TaskID)
    /// No new tasks; the running ones have this long.
    case draining(seconds: Int)
    /// The worker ends.
    case stopped(code: WireCode?)

    /// The event as one JSON object, without a line end.
    package var line: String {
        switch self {
        case .connected(let broker): Self.object("connected", [("broker", Self.string(broker))])
        case .disconnected(let broker, let reason):
            Self.object(
                "disconnected",
                [("broker", Self.string(broker)), ("reason", Self.string(Self.plain(reason)))])
        case .offered(let models, let skippedCount):
            Self.object(
                "offered",
                [
                    ("models", "[" + models.map(Self.string).joined(separator: ",") + "]"),
                    ("skipped", String(skippedCount)),
                ])
        case .upstreamLost(let loss): Self.object("upstream_lost", Self.loss(loss))
        case .loading(let name): Self.object("loading", [("model", Self.string(name))])
        case .loaded(let name, let ms):
            Self.object("loaded", [("model", Self.string(name)), ("ms", String(ms))])
        case .loadAbandoned(let name):
            Self.object("load_abandoned", [("model", Self.string(name))])
        case .measured(let model, let slots, let firstTokenMs, let tokensPerSecond):
            Self.object(
                "measured",
                [
                    ("model", Self.string(model)), ("slots", String(slots)),
                    ("firstTokenMs", firstTokenMs.map { String($0) } ?? "null"),
                    ("tokensPerSecond", tokensPerSecond.map { String($0) } ?? "null"),
                ])
        case .slots(let slots): Self.object("slots", [("slots", String(slots))])
        case .ended(let task, let model, let reason, let usage):
            Self.object(
                "ended",
                Self.task(task, model) + [("finishReason", Self.string("\(reason)"))]
                    + Self.counts(usage))
        case .failed(let task, let model, let code, let usage):
            Self.object(
                "failed", Self.task(task, model) + [("code", Self.name(code))] + Self.counts(usage))
        case .cancelled(let task, let model, let tokens, let upstreamClosed):
            Self.object(
                "cancelled",
                Self.task(task, model) + [("tokens", String(tokens))]
                    + (upstreamClosed.map { [("upstreamClosed", String($0))] } ?? []))
        case .overdue(let task): Self.object("overdue", [("task", Self.string(task.description))])
        case .draining(let seconds): Self.object("draining", [("seconds", String(seconds))])
        case .stopped(let code): Self.object("stopped", [("code", Self.name(code))])
        }
    }

    private static func task(_ task: TaskID, _ model: String) -> [(String, String)] {
        [("task", string(task.description)), ("model", string(model))]
    }

    private static func counts(_ usage: Usage) -> [(String, String)] {
        [
            ("inputTokens", String(usage.inputTokens)),
            ("cachedTokens", String(usage.cachedTokens)),
            ("outputTokens", String(usage.outputTokens)),
            ("reasoningTokens", String(usage.reasoningTokens)),
        ]
    }

    private static func loss(_ loss: UpstreamMonitor.Loss) -> [(String, String)] {
        switch loss {
        case .unreachable: [("reason", string("unreachable"))]
        case .silent: [("reason", string("silent"))]
        case .noList: [("reason", string("no_list"))]
        case .refused(let status): [("reason", string("refused")), ("status", String(status))]
        }
    }

    /// A code in snake case, or null.
    private static func name(_ code: WireCode?) -> String {
        guard let code else { return "null" }
        return string(
            "\(code)".reduce(into: "") { name, letter in
                name += letter.isUppercase ? "_" + letter.lowercased() : String(letter)
            })
    }

    /// The names in a reason, without their modules: letters and brackets alone.
    private static func plain(_ reason: String) -> String {
        let names = reason.replacing("SluiceWire.WireCode.", with: "")
        return String(names.prefix(80).filter { $0.isASCII && ($0.isLetter || "().".contains($0)) })
    }

    private static func string(_ text: String) -> String {
        String(decoding: JSONText.quoted(text), as: UTF8.self)
    }

    private static func object(_ event: String, _ members: [(String, String)]) -> String {
        "{"
            + ([("event", string(event))] + members).map { #""\#($0)":\#($1)"# }
            .joined(separator: ",") + "}"
    }
}

/// Writes events as JSON lines, each whole, from any thread.
package final class WorkerLog: Sendable {
    // Not inside the mutex: each access to a closure held by a generic value wraps it once more,
    // for ever.
    private let write: @Sendable (String) -> Void
    private let turn = Mutex(())

    /// Makes a log that hands each line, with its end, to `write`; one at a time.
    package init(_ write: @escaping @Sendable (String) -> Void) {
        self.write = write
    }

    /// The log that a process keeps: standard error.
    package static var standardError: WorkerLog {
        WorkerLog { line in
            // A closed standard error must not end the worker.
            try? FileHandle.standardError.write(contentsOf: Data(line.utf8))
        }
    }

    /// Writes one event.
    package func record(_ event: WorkerEvent) {
        let line = event.line + "\n"
        turn.withLock { _ in write(line) }
    }
}
