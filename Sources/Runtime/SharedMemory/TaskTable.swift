public import CLinuxIO
public import SluiceRecordFormat

/// The open-task table of a living instance: a handle that may be copied to every shard.
///
/// Valid while its `BrokerInstance` lives. The dispatcher opens, dispatches and clears a slot; the
/// shard of the task's client alone calls `addDelivered`, `setFirstOutput` and `setStarted` between
/// the two. Nothing here allocates or calls the kernel. `index` is 0..<`slotCount` everywhere.
@safe @frozen @usableFromInline
package struct TaskTable: @unchecked Sendable {
    @usableFromInline let firstSlot: UnsafeMutableRawPointer
    /// Number of slots.
    @usableFromInline package let slotCount: Int

    init(firstSlot: UnsafeMutableRawPointer, slotCount: Int) {
        unsafe self.firstSlot = firstSlot
        self.slotCount = slotCount
    }

    /// Writes a new task into a free slot, without its `acceptSequence`: a slot whose opening was
    /// cut short stays free.
    @inlinable
    package func openSlot(_ index: Int, _ slot: OpenTaskSlot) {
        precondition(load(index, .acceptSequence) == 0)
        for position in 0..<RecordWords.count
        where position != OpenTaskSlot.Word.acceptSequence.rawValue {
            store(slot.words[position], index, position)
        }
        // A successor believes the slot once `acceptSequence` is set: everything else first.
        sluice_word_order()
    }

    /// Names the task's ACCEPTED. Call before that record is published.
    @inlinable
    package func setAcceptSequence(_ index: Int, _ sequence: UInt64) {
        sluice_word_order()
        store(sequence, index, OpenTaskSlot.Word.acceptSequence.rawValue)
        sluice_word_order()
    }

    /// Names the task's ENDED in the journal of `instance`. Call before that record is published.
    @inlinable
    package func setEndSequence(_ index: Int, instance: UInt64, _ sequence: UInt64) {
        store(instance, index, OpenTaskSlot.Word.endInstance.rawValue)
        sluice_word_order()
        store(sequence, index, OpenTaskSlot.Word.endSequence.rawValue)
        sluice_word_order()
    }

    /// Counts what was sealed to the client. Bytes are stored first: a death between the two
    /// leaves tokens that were not yet counted, never tokens without their bytes.
    @inlinable
    package func addDelivered(
        _ index: Int, tokens: UInt32, reasoningTokens: UInt32, payloadBytes: UInt64
    ) {
        let bytes = load(index, .deliveredBytes) &+ payloadBytes
        let counted = load(index, .delivered)
        store(bytes, index, OpenTaskSlot.Word.deliveredBytes.rawValue)
        sluice_word_order()
        store(
            UInt64(low: counted.low32 &+ tokens, high: counted.high32 &+ reasoningTokens), index,
            OpenTaskSlot.Word.delivered.rawValue)
    }

    /// Notes the time to the first token. Call once, before those tokens are counted.
    @inlinable
    package func setFirstOutput(_ index: Int, ttftUs: UInt64) {
        store(ttftUs, index, OpenTaskSlot.Word.ttftUs.rawValue)
    }

    /// Notes what the supplier's STARTED said.
    @inlinable
    package func setStarted(_ index: Int, inputTokens: UInt32, cachedTokens: UInt32) {
        store(
            UInt64(low: inputTokens, high: cachedTokens), index,
            OpenTaskSlot.Word.started.rawValue)
    }

    /// Notes a dispatch: who, at which prices, after how long in the queue. A later dispatch
    /// forgets what an earlier supplier's STARTED said.
    @inlinable
    package func setSupplier(
        _ index: Int, supplier: UInt64, dispatchWord: UInt64, prices: TaskPrices, queueUs: UInt32
    ) {
        store(0, index, OpenTaskSlot.Word.started.rawValue)
        store(prices.ask.firstWord, index, OpenTaskSlot.Word.askInputCached.rawValue)
        store(prices.ask.secondWord, index, OpenTaskSlot.Word.askOutputReasoning.rawValue)
        store(prices.consumer.firstWord, index, OpenTaskSlot.Word.consumerInputCached.rawValue)
        store(
            prices.consumer.secondWord, index, OpenTaskSlot.Word.consumerOutputReasoning.rawValue)
        store(
            UInt64(low: queueUs, high: load(index, .terms).high32), index,
            OpenTaskSlot.Word.terms.rawValue)
        store(dispatchWord, index, OpenTaskSlot.Word.dispatch.rawValue)
        store(supplier, index, OpenTaskSlot.Word.supplier.rawValue)
    }

    /// Frees a slot. Call only after its ENDED is published.
    @inlinable
    package func clearSlot(_ index: Int) {
        sluice_word_order()
        store(0, index, OpenTaskSlot.Word.acceptSequence.rawValue)
        // Nothing of the next task may enter the slot while a successor would still believe it.
        sluice_word_order()
    }

    /// A copy of a slot.
    package func slot(_ index: Int) -> OpenTaskSlot {
        var words = RecordWords()
        for position in 0..<RecordWords.count {
            // SAFETY: `address` checks the bounds.
            words[position] = unsafe sluice_word_load(address(index, position))
        }
        return OpenTaskSlot(words: words)
    }

    @inlinable
    func load(_ index: Int, _ word: OpenTaskSlot.Word) -> UInt64 {
        // SAFETY: `address` checks the bounds.
        unsafe sluice_word_load(address(index, word.rawValue))
    }

    @inlinable
    func store(_ value: UInt64, _ index: Int, _ word: Int) {
        // SAFETY: `address` checks the bounds.
        unsafe sluice_word_store(address(index, word), value)
    }

    @inlinable
    func address(_ index: Int, _ word: Int) -> UnsafeMutableRawPointer {
        precondition(index >= 0 && index < slotCount && word >= 0 && word < RecordWords.count)
        // SAFETY: the file was made, or checked, for `slotCount` slots.
        return unsafe firstSlot + (index &* RecordWords.byteCount &+ word &* 8)
    }
}
