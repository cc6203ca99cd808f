import ArgumentParser

@main struct SluiceWorker: AsyncParsableCommand {
    static let configuration = CommandConfiguration(
        commandName: "sluice-worker",
        abstract: "Offers models to Sluice brokers and answers their tasks.",
        discussion: """
            Without a subcommand it serves: the options are those of `run`. `doctor` says what \
            keeps tasks away and what to do, `earnings` what was done and earned, `why-idle` which \
            matches others got and why.
            """,
        subcommands: [
            RunCommand.self, DoctorCommand.self, EarningsCommand.self, WhyIdleCommand.self,
        ],
        defaultSubcommand: RunCommand.self)
}
