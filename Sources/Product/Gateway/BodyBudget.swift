import HTTPTypes
import HummingbirdCore
import NIOCore
import Synchronization

/// Bytes of request bodies that the gateway holds, over all connections. Any thread.
final class BodyBudget: Sendable {
    private let limit: Int
    private let held = Mutex(0)

    /// Holds at most `limit` bytes.
    init(limit: Int) {
        self.limit = limit
    }

    /// Bytes that are held now.
    var heldBytes: Int { held.withLock { $0 } }

    /// A body and its share of the budget, which goes back when this is let go.
    final class Held: Sendable {
        let bytes: [UInt8]
        private let share: Share

        fileprivate init(_ bytes: [UInt8], _ share: Share) {
            (self.bytes, self.share) = (bytes, share)
        }
    }

    fileprivate final class Share: Sendable {
        private let budget: BodyBudget
        private let bytes = Mutex(0)

        init(_ budget: BodyBudget) {
            self.budget = budget
        }

        /// False where the budget is used up.
        func grow(by count: Int) -> Bool {
            let fits = budget.held.withLock { held in
                guard held + count <= budget.limit else { return false }
                held += count
                return true
            }
            if fits { bytes.withLock { $0 += count } }
            return fits
        }

        deinit {
            let count = bytes.withLock { $0 }
            budget.held.withLock { $0 -= count }
        }
    }

    /// Reads the whole body of a request. Throws 413 above `limit` bytes, without reading further
    /// where the request says its length, and 503 where the budget is used up.
    func read(_ request: Request, limit: Int) async throws(HTTPFault) -> Held {
        let declared = request.headers[.contentLength].flatMap { Int($0) }
        if let declared, declared > limit { throw .bodyTooLarge }
        let share = Share(self)
        var bytes: [UInt8] = []
        do {
            for try await buffer in request.body {
                guard bytes.count + buffer.readableBytes <= limit else {
                    throw HTTPFault.bodyTooLarge
                }
                guard share.grow(by: buffer.readableBytes) else { throw HTTPFault.overloaded }
                bytes += buffer.readableBytesView
            }
        } catch let fault as HTTPFault {
            throw fault
        } catch {
            throw .invalid("The body did not arrive.")
        }
        return Held(bytes, share)
    }
}
