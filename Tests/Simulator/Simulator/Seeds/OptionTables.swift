/// The options by name: for reports, for the command line and for whoever makes a failing run
/// smaller.
extension SimulationOptions {
    /// What can be turned off alone.
    package struct Switch: Sendable {
        package let name: String
        let path: any (WritableKeyPath<SimulationOptions, Bool> & Sendable)
    }

    /// What can be made less.
    package struct Size: Sendable {
        package let name: String
        let path: any (WritableKeyPath<SimulationOptions, Int> & Sendable)
        /// The least that makes sense.
        package let least: Int
    }

    /// Faults first, then narrow limits.
    package static let switches: [Switch] = [
        Switch(name: "stalls", path: \.stalls), Switch(name: "resets", path: \.resets),
        Switch(name: "halfOpen", path: \.halfOpen),
        Switch(name: "clockJumps", path: \.clockJumps),
        Switch(name: "sidecarCrashes", path: \.sidecarCrashes),
        Switch(name: "storeFaults", path: \.storeFaults),
        Switch(name: "fullDisks", path: \.fullDisks),
        Switch(name: "powerFailures", path: \.powerFailures),
        Switch(name: "prepaid", path: \.prepaid),
        Switch(name: "supplierCrashes", path: \.supplierCrashes),
        Switch(name: "earlyEnds", path: \.earlyEnds),
        Switch(name: "stubborn", path: \.stubbornSuppliers),
        Switch(name: "slowReaders", path: \.slowReaders),
        Switch(name: "deafReaders", path: \.deafReaders),
        Switch(name: "shortDeadlines", path: \.shortDeadlines),
        Switch(name: "cancels", path: \.cancels), Switch(name: "drains", path: \.drains),
        Switch(name: "revocations", path: \.revocations),
        Switch(name: "brokerCrashes", path: \.brokerCrashes),
        Switch(name: "supplyChanges", path: \.supplyChanges),
        Switch(name: "byzantine", path: \.byzantine),
        Switch(name: "slowUploads", path: \.slowUploads),
        Switch(name: "priorities", path: \.priorities),
        Switch(name: "bursts", path: \.bursts),
        Switch(name: "tinyArena", path: \.tinyArena), Switch(name: "tinyQueue", path: \.tinyQueue),
        Switch(name: "tinyControl", path: \.tinyControl),
        Switch(name: "tinyRing", path: \.tinyRing), Switch(name: "fewStreams", path: \.fewStreams),
        Switch(name: "apart", path: \.dispatcherIsApart),
        Switch(name: "echoes", path: \.echoes),
    ]

    /// Peers first: fewer of them make the shortest stories.
    package static let sizes: [Size] = [
        Size(name: "brokers", path: \.brokers, least: 1),
        Size(name: "clients", path: \.clients, least: 1),
        Size(name: "suppliers", path: \.suppliers, least: 1),
        Size(name: "shards", path: \.shards, least: 1),
        Size(name: "accounts", path: \.accounts, least: 1),
        Size(name: "models", path: \.models, least: 1),
        Size(name: "tasks", path: \.tasksPerClient, least: 1),
        Size(name: "slots", path: \.slotsPerOffer, least: 1),
        Size(name: "frames", path: \.answerFramesMax, least: 1),
        Size(name: "body", path: \.bodyBytesMax, least: 0),
        Size(name: "faultsMs", path: \.faultsMs, least: 100),
    ]

    /// Changes options by words as a report prints them: `clients=1 stalls=0 skip=3,8`. False, and
    /// nothing more is changed, at a word that is none of them.
    package mutating func apply(_ words: String) -> Bool {
        for word in words.split(separator: " ") {
            let parts = word.split(separator: "=")
            guard parts.count == 2 else { return false }
            let (name, value) = (String(parts[0]), parts[1])
            if name == "skip" {
                for number in value.split(separator: ",") {
                    guard let fault = Int(number) else { return false }
                    skippedFaults.insert(fault)
                }
            } else if let entry = Self.switches.first(where: { $0.name == name }) {
                guard value == "0" || value == "1" else { return false }
                self[keyPath: entry.path] = value == "1"
            } else if let entry = Self.sizes.first(where: { $0.name == name }) {
                guard let number = Int(value), number >= entry.least else { return false }
                self[keyPath: entry.path] = number
            } else {
                return false
            }
        }
        makeSound()
        return true
    }

    /// What an option takes for granted of others, after changes.
    package mutating func makeSound() {
        if shards == 1 { dispatcherIsApart = false }
        suppliers = max(suppliers, brokers)
    }

    /// The words that make these options of `other`.
    package func words(from other: SimulationOptions) -> String {
        var words: [String] = []
        for entry in Self.switches where self[keyPath: entry.path] != other[keyPath: entry.path] {
            words.append("\(entry.name)=\(self[keyPath: entry.path] ? 1 : 0)")
        }
        for entry in Self.sizes where self[keyPath: entry.path] != other[keyPath: entry.path] {
            words.append("\(entry.name)=\(self[keyPath: entry.path])")
        }
        let skipped = skippedFaults.subtracting(other.skippedFaults).sorted()
        if !skipped.isEmpty {
            words.append("skip=" + skipped.map { "\($0)" }.joined(separator: ","))
        }
        return words.joined(separator: " ")
    }

    /// Whether anything is turned on that may keep a task from completing.
    package var isCalm: Bool {
        !Self.switches.contains {
            !["fewStreams", "apart", "echoes"].contains($0.name) && self[keyPath: $0.path]
        }
    }
}
