import SluiceWire

// The NATS protocol as a broker of tasks would be built on it: a task is published to the subject
// of a queue group, of which one supplier gets it; tokens and the end come back to an inbox of the
// client. No credit, no word of acceptance, at most once.

private let taskSubject = "tasks"
private let connectLine =
    "CONNECT {\"verbose\":false,\"pedantic\":false,\"tls_required\":true,\"lang\":\"swift\","
    + "\"version\":\"1\",\"name\":\"bench\",\"protocol\":1,\"echo\":false}\r\n"

/// A mock client that publishes tasks, with an inbox for each of its streams.
package struct NATSClient: ClientDialect {
    package var output = OutputQueue()
    package private(set) var isReady = false
    private let settings: ClientSettings
    private var waiting: [WaitingTask] = []
    /// By stream: everything in front of the prompt.
    private var heads: [[UInt8]] = []
    private let inboxBytes: Int

    package init(_ settings: ClientSettings) {
        self.settings = settings
        let inbox = "I.\(settings.number)."
        inboxBytes = inbox.utf8.count
        heads = (0..<settings.streams).map {
            Array("PUB \(taskSubject) \(inbox)\($0) \(settings.promptBytes)\r\n".utf8)
        }
    }

    package mutating func open() {
        output.append(Array((connectLine + "SUB I.\(settings.number).* 1\r\nPING\r\n").utf8))
    }

    package mutating func submit(
        _ stream: Int, order: TaskOrder, intendedNs: UInt64, tasks: inout ClientTasks
    ) {
        guard isReady else {
            waiting.append(WaitingTask(stream: stream, order: order, intendedNs: intendedNs))
            return
        }
        output.append(heads[stream])
        let promptBytes = settings.promptBytes
        output.write {
            order.encode(promptBytes: promptBytes, into: &$0)
            $0.append(0x0D)
            $0.append(0x0A)
        }
        tasks.begin(
            settings.firstSlot + stream, asked: Int(order.tokens), intendedNs: intendedNs,
            isAccepted: true)
    }

    package mutating func dropWaiting() -> Int {
        defer { waiting.removeAll() }
        return waiting.count
    }

    package mutating func receive(
        _ bytes: Span<UInt8>, nowNs: UInt64, tasks: inout ClientTasks
    ) -> Int {
        var offset = 0
        while let operation = NATSOperation.next(bytes, &offset) {
            switch operation {
            case .message(let subject, _, let payload):
                message(bytes, subject, payload, nowNs, &tasks)
            case .pong:
                isReady = true
                let all = waiting
                waiting.removeAll()
                for task in all {
                    submit(
                        task.stream, order: task.order, intendedNs: task.intendedNs, tasks: &tasks)
                }
            case .ping:
                output.append(Array("PONG\r\n".utf8))
            case .information:
                break
            case .error:
                tasks.fault(.badFrame)
            }
        }
        return offset
    }

    private func message(
        _ bytes: Span<UInt8>, _ subject: Range<Int>, _ payload: Range<Int>, _ nowNs: UInt64,
        _ tasks: inout ClientTasks
    ) {
        let digits = subject.dropFirst(inboxBytes)
        guard let stream = NATSOperation.decimal(bytes, digits), stream < settings.streams,
            payload.count >= ContentStamp.byteCount
        else { return tasks.fault(.badFrame) }
        let stamp = ContentStamp(decoding: bytes, at: payload.lowerBound)
        if stamp.kind == ContentStamp.end {
            tasks.ended(
                settings.firstSlot + stream, isComplete: true, usage: stamp.position, nowNs: nowNs)
        } else {
            tasks.token(
                settings.firstSlot + stream, position: stamp.position,
                intendedNs: stamp.intendedNs, nowNs: nowNs)
        }
    }
}

/// A mock supplier: a member of the queue group.
package struct NATSSupplier: SupplierDialect {
    package var output = OutputQueue()
    package private(set) var isReady = false
    /// By key of a task: everything in front of its tokens, and of its end.
    private var tokenHeads: [[UInt8]] = []
    private var endHeads: [[UInt8]] = []
    private var free: [Int] = []
    private var payload: [UInt8] = []

    package init(_ settings: SupplierSettings) {}

    package mutating func open() {
        output.append(Array((connectLine + "SUB \(taskSubject) w 1\r\nPING\r\n").utf8))
    }

    package mutating func receive(
        _ bytes: Span<UInt8>, connection: Int, nowNs: UInt64, tasks: inout SupplierTasks
    ) -> Int {
        var offset = 0
        while let operation = NATSOperation.next(bytes, &offset) {
            switch operation {
            case .message(_, let reply, let payload):
                guard !reply.isEmpty, payload.count >= TaskOrder.byteCount else {
                    tasks.badFrame()
                    continue
                }
                let order = TaskOrder(decoding: bytes, at: payload.lowerBound)
                var subject: [UInt8] = []
                for place in reply { subject.append(bytes[place]) }
                let key = keep(subject, tokenBytes: Int(order.tokenBytes))
                _ = tasks.open(connection: connection, key: key, order: order, nowNs: nowNs)
            case .pong:
                isReady = true
            case .ping:
                output.append(Array("PONG\r\n".utf8))
            case .information:
                break
            case .error:
                tasks.badFrame()
            }
        }
        return offset
    }

    private mutating func keep(_ subject: [UInt8], tokenBytes: Int) -> Int {
        let start = Array("PUB ".utf8) + subject
        let tokenHead = start + Array(" \(tokenBytes)\r\n".utf8)
        let endHead = start + Array(" \(ContentStamp.byteCount)\r\n".utf8)
        guard let key = free.popLast() else {
            tokenHeads.append(tokenHead)
            endHeads.append(endHead)
            return tokenHeads.count - 1
        }
        tokenHeads[key] = tokenHead
        endHeads[key] = endHead
        return key
    }

    package func canSend(_ task: SupplierTasks.Task) -> Bool { true }

    package mutating func sendToken(_ task: SupplierTasks.Task, intendedNs: UInt64) {
        let bytes = Int(task.tokenBytes)
        if payload.count != bytes + 2 {
            payload = [UInt8](repeating: 0x74, count: bytes) + [0x0D, 0x0A]
        }
        payload.put32(task.sent, at: 0)
        payload.put32(ContentStamp.token, at: 4)
        payload.put64(intendedNs, at: 8)
        output.append(tokenHeads[Int(task.key)])
        output.append(payload)
    }

    package mutating func sendEnd(_ task: SupplierTasks.Task) {
        var end = [UInt8](repeating: 0, count: ContentStamp.byteCount)
        end.put32(task.sent, at: 0)
        end.put32(ContentStamp.end, at: 4)
        output.append(endHeads[Int(task.key)])
        output.append(end + [0x0D, 0x0A])
        free.append(Int(task.key))
    }
}
