import LinuxIO

/// The broker's log: one JSON object a line on standard error. A line is names from the
/// source code and numbers; there is no way to hand it text that came from a peer.
struct BrokerLog {
    func event(
        _ name: StaticString, reason: StaticString? = nil, _ numbers: (StaticString, UInt64)...
    ) {
        var line = "{\"event\":\"\(name)\",\"timeUs\":\(WallClock.nowUs)"
        if let reason { line += ",\"reason\":\"\(reason)\"" }
        for (key, number) in numbers { line += ",\"\(key)\":\(number)" }
        line += "}\n"
        StandardStream.error.write(line)
    }
}
