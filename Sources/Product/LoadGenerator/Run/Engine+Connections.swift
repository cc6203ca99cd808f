import LinuxIO
import SecureTransport
import TLSEngine

// Who connects to whom, and what an established, lost or closed connection means.
extension Engine where Backend: ~Copyable {
    mutating func makeClients() {
        var number = 0
        for (group, shape) in plan.workload.groups.enumerated() {
            for _ in 0..<shape.connections {
                let first = tasks.addSlots(shape.streams, group: group)
                let settings = ClientSettings(
                    key: plan.key, number: number, streams: shape.streams, firstSlot: first,
                    promptBytes: shape.promptBytes)
                for stream in 0..<shape.streams {
                    slots.append(StreamSlot(client: Int32(clients.count), stream: Int32(stream)))
                    arrivals.addSlot()
                }
                clients.append(
                    MockClient(dialect: Client(settings), settings: settings, group: group))
                number += 1
            }
        }
    }

    mutating func connectSuppliers() {
        guard plan.playsSuppliers, case .dial(let port) = plan.supplierSide else { return }
        for number in 0..<plan.workload.suppliers {
            let settings = SupplierSettings(token: plan.token, number: number)
            suppliers.append(MockSupplier(dialect: Supplier(settings)))
            guard let channel = dial(port) else { return tasks.fault(.connectionLost) }
            suppliers[number].channel = channel
            owners[Int(channel.index)] = -number - 1
        }
    }

    /// Connects clients, some at a time: a burst of handshakes is not what is measured.
    mutating func connectClients() {
        while nextClient < clients.count, transport.handshakingCount < 32 {
            let place = nextClient
            nextClient += 1
            guard !plan.workload.groups[clients[place].group].isChurning else { continue }
            connect(client: place)
        }
    }

    mutating func connect(client place: Int) {
        guard let channel = dial(plan.clientPort) else { return tasks.fault(.connectionLost) }
        clients[place].channel = channel
        owners[Int(channel.index)] = place
    }

    private mutating func dial(_ port: UInt16) -> ChannelID? {
        do {
            let stream = try StreamDescriptor(connectingTo: plan.host, port: port)
            if plan.skipsLine { try stream.skipLine() }
            return try transport.connect(
                stream, context: plan.clientTLS, serverName: "localhost")
        } catch {
            return nil
        }
    }

    mutating func established(_ channel: ChannelID) {
        let owner = owners[Int(channel.index)]
        if owner == .max { return }
        if owner >= 0 {
            clients[owner].dialect.open()
            markClient(owner)
        } else {
            suppliers[-owner - 1].dialect.open()
            markSupplier(-owner - 1)
        }
    }

    /// The target dialled a supplier that listens.
    mutating func accepted(_ channel: ChannelID) {
        let settings = SupplierSettings(token: plan.token, number: suppliers.count)
        var supplier = MockSupplier(dialect: Supplier(settings))
        supplier.channel = channel
        // A place whose connection is gone is used again.
        let free = suppliers.firstIndex { $0.channel == nil }
        let place = free ?? suppliers.count
        if let free { suppliers[free] = supplier } else { suppliers.append(supplier) }
        owners[Int(channel.index)] = -place - 1
    }

    mutating func closed(_ channel: ChannelID) {
        let owner = owners[Int(channel.index)]
        owners[Int(channel.index)] = .max
        if owner == .max || phase == .stop { return }
        if owner < 0 {
            suppliers[-owner - 1].channel = nil
            // Targets that dial may let idle connections go.
            if case .dial = plan.supplierSide { tasks.fault(.connectionLost) }
            return
        }
        clients[owner].channel = nil
        if clients[owner].isLeaving {
            clients[owner].isLeaving = false
            closingChurn -= 1
            churnFreed(owner)
        } else {
            tasks.fault(.connectionLost)
        }
    }

    var areClientsReady: Bool {
        nextClient == clients.count
            && clients.allSatisfy {
                $0.dialect.isReady || plan.workload.groups[$0.group].isChurning
            }
    }

    // MARK: Churn

    /// Opens a connection for one task.
    mutating func beginChurn(_ place: Int, intendedNs: UInt64) {
        clients[place].dialect = Client(clients[place].settings)
        clients[place].carry.removeAll()
        clients[place].intendedNs = intendedNs
        connect(client: place)
    }

    /// The task of a churning connection ended: so does the connection.
    mutating func endChurn(_ place: Int) {
        guard let channel = clients[place].channel else { return }
        result.churn.record(nowNs - clients[place].intendedNs)
        clients[place].isLeaving = true
        closingChurn += 1
        transport.close(channel, afterSending: true)
    }

    private mutating func churnFreed(_ place: Int) {
        streamFreed(clients[place].settings.firstSlot)
    }
}
