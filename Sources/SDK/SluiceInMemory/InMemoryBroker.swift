package import SluiceBrokerCore
package import SluiceRecordFormat
package import SluiceWire

/// A whole broker without socket, clock, thread or file: the real core of shard and dispatcher in
/// a shell that keeps bytes in arrays.
///
/// The caller is the network: it hands over what peers sent with `receive`, runs one loop turn
/// with `turn`, and fetches what goes to each peer with `take`. Time is an argument; the same
/// calls give the same bytes. Owned by one thread.
package struct InMemoryBroker: ~Copyable {
    /// Plaintext of one TLS record.
    private static let recordBytes = WireLimits.frameBytesMax

    /// What the shell keeps of one connection.
    private struct Line {
        /// TCP and TLS are up and the core knows of it.
        var isOpen = false
        /// The start of a frame whose end has not arrived.
        var kept: [UInt8] = []
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

    package private(set) var shard: ShardMachine
    package private(set) var dispatcher: Dispatcher
    /// The files; a harvest for the next instance once this one is dead.
    package var instance: InMemoryInstance
    /// Bytes that a connection's socket takes before it is full; at least one record.
    private let socketBytes: Int

    private var lines: [Line]
    private var idleLines: [UInt32]
    /// By client stream.
    private var bodies: [[UInt8]] = []
    private var answers: [[AnswerFrame]] = []
    private var bodyBytesHeld = 0
    private var answerBytesHeld = 0

    private var output = ShardOutput()
    private var dispatch = DispatcherOutput()
    private var requests: [DispatchRequest] = []
    private var nowUs: UInt64
    private var wallUs: UInt64
    private var lastSecondUs: UInt64

    /// Set, every record that is sealed is also kept in `sealed`, in the order of sealing. An
    /// empty one says that the connection is closed.
    package var keepsSealed = false
    package var sealed: [(connection: UInt32, bytes: [UInt8])] = []

    /// A new instance that knows these credentials. `seed` decides its jitter.
    package init(
        limits: BrokerLimits, instance: consuming InMemoryInstance, credentials: [DirectoryEntry],
        socketBytes: Int = 65_536, seed: UInt64, nowUs: UInt64, wallUs: UInt64
    ) {
        precondition(socketBytes >= Self.recordBytes)
        shard = ShardMachine(limits: limits, index: 0, instance: instance.id, nowUs: nowUs)
        dispatcher = Dispatcher(
            limits: limits, instance: instance.id,
            openTasksMax: JournalReserve.openTasksMax(
                ringRecords: instance.capacity, slots: limits.openTasks),
            seed: seed)
        self.instance = instance
        self.socketBytes = socketBytes
        self.nowUs = nowUs
        self.wallUs = wallUs
        lastSecondUs = nowUs
        lines = [Line](repeating: Line(), count: limits.connections)
        idleLines = (0..<UInt32(limits.connections)).reversed()
        for entry in credentials {
            dispatcher.credentialChanged(entry, wallUs: wallUs, out: &dispatch)
        }
    }

    /// The digest under which this broker looks up a secret. Not a cryptographic hash: secrets
    /// here are made up.
    package static func digest(of secret: [UInt8]) -> Digest256 {
        var mix = SplitMix64(seed: UInt64(secret.count))
        for byte in secret { mix = SplitMix64(seed: mix.next() ^ UInt64(byte)) }
        return Digest256(mix.next(), mix.next(), mix.next(), mix.next())
    }

    // MARK: The network

    /// The instance's process is dead: nothing happens any more.
    package var isDead: Bool { instance.isDead }

    /// A peer's connection is up; nil when there is no room for another.
    package mutating func connect(nowUs: UInt64) -> UInt32? {
        guard !isDead, let connection = idleLines.popLast() else { return nil }
        lines[Int(connection)].isOpen = true
        shard.opened(connection, nowUs: nowUs)
        shard.established(connection, nowUs: nowUs)
        return connection
    }

    /// One chunk of plaintext from the peer, cut anywhere.
    package mutating func receive(_ connection: UInt32, _ bytes: [UInt8], nowUs: UInt64) {
        let index = Int(connection)
        guard !isDead, lines[index].isOpen, lines[index].closingSinceUs == nil else { return }
        self.nowUs = nowUs
        dispatcher.journalHasRoom(records: instance.freeRecords)
        let chunk = lines[index].kept + bytes
        let used = shard.received(connection, chunk.span, nowUs: nowUs, out: &output)
        perform(on: chunk)
        settle()
        // The core may have ordered the connection closed and forgotten.
        lines[index].kept = Array(chunk[used...])
    }

    /// The peer's connection is gone.
    package mutating func disconnected(_ connection: UInt32, nowUs: UInt64) {
        guard !isDead, lines[Int(connection)].isOpen else { return }
        self.nowUs = nowUs
        dispatcher.journalHasRoom(records: instance.freeRecords)
        shard.closed(connection, nowUs: nowUs, out: &output)
        perform(on: [])
        settle()
        lines[Int(connection)] = Line()
        idleLines.append(connection)
        if keepsSealed { sealed.append((connection, [])) }
    }

    /// Bytes for the peer, at most `byteCount` of them.
    package mutating func take(_ connection: UInt32, atMost byteCount: Int) -> [UInt8] {
        let index = Int(connection)
        guard !isDead, lines[index].isOpen, !lines[index].outbox.isEmpty else { return [] }
        let count = min(byteCount, lines[index].outbox.count)
        let bytes = Array(lines[index].outbox.prefix(count))
        lines[index].outbox.removeFirst(count)
        guard lines[index].closingSinceUs == nil else { return bytes }
        shard.sendProgressed(connection, nowUs: nowUs, out: &output)
        return bytes
    }

    /// Bytes that wait to be taken.
    package func waitingBytes(_ connection: UInt32) -> Int {
        lines[Int(connection)].outbox.count
    }

    /// False once the connection is closed; its number may then name another.
    package func isOpen(_ connection: UInt32) -> Bool {
        !isDead && lines[Int(connection)].isOpen
    }

    /// The core ordered the connection closed; what waits may still be taken.
    package func isClosing(_ connection: UInt32) -> Bool {
        lines[Int(connection)].closingSinceUs != nil
    }

    // MARK: Operators

    /// A credential was added, changed or revoked.
    package mutating func credentialChanged(_ entry: DirectoryEntry, wallUs: UInt64) {
        guard !isDead else { return }
        dispatcher.credentialChanged(entry, wallUs: wallUs, out: &dispatch)
    }

    /// GO-AWAY to everyone; no new tasks.
    package mutating func drain(nowUs: UInt64) {
        guard !isDead else { return }
        shard.drain(nowUs: nowUs, out: &output)
    }

    /// Writes ENDED for every open task of a dead instance.
    package mutating func close(_ dead: inout InMemoryInstance, all: [InMemoryInstance]) {
        instance.close(&dead, all: all, wallUs: wallUs)
    }

    // MARK: A turn

    /// One turn of the loop: time passes, and what every connection has to say is sealed.
    package mutating func turn(nowUs: UInt64, wallUs: UInt64) {
        guard !isDead else { return }
        self.nowUs = nowUs
        self.wallUs = wallUs
        dispatcher.journalHasRoom(records: instance.freeRecords)
        finishClosing()
        shard.advance(nowUs: nowUs, out: &output)
        perform(on: [])
        if nowUs - lastSecondUs >= 1_000_000 {
            lastSecondUs = nowUs
            dispatcher.advance(nowUs: nowUs, wallUs: wallUs, out: &dispatch)
        }
        settle()
        send()
    }

    /// Connections that the core ordered closed end once the network has taken what was left for
    /// them, or after 2 s.
    private mutating func finishClosing() {
        for index in lines.indices {
            guard let since = lines[index].closingSinceUs else { continue }
            let isSent = lines[index].outbox.isEmpty && lines[index].control.isEmpty
            guard !lines[index].closesAfterSending || isSent || nowUs - since >= 2_000_000
            else { continue }
            disconnected(UInt32(index), nowUs: nowUs)
        }
    }

    // MARK: The core's orders

    /// Performs the shard's orders in order. Ranges are places in `chunk`.
    private mutating func perform(on chunk: [UInt8]) {
        for position in 0..<output.actions.count where !isDead {
            switch output.actions[position] {
            case .enqueueTokens(let stream, let headerWord, let streamID, let start, let count):
                enqueue(
                    stream, headerWord: headerWord, streamID: streamID,
                    payload: Array(chunk[Int(start)..<Int(start + count)]))
            case .delivered(let slot, let sealed):
                instance.delivered(slot, sealed)
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
                instance.firstOutput(slot, ttftUs: ttftUs)
            case .started(let slot, let frame):
                instance.started(slot, frame)
            case .welcome(let connection):
                shard.welcome(connection).encode(into: &lines[Int(connection)].control)
            case .authenticate(let connection, let start, let count, let kind):
                let secret = Array(chunk[Int(start)..<Int(start + count)])
                shard.credential(
                    connection, kind: kind, digest: Self.digest(of: secret), out: &output)
            case .close(let connection, let afterSending):
                close(connection, afterSending: afterSending)
            }
        }
        output.actions.removeAll(keepingCapacity: true)
    }

    private mutating func close(_ connection: UInt32, afterSending: Bool) {
        let index = Int(connection)
        guard lines[index].isOpen, lines[index].closingSinceUs == nil else { return }
        lines[index].closingSinceUs = nowUs
        lines[index].closesAfterSending = afterSending
        if !afterSending {
            lines[index].control = []
            lines[index].outbox = []
        }
    }

    /// Lets shard and dispatcher talk until neither has anything to say. What the dispatcher
    /// wrote is published before the shard hears its answers.
    private mutating func settle() {
        while !isDead, !output.requests.isEmpty || !dispatch.messages.isEmpty {
            swap(&requests, &output.requests)
            for request in requests {
                dispatcher.received(request, nowUs: nowUs, wallUs: wallUs, out: &dispatch)
            }
            requests.removeAll(keepingCapacity: true)
            if !dispatch.journal.isEmpty {
                instance.write(dispatch.journal)
                dispatch.journal.removeAll(keepingCapacity: true)
                guard !isDead else { return }
                dispatcher.published()
            }
            for position in 0..<dispatch.messages.count {
                shard.received(dispatch.messages[position], nowUs: nowUs, out: &output)
            }
            dispatch.messages.removeAll(keepingCapacity: true)
            perform(on: [])
        }
    }

    // MARK: Content

    private mutating func storeBody(_ stream: UInt32, _ bytes: ArraySlice<UInt8>) {
        let index = Int(stream)
        while bodies.count <= index { bodies.append([]) }
        bodyBytesHeld -= BrokerLimits.chunked(bodies[index].count)
        bodies[index] += bytes
        bodyBytesHeld += BrokerLimits.chunked(bodies[index].count)
    }

    private mutating func enqueue(
        _ stream: UInt32, headerWord: UInt64, streamID: UInt32, payload: [UInt8]
    ) {
        let index = Int(stream)
        while answers.count <= index { answers.append([]) }
        let header = FrameHeader(
            kind: .tokens, stream: StreamID(streamID), payloadBytes: payload.count,
            flags: FrameFlags(rawValue: UInt8(truncatingIfNeeded: headerWord >> 40)),
            tokens: UInt16(truncatingIfNeeded: headerWord >> 48))
        precondition(header.firstWord == headerWord, "a header that is no TOKENS header")
        answers[index].append(AnswerFrame(header: header, payload: payload))
        answerBytesHeld += header.frameBytes
    }

    private mutating func dropAnswer(_ stream: UInt32) {
        answerBytesHeld -= answers[Int(stream)].reduce(0) { $0 + $1.header.frameBytes }
        answers[Int(stream)] = []
    }

    // MARK: Sending

    /// Seals what every connection with something to say can take now.
    private mutating func send() {
        var position = 0
        while !isDead, position < output.dirty.count {
            let connection = output.dirty[position]
            position += 1
            shard.clearDirty(connection)
            if lines[Int(connection)].isOpen { send(on: connection) }
        }
        output.dirty.removeAll(keepingCapacity: true)
        for index in lines.indices where lines[index].closingSinceUs != nil {
            // ERROR is control; nothing else of a closing connection is sealed.
            seal(UInt32(index), takeControl(UInt32(index), spaceBytes: .max))
        }
    }

    private mutating func send(on connection: UInt32) {
        let index = Int(connection)
        while !isDead, lines[index].closingSinceUs == nil {
            guard socketBytes - lines[index].outbox.count >= Self.recordBytes else {
                return shard.sendBlocked(connection, nowUs: nowUs)
            }
            let record = fillRecord(connection)
            guard !record.isEmpty else { return }
            seal(connection, record)
        }
    }

    private mutating func seal(_ connection: UInt32, _ record: [UInt8]) {
        guard !isDead, !record.isEmpty else { return }
        lines[Int(connection)].outbox += record
        if keepsSealed { sealed.append((connection, record)) }
    }

    /// One record of control frames, then data. An end that becomes known while its last data is
    /// taken joins the same record.
    private mutating func fillRecord(_ connection: UInt32) -> [UInt8] {
        var record = takeControl(connection, spaceBytes: Self.recordBytes)
        while !isDead {
            let space = Self.recordBytes - record.count
            switch shard.nextSegment(
                connection, spaceBytes: space, nowUs: nowUs, out: &output)
            {
            case .tokens(let stream, let atMostBytes):
                guard let moved = takeFrames(stream, atMostBytes: atMostBytes, into: &record)
                else { return record }
                shard.sealedTokens(stream, moved, nowUs: nowUs, out: &output)
                perform(on: [])
            case .assign(let id, let frame, let client, let bodyBytes):
                frame.encode(stream: id, inlineBodyBytes: bodyBytes, into: &record)
                if bodyBytes > 0 { record += bodies[Int(client)][0..<bodyBytes] }
            case .body(let id, let client, let offset, let count):
                FrameHeader(kind: .body, stream: id, payloadBytes: count).encode(into: &record)
                record += bodies[Int(client)][offset..<offset + count]
            case .needsSpace:
                return record
            case nil:
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

    private mutating func takeControl(_ connection: UInt32, spaceBytes: Int) -> [UInt8] {
        let index = Int(connection)
        let count = min(lines[index].control.count, spaceBytes)
        guard count > 0 else { return [] }
        let bytes = Array(lines[index].control.prefix(count))
        lines[index].control.removeFirst(count)
        shard.sealedControl(connection, byteCount: count)
        return bytes
    }

    /// Moves whole frames of the stream into the record; nil when not one fits.
    private mutating func takeFrames(
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

    // MARK: What a checker asks

    /// Bytes of content in memory: bodies in whole chunks, and queued answer frames.
    package var heldBytes: (bodies: Int, answers: Int) { (bodyBytesHeld, answerBytesHeld) }

    /// Control bytes that wait on the connection, and the start of a cut frame.
    package func heldBytes(_ connection: UInt32) -> (control: Int, kept: Int) {
        (lines[Int(connection)].control.count, lines[Int(connection)].kept.count)
    }
}
