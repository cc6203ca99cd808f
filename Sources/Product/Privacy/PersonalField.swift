package import Store
package import TLSEngine

/// What may be known of the person behind an account. Numbers are those in the database; a number
/// is never used again.
package enum PersonalField: UInt8, CaseIterable, Sendable {
    case name = 1
    case email = 2
    case phone = 3
    case street = 4
    case city = 5
    case country = 6
    case company = 7
    case taxNumber = 8

    /// Longest value in bytes of UTF-8.
    package static let bytesMax = 1_024

    /// What people and programs call it.
    package var text: String { self == .taxNumber ? "tax-number" : "\(self)" }

    /// The reverse of `text`.
    package init?(text: some StringProtocol) {
        guard let field = Self.allCases.first(where: { $0.text == text }) else { return nil }
        self = field
    }
}

/// Why personal data cannot be sealed, opened or kept. Carries no byte of it.
package enum PrivacyError: Error, Equatable, Sendable {
    case sealing(SealingError)
    case store(StoreError)
    /// A value is empty, or longer than `PersonalField.bytesMax`.
    case invalidValue
}

/// Runs what the store does, with its error in ours.
func stored<Value>(
    _ body: () throws(StoreError) -> Value
) throws(PrivacyError) -> Value {
    do throws(StoreError) {
        return try body()
    } catch {
        throw .store(error)
    }
}

/// Runs what sealing does, with its error in ours.
func sealed<Value>(
    _ body: () throws(SealingError) -> Value
) throws(PrivacyError) -> Value {
    do throws(SealingError) {
        return try body()
    } catch {
        throw .sealing(error)
    }
}

/// The bytes that a seal is bound to: a purpose and whom it belongs to, so that nothing sealed can
/// be moved to another account or field.
func sealOwner(_ purpose: StaticString, _ numbers: UInt64...) -> [UInt8] {
    var bytes = Array("\(purpose)".utf8)
    for number in numbers {
        for shift in stride(from: 0, to: 64, by: 8) {
            bytes.append(UInt8(truncatingIfNeeded: number >> UInt64(shift)))
        }
    }
    return bytes
}
