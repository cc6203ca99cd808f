/// A member that is written as `null` where there is no value, so that readers always find it.
@propertyWrapper
package struct ExplicitNull<Value: Encodable & Equatable & Sendable>: Encodable, Equatable, Sendable
{
    package var wrappedValue: Value?

    package init(wrappedValue: Value?) {
        self.wrappedValue = wrappedValue
    }

    package func encode(to encoder: any Encoder) throws {
        var container = encoder.singleValueContainer()
        if let wrappedValue {
            try container.encode(wrappedValue)
        } else {
            try container.encodeNil()
        }
    }
}
