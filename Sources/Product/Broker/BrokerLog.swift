import LinuxIO
import SharedMemory
import SluiceWire

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

    /// An earlier instance that cannot be closed; named as its directory is.
    func instanceDamaged(_ instance: UInt64, _ file: SharedFile) {
        StandardStream.error.write(
            "{\"event\":\"instance_damaged\",\"timeUs\":\(WallClock.nowUs),"
                + "\"instance\":\"\(hexadecimal(instance))\",\"file\":\"\(file.rawValue)\","
                + "\"text\":\"its \(file.rawValue) is damaged, so what it left open has no end yet; "
                + "it is left as it is; see RUNBOOK.md, A damaged instance\"}\n")
    }
}
