package import SluiceWire

extension Digest256 {
    /// The 32 bytes, as the database holds them.
    package var bytes: [UInt8] {
        var bytes: [UInt8] = []
        for word in [words.0, words.1, words.2, words.3] { bytes.appendLittleEndian(word) }
        return bytes
    }
}
