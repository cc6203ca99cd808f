import SluiceBrokerCore
import SluiceInMemory
import SluiceRecordFormat
import SluiceWire

/// One machine: the broker that runs there, the files of its dead predecessors, its disk and its
/// sidecar. What is on tmpfs outlives a process; what is on the disk outlives the machine.
final class Node {
    let number: Int
    /// The books of this broker's connections.
    let tap: WireTap
    var broker: InMemoryBroker
    var isBrokerDown = true
    var isDraining = false
    var isTurnDue = false
    /// Dead instances that still stand on tmpfs, oldest first.
    var graveyard: [InMemoryInstance] = []
    /// When the broker had its last turn, by both clocks.
    var turnedAtUs: UInt64 = 0
    var turnedAtWallUs: UInt64 = 0
    /// Time passed for it since, as a connection came up.
    var isTouched = false
    /// By connection: what a sabotage makes of the broker's frames.
    var tampering: [UInt32: Tampering] = [:]
    /// Records of the living instance that the oracle has heard.
    var heardRecords = 0
    /// When each record of the living instance was written, microseconds.
    var recordTimesUs: [UInt64] = []

    var disk = SimulatedDisk()
    /// Nil while it is down.
    var sidecar: SidecarModel?
    /// By instance: the last record that was ever on the device.
    var durable: [UInt64: UInt64] = [:]
    /// Changes of leases that this node's directory has, and those that its broker has read.
    var publishedChanges = 0
    var seenChanges = 0
    /// How far the wall clock was put forward or back, in microseconds.
    var wallShiftUs: Int64 = 0
    var nextLostCheckUs: UInt64 = 0

    init(number: Int, oracle: Oracle, limits: BrokerLimits) {
        self.number = number
        tap = WireTap(oracle)
        broker = InMemoryBroker(
            limits: limits, instance: InMemoryInstance(id: 1, capacity: 4_096), credentials: [],
            seed: 0, nowUs: 0, wallUs: 0)
    }

    /// What stands on tmpfs, oldest first.
    var instances: [InMemoryInstance] { graveyard + (isBrokerDown ? [] : [broker.instance]) }

    /// Whatever was written since the last call was written now.
    func timeRecords(nowUs: UInt64) {
        while recordTimesUs.count < broker.instance.tail { recordTimesUs.append(nowUs) }
    }

    func release(_ id: UInt64, through sequence: UInt64) {
        if broker.instance.id == id, !isBrokerDown {
            broker.instance.release(through: sequence)
        } else if let index = graveyard.firstIndex(where: { $0.id == id }) {
            graveyard[index].release(through: sequence)
        }
    }
}
