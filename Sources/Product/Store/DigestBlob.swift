package import Foundation
package import SluiceWire

extension Digest256 {
    /// The 32 bytes, as the database holds them.
    package var blob: Data {
        var bytes: [UInt8] = []
        for word in [words.0, words.1, words.2, words.3] { bytes.appendLittleEndian(word) }
        return Data(bytes)
    }

    /// Nil unless there are 32 bytes.
    package init?(blob: Data) {
        self.init([UInt8](blob).span)
    }
}
