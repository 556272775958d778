//! Handles are numbers in a table, dressed as pointers.
//!
//! ```text
//! bit 63              24 23             4 3    1  0
//!    | serial (40 bits) | index (20 bits) | kind | 1 |
//! ```
//!
//! Nothing is ever dereferenced: a freed handle's serial is not in the table any more and never
//! comes again, so its use is an error with a text. The low bit keeps a handle from being a valid
//! address of anything aligned, so a program that dereferences one faults at once. Once the last
//! handle is freed the table gives its memory back, so that unloading the library leaks nothing.

use super::guard::Failure;
use crate::Status;
use std::ptr;
use std::sync::{Arc, PoisonError, RwLock};

/// A kind of object that handles name.
pub trait Handled: Sized + Send + Sync + 'static {
    /// The opaque C type.
    type Opaque;
    /// What C calls it.
    const NAME: &'static str;
    /// Its tag within handles, 0 to 7.
    const KIND: Kind;

    /// Puts the object into its variant.
    fn wrap(object: Arc<Self>) -> Object;

    /// Takes it out again; none for another kind.
    fn unwrap(object: &Object) -> Option<&Arc<Self>>;
}

/// The kinds there are.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(usize)]
pub enum Kind {
    /// `dwcp_node`.
    Node = 1,
    /// `dwcp_migration`.
    Migration = 2,
    /// `dwcp_writer`.
    Writer = 3,
    /// `dwcp_decider`.
    Decider = 4,
}

/// What a slot of the table holds.
pub enum Object {
    /// `dwcp_node`.
    Node(Arc<super::node::NodeHandle>),
    /// `dwcp_migration`.
    Migration(Arc<super::migration::MigrationHandle>),
    /// `dwcp_writer`.
    Writer(Arc<super::callbacks::StateWriter>),
    /// `dwcp_decider`.
    Decider(Arc<super::decider::DeciderHandle>),
}

/// Enters an object and returns its handle.
pub fn insert<H: Handled>(object: H) -> Result<*mut H::Opaque, Failure> {
    let mut table = write();
    let index = match table.free.pop() {
        Some(index) => index as usize,
        None if table.slots.len() < MAX_HANDLES => {
            table.slots.push(Slot::EMPTY);
            table.slots.len() - 1
        }
        None => {
            let text = format!("{MAX_HANDLES} handles are open");
            return Err(Failure::new(Status::LimitReached, text));
        }
    };
    table.serial += 1;
    let value = (table.serial as usize) << SERIAL_SHIFT
        | index << INDEX_SHIFT
        | (H::KIND as usize) << 1
        | 1;
    table.slots[index] = Slot { value, poisoned: false, object: Some(H::wrap(Arc::new(object))) };
    Ok(ptr::without_provenance_mut(value))
}

/// The object that a handle names.
pub fn get<H: Handled>(pointer: *const H::Opaque) -> Result<Arc<H>, Failure> {
    with::<H, _>(pointer, Arc::clone)
}

/// Shows the object that a handle names to `show`, which must be short: the table is locked.
pub fn with<H: Handled, R>(
    pointer: *const H::Opaque,
    show: impl FnOnce(&Arc<H>) -> R,
) -> Result<R, Failure> {
    let value = pointer.addr();
    let table = TABLE.read().unwrap_or_else(PoisonError::into_inner);
    match table.slots.get(value >> INDEX_SHIFT & INDEX_MASK) {
        Some(slot) if slot.value == value && value != 0 => match slot.object.as_ref() {
            Some(_) if slot.poisoned => Err(poisoned::<H>()),
            Some(object) => H::unwrap(object).map(show).ok_or_else(|| bad::<H>(value)),
            None => Err(bad::<H>(value)),
        },
        _ => Err(bad::<H>(value)),
    }
}

/// Takes the object out; the handle names nothing from now on. Works on poisoned handles too.
pub fn remove<H: Handled>(pointer: *const H::Opaque) -> Result<Arc<H>, Failure> {
    let value = pointer.addr();
    let index = value >> INDEX_SHIFT & INDEX_MASK;
    let mut table = write();
    let found = table.slots.get_mut(index).filter(|slot| slot.value == value && value != 0);
    let object = found
        .filter(|slot| slot.object.as_ref().and_then(H::unwrap).is_some())
        .and_then(|slot| std::mem::replace(slot, Slot::EMPTY).object)
        .ok_or_else(|| bad::<H>(value))?;
    table.release(index);
    H::unwrap(&object).cloned().ok_or_else(|| bad::<H>(value))
}

/// Marks a handle as unusable after a panic; it can only be freed.
pub fn poison<T>(pointer: *const T) {
    let value = pointer.addr();
    let mut table = write();
    if let Some(slot) = table.slots.get_mut(value >> INDEX_SHIFT & INDEX_MASK)
        && slot.value == value
    {
        slot.poisoned = true;
    }
}

struct Table {
    slots: Vec<Slot>,
    free: Vec<u32>,
    serial: u64,
}

struct Slot {
    value: usize,
    poisoned: bool,
    object: Option<Object>,
}

impl Slot {
    const EMPTY: Slot = Slot { value: 0, poisoned: false, object: None };
}

impl Table {
    fn release(&mut self, index: usize) {
        self.free.push(index as u32);
        if self.free.len() == self.slots.len() {
            self.slots = Vec::new();
            self.free = Vec::new();
        }
    }
}

fn write() -> std::sync::RwLockWriteGuard<'static, Table> {
    TABLE.write().unwrap_or_else(PoisonError::into_inner)
}

#[cold]
fn bad<H: Handled>(value: usize) -> Failure {
    let text = match value {
        0 => format!("{} handle is NULL", H::NAME),
        _ => format!("{value:#x} is no live {} handle", H::NAME),
    };
    Failure::new(Status::BadHandle, text)
}

#[cold]
fn poisoned<H: Handled>() -> Failure {
    let text = format!("this {} handle met a panic before; it can only be freed", H::NAME);
    Failure::new(Status::Panic, text)
}

static TABLE: RwLock<Table> = RwLock::new(Table { slots: Vec::new(), free: Vec::new(), serial: 0 });

/// Handles open at a time, all kinds together.
const MAX_HANDLES: usize = INDEX_MASK + 1;
const INDEX_SHIFT: u32 = 4;
const INDEX_MASK: usize = (1 << 20) - 1;
const SERIAL_SHIFT: u32 = 24;
const _: () = assert!(usize::BITS == 64, "handles need 64-bit pointers");

#[cfg(test)]
mod tests {
    use super::*;
    use crate::ffi::callbacks::StateWriter;
    use crate::ffi::guest::dwcp_writer;
    use crate::ffi::node::{NodeHandle, dwcp_node};

    fn status<T>(result: Result<T, Failure>) -> Option<Status> {
        result.err().map(|failure| failure.status)
    }

    #[test]
    fn a_handle_names_its_object_until_it_is_removed() {
        let handle = insert(StateWriter::default()).unwrap();
        assert_eq!(status(get::<StateWriter>(handle)), None);
        assert_eq!(status(remove::<StateWriter>(handle)), None);
        assert_eq!(status(get::<StateWriter>(handle)), Some(Status::BadHandle));
        assert_eq!(status(remove::<StateWriter>(handle)), Some(Status::BadHandle));
    }

    #[test]
    fn a_freed_slot_gives_another_handle() {
        let first = insert(StateWriter::default()).unwrap();
        remove::<StateWriter>(first).unwrap();
        let second = insert(StateWriter::default()).unwrap();
        assert_ne!(first, second);
        assert_eq!(status(get::<StateWriter>(first)), Some(Status::BadHandle));
        remove::<StateWriter>(second).unwrap();
    }

    #[test]
    fn null_foreign_and_invented_handles_are_told_apart_from_live_ones() {
        let writer = insert(StateWriter::default()).unwrap();
        let foreign: *const dwcp_node = writer.cast_const().cast();
        assert_eq!(status(get::<NodeHandle>(foreign)), Some(Status::BadHandle));
        assert_eq!(status(remove::<NodeHandle>(foreign)), Some(Status::BadHandle));
        for value in [0, 1, 8, usize::MAX, writer.addr() ^ 1, writer.addr() ^ (1 << 40)] {
            let invented = ptr::without_provenance::<dwcp_writer>(value);
            assert_eq!(status(get::<StateWriter>(invented)), Some(Status::BadHandle), "{value:#x}");
        }
        remove::<StateWriter>(writer).unwrap();
    }

    #[test]
    fn a_poisoned_handle_can_only_be_freed() {
        let handle = insert(StateWriter::default()).unwrap();
        let code = crate::ffi::guard::on(handle, |_: &Arc<StateWriter>| panic!("in the body"));
        assert_eq!(code, Status::Panic.code());
        assert_eq!(status(get::<StateWriter>(handle)), Some(Status::Panic));
        assert_eq!(status(remove::<StateWriter>(handle)), None);
    }
}
