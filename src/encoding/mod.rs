//! L2: pages into few bytes and back.
