import JSONScanning
package import SluiceWire

/// The request for embeddings or images that an OpenAI-compatible server gets, made of a task's
/// payload. Only `model` is replaced, and `response_format` added to a request for images that
/// leaves it away; all other bytes stay as they came.
package struct CountedRequest {
    /// The request's JSON.
    package private(set) var body: [UInt8]
    /// Whether embeddings are asked for in base64.
    package private(set) var wantsBase64 = false

    /// Reads and rewrites a payload.
    ///
    /// - Parameters:
    ///   - model: What the server calls the model.
    ///   - resultsMax: Embeddings or images that the task may bring.
    package init(
        _ payload: [UInt8], _ operation: TaskOperation, model: String, resultsMax: UInt32
    ) throws(RequestFault) {
        precondition(operation.countsResults)
        body = payload
        do throws(JSONFault) {
            try read(payload, operation)
        } catch {
            throw .ambiguous
        }
        guard !isStream else { throw .asksForStream }
        guard !asksForURL else { throw .asksForURL }
        guard count <= Int(resultsMax) else { throw .moreResultsThanSaid }
        rewrite(model, operation)
    }

    private var count = 1
    private var isStream = false
    private var asksForURL = false
    private var isEmpty = true
    private var insertionPoint = 0
    private var modelPlace: Range<Int>?
    /// Where `response_format` is; empty where it is missing.
    private var formatPlace: Range<Int>?
    private var needsFormat = true

    private static let readKeys: Set<String> = [
        "model", "stream", "n", "input", "encoding_format", "response_format",
    ]

    private mutating func read(
        _ payload: [UInt8], _ operation: TaskOperation
    ) throws(JSONFault) {
        var cursor = JSONCursor(payload)
        var found: Set<String> = []
        try cursor.beginObject()
        insertionPoint = cursor.position
        while let key = try cursor.nextKey() {
            isEmpty = false
            guard Self.readKeys.contains(key) else {
                try cursor.skipValue()
                continue
            }
            guard found.insert(key).inserted else { throw .duplicateMember }
            switch (key, operation) {
            case ("model", _): modelPlace = try cursor.skipValue()
            case ("stream", _):
                isStream = payload[try cursor.skipValue()].elementsEqual("true".utf8)
            case ("n", .image):
                guard try cursor.peekKind() != .null else {
                    try cursor.skipValue()
                    continue
                }
                guard let number = try cursor.integer(upTo: Int(UInt32.max)) else {
                    throw .unexpectedKind
                }
                count = number
            case ("input", .embedding): count = try cursor.embeddingInputs() ?? 1
            case ("encoding_format", .embedding):
                wantsBase64 = try cursor.stringIfAny() == "base64"
            case ("response_format", .image):
                needsFormat = try cursor.peekKind() == .null
                var value = cursor
                let format = try value.stringIfAny()
                asksForURL = !needsFormat && format != "b64_json"
                formatPlace = try cursor.skipValue()
            default: try cursor.skipValue()
            }
        }
        try cursor.expectEnd()
    }

    private mutating func rewrite(_ model: String, _ operation: TaskOperation) {
        var edits: [(range: Range<Int>, bytes: [UInt8])] = []
        var missing: [[UInt8]] = []
        let name = JSONText.quoted(model)
        if let modelPlace {
            edits.append((modelPlace, name))
        } else {
            missing.append(Array(#""model":"#.utf8) + name)
        }
        if operation == .image, needsFormat {
            let format = JSONText.quoted("b64_json")
            if let formatPlace {
                edits.append((formatPlace, format))
            } else {
                missing.append(Array(#""response_format":"#.utf8) + format)
            }
        }
        if !missing.isEmpty {
            var insertion = Array(missing.joined(separator: [UInt8(ascii: ",")]))
            if !isEmpty { insertion.append(UInt8(ascii: ",")) }
            edits.append((insertionPoint..<insertionPoint, insertion))
        }
        body = RequestRewriter.apply(edits, to: body)
    }
}
