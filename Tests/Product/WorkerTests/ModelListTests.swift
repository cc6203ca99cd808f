import JSONScanning
import SluiceWire
import Testing
import Worker

@Suite struct ModelListTests {
    @Test func namesAndContextsAreReadAsTheServersWriteThem() throws {
        let list = try ListedModel.read(
            Array(
                (#"{"object":"list","models":[{"name":"x"}],"data":["#
                    + #"{"id":"org/a:7b","max_model_len":8192,"permission":[{"id":"p"}]},"#
                    + #"{"id":"b","context_length":null},{"object":"model"}]}"#).utf8))
        #expect(
            list == [ListedModel(name: "org/a:7b", contextTokens: 8192), ListedModel(name: "b")])
        #expect(try ListedModel.read(Array(#"{"object":"list","data":null}"#.utf8)) == [])
    }

    @Test(arguments: ["", "[]", "{}", #"{"data":{}}"#, #"{"data":["a"]}"#, #"{"data":[]"#])
    func whatIsNoListIsRefused(_ text: String) {
        #expect(throws: JSONFault.self) { try ListedModel.read(Array(text.utf8)) }
    }

    @Test func everyModelIsOfferedUnlessSomeWereNamed() throws {
        let listed = ["b", "a", "bad name", "a"].map { ListedModel(name: $0, contextTokens: 9) }
        let all = ModelSelection.everything.offered(of: listed)
        #expect(all.models.map { $0.name } == ["a", "b"])
        #expect(all.models.allSatisfy { $0.contextTokens == 9 })
        #expect(all.skippedCount == 1)
        let some = try ModelSelection(["b", "mine=bad name", "gone"]).offered(of: listed)
        #expect(some.models.map { $0.name } == ["b", "mine"])
        #expect(some.models.map { $0.engineName } == ["b", "bad name"])
        #expect(some.skippedCount == 0)
    }

    @Test func moreThanAConnectionMayOfferAreLeftOut() {
        let listed = (0..<300).map { ListedModel(name: "m\($0)") }
        let found = ModelSelection.everything.offered(of: listed)
        #expect(found.models.count == 256)
        #expect(found.skippedCount == 44)
    }

    @Test(arguments: ["", "=a", "a=", "a b", "é"])
    func aNameThatCannotTravelIsRefused(_ argument: String) {
        #expect(throws: ModelSelection.Fault.invalidName) { try ModelSelection([argument]) }
    }

    @Test func oneNameIsOfferedOnce() {
        #expect(throws: ModelSelection.Fault.duplicateName) { try ModelSelection(["a", "a=b"]) }
    }

    @Test(arguments: [
        ("http://h:1", "http://h:1/v1"), ("http://h:1/", "http://h:1/v1"),
        ("https://h/v1", "https://h/v1"), ("https://h/api/v1/", "https://h/api/v1"),
        ("http://[::1]:8000", "http://[::1]:8000/v1"),
    ])
    func anAddressGetsAVersionOnlyWithoutAPath(_ url: String, _ base: String) {
        #expect(UpstreamAddress(url)?.base == base)
    }

    @Test(arguments: [
        "", "h:1", "ftp://h", "http://", "http://h?q=1", "http://u:p@h", "http://h#f",
    ])
    func anythingElseIsNoAddress(_ url: String) {
        #expect(UpstreamAddress(url) == nil)
    }
}
