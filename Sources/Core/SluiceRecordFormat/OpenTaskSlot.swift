public import SluiceWire

/// One open task in the table that survives its broker: all that an ENDED needs.
///
/// A slot belongs to the dispatcher, which opens and clears it; between the two the client's shard
/// overwrites the delivery words in place. The words' offsets are fixed (`Word`).
@frozen @usableFromInline
package struct OpenTaskSlot: Equatable, Sendable {
    /// Offsets in 64-bit words.
    @frozen @usableFromInline
    package enum Word: Int, CaseIterable, Sendable {
        /// Task counter of the slot's instance.
        case counter = 0
        /// Sequence of the task's ACCEPTED; 0 = slot is free. Stored last when a slot is opened,
        /// before the record is published.
        case acceptSequence = 1
        /// Sequence of the task's ENDED; 0 = none. Stored before that record is published.
        case endSequence = 2
        /// Instance whose journal holds, or will hold, that ENDED; stored before `endSequence`.
        case endInstance = 3
        /// Wall clock, microseconds since 1970.
        case acceptedAtUs = 4
        /// Identity of the supplier; 0 = not dispatched.
        case supplier = 5
        /// u32 offer model, u8 supply type, u8 dispatches, u8 win reason, u8 operation.
        case dispatch = 6
        /// Prices frozen at dispatch, each u32 low, u32 high: the supplier's for input and cached,
        /// for output and reasoning, then the consumer's in the same order.
        case askInputCached = 7
        case askOutputReasoning = 8
        case consumerInputCached = 9
        case consumerOutputReasoning = 10
        /// u32 input tokens, u32 cached tokens, as the supplier's STARTED said.
        case started = 11
        /// u32 output tokens, u32 reasoning tokens sealed to the client; of a prepaid task never
        /// more than are held for.
        case delivered = 12
        /// Payload bytes sealed to the client.
        case deliveredBytes = 13
        /// Time to first token in microseconds; all ones = no output yet.
        case ttftUs = 14
        /// u32 microseconds in the queue, u32 most input tokens that are billed (0 = no limit).
        case terms = 15
    }

    /// The slot as it lies in the table.
    @usableFromInline package var words: RecordWords

    /// A slot from the table; nothing is checked.
    @inlinable
    package init(words: RecordWords) {
        self.words = words
    }

    /// A task that was just accepted: no supplier, no output.
    @inlinable
    package init(counter: UInt64, acceptedAtUs: UInt64, maxInputTokens: UInt32) {
        words = RecordWords()
        words[0] = counter
        words[4] = acceptedAtUs
        words[14] = .max
        words[15] = UInt64(low: 0, high: maxInputTokens)
    }

    package subscript(word: Word) -> UInt64 {
        get { words[word.rawValue] }
        set { words[word.rawValue] = newValue }
    }

    package var counter: UInt64 { self[.counter] }
    package var acceptSequence: UInt64 { self[.acceptSequence] }
    package var endSequence: UInt64 { self[.endSequence] }
    package var endInstance: UInt64 { self[.endInstance] }
    package var acceptedAtUs: UInt64 { self[.acceptedAtUs] }
    package var supplier: UInt64 { self[.supplier] }
    package var offerModel: UInt32 { self[.dispatch].low32 }
    package var supplyType: SupplyType? { SupplyType(rawValue: self[.dispatch].byte(4)) }
    package var dispatches: UInt8 { self[.dispatch].byte(5) }
    package var winReason: UInt8 { self[.dispatch].byte(6) }
    /// `chat` for a task that was never dispatched: it has no prices.
    package var operation: TaskOperation {
        TaskOperation(rawValue: self[.dispatch].byte(7)) ?? .chat
    }
    package var inputTokens: UInt32 { self[.started].low32 }
    package var cachedTokens: UInt32 { self[.started].high32 }
    package var deliveredTokens: UInt32 { self[.delivered].low32 }
    package var reasoningTokens: UInt32 { self[.delivered].high32 }
    package var deliveredBytes: UInt64 { self[.deliveredBytes] }
    package var ttftUs: UInt64? { self[.ttftUs] == .max ? nil : self[.ttftUs] }
    package var queueUs: UInt32 { self[.terms].low32 }
    package var maxInputTokens: UInt32 { self[.terms].high32 }

    package var prices: TaskPrices {
        TaskPrices(
            ask: PriceList(self[.askInputCached], self[.askOutputReasoning]),
            consumer: PriceList(self[.consumerInputCached], self[.consumerOutputReasoning]))
    }

    /// Packs the `dispatch` word.
    @inlinable
    package static func dispatchWord(
        offerModel: UInt32, supplyType: SupplyType, dispatches: UInt8, winReason: UInt8,
        operation: TaskOperation
    ) -> UInt64 {
        UInt64(offerModel) | .byte(supplyType.rawValue, at: 4) | .byte(dispatches, at: 5)
            | .byte(winReason, at: 6) | .byte(operation.rawValue, at: 7)
    }

    /// The final record of a task whose broker died: what was delivered is billed, input only if
    /// output was delivered, output never above the payload bytes that were.
    ///
    /// A charge that does not fit is no charge: an overflow never invents money.
    package func endedAfterLoss(instance: UInt64, endedAtUs: UInt64) -> EndedRecord {
        let output = UInt32(min(UInt64(deliveredTokens), deliveredBytes))
        let inputLimit = maxInputTokens == 0 ? UInt32.max : maxInputTokens
        let input = output > 0 ? min(inputTokens, inputLimit) : 0
        let usage = Usage(
            inputTokens: input, outputTokens: output, cachedTokens: min(cachedTokens, input),
            reasoningTokens: min(reasoningTokens, output))
        return EndedRecord(
            task: TaskID(instance: instance, counter: counter), status: .brokerLost,
            code: .internalFault, usage: usage, deliveredBytes: deliveredBytes, ttftUs: ttftUs,
            durationUs: endedAtUs > acceptedAtUs ? endedAtUs - acceptedAtUs : 0, queueUs: queueUs,
            charge: prices.charge(usage, operation) ?? .none,
            supplier: supplier, offerModel: offerModel, supplyType: supplyType,
            dispatches: dispatches, winReason: winReason)
    }
}
