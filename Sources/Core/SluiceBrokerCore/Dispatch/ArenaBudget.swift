/// Free content memory of the broker, as far as admission has not promised it. The chunks are one
/// pool for all shards, so that one budget for each kind holds for all of them.
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

    func fitsBody(_ byteCount: Int) -> Bool { byteCount <= bodyFreeBytes }

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
