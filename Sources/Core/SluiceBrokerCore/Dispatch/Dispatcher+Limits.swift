import BasicContainers
import SluiceRecordFormat
import SluiceWire

// Limits of keys and accounts, and idempotency keys: what a SUBMIT meets before anything else.
extension Dispatcher {
    /// When a submission may come again that is over a limit of its key or account; nil = it is
    /// over none.
    mutating func limitWaitMs(
        _ submission: Submission, _ peer: Peer, model: UInt32, nowUs: UInt64
    ) -> UInt32? {
        let tokens = estimatedTokens(submission.terms, model: model)
        let account = accounts[Int(peer.accountIndex)].limits.waitMs(tokens: tokens, nowUs: nowUs)
        let key = keys[Int(peer.key)].limits.waitMs(tokens: tokens, nowUs: nowUs)
        // Nobody knows when one of its tasks will end.
        guard let account, let key else { return jittered(1_000) }
        let waitMs = max(account, key)
        return waitMs == 0 ? nil : UInt32(clamping: waitMs)
    }

    /// Answers a submission whose idempotency key is known. Nothing runs [Q15].
    mutating func answerDuplicate(
        _ submission: Submission, _ peer: Peer, nowUs: UInt64, out: inout DispatcherOutput
    ) -> Bool {
        guard
            let first = idempotency.find(
                peer.accountIndex, submission.keyDigest, nowUs: nowUs)
        else { return false }
        counters.duplicates += 1
        guard let task = first.task else {
            // The first is not accepted yet and may still leave the key to another.
            recordRefusal(account: peer.account, .rateLimited, model: 0, wallUs: wallUs, out: &out)
            out.messages.append(
                .refused(submission.stream, .rateLimited, retryAfterMs: jittered(1_000)))
            return true
        }
        recordRefusal(account: peer.account, .duplicate, model: 0, wallUs: wallUs, out: &out)
        let end = EndFrame(
            code: .duplicate, finishReason: .other, usage: first.usage, cost: first.cost)
        out.messages.append(.duplicate(submission.stream, task, end))
        return true
    }
}
