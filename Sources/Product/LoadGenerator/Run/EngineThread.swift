import Foundation
import LinuxIO
import SecureTransport

/// Starts the generator's threads.
enum EngineThread {
    /// Runs a plan on a thread of its own.
    static func start(_ plan: EnginePlan, speech: Speech, control: GeneratorControl) {
        let thread = Thread {
            do {
                try ProcessorPlacement.restrict(to: plan.processors)
                ProcessorPlacement.wakeOnTime()
                switch plan.backend {
                case .ring: try run(on: RingBackend.self, plan, speech, control)
                case .epoll: try run(on: EpollBackend.self, plan, speech, control)
                }
            } catch {
                var result = EngineResult()
                result.failure = "\(error)"
                control.finish(plan.number, result)
            }
        }
        thread.stackSize = 4 << 20
        thread.start()
    }

    private static func run<Backend: NetworkBackend & ~Copyable>(
        on _: Backend.Type, _ plan: EnginePlan, _ speech: Speech, _ control: GeneratorControl
    ) throws {
        switch speech {
        case .sluice:
            try Engine<Backend, SluiceClient, SluiceSupplier>(plan: plan, control: control).run()
        case .direct:
            try Engine<Backend, SluiceClient, DirectSupplier>(plan: plan, control: control).run()
        case .nats:
            try Engine<Backend, NATSClient, NATSSupplier>(plan: plan, control: control).run()
        case .http2:
            try Engine<Backend, HTTP2Client, HTTP2Supplier>(plan: plan, control: control).run()
        }
    }
}
