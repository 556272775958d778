//! Tools that look at memory: what codecs do to it, and whether all of it comes back.
