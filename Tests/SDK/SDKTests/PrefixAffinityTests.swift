import SluiceClient
import Testing

@Suite struct PrefixAffinityTests {
    private func hex(_ bytes: [UInt8]) -> String {
        bytes.map { String($0 >> 4, radix: 16) + String($0 & 15, radix: 16) }.joined()
    }

    @Test(
        "digests are those of FIPS 180-4",
        arguments: [
            ("", "e3b0c44298fc1c149afbf4c8996fb92427ae41e4649b934ca495991b7852b855"),
            ("abc", "ba7816bf8f01cfea414140de5dae2223b00361a396177a9cb410ff61f20015ad"),
            (
                "abcdbcdecdefdefgefghfghighijhijkijkljklmklmnlmnomnopnopq",
                "248d6a61d20638b8e5c026930c3e6039a33ce45964ff2167f6ecedd419db06c1"
            ),
            (
                String(repeating: "a", count: 1_000_000),
                "cdc76e5c9914fb9281a1c7e284d73e67f1809a48a497200e046d39ccc7112cd0"
            ),
        ])
    func digests(_ text: String, _ expected: String) {
        #expect(hex(SHA256.digest(Array(text.utf8))) == expected)
    }

    @Test("authentication codes are those of RFC 4231")
    func codes() {
        let first = hmacSHA256(
            Array("Hi There".utf8), secret: [UInt8](repeating: 0x0b, count: 20))
        #expect(hex(first) == "b0344c61d8db38535ca8afceaf0bf12b881dc200c9833da726e9376c2e32cff7")
        let longKey = hmacSHA256(
            Array("Test Using Larger Than Block-Size Key - Hash Key First".utf8),
            secret: [UInt8](repeating: 0xaa, count: 131))
        #expect(hex(longKey) == "60e431591ee0b67f0d8a26aacbf5b77f8e0bc6213728c5140546040f0ee37f54")
    }

    @Test("a conversation that goes on shares the keys of what it began with, longest first [Q13]")
    func prefixes() {
        let affinity = PrefixAffinity(secret: [1, 2, 3])
        let messages = (0..<12).map { Array("message \($0)".utf8) }
        let before = affinity.keys(scope: [7], model: "m", messages: Array(messages.prefix(5)))
        let after = affinity.keys(scope: [7], model: "m", messages: Array(messages.prefix(7)))
        #expect(before.count == 5 && after.count == 7)
        #expect(Array(after.dropFirst(2)) == before)
        let long = affinity.keys(scope: [7], model: "m", messages: messages)
        #expect(long.count == 8 && long.last == before.last)
        #expect(long.allSatisfy { $0.count == 16 })
    }

    @Test("another secret, account, model or beginning shares nothing [Y7]")
    func separation() {
        let messages = [Array("hello".utf8), Array("you".utf8)]
        let affinity = PrefixAffinity(secret: [1])
        let keys = Set(affinity.keys(scope: [7], model: "m", messages: messages))
        let others = [
            PrefixAffinity(secret: [2]).keys(scope: [7], model: "m", messages: messages),
            affinity.keys(scope: [8], model: "m", messages: messages),
            affinity.keys(scope: [7], model: "n", messages: messages),
            affinity.keys(scope: [7], model: "m", messages: Array(messages.reversed())),
        ]
        for other in others { #expect(keys.isDisjoint(with: other)) }
        #expect(affinity.keys(scope: [7], model: "m", messages: [[UInt8]]()).isEmpty)
    }
}
