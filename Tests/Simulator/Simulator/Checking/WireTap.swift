import SluiceSession
import SluiceRecordFormat
import SluiceWire

/// Books of every connection, from the bytes alone: what the broker was told when it sealed what
/// it sealed. Knows nothing of the core.
package final class WireTap {
    struct Stream {
        var isOpen = false
        var task: TaskID?
        /// Client: QUEUED was sealed. Supplier: ASSIGN was.
        var isAccepted = false
        var isCancelled = false
        /// Of TOKENS: what the receiver allowed, and what was sent.
        var limitBytes: UInt64 = 0
        var sentBytes: UInt64 = 0
        /// Towards a supplier: the same of its body.
        var bodyLimitBytes: UInt64 = 0
        var bodySentBytes: UInt64 = 0
        var bodyBytes: UInt64 = 0
        var offer: UInt32 = 0
        var reserveBytes: UInt64 = 0
        /// From a client: what it asked for, and how far its body came.
        var wish = Wish()
        var uploadedBytes: UInt64 = 0
    }

    struct Line {
        var role: PeerRole?
        var isHonest: Bool
        var incoming = FrameAssembler()
        var outgoing = FrameAssembler()
        /// Bytes that no longer parse came in: nothing of the peer counts any more.
        var isGarbled = false
        /// It has sent ASK.
        var hasAsked = false
        var isOver = false
        var streams: [UInt32: Stream] = [:]
        var bodyCreditBytes: UInt64 = 0
        var identity: UInt64
        /// Highest grants ever received: a lower one may cross an ASSIGN. That of the connection
        /// (offer 0) therefore never bounds below `maxStreams`, where it began.
        var grants: [UInt32: UInt32] = [:]
        var open: [UInt32: UInt32] = [:]
        /// A frame beyond its credit came in: the broker must cut the connection.
        var mustEnd = false
        /// A supplier's standing offers, and the slots of the connection as it last said.
        var offers: [UInt32: Offering] = [:]
        var slots = UInt32.max
        /// Of a client: free bytes of bodies as WELCOME and CREDIT allow them, and as they came.
        var upload = UploadBook()
    }

    struct TaskBook {
        var client: (connection: UInt32, stream: UInt32)?
        var supplier: (connection: UInt32, stream: UInt32)?
        var reserveBytes: UInt64 = 0
        var sealedBytes: UInt64 = 0
        var earlyLimit: UInt64 = 0
        var suppliers: [UInt64] = []
        var wish = Wish()
        /// How many breakers had opened when it was accepted.
        var breakersOpened: UInt64 = 0
    }

    var lines: [UInt32: Line] = [:]
    var tasks: [TaskID: TaskBook] = [:]
    /// Tasks accepted and not ended, oldest first.
    var openTasks: [TaskID] = []
    var supply = SupplyBook()
    /// Client streams whose CANCEL came since the broker last sealed: what was staged before is on
    /// its way (decision 53).
    private var cancelledInTurn: [(connection: UInt32, stream: UInt32)] = []
    let oracle: Oracle

    package init(_ oracle: Oracle) {
        self.oracle = oracle
    }

    package func opened(_ connection: UInt32, isHonest: Bool, identity: UInt64) {
        lines[connection] = Line(isHonest: isHonest, identity: identity)
    }

    package func closed(_ connection: UInt32) {
        guard let line = lines.removeValue(forKey: connection) else { return }
        if line.role == .supplier { oracle.supplierLossesUs.append(oracle.nowUs) }
        for stream in line.streams.values {
            guard stream.isOpen, let task = stream.task else { continue }
            if line.role == .supplier {
                tasks[task]?.supplier = nil
            } else {
                tasks[task]?.client = nil
            }
        }
    }

    /// The broker died: it owes nobody anything.
    package func brokerDied() {
        lines = [:]
        tasks = [:]
        openTasks = []
        supply = SupplyBook()
        cancelledInTurn = []
    }

    /// A turn is over, and all that it had to say is sealed: no connection lives that the broker
    /// was bound to cut.
    package func check(isOpen: (UInt32) -> Bool) {
        for (connection, stream) in cancelledInTurn
        where lines[connection]?.streams[stream]?.isOpen == true {
            lines[connection]?.streams[stream]?.isCancelled = true
        }
        cancelledInTurn = []
        for connection in lines.keys.sorted() where lines[connection]?.mustEnd == true {
            oracle.check(!isOpen(connection), "[C5] \(connection) lives beyond its credit")
        }
    }

    // MARK: Peer → broker

    package func received(_ connection: UInt32, _ bytes: [UInt8]) {
        guard lines[connection]?.isGarbled == false else { return }
        lines[connection]?.incoming.append(bytes)
        do {
            while let frame = try lines[connection]?.incoming.next() {
                received(connection, frame)
            }
        } catch {
            lines[connection]?.isGarbled = true
        }
    }

    private func received(_ connection: UInt32, _ frame: ReceivedFrame) {
        let number = frame.header.stream.rawValue
        let span = frame.payload.span
        switch frame.header.kind {
        case .hello:
            guard lines[connection]?.role == nil, let hello = try? HelloFrame(decoding: span)
            else { return }
            lines[connection]?.role = hello.role
            lines[connection]?.bodyCreditBytes = hello.bodyCreditBytes
        case .grant:
            guard let grant = try? GrantFrame(decoding: span) else { return }
            let old = lines[connection]?.grants[grant.offer.rawValue] ?? 0
            lines[connection]?.grants[grant.offer.rawValue] = max(old, grant.slots)
            granted(connection, grant)
        case .offer:
            guard let offer = try? OfferFrame(decoding: span) else { return }
            lines[connection]?.offers[offer.offer.rawValue] = Offering(model: offer.model)
        case .withdraw:
            guard let withdraw = try? WithdrawFrame(decoding: span) else { return }
            lines[connection]?.offers[withdraw.offer.rawValue] = nil
        case .ask: lines[connection]?.hasAsked = true
        case .submit where lines[connection]?.role == .client:
            guard lines[connection]?.streams[number]?.isOpen != true,
                let submit = try? SubmitFrame(decoding: span)
            else { return }
            cancelledInTurn.removeAll { $0 == (connection, number) }
            var stream = Stream()
            stream.isOpen = true
            stream.limitBytes = submit.creditLimitBytes
            stream.wish = Wish(submit, nowUs: oracle.nowUs)
            stream.bodyBytes = UInt64(submit.terms.bodyBytes)
            lines[connection]?.streams[number] = stream
            uploaded(connection, number, UInt64(submit.inlineBody.count))
        case .body where lines[connection]?.role == .client:
            uploaded(connection, number, UInt64(frame.payload.count))
        case .credit:
            guard let credit = try? CreditFrame(decoding: span),
                let stream = lines[connection]?.streams[number], stream.isOpen
            else { return }
            if lines[connection]?.role == .client {
                lines[connection]?.streams[number]?.limitBytes = max(
                    stream.limitBytes, credit.limitBytes)
            } else {
                lines[connection]?.streams[number]?.bodyLimitBytes = max(
                    stream.bodyLimitBytes, credit.limitBytes)
            }
        case .cancel:
            guard lines[connection]?.streams[number]?.isOpen == true,
                lines[connection]?.role == .client, (try? CancelFrame(decoding: span)) != nil
            else { return }
            cancelledInTurn.append((connection, number))
        case .tokens where lines[connection]?.role == .supplier:
            guard let stream = lines[connection]?.streams[number], stream.isOpen else { return }
            let sent = stream.sentBytes + UInt64(frame.header.frameBytes)
            lines[connection]?.streams[number]?.sentBytes = sent
            guard sent > stream.limitBytes, lines[connection]?.isOver == false else { return }
            oracle.check(
                lines[connection]?.isHonest == false, "[C5] an honest supplier beyond its credit")
            lines[connection]?.mustEnd = true
        case .end where lines[connection]?.role == .supplier:
            guard let stream = lines[connection]?.streams[number], stream.isOpen,
                (try? EndFrame(decoding: span)) != nil
            else { return }
            lines[connection]?.streams[number]?.isOpen = false
            lines[connection]?.open[stream.offer, default: 1] -= 1
            lines[connection]?.open[0, default: 1] -= 1
            if let task = stream.task { tasks[task]?.supplier = nil }
        default: break
        }
    }

    // MARK: Broker → peer

    package func sealed(_ connection: UInt32, _ bytes: [UInt8]) {
        lines[connection]?.outgoing.append(bytes)
        do {
            while let frame = try lines[connection]?.outgoing.next() { sealed(connection, frame) }
        } catch {
            oracle.fail("the broker sealed bytes that are no frame")
        }
    }

    private func sealed(_ connection: UInt32, _ frame: ReceivedFrame) {
        oracle.check(lines[connection]?.isOver == false, "[L4] a frame after ERROR")
        switch frame.header.kind {
        case .error:
            lines[connection]?.isOver = true
            guard let error = try? ErrorFrame(decoding: frame.payload.span) else {
                return oracle.fail("ERROR is malformed")
            }
            oracle.count("error \(error.code)")
            oracle.note("ERROR \(error.code) to \(connection), kind \(error.kindAtFault)")
            switch error.code {
            case .handshakeTimeout, .keepAliveTimeout, .unauthenticated, .stalledReader,
                .shuttingDown:
                break
            default:
                oracle.check(
                    lines[connection]?.isHonest == false,
                    "an honest peer was told \(error.code) on \(connection), "
                        + "kind \(error.kindAtFault), stream \(error.streamAtFault.rawValue)")
            }
        case .goAway: oracle.count("go-away")
        case .ping, .pong: break
        case .welcome:
            guard let welcome = try? WelcomeFrame(decoding: frame.payload.span) else {
                return oracle.fail("WELCOME is malformed")
            }
            lines[connection]?.upload = UploadBook(allowanceBytes: welcome.uploadLimitBytes)
        default:
            switch lines[connection]?.role {
            case .client: sealedToClient(connection, frame)
            case .supplier: sealedToSupplier(connection, frame)
            case nil: oracle.fail("a frame before HELLO")
            }
        }
    }

    private func sealedToClient(_ connection: UInt32, _ frame: ReceivedFrame) {
        let number = frame.header.stream.rawValue
        if frame.header.kind == .credit {
            if number == 0 { uploadGranted(connection, frame) }
            return
        }
        guard let stream = lines[connection]?.streams[number], stream.isOpen else {
            // Who opens a slot before its END has arrived confuses these books, not the broker.
            guard lines[connection]?.isHonest == true else { return }
            return oracle.fail("[E1] \(frame.header.rawKind) on an idle client stream")
        }
        switch frame.header.kind {
        case .queued:
            guard let queued = try? QueuedFrame(decoding: frame.payload.span) else {
                return oracle.fail("QUEUED is malformed")
            }
            oracle.check(!stream.isAccepted, "[Q3] QUEUED twice")
            oracle.check(
                (oracle.tasks[queued.task]?.acceptedRecords ?? 0) == 1,
                "QUEUED before ACCEPTED was published")
            lines[connection]?.streams[number]?.isAccepted = true
            lines[connection]?.streams[number]?.task = queued.task
            lines[connection]?.streams[number]?.reserveBytes = UInt64(queued.reserveBytes)
            var book = tasks[queued.task] ?? TaskBook()
            book.client = (connection, number)
            book.reserveBytes = UInt64(queued.reserveBytes)
            book.wish = stream.wish
            oracle.tasks[queued.task]?.wish = stream.wish
            let bound = min(stream.limitBytes, book.reserveBytes)
            oracle.check(book.earlyLimit <= bound, "[C8] first limit of \(queued.task)")
            tasks[queued.task] = book
        case .tokens:
            oracle.check(stream.isAccepted, "[Q3] TOKENS before QUEUED")
            oracle.check(!stream.isCancelled, "[E3] TOKENS after CANCEL was seen")
            let sent = stream.sentBytes + UInt64(frame.header.frameBytes)
            oracle.check(sent <= stream.limitBytes, "[C5] TOKENS beyond the client's credit")
            lines[connection]?.streams[number]?.sentBytes = sent
            if let task = stream.task { tasks[task]?.sealedBytes = sent }
        case .end:
            guard let end = try? EndFrame(decoding: frame.payload.span) else {
                return oracle.fail("END is malformed")
            }
            oracle.count("end \(end.code)")
            oracle.check(
                end.code != .declined && end.code != .upstreamUnavailable,
                "[D9] \(end.code) told to a client")
            oracle.check(
                stream.isAccepted != end.code.isRefusal || end.code == .cancelled
                    || end.code == .drained || end.code == .upstreamRefused,
                "[Q4] END \(end.code), accepted \(stream.isAccepted)")
            if stream.isAccepted, let task = stream.task {
                let record = oracle.tasks[task]?.ended
                oracle.check(record?.code == end.code, "END before ENDED was published: \(task)")
                oracle.check(record?.usage == end.usage, "[E4] END and ENDED differ: \(task)")
                oracle.check(record?.charge.consumerCost == end.cost, "cost differs: \(task)")
                tasks[task]?.client = nil
            }
            lines[connection]?.streams[number]?.isOpen = false
        default:
            oracle.fail("kind \(frame.header.rawKind) to a client")
        }
    }

    private func sealedToSupplier(_ connection: UInt32, _ frame: ReceivedFrame) {
        let number = frame.header.stream.rawValue
        switch frame.header.kind {
        case .assign: assigned(connection, number, frame)
        case .body:
            guard let stream = lines[connection]?.streams[number], stream.isOpen else { return }
            let sent = stream.bodySentBytes + UInt64(frame.payload.count)
            oracle.check(sent <= stream.bodyLimitBytes, "[U11] body beyond the supplier's credit")
            oracle.check(sent <= stream.bodyBytes, "body beyond its size")
            lines[connection]?.streams[number]?.bodySentBytes = sent
        case .credit:
            guard let credit = try? CreditFrame(decoding: frame.payload.span) else {
                return oracle.fail("CREDIT is malformed")
            }
            guard let stream = lines[connection]?.streams[number], stream.isOpen else { return }
            oracle.check(credit.limitBytes > stream.limitBytes, "[C3] CREDIT that raises nothing")
            lines[connection]?.streams[number]?.limitBytes = credit.limitBytes
            checkLimit(credit.limitBytes, stream.task)
        case .cancel: break
        case .report:
            oracle.check(lines[connection]?.hasAsked == true, "[S14] REPORT without ASK")
            oracle.check(number == 0, "[F6] REPORT on a stream")
            oracle.check(
                (try? ReportFrame(decoding: frame.payload.span)) != nil, "REPORT is malformed")
            oracle.count("report")
        default: oracle.fail("kind \(frame.header.rawKind) to a supplier")
        }
    }

    private func assigned(_ connection: UInt32, _ number: UInt32, _ frame: ReceivedFrame) {
        guard let assign = try? AssignFrame(decoding: frame.payload.span),
            let line = lines[connection]
        else { return oracle.fail("ASSIGN is malformed") }
        oracle.check(line.streams[number]?.isOpen != true, "[D1] ASSIGN on a taken slot")
        let offer = assign.offer.rawValue
        lines[connection]?.open[offer, default: 0] += 1
        lines[connection]?.open[0, default: 0] += 1
        oracle.check(
            line.open[offer, default: 0] < line.grants[offer] ?? 0
                && line.open[0, default: 0] < 1_024,
            "[S7] more streams than granted")
        var stream = Stream()
        stream.isOpen = true
        stream.task = assign.task
        stream.limitBytes = assign.creditLimitBytes
        stream.offer = offer
        stream.bodyLimitBytes = line.bodyCreditBytes
        stream.bodySentBytes = UInt64(assign.inlineBody.count)
        stream.bodyBytes = UInt64(assign.terms.bodyBytes)
        oracle.check(
            stream.bodySentBytes <= min(stream.bodyLimitBytes, stream.bodyBytes),
            "[U11] ASSIGN's tail beyond the supplier's credit")
        lines[connection]?.streams[number] = stream
        var book = tasks[assign.task] ?? TaskBook()
        oracle.check(book.supplier == nil, "[I4] \(assign.task) at two suppliers")
        oracle.check(book.sealedBytes == 0, "[D8] dispatched again after output")
        oracle.check(!book.suppliers.contains(line.identity), "[D8] the same supplier again")
        oracle.check(book.suppliers.count < 3, "[D8] more than three dispatches")
        if !book.suppliers.isEmpty { oracle.count("dispatched again") }
        book.suppliers.append(line.identity)
        book.supplier = (connection, number)
        if book.client == nil { book.earlyLimit = assign.creditLimitBytes }
        tasks[assign.task] = book
        checkLimit(assign.creditLimitBytes, assign.task)
    }

    /// [C8]: never more than the client takes, nor than what was sealed and the reserve.
    private func checkLimit(_ limitBytes: UInt64, _ task: TaskID?) {
        guard let task, let book = tasks[task], let client = book.client,
            let stream = lines[client.connection]?.streams[client.stream]
        else { return }
        let bound = min(stream.limitBytes, book.sealedBytes + book.reserveBytes)
        oracle.check(limitBytes <= bound, "[C8] limit \(limitBytes) above \(bound) for \(task)")
    }
}
