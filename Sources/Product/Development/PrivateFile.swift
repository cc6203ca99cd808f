import Foundation
import Glibc
package import SharedMemory

/// Small files of mode 0600, replaced as a whole.
package enum PrivateFile {
    /// Writes `text` aside, waits until it is on the device, and renames it to `path`.
    package static func write(_ text: String, to path: String) throws(DevelopmentError) {
        let aside = path + ".new"
        do {
            let file = try LocalFile.open(aside, flags: O_WRONLY | O_CREAT | O_TRUNC)
            try file.write(Array(text.utf8), at: 0)
            try file.synchronise()
            try LocalFileSystem.rename(aside, to: path)
        } catch {
            throw .file(path, reason: reason(error))
        }
    }

    /// The text of a file of at most 1 MiB; nil if there is none.
    package static func read(_ path: String) throws(DevelopmentError) -> String? {
        do {
            let file = try LocalFile.open(path, flags: O_RDONLY)
            return String(decoding: try file.read(byteCount: 1 << 20, at: 0), as: UTF8.self)
        } catch .vanished {
            return nil
        } catch {
            throw .file(path, reason: reason(error))
        }
    }

    /// Makes a directory of mode 0700 with all above it, and gives its real path.
    package static func makeDirectory(_ path: String) throws(DevelopmentError) -> String {
        do {
            try FileManager.default.createDirectory(
                atPath: path, withIntermediateDirectories: true,
                attributes: [.posixPermissions: 0o700])
        } catch {
            throw .file(path, reason: "cannot be made")
        }
        return URL(fileURLWithPath: path).resolvingSymlinksInPath().path
    }

    /// What went wrong, in a few words.
    package static func reason(_ error: InstanceError) -> String {
        switch error {
        case .unsafeDirectory: "is not a directory that only you may write to"
        case .noSpace: "no room on the file system"
        case .locked: "is locked by another process"
        case .damaged(let file): "the \(file.rawValue) is damaged"
        case .vanished: "does not exist"
        case .system(let call, let code): "\(call.rawValue) failed with errno \(code)"
        case .interrupted: "interrupted"
        }
    }
}
