import BasicContainers
import ContentArena
import LinuxIO
import SecureTransport
import SluiceBrokerCore
import SluiceWire

// What goes out at the end of a turn.
extension BrokerLoop where Backend: ~Copyable {
    /// Seals what every connection with something to say can take now.
    mutating func send() {
        shard.commitStaged(nowUs: nowUs, out: &output)
        perform()
        sendDirty()
        close()
        shard.creditStaged(nowUs: nowUs, out: &output)
        perform()
        sendDirty()
        close()
    }

    private mutating func sendDirty() {
        guard !output.dirty.isEmpty else { return }
        var position = 0
        while position < output.dirty.count {
            let connection = output.dirty[position]
            position += 1
            shard.clearDirty(connection)
            if let channel = channels[Int(connection)] { send(on: channel) }
        }
        output.dirty.removeAll(keepingCapacity: true)
    }

    private mutating func send(on channel: ChannelID) {
        while true {
            guard transport.sealBudgetBytes(channel) >= ContentStore.outgoingBytes else {
                shard.sendBlocked(channel.index, nowUs: nowUs)
                transport.awaitSend(channel)
                break
            }
            let used = fillRecord(channel)
            guard used > 0 else { break }
            let isSealed = Self.seal(&transport, channel, content.outgoing, used)
            content.outgoing.wipe(0..<used)
            guard isSealed else { break }
        }
        shard.sealRoom(channel.index, byteCount: transport.sealBudgetBytes(channel))
        transport.flush(channel)
    }

    private static func seal(
        _ transport: inout SecureServer<Backend>, _ channel: ChannelID,
        _ outgoing: borrowing ContentRegion, _ count: Int
    ) -> Bool {
        transport.seal(channel, outgoing.span.extracting(0..<count))
    }

    /// Fills one record: with what was staged, then control frames, then data. An end that becomes
    /// known while its last data is taken joins the same record.
    private mutating func fillRecord(_ channel: ChannelID) -> Int {
        let connection = channel.index
        var used = takeStaged(connection)
        guard !content.hasStaged(Int(connection)) else { return used }
        used += takeControl(connection, at: used)
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
            case .assign(let id, let frame, let supplier, let bodyBytes):
                frame.encode(stream: id, inlineBodyBytes: bodyBytes, into: &head)
                used += writeHead(supplier: supplier, offset: 0, count: bodyBytes, at: used)
            case .body(let id, let supplier, let offset, let count):
                FrameHeader(kind: .body, stream: id, payloadBytes: count).encode(into: &head)
                used += writeHead(supplier: supplier, offset: offset, count: count, at: used)
            case .needsSpace:
                return used
            case nil:
                perform()
                settle()
                let more = takeControl(connection, at: used)
                if more == 0 { return used }
                used += more
            }
        }
    }

    /// Moves `head` into the record, and part of a body behind it.
    private mutating func writeHead(
        supplier: UInt32, offset: Int, count: Int, at position: Int
    ) -> Int {
        let headBytes = head.count
        content.write(head, headBytes, at: position)
        head.removeAll(keepingCapacity: true)
        content.copyBody(supplier, offset: offset, count: count, at: position + headBytes)
        return headBytes + count
    }

    /// Moves staged frames to the front of the record, as many as fit.
    private mutating func takeStaged(_ connection: UInt32) -> Int {
        let count = content.takeStaged(Int(connection))
        if count > 0 { shard.sealedStaged(connection, byteCount: count) }
        return count
    }

    /// Moves control bytes into the record, as many as fit.
    private mutating func takeControl(_ connection: UInt32, at position: Int) -> Int {
        let index = Int(connection)
        let count = min(control[index].count, ContentStore.outgoingBytes - position)
        guard count > 0 else { return 0 }
        content.write(control[index], count, at: position)
        if count == control[index].count {
            control[index].removeAll(
                keepingCapacity: count <= 4_096 && shard.hasHadStreams(connection))
        } else {
            control[index].removeFirst(count)
        }
        shard.sealedControl(connection, byteCount: count)
        return count
    }

    /// Closes what the core ordered closed. What was staged is delivered; those that say why seal
    /// their ERROR behind it.
    private mutating func close() {
        guard !closing.isEmpty else { return }
        for (channel, afterSending) in closing where channels[Int(channel.index)] == channel {
            while transport.sealBudgetBytes(channel) >= ContentStore.outgoingBytes {
                var used = takeStaged(channel.index)
                if afterSending, !content.hasStaged(Int(channel.index)) {
                    used += takeControl(channel.index, at: used)
                }
                guard used > 0 else { break }
                let isSealed = Self.seal(&transport, channel, content.outgoing, used)
                content.outgoing.wipe(0..<used)
                guard isSealed else { break }
            }
            transport.close(channel, afterSending: afterSending)
        }
        closing.removeAll(keepingCapacity: true)
    }
}
