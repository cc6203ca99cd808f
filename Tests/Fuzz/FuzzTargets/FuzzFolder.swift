import Glibc
import SharedMemory
import Synchronization

/// A folder of files for one input, removed with them when the input is done.
struct FuzzFolder: ~Copyable {
    let path: String
    private static let count = Atomic<Int>(0)

    init() {
        let parent = getenv("TMPDIR").map { String(cString: $0) } ?? "/tmp"
        let number = Self.count.add(1, ordering: .relaxed).newValue
        path = "\(parent)/sluice-fuzz-\(getpid())-\(number)"
        Self.must { () throws(InstanceError) in _ = try LocalFileSystem.makeDirectory(path) }
    }

    deinit {
        Self.remove(path)
    }

    /// Makes a folder inside this one.
    func makeFolder(_ name: String) {
        let inner = path + "/" + name
        Self.must { () throws(InstanceError) in _ = try LocalFileSystem.makeDirectory(inner) }
    }

    /// Makes or continues a file.
    func write(_ name: String, _ bytes: [UInt8], at offset: Int = 0) {
        let file = path + "/" + name
        Self.must { () throws(InstanceError) in
            try LocalFile.openForWriting(file, create: true).write(bytes, at: offset)
        }
    }

    /// All bytes of a file.
    func read(_ name: String) -> [UInt8] {
        var bytes: [UInt8] = []
        let file = path + "/" + name
        Self.must { () throws(InstanceError) in
            let file = try LocalFile.openForReading(file)
            bytes = try file.read(byteCount: file.byteCount(), at: 0)
        }
        return bytes
    }

    private static func remove(_ path: String) {
        must { () throws(InstanceError) in
            for name in try LocalFileSystem.list(path) {
                let inner = path + "/" + name
                do {
                    try LocalFileSystem.remove(inner)
                } catch {
                    remove(inner)
                }
            }
            try LocalFileSystem.removeDirectory(path)
        }
    }

    /// The folder is this process's own: what fails here is the machine's fault, not the input's.
    private static func must(_ work: () throws(InstanceError) -> Void) {
        do throws(InstanceError) {
            try work()
        } catch {
            preconditionFailure("a file of the fuzzer cannot be made, read or removed: \(error)")
        }
    }
}
