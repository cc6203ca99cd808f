import SluiceRecordFormat
import SluiceWire

/// What a broker did between two readings, in rates and quantiles: what `sluice top` shows.
package struct Activity: Equatable, Sendable {
    /// One shard's part.
    package struct Shard: Equatable, Sendable {
        package let connections: UInt64
        package let tokensPerSecond: Double
        package let framesPerSecond: Double
        package let bytesSentPerSecond: Double
        /// Share of the time that the loop was at work, 0…1.
        package let busy: Double
    }

    package let instance: UInt64
    /// Time between the readings; 0 for a first reading, whose rates are 0.
    package let seconds: Double
    package let shards: [Shard]
    package let tasksPerSecond: Double
    package let refusalsPerSecond: Double
    package let tokensPerSecond: Double
    /// Share of the dispatched tasks that found a slot at once; nil if none was dispatched.
    package let matchedAtOnce: Double?
    /// Of the tasks that ended in between; all so far for a first reading.
    package let firstTokenUs: Distribution
    package let queueUs: Distribution
    /// Of deliveries in between.
    package let tokenGapUs: Distribution
    package let now: BrokerReading

    /// `earlier` is nil at first, or a reading `seconds` before.
    package init(now: BrokerReading, since earlier: BrokerReading?, seconds: Double) {
        let earlier = earlier?.instance == now.instance ? earlier : nil
        self.now = now
        instance = now.instance
        self.seconds = earlier == nil ? 0 : seconds
        func rate(_ new: UInt64, _ old: UInt64?) -> Double {
            guard let old, seconds > 0, new >= old else { return 0 }
            return Double(new - old) / seconds
        }
        func total(_ counter: Counter) -> Double {
            rate(now.total(counter), earlier?.total(counter))
        }
        func distribution(_ histogram: Histogram) -> Distribution {
            let all = Distribution(now.buckets(histogram))
            guard let earlier else { return all }
            return all.since(Distribution(earlier.buckets(histogram)))
        }
        shards = now.shards.indices.map { shard in
            func ofShard(_ counter: Counter) -> Double {
                guard let earlier, shard < earlier.shards.count else { return 0 }
                return rate(
                    now.value(counter, shard: shard), earlier.value(counter, shard: shard))
            }
            return Shard(
                connections: now.value(.connectionsOpen, shard: shard),
                tokensPerSecond: ofShard(.tokensRelayed),
                framesPerSecond: ofShard(.framesRelayed),
                bytesSentPerSecond: ofShard(.wireBytesSent),
                busy: min(1, ofShard(.loopBusyUs) / 1_000_000))
        }
        tasksPerSecond = total(.tasksEnded)
        refusalsPerSecond = total(.tasksRefused)
        tokensPerSecond = total(.tokensRelayed)
        let dispatched = now.total(.tasksDispatched) &- (earlier?.total(.tasksDispatched) ?? 0)
        let atOnce = now.total(.tasksMatchedAtOnce) &- (earlier?.total(.tasksMatchedAtOnce) ?? 0)
        matchedAtOnce = dispatched == 0 ? nil : min(1, Double(atOnce) / Double(dispatched))
        firstTokenUs = distribution(.ttftUs)
        queueUs = distribution(.queueUs)
        tokenGapUs = distribution(.tokenGapUs)
    }
}

/// An `Activity` in lines of at most 80 columns.
package enum ActivityText {
    /// A screen for people.
    package static func lines(_ activities: [Activity]) -> [String] {
        guard !activities.isEmpty else { return ["no broker reports here"] }
        return activities.flatMap { broker($0) }
    }

    private static func broker(_ activity: Activity) -> [String] {
        let now = activity.now
        func gauge(_ counter: Counter) -> String { String(now.total(counter)) }
        func mebibytes(_ counter: Counter) -> String {
            decimal(Double(now.total(counter)) / 1_048_576)
        }
        var lines = [
            "broker \(hexadecimal(activity.instance))   "
                + "tasks/s \(decimal(activity.tasksPerSecond))   "
                + "tokens/s \(decimal(activity.tokensPerSecond))",
            "  tasks      open \(gauge(.tasksOpen))  queued \(gauge(.tasksQueued))  "
                + "accepted \(gauge(.tasksAccepted))  refused \(gauge(.tasksRefused)) "
                + "(\(decimal(activity.refusalsPerSecond))/s)",
            "  supply     suppliers \(gauge(.suppliersConnected))  "
                + "offers \(gauge(.offersOpen))  "
                + "slots \(gauge(.slotsInUse))/\(gauge(.slotsGranted))  "
                + "breakers open \(gauge(.breakersOpen))",
            "  matched    at once \(activity.matchedAtOnce.map(percent) ?? "-")  "
                + "queue \(quantiles(activity.queueUs))",
            "  first token  \(quantiles(activity.firstTokenUs))",
            "  token gap    \(quantiles(activity.tokenGapUs))",
            "  journal    free \(gauge(.journalRecordsFree))  "
                + "full refusals \(gauge(.journalFullRefusals))",
            "  memory     content \(mebibytes(.arenaBytesInUse)) MiB "
                + "(most \(mebibytes(.arenaBytesMax)))  "
                + "promised: bodies \(mebibytes(.bodyBytesInUse))  "
                + "answers \(mebibytes(.reserveBytesInUse))",
            "",
            "  " + row(["shard", "conns", "tokens/s", "frames/s", "sent MB/s", "busy"]),
        ]
        for (number, shard) in activity.shards.enumerated() {
            lines.append(
                "  "
                    + row([
                        String(number), String(shard.connections),
                        decimal(shard.tokensPerSecond), decimal(shard.framesPerSecond),
                        decimal(shard.bytesSentPerSecond / 1_000_000), percent(shard.busy),
                    ]))
        }
        return lines + [""]
    }

    private static func row(_ cells: [String]) -> String {
        cells.map { String(repeating: " ", count: max(0, 11 - $0.count)) + $0 }.joined()
    }

    private static func quantiles(_ distribution: Distribution) -> String {
        guard distribution.count > 0 else { return "p50 -  p99 -" }
        return [("p50", 0.5), ("p99", 0.99)].map { name, fraction in
            "\(name) \(milliseconds(distribution.quantile(fraction) ?? 0)) ms"
        }.joined(separator: "  ")
    }

    private static func milliseconds(_ us: UInt64) -> String {
        decimal(Double(us) / 1_000)
    }

    private static func percent(_ share: Double) -> String {
        "\(Int((share * 100).rounded())) %"
    }

    /// One decimal.
    private static func decimal(_ value: Double) -> String {
        let tenths = Int64((value * 10).rounded())
        return "\(tenths / 10).\(tenths % 10)"
    }
}
