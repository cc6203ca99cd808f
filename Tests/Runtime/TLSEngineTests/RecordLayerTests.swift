import Testing

import TLSEngine

/// Records after the handshake, against a peer that seals whatever a test wants: RFC 8446, 5 and 6,
/// RFC 8448, 3.
@Suite struct RecordLayerTests {
    private static let suites: [RecordSuite] = [.aes128GCM, .aes256GCM, .chacha20Poly1305]

    // MARK: Keys

    /// The trace of RFC 8448, section 3: the record that its client sends.
    @Test func keysAndRecordsAreThoseOfTheRFC() throws {
        let secret = bytes("9e40646ce79a7f9dc05af8889bce6552875afa0b06df0087f792ebb7c17504a5")
        let record = bytes(
            """
            1703030043a23f7054b62c94d0affafe8228ba55cbefacea42f914aa66bcab3f2b9819a8a5b46b395bd54a\
            9a20441e2b62974e1f5a6292a2977014bd1e3deae63aeebb21694915e4
            """)
        let content = (0..<50).map { UInt8($0) }
        var sealing = try protection(secret, isSealing: true)
        let sealed = try sealing.record(of: content, type: 23)
        #expect(sealed == record)
        var opening = try protection(secret, isSealing: false)
        var opened = [UInt8](repeating: 0, count: 51)
        let isOpened = opening.open(
            record, bodyBytes: 67, into: &opened, firstBytes: 51, rest: nil)
        #expect(isOpened)
        #expect(opened == content + [23])
    }

    @Test(arguments: suites) func everySuiteCarriesDataBeyondKeyUpdates(
        _ suite: RecordSuite
    ) throws {
        let end = try TestEnd(suite)
        for round in 0..<4 {
            let data = pattern(1 + round * 5_461, seed: round)
            #expect(try end.receive(end.peer(data)) == .data(data))
            #expect(try end.sent(data).last == .init(type: 23, content: data))
            #expect(try end.receive(end.peer(Self.keyUpdate(isRequest: true), type: 22)) == .more)
            try end.peerChangesKeys()
        }
    }

    // MARK: Pieces

    @Test func aRecordInPiecesIsOpenedWhenItIsWhole() throws {
        let end = try TestEnd()
        let first = try end.peer(pattern(300))
        let second = try end.peer(pattern(20, seed: 1))
        for byte in (first + second.dropLast()).enumerated() {
            let isLast = byte.offset == first.count - 1
            #expect(
                try end.receive([byte.element]) == (isLast ? .data(pattern(300)) : .more))
        }
        #expect(try end.receive([second[second.count - 1]]) == .data(pattern(20, seed: 1)))
    }

    @Test func whatTheCallerHasNoRoomForWaits() throws {
        for capacity in [1, 7, 99, 100, 101] {
            let end = try TestEnd(capacity: capacity)
            let data = pattern(100)
            var got: [UInt8] = []
            var result = try end.receive(end.peer(data))
            while case .data(let part) = result {
                #expect(part.count <= capacity)
                got += part
                #expect(end.hasRest == (got.count < 100))
                result = try end.receive([])
            }
            #expect(result == .more)
            #expect(got == data)
            #expect(try end.receive(end.peer([5])) == .data([5]))
        }
    }

    @Test func paddingIsTakenOff() throws {
        for (padding, capacity) in [(1, 16_384), (200, 16_384), (200, 50), (16_334, 16_384)] {
            let end = try TestEnd(capacity: capacity)
            let padded = pattern(50) + [23] + [UInt8](repeating: 0, count: padding - 1)
            #expect(try end.receive(end.peer(padded, type: 0)) == .data(pattern(50)))
        }
        let end = try TestEnd()
        #expect(try end.receive(end.peer([0, 0, 0], type: 0)) == .failed(.protocolViolation))
        #expect(try end.alert() == [2, 10], "nothing but padding")
    }

    // MARK: What is forged or malformed

    @Test func oneChangedBitEndsTheSession() throws {
        let sample = try TestEnd()
        let length = try sample.peer(pattern(40)).count
        for place in 0..<length {
            let end = try TestEnd()
            var record = try end.peer(pattern(40))
            record[place] ^= 1
            // A longer record is waited for.
            if place == 3 { record += [UInt8](repeating: 0, count: 256) }
            let result = try end.receive(record)
            #expect(result == .failed(.protocolViolation), "byte \(place)")
            #expect(!end.target.contains { $0 != 0 }, "unverified bytes stay at \(place)")
            #expect(try end.receive(end.peer(pattern(40))) == .failed(.protocolViolation))
            #expect(try end.alert() == [2, place == 0 ? 10 : 20], "byte \(place)")
        }
    }

    @Test func aRecordOfTheWrongLengthIsNotWaitedFor() throws {
        for (header, alert) in [
            ([23, 3, 3, 0x41, 0x01], 22), ([23, 3, 3, 0, 16], 20), ([23, 3, 3, 0, 0], 20),
        ] as [([UInt8], UInt8)] {
            let end = try TestEnd()
            #expect(try end.receive(header) == .failed(.protocolViolation))
            #expect(try end.alert() == [2, alert])
        }
        let end = try TestEnd()
        let tooLong = try end.peer(pattern(16_385), type: 23)
        #expect(try end.receive(tooLong) == .failed(.protocolViolation))
        #expect(try end.alert() == [2, 22])
        let other = try TestEnd()
        #expect(try other.receive(other.peer(pattern(16_384))) == .data(pattern(16_384)))
    }

    @Test func whatIsNotProtectedIsRefused() throws {
        for kind in [20, 21, 22, 24] as [UInt8] {
            let end = try TestEnd()
            #expect(try end.receive([kind, 3, 3, 0, 1, 1]) == .failed(.protocolViolation))
            #expect(try end.alert() == [2, 10])
        }
    }

    @Test func emptyRecordsAreBounded() throws {
        let end = try TestEnd()
        for _ in 0..<32 { #expect(try end.receive(end.peer([])) == .more) }
        #expect(try end.receive(end.peer([1])) == .data([1]))
        for _ in 0..<32 { #expect(try end.receive(end.peer([])) == .more) }
        #expect(try end.receive(end.peer([])) == .failed(.protocolViolation))
    }

    // MARK: KeyUpdates

    @Test func aRequestedKeyUpdateIsAnsweredBeforeTheNextData() throws {
        let end = try TestEnd()
        #expect(try end.receive(end.peer(Self.keyUpdate(isRequest: true), type: 22)) == .more)
        #expect(try end.takeRecords().isEmpty, "nothing is sent for its own sake")
        try end.peerChangesKeys()
        let records = try end.sent([1])
        #expect(
            records == [
                .init(type: 22, content: Self.keyUpdate(isRequest: false)),
                .init(type: 23, content: [1]),
            ])
        #expect(try end.sent([2]) == [.init(type: 23, content: [2])])
        #expect(try end.receive(end.peer([3])) == .data([3]))
        #expect(end.layer.takeKeyUpdates() == (1, 1))
    }

    @Test func keysAreChangedAfterSoManyRecords() throws {
        var limits = TLSLimits()
        limits.recordsPerKey = 3
        let end = try TestEnd(limits: limits)
        for count in 1...7 {
            let records = try end.sent([UInt8(count)])
            let isChanged = count == 4 || count == 7
            #expect(records.count == (isChanged ? 2 : 1))
            #expect(!isChanged || records[0].content == Self.keyUpdate(isRequest: true))
        }
        let reader = try TestEnd(limits: limits)
        for _ in 0..<3 { #expect(try reader.receive(reader.peer([1])) == .data([1])) }
        #expect(try reader.sent([1]).first?.content == Self.keyUpdate(isRequest: true))
    }

    @Test func aKeyUpdateEndsItsRecord() throws {
        let end = try TestEnd()
        let two = Self.keyUpdate(isRequest: false) + [24]
        #expect(try end.receive(end.peer(two, type: 22)) == .failed(.protocolViolation))
        #expect(try end.alert() == [2, 10])
    }

    @Test func aMessageMaySpreadOverRecordsAndNothingComesBetween() throws {
        let end = try TestEnd()
        let update = Self.keyUpdate(isRequest: false)
        #expect(try end.receive(end.peer(Array(update[..<2]), type: 22)) == .more)
        #expect(try end.receive(end.peer(Array(update[2...]), type: 22)) == .more)
        try end.peerChangesKeys()
        #expect(try end.receive(end.peer([7])) == .data([7]))
        #expect(try end.receive(end.peer(Array(update[..<2]), type: 22)) == .more)
        #expect(try end.receive(end.peer([7])) == .failed(.protocolViolation))
        #expect(try end.alert() == [2, 10])
    }

    /// The record is authentic: it is the place that is wrong.
    @Test func dataThatMayNotComeIsWiped() throws {
        let cases: [([UInt8], (UInt8, [UInt8]))] = [
            ([24, 0], (23, [7, 7, 7])), ([24, 0], (21, [1, 0])), ([], (30, [7])),
        ]
        for (before, record) in cases {
            let end = try TestEnd(capacity: 2)
            if !before.isEmpty { #expect(try end.receive(end.peer(before, type: 22)) == .more) }
            let sealed = try end.peer(record.1, type: record.0)
            #expect(try end.receive(sealed) == .failed(.protocolViolation))
            #expect(!end.target.contains { $0 != 0 })
            #expect(!end.hasRest)
            #expect(try end.alert() == [2, 10])
        }
    }

    @Test func aPeerThatTakesShortRecordsGetsThem() throws {
        var limits = TLSLimits()
        limits.outputBytesMax = 2_000
        let end = try TestEnd(contentBytesMax: 512, limits: limits)
        let parts = try end.sent(pattern(1_100))
        #expect(parts.map(\.content.count) == [512, 512, 76])
        #expect(parts.flatMap(\.content) == pattern(1_100))
        #expect(!end.seal(pattern(1_930)), "with what four records add it is too much")
        #expect(try end.takeRecords().isEmpty, "all or nothing")
    }

    @Test func malformedMessagesHaveTheirAlert() throws {
        for (message, alert) in [
            ([24, 0, 0, 1, 2], 47), ([24, 0, 0, 2, 0, 0], 50), ([24, 0, 0, 0], 50),
            ([1, 0, 0, 1, 0], 10), ([], 10), ([4, 0, 0, 1, 0], 10),
        ] as [([UInt8], UInt8)] {
            let end = try TestEnd(isServer: true)
            #expect(try end.receive(end.peer(message, type: 22)) == .failed(.protocolViolation))
            #expect(try end.alert() == [2, alert], "\(message)")
        }
    }

    @Test func aFloodOfKeyUpdatesIsOver() throws {
        var limits = TLSLimits()
        limits.keyUpdatesInARow = 4
        let end = try TestEnd(limits: limits)
        for _ in 0..<4 {
            #expect(
                try end.receive(end.peer(Self.keyUpdate(isRequest: true), type: 22)) == .more)
            try end.peerChangesKeys()
        }
        let last = try end.peer(Self.keyUpdate(isRequest: true), type: 22)
        #expect(try end.receive(last) == .failed(.tooManyKeyUpdates))
    }

    @Test func onlyAClientTakesTicketsAndNotForEver() throws {
        let ticket = [4, 0, 1, 0] + pattern(256)
        let end = try TestEnd(isServer: false)
        #expect(try end.receive(end.peer(ticket + ticket, type: 22)) == .more)
        #expect(try end.receive(end.peer([1])) == .data([1]))
        for _ in 0..<32 { #expect(try end.receive(end.peer(ticket, type: 22)) == .more) }
        #expect(try end.receive(end.peer(ticket, type: 22)) == .failed(.protocolViolation))
    }

    // MARK: Ends

    @Test func aGoodbyeEndsOneDirection() throws {
        let end = try TestEnd()
        #expect(try end.receive(end.peer([1, 0], type: 21)) == .failed(.closedByPeer))
        #expect(try end.receive(end.peer([1])) == .failed(.closedByPeer))
        #expect(try end.sent([4]) == [.init(type: 23, content: [4])])
        end.layer.sealGoodbye(&end.pipe)
        end.layer.sealGoodbye(&end.pipe)
        #expect(try end.takeRecords() == [.init(type: 21, content: [1, 0])])
        #expect(throws: TestEnd.NotSealed.self) { try end.sent([5]) }
    }

    @Test func otherAlertsEndTheSession() throws {
        for (alert, result) in [
            ([2, 40], .failed(.protocolViolation)), ([1, 90], .more),
            ([2], .failed(.protocolViolation)), ([1, 0, 0], .failed(.protocolViolation)),
            ([], .failed(.protocolViolation)),
        ] as [([UInt8], TestEnd.Received)] {
            let end = try TestEnd()
            #expect(try end.receive(end.peer(alert, type: 21)) == result)
        }
    }

    @Test func aFullOutputTakesNothingMore() throws {
        var limits = TLSLimits()
        limits.outputBytesMax = 1_000
        let end = try TestEnd(limits: limits)
        #expect(end.seal(pattern(500)))
        #expect(!end.seal(pattern(500)))
        #expect(try end.takeRecords() == [.init(type: 23, content: pattern(500))])
        #expect(try end.sent([1]) == [.init(type: 23, content: [1])])
    }

    private static func keyUpdate(isRequest: Bool) -> [UInt8] {
        [24, 0, 0, 1, isRequest ? 1 : 0]
    }
}

/// One end's record layer, and a peer that holds the same keys.
private final class TestEnd {
    struct NotSealed: Error {}
    struct Record: Equatable {
        var type: UInt8
        var content: [UInt8]
    }
    enum Received: Equatable {
        case data([UInt8])
        case more
        case failed(TLSFailure)
    }

    var layer: RecordLayer
    var pipe: CipherPipe
    private var peerSealing: RecordProtection
    private var peerOpening: RecordProtection
    private(set) var target: [UInt8]
    private let lent = UnsafeMutablePointer<UInt8>.allocate(capacity: 32_768)

    init(
        _ suite: RecordSuite = .aes128GCM, isServer: Bool = true, capacity: Int = 16_384,
        contentBytesMax: Int = 16_384, limits: TLSLimits = TLSLimits()
    ) throws {
        let mine = pattern(suite.secretBytes, seed: 11)
        let theirs = pattern(suite.secretBytes, seed: 12)
        let sealing = try protection(mine, suite, isSealing: true)
        let opening = try protection(theirs, suite, isSealing: false)
        layer = RecordLayer(
            sealing: sealing, opening: opening, isServer: isServer,
            contentBytesMax: contentBytesMax, limits: limits)
        pipe = CipherPipe(limits: limits)
        peerSealing = try protection(theirs, suite, isSealing: true)
        peerOpening = try protection(mine, suite, isSealing: false)
        target = [UInt8](repeating: 0, count: capacity)
    }

    deinit {
        lent.deallocate()
    }

    var hasRest: Bool { layer.hasRest }

    /// A record as the peer sends it.
    func peer(_ content: [UInt8], type: UInt8 = 23) throws -> [UInt8] {
        try peerSealing.record(of: content, type: type)
    }

    func peerChangesKeys() throws {
        guard peerSealing.update() else { throw NotSealed() }
    }

    /// What comes of it when these bytes have arrived.
    func receive(_ ciphertext: [UInt8]) throws -> Received {
        for (place, byte) in ciphertext.enumerated() { lent[place] = byte }
        pipe.lend(lent, count: ciphertext.count)
        for place in target.indices { target[place] = 0 }
        switch layer.open(into: &target, capacity: target.count, &pipe) {
        case .done(let count): return .data(Array(target.prefix(count)))
        case .needsCiphertext:
            #expect(pipe.inputCount == 0)
            return .more
        case .failed(let failure): return .failed(failure)
        }
    }

    func seal(_ content: [UInt8]) -> Bool {
        layer.seal(content, count: content.count, &pipe)
    }

    /// The records that bring this to the peer.
    func sent(_ content: [UInt8]) throws -> [Record] {
        guard seal(content) else { throw NotSealed() }
        return try takeRecords()
    }

    /// What waits to be sent, opened by the peer, which follows KeyUpdates.
    func takeRecords() throws -> [Record] {
        guard let block = pipe.takeOutput() else { return [] }
        let output = Array(UnsafeBufferPointer(start: block.start, count: block.count))
        var records: [Record] = []
        var offset = 0
        while offset < output.count {
            let bodyBytes = Int(output[offset + 3]) << 8 | Int(output[offset + 4])
            var opened = [UInt8](repeating: 0, count: bodyBytes - 16)
            let record = Array(output[offset..<(offset + 5 + bodyBytes)])
            let isOpened = peerOpening.open(
                record, bodyBytes: bodyBytes, into: &opened, firstBytes: opened.count, rest: nil)
            try #require(isOpened)
            let type = opened.removeLast()
            records.append(Record(type: type, content: opened))
            if type == 22, !peerOpening.update() { throw NotSealed() }
            offset += 5 + bodyBytes
        }
        return records
    }

    /// The one alert that was sent.
    func alert() throws -> [UInt8] {
        let records = try takeRecords()
        try #require(records.count == 1 && records[0].type == 21)
        return records[0].content
    }
}

extension RecordProtection {
    /// A record of any type, header and all.
    fileprivate mutating func record(of content: [UInt8], type: UInt8) throws -> [UInt8] {
        var record = [UInt8](repeating: 0, count: content.count + Self.overheadBytes)
        // One more, so that the pointer is never null.
        let isSealed = seal(content + [0], count: content.count, type: type, into: &record)
        try #require(isSealed)
        return record
    }
}

private func protection(
    _ secret: [UInt8], _ suite: RecordSuite = .aes128GCM, isSealing: Bool
) throws -> RecordProtection {
    guard let protection = RecordProtection.under(secret, suite, isSealing: isSealing) else {
        throw TestEnd.NotSealed()
    }
    return protection
}

private func pattern(_ count: Int, seed: Int = 0) -> [UInt8] {
    (0..<count).map { UInt8(truncatingIfNeeded: ($0 &* 31 &+ seed &* 7) >> 1 | 1) }
}

private func bytes(_ text: String) -> [UInt8] {
    let digits = Array(text)
    return stride(from: 0, to: digits.count, by: 2).map { place in
        UInt8(String(digits[place...(place + 1)]), radix: 16) ?? 0
    }
}
