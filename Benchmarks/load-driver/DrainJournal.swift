import ArgumentParser
import Glibc
import SharedMemory

/// Stands in for a sidecar: releases what the broker's journal holds, so that a benchmark of
/// hours needs no disk.
struct DrainJournal: ParsableCommand {
    static let configuration = CommandConfiguration(
        commandName: "drain", abstract: "Release the records of the instances of a directory.")

    @Option(name: .customLong("run"), help: "The broker's run directory.")
    var runDirectory: String

    func run() throws {
        let instances = try InstanceDirectory.findInstances(runDirectory)
        guard let instance = instances.first else {
            throw ValidationError("no instance in \(runDirectory)")
        }
        let reader = try JournalReader(runDirectory: runDirectory, instance: instance)
        while getppid() != 1 {
            reader.release(through: reader.publishedSequence)
            usleep(5_000)
        }
    }
}
