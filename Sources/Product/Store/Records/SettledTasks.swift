package import SluiceRecordFormat
package import SluiceWire

/// A model by the number that an instance gave it.
package struct NumberedModel: Hashable, Sendable {
    package var instance: UInt64
    package var model: UInt32

    package init(instance: UInt64, model: UInt32) {
        self.instance = instance
        self.model = model
    }
}

/// How a task of a model ended.
package struct ModelOutcome: Hashable, Sendable {
    package var model: NumberedModel
    package var status: TaskStatus

    package init(model: NumberedModel, status: TaskStatus) {
        self.model = model
        self.status = status
    }
}

extension ModelOutcome {
    init(_ record: EndedRecord, askedFor model: UInt32) {
        self.init(
            model: NumberedModel(
                instance: record.task.instance,
                model: record.offerModel == 0 ? model : record.offerModel),
            status: record.status)
    }
}

/// What one transaction settled, counted.
package struct SettledTasks: Equatable, Sendable {
    /// Tasks by the model that answered, or for want of one that was asked for, and status.
    package private(set) var outcomes: [ModelOutcome: Int] = [:]
    package private(set) var refusals: [WireCode: UInt64] = [:]
    /// NAME records.
    package var names: [NumberedModel: String] = [:]
    /// When the task that had waited longest had ended, microseconds since 1970; nil if none did.
    package private(set) var oldestEndUs: UInt64?

    package init() {}

    package mutating func ended(_ record: EndedRecord, askedFor model: UInt32, atUs: UInt64) {
        ended(ModelOutcome(record, askedFor: model), count: 1, oldestEndUs: atUs)
    }

    /// Counts tasks that ended alike, the first of them at this time.
    mutating func ended(_ outcome: ModelOutcome, count: Int, oldestEndUs atUs: UInt64) {
        outcomes[outcome, default: 0] += count
        oldestEndUs = min(oldestEndUs ?? .max, atUs)
    }

    package mutating func refused(_ record: RefusedRecord) {
        refusals[record.code, default: 0] &+= record.count
    }
}

extension Store {
    /// Name of a model; nil if its NAME is not there.
    package func modelName(_ model: NumberedModel) throws(StoreError) -> String? {
        try read { (transaction) throws(StoreError) in
            let rows = try transaction.query(
                "SELECT name FROM model_name WHERE instance = $1 AND model = $2",
                [.integer(signed(model.instance)), .integer(Int64(model.model))])
            return try rows.first?.text(0)
        }
    }
}
