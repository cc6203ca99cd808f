import ArgumentParser
import Development
import Foundation
import SluiceLedgerCore
import SluiceRecordFormat
import SluiceWire
import Store

/// `sluice task`
struct TaskCommand: ParsableCommand {
    static let configuration = CommandConfiguration(
        commandName: "task",
        abstract: "Explain one task from its records: who ran it and why, how long, what it cost.",
        discussion: """
            For disputes: everything that the records say of a task, the rule by which it was \
            billed (Protocol/Money.md), and what the ledger has of it. Prompts and answers are in \
            no record. Exit code 1 if no record knows the task; records are kept for 90 days.
            """)

    @OptionGroup var place: StoreOptions

    @Argument(help: "The task: 32 hexadecimal digits, as `sluice ask` and `records` show them.")
    var task: String

    @Flag(help: "Print a JSON object.")
    var json = false

    func validate() throws {
        guard TaskID(task) != nil else {
            throw ValidationError(
                "“\(task)” is no task: 32 lower-case hexadecimal digits are expected")
        }
    }

    func run() throws {
        try reporting {
            guard let id = TaskID(task), let history = try place.open().store.history(of: id)
            else {
                throw CommandFailure(
                    "no record knows task \(task): it was refused, is not settled yet, or is older "
                        + "than records are kept; `sluice records --data DIR` shows the last ones")
            }
            if json {
                Output.line(history.line)
            } else {
                Output.line(TaskExplanation(history).text)
            }
        }
    }
}

/// A task's history in words.
struct TaskExplanation {
    private let history: TaskHistory
    private var lines: [(String, String)] = []

    init(_ history: TaskHistory) {
        self.history = history
        addRequest()
        guard let end = history.end else {
            add("end", "none yet: it runs, or its record is on its way")
            return
        }
        addSupplier(end)
        addTimes(end)
        addEnd(end)
        addMoney(end)
    }

    var text: String {
        let width = lines.map(\.0.count).max() ?? 0
        return lines.map { name, words in
            name + String(repeating: " ", count: width - name.count + 2) + words
        }.joined(separator: "\n")
    }

    private mutating func add(_ name: String, _ words: String) { lines.append((name, words)) }

    private mutating func addRequest() {
        let accepted = history.accepted
        add("task", accepted.task.description)
        add(
            "accepted",
            "\(time(accepted.acceptedAtUs)) by broker \(hexadecimal(accepted.instance))"
                + (history.node.map { " on node \($0)" } ?? ""))
        add("account", party(history.consumer))
        add(
            "asked",
            "\(accepted.operation) of \(history.model.isEmpty ? "?" : history.model), "
                + "\(accepted.bodyBytes) bytes (\(accepted.encoding)), preference "
                + "\(accepted.preference), priority \(accepted.priority), deadline "
                + "\(accepted.deadlineMs) ms")
        add(
            "bounds",
            "input \(bound(accepted.maxInputTokens)), output \(bound(accepted.maxOutputTokens)) "
                + "tokens; price ceilings per million: input \(ceiling(accepted.inputPrice)), "
                + "output \(ceiling(accepted.outputPrice))")
    }

    private mutating func addSupplier(_ end: TaskHistory.End) {
        guard let supplier = end.supplier else {
            return add("supplier", "none: it was never dispatched")
        }
        add(
            "supplier",
            "\(supplier.identity)" + (supplier.account.map { " of " + party($0) } ?? "")
                + (supplier.supplyType.map { ", \($0)" } ?? ""))
        add(
            "why it",
            (supplier.winReason?.words ?? "for a reason that this version does not know")
                + (supplier.dispatches > 1
                    ? "; it is the last of \(supplier.dispatches) that the task was sent to" : ""))
    }

    private mutating func addTimes(_ end: TaskHistory.End) {
        add(
            "times",
            "\(milliseconds(end.queueUs)) ms until it was dispatched; "
                + (end.ttftUs.map { "first token \(milliseconds($0)) ms after its request was in" }
                    ?? "no token")
                + "; ended after \(milliseconds(end.durationUs)) ms")
    }

    private mutating func addEnd(_ end: TaskHistory.End) {
        add(
            "end",
            "\(end.status.text), code \(end.code)"
                + (end.finishReason.map { ", finish reason \($0)" } ?? ""))
        add(
            "usage",
            "\(end.usage.inputTokens) input (\(end.usage.cachedTokens) cached), "
                + "\(end.usage.outputTokens) output (\(end.usage.reasoningTokens) reasoning); "
                + "\(end.deliveredBytes) bytes delivered")
    }

    private mutating func addMoney(_ end: TaskHistory.End) {
        add("billed", end.status.billingRule)
        if let fixed = history.fixedPrices {
            let cost = history.costByFixedPrices
            add(
                "prices",
                "fixed for the model: \(fixed.input)/\(fixed.cached)/\(fixed.output)/"
                    + "\(fixed.reasoning) µUSD; by them it costs "
                    + (cost.map { "$" + DollarAmount.text($0) } ?? "more than can be charged"))
        } else {
            add(
                "prices",
                "the supplier's ask and \(history.feeBasisPoints) basis points of it; asks are "
                    + "frozen at dispatch and stand in no record of their own")
        }
        add(
            "charged",
            "$\(DollarAmount.text(end.charge.consumerCost)) = "
                + "$\(DollarAmount.text(end.charge.supplierEarning)) earned + "
                + "$\(DollarAmount.text(end.charge.platformFee)) fee")
        let postings = history.postings.map {
            "\($0.account.text) \(DollarAmount.text($0.amount))"
        }
        add(
            "ledger",
            postings.isEmpty
                ? history.reasonForNoPostings(end)
                : postings.joined(separator: ", "))
        if history.isChargedElsewhere {
            add(
                "note",
                "the ledger has no charge for it: its idempotency key was charged with another task"
            )
        }
    }

    private func party(_ party: TaskHistory.Party) -> String {
        party.label.isEmpty ? "\(party.account)" : "“\(party.label)” (\(party.account))"
    }

    private func bound(_ tokens: UInt32) -> String { tokens == 0 ? "unbounded" : "\(tokens)" }
    private func ceiling(_ price: UInt64) -> String { price == 0 ? "none" : "\(price) µUSD" }

    private func milliseconds(_ us: UInt64) -> String {
        let rest = String(us % 1_000)
        return "\(us / 1_000)." + String(repeating: "0", count: 3 - rest.count) + rest
    }

    private func time(_ us: UInt64) -> String {
        let formatter = ISO8601DateFormatter()
        formatter.formatOptions = [.withInternetDateTime, .withFractionalSeconds]
        return formatter.string(from: Date(timeIntervalSince1970: Double(us) / 1_000_000))
    }
}

extension TaskHistory {
    /// It has a charge and an idempotency key, and the ledger has no entry.
    fileprivate var isChargedElsewhere: Bool {
        guard let end else { return false }
        return end.charge != .none && postings.isEmpty && !isUnposted
            && accepted.idempotencyDigest != 0
    }

    fileprivate func reasonForNoPostings(_ end: End) -> String {
        if isUnposted { return "nothing is posted: a balance does not take its amounts" }
        return end.charge == .none ? "nothing to post" : "no entry yet"
    }

    /// Everything as one JSON object.
    fileprivate var line: JSONLine {
        var line = JSONLine()
        line.add("taskID", accepted.task.description)
        line.add("acceptedAtUs", accepted.acceptedAtUs as UInt64?)
        line.add("broker", hexadecimal(accepted.instance))
        line.add("node", node)
        line.add("account", consumer.account as UInt64?)
        line.add("accountLabel", consumer.label)
        line.add("model", model)
        line.add("operation", "\(accepted.operation)")
        line.add("encoding", "\(accepted.encoding)")
        line.add("preference", "\(accepted.preference)")
        line.add("priority", accepted.priority as UInt8?)
        line.add("deadlineMs", accepted.deadlineMs as UInt32?)
        line.add("bodyBytes", accepted.bodyBytes as UInt32?)
        line.add("maxInputTokens", accepted.maxInputTokens as UInt32?)
        line.add("maxOutputTokens", accepted.maxOutputTokens as UInt32?)
        line.add("inputPriceCeiling", accepted.inputPrice as UInt64?)
        line.add("outputPriceCeiling", accepted.outputPrice as UInt64?)
        line.add("isOpen", end == nil)
        if let end { end.add(to: &line) }
        line.add("hasFixedPrices", fixedPrices != nil)
        line.add("feeBasisPoints", feeBasisPoints as UInt32?)
        line.add("costByFixedPricesMicroUSD", costByFixedPrices?.rawValue)
        line.add("isUnposted", isUnposted)
        line.add("postings", postings.map { "\($0.account.text)=\($0.amount.rawValue)" })
        return line
    }
}

extension TaskHistory.End {
    fileprivate func add(to line: inout JSONLine) {
        line.add("status", status.text)
        line.add("code", "\(code)")
        if let finishReason {
            line.add("finishReason", "\(finishReason)")
        } else {
            line.addNull("finishReason")
        }
        line.add("supplier", supplier?.identity)
        line.add("supplierAccount", supplier?.account?.account)
        line.add("supplyType", supplier?.supplyType.map { "\($0)" } ?? "none")
        line.add("dispatches", supplier?.dispatches ?? 0 as Int?)
        line.add("winReason", supplier?.winReason.map { "\($0)" } ?? "none")
        line.add("queueUs", queueUs as UInt64?)
        line.add("ttftUs", ttftUs)
        line.add("durationUs", durationUs as UInt64?)
        line.add("inputTokens", usage.inputTokens as UInt32?)
        line.add("cachedTokens", usage.cachedTokens as UInt32?)
        line.add("outputTokens", usage.outputTokens as UInt32?)
        line.add("reasoningTokens", usage.reasoningTokens as UInt32?)
        line.add("deliveredBytes", deliveredBytes as UInt64?)
        line.add("billingRule", status.billingRule)
        line.add("consumerCostMicroUSD", charge.consumerCost.rawValue as Int64?)
        line.add("supplierEarningMicroUSD", charge.supplierEarning.rawValue as Int64?)
        line.add("platformFeeMicroUSD", charge.platformFee.rawValue as Int64?)
    }
}

extension TaskStatus {
    /// The rule of `Protocol/Money.md`, “What is billed”, for this end.
    fileprivate var billingRule: String {
        switch self {
        case .completed: "input and what was delivered, at most what the supplier claimed"
        case .cancelled, .clientLost, .deadlineExceeded, .drained:
            "what was delivered; input too if that is above 0"
        case .supplierLost, .brokerLost:
            "what was delivered; input, as STARTED said, if that is above 0"
        case .supplierFailed: "what was delivered; input too if that is above 0"
        case .budgetExhausted:
            "what was delivered within what was held; input too if that is above 0"
        case .lost: "nothing: the machine and its files were lost"
        }
    }
}

extension WinReason {
    /// For people.
    fileprivate var words: String {
        switch self {
        case .none: "never dispatched"
        case .onlyFree: "no other supplier of the model had a free slot"
        case .affinity: "it had read the beginning of the same conversation"
        case .balanced: "best in price and predicted time together"
        case .cheapest: "cheapest, as the task preferred"
        case .earliest: "earliest predicted first token, as the task preferred"
        case .fastest: "most tokens a second, as the task preferred"
        case .ownShard: "as good as others, and nearest inside the broker"
        case .drawn: "as good as others; drawn"
        case .waited: "the task waited, and this slot came free first"
        case .probe: "it had failed before, and this task tried it again"
        }
    }
}
