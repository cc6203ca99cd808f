import Worker

/// Any bytes as the server-sent events of an engine: whole, and cut at places that the first bytes
/// choose. Both give the same events.
package enum EventStreamFuzz {
    /// One input: byte 0 seeds the cuts, the rest is the stream.
    package static func run(_ bytes: [UInt8]) {
        guard bytes.count > 0 else { return }
        let stream = Array(bytes.dropFirst())
        let whole = events(of: [stream])
        precondition(events(of: pieces(stream, seed: bytes[0])) == whole, "a cut changes events")
        for event in whole {
            precondition(!event.isEmpty, "an event without data")
            precondition(!event.contains(0x0D), "a line end within a line")
        }
    }

    /// Cuts of 0 to 15 bytes; the same seed gives the same.
    private static func pieces(_ stream: [UInt8], seed: UInt8) -> [[UInt8]] {
        var state = UInt32(seed) &* 2_654_435_761 | 1
        var pieces: [[UInt8]] = []
        var place = 0
        while place < stream.count {
            state ^= state << 13
            state ^= state >> 17
            state ^= state << 5
            let end = min(place + Int(state & 15), stream.count)
            pieces.append(Array(stream[place..<end]))
            place = end
        }
        return pieces
    }

    private static func events(of pieces: [[UInt8]]) -> [[UInt8]] {
        var parser = EventStreamParser()
        var events: [[UInt8]] = []
        do throws(EventStreamFault) {
            for piece in pieces { events += try parser.push(piece) }
            if let last = try parser.finish() { events.append(last) }
        } catch {
            // Only beyond 1 MiB, which no input reaches.
            preconditionFailure("a short stream is refused")
        }
        return events
    }
}
