extension JSONCursor {
    /// Moves over the member `input` of an embeddings request; returns how many embeddings it asks
    /// for: one for a text or an array of token numbers, else one for each element. Nil for a value
    /// of any other kind.
    package mutating func embeddingInputs() throws(JSONFault) -> Int? {
        switch try peekKind() {
        case .string:
            try skipValue()
            return 1
        case .array: break
        case .object, .number, .boolean, .null:
            try skipValue()
            return nil
        }
        var count = 0
        var isOneInput = false
        try beginArray()
        while try nextElement() {
            if count == 0 { isOneInput = try peekKind() == .number }
            try skipValue()
            count += 1
        }
        return isOneInput ? 1 : count
    }
}
