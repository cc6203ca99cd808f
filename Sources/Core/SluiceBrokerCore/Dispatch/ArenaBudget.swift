import SluiceWire

/// Free content memory of the broker, as far as admission has not promised it. The chunks are one
/// pool for all shards, so that one budget for each kind holds for all of them.
///
/// The last sixteenth of the body memory is for bodies that need no credit (`freeBodyBytesMax`):
/// large ones that wait would otherwise keep everybody's small ones out ([U10], decision 86).
struct ArenaBudget {
    private let bodyBytesMax: Int
    private let answerBytesMax: Int
    private var bodyFreeBytes: Int
    private var answerFreeBytes: Int

    init(bodyBytes: Int, answerBytes: Int) {
        bodyBytesMax = bodyBytes
        answerBytesMax = answerBytes
        bodyFreeBytes = bodyBytes
        answerFreeBytes = answerBytes
    }

    /// What is promised to bodies.
    var reservedBodyBytes: Int { bodyBytesMax - bodyFreeBytes }

    /// What is promised to answers.
    var reservedAnswerBytes: Int { answerBytesMax - answerFreeBytes }

    /// `byteCount` is in whole chunks.
    func fitsBody(_ byteCount: Int) -> Bool {
        let isSmall = byteCount <= Int(WireLimits.freeBodyBytesMax)
        return byteCount <= bodyFreeBytes - (isSmall ? 0 : bodyBytesMax / 16)
    }

    func fitsAnswer(_ byteCount: Int) -> Bool { byteCount <= answerFreeBytes }

    mutating func take(body: Int, answer: Int) {
        bodyFreeBytes -= body
        answerFreeBytes -= answer
    }

    mutating func giveBack(body: Int, answer: Int) {
        bodyFreeBytes += body
        answerFreeBytes += answer
    }
}
