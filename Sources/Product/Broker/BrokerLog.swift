import LinuxIO

/// The broker's log: one JSON object a line on standard error. A line is a name from the source
/// code and numbers; there is no way to hand it text that came from a peer.
struct BrokerLog {
    func event(_ name: StaticString, _ numbers: (StaticString, UInt64)...) {
        var line = "{\"event\":\"\(name)\",\"timeUs\":\(WallClock.nowUs)"
        for (key, number) in numbers { line += ",\"\(key)\":\(number)" }
        line += "}\n"
        StandardStream.error.write(line)
    }
}
