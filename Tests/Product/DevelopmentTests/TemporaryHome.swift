import Development
import Foundation

/// A data directory of a test's own, removed with this value.
final class TemporaryHome {
    let home: DevelopmentHome

    init() throws {
        let folder = FileManager.default.temporaryDirectory
            .appendingPathComponent("development-test-" + UUID().uuidString)
        home = try DevelopmentHome(folder.path)
    }

    deinit {
        try? FileManager.default.removeItem(atPath: home.path)
    }

    /// The permission bits of a file in the home.
    func mode(_ path: String) throws -> Int? {
        let attributes = try FileManager.default.attributesOfItem(atPath: path)
        return (attributes[.posixPermissions] as? NSNumber)?.intValue
    }
}
