import BasicContainers
import SluiceBrokerCore
import SluiceWire

/// What goes from one shard of a broker in memory to another, in order.
enum InMemoryParcel {
    /// An `open` brings the task's body along.
    case message(RelayMessage, body: [UInt8])
    /// One TOKENS frame, its number the index of the client's stream.
    case frame([UInt8])
}

/// One shard of a broker in memory: the real core in a shell that keeps bytes in arrays. Numbers of
/// connections are those of the shard.
final class InMemoryShard {
    /// Plaintext of one TLS record.
    static let recordBytes = WireLimits.frameBytesMax

    /// What the shell keeps of one connection.
    struct Line {
        /// TCP and TLS are up and the core knows of it.
        var isOpen = false
        /// The start of a frame whose end has not arrived.
        var kept: [UInt8] = []
        /// TOKENS frames that wait to be sealed before anything else.
        var staged: [[UInt8]] = []
        /// What TLS would have verified of the peer.
        var certificate: Digest256?
        /// Control frames that wait to be sealed.
        var control: [UInt8] = []
        /// Sealed and not yet taken by the network.
        var outbox: [UInt8] = []
        /// The core ordered the end of the connection; when.
        var closingSinceUs: UInt64?
        var closesAfterSending = false
    }

    private struct AnswerFrame {
        let header: FrameHeader
        let payload: [UInt8]
    }

    var machine: ShardMachine
    var lines: [Line]
    var idleLines: [UInt32]
    /// For the dispatcher, oldest first.
    var requests: [DispatchRequest] = []
    /// From the dispatcher, oldest first.
    var messages: [ShardMessage] = []
    /// From each shard, oldest first.
    var inbox: [[InMemoryParcel]]
    /// For other shards, until the broker delivers it.
    var parcels: [(shard: UInt16, parcel: InMemoryParcel)] = []
    /// Content in memory: bodies in whole chunks, and answer frames queued or under way.
    private(set) var bodyBytesHeld = 0
    private(set) var answerBytesHeld = 0

    private let files: InMemoryFiles
    private let socketBytes: Int
    private var output = ShardOutput()
    /// By client stream.
    private var bodies: [[UInt8]] = []
    private var answers: [[AnswerFrame]] = []
    /// By supplier stream.
    private var boundBodies: [[UInt8]] = []
    /// The body of the `open` that is being performed.
    private var arrivingBody: [UInt8] = []
    private var nowUs: UInt64

    init(
        limits: BrokerLimits, index: UInt16, shardCount: UInt16, files: InMemoryFiles,
        socketBytes: Int, nowUs: UInt64
    ) {
        precondition(socketBytes >= Self.recordBytes)
        machine = ShardMachine(
            limits: limits, index: index, shardCount: shardCount, instance: files.instance.id,
            nowUs: nowUs)
        inbox = [[InMemoryParcel]](repeating: [], count: Int(shardCount))
        lines = [Line](repeating: Line(), count: limits.connections)
        idleLines = (0..<UInt32(limits.connections)).reversed()
        self.files = files
        self.socketBytes = socketBytes
        self.nowUs = nowUs
    }

    /// Nothing waits to be looked at by this shard, by others or by the dispatcher.
    var isQuiet: Bool {
        requests.isEmpty && messages.isEmpty && parcels.isEmpty
            && inbox.allSatisfy(\.isEmpty)
    }

    // MARK: The network

    func connect(certificate: Digest256?, nowUs: UInt64) -> UInt32? {
        guard let connection = idleLines.popLast() else { return nil }
        self.nowUs = nowUs
        lines[Int(connection)].isOpen = true
        lines[Int(connection)].certificate = certificate
        machine.opened(connection, nowUs: nowUs)
        machine.established(connection, nowUs: nowUs)
        return connection
    }

    func receive(
        _ connection: UInt32, _ bytes: [UInt8], nowUs: UInt64
    ) {
        let index = Int(connection)
        guard lines[index].isOpen, lines[index].closingSinceUs == nil else { return }
        self.nowUs = nowUs
        let chunk = lines[index].kept + bytes
        let used = machine.received(connection, chunk.span, nowUs: nowUs, out: &output)
        machine.commitStaged(nowUs: nowUs, out: &output)
        perform(on: chunk)
        lines[index].kept = Array(chunk[used...])
    }

    func disconnected(
        _ connection: UInt32, nowUs: UInt64
    ) {
        guard lines[Int(connection)].isOpen else { return }
        self.nowUs = nowUs
        machine.closed(connection, nowUs: nowUs, out: &output)
        perform(on: [])
        lines[Int(connection)] = Line()
        idleLines.append(connection)
        files.note(globalNumber(connection), [])
    }

    func take(_ connection: UInt32, atMost byteCount: Int) -> [UInt8] {
        let index = Int(connection)
        guard lines[index].isOpen, !lines[index].outbox.isEmpty else { return [] }
        let count = min(byteCount, lines[index].outbox.count)
        let bytes = Array(lines[index].outbox.prefix(count))
        lines[index].outbox.removeFirst(count)
        guard lines[index].closingSinceUs == nil else { return bytes }
        machine.sendProgressed(connection, nowUs: nowUs, out: &output)
        tellSealRoom(connection)
        return bytes
    }

    func drain(nowUs: UInt64) {
        machine.drain(nowUs: nowUs, out: &output)
    }

    /// The connection's number in the whole broker.
    private func globalNumber(_ connection: UInt32) -> UInt32 {
        UInt32(machine.index) * UInt32(lines.count) + connection
    }

    // MARK: A turn

    func advance(nowUs: UInt64) {
        self.nowUs = nowUs
        finishClosing()
        machine.advance(nowUs: nowUs, out: &output)
        perform(on: [])
    }

    /// Connections that the core ordered closed end once the network has taken what was left for
    /// them, or after 2 s.
    private func finishClosing() {
        for index in lines.indices {
            guard let since = lines[index].closingSinceUs else { continue }
            let isSent = lines[index].outbox.isEmpty && lines[index].control.isEmpty
            guard !lines[index].closesAfterSending || isSent || nowUs - since >= 2_000_000
            else { continue }
            disconnected(UInt32(index), nowUs: nowUs)
        }
    }

    /// Hands the first `count` messages of the dispatcher to the core.
    func takeMessages(_ count: Int) {
        let taken = messages.prefix(count)
        messages.removeFirst(taken.count)
        for message in taken { machine.received(message, nowUs: nowUs, out: &output) }
        perform(on: [])
    }

    /// Hands the first `count` parcels of another shard to the core; frames that follow each other
    /// in one call.
    func takeParcels(of shard: Int, _ count: Int) {
        let taken = inbox[shard].prefix(count)
        inbox[shard].removeFirst(taken.count)
        var frames: [UInt8] = []
        for parcel in taken {
            switch parcel {
            case .frame(let bytes):
                answerBytesHeld -= bytes.count
                frames += bytes
            case .message(let message, let body):
                takeFrames(&frames)
                arrivingBody = body
                machine.received(message, nowUs: nowUs, out: &output)
                perform(on: [])
                arrivingBody = []
            }
        }
        takeFrames(&frames)
    }

    private func takeFrames(_ frames: inout [UInt8]) {
        guard !frames.isEmpty else { return }
        machine.receivedRelay(frames.span, nowUs: nowUs, out: &output)
        perform(on: frames)
        frames = []
    }

    func arrived(_ parcel: InMemoryParcel, from shard: UInt16) {
        if case .frame(let bytes) = parcel { answerBytesHeld += bytes.count }
        inbox[Int(shard)].append(parcel)
    }

    // MARK: The core's orders

    /// Performs the core's orders in order. Ranges are places in `chunk`.
    func perform(on chunk: [UInt8]) {
        for position in output.staged.indices { stage(output.staged[position], chunk) }
        for position in 0..<output.actions.count where !files.instance.isDead {
            switch output.actions[position] {
            case .enqueueTokens(let stream, let headerWord, let streamID, let start, let count):
                enqueue(
                    stream, Self.tokensHeader(headerWord, streamID),
                    Array(chunk[Int(start)..<Int(start + count)]))
            case .send(let connection, let frame):
                frame.encode(into: &lines[Int(connection)].control)
            case .storeBody(let stream, let start, let count):
                storeBody(stream, chunk[Int(start)..<Int(start + count)])
            case .dropBody(let stream):
                bodyBytesHeld -= BrokerLimits.chunked(bodies[Int(stream)].count)
                bodies[Int(stream)] = []
            case .dropTokens(let stream):
                dropAnswer(stream)
            case .firstOutput(let slot, let ttftUs):
                files.instance.firstOutput(slot, ttftUs: ttftUs)
            case .started(let slot, let frame):
                files.instance.started(slot, frame)
            case .welcome(let connection):
                machine.welcome(connection).encode(into: &lines[Int(connection)].control)
            case .report(let connection, let report):
                lines[Int(connection)].control += output.reports[Int(report)]
            case .authenticate(let connection, let start, let count, let kind):
                let secret = Array(chunk[Int(start)..<Int(start + count)])
                machine.credential(
                    connection, kind: kind, digest: InMemoryBroker.digest(of: secret),
                    out: &output)
            case .verifyCertificate(let connection):
                machine.certificate(
                    connection, digest: lines[Int(connection)].certificate, out: &output)
            case .hashKey(let stream, let start, let count, let account):
                var key = Array(chunk[Int(start)..<Int(start + count)])
                key.append(contentsOf: "\(account)".utf8)
                machine.idempotencyKey(
                    stream, digest: InMemoryBroker.digest(of: key).words.0, out: &output)
            case .bindBody(let supplier, let client):
                while boundBodies.count <= Int(supplier) { boundBodies.append([]) }
                let isOwn = client.shard == machine.index
                boundBodies[Int(supplier)] = isOwn ? body(client.index) : arrivingBody
            case .relayTokens(let shard, let headerWord, let client, let start, let count):
                var frame: [UInt8] = []
                Self.tokensHeader(headerWord, client).encode(into: &frame)
                frame += chunk[Int(start)..<Int(start + count)]
                parcels.append((shard, .frame(frame)))
            case .relay(let shard, let position):
                relay(output.relayed[Int(position)], to: shard)
            case .close(let connection, let afterSending):
                close(connection, afterSending: afterSending)
            }
        }
        for position in 0..<output.delivered.count where !files.instance.isDead {
            files.instance.delivered(output.delivered[position])
        }
        output.removeActions()
        for position in output.requests.indices { requests.append(output.requests[position]) }
        output.requests.removeAll(keepingCapacity: true)
    }

    private func relay(_ message: RelayMessage, to shard: UInt16) {
        guard case .open(let opening) = message else {
            return parcels.append((shard, .message(message, body: [])))
        }
        parcels.append((shard, .message(message, body: body(opening.client.index))))
    }

    private func close(_ connection: UInt32, afterSending: Bool) {
        let index = Int(connection)
        guard lines[index].isOpen, lines[index].closingSinceUs == nil else { return }
        lines[index].closingSinceUs = nowUs
        lines[index].closesAfterSending = afterSending
        if !afterSending {
            lines[index].control = []
            lines[index].outbox = []
        }
    }

    // MARK: Content

    private func body(_ client: UInt32) -> [UInt8] {
        Int(client) < bodies.count ? bodies[Int(client)] : []
    }

    private func storeBody(_ stream: UInt32, _ bytes: ArraySlice<UInt8>) {
        let index = Int(stream)
        while bodies.count <= index { bodies.append([]) }
        bodyBytesHeld -= BrokerLimits.chunked(bodies[index].count)
        bodies[index] += bytes
        bodyBytesHeld += BrokerLimits.chunked(bodies[index].count)
    }

    private static func tokensHeader(_ headerWord: UInt64, _ stream: UInt32) -> FrameHeader {
        let header = FrameHeader(
            kind: .tokens, stream: StreamID(stream),
            payloadBytes: Int(UInt32(truncatingIfNeeded: headerWord)),
            flags: FrameFlags(rawValue: UInt8(truncatingIfNeeded: headerWord >> 40)),
            tokens: UInt16(truncatingIfNeeded: headerWord >> 48))
        precondition(header.firstWord == headerWord, "a header that is no TOKENS header")
        return header
    }

    private func enqueue(_ stream: UInt32, _ header: FrameHeader, _ payload: [UInt8]) {
        while answers.count <= Int(stream) { answers.append([]) }
        precondition(Int(header.payloadBytes) == payload.count)
        answers[Int(stream)].append(AnswerFrame(header: header, payload: payload))
        answerBytesHeld += header.frameBytes
    }

    private func stage(_ frame: StagedFrame, _ chunk: [UInt8]) {
        let header = Self.tokensHeader(frame.headerWord, frame.stream)
        var bytes: [UInt8] = []
        header.encode(into: &bytes)
        let start = Int(frame.start)
        bytes += chunk[start..<start + Int(header.payloadBytes)]
        lines[Int(frame.connection)].staged.append(bytes)
    }

    private func dropAnswer(_ stream: UInt32) {
        answerBytesHeld -= answers[Int(stream)].reduce(0) { $0 + $1.header.frameBytes }
        answers[Int(stream)] = []
    }

    // MARK: Sending

    /// Seals what every connection with something to say can take now. `settle` lets the
    /// dispatcher answer before a record is closed, where it is on the same thread.
    func send(settle: () -> Void) {
        machine.commitStaged(nowUs: nowUs, out: &output)
        perform(on: [])
        sendDirty(settle)
        sealClosing()
        machine.creditStaged(nowUs: nowUs, out: &output)
        perform(on: [])
        sendDirty(settle)
        sealClosing()
    }

    private func sealClosing() {
        for index in lines.indices where lines[index].closingSinceUs != nil {
            // ERROR is control; beside it, what was staged is delivered.
            let staged = takeStaged(UInt32(index), spaceBytes: .max)
            seal(UInt32(index), staged + takeControl(UInt32(index), spaceBytes: .max))
        }
    }

    private func sendDirty(_ settle: () -> Void) {
        var position = 0
        while !files.instance.isDead, position < output.dirty.count {
            let connection = output.dirty[position]
            position += 1
            machine.clearDirty(connection)
            if lines[Int(connection)].isOpen { send(on: connection, settle) }
        }
        output.dirty.removeAll(keepingCapacity: true)
    }

    private func send(
        on connection: UInt32, _ settle: () -> Void
    ) {
        let index = Int(connection)
        while !files.instance.isDead, lines[index].closingSinceUs == nil {
            guard socketBytes - lines[index].outbox.count >= Self.recordBytes else {
                return machine.sendBlocked(connection, nowUs: nowUs)
            }
            let record = fillRecord(connection, settle)
            guard !record.isEmpty else { break }
            if !files.instance.isDead { seal(connection, record) }
        }
        tellSealRoom(connection)
    }

    private func tellSealRoom(_ connection: UInt32) {
        let room = socketBytes - lines[Int(connection)].outbox.count
        machine.sealRoom(connection, byteCount: max(0, room))
    }

    private func seal(_ connection: UInt32, _ record: [UInt8]) {
        guard !record.isEmpty else { return }
        lines[Int(connection)].outbox += record
        files.note(globalNumber(connection), record)
    }

    /// One record of what was staged, then control frames, then data. An end that becomes known while its last data is
    /// taken joins the same record.
    private func fillRecord(
        _ connection: UInt32, _ settle: () -> Void
    ) -> [UInt8] {
        var record = takeStaged(connection, spaceBytes: Self.recordBytes)
        guard lines[Int(connection)].staged.isEmpty else { return record }
        record += takeControl(connection, spaceBytes: Self.recordBytes - record.count)
        while !files.instance.isDead {
            let space = Self.recordBytes - record.count
            switch machine.nextSegment(
                connection, spaceBytes: space, nowUs: nowUs, out: &output)
            {
            case .tokens(let stream, let atMostBytes):
                guard let moved = takeFrames(stream, atMostBytes: atMostBytes, into: &record)
                else { return record }
                machine.sealedTokens(stream, moved, nowUs: nowUs, out: &output)
                perform(on: [])
            case .assign(let id, let frame, let supplier, let bodyBytes):
                frame.encode(stream: id, inlineBodyBytes: bodyBytes, into: &record)
                if bodyBytes > 0 { record += boundBodies[Int(supplier)][0..<bodyBytes] }
            case .body(let id, let supplier, let offset, let count):
                FrameHeader(kind: .body, stream: id, payloadBytes: count).encode(into: &record)
                record += boundBodies[Int(supplier)][offset..<offset + count]
            case .needsSpace:
                return record
            case nil:
                perform(on: [])
                settle()
                let more = takeControl(
                    connection, spaceBytes: Self.recordBytes - record.count)
                if more.isEmpty { return record }
                record += more
            }
            precondition(record.count <= Self.recordBytes, "a record of more than 16 KiB")
        }
        return record
    }

    private func takeStaged(_ connection: UInt32, spaceBytes: Int) -> [UInt8] {
        var bytes: [UInt8] = []
        var count = 0
        for frame in lines[Int(connection)].staged {
            guard frame.count <= spaceBytes - bytes.count else { break }
            bytes += frame
            count += 1
        }
        lines[Int(connection)].staged.removeFirst(count)
        if count > 0 { machine.sealedStaged(connection, byteCount: bytes.count) }
        return bytes
    }

    private func takeControl(_ connection: UInt32, spaceBytes: Int) -> [UInt8] {
        let index = Int(connection)
        let count = min(lines[index].control.count, spaceBytes)
        guard count > 0 else { return [] }
        let bytes = Array(lines[index].control.prefix(count))
        lines[index].control.removeFirst(count)
        machine.sealedControl(connection, byteCount: count)
        return bytes
    }

    /// Moves whole frames of the stream into the record; nil when not one fits.
    private func takeFrames(
        _ stream: UInt32, atMostBytes: Int, into record: inout [UInt8]
    ) -> SealedTokens? {
        let index = Int(stream)
        var moved = SealedTokens(bytes: 0, payloadBytes: 0, tokens: 0, reasoningTokens: 0)
        var count = 0
        for frame in answers[index] {
            guard moved.bytes + frame.header.frameBytes <= atMostBytes else { break }
            frame.header.encode(into: &record)
            record += frame.payload
            moved.bytes += frame.header.frameBytes
            moved.payloadBytes += frame.payload.count
            moved.tokens += UInt64(frame.header.tokens)
            if frame.header.flags.contains(.reasoning) {
                moved.reasoningTokens += UInt64(frame.header.tokens)
            }
            count += 1
        }
        answers[index].removeFirst(count)
        answerBytesHeld -= moved.bytes
        return count == 0 ? nil : moved
    }
}
