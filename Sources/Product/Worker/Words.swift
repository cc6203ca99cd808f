/// A prompt cut into the tokens that the `echo` engine answers with.
package enum Words {
    /// Each word (a run of scalars without the Unicode property White_Space) with the whitespace
    /// that follows it; whitespace before the first word joins the first token. Joined, the
    /// tokens are `text` again. Whitespace without any word is one token; an empty text has none.
    package static func tokens(of text: String) -> [Substring] {
        let scalars = text.unicodeScalars
        var tokens: [Substring] = []
        var start = scalars.startIndex
        var hasWord = false
        var endsInWhitespace = false
        var index = start
        while index < scalars.endIndex {
            let isWhitespace = scalars[index].properties.isWhitespace
            if !isWhitespace, hasWord, endsInWhitespace {
                tokens.append(Substring(scalars[start..<index]))
                start = index
            }
            if !isWhitespace { hasWord = true }
            endsInWhitespace = isWhitespace
            index = scalars.index(after: index)
        }
        if start < scalars.endIndex { tokens.append(Substring(scalars[start...])) }
        return tokens
    }

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
