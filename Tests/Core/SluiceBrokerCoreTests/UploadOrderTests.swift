import SluiceBrokerCore
import SluiceSession
import SluiceWire
import Testing

/// A shard with one supplier and a client whose bodies are 1 MB: two of them fill what may be under
/// way.
@Suite("The order of bodies [U4]")
struct UploadOrderTests {
    private static let bodyBytes = 1_024 * 1_024

    /// Streams that got credit for their whole body.
    private func granted(_ rig: inout Rig, _ client: UInt32) -> [UInt32] {
        rig.hear(client).filter { $0.credit == UInt64(Self.bodyBytes) }
            .map { $0.header.stream.rawValue }
    }

    private func upload(_ rig: inout Rig, _ client: UInt32, _ stream: UInt32, byteCount: Int) {
        var left = byteCount
        while left > 0 {
            rig.body(client, stream: stream, byteCount: min(left, 16_000))
            left -= min(left, 16_000)
        }
    }

    @Test("credit goes out in the order of admission, for bodies of 2 MB at a time")
    func inOrder() {
        var rig = Rig()
        _ = rig.supplier(slots: 8)
        let client = rig.client()
        for stream in 1...5 as ClosedRange<UInt32> {
            rig.submit(client, stream: stream, body: [], declared: Self.bodyBytes)
        }
        #expect(granted(&rig, client) == [1, 2])
        upload(&rig, client, 2, byteCount: 16_000)
        #expect(granted(&rig, client) == [3], "what has arrived makes room at once")
        upload(&rig, client, 1, byteCount: Self.bodyBytes)
        #expect(granted(&rig, client) == [4])
    }

    @Test("who sends slowly holds the others up for 4 ms at most")
    func slowClient() {
        var rig = Rig()
        _ = rig.supplier(slots: 8)
        let client = rig.client()
        for stream in 1...7 as ClosedRange<UInt32> {
            rig.submit(client, stream: stream, body: [], declared: Self.bodyBytes)
        }
        #expect(granted(&rig, client) == [1, 2])
        rig.nowMs += 3
        rig.turn()
        #expect(granted(&rig, client) == [])
        rig.nowMs += 1
        rig.turn()
        #expect(granted(&rig, client) == [3, 4])
        // What comes late of the first was forgotten already, and counts for nobody else.
        upload(&rig, client, 1, byteCount: Self.bodyBytes)
        #expect(granted(&rig, client) == [])
        upload(&rig, client, 3, byteCount: Self.bodyBytes)
        #expect(granted(&rig, client) == [5])
    }

    @Test("a body that is given up makes room, in line or granted")
    func cancelled() {
        var rig = Rig()
        _ = rig.supplier(slots: 8)
        let client = rig.client()
        for stream in 1...5 as ClosedRange<UInt32> {
            rig.submit(client, stream: stream, body: [], declared: Self.bodyBytes)
        }
        #expect(granted(&rig, client) == [1, 2])
        rig.cancel(client, stream: 3)
        rig.cancel(client, stream: 1)
        rig.turn()
        #expect(granted(&rig, client) == [4])
        rig.submit(client, stream: 1, body: [], declared: Self.bodyBytes)
        rig.hangUp(client)
        #expect(rig.reservedBytes == 0)
        let other = rig.client()
        rig.submit(other, body: [], declared: Self.bodyBytes)
        rig.submit(other, stream: 2, body: [], declared: Self.bodyBytes)
        #expect(granted(&rig, other) == [1, 2], "nothing of those that left counts")
    }

    @Test("a body that fits what is free needs no turn")
    func freeBodies() {
        var rig = Rig()
        _ = rig.supplier(slots: 8)
        let client = rig.client()
        for stream in 1...3 as ClosedRange<UInt32> {
            rig.submit(client, stream: stream, body: [], declared: Self.bodyBytes)
        }
        _ = rig.hear(client)
        rig.submit(client, stream: 4, body: [1, 2, 3])
        #expect(rig.hear(client).contains { $0.kind == .queued })
    }

    @Test("[U6] bytes beyond the free part that come before their credit")
    func beforeItsTurn() {
        var rig = Rig()
        _ = rig.supplier(slots: 8)
        let client = rig.client()
        for stream in 1...3 as ClosedRange<UInt32> {
            rig.submit(client, stream: stream, body: [], declared: Self.bodyBytes)
        }
        upload(&rig, client, 3, byteCount: 16_000)
        _ = rig.hear(client)
        rig.body(client, stream: 3, byteCount: 1_024)
        #expect(rig.error(client) == .creditExceeded)
    }

    @Test("towards a supplier ASSIGNs go first, then bodies one after the other")
    func towardsSupplier() {
        var rig = Rig()
        let supplier = rig.supplier(slots: 8)
        let client = rig.client()
        for stream in 1...2 as ClosedRange<UInt32> {
            rig.submit(client, stream: stream, body: [], declared: 200_000)
            upload(&rig, client, stream, byteCount: 200_000)
        }
        rig.submit(client, stream: 3, body: [1, 2, 3])
        let frames = rig.hear(supplier).map { ($0.kind, $0.header.stream.rawValue) }
        let assigned = frames.filter { $0.0 == .assign }.map(\.1)
        let bodies = frames.filter { $0.0 == .body }.map(\.1)
        #expect(assigned.count == 3)
        let first = bodies.prefix { $0 == assigned[0] }
        #expect(bodies.dropFirst(first.count).allSatisfy { $0 == assigned[1] })
        let short = frames.firstIndex { $0.0 == .assign && $0.1 == assigned[2] }
        let long = frames.lastIndex { $0.0 == .body }
        #expect(short ?? .max < long ?? 0, "a short task passed bodies that waited")
    }

    @Test("accounts take turns, however many bodies one of them has")
    func accountsTakeTurns() {
        var rig = Rig()
        _ = rig.supplier(slots: 8)
        let client = rig.client()
        let other = rig.client(key: Rig.otherKey)
        for stream in 1...9 as ClosedRange<UInt32> {
            rig.submit(client, stream: stream, body: [], declared: Self.bodyBytes)
        }
        #expect(granted(&rig, client) == [1, 2])
        for stream in 1...2 as ClosedRange<UInt32> {
            rig.submit(other, stream: stream, body: [], declared: Self.bodyBytes)
        }
        rig.nowMs += 4
        rig.turn()
        #expect(granted(&rig, client) == [3])
        #expect(granted(&rig, other) == [1])
        rig.nowMs += 4
        rig.turn()
        #expect(granted(&rig, client) == [4])
        #expect(granted(&rig, other) == [2])
        rig.nowMs += 4
        rig.turn()
        #expect(granted(&rig, client) == [5, 6], "whose line is empty has no turn")
    }

    @Test("[U9] the 30 s begin with the credit")
    func timeBeginsWithCredit() {
        var rig = Rig()
        _ = rig.supplier(slots: 8)
        let client = rig.client()
        for stream in 1...3 as ClosedRange<UInt32> {
            rig.submit(client, stream: stream, body: [], declared: Self.bodyBytes)
        }
        #expect(granted(&rig, client) == [1, 2])
        upload(&rig, client, 3, byteCount: 16_000)
        rig.nowMs += 29_000
        rig.say(client) { PingFrame(value: 1).encode(as: .ping, into: &$0) }
        #expect(granted(&rig, client) == [3])
        rig.pass(ms: 29_000, keepsAlive: true)
        #expect(!rig.hear(client).contains { $0.header.stream.rawValue == 3 })
        rig.pass(ms: 2_000, keepsAlive: true)
        let ends = rig.hear(client).filter { $0.header.stream.rawValue == 3 }.compactMap(\.end)
        #expect(ends.map(\.code) == [.uploadTimeout])
    }

    @Test("[U9] who waits for the broker's credit is not too late, however long that takes")
    func waitingForCreditIsNotLate() {
        // All that may come without credit, and less.
        for (frames, isLate) in [(2, false), (1, true)] {
            var rig = Rig()
            _ = rig.supplier(slots: 8)
            let client = rig.client()
            for stream in 1...3 as ClosedRange<UInt32> {
                rig.submit(client, stream: stream, body: [], declared: Self.bodyBytes)
            }
            _ = rig.hear(client)
            for _ in 0..<frames {
                let byteCount = Int(WireLimits.freeBodyBytesMax) / 2
                rig.body(client, stream: 3, byteCount: byteCount)
            }
            // The process was stopped: nothing had a turn in between.
            rig.nowMs += 31_000
            rig.turn()
            rig.turn()
            let heard = rig.hear(client).filter { $0.header.stream.rawValue == 3 }
            #expect(heard.compactMap(\.end).map(\.code) == (isLate ? [.uploadTimeout] : []))
            #expect(heard.contains { $0.credit == UInt64(Self.bodyBytes) } != isLate)
        }
    }

    @Test("short tasks pass a long body by no more than a body's turn at a time")
    func longBodiesGoOn() {
        var rig = Rig()
        let supplier = rig.supplier(slots: 64)
        let client = rig.client()
        rig.submit(client, body: [], declared: 900_000)
        upload(&rig, client, 1, byteCount: 900_000)
        for stream in 2...60 as ClosedRange<UInt32> {
            rig.submit(
                client, stream: stream, body: [UInt8](repeating: 1, count: 12_000))
        }
        var passed = 0
        var passedMax = 0
        let frames = rig.hear(supplier)
        for frame in frames {
            passed = frame.kind == .assign ? passed + frame.header.frameBytes : 0
            passedMax = max(passedMax, passed)
        }
        #expect(frames.filter { $0.kind == .assign }.count == 60)
        #expect(passedMax > 128 * 1_024)
        #expect(passedMax < 288 * 1_024)
    }
}
