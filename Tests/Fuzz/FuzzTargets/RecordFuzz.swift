import TLSEngine

/// The record layer of an established session, against a peer that has its keys and seals what the
/// input says: data, padding, KeyUpdates, alerts, tickets and nonsense, whole or in pieces, some of it
/// changed on the way. What is opened is what was sealed, in order, and nothing else ever.
package enum RecordFuzz {
    /// One input: byte 0 chooses suite, role and room, the rest is what the peer does.
    package static func run(_ bytes: [UInt8]) {
        guard let first = bytes.first else { return }
        let fuzz = Session(first)
        var script = FuzzScript(Array(bytes.dropFirst()))
        while !script.rest.isEmpty { fuzz.step(&script) }
        fuzz.check()
    }

    private final class Session {
        private var layer: RecordLayer
        private var pipe: CipherPipe
        private var peer: RecordProtection
        private var target: [UInt8]
        private let lent = UnsafeMutablePointer<UInt8>.allocate(capacity: 65_536)
        /// Application data that the peer has sealed, and what of it was opened.
        private var sealed: [UInt8] = []
        private var opened: [UInt8] = []
        private var isOver = false
        /// A length may have been changed: what follows is waited for and never whole.
        private var isGarbled = false

        init(_ choice: UInt8) {
            let suites = [RecordSuite.aes128GCM, .aes256GCM, .chacha20Poly1305]
            let suite = suites[Int(choice & 3) % 3]
            var limits = TLSLimits()
            limits.recordsPerKey = 5
            limits.outputBytesMax = 4_096
            layer = RecordLayer(
                sealing: Self.protection(suite, 1, isSealing: true),
                opening: Self.protection(suite, 2, isSealing: false),
                isServer: choice & 4 == 0, limits: limits)
            pipe = CipherPipe(limits: limits)
            peer = Self.protection(suite, 2, isSealing: true)
            target = [UInt8](repeating: 0, count: choice & 8 == 0 ? 16_384 : Int(choice >> 4) + 1)
        }

        deinit {
            lent.deallocate()
        }

        private static func protection(
            _ suite: RecordSuite, _ seed: UInt8, isSealing: Bool
        ) -> RecordProtection {
            let secret = [UInt8](repeating: seed, count: suite.secretBytes)
            guard let made = RecordProtection.under(secret, suite, isSealing: isSealing) else {
                preconditionFailure("no protection")
            }
            return made
        }

        func step(_ script: inout FuzzScript) {
            let kind = script.byte()
            switch kind & 7 {
            case 0, 1, 2:
                let data = script.take(Int(script.byte()) * (kind & 8 == 0 ? 1 : 64))
                sealed += data
                receive(record(data, type: 23), &script)
            case 3:
                let padded = script.take(Int(script.byte() & 31)) + [script.byte()]
                let inner = padded + [UInt8](repeating: 0, count: Int(kind >> 3))
                if let type = inner.lastIndex(where: { $0 != 0 }), inner[type] == 23 {
                    sealed += inner[..<type]
                }
                receive(record(inner, type: 0), &script)
            case 4:
                receive(record([24, 0, 0, 1, kind >> 7], type: 22), &script)
                precondition(peer.update())
            case 5:
                let content = script.take(Int(kind >> 3))
                let type = 20 + script.byte() % 6
                if type == 23 { sealed += content }
                receive(record(content, type: type), &script)
            case 6:
                isGarbled = true
                var data = record(script.take(Int(kind >> 3)), type: 23)
                data[script.number16() % data.count] ^= 1 << (kind & 7)
                receive(data, &script)
            default:
                if kind & 8 != 0 { layer.changeKeys() }
                _ = layer.seal(Array(repeating: kind, count: 64), count: Int(kind >> 3) + 1, &pipe)
                if kind & 16 != 0 { _ = pipe.takeOutput() }
            }
        }

        private func record(_ content: [UInt8], type: UInt8) -> [UInt8] {
            // Type 0 stands for a last zero of padding.
            var record = [UInt8](
                repeating: 0, count: content.count + RecordProtection.overheadBytes)
            let isSealed = peer.seal(
                content + [0], count: content.count, type: type, into: &record)
            precondition(isSealed)
            return record
        }

        /// Lends the bytes in pieces that the script chooses, and opens all there is.
        private func receive(_ ciphertext: [UInt8], _ script: inout FuzzScript) {
            var place = 0
            while place < ciphertext.count {
                let cut = script.byte()
                let end = cut & 1 == 0 ? ciphertext.count : min(ciphertext.count, place + Int(cut))
                for (offset, byte) in ciphertext[place..<end].enumerated() { lent[offset] = byte }
                pipe.lend(lent, count: end - place)
                place = end
                open()
            }
        }

        private func open() {
            while true {
                switch layer.open(into: &target, capacity: target.count, &pipe) {
                case .done(let count):
                    precondition(!isOver, "a session that is over opens nothing")
                    precondition(count > 0 && count <= target.count)
                    opened += target[..<count]
                    precondition(sealed.starts(with: opened), "opened what was not sealed")
                case .needsCiphertext:
                    precondition(pipe.inputCount == 0, "ciphertext was left")
                    return
                case .failed:
                    isOver = true
                    return
                }
            }
        }

        func check() {
            precondition(isOver || isGarbled || opened == sealed, "data was lost")
        }
    }
}
