import Development
import Foundation
import SluiceWire

/// What a command shows: a table for people, one JSON object a line for programs.
struct Listing {
    enum Cell {
        case text(String)
        case texts([String])
        case number(UInt64)
        /// Nil = there is none.
        case optionalNumber(UInt64?)
        case flag(Bool)
        case money(MicroUSD)
        /// Milliseconds since 1970; 0 = never.
        case timeMs(UInt64)
    }

    /// Names of the JSON members, and heads of the table.
    let columns: [String]
    var rows: [[Cell]] = []

    init(_ columns: [String], _ rows: [[Cell]] = []) {
        self.columns = columns
        self.rows = rows
    }

    func write(json: Bool) {
        guard !json else {
            for row in rows { Output.line(line(row)) }
            return
        }
        let cells = [columns] + rows.map { $0.map { Self.text($0) } }
        let widths = columns.indices.map { column in cells.map { $0[column].count }.max() ?? 0 }
        for row in cells {
            let padded = zip(row, widths).map { cell, width in
                cell + String(repeating: " ", count: width - cell.count)
            }
            Output.line(padded.joined(separator: "  ").trimmedEnd)
        }
    }

    private func line(_ row: [Cell]) -> JSONLine {
        var line = JSONLine()
        for (name, cell) in zip(columns, row) {
            switch cell {
            case .text(let text): line.add(name, text)
            case .texts(let texts): line.add(name, texts)
            case .number(let number): line.add(name, number as UInt64?)
            case .optionalNumber(let number): line.add(name, number)
            case .flag(let flag): line.add(name, flag)
            case .money(let amount): line.add(name + "MicroUSD", amount.rawValue as Int64?)
            case .timeMs(let ms): line.add(name + "Ms", ms as UInt64?)
            }
        }
        return line
    }

    private static func text(_ cell: Cell) -> String {
        switch cell {
        case .text(let text): text.isEmpty ? "-" : text
        case .texts(let texts): texts.isEmpty ? "-" : texts.joined(separator: ",")
        case .number(let number): String(number)
        case .optionalNumber(let number): number.map { String($0) } ?? "-"
        case .flag(let flag): flag ? "yes" : "no"
        case .money(let amount): (amount < 0 ? "-$" : "$") + DollarAmount.magnitude(amount)
        case .timeMs(0): "-"
        case .timeMs(let ms):
            ISO8601DateFormatter().string(from: Date(timeIntervalSince1970: Double(ms) / 1_000))
        }
    }
}

/// An amount of US dollars on the command line, exact to a millionth: `12`, `0.000001`, `-3.5`.
enum DollarAmount {
    /// Nil for a text that is no amount, has more than six decimals or does not fit.
    static func parse(_ text: String) -> MicroUSD? {
        let isNegative = text.hasPrefix("-")
        let parts = (isNegative ? text.dropFirst() : Substring(text))
            .split(separator: ".", maxSplits: 1, omittingEmptySubsequences: false)
        guard let whole = parts.first, !whole.isEmpty, whole.utf8.allSatisfy(isDigit),
            let dollars = Int64(whole)
        else { return nil }
        let decimals = parts.count == 2 ? parts[1] : "0"
        guard (1...6).contains(decimals.count), decimals.utf8.allSatisfy(isDigit),
            let fraction = Int64(
                decimals + String(repeating: "0", count: 6 - decimals.count))
        else { return nil }
        let (millionths, tooMany) = dollars.multipliedReportingOverflow(by: 1_000_000)
        let (sum, tooLarge) = millionths.addingReportingOverflow(fraction)
        guard !tooMany, !tooLarge else { return nil }
        return MicroUSD(isNegative ? -sum : sum)
    }

    /// With six decimals.
    static func text(_ amount: MicroUSD) -> String {
        (amount < 0 ? "-" : "") + magnitude(amount)
    }

    /// With six decimals and without its sign.
    static func magnitude(_ amount: MicroUSD) -> String {
        let magnitude = amount.rawValue.magnitude
        let rest = String(magnitude % 1_000_000)
        return "\(magnitude / 1_000_000)." + String(repeating: "0", count: 6 - rest.count) + rest
    }

    private static func isDigit(_ byte: UInt8) -> Bool {
        (UInt8(ascii: "0")...UInt8(ascii: "9")).contains(byte)
    }
}

extension String {
    /// Without blanks at its end.
    fileprivate var trimmedEnd: String {
        String(reversed().drop { $0 == " " }.reversed())
    }
}
