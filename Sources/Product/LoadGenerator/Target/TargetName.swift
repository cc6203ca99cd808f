/// What can be measured.
package enum TargetName: String, CaseIterable, Sendable {
    /// The broker and its sidecar.
    case sluice
    /// A relay of the same frames over the broker's own transport, without a broker's work.
    case bare
    /// A relay of the same frames on SwiftNIO and NIOSSL.
    case nio
    /// nats-server: queue group and inbox.
    case nats
    /// HAProxy, HTTP/2 on both sides.
    case haproxy
    /// A relay built on grpc-swift-2.
    case grpcSwift = "grpc-swift"
    /// Nothing: clients connect straight to the mock suppliers.
    case direct

    /// The protocol that the generator speaks to it.
    var speech: Speech {
        switch self {
        case .sluice, .bare, .nio: .sluice
        case .nats: .nats
        case .haproxy, .grpcSwift: .http2
        case .direct: .direct
        }
    }

    /// Suppliers listen and the target dials them.
    var dialsSuppliers: Bool {
        switch self {
        case .sluice, .bare, .nio, .nats: false
        case .haproxy, .grpcSwift, .direct: true
        }
    }

    /// How to get its program.
    package var remedy: String { "Benchmarks/get \(rawValue)" }
}

/// A protocol, as both mock sides speak it.
enum Speech: Sendable {
    case sluice, direct, nats, http2
}
