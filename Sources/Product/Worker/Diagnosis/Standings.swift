import Foundation
import JSONScanning
package import SluiceSupplier
import SluiceWire

/// What brokers told a supplier about itself, joined, in words and as JSON. Pure.
package struct Standings: Sendable {
    /// One model, or the supplier as a whole, over all brokers that answered.
    package struct Row: Sendable {
        package var model: String
        package var offers: UInt64 = 0
        package var slotsGranted: UInt64 = 0
        package var slotsInUse: UInt64 = 0
        package var waiting: UInt64 = 0
        package var dispatched: UInt64 = 0
        package var completed: UInt64 = 0
        package var failed: UInt64 = 0
        package var declined: UInt64 = 0
        package var otherEnds: UInt64 = 0
        package var inputTokens: UInt64 = 0
        package var outputTokens: UInt64 = 0
        package var earned: Int64 = 0
        package var earnedToday: Int64 = 0
        package var lost: [SupplyReport.Loss: UInt64] = [:]

        /// Matches that another supplier got.
        package var lostInAll: UInt64 { lost.values.reduce(0, &+) }

        init(model: String) {
            self.model = model
        }

        mutating func add(_ standing: SupplyReport.Standing) {
            offers &+= standing.offers
            slotsGranted &+= standing.slotsGranted
            slotsInUse &+= standing.slotsInUse
            waiting &+= standing.waiting
            dispatched &+= standing.dispatched
            completed &+= standing.completed
            failed &+= standing.failed
            declined &+= standing.declined
            otherEnds &+= standing.otherEnds
            inputTokens &+= standing.inputTokens
            outputTokens &+= standing.outputTokens
            earned &+= standing.earned.rawValue
            earnedToday &+= standing.earnedToday.rawValue
            for reason in SupplyReport.Loss.allCases where standing.lost(reason) > 0 {
                lost[reason, default: 0] &+= standing.lost(reason)
            }
        }
    }

    /// How many brokers answered.
    package private(set) var brokers = 0
    /// Since when the earliest of them counts, ms since 1970.
    package private(set) var sinceMs: UInt64 = .max
    package private(set) var total = Row(model: "all")
    /// By name.
    package private(set) var models: [Row] = []
    /// Brokers whose breaker for this supplier is open, with the seconds until one task may try.
    package private(set) var breakers: [(broker: String, seconds: Int64)] = []
    /// Workers that are connected, over all brokers.
    package private(set) var workers: UInt64 = 0

    /// Joins nothing yet.
    package init() {}

    /// Adds what one broker told.
    package mutating func add(_ report: SupplyReport, from broker: String) {
        brokers += 1
        sinceMs = min(sinceMs, report.sinceMs)
        // The connection that asks is none of a worker.
        workers += report.connections - min(1, report.connections)
        total.add(report.total)
        for (model, standing) in report.models {
            var row = Row(model: model)
            if let place = models.firstIndex(where: { $0.model == model }) {
                row = models.remove(at: place)
            }
            row.add(standing)
            models.append(row)
        }
        models.sort { $0.model < $1.model }
        switch report.breaker {
        case .closed: break
        case .open(let time): breakers.append((broker, time.components.seconds + 1))
        case .halfOpen: breakers.append((broker, 0))
        }
    }

    // MARK: Earnings

    /// A table of what was done and earned.
    package var earnings: [String] {
        guard brokers > 0 else { return [] }
        let widest = max(5, models.map(\.model.count).max() ?? 0)
        func line(_ name: String, _ cells: [String]) -> String {
            name.padding(toLength: widest + 2, withPad: " ", startingAt: 0)
                + cells.enumerated().map { place, cell in
                    let width = place < 4 ? 10 : 14
                    return String(repeating: " ", count: max(1, width - cell.count)) + cell
                }.joined()
        }
        let head = line(
            "model",
            [
                "tasks", "done", "failed", "declined", "tokens in", "tokens out", "today USD",
                "earned USD",
            ])
        let rows = (models + (models.count == 1 ? [] : [total])).map { row in
            line(
                row.model,
                [
                    String(row.dispatched), String(row.completed), String(row.failed),
                    String(row.declined), String(row.inputTokens), String(row.outputTokens),
                    Self.dollars(row.earnedToday), Self.dollars(row.earned),
                ])
        }
        return [head] + rows
            + [
                "Counted by \(brokers) broker\(brokers == 1 ? "" : "s") since "
                    + "\(Self.time(sinceMs)); what is paid is what the operator's ledger says."
            ]
    }

    // MARK: Why idle

    /// In sentences, the most telling first: why no more tasks came.
    package var whyIdle: [String] {
        guard brokers > 0 else { return [] }
        guard workers > 0 else {
            return [
                "No worker of this token is connected: start one. sluice-worker doctor says what "
                    + "keeps it from a broker."
            ]
        }
        var lines: [String] = []
        for (broker, seconds) in breakers {
            lines.append(
                seconds > 0
                    ? "\(broker) leaves this supplier alone for \(seconds) s: too many of its "
                        + "tasks failed. The worker's log names each failure."
                    : "\(broker) lets one task try: too many failed before.")
        }
        if models.allSatisfy({ $0.offers == 0 }) {
            lines.append(
                "Nothing is offered: the worker is connected, but its upstream serves no model "
                    + "that it may offer. sluice-worker doctor looks at the upstream.")
        }
        for row in models where row.offers > 0 || row.lostInAll > 0 {
            lines += Self.sentences(about: row)
        }
        return lines
    }

    private static func sentences(about row: Row) -> [String] {
        let asked = row.dispatched &+ row.lostInAll
        guard asked > 0 else {
            return ["\(row.model): nobody asked for it yet while it was offered."]
        }
        var lines = ["\(row.model): \(row.dispatched) of about \(asked) tasks came here."]
        if row.slotsGranted == 0, row.offers > 0 {
            lines.append("  It has no slots now: it is loading, or the worker drains.")
        }
        let ordered = row.lost.sorted {
            ($0.value, $1.key.rawValue) > ($1.value, $0.key.rawValue)
        }
        for (reason, count) in ordered {
            lines.append("  \(count) lost: \(words(for: reason))")
        }
        if row.failed > 0 {
            lines.append("  \(row.failed) failed here: see \"failed\" in the worker's log.")
        }
        if row.waiting > 0 {
            lines.append("  \(row.waiting) wait for a slot at any supplier now.")
        }
        return lines
    }

    private static func words(for reason: SupplyReport.Loss) -> String {
        switch reason {
        case .excluded: "they had been here before and were given back or failed."
        case .capability: "the operation or encoding is not offered."
        case .dataPolicy: "the client wants a stricter --data-policy."
        case .region: "the client wants another --region."
        case .supplyType: "the client wants another --supply-type."
        case .priceCeiling: "dearer than the client allows: --input-price, --output-price."
        case .context: "prompt and answer need a longer context than the model has."
        case .breakerOpen: "too many tasks had failed here."
        case .noFreeSlot: "no slot was free: offer more --slots if the machine carries them."
        case .deadline: "the first token was expected after the deadline: answers begin late."
        case .affinity: "another supplier had read the beginning of the conversation."
        case .slowerOrDearer: "another was earlier or cheaper, or equal and drawn by lot."
        case .operatorPrice: "the asking price is above the operator's price for the model."
        }
    }

    // MARK: JSON

    /// Everything as one JSON object.
    package var json: String {
        let value: JSONValue = [
            "brokers": .number(brokers), "workers": .number(workers),
            "sinceMs": brokers > 0 ? .number(sinceMs) : .null,
            "breakers": .array(
                breakers.map { ["broker": .string($0.broker), "seconds": .number($0.seconds)] }),
            "total": Self.value(of: total), "models": .array(models.map(Self.value)),
        ]
        return String(decoding: value.encoded, as: UTF8.self)
    }

    private static func value(of row: Row) -> JSONValue {
        let lost = SupplyReport.Loss.allCases.compactMap { reason in
            row.lost[reason].map { JSONValue.Member("\(reason)", .number($0)) }
        }
        return [
            "model": .string(row.model), "offers": .number(row.offers),
            "slotsGranted": .number(row.slotsGranted), "slotsInUse": .number(row.slotsInUse),
            "waiting": .number(row.waiting), "dispatched": .number(row.dispatched),
            "completed": .number(row.completed), "failed": .number(row.failed),
            "declined": .number(row.declined), "otherEnds": .number(row.otherEnds),
            "inputTokens": .number(row.inputTokens), "outputTokens": .number(row.outputTokens),
            "earnedMicroUSD": .number(row.earned),
            "earnedTodayMicroUSD": .number(row.earnedToday), "lost": .object(lost),
        ]
    }

    private static func dollars(_ amount: Int64) -> String {
        let whole = amount / 1_000_000
        let part = String(amount % 1_000_000)
        return "\(whole)." + String(repeating: "0", count: 6 - part.count) + part
    }

    private static func time(_ ms: UInt64) -> String {
        Date(timeIntervalSince1970: Double(ms) / 1_000).formatted(.iso8601)
    }
}
