import SluiceClient

/// A piece of an app: makes summaries, and tries again where that can help.
struct Summariser {
    let sluice: SluiceClient
    let model: String
    /// Attempts in all.
    var attemptsMax = 3
    /// Waits before an attempt that may succeed later.
    var pause: @Sendable (Duration) async -> Void = { try? await Task.sleep(for: $0) }

    /// A summary of `text`. `key` names the wish: while it is open, and for ten minutes after, the
    /// same one is neither run nor paid for a second time.
    func summary(of text: String, key: String) async throws(SluiceError) -> String {
        var runs = 1
        var attempt = 1
        while true {
            let request = TaskRequest.chat(model, "Summarise in one sentence: \(text)") {
                $0.deadline = .seconds(30)
                $0.maxOutputTokens = 100
                $0.idempotencyKey = "\(key)/\(runs)"
            }
            do throws(SluiceError) {
                return try await sluice.perform(request).text
            } catch {
                guard error.retry != .never, attempt < attemptsMax else { throw error }
                attempt += 1
                switch error {
                case .rejected(let rejection):  // not accepted: the key is still free
                    await pause(rejection.retryAfter ?? .seconds(1))
                case .connectionLost:  // it may have run: the same key finds out
                    break
                default:  // it ran, and failed: another run needs another key
                    runs += 1
                }
            }
        }
    }
}
