//! L4: the YAML configuration, read with file and line, and changed key by key.
