/// SplitMix64: the same numbers from the same seed on every machine.
struct SeededGenerator: RandomNumberGenerator {
    private var state: UInt64

    init(seed: UInt64) {
        state = seed
    }

    mutating func next() -> UInt64 {
        state &+= 0x9E37_79B9_7F4A_7C15
        var mixed = state
        mixed = (mixed ^ (mixed >> 30)) &* 0xBF58_476D_1CE4_E5B9
        mixed = (mixed ^ (mixed >> 27)) &* 0x94D0_49BB_1331_11EB
        return mixed ^ (mixed >> 31)
    }
}

extension SeededGenerator {
    /// A text of scalars that tend to break things: quotes, escapes, controls, whitespace of many
    /// kinds, combining marks, code points of every UTF-8 length.
    mutating func text(upTo length: Int) -> String {
        let scalars: [Unicode.Scalar] = [
            "a", "Z", "\"", "\\", "/", "\n", "\r", "\t", " ", "\u{0}", "\u{1F}", "\u{7F}", "\u{85}",
            "\u{A0}", "\u{2003}", "\u{2028}", "\u{3000}", "\u{301}", "é", "ß", "中", "\u{FFFD}",
            "😀", "\u{10FFFF}", "\u{200D}", ":", "{", "}", "[", "]", ",",
        ]
        var text = String.UnicodeScalarView()
        for _ in 0..<Int.random(in: 0...length, using: &self) {
            text.append(scalars[Int.random(in: 0..<scalars.count, using: &self)])
        }
        return String(text)
    }
}
