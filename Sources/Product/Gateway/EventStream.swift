import JSONScanning
import SluiceClient
import SluiceWire

/// The bytes of a stream of server-sent events, in the order to be written. What goes wrong after
/// the first byte is an event with the error, and nothing follows it.
struct EventStream: Sendable {
    /// Events that have arrived together are written together, up to about so much.
    private static let writeBytes = 16_384

    /// Events of the answer so far, and whether it ended with an error.
    private(set) var eventCount = 0
    private(set) var hasFailed = false
    private var open: OpenAnswer
    private let keepAlive: Duration
    private let dropsUsage: Bool
    private var responses: ResponsesWriter?
    private var phase = Phase.waiting

    private enum Phase {
        /// The first sign of life is due with the status.
        case queued
        /// For the first event; signs of life are sent.
        case waiting
        /// The first event or the end is there, and nothing of it was taken.
        case ready
        case running
    }

    /// What to do next.
    enum Step {
        case write([UInt8])
        /// Nothing follows.
        case last([UInt8])
        /// Until `whenReady` calls.
        case wait
    }

    init(_ call: TaskCall, _ open: OpenAnswer, keepAlive: Duration, createdAt: Int64) {
        self.open = open
        self.keepAlive = keepAlive
        dropsUsage = !call.includesUsage
        if open.isQueued { phase = .queued }
        if call.route == .responses {
            responses = ResponsesWriter(
                id: open.task?.description ?? "", createdAt: createdAt, model: open.model,
                echo: call.echo)
        }
    }

    /// What to write while the answer is waited for; nil as soon as `step` has something to say.
    mutating func nextSignOfLife() async -> [UInt8]? {
        switch phase {
        case .queued:
            phase = .waiting
            return Self.signOfLife
        case .waiting:
            guard await open.hasArrived(within: keepAlive) || Task.isCancelled else {
                return Self.signOfLife
            }
            phase = .ready
            return nil
        case .ready, .running: return nil
        }
    }

    /// Takes what has arrived; not again after the last.
    mutating func step() -> Step {
        var bytes: [UInt8] = []
        if case .ready = phase {
            phase = .running
            if responses != nil { bytes += Self.named(responses?.begin() ?? []) }
        }
        do throws(HTTPFault) {
            while bytes.count < Self.writeBytes {
                switch try open.nextArrived() {
                case .event(let event): try append(event, to: &bytes)
                case .nothing: return bytes.isEmpty ? .wait : .write(bytes)
                case .end: return .last(bytes + end())
                }
            }
            return .write(bytes)
        } catch {
            hasFailed = true
            return .last(bytes + self.bytes(of: error))
        }
    }

    /// Calls `body` when `step` has something new to say, from any thread; nil ends that.
    func whenReady(_ body: (@Sendable () -> Void)?) {
        open.whenReady(body)
    }

    /// Cancels the task; `step` says so.
    func cancel() {
        open.cancel()
    }

    private mutating func append(
        _ event: [UInt8], to bytes: inout [UInt8]
    ) throws(HTTPFault) {
        if responses != nil {
            eventCount += 1
            do throws(JSONFault) {
                bytes += Self.named(try responses?.add(event) ?? [])
            } catch {
                throw HTTPFault(.supplierFailed(.supplierFailed, Receipt(task: open.task)))
            }
        } else if !dropsUsage || !EventGlance.isUsageOnly(event) {
            eventCount += 1
            Self.append(event, to: &bytes)
        }
    }

    private mutating func end() -> [UInt8] {
        if responses != nil { return Self.named(responses?.finish() ?? []) }
        return Self.data(Array("[DONE]".utf8))
    }

    private mutating func bytes(of fault: HTTPFault) -> [UInt8] {
        if responses != nil { return Self.named(responses?.failed(fault) ?? []) }
        // An event is one line: an engine may have written its error over several.
        return Self.data(fault.body.filter { $0 != 0x0A && $0 != 0x0D })
    }

    private static let signOfLife = Array(": keep-alive\n\n".utf8)

    private static func data(_ event: [UInt8]) -> [UInt8] {
        var bytes: [UInt8] = []
        bytes.reserveCapacity(event.count + 8)
        append(event, to: &bytes)
        return bytes
    }

    private static func append(_ event: [UInt8], to bytes: inout [UInt8]) {
        // Mostly one event is written alone: one allocation then, of what it needs.
        if bytes.isEmpty { bytes.reserveCapacity(event.count + 8) }
        bytes += "data: ".utf8
        let start = bytes.count
        bytes += event
        // An event is one line, and an engine may have written its own over several: between the
        // values of JSON a line's end is white space, within a text it is escaped.
        if event.contains(where: { $0 == 0x0A || $0 == 0x0D }) {
            for place in start..<bytes.count where bytes[place] == 0x0A || bytes[place] == 0x0D {
                bytes[place] = 0x20
            }
        }
        bytes += "\n\n".utf8
    }

    /// Events of `/v1/responses` also have a name.
    private static func named(_ events: [JSONValue]) -> [UInt8] {
        var bytes: [UInt8] = []
        for event in events {
            bytes += "event: \(event["type"]?.text ?? "")\ndata: ".utf8
            event.append(to: &bytes)
            bytes += "\n\n".utf8
        }
        return bytes
    }
}

/// Joins an answer for the route that it belongs to.
struct AnswerJoiner {
    private var completion: CompletionJoiner?
    private var responses: ResponsesWriter?

    init(_ call: TaskCall, model: String, id: TaskID?, createdAt: Int64) {
        if call.route == .responses {
            responses = ResponsesWriter(
                id: id?.description ?? "", createdAt: createdAt, model: model, echo: call.echo)
        } else {
            completion = CompletionJoiner(isChat: call.route == .chat)
        }
    }

    mutating func add(_ event: [UInt8]) throws(JSONFault) {
        try completion?.add(event)
        _ = try responses?.add(event)
    }

    consuming func joined() -> [UInt8] {
        if let completion { return completion.joined() }
        _ = responses?.finish()
        return responses?.finished.encoded ?? []
    }
}
