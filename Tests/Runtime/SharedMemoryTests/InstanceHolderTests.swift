import Foundation
import RecordTestSupport
import SharedMemory
import Testing

@Suite struct InstanceHolderTests {
    @Test func theHolderOfALiveInstanceIsItsProcess() throws {
        let scratch = ScratchDirectory()
        let instance = try BrokerInstance.create(
            runDirectory: scratch.path, sizes: smallSizes(), wallMicroseconds: 1)
        #expect(try InstanceHolder.processID(scratch.path, instance.id) == getpid())
        let id = instance.id
        #expect(throws: InstanceError.vanished) {
            _ = try InstanceHolder.processID(scratch.path, id &+ 1)
        }
        instance.close(wallMicroseconds: 9)
        #expect(try InstanceHolder.processID(scratch.path, id) == nil)
    }

    @Test func onlyALockThatIsHeldOnThisFileCounts() {
        let list = """
            1: POSIX  ADVISORY  WRITE 11 fe:00:77 0 EOF
            2: FLOCK  ADVISORY  WRITE 12 fe:01:77 0 EOF
            3: -> FLOCK  ADVISORY  WRITE 13 fe:00:77 0 EOF
            4: FLOCK  ADVISORY  WRITE 0 fe:00:77 0 EOF
            5: FLOCK  ADVISORY  WRITE 14 fe:00:77 0 EOF
            6: FLOCK
            7: FLOCK  ADVISORY  WRITE x fe:00:77 0 EOF
            """
        let file = InstanceHolder.LockedFile(major: 0xFE, minor: 0, inode: 77)
        #expect(InstanceHolder.holder(of: file, in: list) == 14)
        let other = InstanceHolder.LockedFile(major: 0xFE, minor: 0, inode: 78)
        #expect(InstanceHolder.holder(of: other, in: list) == nil)
    }

    @Test func aDeviceNumberIsTakenApartAsTheLibraryPutsItTogether() {
        let small = InstanceHolder.LockedFile(device: 65_024, inode: 1)
        #expect(small == InstanceHolder.LockedFile(major: 254, minor: 0, inode: 1))
        // makedev(0x12345, 0x6789A)
        let large = InstanceHolder.LockedFile(
            device: 0x12000 << 32 | 0x67800 << 12 | 0x345 << 8 | 0x9A, inode: 1)
        #expect(large == InstanceHolder.LockedFile(major: 0x12345, minor: 0x6789A, inode: 1))
    }
}
