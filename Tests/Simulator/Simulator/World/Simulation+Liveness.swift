import SluiceBrokerCore
import SluiceInMemory
import SluiceWire

/// Nobody is forgotten: what could be done is done at once, or a turn for it is due.
extension Simulation {
    /// [L3]: before a turn that comes by the clock alone. It would hide what an earlier event left
    /// undone; so one is run first in which no time passes, and that must find nothing to do.
    mutating func checkAsleep(_ node: Node) {
        guard options.echoes, !node.isBrokerDown, !node.isTurnDue, !node.isTouched else { return }
        oracle.check(!node.broker.hasWork, "[L3] work waits at \(node.number), and no turn is due")
        guard oracle.failures.isEmpty else { return }
        let tail = node.broker.instance.tail
        node.broker.turn(nowUs: node.turnedAtUs, wallUs: node.turnedAtWallUs)
        let sealed = node.broker.takeSealed()
        let isIdle =
            sealed.isEmpty && node.broker.instance.tail == tail && !node.broker.hasWork
            && !node.broker.isDead
        oracle.check(
            isIdle,
            "[L3] node \(node.number) slept, and had \(sealed.count) records to send, "
                + "\(node.broker.instance.tail - tail) to write")
        oracle.count("sleeping brokers looked at")
    }

    /// After a turn that left nothing on its way: [L2], [I3], and [I10], [I12] where nothing is open.
    mutating func checkAtRest(_ node: Node) {
        guard !node.isBrokerDown, !node.broker.hasWork else { return }
        checkQueues(node)
        node.tap.checkUploads { node.broker.waitingBytes($0) == 0 && node.broker.isOpen($0) }
        guard node.broker.openStreams == 0, node.broker.dispatcher.openTasks == 0 else { return }
        checkEmpty(node)
    }

    private func checkQueues(_ node: Node) {
        // Who waits for money waits with a slot free.
        guard node.broker.dispatcher.queuedTasks > 0, !node.broker.isLeaseAwaited else { return }
        node.tap.checkQueues(
            WireTap.DispatcherView(
                queuedTasks: node.broker.dispatcher.queuedTasks,
                slotsInUse: node.broker.dispatcher.supply.slotsInUse,
                breakersOpened: node.broker.dispatcher.counters.breakersOpened),
            maxStreams: options.limits.maxStreams)
    }

    /// No task is open at this broker: it holds nothing for any.
    private func checkEmpty(_ node: Node) {
        var held = node.broker.heldBytes
        if sabotage == .contentKept, wasReset { held.bodies += 4_096 }
        oracle.check(held.bodies == 0 && held.answers == 0, "[I10] content is left: \(held)")
        let reserved = node.broker.dispatcher.reservedBytes
        oracle.check(reserved == 0, "[I11] \(reserved) arena bytes are reserved for nobody")
        let slots = node.broker.instance.takenSlots
        oracle.check(slots == 0, "[I12] \(slots) open-task slots are taken by nobody")
        oracle.count("emptied")
    }
}
