import Privacy
import Testing

@Suite struct NetworkAddressTests {
    @Test(arguments: [
        ("192.0.2.7", [192, 0, 2, 7]),
        ("0.0.0.0", [0, 0, 0, 0]),
        ("::", [UInt8](repeating: 0, count: 16)),
        ("::1", [UInt8](repeating: 0, count: 15) + [1]),
        ("2001:db8::7", [0x20, 1, 0x0D, 0xB8] + [UInt8](repeating: 0, count: 11) + [7]),
        ("2001:DB8:0:0:0:0:0:7", [0x20, 1, 0x0D, 0xB8] + [UInt8](repeating: 0, count: 11) + [7]),
        ("1:2:3:4:5:6:7::", [0, 1, 0, 2, 0, 3, 0, 4, 0, 5, 0, 6, 0, 7, 0, 0]),
        ("::ffff:192.0.2.7", [UInt8](repeating: 0, count: 10) + [255, 255, 192, 0, 2, 7]),
        ("1:2:3:4:5:6:1.2.3.4", [0, 1, 0, 2, 0, 3, 0, 4, 0, 5, 0, 6, 1, 2, 3, 4]),
    ])
    func whatIsAnAddressIsRead(text: String, bytes: [UInt8]) {
        #expect(NetworkAddress.bytes(text) == bytes)
    }

    @Test(arguments: [
        "", ".", "1.2.3", "1.2.3.4.5", "1.2.3.256", "01.2.3.4", "1.2.3.+4", "1.2.3.4:80", "a.b.c.d",
        ":", ":::", "1::2::3", "1:2:3:4:5:6:7", "1:2:3:4:5:6:7:8:9", "1:2:3:4:5:6:7:8::",
        "12345::", "g::", "+1::", "::1.2.3", "1.2.3.4::", "1:2:3:4:5:6:7:1.2.3.4", "::1%eth0",
        "[::1]",
        " ::1", "1:",
    ])
    func whatIsNoneIsNot(text: String) {
        #expect(NetworkAddress.bytes(text) == nil)
    }
}
