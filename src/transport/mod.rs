//! L2: streams, acknowledgement, resending, pacing, as engines without sockets.
