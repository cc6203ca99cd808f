package import SharedMemory
import SluiceWire

/// The number of a node: of one data directory and its sidecar. Leases belong to the node whose
/// broker instances hold them.
package enum NodeNumber {
    private static let digitCount = 16

    /// Reads `DATA/node`, making it with a random number other than 0 if need be (mode 0600).
    package static func openOrMake(dataDirectory: String) throws(InstanceError) -> UInt64 {
        let file = try LocalFile.openForWriting(dataDirectory + "/node", create: true)
        // Two processes may come first together: the second finds what the first has written.
        try file.lock(wait: true)
        let bytes = try file.read(byteCount: digitCount + 1, at: 0)
        let text = String(decoding: bytes.prefix(digitCount), as: UTF8.self)
        if bytes.count >= digitCount, let number = UInt64(text, radix: 16), number != 0 {
            return number
        }
        // The system's generator: the kernel's random numbers.
        let number = UInt64.random(in: 1 ... .max)
        try file.truncate(byteCount: 0)
        try file.write(Array((hexadecimal(number) + "\n").utf8), at: 0)
        try file.synchronise()
        try LocalFileSystem.synchronise(directory: dataDirectory)
        return number
    }
}
