import SluiceWire
import Testing

/// `Protocol/Vectors` was packed from the specification without this code: what both agree on is
/// what the specification says.
@Suite struct VectorTests {
    @Test(arguments: ProtocolFolder.valid)
    func aValidFrameIsReadAsWritten(vector: ValidVector) throws {
        let frame = try DecodedFrame(vector.bytes)
        #expect(frame.header.rawKind == vector.header.kind)
        #expect(frame.header.flags.rawValue == vector.header.flags)
        #expect(frame.header.tokens == vector.header.tokens)
        #expect(frame.header.stream.rawValue == vector.header.stream)
        #expect(frame.header.payloadBytes == vector.header.payloadBytes)
        var expected = vector.fields.mapValues(\.text)
        expected["agent"] = nil
        if let keys = expected.removeValue(forKey: "affinityKeys") {
            expected["affinityKeyCount"] = "\(keys.split(separator: ",").count)"
        }
        #expect(frame.fields == expected)
    }

    @Test(arguments: ProtocolFolder.valid.filter { $0.canonical ?? true })
    func theFieldsAreWrittenAsTheseBytes(vector: ValidVector) throws {
        let frame = try DecodedFrame(vector.bytes)
        let keys = vector.fields["affinityKeys"]?.text.split(separator: ",").joined() ?? ""
        let bytes = frame.encoded(
            agent: vector.fields["agent"]?.text ?? "", affinityKeys: bytesOfHex(keys))
        #expect(hexOfBytes(bytes) == vector.hex)
    }

    @Test(arguments: ProtocolFolder.invalid)
    func anInvalidFrameIsRefusedWithItsError(vector: InvalidVector) throws {
        let expected = try #require(vector.error, "the vector names no known error")
        #expect(throws: expected) { _ = try DecodedFrame(vector.bytes) }
        #expect(snakeCase("\(expected.code)") == vector.code)
    }

    @Test func everyKindHasVectors() {
        let valid = Set(ProtocolFolder.valid.map(\.header.kind))
        let refused = Set(ProtocolFolder.invalid.map { $0.bytes[4] })
        for kind in FrameKind.allCases {
            #expect(valid.contains(kind.rawValue), "\(kind)")
            #expect(refused.contains(kind.rawValue), "\(kind)")
        }
    }
}

/// `frameTooLarge` → `frame_too_large`.
func snakeCase(_ name: String) -> String {
    name.map { $0.isUppercase ? "_\($0.lowercased())" : "\($0)" }.joined()
}
