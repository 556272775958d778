//! A software dirty log for guests that are written by Python code.

use crate::{door, error};
use dwcp::Status;
use pyo3::prelude::*;
use pyo3::types::PyBytes;
use std::sync::atomic::{AtomicU64, Ordering};

/// One bit for each page of a region, set by `mark`, read and cleared by `take`.
#[pyclass(frozen, module = "dwcp._dwcp")]
pub struct DirtyLog {
    page_bytes: u64,
    pages: u64,
    words: Vec<AtomicU64>,
}

#[pymethods]
impl DirtyLog {
    #[new]
    #[pyo3(signature = (length_bytes, page_bytes = 4096))]
    fn new(py: Python<'_>, length_bytes: u64, page_bytes: u64) -> PyResult<Self> {
        if page_bytes == 0 || length_bytes == 0 || !length_bytes.is_multiple_of(page_bytes) {
            let text =
                format!("length_bytes {length_bytes} is not a positive multiple of {page_bytes}");
            return Err(error::invalid(py, text));
        }
        let pages = length_bytes / page_bytes;
        if pages > dwcp::base::limits::MAX_PAGES {
            let text = format!("{pages} pages; at most {}", dwcp::base::limits::MAX_PAGES);
            return Err(error::new(py, Status::LimitReached, &text));
        }
        let words = (0..pages.div_ceil(64)).map(|_| AtomicU64::new(0)).collect();
        Ok(Self { page_bytes, pages, words })
    }

    /// Marks the pages that `length_bytes` bytes at `offset_bytes` touch.
    fn mark(&self, py: Python<'_>, offset_bytes: u64, length_bytes: u64) -> PyResult<()> {
        if length_bytes == 0 {
            return Ok(());
        }
        let last = offset_bytes.checked_add(length_bytes - 1).map(|byte| byte / self.page_bytes);
        let Some(last) = last.filter(|last| *last < self.pages) else {
            let text = format!(
                "offset_bytes {offset_bytes} + length_bytes {length_bytes} is past the end, {}",
                self.pages * self.page_bytes
            );
            return Err(error::invalid(py, text));
        };
        for page in offset_bytes / self.page_bytes..=last {
            // The release pairs with the acquire of `take`: who sees the bit sees the write.
            self.words[(page / 64) as usize].fetch_or(1 << (page % 64), Ordering::Release);
        }
        Ok(())
    }

    /// The bitmap since the last call, lowest bit first; clears it.
    fn take<'py>(&self, py: Python<'py>) -> PyResult<Bound<'py, PyBytes>> {
        let bits = door::pass(py, || {
            let words = self.words.iter().map(|word| match word.load(Ordering::Relaxed) {
                0 => 0,
                _ => word.swap(0, Ordering::AcqRel),
            });
            words.flat_map(u64::to_le_bytes).collect::<Vec<u8>>()
        })?;
        Ok(PyBytes::new(py, &bits[..self.pages.div_ceil(8) as usize]))
    }

    /// Pages marked since the last `take`.
    fn __len__(&self) -> usize {
        self.words.iter().map(|word| word.load(Ordering::Relaxed).count_ones() as usize).sum()
    }

    /// Pages of the region.
    #[getter]
    fn pages(&self) -> u64 {
        self.pages
    }

    /// Page size in bytes.
    #[getter]
    fn page_bytes(&self) -> u64 {
        self.page_bytes
    }
}
