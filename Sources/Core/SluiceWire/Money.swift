/// An amount of money in millionths of a US dollar.
///
/// Arithmetic is checked: a sum that does not fit is nil, never wrapped and never trapped on.
public struct MicroUSD: Hashable, Comparable, Sendable, ExpressibleByIntegerLiteral {
    /// Millionths of a US dollar; may be negative (a debit).
    public var rawValue: Int64

    /// Makes an amount from millionths of a US dollar.
    public init(_ rawValue: Int64) {
        self.rawValue = rawValue
    }

    /// Makes an amount from millionths of a US dollar.
    public init(integerLiteral value: Int64) {
        self.init(value)
    }

    /// No money.
    public static let zero = MicroUSD(0)

    /// The sum, or nil where it does not fit 64 bits.
    public func adding(_ other: MicroUSD) -> MicroUSD? {
        let (sum, overflow) = rawValue.addingReportingOverflow(other.rawValue)
        return overflow ? nil : MicroUSD(sum)
    }

    /// Orders by amount.
    public static func < (left: MicroUSD, right: MicroUSD) -> Bool {
        left.rawValue < right.rawValue
    }
}

/// What a task consumed, in tokens.
public struct Usage: Hashable, Sendable {
    /// Tokens of the prompt.
    public var inputTokens: UInt32
    /// Part of `inputTokens` that came from a cache.
    public var cachedTokens: UInt32
    /// Tokens of the answer, reasoning included.
    public var outputTokens: UInt32
    /// Part of `outputTokens` that was reasoning.
    public var reasoningTokens: UInt32

    /// Makes a usage; what is not given is zero.
    public init(
        inputTokens: UInt32 = 0, outputTokens: UInt32 = 0, cachedTokens: UInt32 = 0,
        reasoningTokens: UInt32 = 0
    ) {
        self.inputTokens = inputTokens
        self.cachedTokens = cachedTokens
        self.outputTokens = outputTokens
        self.reasoningTokens = reasoningTokens
    }
}
