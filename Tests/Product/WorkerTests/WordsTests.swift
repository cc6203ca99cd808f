import Testing
import Worker

@Suite struct WordsTests {
    @Test func eachWordTakesTheWhitespaceThatFollowsIt() {
        #expect(Array(Words("a b  c\n")) == ["a ", "b  ", "c\n"])
        #expect(Array(Words("  a b")) == ["  a ", "b"])
        #expect(Array(Words(" \n")) == [" \n"])
        #expect(Array(Words("")) == [])
        #expect(Array(Words("a\r\nb\u{3000}c")) == ["a\r\n", "b\u{3000}", "c"])
    }

    @Test func joinedTokensAreThePromptByteForByte() {
        for seed in 0..<1_000 {
            var generator = SeededGenerator(seed: UInt64(seed))
            let prompt = generator.text(upTo: 50)
            let tokens = Array(Words(prompt))
            #expect(Array(tokens.joined().utf8) == Array(prompt.utf8))
            #expect(tokens.allSatisfy { !$0.isEmpty })
            let words = Words.count(in: prompt)
            #expect(tokens.count == (prompt.isEmpty ? 0 : max(1, words)))
        }
    }

    @Test func wordsAreCountedWhereverWhitespaceStands() {
        #expect(Words.count(in: "") == 0)
        #expect(Words.count(in: " \u{2028}\t") == 0)
        #expect(Words.count(in: " one two\nthree ") == 3)
    }
}
