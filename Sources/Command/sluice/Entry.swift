import ArgumentParser

/// The `sluice` command: try it on one machine, ask, read the records, run accounts and money,
/// make certificates and keys, measure.
@main
struct Entry: AsyncParsableCommand {
    static let configuration = CommandConfiguration(
        commandName: "sluice",
        abstract: "Route inference tasks from clients to those who own the GPUs.",
        version: "0.1.0",
        subcommands: [
            DevCommand.self, AskCommand.self, RecordsCommand.self, TaskCommand.self,
            UsageCommand.self, SuppliersCommand.self, CertsCommand.self,
            KeyCommand.self, AccountCommand.self, PriceCommand.self, WalletCommand.self,
            SupplierCommand.self, LedgerCommand.self, StatusCommand.self, TopCommand.self,
            DrainCommand.self, MetricsCommand.self, TracesCommand.self, ConfigCommand.self,
            BenchCommand.self,
        ])
}
