import Foundation
import Testing

@Suite("What an SDK product asks of its user's package")
struct DependencyTests {
    /// Resolving takes seconds and the package registry's mirror: set SLUICE_RESOLVE_TEST to run.
    static let isAsked = ProcessInfo.processInfo.environment["SLUICE_RESOLVE_TEST"] != nil

    /// NIO, NIOSSL, swift-log, and what they themselves depend on.
    static let allowed: Set<String> = [
        "swift-nio", "swift-nio-ssl", "swift-log", "swift-atomics", "swift-collections",
        "swift-system",
    ]

    @Test(
        "depending on one SDK product resolves only NIO, NIOSSL, swift-log and what they need",
        .enabled(if: isAsked), arguments: ["SluiceClient", "SluiceSupplier"])
    func resolves(product: String) throws {
        let root = URL(fileURLWithPath: #filePath).deletingLastPathComponent()
            .deletingLastPathComponent().deletingLastPathComponent().deletingLastPathComponent()
        let scratch = FileManager.default.temporaryDirectory
            .appending(path: "sluice-user-\(UUID().uuidString)")
        defer { try? FileManager.default.removeItem(at: scratch) }
        let sources = scratch.appending(path: "Sources/User")
        try FileManager.default.createDirectory(at: sources, withIntermediateDirectories: true)
        try Data("import \(product)\n".utf8).write(to: sources.appending(path: "User.swift"))
        let manifest = """
            // swift-tools-version: 6.2
            import PackageDescription
            let package = Package(
                name: "User", platforms: [.macOS(.v15), .iOS(.v18)],
                dependencies: [.package(name: "sluice", path: "\(root.path())")],
                targets: [
                    .target(
                        name: "User",
                        dependencies: [.product(name: "\(product)", package: "sluice")])
                ])
            """
        try Data(manifest.utf8).write(to: scratch.appending(path: "Package.swift"))
        let process = Process()
        process.executableURL = URL(fileURLWithPath: "/usr/bin/env")
        process.arguments = ["swift", "package", "resolve", "--package-path", scratch.path()]
        process.standardError = FileHandle.nullDevice
        process.standardOutput = FileHandle.nullDevice
        try process.run()
        process.waitUntilExit()
        #expect(process.terminationStatus == 0)
        let resolved = try JSONDecoder().decode(
            Resolved.self, from: Data(contentsOf: scratch.appending(path: "Package.resolved")))
        let names = Set(resolved.pins.map(\.identity))
        #expect(names.isSubset(of: Self.allowed), "\(names.subtracting(Self.allowed))")
        #expect(names.isSuperset(of: ["swift-nio", "swift-nio-ssl"]))
    }

    private struct Resolved: Decodable {
        struct Pin: Decodable {
            let identity: String
        }

        let pins: [Pin]
    }
}
