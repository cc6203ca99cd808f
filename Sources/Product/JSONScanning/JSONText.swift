/// Text as it stands between the quotes of a JSON string.
package enum JSONText {
    /// A JSON string with its quotes. Escapes what RFC 8259 demands, and nothing else.
    package static func quoted(_ text: String) -> [UInt8] {
        var bytes: [UInt8] = []
        bytes.reserveCapacity(text.utf8.count + 2)
        append(text, to: &bytes)
        return bytes
    }

    /// Appends a JSON string with its quotes.
    package static func append(_ text: String, to bytes: inout [UInt8]) {
        bytes.append(UInt8(ascii: "\""))
        for byte in text.utf8 {
            switch byte {
            case UInt8(ascii: "\""), UInt8(ascii: "\\"):
                bytes.append(UInt8(ascii: "\\"))
                bytes.append(byte)
            case UInt8(ascii: "\n"): bytes += [UInt8(ascii: "\\"), UInt8(ascii: "n")]
            case UInt8(ascii: "\r"): bytes += [UInt8(ascii: "\\"), UInt8(ascii: "r")]
            case UInt8(ascii: "\t"): bytes += [UInt8(ascii: "\\"), UInt8(ascii: "t")]
            case 0..<0x20:
                bytes += Array("\\u00".utf8)
                let digits = Array("0123456789abcdef".utf8)
                bytes.append(digits[Int(byte >> 4)])
                bytes.append(digits[Int(byte & 15)])
            default: bytes.append(byte)
            }
        }
        bytes.append(UInt8(ascii: "\""))
    }

    /// The text that `content` (between the quotes, already checked by `JSONCursor`) stands for.
    /// A lone surrogate becomes U+FFFD.
    package static func unescaped(_ content: ArraySlice<UInt8>) -> String {
        var text: [UInt8] = []
        text.reserveCapacity(content.count)
        var index = content.startIndex
        while index < content.endIndex {
            guard content[index] == UInt8(ascii: "\\") else {
                text.append(content[index])
                index += 1
                continue
            }
            let letter = content[index + 1]
            index += 2
            switch letter {
            case UInt8(ascii: "b"): text.append(0x08)
            case UInt8(ascii: "f"): text.append(0x0C)
            case UInt8(ascii: "n"): text.append(0x0A)
            case UInt8(ascii: "r"): text.append(0x0D)
            case UInt8(ascii: "t"): text.append(0x09)
            case UInt8(ascii: "u"): text += UTF8.bytes(of: scalar(in: content, at: &index))
            default: text.append(letter)
            }
        }
        return String(decoding: text, as: UTF8.self)
    }

    /// The value of an ASCII hexadecimal digit.
    static func hexadecimalDigit(_ byte: UInt8) -> UInt32? {
        switch byte {
        case 0x30...0x39: UInt32(byte - 0x30)
        case 0x41...0x46: UInt32(byte - 0x41 + 10)
        case 0x61...0x66: UInt32(byte - 0x61 + 10)
        default: nil
        }
    }

    /// The scalar of the escape whose four digits start at `index`, with the second half of a
    /// surrogate pair where one follows; `index` moves behind it.
    private static func scalar(
        in content: ArraySlice<UInt8>, at index: inout Int
    ) -> Unicode.Scalar {
        let replacement: Unicode.Scalar = "\u{FFFD}"
        let first = codeUnit(in: content, at: index)
        index += 4
        guard (0xD800..<0xDC00).contains(first) else {
            return Unicode.Scalar(first) ?? replacement
        }
        guard index + 6 <= content.endIndex, content[index] == UInt8(ascii: "\\"),
            content[index + 1] == UInt8(ascii: "u")
        else { return replacement }
        let second = codeUnit(in: content, at: index + 2)
        guard (0xDC00..<0xE000).contains(second) else { return replacement }
        index += 6
        return Unicode.Scalar(0x10000 + (first - 0xD800) << 10 + (second - 0xDC00)) ?? replacement
    }

    private static func codeUnit(in content: ArraySlice<UInt8>, at index: Int) -> UInt32 {
        content[index..<index + 4].reduce(0) { $0 << 4 | (hexadecimalDigit($1) ?? 0) }
    }
}

extension UTF8 {
    /// The UTF-8 bytes of one scalar.
    fileprivate static func bytes(of scalar: Unicode.Scalar) -> [UInt8] {
        Array(String(Character(scalar)).utf8)
    }
}
