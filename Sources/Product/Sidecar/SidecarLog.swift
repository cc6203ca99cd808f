import Foundation

/// What the sidecar says: a closed vocabulary, whole numbers and fixed words only, one JSON object
/// a line on standard error.
enum SidecarEvent: String {
    case started, stopping, stopped
    case instanceFound, instanceRemoved, instanceDamaged, sequenceGap
    case segmentsInClear, masterKeyMissing, masterKeyUnknown, segmentForged
    case segmentsDamaged, diskFull, diskHasRoom, budgetUsed, syncFailed, fileFailed
    case storeBusy, storeFull, storeFailed, storeUnreachable, storeRefused, storeRecovered
    case tasksLost, tasksUnposted, leasesClosed, alreadyRunning, directoryUnusable, directoryFailed
    case signalsUnusable
    case expiredRemoved, retentionFailed
}

/// Names of the numbers that accompany an event.
enum SidecarField: String {
    case instances, records, instance, expected, found, count, code, segments, bytes, duty, segment
}

/// Writes events to standard error.
enum SidecarLog {
    static func write(_ event: SidecarEvent, _ fields: KeyValuePairs<SidecarField, UInt64> = [:]) {
        var line = "{\"event\":\"\(event.rawValue)\""
        for (name, value) in fields { line += ",\"\(name.rawValue)\":\(value)" }
        line += "}\n"
        // A log that nobody reads any more is no reason to stop.
        try? FileHandle.standardError.write(contentsOf: Data(line.utf8))
    }
}

/// Lets a repeated event through at most once a minute.
struct EventGate {
    private var nextUs: UInt64 = 0

    /// Whether to speak now; `nowUs` is monotonic.
    mutating func opens(nowUs: UInt64) -> Bool {
        guard nowUs >= nextUs else { return false }
        nextUs = nowUs + 60_000_000
        return true
    }
}
