//! A guest driven by callbacks.

/// Hands a part of the device state to the library; may be called many times. Threads: only inside
/// the save_device_state callback that received the writer.
#[unsafe(no_mangle)]
#[must_use]
pub unsafe extern "C" fn dwcp_writer_write(
    writer: *mut dwcp_writer,
    data: *const c_void,
    length_bytes: usize,
) -> dwcp_status {
    on(writer, |writer: &Arc<StateWriter>| {
        // SAFETY: the caller vouches for data, as the header says.
        let bytes = unsafe { strings::bytes_in("data", data, length_bytes)? };
        writer.append(bytes)
    })
}

/// Says why the callback that runs on this thread is about to fail; quoted with its code. Threads:
/// only inside a callback.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn dwcp_callback_set_error(text: *const c_char) -> dwcp_status {
    guard(|| {
        // SAFETY: the caller vouches for text, as the header says.
        let text = unsafe { strings::text_in("text", text)? };
        set_callback_error(&text)
    })
}
