import Glibc

/// Where the master keys come from: a file that only its owner may read, or an environment
/// variable. Either holds one key a line, 64 hexadecimal digits each: the current one first, then
/// those that are being retired. An empty line or one that begins with `#` says nothing.
package enum MasterKeySource: Sendable {
    case file(String)
    /// The name of the variable.
    case environment(String)

    /// The variable that is read where no file is named.
    package static let variable = "SLUICE_MASTER_KEY"
    private static let fileBytesMax = 65_536

    /// Reads the keys. Every error says what is wrong and nothing of the keys.
    package func read() throws(SealingError) -> MasterKeys {
        var text: [UInt8]
        switch self {
        case .file(let path): text = try Self.readFile(path)
        case .environment(let name):
            // SAFETY: `getenv` gives a string that ends with 0 or null; it is copied at once.
            guard let value = unsafe getenv(name) else { throw .keyMissing }
            text = unsafe Array(String(cString: value).utf8)
        }
        defer { SealingKey.wipe(&text) }
        var keys: [SealingKey] = []
        for line in text.split(separator: 0x0A) {
            let trimmed = line.filter { $0 != 0x20 && $0 != 0x09 && $0 != 0x0D }
            guard let first = trimmed.first, first != UInt8(ascii: "#") else { continue }
            guard var bytes = Self.bytes(ofHex: trimmed) else { throw .keyMalformed }
            keys.append(SealingKey(bytes.span))
            SealingKey.wipe(&bytes)
        }
        guard let current = keys.first else { throw .keyMissing }
        return MasterKeys(current, earlier: Array(keys.dropFirst()))
    }

    /// Makes a file with a new random key, mode 0600. Fails where there is one.
    package static func makeFile(_ path: String) throws(SealingError) {
        let file = unsafe Glibc.open(path, O_WRONLY | O_CREAT | O_EXCL | O_CLOEXEC, 0o600)
        guard file >= 0 else { throw .keyUnreadable(errno: errno) }
        defer { _ = close(file) }
        var key = randomBytes(SealingKey.byteCount)
        defer { SealingKey.wipe(&key) }
        let digits = Array("0123456789abcdef".utf8)
        var text: [UInt8] = []
        for byte in key { text += [digits[Int(byte >> 4)], digits[Int(byte & 15)]] }
        text.append(0x0A)
        defer { SealingKey.wipe(&text) }
        let written = unsafe write(file, text, text.count)
        guard written == text.count, fsync(file) == 0 else {
            throw .keyUnreadable(errno: errno)
        }
    }

    private static func readFile(_ path: String) throws(SealingError) -> [UInt8] {
        let file = unsafe Glibc.open(path, O_RDONLY | O_CLOEXEC | O_NOFOLLOW)
        guard file >= 0 else {
            throw errno == ENOENT ? .keyMissing : .keyUnreadable(errno: errno)
        }
        defer { _ = close(file) }
        var status = stat()
        guard unsafe fstat(file, &status) == 0 else { throw .keyUnreadable(errno: errno) }
        guard status.st_mode & 0o077 == 0, status.st_uid == geteuid() else { throw .keyExposed }
        guard status.st_size <= fileBytesMax else { throw .keyMalformed }
        var bytes = [UInt8](repeating: 0, count: Int(status.st_size))
        let count = unsafe Glibc.read(file, &bytes, bytes.count)
        guard count == bytes.count else { throw .keyUnreadable(errno: errno) }
        return bytes
    }

    /// Nil unless these are 64 hexadecimal digits.
    private static func bytes(ofHex text: [UInt8]) -> [UInt8]? {
        guard text.count == 2 * SealingKey.byteCount else { return nil }
        var bytes: [UInt8] = []
        for index in stride(from: 0, to: text.count, by: 2) {
            guard let high = digit(text[index]), let low = digit(text[index + 1]) else {
                return nil
            }
            bytes.append(high << 4 | low)
        }
        return bytes
    }

    private static func digit(_ character: UInt8) -> UInt8? {
        switch character {
        case UInt8(ascii: "0")...UInt8(ascii: "9"): character - UInt8(ascii: "0")
        case UInt8(ascii: "a")...UInt8(ascii: "f"): character - UInt8(ascii: "a") + 10
        case UInt8(ascii: "A")...UInt8(ascii: "F"): character - UInt8(ascii: "A") + 10
        default: nil
        }
    }
}
