package import SluiceWire

/// What the payloads of an answer are, joined in order (`Protocol/Payloads.md`).
package enum AnswerForm: Sendable {
    /// UTF-8.
    case text
    /// (u32 length, event) again and again.
    case events
    /// One JSON object.
    case object

    /// The form that operation and encoding ask for.
    package init(_ terms: TaskTerms) {
        switch terms.encoding {
        case .text: self = .text
        case .openAI: self = terms.operation.countsResults ? .object : .events
        }
    }
}
