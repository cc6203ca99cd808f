import ArgumentParser
import Foundation
import LinuxIO
import ProcessConfiguration
import Sidecar
import Store
import TLSEngine

/// `sluice-sidecar`: makes the records of all brokers on this machine durable.
@main struct Entry: ParsableCommand {
    static let configuration = CommandConfiguration(
        commandName: "sluice-sidecar",
        abstract: "Copies the brokers' journals to disk and applies them to the database.",
        discussion: """
            Settings come from flags, else from the environment (SLUICE_DATA for --data), else \
            from the file of --config, else from defaults; `sluice config show` says which.
            """)

    @Option(help: "File of settings, JSON. Also SLUICE_CONFIG.")
    var config: String?

    @Option(
        name: .customLong("data"),
        help: "Directory of journal segments and database; made if missing.")
    var dataDirectory: String?

    @Option(
        name: .customLong("run"),
        help: "Directory in which brokers make their instances, on tmpfs; made if missing.")
    var runDirectory: String?

    @Option(
        help: ArgumentHelp(
            "The database: the path of an SQLite file, or a postgresql:// URL.",
            discussion: """
                sluice.sqlite in the data directory if neither this nor --store-file nor \
                SLUICE_STORE in the environment says otherwise. A URL with a password is taken \
                from the file or the environment only.
                """))
    var store: String?

    @Option(help: "File whose first line names the database, in place of --store.")
    var storeFile: String?

    @Option(
        help: ArgumentHelp(
            "File of the master key under which journal segments are sealed.",
            discussion: """
                SLUICE_MASTER_KEY in the environment if not given; without either the segments \
                are written in clear. After a change of the key give the new one first and the \
                old one below it until the segments of before are applied.
                """))
    var masterKeyFile: String?

    @Option(help: "Most MiB of journal segments that may wait for the database; else 1024.")
    var segmentBudgetMib: String?

    @Flag(help: "Stop when standard input closes, as a child of a process that holds it open.")
    var parentPipe = false

    func validate() throws {
        guard store == nil || storeFile == nil else {
            throw ValidationError("--store and --store-file exclude each other")
        }
        if let store, StoreLocation(store).holdsPassword {
            throw ValidationError(
                "a password has no place on the command line: use --store-file or SLUICE_STORE")
        }
    }

    func run() throws {
        // It holds the master key: a crash must leave no memory behind.
        guard ProcessGuard.harden() else {
            throw ValidationError(
                "cannot start again with crash backtraces off; is /proc mounted?")
        }
        let settings: EffectiveConfiguration
        do {
            settings = try source.read()
        } catch {
            throw ValidationError("\(error)")
        }
        let options = try Self.sidecar(settings)
        let sidecar = Sidecar(options)
        let end = sidecar.run(handlingSignals: true) {
            // Not before: a thread that is older than `run` would take the signals for itself.
            if parentPipe {
                Thread.detachNewThread {
                    while !FileHandle.standardInput.availableData.isEmpty {}
                    sidecar.stop()
                }
            }
            try? FileHandle.standardOutput.write(contentsOf: Data("{\"event\":\"ready\"}\n".utf8))
            ServiceSupervisor.notify(.ready)
        }
        throw ExitCode(end.rawValue)
    }

    private static func masterKeys(_ settings: EffectiveConfiguration) throws -> MasterKeys? {
        let source: MasterKeySource
        if let file = settings.text("master-key-file") {
            source = .file(file)
        } else if ProcessInfo.processInfo.environment[MasterKeySource.variable] != nil {
            source = .environment(MasterKeySource.variable)
        } else {
            return nil
        }
        do throws(SealingError) {
            return try source.read()
        } catch {
            throw ValidationError(error.words)
        }
    }

    private var source: ConfigurationSource {
        ConfigurationSource(
            .sidecar, path: config,
            flags: [
                "run": runDirectory, "data": dataDirectory, "store": store,
                "store-file": storeFile, "master-key-file": masterKeyFile,
                "segment-budget-mib": segmentBudgetMib,
            ], environment: ProcessInfo.processInfo.environment)
    }

    private static func sidecar(_ settings: EffectiveConfiguration) throws -> Sidecar.Options {
        let data = settings.required("data")
        var options = Sidecar.Options(
            dataDirectory: data, runDirectory: settings.required("run"))
        // First of all, so that OpenSSL takes its heap before the database's client uses it.
        options.masterKeys = try masterKeys(settings)
        options.segmentBudgetBytes = (settings.number("segment-budget-mib") ?? 0) << 20
        options.store = try location(settings) ?? options.store
        return options
    }

    private static func location(_ settings: EffectiveConfiguration) throws -> StoreLocation? {
        if let store = settings.text("store") { return StoreLocation(store) }
        guard let storeFile = settings.text("store-file") else { return nil }
        guard let text = try? String(contentsOfFile: storeFile, encoding: .utf8),
            let line = text.split(separator: "\n").first
        else { throw ValidationError("--store-file cannot be read: \(storeFile)") }
        return StoreLocation(line.trimmingCharacters(in: .whitespaces))
    }
}
