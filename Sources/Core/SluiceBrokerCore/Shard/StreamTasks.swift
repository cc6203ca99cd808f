import SluiceRecordFormat
import SluiceWire

/// What a client's stream needs now and then: at its submission, its body, its end. Stands at the
/// same index as its `ClientStream`.
struct ClientTask {
    var terms = TaskTerms(operation: .chat, encoding: .text, bodyBytes: 0)
    var trace: TraceContext?
    var started: StartedFrame?
    /// How it will end, once that is known.
    var ending: Ending?
    var submittedUs: UInt64 = 0
    var deadlineMs: UInt64 = 0
    /// The client's credit has been short since then.
    var starvedSinceMs: UInt64?
    /// What money is held for, and whether the dispatcher was asked for more.
    var held = HeldTokens.unbounded
    var isHoldAsked = false
    /// The dispatcher reserved the body.
    var isAdmitted = false
    /// Bytes above the free ones may come.
    var isGranted = false
    /// Landing bytes that this stream holds until the dispatcher has reserved its body.
    var landingBytes: UInt32 = 0
    var receivedBodyBytes: UInt32 = 0
    /// Of the body, what was granted and counts as under way (`UploadOrder`).
    var underWayBodyBytes: UInt32 = 0
    /// The line in which it waits for that, and its neighbours there (`UploadOrder`).
    var uploadLine = noIndex
    var waitingBefore = noIndex
    var waitingAfter = noIndex
    var bodyCompleteUs: UInt64 = 0
    var ttftUs: UInt64?

    struct Ending {
        var status: TaskStatus
        var code: WireCode
        var finishReason: FinishReason = .other
        var claim: Usage?
        /// The supplier did not answer CANCEL in time.
        var isUnanswered = false
    }
}

/// What a supplier's stream needs for ASSIGN and at its end. Stands at the same index as its
/// `SupplierStream`.
struct SupplierTask {
    var offer = OfferID.connection
    var task = TaskID(instance: 0, counter: 0)
    var terms = TaskTerms(operation: .chat, encoding: .text, bodyBytes: 0)
    var trace: TraceContext?
    var deadlineMs: UInt64 = 0
    /// The limit to be sent with ASSIGN.
    var firstLimitBytes: UInt64 = 0
    /// Body bytes sent since its turn began.
    var turnBytes = 0
}
