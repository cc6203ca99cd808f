import JSONScanning
import SluiceWire

/// Walks through the JSON object of an OpenAI answer with a `data` array, byte by byte, in chunks
/// of any size. Brackets, commas, colons and the ends of strings are checked; what is inside
/// strings and numbers passes unseen, except where it is read.
struct AnswerObjectScanner {
    /// What one chunk became.
    struct Output {
        var bytes: [UInt8] = []
        /// Elements of `data` with a result that ended in it.
        var results = 0
        /// Place in `bytes` behind the last of them.
        var lastResultEnd = 0
    }

    /// Deepest nesting of arrays and objects.
    static let depthMax = 32
    private static let keyBytesMax = 32
    private static let numberBytesMax = 64

    private enum State {
        case value, firstElement, firstKey, key, colon, behindValue
        case string, escape
        /// A number, `true`, `false` or `null`.
        case scalar
        case ended
    }

    private enum StringRole { case key, muted, passed }

    /// The prompt's tokens, once the engine has said so.
    private(set) var inputTokens: Int?

    private let resultKey: [UInt8]
    private let resultMayBeArray: Bool
    private let quotedModel: [UInt8]
    private let encodesBase64: Bool

    private var state = State.value
    /// Closing brackets that are still to come, innermost last.
    private var open: [UInt8] = []
    private var role = StringRole.passed
    /// The key that is being read; nil once it cannot be one that matters.
    private var key: [UInt8]?
    /// Keys of the value that comes next, in the object itself and in what it holds.
    private var topKey: [UInt8] = []
    private var innerKey: [UInt8] = []
    private var hasResult = false
    private var scalar: [UInt8] = []
    /// Inside an array of numbers that becomes base64.
    private var base64: Base64Writer?

    init(_ operation: TaskOperation, model: String, encodesBase64: Bool) {
        resultKey = Array((operation == .image ? "b64_json" : "embedding").utf8)
        resultMayBeArray = operation == .embedding
        quotedModel = JSONText.quoted(model)
        self.encodesBase64 = encodesBase64 && operation == .embedding
    }

    /// The object has ended, and nothing but white space came after it.
    var isComplete: Bool { state == .ended }

    mutating func push(
        _ chunk: [UInt8], into output: inout Output
    ) throws(CountedAnswer.Fault) {
        output.bytes.reserveCapacity(output.bytes.count + chunk.count)
        var index = 0
        while index < chunk.count {
            switch state {
            case .string: index = try string(chunk, from: index, into: &output)
            case .escape:
                if role != .muted { output.bytes.append(chunk[index]) }
                state = .string
                index += 1
            case .scalar where Self.isScalar(chunk[index]):
                if isScalarRead {
                    guard scalar.count < Self.numberBytesMax else { throw .malformed }
                    scalar.append(chunk[index])
                }
                if base64 == nil { output.bytes.append(chunk[index]) }
                index += 1
            case .scalar:
                try endScalar(into: &output)
            default:
                try structure(chunk[index], into: &output)
                index += 1
            }
        }
    }

    // MARK: Strings and scalars

    /// Moves over the inside of a string, to its end or that of the chunk.
    private mutating func string(
        _ chunk: [UInt8], from start: Int, into output: inout Output
    ) throws(CountedAnswer.Fault) -> Int {
        var end = start
        while end < chunk.count, chunk[end] != UInt8(ascii: "\""), chunk[end] != UInt8(ascii: "\\"),
            chunk[end] >= 0x20
        {
            end += 1
        }
        if role != .muted { output.bytes += chunk[start..<end] }
        if role == .key, key != nil {
            if (key?.count ?? 0) + end - start <= Self.keyBytesMax {
                key?.append(contentsOf: chunk[start..<end])
            } else {
                key = nil
            }
        }
        guard end < chunk.count else { return end }
        switch chunk[end] {
        case UInt8(ascii: "\\"):
            if role != .muted { output.bytes.append(chunk[end]) }
            // No key that matters is ever written with one.
            key = nil
            state = .escape
        case UInt8(ascii: "\""):
            if role != .muted { output.bytes.append(chunk[end]) }
            if role == .muted { output.bytes += quotedModel }
            state = role == .key ? .colon : .behindValue
            if role == .key { noteKey() }
        default: throw .malformed
        }
        return end + 1
    }

    private mutating func noteKey() {
        let name = key ?? []
        switch open.count {
        case 1: (topKey, innerKey) = (name, [])
        case 2, 3: innerKey = name
        default: break
        }
    }

    private static func isScalar(_ byte: UInt8) -> Bool {
        switch byte {
        case UInt8(ascii: "0")...UInt8(ascii: "9"), UInt8(ascii: "a")...UInt8(ascii: "z"),
            UInt8(ascii: "-"), UInt8(ascii: "+"), UInt8(ascii: "."), UInt8(ascii: "E"):
            true
        default: false
        }
    }

    private var isScalarRead: Bool { base64 != nil || isUsage }

    private var isUsage: Bool {
        open.count == 2 && open[1] == UInt8(ascii: "}") && topKey.elementsEqual("usage".utf8)
    }

    private mutating func endScalar(into output: inout Output) throws(CountedAnswer.Fault) {
        defer { scalar.removeAll(keepingCapacity: true) }
        state = .behindValue
        if base64 != nil {
            guard let number = Float(String(decoding: scalar, as: UTF8.self)), number.isFinite
            else { throw .malformed }
            base64?.append(number, to: &output.bytes)
        } else if isUsage {
            let isInput =
                innerKey.elementsEqual("prompt_tokens".utf8)
                || innerKey.elementsEqual("input_tokens".utf8)
            guard isInput, let count = Int(String(decoding: scalar, as: UTF8.self)), count >= 0
            else { return }
            inputTokens = count
        }
    }

    // MARK: Structure

    private mutating func structure(
        _ byte: UInt8, into output: inout Output
    ) throws(CountedAnswer.Fault) {
        switch byte {
        case 0x20, 0x0A, 0x0D, 0x09:
            if base64 == nil { output.bytes.append(byte) }
            return
        case UInt8(ascii: "]"), UInt8(ascii: "}"):
            return try close(byte, into: &output)
        default: break
        }
        switch (state, byte) {
        case (.firstKey, UInt8(ascii: "\"")), (.key, UInt8(ascii: "\"")):
            begin(.key, into: &output)
        case (.colon, UInt8(ascii: ":")):
            output.bytes.append(byte)
            state = .value
        case (.behindValue, UInt8(ascii: ",")):
            guard let closing = open.last else { throw .malformed }
            if base64 == nil { output.bytes.append(byte) }
            state = closing == UInt8(ascii: "}") ? .key : .value
        case (.value, _), (.firstElement, _): try value(byte, into: &output)
        default: throw .malformed
        }
    }

    private mutating func value(
        _ byte: UInt8, into output: inout Output
    ) throws(CountedAnswer.Fault) {
        // The whole is an object, and numbers that become base64 stand alone.
        guard !open.isEmpty || byte == UInt8(ascii: "{") else { throw .malformed }
        switch byte {
        case UInt8(ascii: "\""):
            guard base64 == nil else { throw .malformed }
            if isResult { hasResult = true }
            let isModel = open.count == 1 && topKey.elementsEqual("model".utf8)
            begin(isModel ? .muted : .passed, into: &output)
        case UInt8(ascii: "{"), UInt8(ascii: "["):
            guard base64 == nil, open.count < Self.depthMax else { throw .malformed }
            if byte == UInt8(ascii: "["), isResult, resultMayBeArray {
                hasResult = true
                if encodesBase64 {
                    base64 = Base64Writer()
                    output.bytes.append(UInt8(ascii: "\""))
                }
            }
            if base64 == nil { output.bytes.append(byte) }
            // The closing bracket of both pairs is the opening one plus 2 in ASCII.
            open.append(byte + 2)
            state = byte == UInt8(ascii: "{") ? .firstKey : .firstElement
            if isElement { hasResult = false }
        default:
            guard Self.isScalar(byte) else { throw .malformed }
            if isScalarRead { scalar.append(byte) }
            if base64 == nil { output.bytes.append(byte) }
            state = .scalar
        }
    }

    private mutating func begin(_ role: StringRole, into output: inout Output) {
        self.role = role
        key = role == .key ? [] : nil
        if role != .muted { output.bytes.append(UInt8(ascii: "\"")) }
        state = .string
    }

    private mutating func close(
        _ byte: UInt8, into output: inout Output
    ) throws(CountedAnswer.Fault) {
        let isAllowed =
            switch state {
            case .behindValue: true
            case .firstKey: byte == UInt8(ascii: "}")
            case .firstElement: byte == UInt8(ascii: "]")
            default: false
            }
        guard isAllowed, open.last == byte else { throw .malformed }
        if base64 != nil {
            base64?.finish(to: &output.bytes)
            output.bytes.append(UInt8(ascii: "\""))
            base64 = nil
        } else {
            output.bytes.append(byte)
        }
        let endsResult = isElement && hasResult
        open.removeLast()
        state = open.isEmpty ? .ended : .behindValue
        guard endsResult else { return }
        output.results += 1
        output.lastResultEnd = output.bytes.count
    }

    /// Directly inside an object that is an element of `data`.
    private var isElement: Bool {
        open.count == 3 && open[1] == UInt8(ascii: "]") && open[2] == UInt8(ascii: "}")
            && topKey.elementsEqual("data".utf8)
    }

    /// The value that comes next is an element's embedding or image.
    private var isResult: Bool { isElement && innerKey == resultKey }
}

/// Numbers as base64 of little-endian IEEE 754 in 32 bits: `encoding_format` `base64`.
struct Base64Writer {
    /// Bits that wait for six of them, the oldest highest, and how many.
    private var bits: UInt64 = 0
    private var bitCount = 0
    private var characters = 0
    private static let alphabet = Array(
        "ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789+/".utf8)

    mutating func append(_ number: Float, to bytes: inout [UInt8]) {
        bits = bits << 32 | UInt64(number.bitPattern.byteSwapped)
        bitCount += 32
        while bitCount >= 6 {
            bitCount -= 6
            write(bits >> UInt64(bitCount), to: &bytes)
        }
    }

    /// The last bits, padded.
    mutating func finish(to bytes: inout [UInt8]) {
        if bitCount > 0 { write(bits << UInt64(6 - bitCount), to: &bytes) }
        while !characters.isMultiple(of: 4) {
            bytes.append(UInt8(ascii: "="))
            characters += 1
        }
    }

    private mutating func write(_ sextet: UInt64, to bytes: inout [UInt8]) {
        bytes.append(Self.alphabet[Int(sextet & 63)])
        characters += 1
    }
}
