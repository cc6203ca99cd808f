import Foundation

/// The processes that a configuration file speaks of.
package enum ConfiguredProcess: String, CaseIterable, Sendable {
    case broker, sidecar, worker, gateway
}

/// One setting: its name is that of its flag, in the file, in messages and, in capitals, in the
/// environment.
package struct ConfigurationKey: Sendable {
    /// What a value must be.
    package enum Kind: Sendable {
        /// Text of at least one character, as a path.
        case text
        /// A whole number of this range.
        case number(ClosedRange<Int>)
        /// One of these words.
        case word([String])
        /// A whole number of this range, or this word.
        case numberOrWord(ClosedRange<Int>, String)
        /// A number above 0, also with a fraction.
        case decimal
        /// Texts without commas: a list in the file, separated by commas elsewhere.
        case list
        /// True or false.
        case truth
        /// Names a database. With a password it is a secret, which no file of settings holds.
        case database
    }

    /// Its flag, without the dashes.
    package let name: String
    /// Its section of the file; nil: the file's top, as it means the same to every process.
    package let section: ConfiguredProcess?
    /// Who reads it.
    package let readers: Set<ConfiguredProcess>
    package let kind: Kind
    /// What counts where nobody says anything.
    package let fallback: String?
    /// Words for a default that the process works out.
    package let fallbackWords: String?
    /// A running process takes a new value over on SIGHUP.
    package let isReloaded: Bool

    init(
        _ name: String, in section: ConfiguredProcess?, readBy readers: Set<ConfiguredProcess>,
        _ kind: Kind, fallback: String? = nil, fallbackWords: String? = nil,
        isReloaded: Bool = false
    ) {
        self.name = name
        self.section = section
        self.readers = readers
        self.kind = kind
        self.fallback = fallback
        self.fallbackWords = fallbackWords
        self.isReloaded = isReloaded
    }

    /// Its place in the file, as messages name it.
    package var path: String { section.map { "\($0.rawValue).\(name)" } ?? name }

    /// Its variable in the environment.
    package var variable: String {
        // The name that the store's URL had before there was a file of settings.
        if case .database = kind { return "SLUICE_STORE" }
        return "SLUICE_" + path.uppercased().map { "-.".contains($0) ? "_" : "\($0)" }.joined()
    }

    /// Every setting, in the order in which it is shown.
    package static let all: [ConfigurationKey] = [
        ConfigurationKey("run", in: nil, readBy: [.broker, .sidecar], .text),
        ConfigurationKey(
            "data", in: nil, readBy: [.broker, .sidecar], .text,
            fallbackWords: "not needed by a broker that is told its directory"),
        broker("directory", .text, fallbackWords: "DATA/directory"),
        broker("certificate", .text, isReloaded: true),
        broker("private-key", .text, isReloaded: true),
        broker(
            "client-ca", .text, fallbackWords: "client certificates are not asked for",
            isReloaded: true),
        broker("host", .text, fallback: "127.0.0.1"),
        broker("port", .number(0...65_535), fallback: "7700"),
        broker("backend", .word(["auto", "ring", "epoll"]), fallback: "auto"),
        broker("shards", .number(1...63), fallbackWords: "one a processor"),
        broker("dispatcher", .word(["auto", "shard", "thread"]), fallback: "auto"),
        broker("body-memory", .number(1...1_024), fallback: "256"),
        broker("answer-memory", .number(1...1_024), fallback: "256"),
        broker("drain-seconds", .number(1...3_600), fallback: "30"),
        sidecar("store", .database, fallbackWords: "DATA/sluice.sqlite"),
        sidecar("store-file", .text, fallbackWords: "none"),
        sidecar("master-key-file", .text, fallbackWords: "segments in clear"),
        sidecar("segment-budget-mib", .number(32...1_048_576), fallback: "1024"),
        worker("broker", .list, fallbackWords: "none"),
        worker("ca", .text, fallbackWords: "the system's authorities"),
        worker("token-file", .text, fallbackWords: "SLUICE_TOKEN in the environment"),
        worker("certificate", .text, fallbackWords: "none"),
        worker("private-key", .text, fallbackWords: "none"),
        worker("upstream", .text, fallbackWords: "none"),
        worker("upstream-key-file", .text, fallbackWords: "SLUICE_UPSTREAM_KEY, if set"),
        worker("engine", .list, fallbackWords: "none"),
        worker("tokens-per-second", .decimal, fallbackWords: "as the engine likes"),
        worker("slots", .numberOrWord(1...65_536, "auto"), fallback: "8"),
        worker("model", .list, fallbackWords: "every one"),
        worker("operation", .list, fallbackWords: "chat and completion"),
        worker(
            "supply-type",
            .word(["community", "dedicated", "datacenter", "provider", "platform"]),
            fallback: "community"),
        worker("input-price", .number(0...priceMax), fallback: "0"),
        worker("output-price", .number(0...priceMax), fallback: "0"),
        worker("cached-price", .number(0...priceMax), fallbackWords: "as other prompt tokens"),
        worker(
            "reasoning-price", .number(0...priceMax), fallbackWords: "as other answer tokens"),
        worker(
            "data-policy", .word(["unstated", "no-training", "no-retention"]),
            fallback: "unstated"),
        worker("region", .text, fallbackWords: "not stated"),
        worker("drain-seconds", .number(0...3_600), fallback: "30"),
        gateway("broker", .list, fallbackWords: "none"),
        gateway("ca", .text, fallbackWords: "the system's authorities"),
        gateway("host", .text, fallback: "127.0.0.1"),
        gateway("port", .number(0...65_535), fallback: "8080"),
        gateway("metrics-host", .text, fallback: "127.0.0.1"),
        gateway("metrics-port", .number(0...65_535), fallbackWords: "no metrics"),
        gateway("certificate", .text, fallbackWords: "plain HTTP", isReloaded: true),
        gateway("private-key", .text, fallbackWords: "plain HTTP", isReloaded: true),
        gateway("model", .list, fallbackWords: "every name goes to the broker as it is"),
        gateway("listed-only", .truth, fallback: "false"),
        gateway("body-bytes", .number(1_024...1_073_741_824), fallback: "16777216"),
        gateway("keep-alive-seconds", .number(1...3_600), fallback: "5"),
        gateway("connect-seconds", .number(1...3_600), fallback: "10"),
        gateway("grace-seconds", .number(1...3_600), fallback: "30"),
        gateway("affinity-secret-file", .text, fallbackWords: "a new secret each start"),
    ]

    /// The highest price that an offer can have, micro-USD per million tokens.
    private static let priceMax = 4_294_967_295

    private static func broker(
        _ name: String, _ kind: Kind, fallback: String? = nil, fallbackWords: String? = nil,
        isReloaded: Bool = false
    ) -> ConfigurationKey {
        ConfigurationKey(
            name, in: .broker, readBy: [.broker], kind, fallback: fallback,
            fallbackWords: fallbackWords, isReloaded: isReloaded)
    }

    private static func sidecar(
        _ name: String, _ kind: Kind, fallback: String? = nil, fallbackWords: String? = nil
    ) -> ConfigurationKey {
        ConfigurationKey(
            name, in: .sidecar, readBy: [.sidecar], kind, fallback: fallback,
            fallbackWords: fallbackWords)
    }

    private static func worker(
        _ name: String, _ kind: Kind, fallback: String? = nil, fallbackWords: String? = nil
    ) -> ConfigurationKey {
        ConfigurationKey(
            name, in: .worker, readBy: [.worker], kind, fallback: fallback,
            fallbackWords: fallbackWords)
    }

    private static func gateway(
        _ name: String, _ kind: Kind, fallback: String? = nil, fallbackWords: String? = nil,
        isReloaded: Bool = false
    ) -> ConfigurationKey {
        ConfigurationKey(
            name, in: .gateway, readBy: [.gateway], kind, fallback: fallback,
            fallbackWords: fallbackWords, isReloaded: isReloaded)
    }

    /// Whether a database's URL carries a password: `scheme://user:password@host`, or a parameter.
    static func holdsPassword(_ url: String) -> Bool {
        guard let start = url.range(of: "://")?.upperBound else { return false }
        let rest = url[start...]
        let authority = rest.prefix { $0 != "/" && $0 != "?" }
        if let at = authority.lastIndex(of: "@"), authority[..<at].contains(":") { return true }
        return rest.contains("password=")
    }

    /// What is wrong with a value, as what was expected; nil when nothing is.
    func expectation(of value: String) -> String? {
        switch kind {
        case .text, .database:
            value.isEmpty ? "expected text that is not empty" : nil
        case .number(let range):
            Int(value).map { range.contains($0) } == true
                ? nil : "expected a whole number from \(range.lowerBound) to \(range.upperBound)"
        case .numberOrWord(let range, let word):
            value == word || Int(value).map { range.contains($0) } == true
                ? nil
                : "expected a whole number from \(range.lowerBound) to \(range.upperBound), "
                    + "or \(word)"
        case .decimal:
            Double(value).map { (0.001...1_000_000).contains($0) } == true
                ? nil : "expected a number from 0.001 to 1000000"
        case .list:
            // A list of nothing is as good as none.
            !value.isEmpty
                && value.split(separator: ",", omittingEmptySubsequences: false)
                    .contains { $0.isEmpty }
                ? "expected texts, none of them empty" : nil
        case .truth:
            value == "true" || value == "false" ? nil : "expected true or false"
        case .word(let words):
            words.contains(value)
                ? nil
                : "expected \(words.dropLast().joined(separator: ", ")) or \(words.last ?? "")"
        }
    }
}
