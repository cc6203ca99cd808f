import ContentArena
import LinuxIO
import SecureTransport
import SharedMemory
import SluiceBrokerCore
import SluiceRecordFormat
import SluiceWire
import TLSEngine

/// The shell of one broker process: one thread, one shard, the dispatcher beside it.
///
/// A turn reads top to bottom: what arrived goes to the core, the core's orders are performed,
/// its requests go to the dispatcher, what is written is published before any answer leaves, and
/// everything that wants to go out is sealed into as few records as possible. The shell decides
/// nothing about the protocol.
struct BrokerLoop<Backend: NetworkBackend & ~Copyable>: ~Copyable {
    private var transport: SecureServer<Backend>
    private var shard: ShardMachine
    private var dispatcher: Dispatcher
    private var journal: InstanceJournal
    private var content: ContentStore
    private var directory: DirectoryReader
    private let log: BrokerLog

    /// By connection index.
    private var channels: [ChannelID?]
    private var control: [[UInt8]]

    private var output = ShardOutput()
    private var dispatch = DispatcherOutput()
    /// Requests that are being handed over, while the core may make new ones.
    private var requests: [DispatchRequest] = []
    private var closing: [(channel: ChannelID, afterSending: Bool)] = []
    private var nowUs: UInt64 = 0
    private var wallUs: UInt64 = 0
    private var lastPollUs: UInt64 = 0
    private var lastSecondUs: UInt64 = 0
    private var drain = Drain.none

    private enum Drain {
        case none
        /// GO-AWAY is out; tasks run on.
        case running
        /// No task is left; connections are closing since then.
        case closing(sinceUs: UInt64)
        case done
    }

    init(
        transport: consuming SecureServer<Backend>, journal: consuming InstanceJournal,
        content: consuming ContentStore, directory: consuming DirectoryReader,
        limits: BrokerLimits, openTasksMax: Int, log: BrokerLog
    ) {
        let startUs = MonotonicClock.nowUs
        shard = ShardMachine(limits: limits, index: 0, instance: journal.id, nowUs: startUs)
        dispatcher = Dispatcher(
            limits: limits, instance: journal.id, openTasksMax: openTasksMax,
            seed: journal.id)
        self.transport = transport
        self.journal = journal
        self.content = content
        self.directory = directory
        self.log = log
        channels = [ChannelID?](repeating: nil, count: limits.connections)
        control = [[UInt8]](repeating: [], count: limits.connections)
    }

    /// Serves until a signal has drained it. Ends the instance in order.
    consuming func run() {
        while !isDone { turn() }
        log.event("stopped", ("accepted", dispatcher.counters.accepted))
        journal.close()
    }

    private var isDone: Bool {
        if case .done = drain { true } else { false }
    }

    // MARK: A turn

    private mutating func turn() {
        let count = transport.wait(timeoutMs: shard.openTasks > 0 ? 20 : 100)
        nowUs = MonotonicClock.nowUs
        wallUs = WallClock.nowUs
        dispatcher.journalHasRoom(records: journal.freeRecords)
        for position in 0..<count { handle(transport.event(at: position)) }
        shard.advance(nowUs: nowUs, out: &output)
        perform()
        if nowUs - lastPollUs >= 100_000 { poll() }
        settle()
        send()
        if case .none = drain { return }
        advanceDrain()
    }

    private mutating func handle(_ event: TransportEvent) {
        switch event {
        case .opened(let channel):
            channels[Int(channel.index)] = channel
            shard.opened(channel.index, nowUs: nowUs)
        case .established(let channel):
            shard.established(channel.index, nowUs: nowUs)
        case .received(let channel):
            receive(channel)
        case .sent(let channel):
            shard.sendProgressed(channel.index, nowUs: nowUs, out: &output)
        case .closed(let channel, let reason):
            closed(channel, reason)
        case .accepted:
            preconditionFailure("connections are not handed over with one shard")
        case .acceptingPaused:
            log.event("accepting_paused")
        case .signal:
            beginDrain()
        case .doorbell:
            break
        }
    }

    /// Hands what has arrived to the core: one call for each run of plaintext.
    private mutating func receive(_ channel: ChannelID) {
        let connection = Int(channel.index)
        while channels[connection] == channel {
            let kept = content.restore(connection)
            let read = transport.read(channel, into: &content.incoming, at: kept)
            let total = kept + read.plaintextBytes
            if read.plaintextBytes > 0 {
                let used = Self.hand(
                    &shard, channel.index, content.incoming, total, nowUs: nowUs, &output)
                perform()
                keep(used..<total, of: channel)
                settle()
            } else {
                keep(0..<kept, of: channel)
            }
            content.incoming.wipe(0..<total)
            guard read.mayHaveMore else { return }
        }
    }

    /// Lends the first `count` bytes of `incoming` to the core for one call.
    private static func hand(
        _ shard: inout ShardMachine, _ connection: UInt32, _ incoming: borrowing ContentRegion,
        _ count: Int, nowUs: UInt64, _ output: inout ShardOutput
    ) -> Int {
        shard.received(
            connection, incoming.span.extracting(0..<count), nowUs: nowUs, out: &output)
    }

    private mutating func keep(_ place: Range<Int>, of channel: ChannelID) {
        guard content.keep(place, for: Int(channel.index)) else {
            log.event("reassembly_full")
            return closing.append((channel, false))
        }
    }

    private mutating func closed(_ channel: ChannelID, _ reason: CloseReason) {
        let connection = Int(channel.index)
        shard.closed(channel.index, nowUs: nowUs, out: &output)
        perform()
        settle()
        content.forget(connection)
        control[connection] = []
        channels[connection] = nil
    }

    // MARK: The core's orders

    /// Performs the shard's orders in order. Ranges are places in `content.incoming`.
    private mutating func perform() {
        for position in 0..<output.actions.count {
            switch output.actions[position] {
            case .enqueueTokens(let stream, let headerWord, let streamID, let start, let count):
                content.enqueue(
                    stream, headerWord: headerWord, streamID: streamID,
                    payload: Int(start)..<Int(start + count))
            case .delivered(let slot, let sealed):
                journal.delivered(slot, sealed)
            case .send(let connection, let frame):
                frame.encode(into: &control[Int(connection)])
            case .storeBody(let stream, let start, let count):
                content.storeBody(stream, Int(start)..<Int(start + count))
            case .dropBody(let stream):
                content.dropBody(stream)
            case .dropTokens(let stream):
                content.dropAnswer(stream)
            case .firstOutput(let slot, let ttftUs):
                journal.firstOutput(slot, ttftUs: ttftUs)
            case .started(let slot, let frame):
                journal.started(slot, frame)
            case .welcome(let connection):
                shard.welcome(connection).encode(into: &control[Int(connection)])
            case .authenticate(let connection, let start, let count, let kind):
                authenticate(connection, Int(start)..<Int(start + count), kind)
            case .close(let connection, let afterSending):
                guard let channel = channels[Int(connection)] else { continue }
                closing.append((channel, afterSending))
            }
        }
        output.actions.removeAll(keepingCapacity: true)
    }

    private mutating func authenticate(
        _ connection: UInt32, _ place: Range<Int>, _ kind: CredentialKind
    ) {
        let hash = sha256(content.incoming.span.extracting(place))
        content.incoming.wipe(place)
        shard.credential(
            connection, kind: kind, digest: Digest256(hash.0, hash.1, hash.2, hash.3),
            out: &output)
    }

    /// Lets shard and dispatcher talk until neither has anything to say. What the dispatcher
    /// wrote is published before the shard hears its answers.
    private mutating func settle() {
        while !output.requests.isEmpty || !dispatch.messages.isEmpty {
            swap(&requests, &output.requests)
            for request in requests {
                dispatcher.received(request, nowUs: nowUs, wallUs: wallUs, out: &dispatch)
            }
            requests.removeAll(keepingCapacity: true)
            publish()
            for position in 0..<dispatch.messages.count {
                shard.received(dispatch.messages[position], nowUs: nowUs, out: &output)
            }
            dispatch.messages.removeAll(keepingCapacity: true)
            perform()
        }
    }

    private mutating func publish() {
        guard !dispatch.journal.isEmpty else { return }
        journal.write(dispatch.journal)
        dispatch.journal.removeAll(keepingCapacity: true)
        dispatcher.published()
    }

    // MARK: Sending

    /// Seals what every connection with something to say can take now.
    private mutating func send() {
        var position = 0
        while position < output.dirty.count {
            let connection = output.dirty[position]
            position += 1
            shard.clearDirty(connection)
            if let channel = channels[Int(connection)] { send(on: channel) }
        }
        output.dirty.removeAll(keepingCapacity: true)
        close()
    }

    private mutating func send(on channel: ChannelID) {
        while true {
            guard transport.sealBudgetBytes(channel) >= ContentStore.outgoingBytes else {
                shard.sendBlocked(channel.index, nowUs: nowUs)
                break
            }
            let used = fillRecord(channel)
            guard used > 0 else { break }
            let isSealed = Self.seal(&transport, channel, content.outgoing, used)
            content.outgoing.wipe(0..<used)
            guard isSealed else { break }
        }
        transport.flush(channel)
    }

    private static func seal(
        _ transport: inout SecureServer<Backend>, _ channel: ChannelID,
        _ outgoing: borrowing ContentRegion, _ count: Int
    ) -> Bool {
        transport.seal(channel, outgoing.span.extracting(0..<count))
    }

    /// Fills one record with control frames, then data. An end that becomes known while its last
    /// data is taken joins the same record.
    private mutating func fillRecord(_ channel: ChannelID) -> Int {
        let connection = channel.index
        var used = takeControl(connection, at: 0)
        while true {
            let space = ContentStore.outgoingBytes - used
            let next = shard.nextSegment(
                connection, spaceBytes: space, nowUs: nowUs, out: &output)
            switch next {
            case .tokens(let stream, let atMostBytes):
                guard let taken = content.take(stream, atMostBytes: atMostBytes, at: used) else {
                    return used
                }
                used += taken.bytes
                shard.sealedTokens(stream, taken, nowUs: nowUs, out: &output)
                perform()
            case .assign(let id, let frame, let client, let bodyBytes):
                var head: [UInt8] = []
                frame.encode(stream: id, inlineBodyBytes: bodyBytes, into: &head)
                used += write(head, client: client, offset: 0, count: bodyBytes, at: used)
            case .body(let id, let client, let offset, let count):
                var head: [UInt8] = []
                FrameHeader(kind: .body, stream: id, payloadBytes: count).encode(into: &head)
                used += write(head, client: client, offset: offset, count: count, at: used)
            case .needsSpace:
                return used
            case nil:
                settle()
                let more = takeControl(connection, at: used)
                if more == 0 { return used }
                used += more
            }
        }
    }

    private mutating func write(
        _ head: [UInt8], client: UInt32, offset: Int, count: Int, at position: Int
    ) -> Int {
        content.write(head, head.count, at: position)
        content.copyBody(client, offset: offset, count: count, at: position + head.count)
        return head.count + count
    }

    /// Moves control bytes into the record, as many as fit.
    private mutating func takeControl(_ connection: UInt32, at position: Int) -> Int {
        let index = Int(connection)
        let count = min(control[index].count, ContentStore.outgoingBytes - position)
        guard count > 0 else { return 0 }
        content.write(control[index], count, at: position)
        if count == control[index].count {
            control[index].removeAll(keepingCapacity: count <= 4_096)
        } else {
            control[index].removeFirst(count)
        }
        shard.sealedControl(connection, byteCount: count)
        return count
    }

    /// Closes what the core ordered closed; those that say why first seal their ERROR.
    private mutating func close() {
        for (channel, afterSending) in closing where channels[Int(channel.index)] == channel {
            if afterSending, transport.sealBudgetBytes(channel) >= ContentStore.outgoingBytes {
                let used = takeControl(channel.index, at: 0)
                _ = Self.seal(&transport, channel, content.outgoing, used)
            }
            transport.close(channel, afterSending: afterSending)
        }
        closing.removeAll(keepingCapacity: true)
    }

    // MARK: Now and then

    /// What has time: credentials that changed, numbers for operators, slow clocks.
    private mutating func poll() {
        lastPollUs = nowUs
        do {
            for entry in try directory.poll() {
                dispatcher.credentialChanged(entry, wallUs: wallUs, out: &dispatch)
            }
        } catch {
            log.event("directory_unreadable")
        }
        if nowUs - lastSecondUs >= 1_000_000 {
            lastSecondUs = nowUs
            dispatcher.advance(nowUs: nowUs, wallUs: wallUs, out: &dispatch)
            closeDeadInstances()
        }
        journal.report(shard: shard, dispatcher: dispatcher, wallUs: wallUs)
    }

    /// What the start could not finish for want of room in the ring.
    private mutating func closeDeadInstances() {
        guard !journal.isRecovered else { return }
        do {
            try journal.closeDeadInstances(wallUs: wallUs, waitMs: 0, log)
        } catch {
            log.event("recovery_failed")
        }
    }

    private mutating func beginDrain() {
        guard case .none = drain else { return }
        drain = .running
        log.event("draining", ("tasks", UInt64(shard.openTasks)))
        transport.stopAccepting()
        shard.drain(nowUs: nowUs, out: &output)
    }

    private mutating func advanceDrain() {
        switch drain {
        case .none, .done:
            return
        case .running:
            guard shard.openTasks == 0 else { return }
            drain = .closing(sinceUs: nowUs)
            // What is still queued (the last ENDs) goes out before each connection closes.
            for index in channels.indices {
                guard let channel = channels[index] else { continue }
                transport.close(channel, afterSending: true)
            }
        case .closing(let sinceUs):
            guard transport.channelCount == 0 || nowUs - sinceUs > 2_000_000 else { return }
            drain = .done
        }
    }
}
