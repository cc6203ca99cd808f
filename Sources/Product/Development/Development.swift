import Foundation
import SharedMemory

/// `sluice dev`: everything on one machine, under one data directory.
package enum Development {
    /// Takes the directory's lock, makes the certificates and keys that are missing and the run
    /// directory, then runs broker, sidecar, worker and gateway until SIGINT or SIGTERM and until they
    /// have ended.
    ///
    /// - Parameters:
    ///   - emit: Takes the JSON lines meant for programs.
    ///   - warn: Takes one-line notes for a person.
    package static func run(
        data: String, options: DevelopmentOptions, emit: @escaping @Sendable (JSONLine) -> Void,
        warn: @escaping @Sendable (String) -> Void
    ) async throws(DevelopmentError) {
        let home = try DevelopmentHome(data)
        let lock = try takeLock(home)
        let isLocal = ["127.0.0.1", "::1", "localhost"].contains(options.host)
        try home.certificates.make(names: isLocal ? [] : [options.host], replace: !isLocal)
        try home.makeMasterKey()
        let keys = try DevelopmentKeys.openOrMake(home)
        let run = home.runDirectory
        if !run.isOnTmpfs {
            warn("/dev/shm cannot be used: the run directory is \(run.path), on a disk")
        }
        _ = try PrivateFile.makeDirectory(run.path)
        let supervisor = Supervisor(
            home: home, run: run, keys: keys, options: options, emit: emit, warn: warn)
        let signals = StopSignals(onStop: supervisor.requestStop)
        defer { signals.cancel() }
        try await supervisor.serve()
        // Held until here, whatever the optimiser thinks of it.
        _ = consume lock
    }

    private static func takeLock(
        _ home: DevelopmentHome
    ) throws(DevelopmentError) -> InstanceLock {
        do {
            return try InstanceLock(path: home.lockPath, create: true)
        } catch .locked {
            throw .alreadyRunning(directory: home.path)
        } catch {
            throw .file(home.lockPath, reason: PrivateFile.reason(error))
        }
    }
}
