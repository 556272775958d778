//! L1: what crosses the wire, byte by byte; decoders check every length before they use it.
