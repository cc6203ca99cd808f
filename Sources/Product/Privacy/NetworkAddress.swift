/// Network addresses as people write them.
package enum NetworkAddress {
    /// 4 bytes of IPv4 or 16 of IPv6; nil for what is neither. Nothing is looked up.
    package static func bytes(_ text: some StringProtocol) -> [UInt8]? {
        text.contains(":") ? sixteen(text) : four(text)
    }

    /// Four numbers without leading zeros, which some read as octal.
    private static func four(_ text: some StringProtocol) -> [UInt8]? {
        let parts = text.split(separator: ".", omittingEmptySubsequences: false)
        guard parts.count == 4 else { return nil }
        var bytes: [UInt8] = []
        for part in parts {
            guard let byte = UInt8(part), String(byte) == part else { return nil }
            bytes.append(byte)
        }
        return bytes
    }

    /// RFC 4291, 2.2: eight groups, one run of them as `::`, the last two perhaps as IPv4.
    private static func sixteen(_ text: some StringProtocol) -> [UInt8]? {
        let halves = String(text).splitOnce("::")
        guard let head = groups(halves.first, mayEndInFour: halves.rest == nil) else { return nil }
        guard let rest = halves.rest else { return head.count == 16 ? head : nil }
        guard let tail = groups(rest, mayEndInFour: true), head.count + tail.count <= 14 else {
            return nil
        }
        return head + [UInt8](repeating: 0, count: 16 - head.count - tail.count) + tail
    }

    private static func groups(_ text: Substring, mayEndInFour: Bool) -> [UInt8]? {
        guard !text.isEmpty else { return [] }
        let parts = text.split(separator: ":", omittingEmptySubsequences: false)
        guard parts.count <= 8 else { return nil }
        var bytes: [UInt8] = []
        for (index, part) in parts.enumerated() {
            if mayEndInFour, index == parts.count - 1, part.contains(".") {
                guard let last = four(part) else { return nil }
                bytes += last
                continue
            }
            guard (1...4).contains(part.utf8.count),
                part.utf8.allSatisfy({ $0 != UInt8(ascii: "+") && $0 != UInt8(ascii: "-") }),
                let group = UInt16(part, radix: 16)
            else { return nil }
            bytes += [UInt8(group >> 8), UInt8(truncatingIfNeeded: group)]
        }
        return bytes.count <= 16 ? bytes : nil
    }
}

extension String {
    /// What stands before the first `mark`, and behind it if there is one.
    fileprivate func splitOnce(_ mark: String) -> (first: Substring, rest: Substring?) {
        var index = startIndex
        while index < endIndex {
            if self[index...].hasPrefix(mark) {
                return (self[..<index], self[self.index(index, offsetBy: mark.count)...])
            }
            formIndex(after: &index)
        }
        return (self[...], nil)
    }
}
