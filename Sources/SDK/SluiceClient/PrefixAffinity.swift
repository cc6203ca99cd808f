import SluiceWire

/// Affinity keys for a conversation: two requests that begin with the same messages share a key, so
/// that the second can go where the first one's prefix is still in a cache
/// (`SubmitOptions.affinityKeys`, [Q13]). Each key is an HMAC under a secret of the caller's: a
/// broker learns from it neither a message nor, without the secret, whether it guessed one ([Y7]).
public struct PrefixAffinity: Sendable {
    private let secret: [UInt8]

    /// Keys under `secret`, of which 32 random bytes are enough. Clients that share it share keys.
    public init(secret: [UInt8]) {
        self.secret = secret
    }

    /// The keys of a conversation, the longest prefix first, at most 8: those after each of its
    /// last messages, and the one after its first.
    ///
    /// - Parameters:
    ///   - scope: Whose conversations may share keys: the account, or a hash of its API key.
    ///   - model: The model's name: a cache of another one is worth nothing.
    ///   - messages: Every message as bytes, the oldest first. Equal messages must be equal bytes.
    public func keys(
        scope: [UInt8], model: String, messages: [some Collection<UInt8>]
    ) -> [[UInt8]] {
        var link = hmacSHA256(scope + [0] + Array(model.utf8), secret: secret)
        var keys: [[UInt8]] = []
        for message in messages {
            // Each key binds the one before it, so that the work is linear in the conversation.
            link = hmacSHA256(link + Array(message), secret: secret)
            keys.append(Array(link.prefix(16)))
        }
        guard keys.count > WireLimits.affinityKeysMax, let first = keys.first else {
            return keys.reversed()
        }
        return keys.suffix(WireLimits.affinityKeysMax - 1).reversed() + [first]
    }
}
