import Foundation
import SluiceWire
import Testing

/// One frame of `Protocol/Vectors/valid`.
struct ValidVector: Decodable, Sendable, CustomTestStringConvertible {
    struct Header: Decodable, Sendable {
        let kind: UInt8
        let flags: UInt8
        let tokens: UInt16
        let stream: UInt32
        let payloadBytes: UInt32
    }

    let name: String
    let rule: String
    let hex: String
    let header: Header
    let fields: [String: FieldValue]
    /// False where an encoder would not produce these bytes: reserved fields or unknown types.
    let canonical: Bool?

    var bytes: [UInt8] { bytesOfHex(hex) }
    var testDescription: String { "\(header.kind) \(name)" }
}

/// One frame of `Protocol/Vectors/invalid`.
struct InvalidVector: Decodable, Sendable, CustomTestStringConvertible {
    let name: String
    let rule: String
    let hex: String
    let code: String
    let fault: String?

    var bytes: [UInt8] { bytesOfHex(hex) }
    var testDescription: String { "\(hex.dropFirst(8).prefix(2)) \(name)" }

    /// The error that the code and the fault name.
    var error: WireError? {
        switch (code, fault) {
        case ("frame_too_large", nil): .frameTooLarge
        case ("unknown_kind", nil): .unknownKind
        case ("malformed_payload", let fault?): Self.faults[fault].map { .malformedPayload($0) }
        default: nil
        }
    }

    private static let faults: [String: PayloadFault] = [
        "truncated": .truncated, "trailing_bytes": .trailingBytes,
        "value_out_of_range": .valueOutOfRange, "invalid_text": .invalidText,
        "bad_extension": .badExtension,
        "unknown_critical_extension": .unknownCriticalExtension,
    ]
}

/// A field of a vector: a number, a text, or several texts joined by commas.
struct FieldValue: Decodable, Sendable {
    let text: String

    init(from decoder: any Decoder) throws {
        let container = try decoder.singleValueContainer()
        if let number = try? container.decode(UInt64.self) {
            text = String(number)
        } else if let parts = try? container.decode([String].self) {
            text = parts.joined(separator: ",")
        } else {
            text = try container.decode(String.self)
        }
    }
}

/// The files of `Protocol`, read once.
enum ProtocolFolder {
    static let root = URL(filePath: #filePath).deletingLastPathComponent()
        .deletingLastPathComponent().deletingLastPathComponent().deletingLastPathComponent()
    static let valid: [ValidVector] = load("valid")
    static let invalid: [InvalidVector] = load("invalid")

    static func text(_ path: String) throws -> String {
        try String(contentsOf: root.appending(path: path), encoding: .utf8)
    }

    /// Names of the files in a folder.
    static func files(in folder: String) throws -> [String] {
        try FileManager.default.contentsOfDirectory(
            atPath: root.appending(path: folder).path()
        ).sorted()
    }

    private static func load<Vector: Decodable>(_ folder: String) -> [Vector] {
        do {
            return try files(in: "Protocol/Vectors/\(folder)").flatMap { name in
                let file = root.appending(path: "Protocol/Vectors/\(folder)/\(name)")
                return try JSONDecoder().decode([Vector].self, from: Data(contentsOf: file))
            }
        } catch {
            preconditionFailure("Protocol/Vectors/\(folder): \(error)")
        }
    }
}

/// Bytes of hexadecimal digits; spaces are skipped.
func bytesOfHex(_ hex: String) -> [UInt8] {
    var bytes: [UInt8] = []
    var high: UInt8?
    for digit in hex.utf8 where digit != 0x20 {
        let value: UInt8 = digit >= 0x61 ? digit - 0x61 + 10 : digit - 0x30
        if let first = high {
            bytes.append(first << 4 | value)
            high = nil
        } else {
            high = value
        }
    }
    precondition(high == nil, "an odd number of digits")
    return bytes
}

func hexOfBytes(_ bytes: some Sequence<UInt8>) -> String {
    let digits = Array("0123456789abcdef".utf8)
    var text: [UInt8] = []
    for byte in bytes {
        text.append(digits[Int(byte >> 4)])
        text.append(digits[Int(byte & 15)])
    }
    return String(decoding: text, as: UTF8.self)
}
