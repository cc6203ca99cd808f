import Testing

import LoadGenerator

/// Both sides of a protocol talk to each other, in pieces of any size.
@Suite struct DialectTests {
    private static let pieces = [1, 7, 97, 4_096, 1 << 20]

    @Test(arguments: pieces)
    func sluiceTasksComplete(pieceBytes: Int) {
        var pair = DialectPair<SluiceClient, DirectSupplier>(promptBytes: 40_000)
        pair.run(pieceBytes: pieceBytes, tasks: 20, tokens: 300)
        pair.expectComplete(tasks: 20, tokens: 300)
    }

    @Test(arguments: pieces)
    func http2TasksComplete(pieceBytes: Int) {
        // Prompts and answers above the windows of 65,535 and 65,536 bytes.
        var pair = DialectPair<HTTP2Client, HTTP2Supplier>(promptBytes: 100_000)
        pair.run(pieceBytes: pieceBytes, tasks: 20, tokens: 2_500)
        pair.expectComplete(tasks: 20, tokens: 2_500)
    }

    @Test(arguments: pieces)
    func natsTasksComplete(pieceBytes: Int) {
        var pair = DialectPair<NATSClient, NATSSupplier>(promptBytes: 500) { bytes in
            NATSExchange.route(bytes)
        }
        pair.run(pieceBytes: pieceBytes, tasks: 20, tokens: 50)
        pair.expectComplete(tasks: 20, tokens: 50)
    }
}

/// Does what nats-server does for one client and one supplier: SUB is noted, PING answered, PUB
/// becomes MSG for the other side.
enum NATSExchange {
    static func route(_ bytes: [UInt8]) -> (back: [UInt8], across: [UInt8]) {
        var (back, across) = ([UInt8](), [UInt8]())
        var offset = 0
        while let end = bytes[offset...].firstIndex(of: 0x0A) {
            let words = String(decoding: bytes[offset..<end - 1], as: UTF8.self)
                .split(separator: " ").map(String.init)
            offset = end + 1
            switch words.first {
            case "PING": back += Array("PONG\r\n".utf8)
            case "PUB":
                let payload = bytes[offset..<offset + (Int(words[words.count - 1]) ?? 0) + 2]
                offset = payload.endIndex
                let reply = words.count == 4 ? [words[2]] : []
                let line = ["MSG", words[1], "1"] + reply + ["\(payload.count - 2)"]
                across += Array((line.joined(separator: " ") + "\r\n").utf8) + payload
            default: break
            }
        }
        return (back, across)
    }
}

/// One client and one supplier, with everything between them in memory.
struct DialectPair<Client: ClientDialect, Supplier: SupplierDialect> {
    private static var streams: Int { 5 }

    private var client: Client
    private var supplier = Supplier(SupplierSettings(token: "token", number: 0))
    private var clientTasks = ClientTasks(groupCount: 1)
    private var supplierTasks = SupplierTasks()
    private let group: StreamGroup
    private let route: ([UInt8]) -> (back: [UInt8], across: [UInt8])
    private var (toClient, toSupplier) = ([UInt8](), [UInt8]())
    private var waiting: [Int32] = []
    private var begun = 0

    init(
        promptBytes: Int,
        route: @escaping ([UInt8]) -> (back: [UInt8], across: [UInt8]) = { ([], $0) }
    ) {
        var group = StreamGroup("g", connections: 1, streams: Self.streams, tokensPerTask: 1)
        group.promptBytes = promptBytes
        self.group = group
        self.route = route
        client = Client(
            ClientSettings(
                key: "key", number: 3, streams: Self.streams, firstSlot: 0,
                promptBytes: promptBytes))
        _ = clientTasks.addSlots(Self.streams, group: 0)
    }

    mutating func run(pieceBytes: Int, tasks: Int, tokens: Int) {
        client.open()
        supplier.open()
        clientTasks.freed = (0..<Int32(Self.streams)).map { $0 }
        for _ in 0..<2_000_000 where clientTasks.ended < UInt64(tasks) {
            for slot in clientTasks.freed where begun < tasks {
                begun += 1
                client.submit(
                    Int(slot), order: TaskOrder(group, tokens: tokens), intendedNs: 1,
                    tasks: &clientTasks)
            }
            clientTasks.freed.removeAll()
            send()
            move()
            deliver(pieceBytes)
        }
    }

    /// Every token that credit allows, and ends.
    private mutating func send() {
        waiting += supplierTasks.woken
        supplierTasks.woken.removeAll()
        for number in waiting {
            while supplierTasks.tasks[Int(number)].isOpen {
                let task = supplierTasks.tasks[Int(number)]
                guard supplier.canSend(task) else {
                    supplierTasks.tasks[Int(number)].isListed = false
                    break
                }
                supplier.sendToken(task, intendedNs: 1)
                guard supplierTasks.sentToken(number) else { continue }
                supplier.sendEnd(supplierTasks.tasks[Int(number)])
                supplierTasks.close(number)
            }
        }
        waiting.removeAll()
    }

    private mutating func move() {
        let (backToClient, fromClient) = route(Self.take(&client.output))
        let (backToSupplier, fromSupplier) = route(Self.take(&supplier.output))
        toClient += backToClient + fromSupplier
        toSupplier += backToSupplier + fromClient
    }

    private static func take(_ output: inout OutputQueue) -> [UInt8] {
        var bytes: [UInt8] = []
        while !output.isEmpty {
            let record = output.record
            bytes += output.bytes[record]
            output.sealed(record.count)
        }
        return bytes
    }

    /// In pieces: what a side does not use comes again, longer.
    private mutating func deliver(_ pieceBytes: Int) {
        let (forClient, forSupplier) = (toClient, toSupplier)
        var (start, end) = (0, 0)
        while end < forClient.count {
            end = min(forClient.count, end + pieceBytes)
            start += client.receive(
                forClient.span.extracting(start..<end), nowNs: 2, tasks: &clientTasks)
        }
        toClient = Array(forClient[start...])
        (start, end) = (0, 0)
        while end < forSupplier.count {
            end = min(forSupplier.count, end + pieceBytes)
            start += supplier.receive(
                forSupplier.span.extracting(start..<end), connection: 0, nowNs: 2,
                tasks: &supplierTasks)
        }
        toSupplier = Array(forSupplier[start...])
    }

    func expectComplete(tasks: Int, tokens: Int) {
        #expect(clientTasks.ended == UInt64(tasks))
        #expect(clientTasks.submitted == UInt64(tasks))
        #expect(clientTasks.tokensReceived == UInt64(tasks * tokens))
        #expect(supplierTasks.tokensSent == UInt64(tasks * tokens))
        #expect(supplierTasks.openCount == 0)
        #expect(supplierTasks.badFrames == 0)
        #expect(clientTasks.faults.allSatisfy { $0 == 0 })
    }
}
