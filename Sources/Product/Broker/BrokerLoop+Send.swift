import ContentArena
import LinuxIO
import SecureTransport
import SluiceBrokerCore
import SluiceWire

// What goes out at the end of a turn.
extension BrokerLoop where Backend: ~Copyable {
    /// Seals what every connection with something to say can take now.
    mutating func send() {
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
            case .assign(let id, let frame, let supplier, let bodyBytes):
                var head: [UInt8] = []
                frame.encode(stream: id, inlineBodyBytes: bodyBytes, into: &head)
                used += write(head, supplier: supplier, offset: 0, count: bodyBytes, at: used)
            case .body(let id, let supplier, let offset, let count):
                var head: [UInt8] = []
                FrameHeader(kind: .body, stream: id, payloadBytes: count).encode(into: &head)
                used += write(head, supplier: supplier, offset: offset, count: count, at: used)
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

    private mutating func write(
        _ head: [UInt8], supplier: UInt32, offset: Int, count: Int, at position: Int
    ) -> Int {
        content.write(head, head.count, at: position)
        content.copyBody(supplier, offset: offset, count: count, at: position + head.count)
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
}
