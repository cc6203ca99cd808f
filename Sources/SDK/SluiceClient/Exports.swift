// Types that callers meet in this module's interface: money, usage, codes, trust.
@_exported public import SluiceTransport
@_exported public import SluiceWire
