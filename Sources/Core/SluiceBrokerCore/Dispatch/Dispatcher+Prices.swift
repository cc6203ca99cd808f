import BasicContainers
import SluiceLedgerCore
import SluiceRecordFormat
import SluiceWire

// What clients pay: the ask with the operator's fee, or the operator's own price.
extension Dispatcher {
    /// Prices or fee are others, or a later one has come into effect.
    mutating func pricesChanged(nowUs: UInt64, out: inout DispatcherOutput) {
        // A time from the store may lie beyond all that fits: it never comes.
        nextPriceChangeUs =
            prices.nextChangeMs(afterMs: wallUs / 1_000).map {
                let (us, isBeyond) = $0.multipliedReportingOverflow(by: 1_000)
                return isBeyond ? .max : us
            } ?? .max
        for offer in offers.indices where offers[offer].isPresent && !offers[offer].isWithdrawn {
            price(UInt32(offer))
            relist(UInt32(offer))
            // It may fit a task now that waits for something cheaper.
            serve(UInt32(offer), nowUs: nowUs, out: &out)
        }
    }

    /// Prices that were announced come into effect.
    mutating func followPrices(nowUs: UInt64, out: inout DispatcherOutput) {
        guard wallUs >= nextPriceChangeUs else { return }
        pricesChanged(nowUs: nowUs, out: &out)
    }

    /// What the client pays for an offer now. An ask above the operator's price serves nothing.
    mutating func price(_ offer: UInt32) {
        let index = Int(offer)
        let ask = offers[index].prices.ask
        let consumer = prices.consumerPrices(
            ask: ask, model: models[Int(offers[index].model)].name, nowMs: wallUs / 1_000)
        offers[index].isPricedOut = consumer == nil
        offers[index].prices = TaskPrices(ask: ask, consumer: consumer ?? ask)
        let dearest = offers[index].prices.consumer.dearest
        offers[index].price = PriceSteps(offers[index].prices.consumer)
        offers[index].standing.inputPrice = UInt64(dearest.input)
        offers[index].standing.outputPrice = UInt64(dearest.output)
        offers[index].standing.operations =
            offers[index].isPricedOut ? 0 : offers[index].operations
        raiseDearest(offer)
    }

    /// The dearest of all that stand for a model, as a price list that covers each of them.
    mutating func dearest(_ model: UInt32) -> PriceList {
        let index = Int(model)
        if models[index].isDearestStale, !models[index].offers.isEmpty {
            models[index].isDearestStale = false
            models[index].dearest = .free
            for position in models[index].offers.indices {
                raiseDearest(models[index].offers[position])
            }
        }
        return models[index].dearest
    }

    private mutating func raiseDearest(_ offer: UInt32) {
        guard !offers[Int(offer)].isPricedOut else { return }
        let model = Int(offers[Int(offer)].model)
        let known = models[model].dearest
        let prices = offers[Int(offer)].prices.consumer.dearest
        models[model].dearest = PriceList(
            input: max(known.input, prices.input), cached: max(known.cached, prices.cached),
            output: max(known.output, prices.output),
            reasoning: max(known.reasoning, prices.reasoning))
    }
}

extension PriceList {
    /// The highest that input and output can cost by this list, whatever part of them is cached or
    /// reasoning.
    var dearest: PriceList {
        let prompt = max(input, cached)
        let answer = max(output, reasoning)
        return PriceList(input: prompt, cached: prompt, output: answer, reasoning: answer)
    }
}
