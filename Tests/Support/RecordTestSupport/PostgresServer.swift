import Foundation

/// A throw-away PostgreSQL on a unix socket, gone with everything in it when the last reference or
/// the process ends.
package final class PostgresServer: @unchecked Sendable {
    /// Why there is none.
    package struct NotInstalled: Error, CustomStringConvertible {
        package let description =
            "no PostgreSQL server was started: install Debian's package postgresql (Tools/setup --tests)"
    }

    /// The one that tests share which do not stop it.
    package static let shared = Result { try PostgresServer() }

    /// Holds the socket `.s.PGSQL.5432`.
    package let socketDirectory: String
    private let keeper = Process()
    private let orders = Pipe()
    private let answers = Pipe()
    private let lock = NSLock()
    private var databaseCount = 0

    /// Starts in 2 to 3 seconds.
    package init() throws {
        keeper.executableURL = URL(fileURLWithPath: "/bin/bash")
        keeper.arguments = ["-c", Self.script]
        keeper.standardInput = orders
        keeper.standardOutput = answers
        keeper.standardError = FileHandle.nullDevice
        // A child of the tests must not keep the server alive.
        _ = fcntl(orders.fileHandleForWriting.fileDescriptor, F_SETFD, FD_CLOEXEC)
        try keeper.run()
        socketDirectory = Self.line(answers)
        guard socketDirectory.hasPrefix("/") else { throw NotInstalled() }
    }

    deinit {
        try? orders.fileHandleForWriting.close()
        keeper.waitUntilExit()
    }

    /// Makes an empty database; gives its address.
    package func newDatabase(socketDirectory directory: String? = nil) throws -> String {
        lock.lock()
        defer { lock.unlock() }
        databaseCount += 1
        let name = "test\(databaseCount)"
        guard order("create \(name)") == "done" else { throw NotInstalled() }
        return "host=\(directory ?? socketDirectory) user=test dbname=\(name)"
    }

    /// Kills the server as a power failure would.
    package func stop() {
        lock.lock()
        defer { lock.unlock() }
        _ = order("stop")
    }

    /// Starts it again on the same data.
    package func start() {
        lock.lock()
        defer { lock.unlock() }
        _ = order("start")
    }

    private func order(_ text: String) -> String {
        try? orders.fileHandleForWriting.write(contentsOf: Data((text + "\n").utf8))
        return Self.line(answers)
    }

    private static func line(_ pipe: Pipe) -> String {
        var bytes = Data()
        while let byte = try? pipe.fileHandleForReading.read(upToCount: 1), !byte.isEmpty {
            if byte[byte.startIndex] == 0x0A { break }
            bytes += byte
        }
        return String(decoding: bytes, as: UTF8.self)
    }

    /// Ends when its standard input does, however the tests ended.
    private static let script = """
        shopt -s nullglob
        bin=
        for found in /usr/lib/postgresql/*/bin; do bin=$found/; done
        command -v "${bin}initdb" >/dev/null || { echo none; exit 1; }
        dir=$(mktemp -d /tmp/sluice-postgres.XXXXXX)
        cd /
        as=
        if [[ $(id -u) == 0 ]]; then
            chown postgres: "$dir"; chmod 755 "$dir"
            as="setpriv --reuid=postgres --regid=postgres --clear-groups --"
        fi
        start() {
            $as "${bin}pg_ctl" -D "$dir/data" -w -l "$dir/log" -o "-c listen_addresses='' -k $dir \
        -c fsync=off -c full_page_writes=off -c max_connections=200" start >/dev/null 2>&1 </dev/null
        }
        stop() { $as "${bin}pg_ctl" -D "$dir/data" -m immediate stop >/dev/null 2>&1 </dev/null; }
        $as "${bin}initdb" -D "$dir/data" -A trust -U test -E UTF8 --no-locale --no-sync \
        >/dev/null 2>&1 </dev/null && start && echo "$dir" || echo none
        while read -r order name; do
            case $order in
            create) "${bin}psql" -h "$dir" -U test -d postgres -qc "CREATE DATABASE $name" \
        >/dev/null 2>&1 </dev/null && echo done || echo failed ;;
            stop) stop; echo done ;;
            start) start; echo done ;;
            esac
        done
        stop
        rm -rf "$dir"
        """
}
