import Store

/// A metric of the sidecar, from its report.
struct SettlementMetric: Sendable {
    /// One value with what tells it from the others. Values need no escaping: models' names have
    /// no quotes, controls or backslashes.
    struct Sample: Equatable, Sendable {
        var labels: [(name: String, value: String)]
        var value: UInt64

        static func == (left: Sample, right: Sample) -> Bool {
            left.value == right.value
                && left.labels.elementsEqual(right.labels) { $0 == $1 }
        }
    }

    var name: String
    var help: String
    var kind: Metric.Kind
    var isMicroseconds = false
    /// Nil: no sidecar reports.
    var samples: @Sendable (SettlementReport?) -> [Sample]

    static let all: [SettlementMetric] = [
        SettlementMetric(
            name: "sluice_sidecars", help: "Sidecars that report from the run directory.",
            kind: .gauge
        ) { [Sample(labels: [], value: $0 == nil ? 0 : 1)] },
        SettlementMetric(
            name: "sluice_settled_tasks_total",
            help: "Tasks that have their final record in the store, by model and how they ended.",
            kind: .counter
        ) { report in
            (report?.outcomes ?? []).map {
                Sample(labels: [("model", $0.model), ("status", $0.status)], value: $0.count)
            }
        },
        SettlementMetric(
            name: "sluice_refusals_total",
            help: "Tasks refused before acceptance that are in the store, by reason.",
            kind: .counter
        ) { report in
            (report?.refusals ?? []).map {
                Sample(labels: [("code", $0.code)], value: $0.count)
            }
        },
        one(
            "sluice_settlement_records_total", "Records that were applied to the store.", .counter
        ) { $0.recordsApplied },
        one(
            "sluice_settlement_duplicates_total",
            "Second records of a task, which were dropped; always 0 unless something is wrong.",
            .counter
        ) { $0.duplicates },
        one(
            "sluice_settlement_unposted_total",
            "Ended tasks whose amounts the ledger did not take: nothing was posted for them.",
            .counter
        ) { $0.unposted },
        one(
            "sluice_settlement_lag_seconds",
            "How long the oldest task of the last transaction had been over.", .gauge,
            isMicroseconds: true
        ) { $0.lagUs },
        one(
            "sluice_settlement_store_refusing", "1 while the store takes nothing.", .gauge
        ) { $0.isStoreRefusing ? 1 : 0 },
        one(
            "sluice_segment_bytes", "Bytes of the journal's segments on disk.", .gauge
        ) { $0.segmentBytes },
    ]

    private static func one(
        _ name: String, _ help: String, _ kind: Metric.Kind, isMicroseconds: Bool = false,
        _ value: @escaping @Sendable (SettlementReport) -> UInt64
    ) -> SettlementMetric {
        SettlementMetric(name: name, help: help, kind: kind, isMicroseconds: isMicroseconds) {
            report in report.map { [Sample(labels: [], value: value($0))] } ?? []
        }
    }
}
