import Foundation
import GRDB
import SQLiteBinding
import Testing

@Suite struct PackedIntegerTests {
    let database: DatabaseQueue

    init() throws {
        database = try DatabaseQueue()
        try database.inDatabase { try PackedIntegers.addFunctions(to: $0) }
    }

    private static let edges: [Int64] =
        [0, 1, -1, 127, 128, -128, -129, 255, 256, .max, .min]
        + (1...7).flatMap { bytes in
            let edge = Int64(1) << (8 * bytes - 1)
            return [edge - 1, edge, -edge, -edge - 1]
        }

    private func pack(_ numbers: [Int64]) throws -> [UInt8] {
        let list = numbers.map { $0 == .min ? "\($0 + 1) - 1" : "\($0)" }
            .joined(separator: ", ")
        let data = try database.read { database in
            try Data.fetchOne(database, sql: "SELECT pack_integers(\(list))")
        }
        return [UInt8](try #require(data))
    }

    private func unpack(_ bytes: [UInt8]) -> [Int64]? { PackedIntegers.unpack(bytes.span) }

    private func number(_ bytes: [UInt8], _ index: Int) throws -> Int64? {
        let sql = "SELECT packed_integer(?, ?)"
        return try database.read { database in
            try Int64.fetchOne(database, sql: sql, arguments: [Data(bytes), index])
        }
    }

    @Test func everyNumberComesBack() throws {
        for count in [0, 1, 2, 17, 36, 37, 64] {
            for start in 0..<Self.edges.count {
                let numbers = (0..<count).map { Self.edges[(start + $0) % Self.edges.count] }
                let bytes = try pack(numbers)
                #expect(unpack(bytes) == numbers)
                guard start == 0 else { continue }
                for index in 0..<count {
                    #expect(try number(bytes, index) == numbers[index])
                }
            }
        }
        #expect(try pack([0, 0, 0, 5]) == [4, 0x00, 0x10, 5], "small ones are short")
    }

    @Test func nullIsNothingAndOtherTypesAreRefused() throws {
        let bytes = try database.read { database in
            try Data.fetchOne(database, sql: "SELECT pack_integers(NULL, 3)")
        }
        #expect(bytes.map { [UInt8]($0) } == [2, 0x10, 3])
        for sql in [
            "pack_integers('a')", "pack_integers(1.5)", "packed_integer('a', 0)",
            "packed_integer(NULL, 0)", "packed_integer(3, 0)", "packed_integer(x'', 0)",
            "pack_integers(\(Array(repeating: "1", count: 65).joined(separator: ", ")))",
        ] {
            #expect(throws: DatabaseError.self, "\(sql)") {
                try database.inDatabase { database in
                    _ = try Row.fetchOne(database, sql: "SELECT \(sql)")
                }
            }
        }
    }

    /// Whatever the bytes are: numbers or an error, nothing else.
    @Test func damagedBytesGiveAnErrorOrNumbers() throws {
        let bytes = try pack(Self.edges)
        for count in 0..<bytes.count {
            #expect(unpack(Array(bytes[..<count])) == nil)
            for index in [0, 1, Self.edges.count - 1] {
                _ = try? number(Array(bytes[..<count]), index)
            }
        }
        #expect(unpack(bytes + [0]) == nil)
        #expect(throws: DatabaseError.self) { _ = try number(bytes, Self.edges.count) }
        #expect(throws: DatabaseError.self) { _ = try number(bytes, -1) }
        var random = SystemRandomNumberGenerator()
        for _ in 0..<20_000 {
            let count = Int.random(in: 0...90, using: &random)
            let noise = (0..<count).map { _ in UInt8.random(in: 0...255, using: &random) }
            if let numbers = unpack(noise) {
                #expect(numbers.count == Int(noise[0]))
            }
        }
        for _ in 0..<2_000 {
            let count = Int.random(in: 0...90, using: &random)
            var noise = (0..<count).map { _ in UInt8.random(in: 0...255, using: &random) }
            if count > 0 { noise[0] &= 63 }
            _ = try? number(noise, Int.random(in: -1...64, using: &random))
        }
    }
}
