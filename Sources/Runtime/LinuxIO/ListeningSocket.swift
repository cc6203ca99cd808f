internal import CLinuxIO

/// The options of a listener; what it accepts inherits them.
package struct SocketSettings: Sendable {
    /// Connections that may wait to be accepted.
    package var backlog: Int32 = 4_096
    /// Bytes that the kernel takes beyond what it has sent (TCP_NOTSENT_LOWAT), so that a control
    /// frame is never behind a megabyte of data.
    package var unsentBytes: Int32 = 64 * 1_024
    /// How long sent data may stay unacknowledged before the connection is dead, milliseconds.
    ///
    /// The kernel counts a peer that reads nothing (a zero window) like one that is gone, so this
    /// lies above the 30 s that a slow reader is allowed; dead peers are found earlier by PING.
    package var userTimeoutMs: Int32 = 35_000
    /// Lets several listeners, one a shard, share the port.
    package var sharesPort = false

    package init() {}
}

/// A TCP socket that listens. Closed with this value.
package struct ListeningSocket: ~Copyable, Sendable {
    /// The descriptor, for handing the listener over to a successor process.
    package let descriptor: Int32
    /// The port, also where port 0 was asked for.
    package let port: UInt16

    /// Listens on a numeric IPv4 or IPv6 address; port 0 chooses a free one.
    package init(
        address: String, port: UInt16, settings: SocketSettings = SocketSettings()
    ) throws(SystemError) {
        var storage = sockaddr_storage()
        let length = try SystemError.check(
            .address, unsafe sluice_socket_address(address, port, &storage))
        let family = Int32(storage.ss_family)
        let socket = try SystemError.check(.socket, sluice_stream_socket(family))
        do throws(SystemError) {
            _ = sluice_set_option(socket, SOL_SOCKET, SO_REUSEADDR, 1)
            if settings.sharesPort {
                let code = sluice_set_option(socket, SOL_SOCKET, SO_REUSEPORT, 1)
                _ = try SystemError.check(.socket, code)
            }
            let tcp = Int32(IPPROTO_TCP)
            _ = sluice_set_option(socket, tcp, TCP_NODELAY, 1)
            _ = sluice_set_option(socket, tcp, TCP_NOTSENT_LOWAT, settings.unsentBytes)
            _ = sluice_set_option(socket, tcp, TCP_USER_TIMEOUT, settings.userTimeoutMs)
            _ = try SystemError.check(.bind, unsafe sluice_bind(socket, &storage, length))
            if listen(socket, settings.backlog) < 0 {
                throw SystemError(.listen, code: sluice_errno())
            }
            let actual = try SystemError.check(.address, sluice_local_port(socket))
            self.port = UInt16(truncatingIfNeeded: actual)
        } catch {
            close(socket)
            throw error
        }
        descriptor = socket
    }

    /// Takes over a listener that a supervisor made, and that other processes may be accepting
    /// from at this moment; closing it leaves it open for them.
    ///
    /// Whether accept may wait is a flag that all of them share, so another one may set it after
    /// this one; a bound on the wait holds in either case.
    package init(
        adopting descriptor: Int32, settings: SocketSettings = SocketSettings()
    ) throws(SystemError) {
        guard sluice_is_listening(descriptor) != 0 else {
            throw SystemError(.listen, code: EINVAL)
        }
        let actual = try SystemError.check(.address, sluice_local_port(descriptor))
        _ = sluice_fcntl(descriptor, F_SETFD, Int(FD_CLOEXEC))
        let tcp = Int32(IPPROTO_TCP)
        _ = sluice_set_option(descriptor, tcp, TCP_NODELAY, 1)
        _ = sluice_set_option(descriptor, tcp, TCP_NOTSENT_LOWAT, settings.unsentBytes)
        _ = sluice_set_option(descriptor, tcp, TCP_USER_TIMEOUT, settings.userTimeoutMs)
        _ = try SystemError.check(.listen, sluice_bound_accept(descriptor, 1))
        self.descriptor = descriptor
        port = UInt16(truncatingIfNeeded: actual)
    }

    deinit {
        close(descriptor)
    }
}

/// A connected stream socket that nobody serves yet; closed unless it is handed on.
package struct StreamDescriptor: ~Copyable, Sendable {
    let descriptor: Int32

    init(_ descriptor: Int32) {
        self.descriptor = descriptor
    }

    deinit {
        close(descriptor)
    }

    /// The bare number, which the caller closes or turns back by `init(adopting:)`.
    package consuming func release() -> Int32 {
        let number = descriptor
        discard self
        return number
    }

    /// Begins to connect to a numeric address. Does not wait: what is sent first goes out when
    /// the connection stands, and receiving ends with an error if it never does.
    package init(connectingTo address: String, port: UInt16) throws(SystemError) {
        var storage = sockaddr_storage()
        let length = try SystemError.check(
            .address, unsafe sluice_socket_address(address, port, &storage))
        let family = Int32(storage.ss_family)
        let socket = try SystemError.check(.socket, sluice_stream_socket(family))
        _ = sluice_set_option(socket, Int32(IPPROTO_TCP), TCP_NODELAY, 1)
        let code = unsafe sluice_begin_connect(socket, &storage, length)
        guard code >= 0 else {
            close(socket)
            throw SystemError(.connect, code: -code)
        }
        descriptor = socket
    }

    /// Whether something accepts connections there now. Waits for the answer.
    package static func isServed(_ address: String, port: UInt16) -> Bool {
        var storage = sockaddr_storage()
        let length = unsafe sluice_socket_address(address, port, &storage)
        let socket = sluice_stream_socket(Int32(storage.ss_family))
        guard length > 0, socket >= 0 else { return false }
        defer { close(socket) }
        return unsafe sluice_connect(socket, &storage, length) >= 0
    }

    /// Waits for a line in the clear and drops it, for protocols in which the server speaks
    /// before TLS begins. At most 65,536 bytes and 5 s between two of them.
    package borrowing func skipLine() throws(SystemError) {
        _ = try SystemError.check(.connect, sluice_skip_line(descriptor, 65_536, 5))
    }

    /// Takes over a connected descriptor.
    package init(adopting descriptor: Int32) {
        self.descriptor = descriptor
    }
}
