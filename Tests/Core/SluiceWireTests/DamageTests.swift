import SluiceWire
import Testing

/// Frames cut short or with a bit changed: they are read or refused, and never stop the reader.
@Suite struct DamageTests {
    /// A payload cut anywhere before its body is `malformed_payload` ([F4]); a body may have any
    /// length.
    @Test(arguments: ProtocolFolder.valid)
    func aCutPayloadIsRefused(vector: ValidVector) throws {
        let frame = try DecodedFrame(vector.bytes)
        let fixedEnd: Int
        switch frame.payload {
        case .submit(let submit): fixedEnd = submit.inlineBody.lowerBound
        case .assign(let assign): fixedEnd = assign.inlineBody.lowerBound
        case .content, .skipped: fixedEnd = 0
        default: fixedEnd = frame.payloadBytes.count
        }
        let span = frame.payloadBytes.span
        for cut in 0..<frame.payloadBytes.count {
            do throws(WireError) {
                _ = try DecodedFrame.payload(frame.header, span.extracting(0..<cut))
                if cut < fixedEnd { Issue.record("read although cut at \(cut)") }
            } catch {
                if cut >= fixedEnd || error != .malformedPayload(.truncated) {
                    Issue.record("\(error) for a cut at \(cut)")
                }
            }
        }
    }

    /// A changed bit is read or refused; a short frame that survives it reads the same again after
    /// it was written again.
    @Test(arguments: ProtocolFolder.valid)
    func aChangedBitIsReadOrRefused(vector: ValidVector) throws {
        let whole = vector.bytes
        // Long frames are runs of one byte: their beginning and end say it all.
        let edge = whole.count > 1_024 ? 160 : 1_024
        for index in whole.indices where index < edge || index >= whole.count - 8 {
            for bit in 0..<8 {
                var bytes = whole
                bytes[index] ^= 1 << UInt8(bit)
                let header: FrameHeader
                do throws(WireError) {
                    header = try FrameHeader(decoding: bytes.span)
                } catch {
                    if error != .frameTooLarge || index >= 4 { Issue.record("\(error)") }
                    continue
                }
                // What follows the payload belongs to the next frame; what is missing is to come.
                guard header.frameBytes <= bytes.count else { continue }
                let frame = Array(bytes[..<header.frameBytes])
                if whole.count <= 96 { checkStable(frame) } else { _ = try? DecodedFrame(frame) }
            }
        }
    }

    private func checkStable(_ bytes: [UInt8]) {
        guard let frame = try? DecodedFrame(bytes) else { return }
        let keys: [UInt8]
        if case .submit(let submit) = frame.payload {
            keys = Array(repeating: 1, count: Int(submit.affinityKeys.count) * 16)
        } else {
            keys = []
        }
        let again = try? DecodedFrame(frame.encoded(affinityKeys: keys))
        if again?.fields != frame.fields { Issue.record("\(hexOfBytes(bytes.prefix(400)))") }
    }

    /// Any bytes at all, under any kind.
    @Test func arbitraryPayloadsNeverStopTheReader() throws {
        var random = SplitMix64(seed: 0x51_01CE)
        for _ in 0..<20_000 {
            let kind = FrameKind.allCases.randomElement(using: &random) ?? .hello
            let payload = (0..<Int.random(in: 0...120, using: &random)).map { _ in
                UInt8.random(in: 0...255, using: &random) & (Bool.random(using: &random) ? 3 : 255)
            }
            var bytes: [UInt8] = []
            FrameHeader(kind: kind, stream: StreamID(1), payloadBytes: payload.count)
                .encode(into: &bytes)
            checkStable(bytes + payload)
        }
    }
}

/// A small generator with a seed, so that a failure can be had again.
struct SplitMix64: RandomNumberGenerator {
    private var state: UInt64

    init(seed: UInt64) {
        state = seed
    }

    mutating func next() -> UInt64 {
        state &+= 0x9E37_79B9_7F4A_7C15
        var mixed = state
        mixed = (mixed ^ (mixed >> 30)) &* 0xBF58_476D_1CE4_E5B9
        mixed = (mixed ^ (mixed >> 27)) &* 0x94D0_49BB_1331_11EB
        return mixed ^ (mixed >> 31)
    }
}
