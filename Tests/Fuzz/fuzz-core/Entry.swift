import FuzzTargets

/// libFuzzer calls this with every input; `Tools/fuzz core` builds and runs it.
@_cdecl("LLVMFuzzerTestOneInput")
public func fuzz(_ bytes: UnsafePointer<UInt8>?, _ count: Int) -> CInt {
    CoreFuzz.run(Array(UnsafeBufferPointer(start: bytes, count: count)))
    return 0
}
