// Server-sent events (WHATWG HTML, section 9.2) as far as OpenAI-compatible servers use them.

/// Bytes that are no event stream this worker is willing to hold. Carries no byte of them.
package enum EventStreamFault: Error, Equatable {
    /// A line or the data of one event passes `EventStreamParser.eventBytesMax`.
    case eventTooLong
}

/// Splits an event stream into the data of its events, whatever the chunks it arrives in.
///
/// Pure: chunks in, events out. A line ends with LF, CR LF or CR, also when the two bytes of a
/// CR LF come in different chunks; UTF-8 is never looked into, so that a code point may be split
/// anywhere. Comments and the fields `event`, `id` and `retry` are dropped. Holds at most one
/// line and one event's data, each of `eventBytesMax` bytes.
package struct EventStreamParser {
    /// Longest line, and longest data of one event, in bytes.
    package static let eventBytesMax = 1 << 20

    /// The line that has not ended yet.
    private var line: [UInt8] = []
    /// Data lines of the event that has not ended yet, joined by LF.
    private var data: [UInt8] = []
    /// Whether the open event has a data line; tells an empty one from none.
    private var hasData = false
    /// The last byte was a CR: an LF that follows belongs to it.
    private var endedWithCarriageReturn = false
    /// No line has ended yet: a byte order mark may lead.
    private var isFirstLine = true

    private static let lineFeed: UInt8 = 0x0A
    private static let carriageReturn: UInt8 = 0x0D

    /// A parser at the start of a stream.
    package init() {}

    /// Takes the next bytes; returns the data of each event that they complete, in order. Events
    /// without data are not returned.
    package mutating func push(_ chunk: [UInt8]) throws(EventStreamFault) -> [[UInt8]] {
        var events: [[UInt8]] = []
        var start = 0
        if endedWithCarriageReturn, let first = chunk.first {
            endedWithCarriageReturn = false
            if first == Self.lineFeed { start = 1 }
        }
        var index = start
        while index < chunk.count {
            let byte = chunk[index]
            guard byte == Self.lineFeed || byte == Self.carriageReturn else {
                index += 1
                continue
            }
            try take(chunk[start..<index])
            if let event = try endLine() { events.append(event) }
            index += 1
            if byte == Self.carriageReturn {
                if index == chunk.count {
                    endedWithCarriageReturn = true
                } else if chunk[index] == Self.lineFeed {
                    index += 1
                }
            }
            start = index
        }
        try take(chunk[start...])
        return events
    }

    /// What the end of the stream leaves: the data of an event whose blank line never came. The
    /// standard drops it, but servers do close right after `data: [DONE]`. It may be cut; the
    /// caller must not trust it unless it is whole by its own syntax.
    package mutating func finish() throws(EventStreamFault) -> [UInt8]? {
        if !line.isEmpty { _ = try endLine() }
        return endEvent()
    }

    private mutating func take(_ bytes: ArraySlice<UInt8>) throws(EventStreamFault) {
        guard line.count + bytes.count <= Self.eventBytesMax else { throw .eventTooLong }
        line += bytes
    }

    private mutating func endLine() throws(EventStreamFault) -> [UInt8]? {
        defer { line.removeAll(keepingCapacity: true) }
        if isFirstLine {
            isFirstLine = false
            if line.starts(with: [0xEF, 0xBB, 0xBF]) { line.removeFirst(3) }
        }
        guard !line.isEmpty else { return endEvent() }
        let colon = line.firstIndex(of: 0x3A) ?? line.count
        guard line[..<colon].elementsEqual("data".utf8) else { return nil }
        var value = line[min(colon + 1, line.count)...]
        if value.first == 0x20 { value = value.dropFirst() }
        guard data.count + value.count < Self.eventBytesMax else { throw .eventTooLong }
        if hasData { data.append(Self.lineFeed) }
        data += value
        hasData = true
        return nil
    }

    private mutating func endEvent() -> [UInt8]? {
        guard hasData else { return nil }
        hasData = false
        defer { data = [] }
        return data.isEmpty ? nil : data
    }
}
