import SluiceWire

/// One operation of the NATS protocol as a client receives it, cut out of what has arrived.
package enum NATSOperation: Equatable {
    /// A message: places of its subject, its reply subject (empty if none) and its payload.
    case message(subject: Range<Int>, reply: Range<Int>, payload: Range<Int>)
    case ping
    case pong
    /// INFO or +OK: nothing to do.
    case information
    case error

    /// Reads the operation at `offset` of `bytes` and moves past it; nil, and nothing moved, when
    /// it is not whole.
    package static func next(_ bytes: Span<UInt8>, _ offset: inout Int) -> NATSOperation? {
        var end = offset
        while end < bytes.count, bytes[end] != 0x0A { end += 1 }
        guard end < bytes.count else { return nil }
        let start = offset
        // The line ends with CR LF.
        let line = start..<max(start, end - 1)
        guard line.count >= 3 else {
            offset = end + 1
            return .error
        }
        switch bytes[start] {
        case 0x4D:
            return message(bytes, line, next: end + 1, &offset)
        case 0x50 where bytes[start + 1] == 0x49:
            offset = end + 1
            return .ping
        case 0x50:
            offset = end + 1
            return .pong
        case 0x49, 0x2B:
            offset = end + 1
            return .information
        default:
            offset = end + 1
            return .error
        }
    }

    /// `MSG subject sid [reply] bytes`, then the payload and CR LF.
    private static func message(
        _ bytes: Span<UInt8>, _ line: Range<Int>, next: Int, _ offset: inout Int
    ) -> NATSOperation? {
        let subject = word(bytes, line.lowerBound + 4, line.upperBound)
        let number = word(bytes, subject.upperBound + 1, line.upperBound)
        var reply = word(bytes, number.upperBound + 1, line.upperBound)
        var count = reply
        if reply.upperBound < line.upperBound {
            count = word(bytes, reply.upperBound + 1, line.upperBound)
        } else {
            reply = reply.lowerBound..<reply.lowerBound
        }
        guard !count.isEmpty, let byteCount = decimal(bytes, count) else {
            offset = next
            return .error
        }
        guard bytes.count >= next + byteCount + 2 else { return nil }
        offset = next + byteCount + 2
        return .message(subject: subject, reply: reply, payload: next..<next + byteCount)
    }

    private static func word(_ bytes: Span<UInt8>, _ start: Int, _ end: Int) -> Range<Int> {
        var place = start
        while place < end, bytes[place] != 0x20 { place += 1 }
        return start < end ? start..<place : end..<end
    }

    /// A number of up to nine digits.
    package static func decimal(_ bytes: Span<UInt8>, _ place: Range<Int>) -> Int? {
        guard !place.isEmpty, place.count <= 9 else { return nil }
        var value = 0
        for index in place {
            guard bytes[index] >= 0x30, bytes[index] <= 0x39 else { return nil }
            value = value * 10 + Int(bytes[index] - 0x30)
        }
        return value
    }
}
