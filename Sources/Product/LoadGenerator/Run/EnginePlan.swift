import LinuxIO
import TLSEngine

/// How the suppliers of a target meet it.
enum SupplierSide: Sendable {
    /// They dial this port.
    case dial(UInt16)
    /// The target dials them: a listening descriptor that the thread takes over.
    case listen(descriptor: Int32)
}

/// What one thread of the generator is to do.
struct EnginePlan: Sendable {
    /// Among the threads of the run.
    var number: Int
    var processors: [Int]
    var backend: BackendKind
    var host = "127.0.0.1"
    var workload: Workload
    /// The roles it plays.
    var playsClients: Bool
    var playsSuppliers: Bool
    var clientPort: UInt16
    var supplierSide: SupplierSide
    var clientTLS: TLSContext
    /// Of suppliers that listen.
    var serverTLS: TLSContext
    var key: String
    var token: String
    /// The target says a line in the clear before TLS begins.
    var skipsLine: Bool
    /// Each token of a paced stream is sealed into a record of its own.
    var sealsEachToken: Bool
    /// From the first load to the first burst of groups that arrive in bursts.
    var burstDelayNs: UInt64
}

extension EnginePlan {
    /// Connections of the thread at once, with room for those that are closing.
    var channelsMax: Int {
        let clients = playsClients ? workload.connectionCount : 0
        return max(1_024, 2 * clients + 2 * workload.suppliers)
    }
}
