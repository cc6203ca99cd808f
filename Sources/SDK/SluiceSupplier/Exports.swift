// Types that suppliers meet in this module's interface: prices, usage, codes, trust.
@_exported public import SluiceTransport
@_exported public import SluiceWire
