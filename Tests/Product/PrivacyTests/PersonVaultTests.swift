import Foundation
import Privacy
import RecordTestSupport
import Store
import TLSEngine
import Testing

@Suite struct PersonVaultTests {
    private let fields: [PersonalField: String] = [
        .name: "Ada Exämple", .email: "ada@example.org", .taxNumber: "DE 123",
    ]

    @Test(arguments: TestEngine.allCases)
    func whatIsSetIsShownAndNothingOfItStandsInTheStore(_ engine: TestEngine) throws {
        let test = try TestStore(engine)
        let vault = PersonVault(test.store, MasterKeys(.random()))
        #expect(try vault.show(test.account, nowUs: 2) == nil)
        try vault.set(test.account, fields, nowUs: 3)
        #expect(try vault.show(test.account, nowUs: 4) == fields)
        let sealed = try #require(try test.store.person(test.account))
        #expect(sealed.fields.count == 3)
        for value in fields.values {
            for bytes in Array(sealed.fields.values) + [sealed.wrappedKey] {
                #expect(Data(bytes).range(of: Data(value.utf8)) == nil)
            }
        }
        let actions = try test.store.audit(last: 10).map(\.action)
        #expect(actions.suffix(3) == [.readPerson, .changePerson, .readPerson])
    }

    @Test(arguments: TestEngine.allCases)
    func nothingOpensWithAnotherMasterKeyOrForAnotherAccountOrField(
        _ engine: TestEngine
    ) throws {
        let test = try TestStore(engine)
        let vault = PersonVault(test.store, MasterKeys(.random()))
        try vault.set(test.account, fields, nowUs: 3)
        #expect(throws: PrivacyError.sealing(.keyUnknown)) {
            try PersonVault(test.store, MasterKeys(.random())).show(test.account, nowUs: 4)
        }
        var person = try #require(try test.store.person(test.account))
        let other = try test.store.makeAccount(label: "bob", kinds: .consumer, nowUs: 5).id
        try test.store.setPerson(other, person, nowUs: 6)
        #expect(throws: PrivacyError.sealing(.forged)) { try vault.show(other, nowUs: 7) }
        let (name, email) = (PersonalField.name.rawValue, PersonalField.email.rawValue)
        (person.fields[name], person.fields[email]) = (person.fields[email], person.fields[name])
        try test.store.setPerson(test.account, person, nowUs: 8)
        #expect(throws: PrivacyError.sealing(.forged)) {
            try vault.show(test.account, nowUs: 9)
        }
    }

    @Test(arguments: TestEngine.allCases)
    func anErasureLeavesNothingToOpen(_ engine: TestEngine) throws {
        let test = try TestStore(engine)
        let vault = PersonVault(test.store, MasterKeys(.random()))
        try vault.set(test.account, fields, nowUs: 3)
        let person = try #require(try test.store.person(test.account))
        if engine == .sqlite {
            #expect(try test.fileBytes().range(of: Data(person.wrappedKey)) != nil)
        }
        try test.store.erasePerson(test.account, nowUs: 4)
        let isOverwritten = try test.store.overwriteRemains()
        #expect(try vault.show(test.account, nowUs: 5) == nil)
        #expect(
            try test.store.audit(last: 10).map(\.action).suffix(2) == [.erasePerson, .readPerson])
        if engine == .sqlite {
            #expect(isOverwritten)
            let bytes = try test.fileBytes()
            for remains in Array(person.fields.values) + [person.wrappedKey] {
                #expect(bytes.range(of: Data(remains)) == nil)
            }
        }
        #expect(throws: PrivacyError.store(.unknownAccount)) {
            try vault.show(99, nowUs: 5)
        }
    }

    @Test(arguments: TestEngine.allCases)
    func afterAChangeOfTheMasterKeyTheOldOneOpensNothing(_ engine: TestEngine) throws {
        let test = try TestStore(engine)
        let (old, new) = (SealingKey.random(), SealingKey.random())
        try PersonVault(test.store, MasterKeys(old)).set(test.account, fields, nowUs: 3)
        try AddressBook(test.store, MasterKeys(old)).note(
            [127, 0, 0, 1], account: test.account, nowUs: 3)
        #expect(throws: PrivacyError.sealing(.keyUnknown)) {
            try PersonVault(test.store, MasterKeys(new)).rewrap(nowUs: 4)
        }
        try PersonVault(test.store, MasterKeys(new, earlier: [old])).rewrap(nowUs: 4)
        #expect(
            try PersonVault(test.store, MasterKeys(new)).show(test.account, nowUs: 5) == fields)
        #expect(
            try AddressBook(test.store, MasterKeys(new)).accounts(from: [127, 0, 0, 1])
                == [test.account])
        #expect(throws: PrivacyError.sealing(.keyUnknown)) {
            try PersonVault(test.store, MasterKeys(old)).show(test.account, nowUs: 5)
        }
    }

    @Test(arguments: ["", String(repeating: "x", count: PersonalField.bytesMax + 1)])
    func aValueOutsideItsRangeIsRefused(value: String) throws {
        let test = try TestStore(.sqlite)
        let vault = PersonVault(test.store, MasterKeys(.random()))
        try vault.set(test.account, fields, nowUs: 2)
        #expect(throws: PrivacyError.invalidValue) {
            try vault.set(test.account, [.name: value], nowUs: 3)
        }
        #expect(try vault.show(test.account, nowUs: 4) == fields)
    }
}
