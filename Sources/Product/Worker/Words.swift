/// A prompt cut into the tokens that the `echo` engine answers with.
///
/// Each token is a word (a run of scalars without the Unicode property White_Space) with the
/// whitespace that follows it; whitespace before the first word joins the first token. Joined,
/// the tokens are the text again. Whitespace without any word is one token; an empty text has
/// none. Tokens are cut as they are asked for, so that a long prompt is not held twice.
package struct Words: Sequence, IteratorProtocol {
    private var rest: Substring.UnicodeScalarView

    /// Begins at the first token of `text`.
    package init(_ text: String) {
        rest = Substring(text).unicodeScalars
    }

    /// The next token.
    package mutating func next() -> Substring? {
        guard !rest.isEmpty else { return nil }
        var hasWord = false
        var endsInWhitespace = false
        var index = rest.startIndex
        while index < rest.endIndex {
            let isWhitespace = rest[index].properties.isWhitespace
            if !isWhitespace, hasWord, endsInWhitespace { break }
            hasWord = hasWord || !isWhitespace
            endsInWhitespace = isWhitespace
            index = rest.index(after: index)
        }
        defer { rest = rest[index...] }
        return Substring(rest[..<index])
    }

    /// Whether every token was taken.
    package var isAtEnd: Bool { rest.isEmpty }

    /// How many words `text` has: what the built-in engines call its input tokens.
    package static func count(in text: String) -> Int {
        var count = 0
        var isInWord = false
        for scalar in text.unicodeScalars {
            let isWhitespace = scalar.properties.isWhitespace
            if !isWhitespace, !isInWord { count += 1 }
            isInWord = !isWhitespace
        }
        return count
    }
}
