/// The models that a gateway lists, and what it asks the broker for in their place. There is no
/// list of models on the wire, so a gateway knows those it was told.
package struct ModelBook: Sendable, Equatable {
    /// A name that clients use.
    package struct Entry: Sendable, Equatable {
        package var name: String
        /// Models to ask for, in this order.
        package var targets: [String]
    }

    /// In the order they were given.
    package private(set) var entries: [Entry] = []
    /// Other names are unknown here; else they go to the broker as they are.
    package var isClosed = false

    /// Why text names no model.
    package enum Fault: Error, Equatable {
        /// Not `NAME` or `NAME=TARGET,…`.
        case malformed
        case repeated
    }

    /// No entry: every name goes on as it is.
    package init() {}

    /// Reads `NAME` or `NAME=TARGET[,FALLBACK…]`, each as an entry. `|` separates targets as well, for
    /// lists that are separated by commas themselves.
    package init(_ texts: [String]) throws(Fault) {
        for text in texts {
            let parts = text.split(
                separator: "=", maxSplits: 1, omittingEmptySubsequences: false)
            let name = String(parts[0])
            let targets =
                parts.count == 1
                ? [name]
                : parts[1].split(omittingEmptySubsequences: false) { ",|".contains($0) }
                    .map(String.init)
            guard !name.isEmpty, !targets.contains(""), targets.count <= RequestOptions.modelsMax
            else { throw .malformed }
            guard entry(name) == nil else { throw .repeated }
            entries.append(Entry(name: name, targets: targets))
        }
    }

    /// The entry of this name.
    package func entry(_ name: String) -> Entry? {
        entries.first { $0.name == name }
    }

    /// The models to ask for one after the other when a client asks for `name`, or for those it
    /// listed itself; nil for a name that is unknown here.
    package func targets(of name: String, listed: [String]) -> [String]? {
        var targets: [String] = []
        for name in listed.isEmpty ? [name] : listed {
            guard let found = entry(name)?.targets ?? (isClosed ? nil : [name]) else { continue }
            for target in found where !targets.contains(target) { targets.append(target) }
        }
        return targets.isEmpty ? nil : targets
    }
}
