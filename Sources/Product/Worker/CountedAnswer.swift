import JSONScanning
package import SluiceWire

/// The JSON object that answers a request for embeddings or images, as it passes: counts the
/// results in `data`, reads the engine's usage, puts the offer's name into `model` and, where the
/// client asked for base64 and the engine wrote numbers, encodes those. All other bytes pass as
/// they came.
///
/// Pure: chunks in, parts out. Holds what comes before the first result, up to `leadingBytesMax`,
/// and otherwise no more than a key or a number: an answer may be megabytes.
package struct CountedAnswer {
    /// Bytes to write, with how many results they complete.
    package struct Part: Equatable {
        package var bytes: [UInt8]
        package var results: Int

        /// Makes a part.
        package init(bytes: [UInt8], results: Int) {
            self.bytes = bytes
            self.results = results
        }
    }

    /// The bytes are no answer. Closed; carries none of them.
    package enum Fault: Error, Equatable {
        /// Not one JSON object, or nested too deeply.
        case malformed
        /// Whole, but without any result.
        case withoutResults
        /// More results than the task may bring.
        case tooManyResults
    }

    /// Most bytes that wait for the first result.
    package static let leadingBytesMax = 65_536

    /// Results so far.
    package private(set) var results = 0
    private let resultsMax: Int
    private var scanner: AnswerObjectScanner
    /// Nil once something was handed out.
    private var leading: [UInt8]? = []

    /// Begins an answer.
    ///
    /// - Parameters:
    ///   - model: The name of the offer.
    package init(
        _ operation: TaskOperation, model: String, resultsMax: UInt32, encodesBase64: Bool
    ) {
        self.resultsMax = Int(resultsMax)
        scanner = AnswerObjectScanner(operation, model: model, encodesBase64: encodesBase64)
    }

    /// What is claimed at the end. Input is 0 where the engine never said it: an invented number
    /// would be billed.
    package var usage: Usage {
        Usage(
            inputTokens: UInt32(clamping: scanner.inputTokens ?? 0),
            outputTokens: UInt32(clamping: results))
    }

    /// Takes the next bytes; returns what to write now.
    package mutating func push(_ chunk: [UInt8]) throws(Fault) -> [Part] {
        var output = AnswerObjectScanner.Output()
        try scanner.push(chunk, into: &output)
        guard results + output.results <= resultsMax else { throw .tooManyResults }
        results += output.results
        if leading != nil {
            leading?.append(contentsOf: output.bytes)
            let count = leading?.count ?? 0
            guard results > 0 || count > Self.leadingBytesMax else { return [] }
            let ahead = count - output.bytes.count
            output.bytes = leading ?? []
            output.lastResultEnd += ahead
            leading = nil
        }
        guard output.results > 0 else {
            return output.bytes.isEmpty ? [] : [Part(bytes: output.bytes, results: 0)]
        }
        // The increment travels with the byte that completes the last of them (K3).
        let end = output.lastResultEnd
        let whole = Part(bytes: Array(output.bytes[..<end]), results: output.results)
        guard end < output.bytes.count else { return [whole] }
        return [whole, Part(bytes: Array(output.bytes[end...]), results: 0)]
    }

    /// The body has ended. Throws where the object is not whole or brought nothing.
    package func finish() throws(Fault) {
        guard scanner.isComplete else { throw .malformed }
        guard results > 0 else { throw .withoutResults }
    }
}
