package import SluiceBrokerCore
import SluiceWire

/// What one seed turns on: a random subset of faults and limits, so that rare ones meet.
package struct SimulationOptions: Sendable, CustomStringConvertible {
    /// Machines, each with a broker, a disk and a sidecar; they share one store.
    package var brokers = 1
    package var shards = 1
    /// The dispatcher has a thread of its own.
    package var dispatcherIsApart = false
    package var clients = 2
    package var accounts = 2
    package var suppliers = 2
    package var models = 1
    package var tasksPerClient = 6
    package var slotsPerOffer = 2
    package var bodyBytesMax = 4_000
    package var answerFramesMax = 10
    package var frameBytesMax = 400
    package var windowBytes = 65_536
    /// Largest piece in which bytes arrive.
    package var pieceBytesMax = 65_536
    package var delayUsMax = 2_000
    /// Faults are on until then.
    package var faultsMs = 20_000
    /// Of the faults that the network and the brokers suffer, in order: those that do not happen.
    package var skippedFaults: Set<Int> = []

    package var stalls = false
    package var resets = false
    /// One side learns late, or never, that the other is gone.
    package var halfOpen = false
    /// The wall clock jumps; the monotonic one does not.
    package var clockJumps = false
    package var sidecarCrashes = false
    /// Refused transactions, commits of unknown outcome, a store that is down.
    package var storeFaults = false
    package var fullDisks = false
    package var powerFailures = false
    /// Accounts pay in advance: leases, holds, prices.
    package var prepaid = false
    package var supplierCrashes = false
    package var earlyEnds = false
    package var stubbornSuppliers = false
    package var slowReaders = false
    package var deafReaders = false
    package var shortDeadlines = false
    package var cancels = false
    package var drains = false
    package var revocations = false
    package var brokerCrashes = false
    package var supplyChanges = false
    package var byzantine = false
    /// Bodies come in small pieces with pauses, some longer than the broker waits.
    package var slowUploads = false
    /// Some tasks are more urgent than others.
    package var priorities = false
    /// Clients submit all that they have at once.
    package var bursts = false

    package var tinyArena = false
    package var tinyQueue = false
    package var tinyControl = false
    package var tinyRing = false
    package var fewStreams = false
    /// Before a turn that comes by the clock alone one is run in which no time passes.
    package var echoes = true

    package init(seed: UInt64) {
        var random = RandomStream(root: seed, name: "options")
        clients = random.pick(1...4)
        accounts = random.pick(1...3)
        suppliers = random.pick(1...4)
        models = random.pick(1...2)
        tasksPerClient = random.pick(1...10)
        slotsPerOffer = random.pick(1...4)
        bodyBytesMax = random.pick([0, 100, 4_000, 4_000, 30_000, 120_000])
        answerFramesMax = random.pick([1, 5, 20, 60])
        frameBytesMax = random.pick([8, 60, 400, 400, 3_000, 20_000])
        windowBytes = random.pick([2_100, 5_000, 16_384, 65_536, 262_144])
        pieceBytesMax = random.pick([3, 50, 700, 5_000, 65_536, 65_536])
        delayUsMax = random.pick([50, 2_000, 2_000, 40_000])
        if pieceBytesMax <= 50 {
            // So few bytes at a time need short tasks.
            bodyBytesMax = min(bodyBytesMax, 4_000)
            frameBytesMax = min(frameBytesMax, 400)
            answerFramesMax = min(answerFramesMax, 20)
        }
        var shape = RandomStream(root: seed, name: "shards")
        shards = shape.pick([1, 1, 2, 3, 4])
        dispatcherIsApart = shards > 1 && shape.chance(25)
        brokers = shape.pick([1, 1, 1, 2, 2, 3])
        // Every broker has a supplier.
        suppliers = max(suppliers, brokers)
        // One seed in ten is calm: everything must complete.
        guard !random.chance(10) else { return }
        stalls = random.chance(30)
        resets = random.chance(30)
        supplierCrashes = random.chance(30)
        earlyEnds = random.chance(40)
        stubbornSuppliers = random.chance(20)
        slowReaders = random.chance(30)
        deafReaders = random.chance(15)
        shortDeadlines = random.chance(25)
        cancels = random.chance(35)
        drains = random.chance(20)
        revocations = random.chance(15)
        brokerCrashes = random.chance(25)
        supplyChanges = random.chance(25)
        byzantine = random.chance(20)
        slowUploads = random.chance(10)
        tinyArena = random.chance(15)
        tinyQueue = random.chance(15)
        tinyControl = random.chance(10)
        tinyRing = random.chance(15)
        fewStreams = random.chance(20)
        var later = RandomStream(root: seed, name: "more faults")
        halfOpen = later.chance(25)
        clockJumps = later.chance(20)
        sidecarCrashes = later.chance(35)
        storeFaults = later.chance(35)
        fullDisks = later.chance(15)
        powerFailures = later.chance(25)
        prepaid = later.chance(30)
        var demand = RandomStream(root: seed, name: "demand")
        priorities = demand.chance(30)
        bursts = demand.chance(20)
    }

    package var limits: BrokerLimits {
        var limits = BrokerLimits()
        limits.connections = 48
        limits.openTasks = 512
        if drains { limits.drainMs = 1_500 }
        if supplyChanges { limits.absentModelMs = 300 }
        if tinyArena {
            limits.bodyArenaBytes = 64 * 1_024
            limits.answerArenaBytes = 96 * 1_024
            limits.landingArenaBytes = 20 * 1_024
            limits.extraPoolBytes = 16 * 1_024
            limits.uploadAllowanceBytes = 16_384
        }
        if tinyQueue { limits.queuedTasksPerModel = 1 }
        if tinyControl { limits.controlBytesMax = 400 }
        if fewStreams { limits.maxStreams = 2 }
        return limits
    }

    /// Records of the journal's ring.
    package var ringRecords: Int { tinyRing ? 1_024 + 12 : 8_192 }

    package var description: String {
        let on = Self.switches.filter { self[keyPath: $0.path] }.map(\.name)
            .joined(separator: " ")
        return """
            brokers \(brokers) shards \(shards) clients \(clients) accounts \(accounts) suppliers \(suppliers) models \(models) \
            tasks \(tasksPerClient) slots \(slotsPerOffer) body \(bodyBytesMax) \
            frames \(answerFramesMax)x\(frameBytesMax) window \(windowBytes) \
            piece \(pieceBytesMax) delay \(delayUsMax) us [\(on)]
            """
    }
}
